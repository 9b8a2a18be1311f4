"""Calibrate a model: probabilities that come true, and a threshold that limits false positives per image.

It needs candidates that detect found with the model in a survey with truth, on which nothing was trained: of
fields or nights of their own. That is not checked. How good it is follows from cells of the sky that a fit
did not see. It has no shards: `run` does everything. The output is a folder with ``ensemble.zip``, the model
with its calibration, and ``run.json``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.evaluation.calibration import reliability
from astrid_dist.evaluation.metrics import prior_weights
from astrid_dist.stages.calibration_fit import Examples, Made, log_loss, make, read_examples
from astrid_dist.stages.run_folder import run_folder
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from astrid_dist.learning.ensemble import Ensemble

FILE, RUN = "ensemble.zip", "run.json"


class Settings(BaseModel):
    """What a job file holds."""

    model_config = ConfigDict(extra="forbid")

    candidates: str = Field(
        description="URL of candidates that detect found with the model; a split of its own"
    )
    truth: str = Field(description="URL of the truth of their survey: a mock's, or the injected survey")
    known: str | None = Field(
        default=None, description="URL of the truth of what changed before injection; it is left out"
    )
    model: str = Field(description="the model: NAME[@alias] of the registry, or a file *.pt or *.zip")
    output: str = Field(description="URL of the folder to write")
    name: str | None = Field(default=None, description="name in the registry; by default the model's")
    prior: float = Field(
        default=0.5, gt=0, lt=1, description="share of real candidates that probabilities are true for"
    )
    least_snr: float = Field(
        default=3.0, ge=2, description="fainter true sources are neither real nor bogus examples"
    )
    examples: int = Field(default=50, ge=10, description="real examples, and bogus ones, at least")
    limit: float = Field(default=1.0, gt=0, description="mean of false positives per image, at most")
    cap: int = Field(default=20, ge=1, description="false positives that an image counts at most")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="with which the limit holds")
    folds: int = Field(default=5, ge=2, description="folds of the sky, each judged by a fit to the others")
    cell_arcsec: float = Field(
        default=60.0, gt=0, description="side of the cells of the sky that stay in one fold"
    )
    seed: int = Field(default=1, ge=0, description="of folds")
    tracking: str | None = Field(
        default=None, description="MLflow: URL of a server, or sqlite:///file; by default beside the output"
    )
    experiment: str = Field(default="astrid-calibrate", description="MLflow's experiment")


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Calibrate, measure and register; print how true probabilities are before and after.

    Raises
    ------
    ConfigError, InputError
        Settings, candidates or truth that do not fit.
    ResumeConflictError
        The output holds a calibration of other settings or candidates.
    StorageError
        Storage or MLflow cannot be reached: run the same again.
    """
    for needed in ("torch", "mlflow"):
        if find_spec(needed) is None:
            raise ConfigError(f"a calibration needs {needed}: pip install 'astrid-dist[train]'")
    from astrid_dist.learning.ensemble import ensemble_bytes
    from astrid_dist.learning.registry import load_ensemble
    from astrid_dist.learning.tracking import start_run, tracking_uri

    output = Location.parse(settings.output)
    uri = tracking_uri(settings.tracking, output.folder)
    model = load_ensemble(uri, settings.model)
    with run_folder(output, "calibrate", RUN) as folder:
        examples = read_examples(settings, model)
        said = settings.model_dump(mode="json", exclude={"tracking", "output", "experiment"})
        digest = sha256(json.dumps([said, examples.digest, model.digest]).encode()).hexdigest()
        record = folder.record(digest, "a calibration of other settings or candidates")
        made = make(examples, settings)
        calibrated = replace(model, calibration=made.calibration)
        if not record:
            run_id = start_run(
                uri, settings.experiment, f"calibrate-{digest[:12]}", output.folder / "mlflow-artifacts"
            )
            record = {"digest": digest, "run": run_id, "scores": made.scores, "images": examples.images}
            output.objects().put(FILE, ensemble_bytes(calibrated))
            folder.keep(record)
        if "registered" not in record:
            folder.lease.check()
            record["registered"] = _publish(settings, uri, record["run"], calibrated, examples, made, output)
            folder.keep(record)
    for line in _report(examples, made):
        say(line)
    say(f"{output / FILE}")
    say(record["registered"])


def _publish(
    settings: Settings,
    uri: str,
    run_id: str,
    calibrated: "Ensemble",
    examples: Examples,
    made: Made,
    output: Location,
) -> str:
    """Numbers, figures and the model to MLflow; where it stands in the registry. May be done again."""
    from astrid_dist.figures.training import reliability as diagram
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.registry import load_ensemble, promote, register, registered_name
    from astrid_dist.learning.tracking import Tracker

    def value(other: Ensemble) -> float:
        if other.networks_digest != calibrated.networks_digest:
            raise InputError("it has another U-Net: detect with it, and calibrate that")
        prior = None if other.calibration is None else settings.prior
        told = other.real(examples.table["p_unet"], examples.table, prior)["p_real"]
        return log_loss(told, examples.real, settings.prior)

    tracker = Tracker(uri, run_id, output)
    tags = {"data": examples.digest, "weights": calibrated.networks_digest, "ensemble": calibrated.digest}
    tracker.describe(settings.model_dump(mode="json"), tags)
    tracker.summary({f"{when}_{n}": v for when, found in made.scores.items() for n, v in found.items()})
    weight = prior_weights(examples.real, settings.prior)
    drawn = {}
    for name, p in {"before": 1 / (1 + np.exp(-examples.logit)), "after": made.unseen}.items():
        bins = reliability(p, examples.real, weight)
        points = ([one.told for one in bins], [one.real for one in bins], [one.share for one in bins])
        drawn[f"reliability_{name}"] = diagram(*points)
    tracker.figures(drawn)
    name, loss = settings.name or registered_name(settings.model), made.scores["after"]["log_loss"]
    version = register(uri, run_id, calibrated, name, {**tags, "val_loss": repr(loss)})
    verdict = promote(uri, name, version, "loss", loss, examples.digest, value, load_ensemble)
    tracker.finish()
    return str(verdict)


def _report(examples: Examples, made: Made) -> list[str]:
    """What is printed."""
    real, found = int(examples.real.sum()), made.calibration
    columns = {"log_loss": "log loss", "ece": "ECE", "ece_by_chance": "by chance"}
    columns |= {"adaptive_ece": "adaptive ECE", "brier": "Brier"}
    return [
        f"{real} real and {len(examples.real) - real} bogus candidates in {examples.images} images; "
        f"{examples.ignored} are neither for sure",
        f"{'':<10}" + "".join(f"{title:>14}" for title in columns.values()),
        *(
            f"{when:<10}" + "".join(f"{scores[name]:>14.4f}" for name in columns)
            for when, scores in made.scores.items()
        ),
        f"temperature {found.temperature:.3f}, offset {found.offset:.3f}, of classes "
        f"{found.class_temperature:.3f} ({len(examples.codes)} candidates), for a prior of {found.prior:g}",
        f"p_real {made.certified}",
    ]
