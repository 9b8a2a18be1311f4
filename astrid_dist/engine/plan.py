"""What a stage asks of the engine: a job, its keys, and what it will cost."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from astrid_dist.engine.keys import ShardKey


class WrittenShard(Protocol):
    """What a writer says of a shard it wrote."""

    @property
    def region(self) -> Sequence[Sequence[int]]:
        """``[start, stop]`` along each dimension."""

    @property
    def sha256(self) -> str:
        """Digest of the decoded values."""


@dataclass(frozen=True)
class TaskOutcome:
    """What a task did, for its marker; a few hundred bytes, never data."""

    shards: Mapping[str, WrittenShard | Mapping[str, Any]]
    """``<group>/<variable>`` to the shard written and the sha256 of its decoded values."""
    scalars: Mapping[str, Any] = field(default_factory=dict)
    """Values per epoch that the driver's committer writes."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers worth adding up: pixels masked, candidates found."""
    quarantined: str | None = None
    """Why the input could not be used; None when it could."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part (read, compute, write); the total is measured outside."""


@dataclass(frozen=True)
class Job:
    """One resolved run of a stage. Two jobs with one digest write the same bits.

    Settings and inputs are plain JSON values: workers read them from the ledger.
    """

    stage: str
    """Name of the stage, one path segment."""
    task: str
    """``module:function`` that workers import."""
    output: str
    """URL of the product written."""
    settings: Mapping[str, Any]
    """Validated settings, as `model_dump(mode="json")` gives them; no secrets."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen at planning: epoch_ids, input products and their digests."""

    @cached_property
    def digest(self) -> str:
        """Return the sha256 over everything but the output's address: a product may be moved."""
        said = self.as_dict()
        said["settings"] = {name: value for name, value in said["settings"].items() if name != "output"}
        del said["output"]
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def id(self) -> str:
        """Return the name of the job in its ledger."""
        return f"{self.stage}-{self.digest[:12]}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as they come back from the ledger."""
        said: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "stage": self.stage,
                    "task": self.task,
                    "output": self.output,
                    "settings": dict(self.settings),
                    "inputs": dict(self.inputs),
                }
            )
        )
        return said

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "Job":
        """Read a job back from the ledger's record."""
        return cls(said["stage"], said["task"], said["output"], said["settings"], said["inputs"])


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost, before anything runs."""

    tasks: int
    """Tasks in all."""
    bytes_read: int = 0
    """Bytes read from storage, encoded."""
    bytes_written: int = 0
    """Bytes written to storage, encoded."""
    requests: int = 0
    """Requests to the store, data and ledger."""
    peak_memory_bytes: int = 0
    """Most memory one task needs; 0 where unknown."""


@dataclass(frozen=True)
class Plan:
    """A job and the keys it must leave a marker for."""

    job: Job
    """What to do."""
    keys: Sequence[ShardKey]
    """One per task; a lazy sequence where there are many."""
    estimate: Estimate
    """What it will cost."""
    warnings: Sequence[str] = ()
    """What the user should know before it runs."""
