"""From settings to a finished product: lease, plan, prepare, run, finalise; and again for a resume."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from astrid_dist.engine.attempt import make_marker
from astrid_dist.engine.events import Observer
from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.plan import Job, Plan
from astrid_dist.engine.protocol import Engine
from astrid_dist.engine.runner import RunSummary, run
from astrid_dist.errors import ConfigError
from astrid_dist.stages import load_stage
from astrid_dist.store.lease import Lease
from astrid_dist.store.ledger import Ledger, Marker, finalise_stage
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import set_state
from astrid_dist.store.writing import ShardDigest

Settings = BaseModel | Mapping[str, Any]


def plan_stage(name: str, settings: Settings) -> Plan:
    """What a stage would do: its keys, bytes, requests, memory and warnings. Writes nothing."""
    stage = _with_tasks(name)
    plan: Plan = stage.plan(stage.Settings.model_validate(settings))
    return plan


def _with_tasks(name: str) -> ModuleType:
    """The module of a stage that is made of tasks."""
    stage = load_stage(name)
    if not hasattr(stage, "plan"):
        raise ConfigError(f"{name} has no tasks to plan: run it, and run it again to go on with it")
    return stage


def run_stage(
    name: str,
    settings: Settings,
    engine: Engine,
    observers: Iterable[Observer] = (),
    *,
    retries: int = 2,
) -> RunSummary:
    """Run a stage to its end, or go on with it where the same job was stopped.

    Parameters
    ----------
    name : str
        Name of the stage.
    settings : model or mapping
        Its settings.
    engine : Engine
        Who runs the tasks.
    observers : iterable of callable
        Each is handed every event.
    retries : int
        Attempts per task after the first.

    Raises
    ------
    ConfigError, ResumeConflictError, IncompleteProductError, ClusterError, StorageError
        As `astrid_dist.engine.runner.run`.
    """
    stage = _with_tasks(name)
    checked = stage.Settings.model_validate(settings)
    location = Location.parse(checked.output)
    # The lease comes first: what is planned (which epoch gets which index) must still hold when it runs.
    with Lease(location.sibling(".ledger"), name) as lease:
        plan: Plan = stage.plan(checked)
        commit: Callable[[Plan, list[Marker]], None] | None = getattr(stage, "commit", None)
        return run(
            plan,
            engine,
            observers=observers,
            retries=retries,
            lease=lease,
            prepare=stage.prepare,
            on_markers=partial(commit, plan) if commit else None,
            finalise=partial(_finish, stage.finalise, location),
        )


def _finish(
    finalise: Callable[[Plan], Mapping[str, ShardDigest] | None], location: Location, plan: Plan
) -> None:
    """Finalise, leave a marker of what that wrote for `verify`, and declare the product complete."""
    written = finalise(plan) or {}
    if written:
        shards = {
            name: {"region": [list(part) for part in one.region], "sha256": one.sha256}
            for name, one in written.items()
        }
        marker = {"key": plan.job.id, "stage": plan.job.stage, "status": "done", "shards": shards}
        Ledger(location).mark(finalise_stage(plan.job.stage), plan.job.id, marker)
    set_state(location, "complete")


def unfinished_job(url: str) -> dict[str, Any]:
    """The job of a product that is not finished, as its ledger has it.

    Raises
    ------
    ConfigError
        There is no ledger there, or every job is finished.
    """
    jobs = Ledger(Location.parse(url)).jobs()
    if not jobs:
        raise ConfigError(
            f"{url} has no jobs: is it the output URL of a job? its ledger lies in {url}.ledger"
        )
    waiting = [job for job in jobs if not job["finished"]]
    if not waiting:
        raise ConfigError(f"{url} has nothing to resume: its {len(jobs)} jobs are finished")
    return waiting[-1]


def resume(url: str, engine: Engine, observers: Iterable[Observer] = ()) -> RunSummary:
    """Finish the job that was stopped on a product, exactly as it was planned."""
    job = unfinished_job(url)
    return run_stage(job["stage"], {**job["settings"], "output": url}, engine, observers)


def give_up_failed(url: str) -> list[str]:
    """Quarantine the tasks that failed for good, so that `resume` finishes the job without them.

    Returns
    -------
    list of str
        Keys given up.

    Raises
    ------
    ConfigError
        There is nothing to resume, or the stage cannot do without any of its tasks.
    """
    location = Location.parse(url)
    ledger, record = Ledger(location), unfinished_job(url)
    stage = load_stage(record["stage"])
    if not hasattr(stage, "give_up"):
        raise ConfigError(
            f"a {record['stage']} job cannot do without any of its tasks: mend the cause, then resume"
        )
    job = Job.from_dict(record)
    given_up = []
    with Lease(location.sibling(".ledger"), "give up failed tasks"):
        finished = ledger.finished(job.stage)
        for failure in ledger.failures(job.stage):
            key = failure["key"]
            if key not in finished:
                reason = f"given up after {failure['attempts']} attempts: {failure['error']}"
                outcome = stage.give_up(job.settings, ShardKey.parse(key), reason)
                ledger.mark(job.stage, key, make_marker(job, key, outcome, 0.0))
                given_up.append(key)
    return given_up


def reopen_damaged(url: str, keys: Iterable[str]) -> list[str]:
    """Forget that damaged shards were written and take back that their jobs are finished.

    Parameters
    ----------
    url : str
        URL of a product whose `verify` found problems.
    keys : iterable of str
        Keys of the problems.

    Returns
    -------
    list of str
        Ids of the jobs that `resume` can now finish again.
    """
    location, damaged = Location.parse(url), set(keys)
    ledger = Ledger(location)
    opened: set[str] = set()
    with Lease(location.sibling(".ledger"), "reopen damaged shards"):
        jobs = ledger.jobs()
        for stage in dict.fromkeys(job["stage"] for job in jobs):
            markers = [marker for marker in ledger.markers(stage) if marker["key"] in damaged]
            if markers:
                ledger.forget(stage, {marker["key"] for marker in markers})
                configurations = {marker["config"] for marker in markers}
                opened |= {job["id"] for job in jobs if job["digest"] in configurations}
        opened |= {job["id"] for job in jobs if job["id"] in damaged}
        for job_id in opened:
            ledger.reopen(job_id)
        if opened:
            set_state(location, "building")
    return sorted(opened)
