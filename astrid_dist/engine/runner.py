"""Run a plan to its end on any engine: skip, submit, retry, set aside, and believe the ledger alone.

What the engine reports only says which attempts ended. A task is done when its marker has been read from the
ledger, and the job is done when one listing shows a marker for every key.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from astrid_dist.engine.attempt import WORKER_DIED, AttemptError, attempt
from astrid_dist.engine.events import (
    Announcer,
    JobFinished,
    JobStarted,
    Observer,
    TaskFailed,
    TaskFinished,
    TaskRetried,
)
from astrid_dist.engine.plan import Plan
from astrid_dist.engine.preflight import check_output, check_resources
from astrid_dist.engine.protocol import Crew, Engine
from astrid_dist.errors import (
    ConfigError,
    IncompleteProductError,
    InputError,
    ResumeConflictError,
    StorageError,
)
from astrid_dist.store.lease import Lease
from astrid_dist.store.ledger import MARKERS_PER_MANIFEST, Ledger, Marker
from astrid_dist.store.locations import Location

OnMarkers = Callable[[list[Marker]], None]

#: Seconds between two calls of `on_markers`: R2 takes one write per second and key.
COMMIT_EVERY_S = 1.0
#: Ended tasks whose markers are read together, and how long the first of them may wait.
_READ_AT_ONCE, _READ_EVERY_S = 256, 0.5
#: What another attempt cannot mend.
_FINAL = frozenset({InputError.kind, ConfigError.kind})
_LONGEST_PAUSE_S = 30.0


@dataclass
class RunSummary:
    """What a run did; keys that had a marker before are counted as skipped."""

    done: int = 0
    """Tasks finished."""
    skipped: int = 0
    """Tasks that had a marker before."""
    quarantined: int = 0
    """Tasks whose input could not be used."""
    failed: list[str] = field(default_factory=list)
    """Keys of the tasks set aside."""
    retried: int = 0
    """Attempts that failed and were repeated."""
    seconds: float = 0.0
    """Time of this run."""


def run(
    plan: Plan,
    engine: Engine,
    *,
    observers: Iterable[Observer] = (),
    retries: int = 2,
    lease: Lease | None = None,
    prepare: Callable[[Plan], None] | None = None,
    on_markers: OnMarkers | None = None,
    finalise: Callable[[Plan], None] | None = None,
) -> RunSummary:
    """Run every task of a plan that has no marker yet.

    Parameters
    ----------
    plan : Plan
        What to do.
    engine : Engine
        Who does it.
    observers : iterable of callable
        Each is handed every event.
    retries : int
        Attempts after the first, per task. Bad input and bad configuration are never tried again.
    on_markers : callable, optional
        Called on the driver, at most once a second, with markers it has not seen in this run. On a resumed
        job the markers of earlier runs come first: what was finished may not have been committed.
    finalise : callable, optional
        Called once every key has its marker, under the lease, before the job is declared finished.

    Returns
    -------
    RunSummary
        What was done.

    Raises
    ------
    IncompleteProductError
        If keys are left without a marker; names them, and has the `RunSummary` as its attribute ``summary``.
    ResumeConflictError
        If another driver holds the lease, or the product belongs to another job.
    ClusterError
        If there are no workers, they are too small, or the cluster was lost. The job can be resumed.
    """
    location = check_output(plan, engine)
    with nullcontext(lease) if lease else Lease(location.sibling(".ledger"), plan.job.id) as held:
        job = _Run(plan, engine, location, held, Announcer(observers), retries, on_markers)
        status, message = "stopped", ""
        try:
            job.execute(prepare, finalise)
            status = "complete"
        except IncompleteProductError as error:
            status, message = "incomplete", str(error)
            raise
        except KeyboardInterrupt:
            status, message = "interrupted", "stopped by hand; `astrid resume` goes on from here"
            raise
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            job.leave(status, message)
    return job.summary


class _Run:
    """The state of one run: what is live, what waits, what has ended."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        location: Location,
        lease: Lease,
        announce: Announcer,
        retries: int,
        on_markers: OnMarkers | None,
    ) -> None:
        self.plan, self.engine, self.location, self.lease = plan, engine, location, lease
        self.announce, self.retries, self.on_markers = announce, retries, on_markers
        self.stage, self.job_id = plan.job.stage, plan.job.id
        self.ledger = Ledger(location)
        self.summary = RunSummary()
        self.started = time.monotonic()
        self.live: set[str] = set()
        self.waiting: deque[tuple[float, str]] = deque()  # failed once, with the time to try again
        self.suspects: deque[str] = deque()  # were there when a worker died: each is tried again alone
        self.alone = False
        self.attempts: dict[str, int] = {}  # of tasks that failed at least once
        self.landed: list[str] = []  # ended without error, marker not read yet
        self.uncommitted: list[Marker] = []
        self.uncompacted: list[Marker] = []
        self.earlier_failures: set[str] = set()
        self.read_at = self.committed_at = self.started
        self.housekeeping = ThreadPoolExecutor(1, thread_name_prefix="astrid-compact")
        self.compaction: Future[int] | None = None

    def execute(
        self, prepare: Callable[[Plan], None] | None, finalise: Callable[[Plan], None] | None
    ) -> None:
        """Do the work."""
        finished = self._finished_before()
        self.summary.skipped = sum(key in finished for key in map(str, self.plan.keys)) if finished else 0
        remaining = len(self.plan.keys) - self.summary.skipped
        crew = check_resources(self.plan, self.location, self.engine, remaining) if remaining else None
        there = self.ledger.job(self.job_id)
        self.ledger.register(self.plan.job.as_dict() | {"tasks": len(self.plan.keys)}, self.plan.job.digest)
        if there is not None and there["finished"] and not remaining:
            self._announce_start(crew)
            return
        if prepare is not None:
            try:
                prepare(self.plan)
            except BaseException:
                if there is None:  # nothing was done in its name: leave the way free for another job
                    self.ledger.withdraw(self.job_id)
                raise
        self._announce_start(crew)
        if self.on_markers is not None and finished:
            self._commit_earlier(finished)
        self._work(key for key in map(str, self.plan.keys) if key not in finished)
        self._commit(last=True)
        self._check_complete()
        if finalise is not None:
            finalise(self.plan)
        self.lease.check()
        self.ledger.compact(self.stage)
        self.summary.seconds = time.monotonic() - self.started
        self.ledger.finish(self.job_id, asdict(self.summary) | {"tasks": len(self.plan.keys)})

    def leave(self, status: str, message: str) -> None:
        """Let go of everything and say how it ended."""
        summary = self.summary
        summary.seconds = time.monotonic() - self.started
        self.announce(
            JobFinished(
                job=self.job_id,
                status=status,
                done=summary.done,
                skipped=summary.skipped,
                quarantined=summary.quarantined,
                failed=len(summary.failed),
                retried=summary.retried,
                seconds=summary.seconds,
                message=message,
            )
        )
        self.housekeeping.shutdown(wait=True, cancel_futures=True)
        if status != "complete":
            self.engine.cancel()

    def _finished_before(self) -> set[str]:
        """Keys with a marker; refuses those that another finished job wrote with other settings."""
        finished = self.ledger.finished(self.stage)
        finished_jobs = [job for job in self.ledger.jobs() if job["finished"] and job["stage"] == self.stage]
        others = [job["id"] for job in finished_jobs if job["id"] != self.job_id]
        if finished and not self.location.exists():
            raise ResumeConflictError(
                f"{self.location} is gone and its ledger says that {len(finished)} tasks of {self.stage} "
                f"are done: delete {self.ledger.location} too, to begin again"
            )
        if not finished or not others:
            return finished
        mine = {key for key in map(str, self.plan.keys) if key in finished}
        for marker in self.ledger.markers(self.stage):
            if marker["key"] in mine and marker["config"] != self.plan.job.digest:
                raise ResumeConflictError(
                    f"{marker['key']} of {self.location} was written with configuration "
                    f"{marker['config'][:12]}, this job has {self.plan.job.digest[:12]} (jobs before: "
                    f"{', '.join(others)}): choose another output"
                )
        return finished

    def _announce_start(self, crew: Crew | None) -> None:
        size = f" ({crew.workers} workers, {crew.threads} threads)" if crew and crew.workers > 1 else ""
        self.earlier_failures = {info["key"] for info in self.ledger.failures(self.stage)}
        self.announce(
            JobStarted(
                job=self.job_id,
                stage=self.stage,
                output=str(self.location),
                engine=self.engine.name + size,
                tasks=len(self.plan.keys),
                skipped=self.summary.skipped,
                warnings=tuple(self.plan.warnings),
            )
        )

    def _work(self, todo: Iterator[str]) -> None:
        """Keep the engine's window full until nothing is left to try."""
        more = True
        while True:
            self.lease.check()
            self.alone = self.alone and bool(self.live)
            while len(self.live) < self.engine.window and not self.alone:
                key = self._next_retry() or (next(todo, None) if more else None)
                if key is None:
                    more = False
                    if not self.suspects or self.live:
                        break
                    # A neighbour of the task that killed their worker must not be blamed for it twice.
                    key, self.alone = self.suspects.popleft(), True
                self.live.add(key)
                self.engine.submit(
                    self.stage, key, attempt, str(self.location), self.job_id, self.plan.job.task, key
                )
            if self.live:
                self._take(self.engine.next(0.2))
            elif self.waiting and not self.landed:
                time.sleep(min(0.2, max(self.waiting[0][0] - time.monotonic(), 0.0)))
            self._read_landed()
            self._commit()
            if not (self.live or self.waiting or self.suspects or self.landed or more):
                return

    def _next_retry(self) -> str | None:
        if self.waiting and self.waiting[0][0] <= time.monotonic():
            return self.waiting.popleft()[1]
        return None

    def _take(self, ended: Any) -> None:
        if ended is None:
            return
        self.live.discard(ended.name)
        if ended.error is None:
            self.landed.append(ended.name)
        else:
            self._failed(ended.name, ended.error)

    def _failed(self, key: str, error: AttemptError) -> None:
        """Try again, later if it was the store's fault; or set the task aside."""
        tried = self.attempts[key] = self.attempts.get(key, 0) + 1
        if tried <= self.retries and error.kind not in _FINAL:
            if error.kind == WORKER_DIED:
                self.suspects.append(key)
            else:
                pause_s = min(0.5 * 2**tried, _LONGEST_PAUSE_S) if error.kind == StorageError.kind else 0.0
                self.waiting = deque(sorted([*self.waiting, (time.monotonic() + pause_s, key)]))
            self.summary.retried += 1
            self.announce(TaskRetried(key=key, attempt=tried, error=error.error, worker=error.worker))
            return
        info = {"kind": error.kind, "error": error.error, "traceback": error.trace}
        self.ledger.fail(
            self.stage,
            key,
            info | {"worker": error.worker, "attempts": tried, "job": self.job_id, "time": time.time()},
        )
        self.summary.failed.append(key)
        self.announce(TaskFailed(key=key, attempts=tried, error=error.error, worker=error.worker))

    def _read_landed(self) -> None:
        """Read the markers of the tasks that returned; one without a marker has failed."""
        now = time.monotonic()
        idle = not self.live
        if not self.landed or not (
            idle or len(self.landed) >= _READ_AT_ONCE or now - self.read_at >= _READ_EVERY_S
        ):
            return
        landed, self.landed, self.read_at = self.landed, [], now
        for key, marker in self.ledger.read(self.stage, landed):
            if marker is None:
                said = f"the task returned and left no marker {self.stage}/{key}.json"
                self._failed(key, AttemptError("task", f"TaskError: {said}", "", ""))
            else:
                self._finished(key, marker)
        if len(self.uncompacted) >= MARKERS_PER_MANIFEST:
            if self.compaction is not None:
                self.compaction.result()
            batch, self.uncompacted = self.uncompacted, []
            self.compaction = self.housekeeping.submit(self.ledger.compact, self.stage, batch)

    def _finished(self, key: str, marker: Marker) -> None:
        self.attempts.pop(key, None)
        if key in self.earlier_failures:
            self.ledger.clear_failure(self.stage, key)
        self.uncompacted.append(marker)
        if self.on_markers is not None:
            self.uncommitted.append(marker)
        if marker["status"] == "quarantined":
            self.summary.quarantined += 1
        else:
            self.summary.done += 1
        self.announce(
            TaskFinished(
                key=key,
                status=marker["status"],
                reason=marker["reason"],
                worker=marker["worker"],
                seconds=marker["timings"]["total"],
                counts=marker["counts"],
            )
        )

    def _commit_earlier(self, finished: set[str]) -> None:
        """Hand over the markers of earlier runs, in batches."""
        mine = {key for key in map(str, self.plan.keys) if key in finished}
        for marker in self.ledger.markers(self.stage):
            if marker["key"] in mine:
                self.uncommitted.append(marker)
            if len(self.uncommitted) >= MARKERS_PER_MANIFEST:
                self._commit(last=True)
        self._commit(last=True)

    def _commit(self, last: bool = False) -> None:
        """Hand new markers to the committer, at most once a second; `last` waits for its turn."""
        if self.on_markers is None or not self.uncommitted:
            return
        wait_s = self.committed_at + COMMIT_EVERY_S - time.monotonic()
        if wait_s > 0:
            if not last:
                return
            if self.committed_at > self.started:
                time.sleep(wait_s)
        self.lease.check()
        markers, self.uncommitted = self.uncommitted, []
        self.on_markers(markers)
        self.committed_at = time.monotonic()

    def _check_complete(self) -> None:
        """Compare the keys with the ledger, by one listing."""
        if self.compaction is not None:
            self.compaction.result()
        finished = self.ledger.finished(self.stage)
        missing = [key for key in map(str, self.plan.keys) if key not in finished]
        self.summary.failed = missing
        if not missing:
            return
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        error = IncompleteProductError(
            f"{self.location} is incomplete, these keys: {names}. See `astrid why {self.location} "
            f"{missing[0]}`, then `astrid resume {self.location}`"
        )
        error.summary = self.summary  # type: ignore[attr-defined]
        raise error
