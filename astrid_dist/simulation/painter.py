"""Painting many sources into images, with their own shot noise and its variance, in numba.

Light of a source is its total flux: what a footprint cuts off is made up for by scaling. Noise of a pixel
depends on (key, item, place in the footprint) alone: a source that lies across two images has the same noise
in both, and neither order nor batch matters.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError
from astrid_dist.simulation.philox import block, compiled, normal_at, uniform_at
from astrid_dist.simulation.psf_bank import PsfBank

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

#: Mean number of electrons in a pixel from which its Poisson distribution is made from a Gaussian number.
MANY = 10.0


@compiled
def _shot_noise(light: Float32, start: np.uint64, twist: np.uint64, first: int, work: Float64) -> None:
    """Puts in place of mean numbers of electrons (u,) ones from their Poisson distributions.

    By inversion if few; if many from a Gaussian number, with the mean, the variance and nearly the skewness
    of Poisson (after Cornish & Fisher 1938), but not whole. Pixels without light stay. All pixels of a row
    are inverted together, without a branch: `work` (5, u or more) is scratch space.
    """
    mean, left, chance, within, count = work[0], work[1], work[2], work[3], work[4]
    for u in range(light.size):
        mean[u] = float(light[u]) if 0.0 < light[u] < MANY else 0.0
        left[u] = uniform_at(start, twist, first + u)
        # exp(-mean) to 1e-9
        part = mean[u] * (1.0 / 1024.0)
        none = 1.0 - part * (1.0 - part * (0.5 - part * (1.0 / 6.0 - part * (1.0 / 24.0))))
        for _ in range(10):
            none *= none
        chance[u], within[u], count[u] = none, none, 0.0
    for k in range(1, 100):
        unsettled = 0
        for u in range(light.size):
            above = left[u] > within[u]
            unsettled += above
            count[u] += above
            chance[u] *= mean[u] * (1.0 / k)
            within[u] += chance[u]
        if unsettled == 0:
            break
    for u in range(light.size):
        if light[u] >= MANY:
            z, many = normal_at(start, twist, first + u), float(light[u])
            light[u] = np.float32(many + math.sqrt(many - 1.0 / 18.0) * z + (z * z - 1.0) * (1.0 / 6.0))
        elif light[u] > 0.0:
            light[u] = np.float32(count[u])


@compiled
def deposit(
    image: Float32,
    variance: Float32,
    light: Float32,
    scale: float,
    top: int,
    left: int,
    noisy: bool,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """Adds `scale` times `light` (v, u) to an image (y, x), its upper left pixel at (top, left).

    Light adds its variance, if `variance` is not empty, and shot noise, if `noisy`. With a negative scale,
    light is taken away and neither is added: photons that did not come leave no noise. `light` is used up.
    """
    height, width = light.shape
    first_v, last_v = max(0, -top), min(height, image.shape[0] - top)
    first_u, last_u = max(0, -left), min(width, image.shape[1] - left)
    factor, none = np.float32(scale), np.float32(0)
    work = np.empty((5, width))
    for v in range(first_v, last_v):
        seen = light[v, first_u:last_u]
        for u in range(seen.size):
            seen[u] *= factor
        if variance.size > 0 and scale > 0.0:
            above = variance[top + v, left + first_u : left + last_u]
            for u in range(seen.size):
                above[u] += max(seen[u], none)
        if noisy and scale > 0.0:
            _shot_noise(seen, start, twist, v * width + first_u, work)
        row = image[top + v, left + first_u : left + last_u]
        for u in range(seen.size):
            row[u] += seen[u]


@compiled
def _add_four(
    pixels: Float32, upper: Float32, lower: Float32, p: int, a: float, b: float, c: float, d: float
) -> None:
    """Adds the four phases about a place, each (pixels,), by their weights."""
    one, two, three, four = upper[p], upper[p + 1], lower[p], lower[p + 1]
    a32, b32, c32, d32 = np.float32(a), np.float32(b), np.float32(c), np.float32(d)
    for j in range(pixels.size):
        pixels[j] += a32 * one[j] + b32 * two[j] + c32 * three[j] + d32 * four[j]


@compiled
def _points(
    image: Float32,
    variance: Float32,
    window: Int64,
    order: Int64,
    x: Float64,
    y: Float64,
    flux: Float64,
    side: int,
    phases: Float32,
    sums: Float64,
    weights: Float64,
    conserve: bool,
    noisy: bool,
    key: np.uint64,
    items: Int64,
) -> None:
    """`paint_points` on a stack (n, y, x), sources in the `order` given."""
    steps, half = phases.shape[1] - 1, side // 2
    light = np.empty((side, side), dtype=np.float32)
    pixels = light.reshape(side * side)
    start, twist = np.uint64(0), np.uint64(0)
    for i in order:
        if flux[i] == 0.0 or not (
            -half - 1 < x[i] < image.shape[2] + half and -half - 1 < y[i] < image.shape[1] + half
        ):
            continue
        column, row = math.floor(x[i] + 0.5), math.floor(y[i] + 0.5)
        at_x, at_y = (x[i] - column + 0.5) * steps, (y[i] - row + 0.5) * steps
        p, q = min(int(at_x), steps - 1), min(int(at_y), steps - 1)
        right, below = at_x - p, at_y - q
        pixels[:] = np.float32(0)
        total = 0.0
        for t in range(len(phases)):
            share = weights[i, t]
            a, b = share * (1 - below) * (1 - right), share * (1 - below) * right
            c, d = share * below * (1 - right), share * below * right
            _add_four(pixels, phases[t, q], phases[t, q + 1], p, a, b, c, d)
            total += a * sums[t, q, p] + b * sums[t, q, p + 1]
            total += c * sums[t, q + 1, p] + d * sums[t, q + 1, p + 1]
        if noisy:
            start, twist = block(key, items[i])
        k = window[i]
        deposit(
            image[k],
            variance[k] if variance.size > 0 else variance[0:0].reshape((0, 0)),
            light,
            flux[i] / total if conserve else flux[i],
            row - half,
            column - half,
            noisy,
            start,
            twist,
        )


def paint_points(
    image: Float32,
    variance: Float32 | None,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    bank: PsfBank,
    *,
    key: np.uint64 | None = None,
    items: ArrayLike | None = None,
    window: ArrayLike | None = None,
    place: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Adds point sources in place.

    Parameters
    ----------
    image : (y, x) or (window, y, x) float32
        Electrons. NaN stays NaN.
    variance : like image, optional
        Electron²; grows by the light of what is added.
    x, y : (n,)
        Pixels of the image or window, centres at integers; may lie outside.
    flux : (n,)
        Total electrons of each. Negative flux takes light away and has neither noise nor variance.
    bank : PsfBank
        What one electron looks like.
    key : uint64, optional
        Of `philox.stream`; without it there is no shot noise. Where a pixel has fewer than `MANY` electrons,
        their number is whole.
    items : (n,) integers
        Which sources these are, for the noise; needed with `key`.
    window : (n,) integers, optional
        In which window of a stack each source lies; source i in window i if left out.
    place : (x, y), optional
        Pixels of the field where each source's PSF is taken, if they are not x and y.

    Raises
    ------
    InputError
        Arrays that do not go together, values that are not finite.
    """
    canvas, noise_plane, where, columns = planes_and_sources(image, variance, window, x, y, flux)
    numbers, noisy = noise_numbers(key, items, len(where))
    xs, ys, electrons = columns
    at = (xs, ys) if place is None else place
    weights = bank.weights(*(np.broadcast_to(p, xs.shape) for p in at))
    _points(
        canvas,
        noise_plane,
        where,
        np.lexsort((xs, np.rint(ys), where)),  # neighbours in memory follow each other; sums have one order
        xs,
        ys,
        electrons,
        bank.phases.shape[-1],
        bank.phases.reshape(*bank.phases.shape[:3], -1),
        bank.sums,
        weights,
        bank.conserve,
        noisy,
        np.uint64(0 if key is None else key),
        numbers,
    )


def paint_patterns(
    image: Float32,
    variance: Float32,
    patterns: Float32,
    flux: ArrayLike,
    *,
    key: np.uint64,
    items: ArrayLike,
) -> None:
    """Adds patterns of one electron each, drawn without noise before, in place, with their own shot noise.

    Parameters
    ----------
    image, variance, patterns : (n, y, x) float32
        Pattern i goes to window i.
    flux : (n,)
        Electrons of each.
    key, items
        As for `paint_points`.
    """
    numbers, _ = noise_numbers(key, items, len(patterns))
    _patterns(image, variance, patterns, np.ascontiguousarray(flux, np.float64), np.uint64(key), numbers)


@compiled
def _patterns(
    image: Float32, variance: Float32, patterns: Float32, flux: Float64, key: np.uint64, items: Int64
) -> None:
    for i in range(len(patterns)):
        start, twist = block(key, items[i])
        deposit(image[i], variance[i], patterns[i].copy(), flux[i], 0, 0, True, start, twist)


def planes_and_sources(
    image: Float32, variance: Float32 | None, window: ArrayLike | None, *columns: ArrayLike
) -> tuple[Float32, Float32, Int64, list[Float64]]:
    """Stacks (n, y, x) that share memory with the images, (n,) windows and (n,) columns, all checked."""
    if image.dtype != np.float32 or image.ndim not in (2, 3):
        raise InputError(f"image is {image.dtype} {image.shape}: need float32 (y, x) or (window, y, x)")
    if variance is not None and (variance.shape != image.shape or variance.dtype != np.float32):
        raise InputError(f"variance is {variance.dtype} {variance.shape}, the image float32 {image.shape}")
    canvas = image[None] if image.ndim == 2 else image
    if variance is None:
        plane = np.empty((0, 0, 0), np.float32)
    else:
        plane = variance[None] if image.ndim == 2 else variance
    checked = [
        np.ascontiguousarray(column, dtype=np.float64)
        for column in np.broadcast_arrays(*(np.atleast_1d(np.asarray(c, np.float64)) for c in columns))
    ]
    bad = ~np.all([np.isfinite(column) for column in checked], axis=0)
    if bad.any():
        raise InputError(
            f"{bad.sum()} of {bad.size} sources have a value that is not finite; the first: {bad.argmax()}"
        )
    n = len(checked[0])
    if window is None:
        where = np.zeros(n, np.int64) if image.ndim == 2 else np.arange(n)
    else:
        where = np.ascontiguousarray(np.broadcast_to(window, (n,)), dtype=np.int64)
    if n and not (where.min() >= 0 and where.max() < len(canvas)):
        raise InputError(f"{n} sources go to windows up to {where.max()}, but there are {len(canvas)}")
    return canvas, plane, where, checked


def noise_numbers(key: np.uint64 | None, items: ArrayLike | None, n: int) -> tuple[Int64, bool]:
    """(n,) items and whether there is noise."""
    if key is None:
        return np.zeros(0, np.int64), False
    if items is None:
        raise InputError("shot noise needs `items`: the number of each source, so that its noise is its own")
    return np.ascontiguousarray(np.broadcast_to(items, (n,)), dtype=np.int64), True
