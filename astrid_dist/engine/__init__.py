"""How work is spread: shard keys, plans, the runner, serial and Dask engines, events and observers.

The engine knows tasks and no pixels. A task is `task(settings, key) -> TaskOutcome`; the worker that ran it
writes its marker into the ledger, and the ledger alone says what is done.
"""

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.engine.runner import RunSummary, run
from astrid_dist.engine.serial import SerialEngine

__all__ = [
    "Estimate",
    "Job",
    "KeyBlock",
    "KeyGrid",
    "Plan",
    "RunSummary",
    "SerialEngine",
    "ShardKey",
    "TaskOutcome",
    "run",
]
