"""The gain of a frame whose header has none, from the noise of its sky."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.imaging.background import evaluate, measure_background

Float64 = NDArray[np.float64]

PLAUSIBLE = (0.05, 50.0)
"""Electrons per count that a detector may have."""
_BOX = 64
_LEAST_PIXELS = 2000
_KERNEL = np.array([1.0, -2.0, 1.0])  # second difference; in x and y its variance is 36 pixel variances
_LAGS = 3  # resampling by up to a cubic correlates no further
_FAR = (5, 6, 7, 8)
_WHITE = 0.05  # differences by more than this part between lags are correlation
_CORRECTED = 0.08  # what faint stars may do to the correction, as part of the gain
_GOOD_SLOPE = 0.05  # error of the slope, as part of it, up to which it is preferred


@dataclass(frozen=True)
class Gain:
    """Electrons per count, its standard error, and what it was told by."""

    value: float
    error: float
    how: str

    def __str__(self) -> str:
        """As reasons say it."""
        return (
            f"gain {self.value:.3g}±{max(self.error, 0.01 * self.value):.1g} e/DN estimated from {self.how}"
        )


def estimate_gain(counts: NDArray[Any], unusable: NDArray[np.bool_], read_noise: float) -> Gain:
    """Gain from how the noise goes with the level (photon transfer; Janesick 2001, chapter 2), in one frame.

    Variance in counts is level / gain + (read_noise / gain)^2. Where boxes of sky differ enough in level, the
    slope gives the gain, whatever bias is left in the level. Else the median level is taken as that of the
    sky. The variance is that of second differences in x and y (Immerkaer 1996), of pixels without sources.
    Noise that resampling correlated is brought back to that of the pixels as they were: what the covariances
    at short lags add up to, which resampling conserves.

    Parameters
    ----------
    counts : (y, x)
        As stored, sky included.
    unusable : (y, x) bool
        Pixels to leave out: no data, saturated, flagged.
    read_noise : float
        Electrons.

    Raises
    ------
    InputError
        No sky level, too few pixels without sources, or an answer that no detector has.
    """
    image = np.asarray(counts, dtype=np.float32)
    unusable = unusable | ~np.isfinite(image)
    mesh, rms = measure_background(image, unusable.astype(np.uint16), _BOX)
    sky = evaluate(mesh, _BOX, 0, 0, *image.shape)
    level = float(np.median(mesh))
    if level < 2 * float(np.median(rms)):
        raise InputError(
            f"the sky was subtracted (its level is {level:.3g} counts), so its noise tells no gain"
        )
    quiet = _quiet(image - sky, unusable)
    noise = ndimage.correlate1d(ndimage.correlate1d(image - sky, _KERNEL, 0), _KERNEL, 1).astype(np.float64)
    pixels = ndimage.binary_erosion(quiet, np.ones((3, 3), bool))
    if pixels.sum() < _LEAST_PIXELS:
        raise InputError(f"only {int(pixels.sum())} pixels show sky without sources, too few for its noise")
    width = 1.4826 * float(np.median(np.abs(noise[pixels])))
    pixels &= np.abs(noise) < 4 * width
    square = noise**2 / 36
    factor = _decorrelation(image - sky, quiet, float(square[pixels].mean()))
    rounding = 1 / 12 if bool((image[quiet] == np.rint(image[quiet])).all()) else 0.0
    levels, variances, weights = _boxes(image, square * factor - rounding, pixels)
    gain, how = _slope(levels, variances, weights), "the noise of sky of different levels"
    if gain is None:
        gain, how = _ratio(levels, variances, weights, read_noise), "sky noise"
    value, error = gain
    if factor != 1:
        how += f", {factor:.3g} times its pixels' for what resampling took"
        error = float(np.hypot(error, _CORRECTED * value))
    if not (PLAUSIBLE[0] < value < PLAUSIBLE[1] and error < 0.3 * value):
        raise InputError(f"the noise of the sky would mean {value:.3g}±{error:.2g} electrons per count")
    return Gain(value, error, how)


def _quiet(residual: NDArray[Any], unusable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels near nothing that stands out at the scale of a star's core or of its wings."""
    known = np.where(unusable, 0, residual)
    near = ndimage.maximum_filter(unusable, 3)
    for scale in (1.5, 4.0):
        smooth = ndimage.gaussian_filter(known, scale)
        width = 1.4826 * float(np.median(np.abs(smooth - np.median(smooth))))
        near |= ndimage.maximum_filter(np.abs(smooth) > 3 * width, 7)
    free: NDArray[np.bool_] = ~near
    return free


def _decorrelation(residual: NDArray[Any], quiet: NDArray[np.bool_], variance: float) -> float:
    """Variance of a pixel before resampling over what second differences say; 1 where nothing was resampled.

    Half the mean square difference at a lag is the covariance missing there; interpolation acts on rows and
    columns one after the other, so that of a row and of a column tell it all. Where it still grows beyond
    the reach of an interpolation, stars correlate the pixels, and nothing can be said.
    """

    def along(lag: int) -> tuple[float, float]:
        return _half_square(residual, quiet, lag, 0), _half_square(residual, quiet, 0, lag)

    far = float(np.mean([along(lag) for lag in _FAR]))
    near, edge = along(1), along(_LAGS + 1)
    white = np.abs(np.array([*near, variance]) / far - 1).max() < _WHITE
    if white or far > 1.03 * float(np.mean(edge)):
        return 1.0
    correlations = 1 - np.array([along(lag) for lag in range(1, _LAGS + 1)]) / far
    total = far * float(np.prod(1 + 2 * correlations.sum(axis=0)))
    return max(total / variance, 1.0)


def _half_square(residual: NDArray[Any], quiet: NDArray[np.bool_], dy: int, dx: int) -> float:
    """Half the mean square difference of quiet pixels (dy, dx) apart, outliers clipped."""
    height, width = residual.shape
    one = (slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx)))
    other = (slice(max(0, -dy), height + min(0, -dy)), slice(max(0, -dx), width + min(0, -dx)))
    both = quiet[one] & quiet[other]
    difference = (residual[one][both] - residual[other][both]).astype(np.float64)
    spread = 1.4826 * float(np.median(np.abs(difference)))
    return 0.5 * float((difference[np.abs(difference) < 4 * spread] ** 2).mean())


def _boxes(
    image: NDArray[Any], variance: Float64, pixels: NDArray[np.bool_]
) -> tuple[Float64, Float64, Float64]:
    """Mean level and variance of the chosen pixels of each box that has enough, and their number."""
    rows, columns = (np.arange(size) // _BOX for size in image.shape)
    index = (rows[:, None] * (columns[-1] + 1) + columns[None, :])[pixels]
    number = np.bincount(index).astype(float)
    enough = number > 0.05 * _BOX**2
    enough = enough if enough.any() else number > 0
    sums = [np.bincount(index, plane[pixels].astype(np.float64)) for plane in (image, variance)]
    return sums[0][enough] / number[enough], sums[1][enough] / number[enough], number[enough]


def _slope(levels: Float64, variances: Float64, weights: Float64) -> tuple[float, float] | None:
    """Gain and error from the slope of variance with level; None where the levels hardly differ."""
    keep = np.ones(len(levels), dtype=bool)
    value = error = np.nan
    for _ in range(5):
        if keep.sum() < 20:
            return None
        w = weights[keep] / weights[keep].sum()
        mean = float((w * levels[keep]).sum())
        off = levels - mean
        spread = float((w * off[keep] ** 2).sum())
        middle = float((w * variances[keep]).sum())
        slope = float((w * off[keep] * variances[keep]).sum()) / max(spread, 1e-30)
        left = (variances - middle - slope * off) * np.sqrt(weights)
        width = 1.4826 * float(np.median(np.abs(left[keep])))
        slope_err = width / np.sqrt(weights[keep].sum() * max(spread, 1e-30))
        if not slope > slope_err / _GOOD_SLOPE:
            return None
        value, error = 1 / slope, slope_err / slope**2
        keep = np.abs(left) < 4 * width
    return value, float(error)


def _ratio(levels: Float64, variances: Float64, weights: Float64, read_noise: float) -> tuple[float, float]:
    """Gain and error from the sky's own level and noise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        each = (levels + np.sqrt(levels**2 + 4 * variances * read_noise**2)) / (2 * variances)
    good = np.isfinite(each) & (variances > 0)
    if not good.any():
        raise InputError("the sky shows no noise: its pixels are rounded away or copies of each other")
    value = float(np.median(each[good]))
    scatter = 1.4826 * float(np.median(np.abs(each[good] - value)))
    return value, float(np.hypot(1.25 * scatter / np.sqrt(good.sum()), 2.75 * value / np.sqrt(weights.sum())))
