"""The stars by which a field's frames are aligned where there is no WCS.

They are those of the frame whose grid it is, or of the field's first valid epoch. They are measured once, as
the first job is prepared that needs them, and kept in the attributes of the field's group, so that every
later ingest aligns to the same grid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from astrid_dist.errors import InputError, StorageError
from astrid_dist.formats.files import is_transient
from astrid_dist.formats.fits import Frame, read_frame
from astrid_dist.imaging.alignment import LEAST_STARS, align_stars
from astrid_dist.imaging.stars import StarList
from astrid_dist.stages.sky import guessed_fwhm, measure_sky
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, group_names
from astrid_dist.store.templates import encode_document, read_document
from astrid_dist.surveys.profile import Profile

#: Stars of a field that frames are aligned by.
_KEPT = 300
#: Frames that a founder has to agree with, of at most so many that are looked at.
_AGREEING, _VOTERS = 2, 8
_COLUMNS = {"x": "f8", "y": "f8", "flux": "f4", "flux_err": "f4", "flags": "u2"}


@dataclass(frozen=True)
class FieldStars:
    """Stars of a field in the pixels of its grid, and the exposure that they were measured on."""

    epoch_id: str
    stars: StarList


def settle_stars(
    location: Location,
    field: str,
    shape: tuple[int, int],
    places: Sequence[tuple[str, int]],
    profile: Profile,
) -> None:
    """See that a field has stars, where its epochs or the frames show any.

    Parameters
    ----------
    location : Location
        Root of the survey.
    field : str
    shape : (height, width)
        Of the field's grid.
    places : sequence of (str, int)
        Files and extensions of the frames whose own pixels may be the grid, the likeliest first.
    profile : Profile
    """
    kept = kept_stars(location, field)
    if kept is not None and len(kept.stars) >= LEAST_STARS:
        return
    found = _first_stored(location, field) or choose_founder(_readable(places, profile), shape, profile)
    if found is not None:
        keep_stars(location, field, found)


def _readable(places: Sequence[tuple[str, int]], profile: Profile) -> Iterator[Frame]:
    """The first place and others evenly spread, as far as they can be read; tasks say what is wrong."""
    for source, hdu in [*places[:1], *places[1 :: max(1, len(places) // _VOTERS)]][:_VOTERS]:
        try:
            yield read_frame(source, hdu, profile)
        except InputError as error:
            if is_transient(error):  # or the field's grid would hang on the weather between servers
                raise StorageError(str(error)) from error


def choose_founder(frames: Iterable[Frame], shape: tuple[int, int], profile: Profile) -> FieldStars | None:
    """Stars of the first frame of this shape that aligns with two others, else of that which does with most.

    Parameters
    ----------
    frames : iterable of Frame
        Looked at one after the other, until one is found.
    shape : (height, width)
        Of the field's grid.
    profile : Profile
    """
    seen: list[FieldStars] = []
    agreeing: list[int] = []
    for frame in frames:
        if frame.image.shape != shape:
            continue
        sky = measure_sky(frame, frame.image, frame.variance, frame.mask, guessed_fwhm(profile))
        new = 0
        for index, other in enumerate(seen):
            try:
                align_stars(sky.stars, other.stars, shape)
            except InputError:
                continue
            agreeing[index] += 1
            new += 1
        brightest = {name: getattr(sky.stars, name)[:_KEPT] for name in _COLUMNS}
        seen.append(FieldStars(frame.epoch_id, _star_list(brightest, sky.fwhm_px)))
        agreeing.append(new)
        if max(agreeing) >= _AGREEING:
            break
    if not seen:
        return None
    return max(zip(agreeing, seen, strict=True), key=lambda one: one[0])[1]


def _first_stored(location: Location, field: str) -> FieldStars | None:
    """Star list of the first valid epoch of a field that has enough, in the pixels of its grid."""
    first: FieldStars | None = None
    for group in (one for one in group_names(location) if one.rpartition("/")[0] == field):
        reader = ProductReader(location, group)
        committed = slice(0, reader.epochs)
        valid, n_stars = (reader.read(name, epoch=committed) for name in ("valid", "n_stars"))
        usable = np.flatnonzero(valid & (n_stars >= LEAST_STARS))
        for epoch in [*usable[:1].tolist(), *np.flatnonzero(valid)[:1].tolist()][:1]:
            columns = {name: reader.read(f"star_{name}", epoch=epoch) for name in _COLUMNS}
            known = np.flatnonzero(np.isfinite(columns["x"]))[:_KEPT]
            brightest = {name: column[known] for name, column in columns.items()}
            stars = _star_list(brightest, reader.read("fwhm", epoch=epoch))
            first = first or FieldStars(str(reader.read("epoch_id", epoch=epoch)), stars)
            if len(stars) >= LEAST_STARS:
                return FieldStars(str(reader.read("epoch_id", epoch=epoch)), stars)
    return first


def _star_list(columns: Mapping[str, Any], fwhm_px: Any) -> StarList:
    arrays = {name: np.array(columns[name], kind) for name, kind in _COLUMNS.items()}
    return StarList(**arrays, fwhm_px=float(fwhm_px))


def keep_stars(location: Location, field: str, found: FieldStars) -> None:
    """Write the stars of a field into the attributes of its group."""
    name = f"{field}/zarr.json"
    document = read_document(location, name)
    packed: dict[str, Any] = {"epoch_id": found.epoch_id, "fwhm_px": found.stars.fwhm_px}
    for column in _COLUMNS:
        values = getattr(found.stars, column)
        packed[column] = [round(float(one), 4) if values.dtype.kind == "f" else int(one) for one in values]
    document["attributes"]["stars"] = packed
    location.objects().put(name, encode_document(document))


def kept_stars(location: Location, field: str) -> FieldStars | None:
    """The stars that `keep_stars` wrote, None where none were."""
    packed = read_document(location, f"{field}/zarr.json")["attributes"].get("stars")
    if packed is None:
        return None
    return FieldStars(packed["epoch_id"], _star_list(packed, packed["fwhm_px"]))
