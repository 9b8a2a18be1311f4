"""Train a U-Net on samples with Ray, remember the run in MLflow, register the model.

It has no shards and no Dask: `run` does everything, and run again it goes on where it was stopped. The output
is a folder with ``model.pt``, ``run.json`` (what was trained on what, and how well) and Ray's checkpoints.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from astrid_dist.errors import ConfigError, InputError, ResumeConflictError
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.store.lease import Lease
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import group_names

if TYPE_CHECKING:
    from astrid_dist.learning.catalogue import Catalogue
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.unet import UNet

MODEL, RUN = "model.pt", "run.json"
#: Settings that may change when a run goes on: they say who does it, not what is done.
BESIDE = ("workers", "threads", "failures", "tracking", "artifacts")


class Settings(TrainConfig):
    """What a job file holds."""

    samples: str | list[str] = Field(
        description="URLs of samples products, of which train, val and test groups are used; or URL#group"
    )
    validation: list[str] = Field(
        default_factory=list, description="groups to validate on, as URL#group; by default val of samples"
    )
    output: str = Field(description="URL of the folder of this run")
    base: str | None = Field(
        default=None, description="model to begin with: NAME[@alias] of the registry, or a file *.pt"
    )
    survey: str | None = Field(
        default=None, description="train the model of this survey, on its groups alone"
    )
    name: str | None = Field(
        default=None, description="name in the registry; by default astrid-SURVEY, or astrid"
    )
    size: Literal["small", "medium", "large"] = Field(default="medium", description="of a new model")
    model: dict[str, Any] = Field(
        default_factory=dict,
        description="architecture where it differs: widths, dropout, temporal, norm, ...",
    )
    loss: dict[str, Any] = Field(default_factory=dict, description="losses and weights where they differ")
    sampling: Sampling = Field(default_factory=Sampling, description="what is drawn for an epoch")
    augment: list[str | dict[str, dict[str, Any] | None]] = Field(
        default_factory=list, description="augmentation, step by step"
    )
    workers: int | tuple[int, int] = Field(
        default=1, description="Ray workers, or at least and at most: then as many as there is room for"
    )
    threads: int = Field(default=1, ge=1, description="cores of a worker")
    gpu: bool = Field(default=False, description="one GPU for each worker")
    failures: int = Field(default=3, ge=0, description="how often workers may be lost")
    tracking: str | None = Field(
        default=None, description="MLflow: URL of a server, or sqlite:///file; by default beside the output"
    )
    artifacts: str | None = Field(
        default=None, description="where a new MLflow data base keeps files; by default beside the output"
    )
    experiment: str = Field(default="astrid", description="MLflow's experiment")


@dataclass(frozen=True)
class Data:
    """Groups of each split, and their columns."""

    train: "Catalogue"
    validation: "Catalogue"
    test: "Catalogue | None"


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Train, or go on; register the model and say where it is.

    Raises
    ------
    ConfigError, InputError
        Settings or samples that do not fit.
    ResumeConflictError
        The output holds another run.
    ClusterError, TaskError
        Ray has too little room; workers were lost too often.
    StorageError
        Storage or MLflow cannot be reached. What is done is kept: run the same again.
    """
    for needed in ("torch", "ray", "mlflow"):
        if find_spec(needed) is None:
            raise ConfigError(f"training needs {needed}: pip install 'astrid-dist[train]'")
    from astrid_dist.learning.tracking import Tracker, start_run, tracking_uri

    output = Location.parse(settings.output)
    beside = Location(output.scheme, output.bucket, output.key.rpartition("/")[0])
    uri = tracking_uri(settings.tracking, beside)
    with Lease(output.sibling(".ledger"), "train") as lease:
        work, data = _prepared(settings, output, uri)
        digest, objects = _digest(settings, data), output.objects()
        record: dict[str, Any] = json.loads(objects.get(RUN) or b"{}")
        if record and record["digest"] != digest:
            raise ResumeConflictError(
                f"{output} holds a run of other settings or samples: choose another output, or remove it"
            )
        name = f"{settings.survey or 'all'}-{digest[:12]}"
        if not record:
            where = Location.parse(settings.artifacts) if settings.artifacts else beside / "mlflow-artifacts"
            record = {"digest": digest, "name": name, "run": start_run(uri, settings.experiment, name, where)}
            objects.put(RUN, _json(record))
        work = replace(work, run=record["run"])
        tracker = Tracker(uri, record["run"], output)
        if "registered" not in record:
            if "history" not in record:
                if absent := _absent(data.train):
                    say(absent)
                record |= _train(settings, work, data, tracker, name)
                objects.put(RUN, _json(record))
            lease.check()
            record["registered"] = _publish(settings, work, data, tracker, record)
            objects.put(RUN, _json(record))
        say(f"{output / MODEL}: {_last(record, settings.metric)}")
        say(record["registered"])
        say(f"MLflow: {tracker.page()}")


def _prepared(settings: Settings, output: Location, uri: str) -> "tuple[Work, Data]":
    """Everything checked before anything is begun."""
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.losses import LossConfig
    from astrid_dist.learning.model_file import model_bytes
    from astrid_dist.simulation.augmentation import Compose

    train, validation, test = _groups(settings)
    data = _open(train, validation, test)
    model = _model(settings, data, uri)
    known = model.config
    work = Work(
        train=tuple(train),
        validation=tuple(validation),
        model=model_bytes(model),
        config=TrainConfig.model_validate(
            {name: getattr(settings, name) for name in TrainConfig.model_fields}
        ),
        losses=LossConfig.read(settings.loss),
        sampling=settings.sampling,
        augment=Compose.read(settings.augment) if settings.augment else None,
        output=output,
        tracking=uri,
        run="",
        threads=settings.threads,
    )
    if work.losses.real:
        _need_both(data.train, "it cannot be learned which is which", "set `loss: {real: 0}`")
    if settings.metric == "auc":
        _need_both(data.validation, "there is no AUC", "choose `metric: loss`")
    for loader, groups in zip(work.loaders(), (train, validation), strict=True):
        first = next(iter(loader)).pixels  # raises where no batch can be drawn, or read
        if not first.isfinite().any():
            raise InputError(
                f"{', '.join(groups)}: {len(first)} stamps were read, and none has a pixel with data: make"
                " the samples again, or name others"
            )
    return work, _open(train, validation, test, known.surveys, known.bands)


def _need_both(catalogue: "Catalogue", without: str, instead: str) -> None:
    """Raise `InputError` where what is usable is all real or all bogus."""
    real = catalogue.columns["label"][catalogue.usable] >= 0.5
    if real.all() or not real.any():
        raise InputError(
            f"{', '.join(map(str, catalogue.groups))}: {real.sum()} real and {(~real).sum()} bogus samples;"
            f" without both {without}: add samples, or {instead}"
        )


def _absent(catalogue: "Catalogue") -> str:
    """Which classes it has no sample of, in words; '' if it has all."""
    from astrid_dist.learning.composition import composition
    from astrid_dist.learning.unet import MODEL_CLASSES

    there = composition(catalogue)["class"]
    absent = [name for name in MODEL_CLASSES if name not in there]
    return f"no samples of {', '.join(absent)}: the model will not know them" if absent else ""


def _groups(settings: Settings) -> tuple[list[str], list[str], list[str]]:
    """Groups to train, validate and test on."""
    named = [settings.samples] if isinstance(settings.samples, str) else settings.samples
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for source in named:
        url, _, group = source.partition("#")
        for one in [group] if group else group_names(Location.parse(url)):
            survey, _, split = one.partition("/")
            if settings.survey in (None, survey) and (group or split in splits):
                splits["train" if group else split].append(f"{url}#{one}")
    found = settings.validation or splits["val"]
    of = f" of {settings.survey}" if settings.survey else ""
    for what, there in (("train", splits["train"]), ("val", found)):
        if not there:
            raise InputError(
                f"{', '.join(named)}: no group {what!r}{of}: make some, or name groups as URL#group"
            )
    if both := sorted(set(splits["train"]) & set(found)):
        raise InputError(f"{', '.join(both)}: trained on and validated on, which would tell nothing")
    return splits["train"], found, splits["test"]


def _open(
    train: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
    surveys: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
) -> Data:
    from astrid_dist.learning.catalogue import Catalogue

    def opened(names: Sequence[str]) -> Catalogue:
        return Catalogue.open(names, surveys, bands)

    return Data(opened(train), opened(validation), opened(test) if test else None)


def _model(settings: Settings, data: Data, uri: str) -> "UNet":
    """A new model, or the base for these surveys and bands besides its own."""
    from astrid_dist.learning.registry import load
    from astrid_dist.learning.training import new_model

    surveys, bands = data.train.surveys, data.train.bands
    if settings.base is None:
        names = {"size": settings.size, "surveys": surveys, "bands": bands}
        return new_model({**names, **settings.model}, settings.seed)
    if settings.model:
        raise ConfigError(f"model {settings.model} cannot be chosen: the architecture is that of the base")
    base = load(uri, settings.base)
    return base.with_conditions(
        tuple(dict.fromkeys([*base.config.bands, *bands])),
        tuple(dict.fromkeys([*base.config.surveys, *surveys])),
    )


def _train(settings: Settings, work: "Work", data: Data, tracker: Any, name: str) -> dict[str, Any]:
    """Train and write the model; what the record gets."""
    from astrid_dist.learning.composition import composition, digests
    from astrid_dist.learning.distributed import fit
    from astrid_dist.learning.model_file import model_bytes, read_model
    from astrid_dist.learning.training import read_state

    tracker.describe(settings.model_dump(mode="json"), _code())
    for context, catalogue in (("training", data.train), ("validation", data.validation)):
        tracker.datasets(context, digests(catalogue), composition(catalogue))
    state = read_state(
        fit(work, name, settings.workers, gpu=settings.gpu, failures=settings.failures), str(work.output)
    )
    if state["best_value"] is None:
        raise InputError(
            f"{work.output}: in no epoch is the {settings.metric} of validation a number: lower `rate`, or"
            " choose another `metric`"
        )
    model = read_model(work.model, "the model to begin with")
    model.load_state_dict(state["best"])
    work.output.objects().put(MODEL, model_bytes(model))
    return {"history": state["history"], "best": state["best_value"]}


def _publish(settings: Settings, work: "Work", data: Data, tracker: Any, record: dict[str, Any]) -> str:
    """Figures and the model to MLflow; where it stands in the registry, in words. May be done again."""
    from astrid_dist.figures.training import confusion, reliability, training_curves
    from astrid_dist.learning.composition import composition
    from astrid_dist.learning.loading import Loader
    from astrid_dist.learning.model_file import weights_digest
    from astrid_dist.learning.registry import load, model_name, promote, register
    from astrid_dist.learning.training import evaluate
    from astrid_dist.learning.unet import MODEL_CLASSES, UNet

    def measured(model: UNet, catalogue: "Catalogue") -> Any:
        loader = Loader(catalogue, settings.batch, train=False)
        return evaluate(model, loader, work.config, work.losses)

    def value(model: UNet) -> float:
        known = _open(work.train, work.validation, (), model.config.surveys, model.config.bands)
        return float(measured(model, known.validation).metrics()[settings.metric])

    model = load("", str(work.output / MODEL))
    found, history = measured(model, data.validation), record["history"]
    curves = [
        [epoch[name] for epoch in history]
        for name in ("epoch", "train_loss", "val_loss", "val_auc", "val_iou")
    ]
    tracker.catch_up(history)
    tracker.figures(
        {
            "training_curves": training_curves(*curves),
            "reliability": reliability(*found.reliability()),
            "confusion": confusion(found.counts["confusion"].numpy(), MODEL_CLASSES),
        }
    )
    summary = {f"best_{name}": v for name, v in found.metrics().items()}
    if data.test is not None:
        summary |= {f"test_{name}": v for name, v in measured(model, data.test).metrics().items()}
    counts = composition(data.train)
    if counts["synthetic_to_real"] is not None:
        summary["synthetic_to_real"] = counts["synthetic_to_real"]
    tracker.summary(summary)
    name = settings.name or model_name(settings.survey)
    data_digest = _data_digest(data.validation)
    tags = {"data": data_digest, f"val_{settings.metric}": repr(record["best"])}
    tags |= {"weights": weights_digest(model), "survey": settings.survey or "all", **_code()}
    version = register(work.tracking, record["run"], model, name, tags)
    verdict = promote(work.tracking, name, version, settings.metric, record["best"], data_digest, value)
    tracker.finish()
    return str(verdict)


def _digest(settings: Settings, data: Data) -> str:
    """Of all that the result follows from."""
    said = settings.model_dump(mode="json", exclude=set(BESIDE))
    parts = [said, _data_digest(data.train), _data_digest(data.validation)]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _data_digest(catalogue: "Catalogue") -> str:
    from astrid_dist.learning.composition import digests

    claims = [
        [one["group"], one["samples"], one["digest"] or one["inputs_digest"]] for one in digests(catalogue)
    ]
    return sha256(json.dumps(claims).encode()).hexdigest()[:16]


def _code() -> dict[str, str]:
    """Which code it was trained with."""
    from importlib.metadata import version

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


def _last(record: dict[str, Any], metric: str) -> str:
    return f"{len(record['history'])} epochs, best {metric} {record['best']:.4f}"


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()
