"""The samples of a run: groups of one or more products, and what describes their samples, read whole."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.store.layouts import close
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, checked_attributes, group_names
from astrid_dist.store.sample_layout import PLANES
from astrid_dist.taxonomy import CLASSES

Column = NDArray[Any]

#: Columns by sample, and by sample and visit. All but the stamps that training needs: some 70 bytes a visit.
PER_SAMPLE = ("class", "kind", "origin", "label", "weight", "injectable")
PER_VISIT = (
    "offset_x",
    "offset_y",
    "flux",
    "snr",
    "peak",
    "band",
    "mjd",
    "sigma_n",
    "sigma_r",
    "sigma_d",
    "fwhm_n",
    "fwhm_r",
    "flux_ratio",
)


@dataclass(frozen=True)
class Group:
    """One ``<survey>/<split>`` group, as rows of a catalogue."""

    location: Location
    name: str
    survey: str
    bands: tuple[str, ...]
    planes: tuple[str, ...]
    samples: int
    visits: int
    side: int
    """Rows and columns of a stamp."""
    shard: int
    """Samples in a shard."""
    digest: str
    """Of the job that made the product: its inputs and settings."""

    def __str__(self) -> str:
        return f"{self.location}#{self.name}"

    @property
    def shards(self) -> int:
        """How many shards it has; the last may be partial."""
        return -(-self.samples // self.shard)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All samples of a run in one numbering: row 0 is the first sample of the first group.

    It is data without connections, and travels to other processes.
    """

    groups: tuple[Group, ...]
    columns: dict[str, Column]
    """(row,) of `PER_SAMPLE` and ``survey``; (row, visit) of `PER_VISIT` and ``seen``. ``survey`` and
    ``band`` are places in the lists below plus one, 0 where they are not listed."""
    surveys: tuple[str, ...]
    bands: tuple[str, ...]
    """``survey/band``."""
    shard: NDArray[np.int64]
    """(row,) number of the shard, counted through all groups."""

    @classmethod
    def open(
        cls,
        sources: str | Iterable[str],
        surveys: Sequence[str] | None = None,
        bands: Sequence[str] | None = None,
    ) -> "Catalogue":
        """Open groups and read what describes their samples.

        Parameters
        ----------
        sources : str or iterable of str
            ``<url>#<survey>/<split>``, each.
        surveys, bands : sequence of str, optional
            The lists of a model that is trained on or applied; by default what there is, sorted.

        Raises
        ------
        ConfigError
            No such product or group, another kind of product, another layout version.
        IncompleteProductError
            A product that is not finished.
        InputError
            Groups without samples, a plane that nobody knows, stamps of different size, usable samples
            without a label or a class.
        """
        named = [sources] if isinstance(sources, str) else list(sources)
        if not named:
            raise InputError("no samples are named: give <url>#<survey>/<split>")
        if twice := sorted({one for one in named if named.count(one) > 1}):
            raise InputError(f"samples {twice} are named twice")
        groups = tuple(_group(source) for source in named)
        if len(sides := {one.side for one in groups}) > 1:
            sizes = ", ".join(f"{one} has {one.side} px" for one in groups)
            raise InputError(
                f"stamps of {sorted(sides)} px cannot be in one batch: {sizes}; train on one size"
            )
        known_surveys = tuple(surveys if surveys is not None else sorted({one.survey for one in groups}))
        there = sorted({f"{one.survey}/{band}" for one in groups for band in one.bands})
        known_bands = tuple(bands if bands is not None else there)
        visits = max(one.visits for one in groups)
        parts = [_columns(one, visits, known_surveys, known_bands) for one in groups]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        first = np.cumsum([0, *(one.shards for one in groups)])
        shard = np.concatenate(
            [start + np.arange(one.samples) // one.shard for start, one in zip(first, groups, strict=False)]
        )
        return cls(groups, columns, known_surveys, known_bands, shard)

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def visits(self) -> int:
        """Most visits of a sample."""
        return int(self.columns["seen"].shape[1])

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(row,) what can be trained on: it could be put in, and has weight."""
        return np.asarray(self.columns["injectable"] & (self.columns["weight"] > 0))

    @property
    def strength(self) -> NDArray[np.float32]:
        """(row, visit) |true signal to noise|, where nothing was put in |S_corr| of its peak; NaN unknown."""
        snr, peak = (np.abs(self.columns[name]) for name in ("snr", "peak"))
        return np.where(np.isnan(snr), peak, snr)

    def place(self, shard: int) -> tuple[int, int, int]:
        """Group of a shard, its first row within the group, and that row in the catalogue."""
        row = 0
        for number, group in enumerate(self.groups):
            if shard < group.shards:
                return number, shard * group.shard, row + shard * group.shard
            shard, row = shard - group.shards, row + group.samples
        raise IndexError(f"shard {shard} is beyond the last")


def _group(source: str) -> Group:
    url, mark, name = source.rpartition("#")
    if not mark or name.count("/") != 1:
        raise InputError(f"samples {source!r}: name a group, <url>#<survey>/<split>")
    location = Location.parse(url)
    header = checked_attributes(location, "samples")["astrid"]
    there = list(group_names(location))
    if name not in there:
        raise InputError(f"{location} has no group {name!r}{close(name, there)}")
    reader = ProductReader(location, name)
    said = reader.attributes
    sizes, planes = reader.sizes("pixels"), tuple(said["planes"])
    if unknown := sorted(set(planes) - set(PLANES)):
        raise InputError(f"{source} has planes {unknown} that nobody knows; there are {', '.join(PLANES)}")
    if "difference" not in planes:
        raise InputError(f"{source} has the planes {', '.join(planes)}: samples need at least a difference")
    if not sizes["sample"]:
        raise InputError(f"{source} has no samples: make some, or leave it out")
    if sizes["v"] != sizes["u"]:
        raise InputError(f"{source} has stamps of {sizes['v']} x {sizes['u']} px: they must be square")
    shard = reader.array("pixels").shards or reader.array("pixels").chunks
    return Group(
        location,
        name,
        str(said["survey"]),
        tuple(said["bands"]),
        planes,
        sizes["sample"],
        sizes["visit"],
        sizes["v"],
        int(shard[0]),
        str(header["digest"]),
    )


def _columns(group: Group, visits: int, surveys: Sequence[str], bands: Sequence[str]) -> dict[str, Column]:
    """Columns of one group; visits it lacks repeat its last one, and are not seen.

    What moves is in the stamps of some visits and thousands of pixels away in others: there its place, flux
    and SNR are not known, as nothing in the stamp tells of them.
    """
    reader = ProductReader(group.location, group.name)
    names = (*PER_SAMPLE, *PER_VISIT)
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(names, pool.map(reader.read, names), strict=True))
    seen = np.zeros((group.samples, visits), bool)
    seen[:, : group.visits] = True
    places = [f"{group.survey}/{band}" for band in group.bands]
    codes = np.array([bands.index(one) + 1 if one in bands else 0 for one in places] + [0])
    stored = found["band"].astype(np.int64)
    _check(group, found)
    away = np.maximum(np.abs(found["offset_x"]), np.abs(found["offset_y"])) > group.side / 2
    for name in ("offset_x", "offset_y", "flux", "snr", "peak"):
        found[name] = np.where(away, np.float32(np.nan), found[name])
    found["band"] = codes[np.where((stored >= 0) & (stored < len(places)), stored, len(places))]
    for name in PER_VISIT:
        found[name] = np.pad(found[name], [(0, 0), (0, visits - group.visits)], mode="edge")
    place = surveys.index(group.survey) + 1 if group.survey in surveys else 0
    return {**found, "seen": seen, "survey": np.full(group.samples, place, np.int64)}


def _check(group: Group, found: dict[str, Column]) -> None:
    """Labels and classes of what has weight must be known: a NaN would spoil its whole batch."""
    usable = found["injectable"] & (found["weight"] > 0)
    label, code = found["label"], found["class"]
    for name, wrong, right in (
        ("label", ~((label >= 0) & (label <= 1)), "from 0, bogus, to 1, real"),
        ("class", (code < 0) | (code >= len(CLASSES)), f"one of the {len(CLASSES)} classes"),
    ):
        if some := int((wrong & usable).sum()):
            worst = found[name][np.flatnonzero(wrong & usable)[0]]
            raise InputError(
                f"{group}: the {name} of {some} samples is not {right}, but {worst}: mend it, or give those"
                " samples weight 0"
            )
