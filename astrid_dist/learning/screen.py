"""Lines that workers of Ray say, on the driver's screen; what Ray itself writes stays in its logs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

#: Seconds between looks.
_PAUSE = 0.5


class _Lines:
    """Kept in an actor, where workers put them and the driver takes them."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def put(self, line: str) -> None:
        self.waiting.append(line)

    def take(self) -> list[str]:
        taken, self.waiting = self.waiting, []
        return taken


@contextmanager
def screen(say: Callable[[str], None]) -> Iterator[Any]:
    """An actor's handle: ``tell(handle, line)`` in any worker has `say` called here, within a second."""
    import ray
    from ray.exceptions import RayError

    lines: Any = ray.remote(num_cpus=0)(_Lines).remote()
    ended = Event()

    def show() -> bool:
        try:
            for line in ray.get(lines.take.remote()):
                say(line)
        except RayError:
            return False
        return True

    def look() -> None:
        while not ended.wait(_PAUSE):
            if not show():
                return

    looking = Thread(target=look, name="screen", daemon=True)
    looking.start()
    try:
        yield lines
    finally:
        ended.set()
        looking.join()
        show()
        ray.kill(lines)


def tell(lines: Any, line: str) -> None:
    """From a worker: a line for the driver's screen."""
    lines.put.remote(line)
