"""One file per stage: settings (pydantic), plan (which shards), task (pure: key in, shards out), glue.

A stage reads products and writes one product; no stage calls another (the demo runs them in turn).
Every stage module offers

``Settings``
    pydantic model, ``extra="forbid"``, with an ``output`` URL; what a job file holds.
``plan(settings) -> Plan``
    which keys, how many bytes; reads only, writes nothing. The plan's ``job.settings`` are the resolved
    settings ("best:5" became epoch ids): valid ``Settings`` again, and planning them gives the same plan.
``prepare(plan)``
    creates or grows the output, on the driver, under the lease.
``task(settings, key) -> TaskOutcome``
    runs on a worker; owns the whole shards of ``key`` and nothing else.
``commit(plan, markers)`` (optional)
    publishes newly finished keys while the job runs, on the driver, at most once a second.
``give_up(settings, key, reason) -> TaskOutcome`` (optional)
    what stands for a task that failed for good, when the user asks to go on without it.
``finalise(plan)``
    after the last key: tables, scalars, counts; on the driver. Returns digests of the shards it wrote.

A stage that has no shards (``train`` and ``tune``, on Ray) offers instead of all but ``Settings``

``run(settings)``
    does everything, says what it made, and run again goes on where it was stopped.
"""

from importlib import import_module
from types import ModuleType

from astrid_dist.errors import ConfigError

#: Stage name -> module; imported only when asked for.
STAGES = {
    name: f"astrid_dist.stages.{name}"
    for name in (
        "mock",
        "ingest",
        "reference",
        "difference",
        "detect",
        "inject",
        "realbogus",
        "train",
        "tune",
        "ensemble",
        "calibrate",
        "evaluate",
    )
}


def load_stage(name: str) -> ModuleType:
    """Import the module of a stage by its name; `ConfigError` names those there are."""
    if name not in STAGES:
        raise ConfigError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")
    return import_module(STAGES[name])
