"""What the runner asks of an engine: take calls, say which ended; so little that all behave alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from astrid_dist.engine.attempt import AttemptError


@dataclass(frozen=True)
class Crew:
    """Who is there to work."""

    workers: int
    """Processes."""
    threads: int
    """Tasks that run at once, in all."""
    memory_per_task_bytes: int | None
    """What one task may use on the smallest worker; None where nothing limits it."""


@dataclass(frozen=True)
class Ended:
    """An attempt that ended; whether its task is done, the ledger says."""

    name: str
    """As it was submitted."""
    error: AttemptError | None
    """Why it failed; None where it returned."""


class Engine(Protocol):
    """Runs calls somewhere. Retries, skipping and counting are the runner's."""

    @property
    def name(self) -> str:
        """What it is, for messages."""

    @property
    def in_process(self) -> bool:
        """Whether tasks run in this process and see its memory."""

    @property
    def window(self) -> int:
        """Most calls it should hold at once."""

    def prepare(self) -> Crew:
        """Wait for workers; ClusterError if none come."""

    def submit(self, stage: str, name: str, call: Callable[..., None], *arguments: str) -> None:
        """Take a call. Names are unique among the calls it holds; the same name may come again later."""

    def next(self, timeout_s: float) -> Ended | None:
        """Return an attempt that ended, or None if none did in time; ClusterError if the workers are lost."""

    def cancel(self) -> None:
        """Forget every call it holds."""
