"""What a model sees of a difference: the four planes of a window of an epoch, as samples have them.

Nothing is subtracted again: science and template are read from the survey and the reference that the
difference was made from, and divided by the noise of its tiles.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import AstridError, InputError
from astrid_dist.imaging.masks import source_free
from astrid_dist.stages.blocks import Planes, Window, field_shape, read_planes
from astrid_dist.stages.pair import LEAST_FWHM_PX, mended
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import PLANES
from astrid_dist.store.templates import product_header

Float32 = NDArray[np.float32]

#: Windows of references that a worker keeps, since the next epochs of a field need them again.
_TEMPLATES_KEPT = 2
#: Quiet pixels from which the noise of a tile can be told where only its rim is seen.
_ENOUGH = 500


def open_inputs(difference: Location, group: str) -> tuple[ProductReader, ProductReader]:
    """The survey and the reference that a difference was made from.

    Raises
    ------
    InputError
        One of them is gone, or is another product by now; says what to do.
    """
    inputs = product_header(difference)["inputs"]
    found = []
    for name in ("survey", "reference"):
        try:
            location = Location.parse(str(inputs[name]))
            header = product_header(location)
            if header["product"] != name:
                raise InputError(f"there is a {header['product']} now")
            if name == "reference" and header["digest"] != inputs.get("reference_digest", header["digest"]):
                raise InputError("there is another reference now")
            found.append(ProductReader(location, group))
        except (AstridError, KeyError, OSError) as error:
            raise InputError(
                f"a model needs the {name} that {difference} was made from, and {inputs.get(name)} cannot be "
                f"read: {error}. Put it back there, or make the difference again, or detect without a model"
            ) from error
    return found[0], found[1]


def model_planes(
    difference: ProductReader, index: int, window: Window, known: Mapping[str, Float32] | None = None
) -> Float32:
    """The planes of a window, (plane, y, x) float32 in noise sigmas; NaN where there is no data.

    Science and template are divided by the sky noise of each tile as it was subtracted, the difference by the
    robust noise of what of the tile lies in the window, sources left out. `known` are planes of the
    difference's window that were read already.

    Raises
    ------
    InputError
        The survey or the reference is gone, or no longer holds this epoch.
    """
    survey, reference = open_inputs(difference.location, difference.group)
    number = int(difference.read("survey_epoch", epoch=index))
    told = str(difference.read("epoch_id", epoch=index))
    if not 0 <= number < survey.epochs or str(survey.read("epoch_id", epoch=number)) != told:
        raise InputError(
            f"{difference.location}/{difference.group} epoch {index} ({told[:12]}) was epoch {number} of "
            f"{survey.location}, which holds another there now: make the difference again, or detect without "
            "a model"
        )
    fwhm = max(float(survey.read("fwhm", epoch=number)), LEAST_FWHM_PX)
    science = mended(read_planes(survey, window, epoch=number), fwhm)
    template = _template(reference.location, difference.group, window, _digest(reference.location))
    known = known or {}
    own = [
        known[name] if name in known else difference.read(name, epoch=index, **window.slices)
        for name in PLANES[2:]
    ]
    planes = np.stack([science.image, template.image, *own]).astype(np.float32, copy=False)
    fwhms = fwhm, max(float(reference.attributes["reference"]["fwhm"]), LEAST_FWHM_PX)
    _divide(planes, difference, index, window, fwhms)
    return planes


def _divide(
    planes: Float32, difference: ProductReader, index: int, window: Window, fwhms: tuple[float, float]
) -> None:
    """Divide science, template and difference by the noise of each tile."""
    rows, columns = (
        slice(first // TILE, -(-last // TILE))
        for first, last in ((window.y0, window.y1), (window.x0, window.x1))
    )
    place: dict[str, Any] = {"epoch": index, "tile_y": rows, "tile_x": columns}
    sigma_n, sigma_r = difference.read("sigma_n", **place), difference.read("sigma_r", **place)
    told: dict[tuple[int, int], float] = {}
    parts = list(_tiles(window, field_shape(difference, "score")))
    for at, part in parts:
        cut = (slice(None), *part.within(window))
        science, template, left, _ = planes[cut]
        noise = float(sigma_n[at]), float(sigma_r[at])
        quiet = np.isfinite(left)
        for image, sigma, fwhm in zip((science, template), noise, fwhms, strict=True):
            quiet &= source_free(image, sigma, fwhm)
        sound = left[quiet]
        if sound.size < _ENOUGH:
            sound = left[np.isfinite(left)]
        if sound.size:
            told[at] = 1.4826 * float(np.median(np.abs(sound[::2] - np.median(sound[::2]))))
    middle = float(np.median(list(told.values()))) if told else float("nan")
    for at, part in parts:
        scale = np.array([sigma_n[at], sigma_r[at], told.get(at, middle)], np.float32)
        scale[~(scale > 0)] = np.nan
        planes[(slice(0, 3), *part.within(window))] *= (1 / scale)[:, None, None]


def _tiles(window: Window, shape: tuple[int, int]) -> list[tuple[tuple[int, int], Window]]:
    """Tiles that a window touches: place among them, and the part of the window."""
    first = window.y0 // TILE, window.x0 // TILE
    grid = Window(first[0] * TILE, min(window.y1, shape[0]), first[1] * TILE, min(window.x1, shape[1]))
    return [
        (
            (row - first[0], column - first[1]),
            Window(max(tile.y0, window.y0), tile.y1, max(tile.x0, window.x0), tile.x1),
        )
        for row, column, tile in grid.tiles(TILE)
    ]


def _digest(location: Location) -> str:
    return str(product_header(location)["digest"])


@lru_cache(_TEMPLATES_KEPT)
def _template(location: Location, group: str, window: Window, digest: str) -> Planes:
    """`digest` tells a reference from another that took its place."""
    reader = ProductReader(location, group)
    fwhm = max(float(reader.attributes["reference"]["fwhm"]), LEAST_FWHM_PX)
    return mended(read_planes(reader, window), fwhm)
