"""Re-reading a product and comparing it with what its tasks said they wrote."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import AstridError, StorageError
from astrid_dist.store import layouts
from astrid_dist.store.ledger import Ledger, finalise_stage
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import group_names
from astrid_dist.store.shards import StoredArray, stored_arrays
from astrid_dist.store.templates import METADATA, read_document, root_attributes, shard_grid
from astrid_dist.store.writing import cast_values, digest_values

#: Shards handed to the threads at a time.
_BATCH = 256
#: A key that names an epoch: group, epoch, and maybe a shard of it.
_EPOCH_KEY = re.compile(r"(?P<group>.+)/e(?P<epoch>\d+)(/y\d+x\d+)?")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written."""

    key: str
    """Key of the task that wrote it: `astrid why KEY` tells more."""
    variable: str
    """``<group>/<variable>``."""
    what: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return f"{self.key or 'product'} {self.variable}: {self.what}"


@dataclass(frozen=True)
class VerifyReport:
    """What was re-read and what was found."""

    checked: int
    """Regions whose values were compared."""
    bytes: int
    """Decoded bytes read."""
    problems: tuple[Problem, ...]
    """Everything that is wrong; empty for a sound product."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class _Claim:
    """One region that a marker says was written."""

    key: str
    name: str
    region: tuple[tuple[int, int], ...]
    sha256: str


def verify(url: str | os.PathLike[str] | Location, *, threads: int = 4) -> VerifyReport:
    """Re-hash every shard of a product against its ledger, and compare its scalars.

    Parameters
    ----------
    url : str, path or Location
        The product; its ledger lies beside it.
    threads : int
        Shards read at a time; each needs the memory of one decoded shard.

    Returns
    -------
    VerifyReport
        Damaged, missing and changed shards, arrays shorter than what is committed, scalars that differ from
        those measured, and valid epochs that nobody wrote.

    Raises
    ------
    ConfigError, StorageError
        If there is no such product, or it does not answer.
    """
    location = Location.parse(url)
    attributes = root_attributes(location)
    kind = attributes["astrid"]["product"]
    if kind in layouts.TABLES:
        return _Verification(location, kind).table(attributes, threads)
    return _Verification(location, kind).groups(threads)


class _Verification:
    """One pass over a product."""

    def __init__(self, location: Location, kind: str) -> None:
        self.location = location
        self.kind = kind
        self.problems: list[Problem] = []
        self.checked = 0
        self.bytes = 0
        self.written: dict[str, set[int]] = defaultdict(set)
        self.differing: dict[tuple[str, int, str], list[tuple[str, Any]]] = defaultdict(list)
        self.array = lru_cache(maxsize=4096)(self._array)
        self.scalars = lru_cache(maxsize=1024)(self._scalars)

    def table(self, attributes: Mapping[str, Any], threads: int) -> VerifyReport:
        """Compare the columns of a table with the digests at its root."""
        self._compare(
            (_Claim("", name, (), sha256) for name, sha256 in attributes.get("sha256", {}).items()), threads
        )
        return self._report()

    def groups(self, threads: int) -> VerifyReport:
        """Compare all shards with the markers, then the scalars."""
        ledger = Ledger(self.location)
        stages = sorted({str(job["stage"]) for job in ledger.jobs()})
        if not stages:
            self._problem("", "", f"there is no ledger at {ledger.location}: nothing to compare with")
        for stage in stages:
            for name in (stage, finalise_stage(stage)):
                self._compare(self._claims(ledger.markers(name)), threads)
        self._report_scalars()
        for group in group_names(self.location):
            self._check_group(group)
        return self._report()

    def _report(self) -> VerifyReport:
        return VerifyReport(self.checked, self.bytes, tuple(self.problems))

    def _problem(self, key: str, variable: str, what: str) -> None:
        self.problems.append(Problem(key, variable, what))

    def _claims(self, markers: Iterator[dict[str, Any]]) -> Iterator[_Claim]:
        """The regions of the markers; their scalars are compared on the way."""
        for marker in markers:
            key = str(marker["key"])
            if found := _EPOCH_KEY.fullmatch(key):
                group, epoch = found["group"], int(found["epoch"])
                self.written[group].add(epoch)
                self._compare_scalars(key, group, epoch, marker.get("scalars") or {})
            for name, shard in (marker.get("shards") or {}).items():
                region = tuple((int(start), int(stop)) for start, stop in shard["region"])
                yield _Claim(key, name, region, shard["sha256"])

    def _compare(self, claims: Iterator[_Claim], threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            while batch := list(islice(claims, _BATCH)):
                for claim, (size, what) in zip(batch, pool.map(self._check, batch), strict=True):
                    self.checked += 1
                    self.bytes += size
                    if what:
                        self._problem(claim.key, claim.name, what)

    def _check(self, claim: _Claim) -> tuple[int, str]:
        """Bytes read of a region, and what is wrong with it, if anything."""
        try:
            array = self.array(claim.name)
            region = claim.region or tuple((0, size) for size in array.shape)
            if any(stop > size for (_, stop), size in zip(region, array.shape, strict=True)):
                return 0, f"the array has shape {array.shape}, {_spell(region)} was written"
            missing = [
                name for name in _shard_names(array, region) if not self.location.objects().exists(name)
            ]
            if missing:
                return 0, f"missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            values = array[tuple(slice(start, stop) for start, stop in region)]
        except AstridError as error:
            return 0, str(error)
        if (found := digest_values(values)) != claim.sha256:
            return values.nbytes, (
                f"{_spell(region)} holds other values than were written: sha256 {found[:12]}, not"
                f" {claim.sha256[:12]}"
            )
        return values.nbytes, ""

    def _array(self, name: str) -> StoredArray:
        group, _, variable = name.rpartition("/")
        return stored_arrays(self.location, group, [layouts.variable(self.kind, variable)])[0][1]

    def _scalars(self, group: str) -> dict[str, NDArray[Any]]:
        """Committed scalars of a group; those that cannot be read are reported once and left out."""
        found: dict[str, NDArray[Any]] = {}
        count = int(read_document(self.location, f"{group}/{METADATA}")["attributes"].get("epochs", 0))
        for variable in layouts.variables(self.kind).values():
            if variable.is_scalar:
                try:
                    found[variable.name] = stored_arrays(self.location, group, [variable], count)[0][1].read()
                except StorageError as error:
                    self._problem("", f"{group}/{variable.name}", str(error))
        return found

    def _compare_scalars(self, key: str, group: str, epoch: int, measured: Mapping[str, Any]) -> None:
        """Note the scalars of one task that are not what is committed."""
        try:
            committed = self.scalars(group)
        except StorageError as error:
            self._problem(key, group, str(error))
            return
        for name, value in measured.items():
            if name in committed and epoch < len(committed[name]):
                variable = layouts.variable(self.kind, name)
                if name == "time" and isinstance(value, str):
                    value = np.datetime64(value, "us")
                wanted = cast_values(np.array([value]), variable, f"{group}/{name}")[0]
                there = committed[name][epoch]
                if wanted != there and not (_is_nan(wanted) and _is_nan(there)):
                    self.differing[group, epoch, name].append((key, wanted))

    def _report_scalars(self) -> None:
        """Report scalars on which all tasks of an epoch agree and the committed array does not.

        Where the shards of an epoch measured different values, what is committed is made of them all.
        """
        for (group, epoch, name), noted in self.differing.items():
            values = {str(value) for _, value in noted}
            if len(values) == 1 and len(noted) == self._tasks_per_epoch(group):
                there = self.scalars(group)[name][epoch]
                self._problem(
                    noted[0][0],
                    f"{group}/{name}",
                    f"epoch {epoch} has {there!s}, {values.pop()} was measured",
                )

    def _tasks_per_epoch(self, group: str) -> int:
        if self.kind == "survey":  # an exposure is ingested whole
            return 1
        image = next(one for one in layouts.variables(self.kind).values() if one.is_image)
        shape = dict(zip(image.dims, self.array(f"{group}/{image.name}").shape, strict=True))
        return math.prod(shard_grid(shape, self.kind))

    def _check_group(self, group: str) -> None:
        """Look for arrays that are missing or short, and valid epochs that no marker speaks of."""
        try:
            count = read_document(self.location, f"{group}/{METADATA}")["attributes"].get("epochs")
        except StorageError as error:
            self._problem("", group, str(error))
            return
        for variable in layouts.variables(self.kind).values():
            try:
                stored_arrays(self.location, group, [variable], count)
            except StorageError as error:
                if not variable.is_scalar:  # scalars were reported when they were read
                    self._problem("", f"{group}/{variable.name}", str(error))
        if count is not None:
            valid = self.scalars(group).get("valid", np.zeros(0, bool))
            for epoch in sorted(set(np.flatnonzero(valid).tolist()) - self.written[group]):
                self._problem("", group, f"epoch {epoch} is valid, but no marker says that it was written")


def _shard_names(array: StoredArray, region: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of the objects that hold a region."""
    ranges = [range(a // unit, -(-b // unit)) for (a, b), unit in zip(region, array.units, strict=True)]
    for place in product(*ranges):
        yield "/".join([array.path, "c", *map(str, place)])


def _spell(region: tuple[tuple[int, int], ...]) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in region) + "]"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
