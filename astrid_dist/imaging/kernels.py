"""Stamps of PSFs and kernels on periodic grids, whose origin is the pixel [0, 0]."""

from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Stamp: TypeAlias = NDArray[np.float64]

_KERNEL_ENERGY = 0.999


def transform(stamp: Stamp, grid: tuple[int, int], dtype: type = np.float64) -> NDArray[Any]:
    """Transform of an odd stamp whose middle pixel is put at [0, 0] of a grid; empty rows are left out."""
    offsets = np.arange(len(stamp)) - len(stamp) // 2
    wide: NDArray[Any] = np.zeros((len(stamp), grid[1]), dtype)
    wide[:, offsets] = stamp
    rows = fft.rfft(wide, axis=1)
    columns = np.zeros((grid[0], rows.shape[1]), rows.dtype)
    columns[offsets] = rows
    return cast(NDArray[Any], fft.fft(columns, axis=0, overwrite_x=True))


def centred(kernel: Stamp, box: int) -> Stamp:
    """Cut a box round [0, 0] of a periodic image."""
    offsets = np.arange(box) - box // 2
    return kernel[np.ix_(offsets % kernel.shape[0], offsets % kernel.shape[1])]


def noise_floor(stamp: Stamp) -> float:
    """Level under which the transform of a PSF is its own noise, or the cut at the box, not signal."""
    box = len(stamp)
    edge = np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]])
    cut = box * float(np.sqrt(np.mean(edge**2)))
    if box < 7:
        return cut
    # The mixed second difference removes any smooth wing; white noise leaves 6 of its sigmas.
    curvature = stamp[:-2] - 2 * stamp[1:-1] + stamp[2:]
    curvature = curvature[:, :-2] - 2 * curvature[:, 1:-1] + curvature[:, 2:]
    offsets = np.arange(1, box - 1) - box // 2
    outside = np.hypot(offsets[:, None], offsets) > box / 3
    noise = 1.4826 * float(np.median(np.abs(curvature[outside]))) / 6
    # White noise of sigma s per pixel transforms to s * box; five of those are above nearly all of it.
    return max(cut, 5 * box * noise)


def energy_radius(kernel: Stamp, reach: int) -> float:
    """Radius of the disk that holds `_KERNEL_ENERGY` of a kernel's square, at most the padding."""
    offsets = np.arange(-reach, reach + 1)
    radius = np.rint(np.hypot(offsets[:, None], offsets) * 10).astype(np.int64)
    square = np.square(centred(kernel, 2 * reach + 1))
    energy = np.cumsum(np.bincount(radius.ravel(), weights=square.ravel()))
    total = np.sum(np.square(kernel))
    return min(float(np.searchsorted(energy, _KERNEL_ENERGY * total)) / 10, float(reach))


def largest_beyond(response: Stamp, reach: int) -> NDArray[np.float64]:
    """Largest response at each distance or beyond, up to `reach` pixels."""
    offsets = np.arange(-reach, reach + 1)
    radius = np.minimum(np.hypot(offsets[:, None], offsets).astype(np.int64), reach)
    largest = np.zeros(reach + 1)
    np.maximum.at(largest, radius.ravel(), centred(response, 2 * reach + 1).ravel())
    return np.maximum.accumulate(largest[::-1])[::-1]
