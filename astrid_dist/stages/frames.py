"""Which frames an ingest takes, and where each goes: files, duplicates, fields, grids."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.formats.files import SUFFIXES, files_behind, is_pattern
from astrid_dist.formats.fits import FrameProbe, probe, read_wcs
from astrid_dist.imaging.resampling import Grid, overlap
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, checked_attributes, group_names
from astrid_dist.surveys.profile import Profile

#: Part of the grid, or of the frame, that must lie on the other.
LEAST_OVERLAP = 0.1
#: Frames that choose the grid of a new field; of more, so many evenly spread in time.
_VOTERS = 1000
#: Files, or groups of a survey, that are looked into at once.
_THREADS = 8


@dataclass
class Stored:
    """What a survey holds already: the grid of each field, epochs of each group, all epoch ids."""

    grids: dict[str, Grid] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    quarantined: set[str] = field(default_factory=set)

    def known(self, retry: bool) -> dict[str, str]:
        """Ids that are not taken again, and where each is; with `retry` those quarantined are left out."""
        return {one: where for one, where in self.ids.items() if not (retry and one in self.quarantined)}


def read_stored(location: Location) -> Stored:
    """Fields, counts and epoch ids of a survey; empty where there is none yet."""
    stored = Stored()
    if not location.objects().exists("zarr.json"):
        return stored
    checked_attributes(location, "survey")

    def look(group: str) -> tuple[str, Grid, list[str], list[bool]]:
        reader = ProductReader(location, group)
        sizes, count = reader.sizes("image"), slice(0, reader.epochs)
        grid = Grid(str(reader.attributes.get("wcs", "")), sizes["y"], sizes["x"])
        ids = [str(one) for one in reader.read("epoch_id", epoch=count)]
        return group, grid, ids, [bool(one) for one in reader.read("valid", epoch=count)]

    with ThreadPoolExecutor(_THREADS) as pool:
        for group, grid, ids, valid in pool.map(look, list(group_names(location))):
            stored.grids.setdefault(group.split("/")[0], grid)
            stored.epochs[group] = len(ids)
            for index, (one, good) in enumerate(zip(ids, valid, strict=True)):
                if good or one not in stored.ids:
                    quarantined = "" if good else " (quarantined; --retry tries it again)"
                    stored.ids[one] = f"{group} epoch {index}{quarantined}"
                    (stored.quarantined.discard if good else stored.quarantined.add)(one)
    return stored


def expand(paths: Iterable[str], profile: Profile) -> list[str]:
    """Image files behind paths, folders, patterns and URLs, sorted; weight and quality files left out.

    Raises
    ------
    ConfigError
        A path or pattern stands for nothing.
    """
    found: dict[str, None] = {}
    for path in paths:
        files = list(files_behind(path, SUFFIXES))
        names = sorted(name for name in files if not profile.is_companion(name.rpartition("/")[2]))
        if not names:
            raise ConfigError(f"{path!r} stands for no FITS image: {_why_none(path, len(files), profile)}")
        found.update(dict.fromkeys(names))
    return sorted(found)


def _why_none(path: str, companions: int, profile: Profile) -> str:
    local = os.path.abspath(path.removeprefix("file://"))
    if companions:
        return f"by their names its files are weight or quality planes to the profile {profile.name}"
    if "://" not in path.removeprefix("file://") and not is_pattern(path) and not os.path.exists(local):
        return f"{local} does not exist; check the path"
    return f"nothing there ends in {', '.join(SUFFIXES)}; check the path"


@dataclass(frozen=True)
class Refused:
    """A frame that cannot become an epoch, and why."""

    source: str
    hdu: int
    reason: str

    @property
    def group(self) -> str:
        """Where its marker goes; the same frame with the same fault goes to the same place."""
        said = f"{self.source}[{self.hdu}] {self.reason}"
        return f"refused/{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def probe_all(files: Iterable[str], profile: Profile) -> tuple[list[FrameProbe], list[Refused]]:
    """Look into many files at once; frames in order of time and name."""

    def look(name: str) -> list[FrameProbe] | Refused:
        try:
            return probe(name, profile)
        except InputError as error:
            return Refused(name, -1, str(error))

    frames: list[FrameProbe] = []
    refused: list[Refused] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(look, files):
            if isinstance(found, Refused):
                refused.append(found)
                continue
            frames += [one for one in found if not one.problem]
            refused += [Refused(one.source, one.hdu, one.problem) for one in found if one.problem]
    frames.sort(key=lambda one: (_mjd(one), one.source, one.hdu))
    return frames, refused


def without_duplicates(
    frames: Iterable[FrameProbe], stored: Mapping[str, str]
) -> tuple[list[FrameProbe], list[str]]:
    """Frames whose pixels are new, and a line on each that is not."""
    seen, fresh, told = dict(stored), [], []
    for one in frames:
        where = f"{one.source}[{one.hdu}]"
        if one.epoch_id in seen:
            told.append(f"{where} has the pixels of {seen[one.epoch_id]}")
        else:
            seen[one.epoch_id] = where
            fresh.append(one)
    return fresh, told


def given_grid(path: str | None, profile: Profile) -> FrameProbe | None:
    """The frame whose grid is asked for, as `FILE` or `FILE[extension]`."""
    if path is None:
        return None
    match = re.fullmatch(r"(.*)\[(\d+)\]", path)
    name, hdu = (match.group(1), int(match.group(2))) if match else (path, None)
    try:
        frames = probe(name, profile)
    except InputError as error:
        raise ConfigError(f"grid {path!r} cannot be taken: {error}") from error
    found = [one for one in frames if hdu is None or one.hdu == hdu]
    if not found:
        raise ConfigError(
            f"grid {path!r}: there is no image at that index; images are {[f.hdu for f in frames]}"
        )
    return found[0]


def band_of(frame: FrameProbe, wanted: str | None, profile: Profile) -> str:
    """Band that a frame goes to; `InputError` where it has none, or another than the job takes."""
    said = frame.facts.band if frame.facts is not None else ""
    if not (said or wanted):
        raise InputError(
            f"{frame.source}[{frame.hdu}]: no band in the header that the profile {profile.name} knows: "
            f"looked for {', '.join(profile.keywords.band) or 'no keyword'}; give --band, or a keyword in a "
            f"profile that `extends: {profile.origin}`"
        )
    if wanted and said and said != wanted:
        raise InputError(
            f"{frame.source}[{frame.hdu}]: wrong band: the header says {said}, the job takes {wanted}; "
            f"ingest it with --band {said}, or without --band"
        )
    return wanted or said


class FieldChooser:
    """Gives each frame its field, and each new field its grid.

    A grid that is not given is that of the frame that founds a field by its place, or, in a field that is
    known by name, of the first of the frames that agree with most others.

    Parameters
    ----------
    stored : mapping of str to Grid
        Grids of the fields there are.
    name : str or None
        The field that every frame goes to.
    grid : FrameProbe or None
        The frame whose grid is taken; without a name, every frame goes to its field.
    """

    def __init__(self, stored: Mapping[str, Grid], name: str | None, grid: FrameProbe | None) -> None:
        self.grids = dict(stored)
        self.new: dict[str, Grid] = {}
        self.founders: dict[str, FrameProbe] = {}
        self._agreed: dict[str, FrameProbe] = {}
        self._given = grid
        self._places = {one: place_of(found) for one, found in self.grids.items()}
        self._name = name or (self._own_name(grid) if grid is not None else None)

    def choose(self, frame: FrameProbe) -> str:
        """Field of a frame: the one given, its detector's, the one it overlaps most, or a new one."""
        name = self._name or self._own_name(frame)
        if name not in self.grids:
            founder = self.founders[name] = self._given or self._agreed.get(name, frame)
            self.grids[name] = self.new[name] = grid = _grid(founder)
            self._places[name] = place_of(grid)
        return name

    def look_over(self, frames: Iterable[FrameProbe]) -> None:
        """Find, in order of time, the frame that is to found each field known by name: no stray one."""
        named = defaultdict(list)
        for frame in frames:
            named[self._name or _detector(frame)].append(frame)
        named.pop("", None)
        if self._given is None:
            self._agreed = {
                name: _most_agreed(members) for name, members in named.items() if name not in self.grids
            }

    def _own_name(self, frame: FrameProbe) -> str:
        if detector := _detector(frame):
            return detector
        place = place_of(_grid(frame))
        if place is None:
            return f"field{frame.order}"
        best, share = "", LEAST_OVERLAP
        for name, other in self._places.items():
            if other is not None and _near(place, other):
                covered = mutual_overlap(frame, self.grids[name])
                if covered >= share and (covered > share or not best):
                    best, share = name, covered
        ra, dec, _ = place
        return best or f"f{ra:07.3f}{dec:+07.3f}"


def _detector(frame: FrameProbe) -> str:
    return frame.facts.ccd if frame.facts is not None else ""


def _most_agreed(frames: Sequence[FrameProbe]) -> FrameProbe:
    """First of the frames that lie near most others at a like scale; without sky, of the commonest shape."""
    voters = frames[:: -(-len(frames) // _VOTERS)]
    placed = [(one, place) for one in voters if (place := place_of(_grid(one))) is not None]
    if not placed:
        shape = Counter(one.shape for one in voters).most_common(1)[0][0]
        return next(one for one in voters if one.shape == shape)
    ra, dec, radius = np.transpose([place for _, place in placed])

    def agreeing(place: tuple[float, float, float]) -> int:
        alike = (radius < 2 * place[2]) & (place[2] < 2 * radius)
        return int(np.count_nonzero(alike & _near(place, (ra, dec, radius))))

    return max(placed, key=lambda one: agreeing(one[1]))[0]


def mutual_overlap(frame: FrameProbe, grid: Grid) -> float:
    """Part of the grid that a frame covers, or of the frame that lies on it, whichever is larger."""
    wcs = read_wcs(frame.wcs_header)
    here = overlap(wcs, frame.shape, grid)
    return (
        max(here, overlap(grid.wcs, grid.shape, _grid(frame)))
        if wcs is not None and grid.wcs is not None
        else here
    )


def _grid(frame: FrameProbe) -> Grid:
    return Grid(frame.wcs_header, *frame.shape)


def _mjd(frame: FrameProbe) -> float:
    return frame.facts.mjd if frame.facts is not None else float("inf")


def place_of(grid: Grid) -> tuple[float, float, float] | None:
    """Centre (degrees) and half diagonal (degrees) of a grid, None without sky coordinates."""
    if grid.wcs is None:
        return None
    ra, dec = grid.wcs.pixel_to_world_values((grid.width - 1) / 2, (grid.height - 1) / 2)
    radius = 0.5 * np.hypot(grid.height, grid.width) * grid.pixel_scale_arcsec / 3600
    return float(ra) % 360, float(dec), float(radius)


def _near(a: ArrayLike, b: ArrayLike) -> NDArray[np.bool_]:
    """Whether the circles around two places, or a place and arrays of places, touch."""
    (ra_a, dec_a, radius_a), (ra_b, dec_b, radius_b) = np.radians(a), np.radians(b)
    sine = np.sin((dec_a - dec_b) / 2) ** 2 + np.cos(dec_a) * np.cos(dec_b) * np.sin((ra_a - ra_b) / 2) ** 2
    return np.asarray(2 * np.arcsin(np.sqrt(np.minimum(sine, 1.0))) < radius_a + radius_b)
