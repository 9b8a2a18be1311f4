"""Sky background and its noise on a mesh, and the mesh evaluated at any window of the frame."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_CLIP_SIGMA = 3.0
_CLIP_BIAS = 0.9835  # std of a Gaussian clipped at three of its own clipped sigmas until nothing changes
_MIN_FRACTION = 0.04  # of a box's pixels, what is left between stars at worst; below it the neighbours speak
# In pixel sigmas after smoothing: four sigmas of the finest scale; not less on the coarse one, where an
# error of the mesh itself would mask a whole box. Both signs are masked, so that cutting noise does not bias.
_SOURCE_LEVEL = 0.75
_SOURCE_SCALES_PX = (1.5, 4.0)  # cores, then wings and galaxies
_GROW_PX = 3
_MARGIN = 8  # cells of linear continuation: how the spline ends there is not felt on the frame
_ROWS = 32  # of a window that are evaluated at a time


def measure_background(image: NDArray[Any], mask: NDArray[Any], box: int = 64) -> tuple[Float32, Float32]:
    """Sky level and its noise in boxes of the frame, sources masked.

    The mode is SExtractor's 2.5 median - 1.5 mean of the clipped pixels (Bertin & Arnouts 1996, section 4.1),
    or the median where the box is too skewed for it; a 3x3 median filters the mesh. Sources found on the
    first mesh are masked and the mesh is measured again, twice. A box with too few pixels takes the value of
    its neighbours. A box cut by the frame's edge or by a mask stands for its nominal centre.

    Parameters
    ----------
    image : (y, x) float32
        Electrons, sky included; NaN marks no data.
    mask : (y, x) uint16
        Bits of `Flag`; UNUSABLE pixels are left out.
    box : int
        Side of a box in pixels.

    Returns
    -------
    mesh, rms : (ceil(y / box), ceil(x / box)) float32
        Sky level and standard deviation of a pixel, electrons.

    Raises
    ------
    InputError
        No usable pixel, or image and mask of different shapes.
    """
    if image.shape != mask.shape:
        raise InputError(f"image is {image.shape} and its mask {mask.shape}: they must be one frame")
    usable = np.isfinite(image) & ((mask & int(UNUSABLE)) == 0)
    if not usable.any():
        raise InputError(f"no usable pixel in a frame of {image.shape}: all are NaN or masked")
    pixels = np.where(usable, image, np.nan).astype(np.float32)
    mesh, rms, filled = _measure_mesh(pixels, box)
    for _ in range(2):
        sources = _find_sources(pixels, mesh, rms, box)
        again = _measure_mesh(np.where(sources, np.nan, pixels).astype(np.float32), box)
        if again[2] > max(1 / 3, filled):
            break  # so crowded that too little sky is left: what stood before is the better guess
        mesh, rms, _ = again
    return mesh.astype(np.float32), rms.astype(np.float32)


def evaluate(mesh: NDArray[Any], box: int, y0: int, x0: int, height: int, width: int) -> Float32:
    """Cubic spline of a mesh at a window of the frame.

    The spline is that of the whole mesh and every pixel is computed alone, so a window equals the same
    window of the whole, bit for bit. Beyond the outermost box centres it goes on linearly.

    Parameters
    ----------
    mesh : (mesh_y, mesh_x)
        From `measure_background`.
    box : int
        Side of a box in pixels.
    y0, x0, height, width : int
        The window, pixels of the frame.

    Returns
    -------
    (height, width) float32
        In the mesh's unit. A mesh that is positive everywhere gives values of at least half its minimum.
    """
    values = np.asarray(mesh, dtype=np.float64)
    coefficients = ndimage.spline_filter(_extend(values, _MARGIN), order=3, mode="mirror")
    rows, row_weights = _taps(y0, height, box, values.shape[0])
    columns, column_weights = _taps(x0, width, box, values.shape[1])
    # Four taps in a fixed order: a matrix product may round differently for windows of other shapes.
    partial = np.zeros((height, coefficients.shape[1]))
    for k in range(4):
        partial += coefficients[rows + k] * row_weights[k][:, None]
    lowest = float(values.min())
    window = np.empty((height, width), dtype=np.float32)
    part, term = np.empty((2, _ROWS, width))
    for top in range(0, height, _ROWS):  # few rows at a time stay in the cache
        here = slice(top, min(top + _ROWS, height))
        part, term = part[: here.stop - top], term[: here.stop - top]
        part[:] = 0
        for k in range(4):
            np.take(partial[here], columns + k, axis=1, out=term, mode="clip")
            term *= column_weights[k]
            part += term
        window[here] = np.maximum(part, 0.5 * lowest) if lowest > 0 else part
    return window


def _taps(start: int, count: int, box: int, boxes: int) -> tuple[NDArray[np.intp], Float64]:
    """First tap and the four cubic B-spline weights of each pixel along one axis of the extended mesh."""
    position = (np.arange(start, start + count) + 0.5) / box - 0.5
    position = np.clip(position, -1.0, float(boxes)) + _MARGIN
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
    )
    return first - 1, weights


def _extend(values: Float64, width: int) -> Float64:
    """Mesh with `width` cells more on each side, continued linearly (a single row or column: constant)."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (width, width)
        if values.shape[axis] == 1:
            values = np.pad(values, pad, mode="edge")
        else:
            first, last = np.take(values, [0], axis), np.take(values, [-1], axis)
            slope_first = first - np.take(values, [1], axis)
            slope_last = last - np.take(values, [-2], axis)
            before = [first + k * slope_first for k in range(width, 0, -1)]
            after = [last + k * slope_last for k in range(1, width + 1)]
            values = np.concatenate([*before, values, *after], axis=axis)
    return values


def _measure_mesh(pixels: Float32, box: int) -> tuple[Float64, Float64, float]:
    """Filtered mesh of mode and sigma, and the fraction of boxes that had to be filled."""
    height, width = pixels.shape
    rows, columns = -(-height // box), -(-width // box)
    padded = np.full((rows * box, columns * box), np.nan, dtype=np.float32)
    padded[:height, :width] = pixels
    boxes = padded.reshape(rows, box, columns, box).swapaxes(1, 2).reshape(rows * columns, box * box)
    mode, sigma = (m.reshape(rows, columns) for m in _clipped_mode(boxes, _MIN_FRACTION * box * box))
    missing = ~np.isfinite(mode)
    if missing.all():  # a frame smaller than a fraction of a box, or almost all of it masked
        mode, sigma = (m.reshape(rows, columns) for m in _clipped_mode(boxes, 1))
        missing = ~np.isfinite(mode)
    if missing.all():
        return mode, sigma, 1.0
    mode, sigma = _fill(mode), _fill(sigma)
    mode, sigma = _median_filter(mode), _median_filter(sigma)
    if not missing.all() and rows * columns > 1:
        mode = mode + _centre_correction(np.isfinite(padded), mode, box)
    return mode, sigma, float(missing.mean())


def _clipped_mode(boxes: Float32, min_pixels: float) -> tuple[Float64, Float64]:
    """Mode and sigma of each row of finite values, clipped at three sigma about the median."""
    ordered = np.sort(boxes, axis=1)  # NaN goes last
    stop = np.isfinite(ordered).sum(axis=1)
    enough = stop >= max(min_pixels, 1)
    pivot = np.where(enough, ordered[np.arange(len(ordered)), stop // 2], 0.0).astype(np.float64)
    values = np.where(
        np.isfinite(ordered), ordered - pivot[:, None], 0.0
    )  # about the median: sums keep precision
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    squares = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values**2, axis=1)], axis=1)
    start = np.zeros(len(values), dtype=np.intp)
    row = np.arange(len(values))
    count = stop
    median = mean = sigma = np.zeros(len(values))
    for _ in range(30):
        n = np.maximum(count - start, 1)
        low, high = start + (n - 1) // 2, start + n // 2
        median = 0.5 * (values[row, low] + values[row, np.minimum(high, values.shape[1] - 1)])
        mean = (sums[row, count] - sums[row, start]) / n
        sigma = np.sqrt(np.maximum((squares[row, count] - squares[row, start]) / n - mean**2, 0))
        inside = (values >= (median - _CLIP_SIGMA * sigma)[:, None]) & (
            values <= (median + _CLIP_SIGMA * sigma)[:, None]
        )
        inside &= np.arange(values.shape[1]) < stop[:, None]
        new_start = np.where(inside.any(axis=1), inside.argmax(axis=1), start)
        new_count = new_start + inside.sum(axis=1)
        new_count = np.where(inside.any(axis=1), new_count, count)
        if np.array_equal(new_start, start) and np.array_equal(new_count, count):
            break
        start, count = new_start, new_count
    skewed = np.abs(mean - median) > 0.3 * sigma
    mode = np.where(skewed, median, 2.5 * median - 1.5 * mean) + pivot
    return np.where(enough, mode, np.nan), np.where(enough, sigma / _CLIP_BIAS, np.nan)


def _fill(values: Float64) -> Float64:
    """Missing cells take the mean of known neighbours, ring by ring, then relax to a smooth membrane."""
    values = values.copy()
    hole = ~np.isfinite(values)
    while (missing := ~np.isfinite(values)).any():
        known = np.pad(np.where(missing, 0.0, values), 1)
        weight = np.pad((~missing).astype(float), 1)
        total, n = np.zeros_like(values), np.zeros_like(values)
        for dy in range(3):
            for dx in range(3):
                total += known[dy : dy + values.shape[0], dx : dx + values.shape[1]]
                n += weight[dy : dy + values.shape[0], dx : dx + values.shape[1]]
        reached = missing & (n > 0)
        values[reached] = total[reached] / n[reached]
    if hole.any():
        for _ in range(100):
            wide = _extend(values, 1)
            around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
            values[hole] = 0.25 * around[hole]
    return values


def _median_filter(values: Float64) -> Float64:
    """3x3 median; the linear continuation beyond the rim keeps a plane as it is."""
    filtered: Float64 = ndimage.median_filter(_extend(values, 1), size=3)[1:-1, 1:-1]
    return filtered


def _centre_correction(used: NDArray[np.bool_], mode: Float64, box: int) -> Float64:
    """What brings each box from the centre of the pixels it has to its nominal centre."""
    rows, columns = mode.shape
    cells = used.reshape(rows, box, columns, box)
    n = np.maximum(cells.sum(axis=(1, 3)), 1)
    inner = (np.arange(box) - 0.5 * (box - 1)) / box
    shift_y = (cells.sum(axis=3) * inner[None, :, None]).sum(axis=1) / n
    shift_x = (cells.sum(axis=1) * inner[None, None, :]).sum(axis=2) / n
    slope_y = np.gradient(mode, axis=0) if rows > 1 else np.zeros_like(mode)
    slope_x = np.gradient(mode, axis=1) if columns > 1 else np.zeros_like(mode)
    correction: Float64 = -(shift_y * slope_y + shift_x * slope_x)
    return correction


def _find_sources(pixels: Float32, mesh: Float64, rms: Float64, box: int) -> NDArray[np.bool_]:
    """Pixels near anything that stands out, of either sign, seen at two scales."""
    height, width = pixels.shape
    sky = evaluate(mesh, box, 0, 0, height, width)
    noise = np.maximum(evaluate(rms, box, 0, 0, height, width), np.float32(1e-6))
    finite = np.isfinite(pixels)
    significance = np.where(finite, (pixels - sky) / noise, 0).astype(np.float32)
    np.clip(significance, -50, 50, out=significance)
    found = np.zeros(pixels.shape, dtype=bool)
    for scale in _SOURCE_SCALES_PX:
        found |= np.abs(ndimage.gaussian_filter(significance, scale, mode="constant")) > _SOURCE_LEVEL
    grown: NDArray[np.bool_] = ndimage.maximum_filter(found, size=2 * _GROW_PX + 1)
    return grown
