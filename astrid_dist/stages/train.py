"""Train a U-Net on samples with Ray, remember the run in MLflow, register the model.

It has no shards and no Dask: `run` does everything, and run again it goes on where it was stopped. The output
is a folder with ``model.pt``, ``run.json`` (what was trained on what, and how well) and Ray's checkpoints.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.stages.run_folder import run_folder
from astrid_dist.stages.training_data import (
    Data,
    absent_classes,
    chosen_groups,
    data_digest,
    need_both,
    open_data,
)
from astrid_dist.stages.training_results import MODEL, announce, publish
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.unet import UNet

RUN = "run.json"
#: Settings that may change when a run goes on: they say who does it, not what is done.
BESIDE = ("members", "workers", "threads", "compile", "failures", "tracking", "artifacts")


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
    members: int = Field(
        default=1, ge=1, description="networks to train, each with a seed of its own: a deep ensemble"
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
    from astrid_dist.stages.members import run_members

    if settings.members > 1:
        return run_members(settings, say)
    output = Location.parse(settings.output)
    uri = tracking_uri(settings.tracking, output.folder)
    with run_folder(output, "train", RUN) as folder:
        work, data = prepared(settings, output, uri)
        digest = run_digest(settings, data)
        record = folder.record(digest, "a run of other settings or samples")
        name = f"{settings.survey or 'all'}-{digest[:12]}"
        if not record:
            where = artifacts_of(settings, output)
            shown = output.key.rpartition("/")[2] or name
            record = {
                "digest": digest,
                "name": name,
                "run": start_run(uri, settings.experiment, shown, where),
            }
            folder.keep(record)
        work = replace(work, run=record["run"])
        tracker = Tracker(uri, record["run"], output)
        if "registered" not in record:
            if "history" not in record:
                if absent := absent_classes(data.train):
                    say(absent)
                record |= _train(settings, work, data, tracker, name, say)
                folder.keep(record)
            folder.lease.check()
            record["registered"] = publish(settings, work, data, tracker, record)
            folder.keep(record)
        say(f"{output / MODEL}: {_last(record, settings.metric)}")
        say(record["registered"])
        say(f"MLflow: {tracker.page()}")


def artifacts_of(settings: Settings, output: Location) -> Location:
    """Where a new data base of MLflow is to keep files."""
    return Location.parse(settings.artifacts) if settings.artifacts else output.folder / "mlflow-artifacts"


def prepared(settings: Settings, output: Location, uri: str) -> "tuple[Work, Data]":
    """Everything checked before anything is begun."""
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.losses import LossConfig
    from astrid_dist.learning.model_file import model_bytes
    from astrid_dist.simulation.augmentation import Compose

    train, validation, test = chosen_groups(settings.samples, settings.validation, settings.survey)
    data = open_data(train, validation, test)
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
        need_both(data.train, "it cannot be learned which is which", "set `loss: {real: 0}`")
    if settings.metric == "auc":
        need_both(data.validation, "there is no AUC", "choose `metric: loss`")
    for loader, groups in zip(work.loaders(), (train, validation), strict=True):
        first = next(iter(loader)).pixels  # raises where no batch can be drawn, or read
        if not first.isfinite().any():
            raise InputError(
                f"{', '.join(groups)}: {len(first)} stamps were read, and none has a pixel with data: make"
                " the samples again, or name others"
            )
    return work, open_data(train, validation, test, known.surveys, known.bands)


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


def _train(
    settings: Settings, work: "Work", data: Data, tracker: Any, name: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train and write the model; what the record gets."""
    from astrid_dist.learning.distributed import fit
    from astrid_dist.learning.model_file import model_bytes, read_model
    from astrid_dist.learning.training import read_state

    announce(settings, read_model(work.model, "the model to begin with"), data, tracker)
    last = fit(work, name, settings.workers, gpu=settings.gpu, failures=settings.failures, say=say)
    state = read_state(last, str(work.output))
    if state["best_value"] is None:
        raise InputError(
            f"{work.output}: in no epoch is the {settings.metric} of validation a number: lower `rate`, or"
            " choose another `metric`"
        )
    model = read_model(work.model, "the model to begin with")
    model.load_state_dict(state["best"])
    work.output.objects().put(MODEL, model_bytes(model))
    return {"history": state["history"], "best": state["best_value"]}


def run_digest(settings: Settings, data: Data) -> str:
    """Of all that the result follows from."""
    said = settings.model_dump(mode="json", exclude=set(BESIDE))
    parts = [said, data_digest(data.train), data_digest(data.validation)]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _last(record: dict[str, Any], metric: str) -> str:
    return f"{len(record['history'])} epochs, best {metric} {record['best']:.4f}"
