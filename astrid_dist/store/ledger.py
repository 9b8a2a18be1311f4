"""What is done and by whom: small JSON objects beside a product, never inside its Zarr root.

::

    X.zarr.ledger/
      jobs/<id>.json  jobs/<id>.finished.json     the resolved jobs of this product
      lease/<n>.json                              the driver that may write now (see `lease`)
      <stage>/<key>.json                          one marker per finished task, written by the task itself
      <stage>-finalise/<job>.json                 what the driver wrote itself at the end of a job
      manifests/<stage>/<n>.jsonl                 markers compacted by the driver, a thousand to a file
      failures/<stage>/<key>.json                 the last traceback of a task that was set aside
      parts/                                      what a stage keeps here until it can write its product

No object is ever written by two processes: R2 takes one write per second and key. What two processes may race
for is created conditionally; a refusal is compared with what is there, for it may be our own retried request.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from astrid_dist.errors import ConfigError, ResumeConflictError, StorageError
from astrid_dist.store.locations import Location

Marker = dict[str, Any]

#: Loose markers are gathered into one manifest when there are this many.
MARKERS_PER_MANIFEST = 1000
#: Small requests in flight at once, of one process.
_THREADS = 16
_STAGE = re.compile(r"[a-z][a-z0-9_-]*")
_RESERVED = frozenset({"jobs", "lease", "manifests", "failures", "parts"})


def finalise_stage(stage: str) -> str:
    """Name under which the driver marks what it wrote itself at the end of a job."""
    return f"{stage}-finalise"


class Ledger:
    """The ledger of one product.

    Parameters
    ----------
    product : Location
        The product; the ledger lies beside it, in ``<product>.ledger/``.
    """

    def __init__(self, product: Location) -> None:
        self.product = product
        self.location = product.sibling(".ledger")
        self._objects = self.location.objects()

    # ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────

    def register(self, job: Mapping[str, Any], digest: str) -> str:
        """Record a job as this product's, and return its id; the same digest gets the same id.

        Call it under the product's lease.

        Raises
        ------
        ResumeConflictError
            If another job has begun and not finished.
        """
        job_id = f"{_checked(job['stage'])}-{digest[:12]}"
        for other in self.jobs():
            if other["id"] != job_id and not other["finished"]:
                raise ResumeConflictError(
                    f"{self.product} belongs to the unfinished job {other['id']} of {other['created']}; "
                    f"this job is {job_id}: its {_differences(other, job)} differ. Finish that one with "
                    f"`astrid resume {self.product}` (--give-up leaves out what failed), or choose another "
                    "output"
                )
        record = {**job, "id": job_id, "digest": digest, "created": _now()}
        if not self._objects.create(f"jobs/{job_id}.json", _encode(record)):
            there = self.job(job_id)
            if there is None or there["digest"] != digest:
                raise ResumeConflictError(
                    f"job {job_id} of {self.product} exists with another digest: {there}"
                )
        return job_id

    def withdraw(self, job_id: str) -> None:
        """Take back a job that was registered and could not begin."""
        self._objects.delete(f"jobs/{job_id}.json")

    def job(self, job_id: str) -> dict[str, Any] | None:
        """Return the resolved job of an id, with ``finished``: its summary, or None while it is not."""
        record = self._read(f"jobs/{job_id}.json")
        if record is None:
            return None
        return {**record, "finished": self._read(f"jobs/{job_id}.finished.json")}

    def jobs(self) -> list[dict[str, Any]]:
        """Return every job of this product, oldest first."""
        names = [name for name, _ in self._objects.list("jobs/") if not name.endswith(".finished.json")]
        found = (self.job(name.removeprefix("jobs/").removesuffix(".json")) for name in names)
        return sorted((job for job in found if job is not None), key=lambda job: (job["created"], job["id"]))

    def finish(self, job_id: str, summary: Mapping[str, Any]) -> None:
        """Declare a job finished; call it last, when every marker and the product's final state are there."""
        name = f"jobs/{job_id}.finished.json"
        if not self._objects.exists(name):
            self._objects.put(name, _encode({**summary, "time": _now()}))

    # ── markers ─────────────────────────────────────────────────────────────────────────────────────────────

    def mark(self, stage: str, key: str, marker: Mapping[str, Any]) -> None:
        """Write the marker of a task whose data are written; again is fine if the data are the same.

        Raises
        ------
        StorageError
            If a marker with other digests is there: the task is not deterministic, or two jobs share a
            ledger.
        """
        name = f"{_checked(stage)}/{key}.json"
        if self._objects.create(name, _encode(marker)):
            return
        there = self._read(name)
        if there is None:  # compacted between the two requests
            there = self.marker(stage, key)
        if there is None or _essence(there) != _essence(marker):
            raise StorageError(
                f"{self.location}/{name} is there already and says other data were written: it has "
                f"{_essence(there)}, this task has {_essence(marker)}. The task is not deterministic, or "
                "its code changed while the job ran: run it again to a new output"
            )

    def marker(self, stage: str, key: str, *, loose_only: bool = False) -> Marker | None:
        """Return the marker of a task, or None if it has not finished."""
        found = self._read(f"{_checked(stage)}/{key}.json")
        if found is not None or loose_only:
            return found
        return next((marker for marker in self._compacted(stage, set()) if marker["key"] == key), None)

    def read(self, stage: str, keys: Iterable[str]) -> Iterator[tuple[str, Marker | None]]:
        """Yield the loose markers of some tasks in order, several requests at a time."""
        wanted = list(keys)
        names = [f"{_checked(stage)}/{key}.json" for key in wanted]
        yield from zip(wanted, self._read_many(names), strict=True)

    def markers(self, stage: str) -> Iterator[Marker]:
        """Yield every marker of a stage once: the manifests' first, then the loose ones."""
        loose = self._loose(stage)  # listed first: what is compacted meanwhile is then found in a manifest
        read: set[str] = set()
        seen: set[str] = set()
        gone = False
        for marker in self._compacted(stage, read):
            if marker["key"] not in seen:
                seen.add(marker["key"])
                yield marker
        for key, found in self.read(stage, (key for key in loose if key not in seen)):
            if found is not None:
                seen.add(key)
                yield found
            gone = gone or found is None
        if gone:
            yield from (marker for marker in self._compacted(stage, read) if marker["key"] not in seen)

    def finished(self, stage: str) -> set[str]:
        """Return the keys that have a marker."""
        keys = set(self._loose(stage))
        keys.update(marker["key"] for marker in self._compacted(stage, set()))
        return keys

    def count(self, stage: str) -> int:
        """Return how many tasks of a stage have a marker."""
        return len(self.finished(stage))

    def compact(self, stage: str, markers: Iterable[Marker] | None = None) -> int:
        """Gather loose markers into manifests; return how many. For the driver, under its lease.

        Parameters
        ----------
        stage : str
            Name of the stage.
        markers : iterable of dict, optional
            Markers just read from this ledger; all loose ones where not given.
        """
        loose = (found for _, found in self.read(stage, self._loose(stage)) if found is not None)
        source = iter(loose if markers is None else markers)
        number = len(self._manifests(stage))
        total = 0
        while batch := list(islice(source, MARKERS_PER_MANIFEST)):
            body = b"".join(_encode(marker) for marker in batch)
            while not self._objects.create(name := f"manifests/{stage}/{number:06d}.jsonl", body):
                if self._objects.get(name) == body:  # our own retried request
                    break
                number += 1
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(self._objects.delete, [f"{stage}/{marker['key']}.json" for marker in batch]))
            number += 1
            total += len(batch)
        return total

    def forget(self, stage: str, keys: set[str]) -> None:
        """Forget that some tasks finished, so that a resume does them again; under the lease."""
        for name in self._manifests(stage):
            lines = (self._objects.get(name) or b"").splitlines(keepends=True)
            kept = [line for line in lines if _decode(line, f"{self.location}/{name}")["key"] not in keys]
            if len(kept) < len(lines):
                self._objects.put(name, b"".join(kept))
        for key in keys:
            self._objects.delete(f"{_checked(stage)}/{key}.json")

    def reopen(self, job_id: str) -> None:
        """Take back that a job is finished."""
        self._objects.delete(f"jobs/{job_id}.finished.json")

    # ── failures ────────────────────────────────────────────────────────────────────────────────────────────

    def fail(self, stage: str, key: str, info: Mapping[str, Any]) -> None:
        """Record why a task was set aside: error, traceback, worker, attempts."""
        self._objects.put(
            f"failures/{_checked(stage)}/{key}.json", _encode({"key": key, "stage": stage, **info})
        )

    def failures(self, stage: str) -> Iterator[dict[str, Any]]:
        """Yield the records of the tasks that were set aside and have not succeeded since."""
        names = sorted(name for name, _ in self._objects.list(f"failures/{_checked(stage)}/"))
        yield from (found for found in self._read_many(names) if found is not None)

    def failure(self, stage: str, key: str) -> dict[str, Any] | None:
        """Return why a task was set aside, or None."""
        return self._read(f"failures/{_checked(stage)}/{key}.json")

    def clear_failure(self, stage: str, key: str) -> None:
        """Forget a failure, now that the task has succeeded."""
        self._objects.delete(f"failures/{_checked(stage)}/{key}.json")

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────

    def _loose(self, stage: str) -> list[str]:
        prefix = f"{_checked(stage)}/"
        names = (name for name, _ in self._objects.list(prefix))
        return [name.removeprefix(prefix).removesuffix(".json") for name in names if name.endswith(".json")]

    def _manifests(self, stage: str) -> list[str]:
        return sorted(name for name, _ in self._objects.list(f"manifests/{_checked(stage)}/"))

    def _compacted(self, stage: str, read: set[str]) -> Iterator[Marker]:
        """Yield the markers of the manifests not in `read`, and add those to it."""
        for name in self._manifests(stage):
            if name not in read:
                read.add(name)
                for line in (self._objects.get(name) or b"").splitlines():
                    yield _decode(line, f"{self.location}/{name}")

    def _read(self, name: str) -> dict[str, Any] | None:
        body = self._objects.get(name)
        return None if body is None else _decode(body, f"{self.location}/{name}")

    def _read_many(self, names: list[str]) -> Iterator[dict[str, Any] | None]:
        if len(names) < _THREADS:
            yield from map(self._read, names)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(names), MARKERS_PER_MANIFEST):  # bounds what is held in memory
                yield from pool.map(self._read, names[start : start + MARKERS_PER_MANIFEST])


def _checked(stage: str) -> str:
    if not _STAGE.fullmatch(stage) or stage in _RESERVED:
        raise ConfigError(
            f"{stage!r} is no name for a stage: small letters, digits, - and _; not {sorted(_RESERVED)}"
        )
    return stage


def _essence(marker: Mapping[str, Any] | None) -> Any:
    """What two markers of the same work have in common: not timings, worker or time."""
    if marker is None:
        return None
    said = {name: marker.get(name) for name in ("status", "shards")}
    return json.loads(_encode(said))


def _differences(other: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    """Name what two jobs disagree on, down to single settings."""
    names = [name for name in ("stage", "task") if other.get(name) != job.get(name)]
    for part in ("settings", "inputs"):
        here, there = job.get(part) or {}, other.get(part) or {}
        names += [f"{part}.{name}" for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "digests"


def _encode(value: Mapping[str, Any]) -> bytes:
    """One line of JSON; numpy becomes numbers and lists, NaN stays NaN, which Python reads."""
    return json.dumps(value, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in a ledger: {value!r}")


def _decode(body: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise StorageError(f"{where} is damaged ({error}): delete it and resume the job") from error
    if not isinstance(found, dict):
        raise StorageError(
            f"{where} holds {type(found).__name__}, expected an object: delete it and resume the job"
        )
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
