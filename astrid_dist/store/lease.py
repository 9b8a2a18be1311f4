"""The right to drive a job on one product: one driver at a time, taken over when its holder fell silent.

Every holder has a generation: ``lease/<n>.json``. Taking the lease is the conditional create of generation
n+1, so of any number of contenders one wins. The holder renews its own object and nobody else writes it; one
that was paused meanwhile finds generation n+1 and stops. Clocks of two machines may disagree: a lease that
looks old is watched for a while and taken over only if it does not move.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from astrid_dist.errors import ResumeConflictError, StorageError
from astrid_dist.store.locations import Location

#: Seconds between heartbeats.
HEARTBEAT_S = 2.0


class Lease:
    """The driver's lease on a ledger; as a context manager it renews itself on a thread.

    Parameters
    ----------
    ledger : Location
        Folder of the ledger.
    holder : str
        What the holder does, for messages: a job id.
    takeover_after_s : float
        A holder silent for so many seconds has lost the lease.
    heartbeat_s : float
        Seconds between heartbeats, at least 1 on object stores.
    """

    def __init__(
        self,
        ledger: Location,
        holder: str,
        *,
        takeover_after_s: float = 30.0,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.holder = holder
        self.takeover_after_s = takeover_after_s
        self.heartbeat_s = heartbeat_s
        self._ledger = ledger
        self._objects = ledger.objects()
        self._id = uuid.uuid4().hex
        self._generation = 0
        self._beats = 0
        self._last_beat = 0.0
        self._lost = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease; from a holder that fell silent, or died on this machine, if need be.

        Raises
        ------
        ResumeConflictError
            If another driver holds it: names host, process and age.
        """
        generation, there = self._current()
        if there is not None and not there["released"]:
            self._refuse_if_alive(generation, there)
        self._generation = generation + 1
        if not self._objects.create(self._name(self._generation), self._body()):
            found = self._read(self._generation)
            if found is None or found["id"] != self._id:  # else it is our own retried request
                raise ResumeConflictError(_held_by(self._ledger, found or {}, "took it at the same moment"))
        if not self._is_newest():  # what was listed above is older than a whole turn of others
            raise ResumeConflictError(_held_by(self._ledger, self._current()[1] or {}, "took it just now"))
        self._last_beat = time.monotonic()
        for old in range(generation, max(generation - 16, 0), -1):
            self._objects.delete(self._name(old))

    def heartbeat(self) -> None:
        """Renew the lease once; notice if another driver took it over."""
        if not self._is_newest():
            self._lost = "another driver took it over"
            return
        self._beats += 1
        self._objects.put(self._name(self._generation), self._body())
        self._last_beat = time.monotonic()

    def check(self) -> None:
        """Raise ResumeConflictError if the lease is lost: whoever holds it now may be writing."""
        silent_s = time.monotonic() - self._last_beat
        if not self._lost and silent_s > self.takeover_after_s:
            self._lost = f"no heartbeat could be written for {silent_s:.0f} s"
        if self._lost:
            raise ResumeConflictError(
                f"this driver lost its lease on {self._ledger}: {self._lost}. It stops here; "
                "`astrid status` says who goes on"
            )

    def release(self) -> None:
        """Give the lease back at once, so that nobody waits for it to grow old."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self._lost and self._is_newest():
            self._objects.put(self._name(self._generation), self._body(released=True))

    def __enter__(self) -> Self:
        """Take the lease and keep it."""
        self.acquire()
        self._thread = threading.Thread(target=self._keep, name="astrid-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it; a store that fails then must not hide the error that is on its way."""
        try:
            self.release()
        except StorageError:
            if error is None:
                raise

    def _keep(self) -> None:
        while not self._stop.wait(self.heartbeat_s) and not self._lost:
            try:
                self.heartbeat()
            except StorageError:  # transient: `check` gives up when it lasts
                continue

    def _refuse_if_alive(self, generation: int, there: dict[str, Any]) -> None:
        if there["machine"] == _machine() and not _is_running(there["pid"]):
            return
        age_s = time.time() - there["time"]
        if abs(age_s) <= self.takeover_after_s:
            raise ResumeConflictError(_held_by(self._ledger, there, f"last seen {max(age_s, 0):.0f} s ago"))
        time.sleep(2 * there["heartbeat_s"] + 0.1)
        now = self._read(generation)
        if now is not None and now["beats"] != there["beats"]:
            raise ResumeConflictError(
                _held_by(self._ledger, now, "alive, though its clock differs from ours")
            )

    def _current(self) -> tuple[int, dict[str, Any] | None]:
        """Return the newest generation, 0 if there is none, and what it says."""
        newest = self._newest()
        return newest, self._read(newest) if newest else None

    def _is_newest(self) -> bool:
        """Whether nobody came after: of several successors, all but the last are deleted again."""
        return self._newest() == self._generation

    def _newest(self) -> int:
        names = [name for name, _ in self._objects.list("lease/")]
        return max((int(name.removeprefix("lease/").removesuffix(".json")) for name in names), default=0)

    def _name(self, generation: int) -> str:
        return f"lease/{generation:06d}.json"

    def _read(self, generation: int) -> dict[str, Any] | None:
        body = self._objects.get(self._name(generation))
        if body is None:
            return None
        found: dict[str, Any] = json.loads(body)
        return found

    def _body(self, released: bool = False) -> bytes:
        said = {
            "id": self._id,
            "holder": self.holder,
            "host": platform.node(),
            "machine": _machine(),
            "pid": os.getpid(),
            "time": time.time(),
            "beats": self._beats,
            "heartbeat_s": self.heartbeat_s,
            "released": released,
        }
        return json.dumps(said).encode()


def _held_by(ledger: Location, there: dict[str, Any], how: str) -> str:
    return (
        f"{ledger} is held by job {there.get('holder')} on {there.get('host')}, process {there.get('pid')} "
        f"({how}). Wait for it, or stop it: a driver silent for 30 s is taken over by `astrid resume`"
    )


def _machine() -> str:
    """Where a process number means the same: containers may share a host name, not a namespace."""
    said = [platform.node()]
    with contextlib.suppress(OSError):
        said.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        said.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(said)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
