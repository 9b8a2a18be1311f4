"""What a finished training leaves in MLflow: figures, numbers, a named model, and what to read first."""

import getpass
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astrid_dist.stages.training_data import Data, data_digest, open_data

if TYPE_CHECKING:
    from astrid_dist.learning.catalogue import Catalogue
    from astrid_dist.learning.committee import Committee
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.extremes import Extremes
    from astrid_dist.learning.measures import Measures
    from astrid_dist.learning.tracking import Tracker
    from astrid_dist.learning.unet import UNet
    from astrid_dist.stages.train import Settings

MODEL = "model.pt"


def announce(settings: "Settings", model: "UNet", data: Data, tracker: "Tracker") -> None:
    """Say what is trained on what, and how."""
    from astrid_dist.learning.composition import composition, digests

    source = {"mlflow.source.name": "astrid run jobs/train.yaml", "mlflow.source.type": "JOB"}
    tags = {**code_version(), **source, "mlflow.user": _user()}
    tracker.describe(settings.model_dump(mode="json"), tags)
    for context, catalogue in _contexts(data).items():
        tracker.datasets(context, digests(catalogue), composition(catalogue))
    tracker.note(_note(settings, model, data))


def publish(
    settings: "Settings", work: "Work", data: Data, tracker: "Tracker", record: dict[str, Any]
) -> str:
    """Figures and the model to MLflow; where it stands in the registry, in words. May be done again."""
    from astrid_dist.learning.composition import composition
    from astrid_dist.learning.extremes import Extremes
    from astrid_dist.learning.model_file import weights_digest
    from astrid_dist.learning.notes import model_note
    from astrid_dist.learning.registry import load, load_ensemble, model_name, promote, register

    model, extremes = load("", str(work.output / MODEL)), Extremes()
    measures = measured(model, data.validation, work, extremes)
    tracker.catch_up(record["history"])
    tracker.figures(_figures(record["history"], measures, extremes))
    found = {"validation": measures.metrics()}
    if data.test is not None:
        found["test"] = measured(model, data.test, work).metrics()
    summary = {f"best_{name}": v for name, v in found["validation"].items()}
    summary |= {f"test_{name}": v for name, v in found.get("test", {}).items()}
    ratio = composition(data.train)["synthetic_to_real"]
    tracker.summary(summary | ({} if ratio is None else {"synthetic_to_real": ratio}))
    name = settings.name or model_name(settings.survey)
    digest = data_digest(data.validation)
    tags = {"data": digest, f"val_{settings.metric}": repr(record["best"])}
    tags |= {"weights": weights_digest(model), "survey": settings.survey or "all", **code_version()}
    number = register(work.tracking, record["run"], model, name, tags)
    value = champion_value(work, settings.metric)
    verdict = promote(
        work.tracking, name, number, settings.metric, record["best"], digest, value, load_ensemble
    )
    what = f"the model of {settings.survey}" if settings.survey else "the base, of all surveys"
    told = model_note(f"{name}/{number}", found["validation"], digest)
    tracker.model_note(name, number, told, f"U-Net of AstrID Dist: {what}")
    tracker.note(_note(settings, model, data, found, str(verdict)))
    tracker.finish()
    return str(verdict)


def champion_value(work: "Work", metric: str) -> "Callable[[Ensemble], float]":
    """What measures another model's networks on the validation samples of a training."""
    from astrid_dist.learning.committee import Committee

    def value(other: "Ensemble") -> float:
        known = open_data(work.train, work.validation, (), other.config.surveys, other.config.bands)
        return float(measured(Committee(other.unets), known.validation, work).metrics()[metric])

    return value


def code_version() -> dict[str, str]:
    """Which code it was trained with."""
    found = {"astrid_dist": version("astrid-dist")}
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return found
    if done.returncode == 0:
        found["mlflow.source.git.commit"] = done.stdout.strip()
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"


def _contexts(data: Data) -> "dict[str, Catalogue]":
    return {"training": data.train, "validation": data.validation}


def _note(
    settings: "Settings",
    model: "UNet",
    data: Data,
    found: dict[str, dict[str, float]] | None = None,
    verdict: str = "",
) -> str:
    from astrid_dist.learning.composition import composition, digests
    from astrid_dist.learning.notes import run_note

    groups = {name: digests(catalogue) for name, catalogue in _contexts(data).items()}
    counts = {name: composition(catalogue) for name, catalogue in _contexts(data).items()}
    weights = sum(part.numel() for part in model.parameters())
    return run_note(settings.model_dump(mode="json"), weights, groups, counts, found, verdict)


def measured(
    model: "UNet | Committee", catalogue: "Catalogue", work: "Work", extremes: "Extremes | None" = None
) -> "Measures":
    """A model on the samples of a catalogue."""
    from astrid_dist.learning.loading import Loader
    from astrid_dist.learning.training import evaluate

    loader = Loader(catalogue, work.config.batch, train=False)
    return evaluate(model, loader, work.config, work.losses, watch=extremes or (lambda told, truth: None))


def _figures(history: list[dict[str, float]], measures: "Measures", extremes: "Extremes") -> dict[str, Any]:
    from astrid_dist.figures.training import confusion, gallery, reliability, training_curves
    from astrid_dist.learning.unet import MODEL_CLASSES

    curves = [
        [epoch[name] for epoch in history]
        for name in ("epoch", "train_loss", "val_loss", "val_auc", "val_iou")
    ]
    drawn = {
        "training_curves": training_curves(*curves),
        "reliability": reliability(*measures.reliability()),
        "confusion": confusion(measures.counts["confusion"].numpy(), MODEL_CLASSES),
    }
    for name, cases in (("most_wrong", extremes.wrong), ("least_sure", extremes.unsure)):
        if cases:
            drawn[name] = gallery([case.planes for case in cases], [str(case) for case in cases])
    return drawn
