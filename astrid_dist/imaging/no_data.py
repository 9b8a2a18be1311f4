"""No-data pixels of an image pair: what takes their place in a transform, and how far they reach."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.imaging.arrays import Array, Namespace, to_host
from astrid_dist.imaging.filters import SubtractionPlan

Image: TypeAlias = NDArray[np.float32]

# In background sigmas; a full well is below 1e5 of them. One pixel at this limit costs its tile 1e-3 sigma.
_LARGEST_VALUE = 1e7

# What a hole hides, as a multiple of its area times the brightest pixel beside it: the core of a star that is
# no data in both images rises above its rim; where the other image fills it, their PSFs differ by part of it.
_HIDDEN = 3.0
_MISFIT = 0.5
# Pixels of a hole, however large, that one star can fill.
_LARGEST_HOLE = 25


@dataclass(frozen=True)
class Holes:
    """No-data pixels of n pairs, on the device of their planes, each (n, y, x) bool."""

    new: Array
    ref: Array
    lost: Array
    """What no result is given for."""
    planes: list[Array]
    """The planes that have the holes: science, reference, and their variances, (n, y, x) float32."""
    factors: tuple[float, float, float, float]
    """What brings the pixels of the other image to the scale of each plane."""

    def filled(self, space: Namespace, which: int, part: slice) -> Array:
        """Rows of a plane without NaN.

        A hole takes the other image's pixels, so that a star with a hole in one image does not ring; where
        both have none it takes zero.
        """
        bad, bad_other = (self.new, self.ref) if which % 2 == 0 else (self.ref, self.new)
        bad, bad_other = bad[:, part], bad_other[:, part]
        rows = self.planes[which][:, part]
        if not bad.any():
            return rows
        full = space.xp.where(bad, self.planes[which ^ 1][:, part] * self.factors[which], rows)
        full[bad & bad_other] = 0
        return full


def find_holes(
    space: Namespace, plan: SubtractionPlan, planes: list[Array], shifts: NDArray[np.float64]
) -> Holes | None:
    """Holes of pairs whose science image will be moved by -shifts (n, 2); None where there is none.

    Planes are those of science and reference, then their variances, (n, y, x) float32.
    """
    new, ref, var_new, var_ref = planes
    # A shift of half a pixel brings in what nobody saw.
    whole = not (np.abs(shifts) >= 0.5).any()
    if whole and _all_usable(new, var_new, plan.sigma_n) and _all_usable(ref, var_ref, plan.sigma_r):
        return None
    bad_new, bad_ref = ~_usable(new, var_new, plan.sigma_n), ~_usable(ref, var_ref, plan.sigma_r)
    # How far holes reach is worked out on the host: it is a matter of few pixels and many branches.
    host_new, host_ref, host_bad_new, host_bad_ref = (to_host(one) for one in (new, ref, bad_new, bad_ref))
    lost = np.empty(host_bad_new.shape, bool)
    for i, (dx, dy) in enumerate(shifts):
        lost[i] = widened(
            moved(host_bad_new[i], dx, dy) | host_bad_ref[i],
            host_bad_new[i] & host_bad_ref[i],
            ((host_new[i], 1.0), (host_ref[i], plan.flux_ratio)),
            plan.leak,
            plan.kernel_radius_px,
        )
    ratio = plan.flux_ratio
    return Holes(bad_new, bad_ref, space.moved(lost), planes, (ratio, 1 / ratio, ratio**2, 1 / ratio**2))


def _all_usable(image: Array, variance: Array, sigma: float) -> bool:
    """`_usable` of every pixel, without a mask: extremes are NaN where a pixel is."""
    limit, squared = _LARGEST_VALUE * sigma, _LARGEST_VALUE * sigma**2
    inside = image.max() <= limit and image.min() >= -limit
    return bool(inside and variance.max() <= squared and variance.min() >= 0)


def _usable(image: Array, variance: Array, sigma: float) -> Array:
    """Data, and no value so absurd that its rounding would drown its neighbours in a float32 transform."""
    inside = abs(image) <= _LARGEST_VALUE * sigma
    inside &= variance >= 0
    inside &= variance <= _LARGEST_VALUE * sigma**2
    return inside


def moved(bad: NDArray[np.bool_], dx: float, dy: float) -> NDArray[np.bool_]:
    """No-data pixels after the shift; what comes from beyond the border by half a pixel or more is one."""
    if not (dx or dy):
        return bad
    result = bad
    for axis, step in ((0, dy), (1, dx)):
        nearest = np.arange(bad.shape[axis]) + step
        last = bad.shape[axis] - 1
        low, high = (np.clip(f(nearest).astype(int), 0, last) for f in (np.floor, np.ceil))
        beyond = (np.rint(nearest) < 0) | (np.rint(nearest) > last)
        result = np.take(result, low, axis) | np.take(result, high, axis)
        result |= beyond[:, None] if axis == 0 else beyond
    return result


def widened(
    bad: NDArray[np.bool_],
    unfilled: NDArray[np.bool_],
    images: Iterable[tuple[Image, float]],
    leak: NDArray[np.float64],
    radius: float,
) -> NDArray[np.bool_]:
    """Every pixel that a no-data pixel may have touched.

    Within the kernel radius always. Beyond it where a hole lies in a star: what it hides cannot be known,
    and shines through the wings of the kernels. It is guessed from the brightest pixel beside it.

    Parameters
    ----------
    bad, unfilled : (y, x) bool
        No data in either image; no data in both, so that zero took its place.
    images : two of ((y, x) float32, float)
        Both images, and what makes them electrons of the first; NaN is no data.
    leak : (n,) float
        Largest response of the score, in its standard deviations, to one electron n pixels away or farther.
    radius : float
        Kernel radius, pixels.
    """
    if bad.all() or not bad.any():
        return bad.copy()
    height, width = bad.shape
    inner = bad.copy()
    inner[1:] &= bad[:-1]
    inner[:-1] &= bad[1:]
    inner[:, 1:] &= bad[:, :-1]
    inner[:, :-1] &= bad[:, 1:]
    rows, columns = np.nonzero(bad & ~inner)
    labels, _ = ndimage.label(bad, np.ones((3, 3)))
    size = np.minimum(np.bincount(labels.ravel())[labels[rows, columns]], _LARGEST_HOLE)
    beside = np.zeros(len(rows), dtype=np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
            for image, factor in images:
                np.fmax(beside, np.abs(image[y, x]) * np.float32(factor), out=beside)
    hidden = beside * size * np.where(unfilled[rows, columns], _HIDDEN, _MISFIT)
    # The first distance at which the hidden light moves the score by less than its noise.
    distance = np.searchsorted(-leak, -1 / np.maximum(hidden, 1e-30))
    radii = np.maximum(np.minimum(distance, len(leak) - 1), radius)

    # Disks row by row: each adds 1 where a run begins and takes it away behind its end.
    reach = int(radii.max())
    runs = np.zeros((height + 2 * reach, width + 2 * reach + 1), dtype=np.int32)
    flat, stride = runs.reshape(-1), runs.shape[1]
    places = (rows + reach) * stride + columns + reach
    for dy in range(-reach, reach + 1):
        near = radii >= abs(dy)
        half = np.sqrt(radii[near] ** 2 - dy * dy).astype(np.intp)
        middle = places[near] + dy * stride
        np.add.at(flat, middle - half, 1)
        np.add.at(flat, middle + half + 1, -1)
    np.cumsum(runs, axis=1, out=runs)
    out = runs[reach : reach + height, reach : reach + width] > 0
    return out | bad
