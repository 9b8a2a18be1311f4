"""What a pair leaves in its difference though no source changed: sky, and lines of the read-out."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from astrid_dist.imaging.background import evaluate

Image: TypeAlias = NDArray[np.float32]

_LEAST_BOX_PX, _BOX_FWHM = 32, 8.0
_SOURCE_SIGMA, _MOST_SOURCES = 4.0, 0.25
_PART_PX, _AROUND, _ODD_LINE = 64, 15, 5.0


@dataclass(frozen=True)
class Leftover:
    """Levels to be subtracted from a difference, (y, x) float32 each."""

    sky: Image
    lines: Image

    @property
    def level(self) -> Image:
        """Both together."""
        return self.sky + self.lines

    def in_score(self, psf_d: Image, sigma_flux: Image) -> Image:
        """What they add to the score: the flux that a PSF finds in them, over its error."""
        power = np.float32(np.square(psf_d).sum())
        found = self.sky / power  # smooth over a PSF
        if self.lines.any():
            found = found + signal.fftconvolve(self.lines, psf_d[::-1, ::-1], mode="same") / power
        return np.asarray(found / sigma_flux, dtype=np.float32)


def measure_leftover(
    difference: Image, score: Image, sigma_flux: Image, psf_d: Image, fwhm_px: float
) -> Leftover:
    """Sky and lines that a pair leaves, each measured without the other.

    Parameters
    ----------
    difference, score, sigma_flux : (y, x) float32
        Of a `Subtraction`; NaN is no data.
    psf_d : (v, u)
        PSF of D, unit sum.
    fwhm_px : float
        The wider one of the pair.
    """
    per_score = sigma_flux * np.float32(np.square(psf_d).sum())
    sky = sky_left(difference, score, per_score, fwhm_px)
    lines = lines_left(difference - sky)
    if lines.any():
        without = Leftover(np.zeros_like(sky), lines)
        sky = sky_left(difference - lines, score - without.in_score(psf_d, sigma_flux), per_score, fwhm_px)
        lines = lines_left(difference - sky)
    return Leftover(sky, lines)


def sky_left(difference: Image, score: Image, per_score: Image, fwhm_px: float) -> Image:
    """Sky that a pair leaves in its difference, smooth over boxes of eight FWHM, at least 32 px.

    From all pixels, as the stars are gone from D: clipped means of boxes and a spline through them. Pixels
    near a score of four or more, seen once the first answer is taken out, do not count unless they are many:
    a source in a box would lose 4 % of its flux. A box with a fifth of its pixels or less takes the median
    of all.

    Parameters
    ----------
    difference, score : (y, x) float32
        Of a `Subtraction`; NaN is no data.
    per_score : (y, x) float32
        Level of D that makes a score of 1: sigma_flux * sum(psf_d^2).
    fwhm_px : float
        The wider one of the pair.

    Returns
    -------
    (y, x) float32
        To be subtracted from `difference`; over `per_score`, from `score`.
    """
    box = max(_LEAST_BOX_PX, round(_BOX_FWHM * fwhm_px))
    sky = _level(difference, box)
    sources = np.abs(np.nan_to_num(score - sky / per_score)) > _SOURCE_SIGMA
    sources = ndimage.maximum_filter(sources, 2 * round(fwhm_px / 2) + 1)
    # Much of it is no source, but sky that a spline cannot follow.
    sources &= ndimage.uniform_filter(sources.astype(np.float32), box) < _MOST_SOURCES
    return _level(np.where(sources, np.float32(np.nan), difference), box)


def lines_left(difference: Image) -> Image:
    """Level of rows and columns that stand out of a difference: what saturated stars leave along them.

    Medians of parts of 64 px against those of 15 lines, in units of their error: D is white and its stars
    are gone. Where three lines together are off by five, they and two more on each side take the level of
    each part. A source covers too little of a part to count.

    Parameters
    ----------
    difference : (y, x) float32
        Its sky taken out; NaN is no data.

    Returns
    -------
    (y, x) float32
        To be subtracted from `difference`.
    """
    return _rows_left(difference) + _rows_left(difference.T).T


def _rows_left(difference: Image) -> Image:
    height, width = difference.shape
    parts = max(1, width // _PART_PX)
    edges = np.round(np.linspace(0, width, parts + 1)).astype(int)
    level, error = np.zeros((2, height, parts), np.float32)
    for part, (first, stop) in enumerate(pairwise(edges)):
        values = np.sort(difference[:, first:stop], axis=1)  # NaN goes last
        count = np.count_nonzero(np.isfinite(values), axis=1)
        rows = np.flatnonzero(count > _PART_PX / 4)
        middle = values[rows, count[rows] // 2]
        level[rows, part] = middle - ndimage.median_filter(middle, _AROUND) if rows.size else 0
        error[rows, part] = 1 / np.sqrt(count[rows])
    known = error > 0
    if not known.any():
        return np.zeros_like(difference)
    error *= 1.4826 * np.median(np.abs(level[known] / error[known]))
    together = ndimage.uniform_filter1d(level, 3, axis=0) * np.sqrt(3)
    odd = ndimage.maximum_filter1d(known & (np.abs(together) > _ODD_LINE * error), 5, axis=0)
    if not odd.any():
        return np.zeros_like(difference)
    level *= ndimage.maximum_filter1d(odd, 3, axis=1)
    middles, x = (edges[:-1] + edges[1:] - 1) / 2, np.arange(width)
    return np.stack([np.interp(x, middles, row) if row.any() else 0 * x for row in level]).astype(np.float32)


def _level(difference: Image, box: int) -> Image:
    """Spline through the clipped means of boxes."""
    height, width = difference.shape
    rows, columns = -(-height // box), -(-width // box)
    padded = np.full((rows * box, columns * box), np.nan, np.float32)
    padded[:height, :width] = difference
    boxes = padded.reshape(rows, box, columns, box).swapaxes(1, 2).reshape(-1, box * box)
    enough = np.count_nonzero(np.isfinite(boxes), axis=1) > box * box / 5
    if not enough.any():
        return np.zeros_like(difference)
    values = np.sort(boxes[enough], axis=1)  # NaN goes last
    count = np.count_nonzero(np.isfinite(values), axis=1)
    ranks = [(share * (count - 1)).astype(int)[:, None] for share in (0.1587, 0.5, 0.8413)]
    low, middle, high = (np.take_along_axis(values, rank, axis=1) for rank in ranks)
    values[~(np.abs(values - middle) <= 3 * (high - low) / 2)] = np.nan
    mesh = np.full(len(boxes), np.nan)
    mesh[enough] = np.nanmean(values, axis=1)
    mesh[~enough] = np.median(mesh[enough])
    return evaluate(mesh.reshape(rows, columns).astype(np.float32), box, 0, 0, height, width)
