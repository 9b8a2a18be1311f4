"""What spoils raw frames that nobody masked: cosmic rays, hot pixels, bleeding stars, odd lines."""

from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image: TypeAlias = NDArray[np.float32]
Bool: TypeAlias = NDArray[np.bool_]

#: FWHM in pixels below which a star is hardly wider than a cosmic ray, and none is looked for.
LEAST_FWHM_PX = 1.5
#: Excess over the neighbours that makes a hit, in sigmas, and in units of what a star's top has.
_HIT_SIGMA, _SHARPER = 6.0, 2.5
#: Beside a hit: excess over the sky that belongs to it, in sigmas.
_BESIDE_SIGMA = 2.5
#: Light of neighbours, in sigmas, that makes a pixel part of a star, and how many such tell their sharpness.
_TOP_SIGMA, _ENOUGH_TOPS = 10.0, 100
#: More pixels than this are no cosmic rays: the noise or the FWHM is wrong.
_MOST = 0.02
#: Parts of a line, at least, and their length; lines it is compared with; usual scatters that make it odd.
_PARTS, _PART_PX, _AROUND, _ODD, _TRAIL = 4, 32, 15, 6.0, 4.5
#: Lines left out between a star's and those beside it.
_GAP_PX = 2
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def cosmic_rays(signal: Image, variance: Image, unusable: Bool, fwhm_px: float) -> Bool:
    """Pixels sharper than any point source: cosmic rays and hot pixels, told from one frame.

    As in van Dokkum 2001 (PASP 113, 1420) what counts is sharpness and not height: a pixel stands six sigmas
    above the median of its eight neighbours, and 2.5 times as far above it as a star centred there would, for
    the light that these neighbours hold. Neighbours of a hit that are bright join it.

    Parameters
    ----------
    signal, variance : (y, x) float32
        Sky-subtracted electrons and electron².
    unusable : (y, x) bool
        Pixels that are not looked at.
    fwhm_px : float
        Seeing in pixels.

    Returns
    -------
    (y, x) bool
        Nothing where the seeing is below 1.5 px, or where more than 2 % would be hit: no cosmic rays then.
    """
    hit = np.zeros(signal.shape, bool)
    if not fwhm_px >= LEAST_FWHM_PX:
        return hit
    with np.errstate(invalid="ignore"):
        sigma = np.sqrt(variance)
        bright = (signal > _HIT_SIGMA * sigma) & ~unusable
    rows, columns = np.nonzero(bright[1:-1, 1:-1])
    rows, columns = rows + 1, columns + 1
    around = np.stack([signal[rows + dy, columns + dx] for dy, dx in _NEIGHBOURS])
    beside = np.nanmedian(around, axis=0) if rows.size else np.zeros(0, np.float32)
    excess = signal[rows, columns] - beside
    star = np.maximum(beside, 0) * _star_sharpness(excess, beside, sigma[rows, columns], fwhm_px)
    found = (excess > _HIT_SIGMA * sigma[rows, columns]) & (excess > _SHARPER * star)
    # The wing of a star has three brighter neighbours, a track two; beside a saturated star nothing is known.
    if rows.size:
        found &= signal[rows, columns] > np.partition(around, 5, axis=0)[5]
    found &= ~ndimage.binary_dilation(unusable, np.ones((3, 3)))[rows, columns]
    hit[rows[found], columns[found]] = True
    if hit.mean() > _MOST:
        return np.zeros_like(hit)
    with np.errstate(invalid="ignore"):
        beside_hit = ndimage.binary_dilation(hit, np.ones((3, 3))) & (signal > _BESIDE_SIGMA * sigma)
    return np.asarray(hit | beside_hit)


def _star_sharpness(excess: Image, beside: Image, sigma: Image, fwhm_px: float) -> float:
    """How far a star's top stands above its neighbours' median, in units of that.

    A round Gaussian's, or what the frame's own bright stars have where they are trailed: sharper across.
    """
    one = np.exp2(-4 / fwhm_px**2)  # of the top, one pixel away
    gaussian = float(2 / (one + one**2)) - 1
    tops = (excess > 0) & (beside > _TOP_SIGMA * sigma)
    if np.count_nonzero(tops) < _ENOUGH_TOPS:
        return gaussian
    seen = float(np.percentile(excess[tops] / beside[tops], 98))
    return float(np.clip(seen, gaussian, 3 * gaussian))


def spoiled_lines(signal: Image) -> Bool:
    """Rows and columns that the read-out lifted or lowered, against the lines around them.

    A line is spoiled where at least half of its parts, by their medians, are off the same way by six of
    their usual scatters against the median of 15 lines. Sources cover too little of a line for that.

    Parameters
    ----------
    signal : (y, x) float32
        Sky-subtracted.

    Returns
    -------
    (y, x) bool
    """
    return np.asarray(_odd_lines(signal)[:, None] | _odd_lines(signal.T)[None, :])


def _odd_lines(signal: Image) -> Bool:
    level = _part_medians(signal)
    odd = level - ndimage.median_filter(level, (_AROUND, 1))
    limit = _ODD * 1.4826 * np.median(np.abs(odd), axis=0)
    needed = max(level.shape[1] / 2, 2)
    return np.asarray(((odd > limit).sum(axis=1) >= needed) | ((odd < -limit).sum(axis=1) >= needed))


def bleeds(signal: Image, saturated: Bool) -> Bool:
    """Charge that saturated stars leave along their rows or columns, bright or dark, near or far.

    Part by part, the star's own lines are compared with those on both sides, and that with its scatter all
    over the frame, which knows how crowded it is. The read-out has one direction: of rows and columns those
    count that show more of it.

    Parameters
    ----------
    signal : (y, x) float32
        Sky-subtracted.
    saturated : (y, x) bool

    Returns
    -------
    (y, x) bool
        Without the saturated pixels.
    """
    labels, n = ndimage.label(ndimage.binary_opening(saturated, np.ones((3, 3))))
    stars = ndimage.find_objects(labels)[:n]
    along_rows = _trails(signal, [(rows.start, rows.stop) for rows, _ in stars])
    along_columns = _trails(signal.T, [(columns.start, columns.stop) for _, columns in stars]).T
    chosen = along_rows if along_rows.sum() >= along_columns.sum() else along_columns
    return np.asarray(chosen & ~saturated)


def _trails(signal: Image, stars: list[tuple[int, int]]) -> Bool:
    """Parts of rows that are odd, among rows of stars: first and behind the last of each."""
    trail = np.zeros(signal.shape, bool)
    level = ndimage.median_filter(_part_medians(signal), (3, 1))
    edges = _edges(signal.shape[1])
    for first, stop in stars:
        step = stop - first + _GAP_PX
        odd = level - (np.roll(level, step, axis=0) + np.roll(level, -step, axis=0)) / 2
        limit = _TRAIL * 1.4826 * np.median(np.abs(odd), axis=0)
        for row in range(first, stop):
            for part in np.flatnonzero(np.abs(odd[row]) > limit):
                trail[max(row - 1, 0) : row + 2, edges[part] : edges[part + 1]] = True
    return trail


def _edges(width: int) -> list[int]:
    """Where the parts of a line begin, and the end of the last."""
    return [round(at) for at in np.linspace(0, width, max(_PARTS, width // _PART_PX) + 1)]


def _part_medians(signal: Image) -> Image:
    """Medians of the parts of every row, (y, part)."""
    known = np.nan_to_num(signal)
    edges = _edges(signal.shape[1])
    parts = [np.median(known[:, a:b], axis=1) for a, b in pairwise(edges)]
    return np.stack(parts, axis=1)
