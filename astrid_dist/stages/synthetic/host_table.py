"""Which tiles of which epochs samples are made from, and which side of every split each lies on.

A host is a tile of a field in one epoch, or in several for sequences of visits. Samples inherit the split of
their host. Tiles of one place are one sky cell in every band and epoch, since they share stars, galaxies and
references; epochs of one night share the air and the camera's faults.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.stages.synthetic.strata import largest_remainder, permuted
from astrid_dist.store.layouts import TILE

SplitBy = Literal["auto", "cell", "night", "both"]
Indices = NDArray[np.int64]

#: Epochs farther apart than this are of different nights, days.
NIGHT_GAP = 0.25
#: Hosts that each split must have left for ``auto`` to split by cell and night at once.
FEWEST_HOSTS = 4


@dataclass(frozen=True)
class FieldEpochs:
    """The epochs of one ``<field>/<band>`` group that hosts may be cut from."""

    group: str
    shape: tuple[int, int]
    """Height and width of the field, pixels."""
    indices: Indices
    """Of the epochs in the survey."""
    mjd: NDArray[np.float64]

    @property
    def field(self) -> str:
        """Name of the field."""
        return self.group.rpartition("/")[0]

    @property
    def band(self) -> str:
        """Name of the band."""
        return self.group.rpartition("/")[2]


@dataclass(frozen=True)
class HostTable:
    """n hosts of v visits each."""

    groups: tuple[str, ...]
    """Names that `group` counts."""
    group: Indices
    """(n, v)"""
    epoch: Indices
    """(n, v), in the survey."""
    mjd: NDArray[np.float64]
    """(n, v)"""
    row: Indices
    """(n,), of tiles of the field."""
    column: Indices
    cell: Indices
    night: Indices
    """(n,), of the first visit: day of the modified Julian date on which the night began."""

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "HostTable":
        """Some of the hosts."""
        return HostTable(
            self.groups,
            self.group[chosen],
            self.epoch[chosen],
            self.mjd[chosen],
            self.row[chosen],
            self.column[chosen],
            self.cell[chosen],
            self.night[chosen],
        )

    @property
    def bands(self) -> NDArray[np.object_]:
        """Band of each host's first visit."""
        names = np.array([name.rpartition("/")[2] for name in self.groups], object)
        return np.asarray(names[self.group[:, 0]])


def possible_hosts(fields: Sequence[FieldEpochs], visits: int, mix_bands: bool) -> HostTable:
    """Every host that a survey offers.

    Parameters
    ----------
    fields : sequence of FieldEpochs
        Groups with a reference; those of one field in several bands lie on one grid.
    visits : int
        Epochs of a host: runs of so many in order of time that do not overlap.
    mix_bands : bool
        Whether a run takes the epochs of all bands of a field.

    Raises
    ------
    ConfigError
        No group has so many epochs.
    """
    groups = tuple(one.group for one in fields)
    found: list[HostTable] = []
    for members in _together(fields, mix_bands):
        number = np.concatenate([np.full(len(fields[k].indices), k) for k in members])
        index = np.concatenate([fields[k].indices for k in members])
        mjd = np.concatenate([fields[k].mjd for k in members])
        order = np.argsort(mjd, kind="stable")
        runs = order[: len(order) // visits * visits].reshape(-1, visits)
        if not len(runs):
            continue
        night = nights_of(mjd)
        one = fields[members[0]]
        for y in range(-(-one.shape[0] // TILE)):
            for x in range(-(-one.shape[1] // TILE)):
                cell = zlib.crc32(f"{one.field}/{y}/{x}".encode())
                row, column, where = (np.full(len(runs), value, np.int64) for value in (y, x, cell))
                first = night[runs[:, 0]]
                found.append(
                    HostTable(groups, number[runs], index[runs], mjd[runs], row, column, where, first)
                )
    if not found:
        raise ConfigError(f"no field has {visits} epochs to make samples of {visits} visits from")
    return HostTable(
        groups,
        np.concatenate([one.group for one in found]),
        np.concatenate([one.epoch for one in found]),
        np.concatenate([one.mjd for one in found]),
        np.concatenate([one.row for one in found]),
        np.concatenate([one.column for one in found]),
        np.concatenate([one.cell for one in found]),
        np.concatenate([one.night for one in found]),
    )


def _together(fields: Sequence[FieldEpochs], mix_bands: bool) -> list[list[int]]:
    """Groups whose epochs may stand in one run."""
    if not mix_bands:
        return [[k] for k in range(len(fields))]
    found: dict[str, list[int]] = {}
    for k, one in enumerate(fields):
        found.setdefault(one.field, []).append(k)
    for members in found.values():
        if len({fields[k].shape for k in members}) > 1:
            names = ", ".join(fields[k].group for k in members)
            raise ConfigError(f"{names} lie on different grids: sequences cannot mix their bands")
    return list(found.values())


def nights_of(mjd: NDArray[np.float64]) -> Indices:
    """Night of each epoch: the day on which its first epoch was taken; a gap in time ends a night."""
    order = np.argsort(mjd, kind="stable")
    begins = np.diff(mjd[order], prepend=-np.inf) > NIGHT_GAP
    first = np.floor(mjd[order][begins]).astype(np.int64)
    night = np.empty(len(mjd), np.int64)
    night[order] = first[np.cumsum(begins) - 1]
    return night


def split_hosts(
    hosts: HostTable, fractions: Mapping[str, float], by: SplitBy, seed: int
) -> tuple[dict[str, Indices], str]:
    """Hosts of each split, and by what they were split.

    Cells (and nights) are dealt out in a random order until each split has its share of the hosts. Split by
    both, a host whose cell and night fall into different splits is left out.

    Raises
    ------
    ConfigError
        Too few cells or nights for the splits asked for.
    """
    names = [name for name, share in fractions.items() if share > 0]
    if not names or any(share < 0 for share in fractions.values()):
        raise ConfigError(f"splits={dict(fractions)}: give each split a share of 0 or more, one above 0")
    if len(names) == 1:
        return {names[0]: np.arange(len(hosts))}, "nothing, all are one split"
    shares = [fractions[name] for name in names]
    dealt = {
        what: _dealt(units, shares, stream(seed, f"split by {what}"))
        for what, units in (("cell", hosts.cell), ("night", hosts.night))
    }
    ways = {"auto": ("both", "cell", "night"), "both": ("both",)}.get(by, (by,))
    for way in ways:
        needed = ("cell", "night") if way == "both" else (way,)
        if any(dealt[what] is None for what in needed):
            continue
        sides = [dealt[what] for what in needed]
        same = sides[0] == sides[-1]
        found = {name: np.flatnonzero(same & (sides[0] == k)) for k, name in enumerate(names)}
        if way != "both" or min(len(one) for one in found.values()) >= (FEWEST_HOSTS if by == "auto" else 1):
            return found, "cell and night" if way == "both" else way
    cells, nights = len(np.unique(hosts.cell)), len(np.unique(hosts.night))
    raise ConfigError(
        f"{cells} sky cells (tiles) and {nights} nights cannot be split by {by} into {', '.join(names)}:"
        " give more fields or epochs, another split_by, or splits={train: 1}"
    )


def _dealt(units: Indices, shares: Sequence[float], key: np.uint64) -> Indices | None:
    """Split of each host, by cells or nights; None where those are fewer than the splits."""
    names, which, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(names) < len(shares):
        return None
    order = np.argsort(uniforms(key, names, 1)[:, 0], kind="stable")
    # Every split gets a unit, the rest go where most is missing.
    wanted = np.asarray(shares) / sum(shares) * len(units)
    side = np.empty(len(names), np.int64)
    held = np.zeros(len(shares))
    for position, unit in enumerate(order):
        left = len(order) - position
        empty = np.flatnonzero(held == 0)
        k = empty[0] if len(empty) >= left else int(np.argmax(wanted - held))
        side[unit] = k
        held[k] += sizes[unit]
    return np.asarray(side[which])


def hosts_of_groups(
    bands: NDArray[np.object_], hosts: Indices, number: int, shares: Mapping[str, float], seed: int, name: str
) -> Indices:
    """Host of each of `number` groups of samples.

    Bands are served in proportion to `shares` (evenly where there are none). Groups of one host follow each
    other, so that it is opened once; where hosts are more than groups, some are drawn.

    Raises
    ------
    ConfigError
        A band without a host.
    """
    there = sorted({str(band) for band in bands[hosts]})
    asked = dict(shares) or dict.fromkeys(there, 1.0)
    if missing := [band for band, share in asked.items() if share > 0 and band not in there]:
        raise ConfigError(
            f"bands: no host of {name} is of band {', '.join(missing)}; there are {', '.join(there)}"
        )
    found = []
    used = [band for band in there if asked.get(band, 0) > 0]
    quotas = largest_remainder([asked[band] for band in used], number)
    for band, quota in zip(used, quotas.tolist(), strict=True):
        own = hosts[bands[hosts] == band]
        if quota < len(own):
            order = permuted(np.arange(quota), len(own), stream(seed, f"hosts of {name}/{band}"))
            found.append(np.sort(own[order]))
        else:
            found.append(own[np.arange(quota) * len(own) // max(quota, 1)])
    return np.concatenate(found)
