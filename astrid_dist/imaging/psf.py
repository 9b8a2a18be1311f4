"""The point-spread function of an epoch as a model: Legendre terms over the field, evaluated and shifted.

Stamps are odd squares centred on their middle pixel. With an oversampling of s a stamp has s samples to a
pixel and `stamp_side` of a side; every s-th one, counted from the middle, is what the pixels see of a star in
the middle of a pixel. `psf_fit` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize
from scipy.interpolate import BSpline

from astrid_dist.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Wings end at the same multiples of every seeing: then "total flux" means the same in every epoch.
_TAPER_FWHM = (2.5, 4.0)
_SPLINE = BSpline.basis_element(np.arange(-3.0, 4.0), extrapolate=False)  # quintic
_SLOPE = _SPLINE.derivative()


def _none() -> Float64:
    return np.zeros(0)


@dataclass(frozen=True)
class Psf:
    """PSF of one epoch."""

    terms: Float32
    """(n_terms(order), side, side): L_i(x) L_j(y); the first sums to 1 at the pixels, the others to 0."""
    order: int
    """Highest i + j that there is room for; terms that the stars do not support are zero."""
    oversampling: int
    n_stars: int
    """Stars it was made of, or that there were if they were too few."""
    fwhm_px: float
    """Full width at half maximum in the middle of the field, pixels."""
    elongation: float
    """Major over minor axis in the middle of the field."""
    chi2: float
    """Median over the stars of chi-square per degree of freedom within one FWHM; NaN without stars."""
    residual: Float32
    """(side, side) mean over the stars of what the model leaves, in parts of a star's flux."""
    fallback: bool = False
    """Whether the stars were too few and it is a Moffat."""
    reason: str = ""
    """Why it is a fallback or of lower order than asked; empty if all is well."""
    star_x: Float64 = field(default_factory=_none)
    """(n_stars,) pixels; with `star_y`, `star_chi2` one row per star it was made of."""
    star_y: Float64 = field(default_factory=_none)
    star_chi2: Float64 = field(default_factory=_none)

    def chi2_map(self, shape: tuple[int, int], tile_px: int) -> Float32:
        """Median chi-square of the stars in each tile of a field of (height, width); NaN where none is."""
        rows, columns = (-(-side // tile_px) for side in shape)
        tile_y = np.clip(np.rint(self.star_y).astype(int) // tile_px, 0, rows - 1)
        tile_x = np.clip(np.rint(self.star_x).astype(int) // tile_px, 0, columns - 1)
        found = np.full((rows, columns), np.nan, dtype=np.float32)
        for row, column in set(zip(tile_y.tolist(), tile_x.tolist(), strict=True)):
            found[row, column] = np.median(self.star_chi2[(tile_y == row) & (tile_x == column)])
        return found


def n_terms(order: int) -> int:
    """Terms of a PSF whose highest i + j is `order`."""
    return (order + 1) * (order + 2) // 2


def stamp_side(box: int, oversampling: int) -> int:
    """Samples along a side of a stamp that covers a box of pixels; odd, as the box is."""
    return oversampling * (box - 1) + 1


def legendre_weights(order: int, x: ArrayLike, y: ArrayLike, shape: tuple[int, ...]) -> Float64:
    """(n, n_terms) values of L_i(x) L_j(y) at pixels of a field (height, width), sorted by i + j, then i."""
    along_y, along_x = (
        legendre.legvander(2 * np.atleast_1d(np.asarray(p, float)) / max(n - 1, 1) - 1, order)
        for p, n in ((y, shape[0]), (x, shape[1]))
    )
    pairs = [(i, total - i) for total in range(order + 1) for i in range(total + 1)]
    return np.column_stack([along_x[:, i] * along_y[:, j] for i, j in pairs])


def moffat(
    fwhm_px: float,
    box: int,
    beta: float = 3.5,
    oversampling: int = 1,
    shear: tuple[float, float] = (0.0, 0.0),
) -> Float32:
    """Moffat (1969) profile sampled at pixel centres, tapered, unit sum.

    Parameters
    ----------
    fwhm_px : float
        Full width at half maximum in pixels, of the profile as the pixels see it; geometric mean of axes.
    box : int
        Side of the stamp in pixels, odd.
    beta : float
        Slope of the wings.
    oversampling : int
        Samples to a pixel.
    shear : (float, float)
        Logarithm of the axis ratio along x over y, and along the diagonals.

    Returns
    -------
    (side, side) float32
        Centred on the middle sample; the samples at pixels sum to 1.
    """
    if not (np.isfinite(fwhm_px) and fwhm_px > 0) or box % 2 == 0:
        raise InputError(
            f"a Moffat of FWHM {fwhm_px} px in a box of {box}: need a positive width and an odd box"
        )
    side, width = stamp_side(box, oversampling), oversampling * fwhm_px
    v, u = np.mgrid[-(side // 2) : side // 2 + 1, -(side // 2) : side // 2 + 1].astype(float)
    stamp = moffat_at(v, u, width, beta, shear) * taper(side, width)
    return np.asarray(stamp / stamp[::oversampling, ::oversampling].sum(), dtype=np.float32)


def moffat_at(v: Float64, u: Float64, fwhm: float, beta: float, shear: tuple[float, float]) -> Float64:
    """Moffat of peak 1 at offsets (v rows, u columns) from its middle; parameters as `moffat`."""
    along, across = 0.5 * shear[0], 0.5 * shear[1]
    size = max(float(np.hypot(along, across)), 1e-12)
    even, odd = np.cosh(2 * size), np.sinh(2 * size) / size
    squared = (even - odd * along) * u * u - 2 * odd * across * u * v + (even + odd * along) * v * v
    found: Float64 = (1 + squared / _moffat_core(fwhm, beta) ** 2) ** -beta
    return found


def evaluate(
    terms: NDArray[Any], order: int, x: float, y: float, shape: tuple[int, int], oversampling: int = 1
) -> Float32:
    """PSF at one place of the field, as the pixels see a star in the middle of one.

    Parameters
    ----------
    terms : (n_term, side, side)
        Terms L_i(x) L_j(y), i + j <= order, sorted by i + j, then i.
    order : int
        Highest i + j.
    x, y : float
        Pixels of the field.
    shape : (height, width)
        Of the field, which is scaled to -1 .. 1.
    oversampling : int
        Samples of the terms to a pixel.

    Returns
    -------
    (box, box) float32
    """
    fine = stamps_at(terms, order, x, y, shape)[0]
    return np.ascontiguousarray(fine[::oversampling, ::oversampling])


def stamps_at(terms: NDArray[Any], order: int, x: ArrayLike, y: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """(n, side, side) PSF at n places of the field, at its own sampling; parameters as `evaluate`."""
    if terms.ndim != 3 or terms.shape[0] != n_terms(order):
        raise InputError(f"PSF terms are {terms.shape}, order {order} needs ({n_terms(order)}, v, u)")
    weights = legendre_weights(order, x, y, shape).astype(np.float32)
    return np.tensordot(weights, np.asarray(terms, dtype=np.float32), axes=1)


def profiles(
    terms: NDArray[Any],
    order: int,
    oversampling: int,
    x: ArrayLike,
    y: ArrayLike,
    shape: tuple[int, ...],
    half: int | None = None,
) -> Float32:
    """Stars of unit flux as the pixels see them, and how they change as a star moves.

    Parameters
    ----------
    terms, order, oversampling, shape
        As in `evaluate`.
    x, y : (n,)
        Places of the stars in pixels.
    half : int, optional
        The slopes are wanted too, and all of it only within so many rows and columns of the middle.

    Returns
    -------
    (1 or 3, n, v, u) float32
        Profiles about the pixel nearest to each star; then, with `half`, their slopes along x and y, per
        pixel.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    there = np.flatnonzero(np.any(terms, axis=(1, 2)))
    content = _spline_content(_filtered(terms[there])).astype(np.float32)
    if half is not None and (cut := terms.shape[1] // 2 - half * oversampling) > 0:
        content = content[:, cut:-cut, cut:-cut]
    # Every pixel is a sum over 7 x 7 samples of every term: one product of matrices for all stars.
    windows = np.lib.stride_tricks.sliding_window_view(content, (7, 7), axis=(1, 2))
    windows = windows[:, ::oversampling, ::oversampling].transpose(0, 3, 4, 1, 2)
    box = windows.shape[-1]
    samples = windows.reshape(49 * len(there), box * box)
    over_field = legendre_weights(order, x, y, shape)[:, there]
    back_x, back_y = (oversampling * (p - np.rint(p)) for p in (x, y))
    at_x, at_y = _shift_weights(back_x), _shift_weights(back_y)
    pairs = [(at_x, at_y)]
    if half is not None:
        pairs.append((oversampling * _shift_weights(back_x, slope=True), at_y))
        pairs.append((at_x, oversampling * _shift_weights(back_y, slope=True)))
    made = [
        np.einsum("nt,nv,nu->ntvu", over_field, along_y, along_x).astype(np.float32).reshape(len(x), -1)
        for along_x, along_y in pairs
    ]
    return np.stack([weights @ samples for weights in made]).reshape(len(pairs), len(x), box, box)


def shift(stamps: NDArray[Any], dx: ArrayLike, dy: ArrayLike) -> Float64:
    """Stamps moved by (dx, dy), each less than a pixel, with quintic splines.

    Parameters
    ----------
    stamps : (v, u) or (n, v, u)
        Finite values. One stamp goes with every shift.
    dx, dy : (n,)
        Pixels, -1 .. 1; positive moves the content to larger x, y.

    Returns
    -------
    (n, v, u) float64
    """
    along_x, along_y = np.atleast_1d(np.asarray(dx, float)), np.atleast_1d(np.asarray(dy, float))
    if max(np.abs(along_x).max(initial=0), np.abs(along_y).max(initial=0)) > 1:
        raise InputError("a stamp is shifted by less than a pixel; cut it at the nearest pixel first")
    content = np.asarray(stamps, dtype=np.float64)
    content = _spline_content(_filtered(content[None] if content.ndim == 2 else content))
    rows = _along(content, _shift_weights(along_y), 1)
    return np.asarray(_along(rows, _shift_weights(along_x), 2), dtype=np.float64)


def _filtered(stamps: NDArray[Any]) -> NDArray[Any]:
    """Coefficients of the quintic splines through stamps (n, v, u)."""
    content = np.asarray(stamps, dtype=np.float64)
    for axis in (1, 2):
        content = ndimage.spline_filter1d(content, order=5, axis=axis, mode="mirror")
    return content


def _spline_content(coefficients: NDArray[Any]) -> NDArray[Any]:
    return np.pad(coefficients, ((0, 0), (3, 3), (3, 3)), mode="reflect")


def _along(content: NDArray[Any], weights: Float64, axis: int) -> NDArray[Any]:
    """Sums of seven neighbours along one axis, padded by three."""
    taps = weights.astype(content.dtype)[:, :, None, None]
    reach = content.shape[axis] - 6
    taken = [np.moveaxis(np.moveaxis(content, axis, 0)[k : k + reach], 0, axis) for k in range(7)]
    total: NDArray[Any] = taps[:, 0] * taken[0]
    for k in range(1, 7):
        total += taps[:, k] * taken[k]
    return total


def _shift_weights(delta: Float64, *, slope: bool = False) -> Float64:
    """Quintic B-spline weights (n, 7) for a sample that looks back by `delta`, or their slopes."""
    t = -delta[:, None] - np.arange(-3, 4)[None, :]
    found = np.nan_to_num(np.asarray((_SLOPE if slope else _SPLINE)(t), dtype=np.float64))
    return -found if slope else found


def centroid(stamp: NDArray[Any], fwhm_px: float) -> tuple[float, float]:
    """Offset (x, y) of a stamp's Gaussian-windowed centroid from the middle pixel, in pixels.

    The window is that of `stars.measure_stars`, so stars and PSF agree on where the middle is.
    """
    half_v, half_u = stamp.shape[0] // 2, stamp.shape[1] // 2
    v, u = np.mgrid[-half_v : half_v + 1, -half_u : half_u + 1].astype(float)
    sigma = fwhm_px / 2.3548
    x = y = 0.0
    for _ in range(30):
        window = stamp * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
        window = np.where((u - x) ** 2 + (v - y) ** 2 < (4 * sigma) ** 2, window, 0)
        total = window.sum()
        if not total > 0:
            return 0.0, 0.0
        step_x, step_y = 2 * ((u - x) * window).sum() / total, 2 * ((v - y) * window).sum() / total
        x, y = x + step_x, y + step_y
        if abs(x) > half_u or abs(y) > half_v:
            return 0.0, 0.0
        if abs(step_x) + abs(step_y) < 1e-5:
            break
    return float(x), float(y)


def fit_moffat_width(radius: NDArray[Any], value: NDArray[Any], guess_px: float) -> float:
    """FWHM of a radial profile by a robust Moffat fit with free amplitude, slope and floor; NaN if it fails.

    Parameters
    ----------
    radius, value : (n,)
        Distance from the centre in pixels and brightness there.
    guess_px : float
        Starting FWHM.
    """
    near = radius < 0.35 * guess_px
    peak = float(np.median(value[near])) if near.any() else float(value.max())
    if not (peak > 0 and guess_px > 0 and len(radius) >= 8):
        return float("nan")

    def residual(p: Float64) -> Float64:
        beta = np.exp(p[2])
        core = _moffat_core(np.exp(p[1]), beta)
        out: Float64 = p[0] * (1 + (radius / core) ** 2) ** -beta + p[3] - value / peak
        return out

    bounds = ([0.2, np.log(0.5), np.log(1.2), -0.2], [5.0, np.log(40.0), np.log(20.0), 0.2])
    start = [1.0, np.clip(np.log(guess_px), -0.6, 3.6), np.log(3.5), 0.0]
    fit = optimize.least_squares(residual, start, bounds=bounds, loss="soft_l1", f_scale=0.03)
    return float(np.exp(fit.x[1])) if fit.success else float("nan")


def fwhm_of(stamp: NDArray[Any]) -> float:
    """FWHM in pixels of a PSF stamp, from a Moffat fit to its radial profile."""
    values = np.asarray(stamp, dtype=np.float64)
    guess = max(2 * np.sqrt((values > 0.5 * values.max()).sum() / np.pi), 1.5)
    x, y = centroid(values, guess)
    half_v, half_u = values.shape[0] // 2, values.shape[1] // 2
    v, u = np.mgrid[-half_v : half_v + 1, -half_u : half_u + 1]
    radius = np.hypot(v - y, u - x)
    near = radius < max(1.5 * guess, 3.0)
    return fit_moffat_width(radius[near], values[near], guess)


def moments_of(stamp: NDArray[Any], fwhm: float) -> Float64:
    """Second moments (xx, xy; xy, yy) of a PSF stamp, weighted by the Gaussian that matches them.

    Adaptive moments (Bernstein & Jarvis 2002, section 3), so that noise in the wings does not count; those
    of a round Gaussian of the FWHM given, in samples, where they do not converge.
    """
    values = np.asarray(stamp, dtype=np.float64)
    half_v, half_u = values.shape[0] // 2, values.shape[1] // 2
    v, u = np.mgrid[-half_v : half_v + 1, -half_u : half_u + 1].astype(float)
    start = np.eye(2) * (fwhm / 2.3548) ** 2
    moments = start
    for _ in range(50):
        inverse = np.linalg.inv(moments)
        distance = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
        weighted = values * np.exp(-0.5 * distance)
        xx, xy, yy = (2 * (weighted * p).sum() / weighted.sum() for p in (u * u, u * v, v * v))
        before, moments = moments, np.array([[xx, xy], [xy, yy]])
        if not (np.isfinite(moments).all() and np.linalg.det(moments) > 0.01 and xx > 0):
            return start
        if np.abs(moments - before).max() < 1e-4 * moments.max():
            break
    return moments


def elongation_of(stamp: NDArray[Any], fwhm: float) -> float:
    """Major over minor axis of a PSF stamp whose FWHM is about the one given, in samples."""
    minor, major = np.linalg.eigvalsh(moments_of(stamp, fwhm))
    return float(np.sqrt(major / minor))


def radius_of(side: int) -> Float64:
    """(side, side) distance from the middle sample."""
    half = side // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    radius: Float64 = np.hypot(v, u)
    return radius


def taper(side: int, fwhm: float) -> Float64:
    """Cosine bell: 1 within 2.5 FWHM (in samples), 0 beyond 4, or what the side allows."""
    outer = min(_TAPER_FWHM[1] * fwhm, side / 2)
    inner = min(_TAPER_FWHM[0] * fwhm, 0.7 * outer)
    t = np.clip((radius_of(side) - inner) / (outer - inner), 0, 1)
    bell: Float64 = 0.5 * (1 + np.cos(np.pi * t))
    return bell


def _moffat_core(fwhm_px: float, beta: float) -> float:
    return float(fwhm_px / (2 * np.sqrt(2 ** (1 / beta) - 1)))
