"""The simplest engine: each task in turn, in this process. For tests, debugging and memory:// outputs."""

from collections.abc import Callable

from astrid_dist.engine.attempt import AttemptError
from astrid_dist.engine.protocol import Crew, Ended


class SerialEngine:
    """Runs each call when the next result is asked for, in the order of submission."""

    name = "serial"
    in_process = True
    window = 1

    def __init__(self) -> None:
        self._calls: list[tuple[str, Callable[..., None], tuple[str, ...]]] = []

    def prepare(self) -> Crew:
        """Nobody to wait for."""
        return Crew(workers=1, threads=1, memory_per_task_bytes=None)

    def submit(self, stage: str, name: str, call: Callable[..., None], *arguments: str) -> None:
        """Take a call."""
        self._calls.append((name, call, arguments))

    def next(self, timeout_s: float) -> Ended | None:
        """Run the oldest call."""
        if not self._calls:
            return None
        name, call, arguments = self._calls.pop(0)
        try:
            call(*arguments)
        except AttemptError as error:
            return Ended(name, error)
        return Ended(name, None)

    def cancel(self) -> None:
        """Forget every call."""
        self._calls.clear()
