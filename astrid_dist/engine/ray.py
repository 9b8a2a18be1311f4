"""The Ray engine: calls become Ray tasks, a few hundred alive at once; how Ray is reached or started."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from astrid_dist.engine.attempt import WORKER_DIED, AttemptError
from astrid_dist.engine.protocol import Crew, Ended
from astrid_dist.errors import ClusterError

_SMALLEST_WINDOW, _LARGEST_WINDOW = 64, 4000
#: Of a Ray of this machine alone: tasks return nothing, and checkpoints travel by storage.
_OBJECT_STORE_BYTES = 128 * 2**20
#: Seconds between two looks at which nodes are there, while nothing ends.
_LOOK_EVERY_S = 5.0


class RayEngine:
    """Runs calls as Ray tasks on the cluster that this process is connected to; the caller disconnects.

    Ray repeats nothing by itself: a worker that dies is a failed attempt, which the runner counts.

    Parameters
    ----------
    num_cpus, num_gpus : float
        What a task takes of a node; a part of a GPU is allowed.
    memory_bytes : int, optional
        What a task is given; by default its share of the node.
    window : int, optional
        Most tasks handed to Ray at once; by default four per task that can run, from 64 to 4000.
    worker_timeout_s : float
        How long to wait for a first node with room for a task, or for one to come back.
    """

    name = "ray"
    in_process = False

    def __init__(
        self,
        *,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        memory_bytes: int | None = None,
        window: int | None = None,
        worker_timeout_s: float = 60.0,
    ) -> None:
        import ray

        self.window = window or _SMALLEST_WINDOW
        self._fixed_window = window is not None
        self._needs = {"CPU": num_cpus, "GPU": num_gpus, "memory": float(memory_bytes or 0)}
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0}
        if memory_bytes:
            options["memory"] = memory_bytes
        self._remote: Any = ray.remote(**options)(_call)
        self._worker_timeout_s = worker_timeout_s
        self._live: dict[int, tuple[str, Any]] = {}
        self._ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._serial = count()
        self._nodes_seen_at = self._looked_at = time.monotonic()

    def prepare(self) -> Crew:
        """Wait for a first node with room for a task."""
        waits_until = time.monotonic() + self._worker_timeout_s
        while not (room := self._room()):
            if time.monotonic() > waits_until:
                asked = ", ".join(f"{need:g} {name}" for name, need in self._needs.items() if need)
                raise ClusterError(
                    f"no node of Ray has {asked} for a task (it has {self._resources()}): start one, or ask "
                    "for less in the cluster file"
                )
            time.sleep(0.2)
        threads = sum(tasks for tasks, _ in room)
        if not self._fixed_window:
            self.window = min(max(4 * threads, _SMALLEST_WINDOW), _LARGEST_WINDOW)
        self._nodes_seen_at = time.monotonic()
        shares = [int(self._needs["memory"]) or memory // tasks for tasks, memory in room]
        return Crew(threads, threads, min(shares))

    def submit(self, stage: str, name: str, call: Callable[..., None], *arguments: str) -> None:
        """Take a call, and send it."""
        import ray

        if not ray.is_initialized():
            raise self._lost("the connection is closed")
        number = next(self._serial)
        reference = self._remote.options(name=f"{stage} {name}").remote(call, arguments)
        self._live[number] = (name, reference)
        reference.future().add_done_callback(lambda future: self._ended.put((number, future)))

    def next(self, timeout_s: float) -> Ended | None:
        """Return an attempt that ended."""
        try:
            number, future = self._ended.get(timeout=timeout_s)
        except Empty:
            self._check_alive()
            return None
        name, _ = self._live.pop(number, (None, None))
        if name is None:
            return None
        self._nodes_seen_at = time.monotonic()
        error = future.exception()
        return Ended(name, None if error is None else _failure(error))

    def cancel(self) -> None:
        """Forget every call; what runs already is interrupted."""
        import ray

        references = [reference for _, reference in self._live.values()]
        self._live.clear()
        if ray.is_initialized():
            for reference in references:
                ray.cancel(reference)

    def _room(self) -> list[tuple[int, int]]:
        """Tasks at once and bytes of memory of each node that has room for any."""
        import ray

        found = []
        nodes = ray.nodes() if ray.is_initialized() else []  # type: ignore[no-untyped-call]
        for node in nodes:
            there = node["Resources"]
            tasks = min(int(there.get(name, 0) // need) for name, need in self._needs.items() if need)
            if node["Alive"] and tasks:
                found.append((tasks, int(there.get("memory", 0))))
        return found

    def _resources(self) -> str:
        import ray

        there = ray.cluster_resources() if ray.is_initialized() else {}  # type: ignore[no-untyped-call]
        return ", ".join(f"{there.get(name, 0):g} {name}" for name in self._needs)

    def _check_alive(self) -> None:
        """Raise ClusterError if nothing that could run a task has been there for too long."""
        now = time.monotonic()
        if not self._live or now - self._looked_at < min(self._worker_timeout_s, _LOOK_EVERY_S):
            return
        self._looked_at = now
        if self._room():
            self._nodes_seen_at = now
        elif now - self._nodes_seen_at > self._worker_timeout_s:
            raise self._lost("no node is left that has room for a task")

    def _lost(self, why: str) -> ClusterError:
        return ClusterError(
            f"the Ray cluster was lost with {len(self._live)} tasks on it ({why}): look at its logs, start "
            "it again, then `astrid resume`; finished tasks are kept"
        )


def _call(call: Callable[..., None], arguments: tuple[str, ...]) -> None:
    call(*arguments)


def _failure(error: BaseException) -> AttemptError:
    """What the task raised; anything else is a worker that died."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AttemptError):
        return cause
    said = f"{type(error).__name__}: {str(error).strip()[:2000]}"
    if type(error).__name__ in ("WorkerCrashedError", "OutOfMemoryError"):
        said += " A worker that dies without a word was often out of memory: give it more."
    return AttemptError(WORKER_DIED, said, "", "")


def start_ray(
    *,
    address: str | None = None,
    cores: float | None = None,
    gpus: float | None = None,
    dashboard_port: int | None = None,
    environment: Mapping[str, str] | None = None,
    log_to_driver: bool = True,
) -> bool:
    """Connect to `address`, or that of RAY_ADDRESS, else start a Ray of this machine's own.

    Its token, in ``~/.ray/auth_token``, is asked of whoever connects; nothing is sent to Ray's makers.

    Parameters
    ----------
    cores, gpus : float, optional
        Of a Ray that is started: any number of cores, for its workers are processes, not places.
    dashboard_port : int, optional
        On 127.0.0.1, of a Ray that is started; without one there is no dashboard.
    environment : mapping
        Of workers.

    Returns
    -------
    bool
        Whether the caller has to call ``ray.shutdown()``; False where this process was connected before.

    Raises
    ------
    ClusterError
        There is no Ray at the address, or none can be started.
    """
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a note on what comes later
    given: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": log_to_driver}
    if environment:
        given["runtime_env"] = {"env_vars": dict(environment)}
    if address or os.environ.get("RAY_ADDRESS"):
        given["address"] = address
    else:
        given |= {"address": "local", "num_cpus": cores, "num_gpus": gpus}
        given |= {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": dashboard_port is not None}
        given |= {"dashboard_port": dashboard_port} if dashboard_port is not None else {}
    # that a new Ray asks for its token is as it should be, and needs no warning
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        ray.init(**given)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"no Ray at {address or os.environ.get('RAY_ADDRESS') or 'this machine'} "
            f"({type(error).__name__}: {error}): does it run, is it of the same version as here, and "
            "does it ask for a token (then set RAY_AUTH_MODE=token)?"
        ) from error
    return True
