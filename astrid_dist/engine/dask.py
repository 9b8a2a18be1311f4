"""The Dask engine: calls become futures of a `distributed.Client`, a few thousand alive at once."""

import time
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from astrid_dist.engine.attempt import WORKER_DIED, AttemptError
from astrid_dist.engine.protocol import Crew, Ended
from astrid_dist.errors import ClusterError

#: Calls sent to the scheduler in one message: a message costs as much as a task.
_SEND_AT_ONCE = 64
_SMALLEST_WINDOW, _LARGEST_WINDOW = 256, 4000


class DaskEngine:
    """Runs calls on the workers of a Dask client.

    Results are never gathered: futures carry nothing, and are released as they end. Dask itself repeats the
    tasks of a dead worker, up to the scheduler's ``allowed-failures``; then `KilledWorker` is a failed
    attempt.

    Parameters
    ----------
    client : distributed.Client
        Of a running scheduler; the caller closes it.
    window : int, optional
        Most futures alive at once; by default four per thread, from 256 to 4000.
    worker_timeout_s : float
        How long to wait for the first worker, or for one to come back.
    """

    name = "dask"
    in_process = False

    def __init__(self, client: Any, *, window: int | None = None, worker_timeout_s: float = 60.0) -> None:
        self.window = window or _SMALLEST_WINDOW
        self._fixed_window = window is not None
        self._client = client
        self._worker_timeout_s = worker_timeout_s
        self._unsent: list[tuple[str, str, Callable[..., None], tuple[str, ...]]] = []
        self._live: dict[Any, tuple[str, Any]] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._serial = count()
        self._workers_seen_at = time.monotonic()

    def prepare(self) -> Crew:
        """Wait for a first worker."""
        try:
            self._client.wait_for_workers(1, timeout=self._worker_timeout_s)
        except (TimeoutError, OSError) as error:
            raise ClusterError(
                f"no worker of {self._address()} came within {self._worker_timeout_s:.0f} s: start some, "
                "look at their logs, or raise worker_timeout_s in the cluster file"
            ) from error
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        threads = sum(worker["nthreads"] for worker in workers)
        limits = [
            worker["memory_limit"] // worker["nthreads"] for worker in workers if worker["memory_limit"]
        ]
        if not self._fixed_window:
            self.window = min(max(4 * threads, _SMALLEST_WINDOW), _LARGEST_WINDOW)
        self._workers_seen_at = time.monotonic()
        return Crew(len(workers), threads, min(limits, default=None))

    def submit(self, stage: str, name: str, call: Callable[..., None], *arguments: str) -> None:
        """Take a call; it is sent with others."""
        self._unsent.append((stage, name, call, arguments))

    def next(self, timeout_s: float) -> Ended | None:
        """Return an attempt that ended, sending what waits when there is nothing else to do."""
        try:
            if len(self._unsent) < _SEND_AT_ONCE:
                return self._end(self._ended.get_nowait())
        except Empty:
            pass
        self._send()
        try:
            return self._end(self._ended.get(timeout=timeout_s))
        except Empty:
            self._check_alive()
            return None

    def cancel(self) -> None:
        """Forget every call; what runs already finishes unseen."""
        self._unsent.clear()
        futures = [future for _, future in self._live.values()]
        self._live.clear()
        if futures and self._client.status == "running":
            self._client.cancel(futures, reason="the job stopped")

    def _send(self) -> None:
        calls, self._unsent = self._unsent, []
        if not calls:
            return
        if self._client.status != "running":
            raise self._lost()
        # A name of its own for each attempt: the scheduler may still remember the last one.
        keys = [(stage, name, next(self._serial)) for stage, name, _, _ in calls]
        futures = self._client.map(
            _call,
            [call for _, _, call, _ in calls],
            [arguments for _, _, _, arguments in calls],
            key=keys,
            pure=False,
        )
        for key, (_, name, _, _), future in zip(keys, calls, futures, strict=True):
            self._live[key] = (name, future)
            future.add_done_callback(self._ended.put)

    def _end(self, future: Any) -> Ended | None:
        name, _ = self._live.pop(future.key, (None, None))
        if name is None:
            return None
        self._workers_seen_at = time.monotonic()
        if future.status not in ("error", "cancelled"):
            return Ended(name, None)
        if future.cancelled() and self._client.status != "running":
            raise self._lost()
        error = future.exception()
        if not isinstance(error, AttemptError):
            error = AttemptError(WORKER_DIED, _told(error), "", "")
        return Ended(name, error)

    def _check_alive(self) -> None:
        """Raise ClusterError if the scheduler is gone, or its workers for too long."""
        if self._client.status != "running":
            raise self._lost()
        now = time.monotonic()
        if now - self._workers_seen_at < min(self._worker_timeout_s, 5.0):
            return
        if self._client.scheduler_info(n_workers=1)["n_workers"] > 0:
            self._workers_seen_at = now
        elif now - self._workers_seen_at > self._worker_timeout_s:
            raise self._lost()

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"the Dask cluster at {self._address()} was lost with {len(self._live)} tasks on it (client is "
            f"{self._client.status}): look at its logs, start it again, then `astrid resume`; finished "
            f"tasks are kept"
        )

    def _address(self) -> str:
        scheduler = self._client.scheduler
        return scheduler.addr if scheduler is not None else "an address no longer known"


def _call(call: Callable[..., None], arguments: tuple[str, ...]) -> None:
    call(*arguments)


def _told(error: BaseException) -> str:
    """Say what Dask says, and for a dead worker what that often means."""
    said = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "KilledWorker":
        said += " A worker that dies without a word was often out of memory: give it more."
    return said
