"""Moving sources and comets: the PSF as a few Gaussians, whose trails and comae have closed forms.

A Gaussian drawn along a line is a Gaussian across it times a difference of error functions along it. A coma
of brightness 1/rho and a tail are sums of Gaussians themselves, and the seeing adds to their variances. All
fluxes are totals: what is painted sums to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from astrid_dist.errors import InputError
from astrid_dist.imaging.psf import moments_of
from astrid_dist.simulation.painter import deposit, noise_numbers, planes_and_sources
from astrid_dist.simulation.philox import block, compiled
from astrid_dist.simulation.psf_bank import PsfBank

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

#: A PSF that varies over the field is taken as constant in so many parts of each of its sides.
CELLS = 4
#: Longest trail or tail, pixels: longer ones are streaks of satellites.
LONGEST_PX = 4000.0
#: Gaussians along a tail.
_TAIL_STEPS = 10
#: Sigmas at which a Gaussian ends: 2e-6 of its light is beyond.
_REACH = 5.1


@dataclass(frozen=True)
class PsfGaussians:
    """A PSF as a sum of Gaussians of one shape and several sizes."""

    weights: Float64
    """(n,), sum 1."""
    covariances: Float64
    """(n, 2, 2) pixel², x before y."""
    error: float
    """Largest difference from the PSF in parts of its peak."""

    @classmethod
    def of_stamp(cls, stamp: NDArray[np.floating]) -> PsfGaussians:
        """From a (v, u) PSF centred on its middle pixel.

        Weighted least squares with positive weights over a ladder of sizes (as Cappellari 2002). Of a Moffat
        of FWHM 3 pixels and more the error is below 0.4 % of the peak, of an elongated one of 2 pixels 2 %;
        what is lopsided about a PSF is lost.
        """
        values = np.asarray(stamp, dtype=np.float64)
        half_v, half_u = values.shape[0] // 2, values.shape[1] // 2
        v, u = np.mgrid[-half_v : half_v + 1, -half_u : half_u + 1].astype(float)
        fwhm = 2 * math.sqrt((values > 0.5 * values.max()).sum() / math.pi)
        moments = moments_of(values, fwhm)
        size = float(np.linalg.det(moments)) ** 0.25
        shape = moments / size**2
        inverse = np.linalg.inv(shape)
        squared = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
        # none so narrow that samples at pixels miss its light
        sigmas = np.geomspace(max(0.5 * size, 0.5), 6.0 * size, 10)
        basis = np.exp(-0.5 * squared[..., None] / sigmas**2) / (2 * math.pi * sigmas**2)
        weight = np.sqrt(1 + squared / size**2)  # wings hold much light in many faint pixels
        made, _ = nnls((basis * weight[..., None]).reshape(-1, len(sigmas)), (values * weight).ravel())
        used = made > 1e-4 * made.sum()
        if not used.any():
            raise InputError("a PSF without positive light cannot be drawn along a trail")
        error = np.abs(basis[..., used] @ made[used] - values).max() / values.max()
        covariances = sigmas[used, None, None] ** 2 * shape
        return cls(made[used] / made[used].sum(), covariances, float(error))


@compiled
def _mixtures(
    image: Float32,
    variance: Float32,
    window: Int64,
    x: Float64,
    y: Float64,
    flux: Float64,
    first: Int64,
    parts: Float64,
    line: Float64,
    half: Int64,
    noisy: bool,
    key: np.uint64,
    items: Int64,
) -> None:
    """Paints sums of Gaussians drawn along lines.

    `parts` (m, 8) holds weight, offset x, y, inverse covariance xx, xy, yy and sigma along x, y; those of
    source i are first[i] .. first[i + 1]; `line` (n, 3) length and direction; `half` (n, 2) half height and
    width.
    """
    start, twist = np.uint64(0), np.uint64(0)
    for i in range(len(x)):
        tall, wide = half[i, 0], half[i, 1]
        inside_x = -wide - 1 < x[i] < image.shape[2] + wide
        if flux[i] == 0.0 or not (inside_x and -tall - 1 < y[i] < image.shape[1] + tall):
            continue
        column, row = math.floor(x[i] + 0.5), math.floor(y[i] + 0.5)
        light = np.zeros((2 * tall + 1, 2 * wide + 1), dtype=np.float32)
        length, along_x, along_y = line[i]
        drawn = length > 1e-6
        total = 0.0
        for j in range(first[i], first[i + 1]):
            share, off_x, off_y, xx, xy, yy, sigma_x, sigma_y = parts[j]
            norm = share * math.sqrt(xx * yy - xy * xy) / (2.0 * math.pi)
            push_x, push_y = xx * along_x + xy * along_y, xy * along_x + yy * along_y
            stiff = push_x * along_x + push_y * along_y
            root = math.sqrt(0.5 * stiff)
            middle_x, middle_y = x[i] + off_x - (column - wide), y[i] + off_y - (row - tall)
            reach_x = _REACH * sigma_x + 0.5 * length * abs(along_x)
            reach_y = _REACH * sigma_y + 0.5 * length * abs(along_y)
            for v in range(max(0, int(middle_y - reach_y)), min(light.shape[0], int(middle_y + reach_y) + 2)):
                dy = v - middle_y
                for u in range(
                    max(0, int(middle_x - reach_x)), min(light.shape[1], int(middle_x + reach_x) + 2)
                ):
                    dx = u - middle_x
                    far = xx * dx * dx + 2.0 * xy * dx * dy + yy * dy * dy
                    if drawn:
                        nearest = (push_x * dx + push_y * dy) / stiff
                        far -= stiff * nearest * nearest  # across the line
                    if far > _REACH * _REACH:
                        continue
                    value = norm * math.exp(-0.5 * far)
                    if drawn:
                        ends = math.erf(root * (0.5 * length - nearest))
                        ends += math.erf(root * (0.5 * length + nearest))
                        value *= math.sqrt(2.0 * math.pi / stiff) / length * 0.5 * ends
                    light[v, u] += np.float32(value)
                    total += value
        if noisy:
            start, twist = block(key, items[i])
        k = window[i]
        plane = variance[k] if variance.size > 0 else variance[0:0].reshape((0, 0))
        deposit(image[k], plane, light, flux[i] / total, row - tall, column - wide, noisy, start, twist)


def _by_place(bank: PsfBank, x: Float64, y: Float64) -> list[PsfGaussians]:
    """The PSF at each source, as Gaussians; fitted once for each cell of a bank."""
    cells = CELLS if bank.order else 1
    height, width = bank.shape
    across = np.clip(x * cells / width, 0, cells - 1).astype(int)
    down = np.clip(y * cells / height, 0, cells - 1).astype(int)
    found = []
    for cell in zip(across.tolist(), down.tolist(), strict=True):
        if cell not in bank.fits:
            middle = (cell[0] + 0.5) * width / cells, (cell[1] + 0.5) * height / cells
            bank.fits[cell] = PsfGaussians.of_stamp(bank.stamp(*middle))
        found.append(bank.fits[cell])
    return found


def _parts(weights: ArrayLike, offsets: ArrayLike, covariances: NDArray[np.float64]) -> Float64:
    """(m, 8) rows for `_mixtures`."""
    inverse = np.linalg.inv(covariances)
    made = np.empty((len(covariances), 8))
    made[:, 0], made[:, 1:3] = weights, offsets
    made[:, 3], made[:, 4], made[:, 5] = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    made[:, 6:] = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return made


def paint_trails(
    image: Float32,
    variance: Float32 | None,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    length_px: ArrayLike,
    angle_rad: ArrayLike,
    bank: PsfBank,
    *,
    key: np.uint64 | None = None,
    items: ArrayLike | None = None,
    window: ArrayLike | None = None,
    place: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Adds sources that moved evenly along a straight line during the exposure.

    Parameters
    ----------
    image, variance, bank, key, items, window, place
        As for `painter.paint_points`.
    x, y : (n,)
        Middle of each trail, pixels.
    flux : (n,)
        Total electrons of the whole trail, not per pixel of its length.
    length_px, angle_rad : (n,)
        Length, and direction from +x towards +y. A length of 0 is a point, to within `PsfGaussians.error`.

    Raises
    ------
    InputError
        Arrays that do not go together, values that are not finite, a length that is negative or too long.
    """
    canvas, plane, where, columns = planes_and_sources(
        image, variance, window, x, y, flux, length_px, angle_rad
    )
    xs, ys, electrons, length, angle = columns
    _check_lengths("trail", length)
    numbers, noisy = noise_numbers(key, items, len(xs))
    psfs = _by_place(bank, *_places(place, xs, ys))
    parts = [_parts(psf.weights, (0.0, 0.0), psf.covariances) for psf in psfs]
    line = np.column_stack([length, np.cos(angle), np.sin(angle)])
    half = np.ceil(np.abs(line[:, [2, 1]]) * 0.5 * length[:, None] + bank.radius_px).astype(np.int64)
    _paint(canvas, plane, where, xs, ys, electrons, parts, line, half, noisy, key, numbers)


def paint_comae(
    image: Float32,
    variance: Float32 | None,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    coma_px: ArrayLike,
    nucleus: ArrayLike,
    bank: PsfBank,
    *,
    tail: ArrayLike = 0.0,
    tail_px: ArrayLike = 0.0,
    tail_angle_rad: ArrayLike = 0.0,
    tail_opening_rad: ArrayLike = 0.35,
    key: np.uint64 | None = None,
    items: ArrayLike | None = None,
    window: ArrayLike | None = None,
    place: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Adds comets: a nucleus, a coma whose brightness falls as 1/rho, and a tail, all seen through the PSF.

    Parameters
    ----------
    image, variance, bank, key, items, window, place
        As for `painter.paint_points`.
    x, y : (n,)
        The nucleus, pixels.
    flux : (n,)
        Total electrons of nucleus, coma and tail.
    coma_px : (n,)
        Radius at which the coma ends, pixels, above 0.
    nucleus, tail : (n,)
        Parts of the flux that are in the nucleus and in the tail; the coma has the rest.
    tail_px, tail_angle_rad, tail_opening_rad : (n,)
        Length, direction from +x towards +y and full angle of the wedge; its light falls to nothing linearly.

    Raises
    ------
    InputError
        Arrays that do not go together, values that are not finite, no radius, parts that are not parts.
    """
    canvas, plane, where, columns = planes_and_sources(
        image, variance, window, x, y, flux, coma_px, nucleus, tail, tail_px, tail_angle_rad, tail_opening_rad
    )
    xs, ys, electrons, radius, core, wedge, length, angle, opening = columns
    _check_lengths("tail", length)
    _check_lengths("coma", radius)
    if (radius <= 0).any() or (core < 0).any() or (wedge < 0).any() or (core + wedge > 1).any():
        raise InputError(
            "a comet needs coma_px > 0, and parts of its light in nucleus and tail within 0 .. 1"
        )
    numbers, noisy = noise_numbers(key, items, len(xs))
    psfs = _by_place(bank, *_places(place, xs, ys))
    parts = [
        _comet(psf, *values)
        for psf, *values in zip(psfs, radius, core, wedge, length, angle, opening, strict=True)
    ]
    reach = (
        np.stack([np.abs(np.sin(angle)), np.abs(np.cos(angle))], axis=1)
        * (1.2 * length * (wedge > 0))[:, None]
    )
    half = np.ceil(np.maximum(reach, 1.5 * radius[:, None]) + bank.radius_px).astype(np.int64)
    line = np.zeros((len(xs), 3))
    line[:, 1] = 1.0
    _paint(canvas, plane, where, xs, ys, electrons, parts, line, half, noisy, key, numbers)


@cache
def coma_gaussians() -> tuple[Float64, Float64]:
    """Weights (n,) and sigmas (n,) of round Gaussians that together are 1/rho bright and end at rho = 1.

    To 7 % of the light within a radius up to .9; the end is soft.
    """
    radius = np.concatenate([np.geomspace(0.01, 0.2, 60), np.linspace(0.2, 2.0, 120)])
    sigmas = np.geomspace(0.008, 0.6, 12)
    within = 1 - np.exp(-0.5 * (radius[:, None] / sigmas) ** 2)
    # light within a radius grows evenly up to the end; near the middle a part of it counts
    weight = 1 / np.sqrt(np.minimum(radius, 1))
    made, _ = nnls(within * weight[:, None], np.minimum(radius, 1) * weight)
    used = made > 0
    return made[used] / made[used].sum(), sigmas[used]


def _comet(
    psf: PsfGaussians, radius: float, nucleus: float, tail: float, length: float, angle: float, opening: float
) -> Float64:
    """(m, 8) Gaussians of one comet, after the seeing."""
    weights, offsets, spreads = [np.array([nucleus])], [np.zeros((1, 2))], [np.zeros((1, 2, 2))]
    share, sigmas = coma_gaussians()
    weights.append((1 - nucleus - tail) * share)
    offsets.append(np.zeros((len(share), 2)))
    spreads.append((radius * sigmas)[:, None, None] ** 2 * np.eye(2))
    if tail > 0:
        along = (np.arange(_TAIL_STEPS) + 0.5) / _TAIL_STEPS
        fading = (1 - along) / (1 - along).sum()
        towards = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-towards[1], towards[0]])
        step, width = 0.6 * length / _TAIL_STEPS, length * along * math.tan(0.5 * opening) / 2
        weights.append(tail * fading)
        offsets.append(length * along[:, None] * towards)
        spreads.append(
            step**2 * np.outer(towards, towards) + width[:, None, None] ** 2 * np.outer(across, across)
        )
    made = []
    seeing = np.einsum("k,kij->ij", psf.weights, psf.covariances)
    for one, offset, spread in zip(*(np.concatenate(p) for p in (weights, offsets, spreads)), strict=True):
        if np.linalg.eigvalsh(spread)[0] > 4 * np.trace(seeing):  # the seeing's own profile is lost in it
            made.append(_parts([one], offset, (spread + seeing)[None]))
        elif one > 0:
            made.append(_parts(one * psf.weights, offset, psf.covariances + spread))
    return np.concatenate(made)


def _places(place: tuple[ArrayLike, ArrayLike] | None, x: Float64, y: Float64) -> list[Float64]:
    return [np.broadcast_to(np.asarray(p, np.float64), x.shape) for p in ((x, y) if place is None else place)]


def _check_lengths(what: str, length: Float64) -> None:
    bad = (length < 0) | (length > LONGEST_PX)
    if bad.any():
        raise InputError(f"{what} {bad.argmax()} is {length[bad][0]:g} px long: need 0 .. {LONGEST_PX:g}")


def _paint(
    canvas: Float32,
    plane: Float32,
    where: Int64,
    x: Float64,
    y: Float64,
    flux: Float64,
    parts: list[Float64],
    line: Float64,
    half: Int64,
    noisy: bool,
    key: np.uint64 | None,
    items: Int64,
) -> None:
    if not parts:
        return
    first = np.concatenate([[0], np.cumsum([len(one) for one in parts])]).astype(np.int64)
    together = np.ascontiguousarray(np.concatenate(parts))
    number = np.uint64(0 if key is None else key)
    _mixtures(canvas, plane, where, x, y, flux, first, together, line, half, noisy, number, items)
