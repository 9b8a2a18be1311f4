"""Inject transients and artifacts: into stamps to train with, or into whole epochs to be searched."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.plan import Plan, TaskOutcome
from astrid_dist.stages.synthetic import frames_job, stamps_job
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.writing import ShardDigest

__all__ = ["Settings", "finalise", "plan", "prepare", "task"]


def _mode(mode: str) -> ModuleType:
    return frames_job if mode == "frames" else stamps_job


def plan(settings: Settings) -> Plan:
    """Shards of samples, or of injected epochs."""
    made: Plan = _mode(settings.mode).plan(settings)
    return made


def prepare(plan: Plan) -> None:
    """Create the product."""
    _mode(plan.job.settings["mode"]).prepare(plan)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Make one shard."""
    outcome: TaskOutcome = _mode(settings["mode"]).task(settings, key)
    return outcome


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Write what is known only at the end."""
    written: dict[str, ShardDigest] | None = _mode(plan.job.settings["mode"]).finalise(plan)
    return written or {}
