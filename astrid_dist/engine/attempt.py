"""One attempt at one task, on whatever worker: run it, then write its marker."""

import importlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.plan import Job, TaskOutcome
from astrid_dist.errors import AstridError, ConfigError, StorageError
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location

Task = Callable[[Mapping[str, Any], ShardKey], TaskOutcome]


#: Kind of a failure that took the worker with it.
WORKER_DIED = "worker"


class AttemptError(Exception):
    """Why an attempt failed, in strings alone: it always travels, whatever the task raised.

    Parameters
    ----------
    kind : str
        `AstridError.kind` of what was raised, ``worker`` where the worker died, else ``task``.
    error : str
        Type and message.
    trace : str
        Formatted traceback.
    worker : str
        Host and process.
    """

    def __init__(self, kind: str, error: str, trace: str, worker: str) -> None:
        super().__init__(kind, error, trace, worker)
        self.kind, self.error, self.trace, self.worker = kind, error, trace, worker


def attempt(output: str, job_id: str, task: str, key: str) -> None:
    """Run a task and write its marker; nothing is returned, for only the ledger counts.

    Settings come from the ledger, so that a graph of many tasks carries none. A task whose marker is there is
    not run again: Dask repeats finished tasks when it loses a worker.

    Raises
    ------
    AttemptError
        Whatever went wrong.
    """
    started = time.perf_counter()
    try:
        ledger = Ledger(Location.parse(output))
        job = _job(output, job_id)
        if ledger.marker(job.stage, key, loose_only=True) is not None:
            return
        outcome = load_task(task)(job.settings, ShardKey.parse(key))
        if not isinstance(outcome, TaskOutcome):
            raise TypeError(f"{task} returned {type(outcome).__name__} for {key}, expected a TaskOutcome")
        ledger.mark(job.stage, key, make_marker(job, key, outcome, time.perf_counter() - started))
    except (Exception, SystemExit) as error:
        kind = error.kind if isinstance(error, AstridError) else "task"
        said = f"{type(error).__name__}: {error}"
        raise AttemptError(kind, said, traceback.format_exc(), worker_name()) from None


def load_task(task: str) -> Task:
    """Import a task function from its ``module:function``."""
    module, _, function = task.partition(":")
    try:
        return cast(Task, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"task {task!r} cannot be imported by worker {worker_name()} ({error}): install the same "
            "version of astrid_dist, and the module that holds the task, on every worker"
        ) from error


def worker_name() -> str:
    """Return host and process."""
    return f"{platform.node()}:{os.getpid()}"


@lru_cache(maxsize=64)
def _job(output: str, job_id: str) -> Job:
    """Read the resolved job, once per process: a job's record never changes."""
    record = Ledger(Location.parse(output)).job(job_id)
    if record is None:
        raise StorageError(
            f"worker {worker_name()} finds no job {job_id} beside {output}: the output must lie where every "
            "worker sees it, a shared folder or a bucket whose credentials they have"
        )
    job = Job.from_dict(record)
    if job.digest != record["digest"]:
        raise StorageError(f"the record of job {job_id} beside {output} was changed: its digest does not fit")
    return job


def make_marker(job: Job, key: str, outcome: TaskOutcome, seconds: float) -> dict[str, Any]:
    """Marker of a task that ended."""
    shards = {
        name: dict(shard)
        if isinstance(shard, Mapping)
        else {"region": [list(bounds) for bounds in shard.region], "sha256": shard.sha256}
        for name, shard in outcome.shards.items()
    }
    return {
        "key": key,
        "stage": job.stage,
        "status": "done" if outcome.quarantined is None else "quarantined",
        "shards": shards,
        "scalars": dict(outcome.scalars),
        "counts": dict(outcome.counts),
        "reason": outcome.quarantined or "",
        "timings": {**outcome.timings, "total": seconds},
        "version": code_version(),
        "config": job.digest,
        "worker": worker_name(),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of astrid_dist that runs, or "unknown" where it is not installed."""
    try:
        return version("astrid-dist")
    except PackageNotFoundError:
        return "unknown"
