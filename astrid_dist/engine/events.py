"""What happens in a job, said once: frozen events that go to every observer.

Observers only watch. One that raises is dropped with a warning and the job goes on.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobStarted:
    """The lease is held, the job is in the ledger, and tasks are about to be submitted."""

    job: str
    """Id of the job in the ledger."""
    stage: str
    """Name of the stage."""
    output: str
    """URL of the product."""
    engine: str
    """Which engine runs it, and how large it is."""
    tasks: int
    """Tasks of the whole job."""
    skipped: int
    """Tasks that had a marker before."""
    warnings: tuple[str, ...] = ()
    """What the plan found worth saying: duplicates left out, fields without a reference."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class TaskFinished:
    """The marker of a task was read from the ledger."""

    key: str
    """Shard key."""
    status: str
    """``done`` or ``quarantined``."""
    reason: str
    """Why it was quarantined; empty when done."""
    worker: str
    """Host and process that ran it."""
    seconds: float
    """Time of the attempt that succeeded, on its worker."""
    counts: Mapping[str, int]
    """Numbers the task counted."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class TaskRetried:
    """An attempt failed and the task was, or will be, submitted again."""

    key: str
    """Shard key."""
    attempt: int
    """Which attempt failed, from 1."""
    error: str
    """Type and message."""
    worker: str
    """Host and process that ran it; empty where it died."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class TaskFailed:
    """A task was set aside; its traceback is in the ledger."""

    key: str
    """Shard key."""
    attempts: int
    """Attempts in this run."""
    error: str
    """Type and message of the last."""
    worker: str
    """Host and process of the last attempt; empty where it died."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class JobFinished:
    """The runner is leaving: finished, incomplete, or stopped on the way."""

    job: str
    """Id of the job in the ledger."""
    status: str
    """``complete``, ``incomplete``, ``interrupted`` or ``stopped``."""
    done: int
    """Tasks finished by this run."""
    skipped: int
    """Tasks that had a marker before."""
    quarantined: int
    """Tasks of this run whose input could not be used."""
    failed: int
    """Tasks set aside."""
    retried: int
    """Attempts that failed and were repeated."""
    seconds: float
    """Time of this run."""
    message: str = ""
    """Why it stopped on the way."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""


Event = JobStarted | TaskFinished | TaskRetried | TaskFailed | JobFinished
Observer = Callable[[Event], None]


class Announcer:
    """Hands each event to every observer that has not failed yet."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def __call__(self, event: Event) -> None:
        """Tell everyone."""
        for observer in list(self._observers):
            try:
                observer(event)
            except Exception:
                self._observers.remove(observer)
                log.warning("observer %r failed on %s and is dropped", observer, event, exc_info=True)
