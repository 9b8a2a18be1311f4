"""What can be known to fail is refused before anything runs, with the number that is needed."""

import uuid

from astrid_dist.engine.plan import Plan
from astrid_dist.engine.protocol import Crew, Engine
from astrid_dist.errors import ClusterError, ConfigError, StorageError
from astrid_dist.store.locations import Location

#: Part of a worker's memory limit at which Dask stops giving it work.
PAUSE_FRACTION = 0.8


def check_output(plan: Plan, engine: Engine) -> Location:
    """Return the output's location, once it is known that tasks see it and that it can be written.

    Raises
    ------
    ConfigError
        If the output is in memory and tasks run in other processes.
    StorageError
        If nothing can be written beside it.
    """
    location = Location.parse(plan.job.output)
    if not location.is_shared and not engine.in_process:
        raise ConfigError(
            f"{location} is in the memory of this process and the workers of {engine.name} are others: "
            "use --cluster serial, or an output on disk or in a bucket"
        )
    ledger, probe = location.sibling(".ledger").objects(), f"preflight-{uuid.uuid4().hex}"
    ledger.put(probe, b"can this be written?\n")
    ledger.delete(probe)
    return location


def check_resources(plan: Plan, location: Location, engine: Engine, remaining: int) -> Crew:
    """Wait for workers, and refuse a job that its workers or its disk cannot hold.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    location : Location
        Where.
    engine : Engine
        By whom.
    remaining : int
        Tasks that have no marker yet.

    Raises
    ------
    ClusterError
        If there are no workers, or one is too small for a task.
    StorageError
        If the disk is too full.
    """
    estimate = plan.estimate
    share = remaining / max(len(plan.keys), 1)
    need_bytes, free_bytes = int(estimate.bytes_written * share), location.free_bytes()
    if free_bytes is not None and need_bytes > free_bytes:
        raise StorageError(
            f"{location} needs {_gib(need_bytes)} for its {remaining} remaining shards and "
            f"{_gib(free_bytes)} is free: free {_gib(need_bytes - free_bytes)} or choose another output"
        )
    crew = engine.prepare()
    usable_bytes = crew.memory_per_task_bytes and int(crew.memory_per_task_bytes * PAUSE_FRACTION)
    if usable_bytes is not None and estimate.peak_memory_bytes > usable_bytes:
        need = int(estimate.peak_memory_bytes / PAUSE_FRACTION)
        raise ClusterError(
            f"a task of {plan.job.stage} needs {_gib(estimate.peak_memory_bytes)} and a worker of "
            f"{engine.name} has {_gib(usable_bytes)} per thread before it pauses: give each thread a memory "
            f"limit of {_gib(need)} (memory_limit, or fewer threads_per_worker, in the cluster file)"
        )
    return crew


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
