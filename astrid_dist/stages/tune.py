"""Search for the settings with which training ends best: many short trainings at once, by Ray Tune.

It has no shards: `run` does everything, and run again it goes on where it was stopped. Trials that are behind
after a few epochs are stopped early (ASHA: Li et al. 2020). The output is a folder with ``tune.json``.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from astrid_dist.errors import TaskError
from astrid_dist.learning.settings import METRICS
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.stages import train
from astrid_dist.stages.run_folder import run_folder
from astrid_dist.stages.training_data import whole_source
from astrid_dist.store.locations import Location

RECORD = "tune.json"


class Axis(BaseModel):
    """Values of one setting: a range, or some to choose from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float | None = Field(default=None, description="least value")
    high: float | None = Field(default=None, description="largest value")
    log: bool = Field(default=False, description="even in the logarithm")
    choices: list[Any] | None = Field(default=None, min_length=1, description="values, each as likely")

    @model_validator(mode="after")
    def _check(self) -> "Axis":
        if (self.low is None) != (self.high is None) or (self.low is None) == (self.choices is None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} must lie below high {self.high:g}")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log needs a low above 0")
        return self

    def at(self, place: float) -> Any:
        """The value at a place in [0, 1)."""
        if self.low is None or self.high is None:
            choices = self.choices or []
            return choices[int(place * len(choices))]
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + (self.high - self.low) * place


class Settings(train.Settings):
    """What a job file holds: settings of training that all trials share, and what is searched."""

    search: dict[str, Axis] = Field(min_length=1, description="setting, dotted if nested -> its values")
    trials: int = Field(default=16, ge=1, description="trainings")
    grace: int = Field(default=2, ge=1, description="epochs that every trial is given")

    @model_validator(mode="after")
    def _one(self) -> "Settings":
        if self.members > 1:
            raise ValueError("members: a search trains single networks; train members with what it found")
        return self

    def changes(self, trial: int) -> dict[str, Any]:
        """Settings of a trial that are searched; they follow from seed, trial and name."""
        return {
            name: axis.at(float(uniforms(stream(self.seed, f"search {name}"), [trial], 1)[0, 0]))
            for name, axis in self.search.items()
        }

    def trial(self, number: int) -> train.Settings:
        """A trial as a training."""
        given = self.model_dump(mode="json", exclude={"search", "trials", "grace"})
        given["samples"] = [
            whole_source(one) for one in ([self.samples] if isinstance(self.samples, str) else self.samples)
        ]
        given["validation"] = [whole_source(one) for one in self.validation]
        return train.Settings.model_validate(laid_over(given, self.changes(number)))


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Search, or go on; say which trial is best.

    Raises
    ------
    ConfigError, InputError
        Settings or samples that do not fit.
    ResumeConflictError
        The output holds another search.
    ClusterError, TaskError
        Ray has too little room; all trials failed.
    StorageError
        Storage or MLflow cannot be reached. What is done is kept: run the same again.
    """
    from astrid_dist.learning.losses import LossConfig
    from astrid_dist.learning.tracking import Tracker, start_run, tracking_uri
    from astrid_dist.learning.unet import UNetConfig

    for number in range(settings.trials):  # a mistake in any is told before the first begins
        one = settings.trial(number)
        LossConfig.read(one.loss)
        UNetConfig.named(one.size, **one.model)
    output = Location.parse(settings.output)
    uri = tracking_uri(settings.tracking, output.folder)
    with run_folder(output, "tune", RECORD) as folder:
        _, data = train.prepared(settings.trial(0), output, uri)
        digest = train.run_digest(settings, data)
        record = folder.record(digest, "a search of other settings or samples")
        record |= {"digest": digest, "runs": record.get("runs", {})}
        folder.keep(record)
        if "trials" not in record:
            record["trials"] = _search(settings, output, uri, f"tune-{digest[:12]}")
            folder.keep(record)
        where = train.artifacts_of(settings, output)
        for name, one in {"all": None, **{str(t["trial"]): t for t in record["trials"]}}.items():
            folder.lease.check()
            if name not in record["runs"]:
                label = f"tune-{digest[:12]}" + ("" if one is None else f"-{name}")
                record["runs"][name] = start_run(uri, settings.experiment, label, where)
                folder.keep(record)
            tracker = Tracker(uri, record["runs"][name], output / f"trial-{name}")
            if one is None:
                tracker.describe(settings.model_dump(mode="json"), {})
            else:
                tracker.describe(one["changes"], {"mlflow.parentRunId": record["runs"]["all"]})
                tracker.catch_up(one["history"])
            tracker.finish("FINISHED" if one is None or not one["error"] else "FAILED")
    for line in told(record["trials"], settings.metric):
        say(line)


def told(trials: list[dict[str, Any]], metric: str) -> list[str]:
    """Trials in words, the best first, and its settings as a job file has them; TaskError if all failed."""
    sign = -1 if METRICS[metric] else 1
    done = sorted((one for one in trials if one["best"] is not None), key=lambda one: sign * one["best"])
    failed = [one for one in trials if one["best"] is None]
    if not done:
        raise TaskError(f"all {len(failed)} trials failed, the first so: {failed[0]['error']}")
    lines = [
        f"trial {one['trial']}: {metric} {one['best']:.4f} in {len(one['history'])} epochs, {_said(one)}"
        for one in done
    ]
    lines += [f"trial {one['trial']}: failed ({one['error']}), {_said(one)}" for one in failed]
    best = yaml.safe_dump(laid_over({}, done[0]["changes"]), sort_keys=False).strip()
    return [*lines, f"# best, for train.yaml\n{best}"]


def laid_over(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of dotted names changed."""
    made = dict(settings)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        made[first] = laid_over(made.get(first) or {}, {rest: value}) if rest else value
    return made


def _search(settings: Settings, output: Location, uri: str, name: str) -> list[dict[str, Any]]:
    """All trials by Ray Tune: number, changes, history, best value (None if it has none), error."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # what it warns of is as it should be
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from astrid_dist.engine.ray import start_ray
    from astrid_dist.learning.distributed import STATE, check_room, storage
    from astrid_dist.learning.training import read_state

    path, files = storage(output / "ray")
    started = start_ray(cores=max(settings.threads, os.cpu_count() or 1))
    try:
        check_room(1, settings.threads, settings.gpu)
        resources = {"cpu": float(settings.threads), "gpu": float(settings.gpu)}
        trial = tune.with_resources(tune.with_parameters(_trial, settings=settings, uri=uri), resources)
        if tune.Tuner.can_restore(f"{path}/{name}", storage_filesystem=files):
            tuner = tune.Tuner.restore(f"{path}/{name}", trial, resume_errored=True, storage_filesystem=files)
        else:
            better = "max" if METRICS[settings.metric] else "min"
            halving = ASHAScheduler(
                "epoch", max_t=settings.epochs, grace_period=min(settings.grace, settings.epochs)
            )
            tuner = tune.Tuner(
                trial,
                param_space={"trial": tune.grid_search(list(range(settings.trials)))},
                tune_config=tune.TuneConfig(metric="compared", mode=better, scheduler=halving),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=path,
                    storage_filesystem=files,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=settings.failures),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                ),
            )
        found = []
        results = tuner.fit()
        for place in range(len(results)):
            result = results[place]
            number = int((result.config or {})["trial"])
            state: dict[str, Any] = {"history": [], "best_value": None}
            if result.checkpoint is not None:
                with result.checkpoint.as_directory() as folder:
                    state = read_state((Path(folder) / STATE).read_bytes(), f"trial {number}")
            error = str(result.error).strip().splitlines()[-1] if result.error else ""
            one = {"trial": number, "changes": settings.changes(number), "history": state["history"]}
            found.append(one | {"best": state["best_value"], "error": error})
        return sorted(found, key=lambda one: int(one["trial"]))
    finally:
        if started:
            ray.shutdown()


def _trial(config: dict[str, Any], settings: Settings, uri: str) -> None:
    """One training, in a process of its own."""
    import torch
    from ray import tune

    from astrid_dist.learning.distributed import STATE
    from astrid_dist.learning.model_file import read_model
    from astrid_dist.learning.training import Trainer

    one = settings.trial(config["trial"])
    torch.set_num_threads(one.threads)
    device = torch.device("cuda" if one.gpu else "cpu")
    work, _ = train.prepared(one, Location.parse(one.output), uri)
    model = read_model(work.model, "the model to begin with")
    trainer = Trainer(model, *work.loaders(pinned=one.gpu), work.config, work.losses, device)
    if (kept := tune.get_checkpoint()) is not None:
        with kept.as_directory() as folder:
            trainer.load_state((Path(folder) / STATE).read_bytes(), kept.path)
    worst = -math.inf if METRICS[one.metric] else math.inf
    for moment in trainer.run():
        if moment.metrics is None:
            continue
        value = moment.metrics[f"val_{one.metric}"]
        said = {"compared": worst if math.isnan(value) else value, "epoch": int(moment.metrics["epoch"])}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STATE).write_bytes(trainer.state_bytes())
            tune.report(said, checkpoint=tune.Checkpoint.from_directory(folder))


def _said(one: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in one["changes"].items()
    )
