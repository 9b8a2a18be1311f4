"""Noise and mask of a frame: from its weight and quality planes, or from its pixels where it has none."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates, uniform_filter

from astrid_dist.flags import Flag
from astrid_dist.surveys.profile import Planes, Quality

Image = NDArray[np.float32]
Mask = NDArray[np.uint16]

#: Side in pixels of the blocks in which sky level and scatter are measured.
BLOCK = 64
#: Least number of usable pixels that make a block's measurement count.
_LEAST = 64


def quality_flags(plane: NDArray[Any], header: Mapping[str, Any], planes: Planes) -> Mask:
    """Translate a data-quality plane into the package's flags.

    Parameters
    ----------
    plane : (y, x) integer
        As stored.
    header : mapping
        The image's header: some pipelines changed the meaning of their values at a version it holds.
    planes : Planes
    """
    rules: Quality = planes.quality
    older = planes.quality_older
    if older is not None and _version(str(header.get(older.keyword, ""))) < _version(older.before):
        rules = older
    values = np.asarray(plane).astype(np.int64)
    mask: Mask = np.zeros(values.shape, np.uint16)
    if rules.kind == "nonzero":
        mask[values != 0] = Flag.BAD
        return mask
    for value, name in rules.flags.items():
        hit = values == value if rules.kind == "codes" else (values >> value) & 1 == 1
        mask[hit] |= np.uint16(Flag[name])
    return mask


def _version(text: str) -> tuple[int, ...]:
    """(3, 5, 0) of 'V3.5.0a'; a frame that does not say counts as the newest."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    return numbers or (10**6,)


def measure_blocks(image: Image, unusable: NDArray[np.bool_]) -> tuple[Image, Image]:
    """Sky level and scatter in blocks, interpolated to every pixel.

    The scatter is the distance from the median down to the 16th percentile: sources push only the other side.

    Parameters
    ----------
    image : (y, x) float32
    unusable : (y, x) bool

    Returns
    -------
    level, sigma : (y, x) float32
    """
    height, width = image.shape
    rows, columns = max(1, round(height / BLOCK)), max(1, round(width / BLOCK))
    row_edges, column_edges = np.linspace(0, height, rows + 1), np.linspace(0, width, columns + 1)
    level, sigma = np.full((2, rows, columns), np.nan)
    for r, c in np.ndindex(rows, columns):
        ys = slice(int(row_edges[r]), int(row_edges[r + 1]))
        xs = slice(int(column_edges[c]), int(column_edges[c + 1]))
        values = image[ys, xs][~unusable[ys, xs]]
        if values.size >= _LEAST:
            low, middle = np.percentile(values, [15.865, 50.0])
            level[r, c], sigma[r, c] = middle, middle - low
    if not np.isfinite(level).any():
        values = image[~unusable]
        middle = float(np.median(values)) if values.size else 0.0
        level[:], sigma[:] = middle, float(np.std(values)) if values.size else 0.0
    level, sigma = (np.where(np.isfinite(grid), grid, np.nanmedian(grid)) for grid in (level, sigma))
    y = (np.arange(height) + 0.5) * rows / height - 0.5
    x = (np.arange(width) + 0.5) * columns / width - 0.5
    points = np.broadcast_arrays(y[:, None], x[None, :])
    full = [
        map_coordinates(grid, points, order=1, mode="nearest").astype(np.float32) for grid in (level, sigma)
    ]
    return full[0], full[1]


def pixel_scatter(image: Image, unusable: NDArray[np.bool_]) -> float:
    """Noise of one pixel from second differences in x and y, which stars and gradients hardly touch.

    The robust form of Immerkaer 1996 (CVIU 64, 300); noise that is correlated over pixels comes out too low.
    """
    residual = image[:, :-2] - 2 * image[:, 1:-1] + image[:, 2:]
    residual = residual[:-2] - 2 * residual[1:-1] + residual[2:]
    free = ~binary_dilation(unusable, np.ones((3, 3), bool))[1:-1, 1:-1]
    if free.sum() < _LEAST:
        return float(np.std(image[~unusable]))
    return float(1.4826 * np.median(np.abs(residual[free])) / 6)


def sky_is_gone(image: Image, unusable: NDArray[np.bool_], read_noise: float) -> bool:
    """Whether the sky was subtracted: the level cannot account for the scatter as photon noise.

    Parameters
    ----------
    image : (y, x) float32
        Electrons.
    unusable : (y, x) bool
    read_noise : float
        Electrons.
    """
    level = float(np.median(image[~unusable]))
    sigma = pixel_scatter(image, unusable)
    return level < sigma or sigma**2 > 2.5 * (level + read_noise**2)


def source_electrons(above: Image, sigma: Image) -> Image:
    """Electrons above the sky where there is a source, else 0: peaks of the noise would bias it.

    A source is where the mean of 3x3 pixels stands three of its own sigmas above the sky.
    """
    known = np.where(np.isfinite(above), above, 0)
    there = uniform_filter(known, 3, mode="nearest") > sigma
    return np.asarray(np.where(there, np.maximum(known, 0), 0), np.float32)


def variance_from_gain(
    image: Image, unusable: NDArray[np.bool_], read_noise: float, sky_subtracted: bool
) -> Image:
    """Variance in electron² of a frame without a weight plane.

    With the sky in it the frame's electrons are their own variance, plus the read noise. Without, the
    background's variance is the pixels' scatter in blocks, and the gain adds the sources' noise alone.
    """
    if not sky_subtracted:
        return np.asarray(np.maximum(image, 0) + np.float32(read_noise**2), np.float32)
    level, sigma = measure_blocks(image, unusable)
    return np.asarray(sigma**2 + source_electrons(image - level, sigma), np.float32)


def variance_from_weight(
    plane: NDArray[Any], kind: str, noise: str, image: Image, scale: float, fallback: Image, mask: Mask
) -> tuple[Image, Mask]:
    """Variance in electron² from a weight plane, with the sources' noise added where the plane lacks it.

    Parameters
    ----------
    plane : (y, x)
        Inverse variance, variance or sigma (`kind`) in units of the stored pixels.
    noise : {"auto", "sky", "total"}
        Whether the plane holds the sky's noise alone; "auto" compares the extra variance of pixels that
        stand 10 sigma above the sky with their electrons.
    image : (y, x) float32
        Electrons.
    scale : float
        Electrons per unit of the stored pixels.
    fallback : (y, x) float32
        Variance of pixels that have no usable weight; they are flagged BAD.
    mask : (y, x) uint16

    Returns
    -------
    variance : (y, x) float32
    mask : (y, x) uint16
    """
    values = np.asarray(plane, np.float64)
    usable = np.isfinite(values) & (values > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        raw = {"inverse_variance": 1.0 / values, "variance": values, "sigma": values**2}[kind]
    variance = np.where(usable, raw * scale**2, fallback).astype(np.float32)
    no_data = (mask & Flag.NO_DATA) > 0
    mask = np.where(usable | no_data, mask, mask | np.uint16(Flag.BAD)).astype(np.uint16)
    if noise != "total":
        good = usable & (mask == 0)
        level, sigma = measure_blocks(image, ~good)
        above = image - level
        if noise == "sky" or not _holds_source_noise(variance, above, sigma, good):
            variance += np.where(usable, source_electrons(above, sigma), 0)
    return variance, mask


def _holds_source_noise(variance: Image, above: Image, sigma: Image, good: NDArray[np.bool_]) -> bool:
    bright = good & (above > 10 * sigma)
    if bright.sum() < 20:
        return False
    extra = np.median(variance[bright]) - np.median(variance[good & ~bright])
    return bool(extra > 0.5 * np.median(above[bright]))
