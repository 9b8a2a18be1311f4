"""Make an ensemble: trees on the features of candidates, and a stack of them with a U-Net; register it.

The candidates were found with that U-Net, or some, in a survey with truth. How good all is follows from what
was told of places in the sky that were not learned from. It has no shards: `run` does everything. The output
is a folder with ``ensemble.zip`` and ``run.json``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.trees import FEATURES, Floats, Table, Trees, TreesConfig
from astrid_dist.stages.labelled import columns_of, label_candidates
from astrid_dist.stages.labels import sky_cells
from astrid_dist.stages.run_folder import run_folder
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from astrid_dist.learning.ensemble import Ensemble, Stack

FILE, RUN = "ensemble.zip", "run.json"
#: What is compared, in this order.
TELLERS = ("S_corr cut", "trees", "U-Net", "stack")


class Settings(BaseModel):
    """What a job file holds."""

    model_config = ConfigDict(extra="forbid")

    candidates: str = Field(description="URL of candidates that detect found with the model")
    truth: str = Field(description="URL of the truth of their survey: a mock's, or the injected survey")
    known: str | None = Field(
        default=None, description="URL of the truth of what changed before injection; it is left out"
    )
    model: str = Field(description="whose networks: NAME[@alias] of the registry, or a file *.pt or *.zip")
    output: str = Field(description="URL of the folder to write")
    name: str | None = Field(default=None, description="name in the registry; by default the model's")
    folds: int = Field(default=5, ge=2, description="folds of the sky, each judged by what the others taught")
    cell_arcsec: float = Field(
        default=60.0, gt=0, description="side of the cells of the sky that stay in one fold"
    )
    least_snr: float = Field(
        default=3.0, ge=2, description="fainter true sources are neither real nor bogus examples"
    )
    examples: int = Field(default=50, ge=10, description="real examples, and bogus ones, at least")
    prior: float = Field(
        default=0.5, gt=0, lt=1, description="share of real candidates that probabilities are true for"
    )
    repeats: int = Field(default=3, ge=1, description="times that each feature is shuffled")
    trees: TreesConfig = Field(default_factory=TreesConfig, description="how trees are grown")
    seed: int = Field(default=1, ge=0, description="of folds and shuffles")
    tracking: str | None = Field(
        default=None, description="MLflow: URL of a server, or sqlite:///file; by default beside the output"
    )
    experiment: str = Field(default="astrid-ensemble", description="MLflow's experiment")


@dataclass(frozen=True)
class Examples:
    """Candidates that are real or bogus for sure."""

    table: Table
    matrix: Floats
    p_unet: NDArray[np.float32]
    real: NDArray[np.bool_]
    cells: NDArray[np.int64]
    ignored: int

    @property
    def digest(self) -> str:
        """16 hex digits of all that is learned from."""
        whole = sha256()
        for part in (self.matrix, self.p_unet, self.real, self.cells, np.abs(self.table["snr"])):
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Made:
    """An ensemble's trees and stack, and what was told out of fold."""

    trees: Trees
    stack: "Stack"
    told: dict[str, Floats]
    fold: NDArray[np.int64]
    scores: dict[str, dict[str, float]]
    importances: tuple[Floats, Floats]


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Make, measure and register an ensemble; print what each part is worth.

    Raises
    ------
    ConfigError, InputError
        Settings, candidates or truth that do not fit.
    ResumeConflictError
        The output holds an ensemble of other settings or candidates.
    StorageError
        Storage or MLflow cannot be reached: run the same again.
    """
    for needed in ("torch", "sklearn", "mlflow"):
        if find_spec(needed) is None:
            raise ConfigError(f"an ensemble needs {needed}: pip install 'astrid-dist[train]'")
    from astrid_dist.learning.ensemble import Ensemble, ensemble_bytes
    from astrid_dist.learning.registry import load_ensemble
    from astrid_dist.learning.tracking import start_run, tracking_uri

    output = Location.parse(settings.output)
    uri = tracking_uri(settings.tracking, output.folder)
    networks = load_ensemble(uri, settings.model)
    with run_folder(output, "ensemble", RUN) as folder:
        examples = read_examples(settings, networks)
        said = settings.model_dump(mode="json", exclude={"tracking", "output", "experiment"})
        whole = json.dumps([said, examples.digest, networks.networks_digest])
        digest = sha256(whole.encode()).hexdigest()
        record = folder.record(digest, "an ensemble of other settings or candidates")
        made = make(examples, settings)
        ensemble = Ensemble(networks.unets, made.trees, made.stack)
        if not record:
            run_id = start_run(
                uri, settings.experiment, f"ensemble-{digest[:12]}", output.folder / "mlflow-artifacts"
            )
            record = {"digest": digest, "run": run_id, "scores": made.scores, **_counts(examples)}
            output.objects().put(FILE, ensemble_bytes(ensemble))
            folder.keep(record)
        if "registered" not in record:
            folder.lease.check()
            record["registered"] = _publish(settings, uri, record["run"], ensemble, examples, made, output)
            folder.keep(record)
    for line in _report(examples, made):
        say(line)
    say(f"{output / FILE}")
    say(record["registered"])


def read_examples(settings: Settings, networks: "Ensemble") -> Examples:
    """Candidates with labels, cells and what the networks told of them; errors as `label_candidates`."""
    from astrid_dist.learning.trees import features

    found = label_candidates(
        settings.candidates,
        settings.truth,
        settings.known,
        settings.model,
        networks,
        settings.least_snr,
        settings.examples,
    )
    columns = columns_of(found.known)
    return Examples(
        columns,
        features(columns),
        columns["p_unet"].astype(np.float32),
        found.real,
        sky_cells(found.known, settings.cell_arcsec),
        found.ignored,
    )


def make(examples: Examples, settings: Settings) -> Made:
    """Trees and stack of all examples, and what those of other folds tell of each."""
    from astrid_dist.learning.ensemble import fit_stack, logit
    from astrid_dist.learning.out_of_fold import folds_of, grow_folds, importances, predicted
    from astrid_dist.learning.trees import class_weights, grow

    real, matrix = examples.real, examples.matrix
    fold = folds_of(examples.cells, real, settings.folds, settings.seed)
    fitted = grow_folds(matrix, real, fold, settings.trees, settings.prior)
    trees, unet = predicted(fitted, matrix), logit(examples.p_unet)
    stacked = np.full(len(real), np.nan)
    for one in range(settings.folds):
        out = fold == one
        stacked[out] = fit_stack(unet[~out], trees[~out], real[~out], settings.prior).logit(
            unet[out], trees[out]
        )
    strength = np.abs(examples.table["snr"]).astype(np.float64)
    told = dict(zip(TELLERS, (strength, trees, unet, stacked), strict=True))
    weight = class_weights(real, settings.prior)
    return Made(
        grow(matrix, real, weight, settings.trees),
        fit_stack(unet, trees, real, settings.prior),
        told,
        fold,
        mean_scores(real, told, fold),
        importances(fitted, matrix, real, settings.repeats, settings.seed),
    )


def mean_scores(
    real: NDArray[np.bool_], told: dict[str, Floats], fold: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Scores of each teller, of the candidates that all say something of; the mean over folds.

    Folds have stacks of their own, whose scores are not on one scale: pooled they would look worse than each
    is (Forman & Scholz 2010).
    """
    from astrid_dist.learning.out_of_fold import scores

    known = np.all([np.isfinite(score) for score in told.values()], axis=0)
    parts = [rows for one in np.unique(fold) if 0 < real[rows := known & (fold == one)].sum() < rows.sum()]
    if not parts:
        raise InputError("no fold has real and bogus candidates with p_unet: use more candidates")
    found = {}
    for name, score in told.items():
        each = [scores(real[rows], score[rows]) for rows in parts]
        found[name] = {metric: float(np.mean([one[metric] for one in each])) for metric in each[0]}
    return found


def _publish(
    settings: Settings,
    uri: str,
    run_id: str,
    ensemble: "Ensemble",
    examples: Examples,
    made: Made,
    output: Location,
) -> str:
    """Numbers, figures and the ensemble to MLflow; where it stands in the registry. May be done again."""
    from astrid_dist.figures.ensemble import importances, passing
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.registry import load_ensemble, promote, register, registered_name
    from astrid_dist.learning.tracking import Tracker, client_of, mlflow_errors

    weights = ensemble.networks_digest

    def value(other: Ensemble) -> float:
        if other.networks_digest != weights:
            raise InputError("it has another U-Net: detect with it, and make an ensemble of that")
        told = other.real(examples.p_unet, examples.table)["p_real"].astype(np.float64)
        return mean_scores(examples.real, made.told | {"other": told}, made.fold)["other"]["auc"]

    tracker = Tracker(uri, run_id, output)
    tags = {"data": examples.digest, "weights": weights, "ensemble": ensemble.digest}
    tracker.describe(settings.model_dump(mode="json"), tags)
    names = {"S_corr cut": "score", "U-Net": "unet"}
    tracker.summary(
        {f"{names.get(t, t)}_{m}": v for t, found in made.scores.items() for m, v in found.items()}
    )
    tracker.summary({name: float(number) for name, number in _counts(examples).items()})
    with mlflow_errors(uri):
        client_of(uri).log_text(run_id, _importance_table(made), "importances.csv")
        client_of(uri).log_dict(run_id, made.scores, "scores.json")
    # One curve needs one scale: the three numbers of the stack of all, on what folds told.
    shown = made.told | {"stack": made.stack.logit(made.told["U-Net"], made.told["trees"])}
    both = np.isfinite(made.told["U-Net"]) & np.isfinite(made.told["trees"])
    tracker.figures(
        {
            "passing": passing(examples.real[both], {t: s[both] for t, s in shown.items()}),
            "importances": importances(FEATURES, *made.importances),
        }
    )
    name = settings.name or registered_name(settings.model)
    best = made.scores["stack"]["auc"]
    version = register(uri, run_id, ensemble, name, {**tags, "val_auc": repr(best)})
    verdict = promote(uri, name, version, "auc", best, examples.digest, value, load_ensemble)
    tracker.finish()
    return str(verdict)


def _counts(examples: Examples) -> dict[str, int]:
    real = int(examples.real.sum())
    lost = int(np.isnan(examples.p_unet).sum())
    return {
        "real": real,
        "bogus": len(examples.real) - real,
        "ignored": examples.ignored,
        "without_p_unet": lost,
        "cells": len(np.unique(examples.cells)),
    }


def _importance_table(made: Made) -> str:
    mean, error = made.importances
    lines = [f"{FEATURES[i]},{mean[i]:.6f},{error[i]:.6f}" for i in np.argsort(-mean, kind="stable")]
    return "\n".join(["feature,auc_lost,standard_error", *lines, ""])


def _report(examples: Examples, made: Made) -> list[str]:
    """What is printed."""
    n = _counts(examples)
    lines = [
        f"{n['real']} real and {n['bogus']} bogus candidates in {n['cells']} cells of the sky; "
        f"{n['ignored']} are neither for sure; {n['without_p_unet']} without p_unet",
        f"{'out of fold':<14}{'AUC':>8}{'average precision':>20}{'false positives at 95 %':>26}",
    ]
    for name, found in made.scores.items():
        lines.append(
            f"{name:<14}{found['auc']:>8.4f}{found['average_precision']:>20.4f}{found['fpr_at_95']:>26.4f}"
        )
    mean, error = made.importances
    lines.append("what trees look at, AUC lost when shuffled:")
    lines += [
        f"  {FEATURES[i]:<20}{mean[i]:>8.4f} ± {error[i]:.4f}" for i in np.argsort(-mean, kind="stable")[:10]
    ]
    return lines
