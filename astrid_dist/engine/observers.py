"""Observers of a job: a progress bar on a terminal, JSON lines elsewhere."""

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from astrid_dist.engine.events import (
    Event,
    JobFinished,
    JobStarted,
    Observer,
    TaskFailed,
    TaskFinished,
    TaskRetried,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def progress(stream: TextIO | None = None) -> Observer:
    """Return the observer that suits a stream: a bar on a terminal, one JSON object per line elsewhere.

    Parameters
    ----------
    stream : text file, optional
        Standard error by default, so that standard output stays the command's own.
    """
    stream = stream or sys.stderr
    return ProgressBar(stream) if stream.isatty() else JsonLines(stream)


class JsonLines:
    """Writes each event as one line of JSON, its name under ``event``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write a line."""
        said = {"event": _snake(type(event).__name__), **asdict(event)}
        self._stream.write(json.dumps(said, default=str) + "\n")
        self._stream.flush()


class ProgressBar:
    """Draws tasks done, rate, and when it will end; prints what went wrong above the bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        self._quarantined = self._failed = self._retried = 0

    def __call__(self, event: Event) -> None:
        """Draw one step."""
        if isinstance(event, JobStarted):
            self._start(event)
        if self._bar is None or self._row is None:
            return
        if isinstance(event, TaskFinished):
            self._quarantined += event.status == "quarantined"
            if event.status == "quarantined":
                self._bar.console.print(
                    f"quarantined {event.key}: {event.reason}", markup=False, highlight=False
                )
            self._bar.update(self._row, advance=1, notes=self._notes(), end=self._end())
        elif isinstance(event, TaskRetried):
            self._retried += 1
            self._bar.update(self._row, notes=self._notes())
        elif isinstance(event, TaskFailed):
            self._failed += 1
            said = f"set aside {event.key} after {event.attempts} attempts: {event.error}"
            self._bar.console.print(said, markup=False, highlight=False)
            self._bar.update(self._row, advance=1, notes=self._notes(), end=self._end())
        elif isinstance(event, JobFinished):
            self._bar.stop()
            said = f"{event.status}: {event.done} done, {event.skipped} before, "
            said += f"{event.quarantined} quarantined, {event.failed} set aside, "
            said += f"{event.retried} retried in {event.seconds:.1f} s"
            said += f"; {event.message}" if event.status == "interrupted" else ""
            self._bar.console.print(said, markup=False, highlight=False)
            self._bar = None

    def _start(self, event: JobStarted) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[end]}"),
            TextColumn("{task.fields[notes]}"),
            console=Console(file=self._stream),
        )
        for warning in event.warnings:
            self._bar.console.print(f"warning: {warning}", markup=False, highlight=False)
        self._row = self._bar.add_task(
            event.stage, total=event.tasks, completed=event.skipped, notes="", end=f"on {event.engine}"
        )
        self._bar.start()

    def _notes(self) -> str:
        counts = {"quarantined": self._quarantined, "retried": self._retried, "set aside": self._failed}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def _end(self) -> str:
        """Rate and clock time of the end, as rich measures the speed of late."""
        row = self._bar.tasks[0] if self._bar is not None else None
        if row is None or not row.speed or row.time_remaining is None:
            return ""
        end = time.localtime(time.time() + row.time_remaining)
        return f"{row.speed:.1f}/s, ends {time.strftime('%H:%M:%S', end)}"


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
