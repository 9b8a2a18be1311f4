"""No-data pixels of an image pair: what takes their place in a transform, and how far they reach."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image: TypeAlias = NDArray[np.float32]

# What a hole hides, as a multiple of its area times the brightest pixel beside it: the core of a star that is
# no data in both images rises above its rim; where the other image fills it, their PSFs differ by part of it.
_HIDDEN = 3.0
_MISFIT = 0.5
# Pixels of a hole, however large, that one star can fill.
_LARGEST_HOLE = 25


def fill_pair(
    new: Image,
    var_new: Image,
    bad_new: NDArray[np.bool_],
    ref: Image,
    var_ref: Image,
    bad_ref: NDArray[np.bool_],
    flux_ratio: float,
) -> tuple[Image, Image, Image, Image]:
    """Planes without NaN: a hole takes the other image's pixel, scaled, so that a star with a hole in one
    image does not ring; where both have none it takes zero signal and zero variance."""
    if not (bad_new.any() or bad_ref.any()):
        return new, var_new, ref, var_ref
    planes = [plane.astype(np.float32) for plane in (new, var_new, ref, var_ref)]
    scale = np.float32(flux_ratio)
    only_new, only_ref = bad_new & ~bad_ref, bad_ref & ~bad_new
    both = bad_new & bad_ref
    for plane in planes:
        plane[both] = 0
    planes[0][only_new], planes[1][only_new] = ref[only_new] * scale, var_ref[only_new] * scale**2
    planes[2][only_ref], planes[3][only_ref] = new[only_ref] / scale, var_new[only_ref] / scale**2
    return planes[0], planes[1], planes[2], planes[3]


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
    brightness: tuple[Image, Image],
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
    brightness : two (y, x) float32
        Both images in electrons of the first; NaN is no data.
    leak : (n,) float
        Largest response of the score, in its standard deviations, to one electron n pixels away or farther.
    radius : float
        Kernel radius, pixels.
    """
    if not bad.any():
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
            for image in brightness:
                np.fmax(beside, np.abs(image[y, x]), out=beside)
    hidden = beside * size * np.where(unfilled[rows, columns], _HIDDEN, _MISFIT)
    # The first distance at which the hidden light moves the score by less than its noise.
    distance = np.searchsorted(-leak, -1 / np.maximum(hidden, 1e-30))
    radii = np.maximum(np.minimum(distance, len(leak) - 1), radius)

    reach = int(np.ceil(radii.max()))
    out = np.zeros((height + 2 * reach, width + 2 * reach), dtype=bool)
    out[reach : reach + height, reach : reach + width] = bad
    flat, stride = out.reshape(-1), out.shape[1]
    places = (rows + reach) * stride + columns + reach
    for each in np.unique(radii):
        chosen, limit = places[radii == each], int(each)
        for dy in range(-limit, limit + 1):
            for dx in range(-limit, limit + 1):
                if dy * dy + dx * dx <= each * each:
                    flat[chosen + (dy * stride + dx)] = True
    return out[reach : reach + height, reach : reach + width].copy()
