"""The point-spread function of an epoch: measured from stars, evaluated and shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize
from scipy.interpolate import BSpline
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE

if TYPE_CHECKING:
    from astrid_dist.imaging.stars import StarList

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MIN_STARS = 8
_MIN_SNR = 20.0
_MAX_STARS = 150
_TAPER_FWHM = (
    2.5,
    4.0,
)  # the same multiples at every seeing: then "total flux" means the same in every epoch
_SMOOTH_FWHM = 1.5  # beyond this radius the wings are the mean of a ring: pixels there are noise
_MODEL_ERROR = 0.03  # of the PSF's value: what a constant PSF may be wrong by
_SPLINE = BSpline.basis_element(np.arange(-3.0, 4.0), extrapolate=False)  # quintic


@dataclass(frozen=True)
class Psf:
    """PSF of one epoch as Legendre terms of stamps; `fallback` if stars were too few and it is a Moffat."""

    terms: Float32
    order: int
    n_stars: int
    fwhm_px: float
    chi2: float
    fallback: bool = False


def moffat(fwhm_px: float, box: int, beta: float = 3.5) -> Float32:
    """Moffat (1969) profile sampled at pixel centres, tapered, unit sum.

    Parameters
    ----------
    fwhm_px : float
        Full width at half maximum in pixels, of the profile as the pixels see it.
    box : int
        Side of the stamp, odd.
    beta : float
        Slope of the wings.

    Returns
    -------
    (box, box) float32
        Centred on the middle pixel.
    """
    if not (np.isfinite(fwhm_px) and fwhm_px > 0) or box % 2 == 0:
        raise InputError(
            f"a Moffat of FWHM {fwhm_px} px in a box of {box}: need a positive width and an odd box"
        )
    radius = _radius(box)
    stamp = (1 + (radius / _moffat_core(fwhm_px, beta)) ** 2) ** -beta * _taper(box, fwhm_px)
    return np.asarray(stamp / stamp.sum(), dtype=np.float32)


def evaluate(terms: NDArray[Any], order: int, x: float, y: float, shape: tuple[int, int]) -> Float32:
    """PSF at one place of the field from its Legendre terms.

    Parameters
    ----------
    terms : (n_term, v, u)
        Terms L_i(x) L_j(y), i + j <= order, sorted by i + j, then i.
    order : int
        Highest i + j.
    x, y : float
        Pixels of the field.
    shape : (height, width)
        Of the field, which is scaled to -1 .. 1.

    Returns
    -------
    (v, u) float32
    """
    needed = (order + 1) * (order + 2) // 2
    if terms.ndim != 3 or terms.shape[0] != needed:
        raise InputError(f"PSF terms are {terms.shape}, order {order} needs ({needed}, v, u)")
    scaled = [2 * p / max(n - 1, 1) - 1 for p, n in ((x, shape[1]), (y, shape[0]))]
    along_x, along_y = (legendre.legvander(np.array([s]), order)[0] for s in scaled)
    pairs = [(i, total - i) for total in range(order + 1) for i in range(total + 1)]
    weights = np.array([along_x[i] * along_y[j] for i, j in pairs])
    return np.tensordot(weights, np.asarray(terms, dtype=np.float64), axes=1).astype(np.float32)


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
    content = content[None] if content.ndim == 2 else content
    for axis in (1, 2):
        content = ndimage.spline_filter1d(content, order=5, axis=axis, mode="mirror")
    content = np.pad(content, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    height, width = content.shape[1] - 6, content.shape[2] - 6
    weights_y, weights_x = _shift_weights(along_y), _shift_weights(along_x)
    n = max(len(content), len(along_x))
    rows, moved = np.zeros((n, height, width + 6)), np.zeros((n, height, width))
    for k in range(7):
        rows += weights_y[:, k, None, None] * content[:, k : k + height, :]
    for k in range(7):
        moved += weights_x[:, k, None, None] * rows[:, :, k : k + width]
    return moved


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


def measure_psf(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    stars: StarList,
    box: int,
    fwhm_px: float,
) -> Psf:
    """PSF of an epoch from its isolated, unsaturated stars of SNR >= 20; constant over the field.

    Stamps are shifted to the middle pixel with quintic splines, scaled to unit flux and combined with
    clipping; then what the model, shifted back, leaves of each star is combined and added, which takes out
    the smoothing of the first shift. Wings are averaged in rings and tapered with a cosine bell. Below
    eight stars it is a Moffat of the given width.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`.
    stars : StarList
        From `stars.measure_stars` on the same frame.
    box : int
        Side of the stamp, odd.
    fwhm_px : float
        FWHM from `stars.estimate_fwhm`, or the header's.

    Returns
    -------
    Psf
        Term 0 sums to 1 and its windowed centroid is the middle pixel; chi2 is the median over stars of
        chi-square per pixel within one FWHM.
    """
    fallback = moffat(fwhm_px, box)
    chosen = _choose(stars, image_minus_background.shape, box, fwhm_px)
    stamps, weights, chosen = _cut(image_minus_background, variance, mask, stars, chosen, box, fwhm_px)
    if len(chosen) < MIN_STARS:
        return Psf(fallback[None], 0, len(chosen), fwhm_px, float("nan"), True)
    dx, dy = stars.x[chosen] - np.rint(stars.x[chosen]), stars.y[chosen] - np.rint(stars.y[chosen])
    stamp = fallback.astype(np.float64)
    keep = np.ones(len(chosen), dtype=bool)
    chi2 = np.zeros(len(chosen))
    for step in range(4):
        models = shift(stamp, dx, dy)
        fluxes, floors, chi2, misfit = _fit_stars(stamps, weights, models, fwhm_px)
        keep = (fluxes > 0) & (misfit < max(5 * float(np.median(misfit)), 5.0))
        if keep.sum() < MIN_STARS:
            return Psf(fallback[None], 0, int(keep.sum()), fwhm_px, float("nan"), True)
        scale = fluxes[keep, None, None]
        left = (stamps[keep] - floors[keep, None, None]) / scale - models[keep]
        # No star may outweigh the typical one by much: the brightest few would be the PSF, wherever they are.
        snr = np.sqrt((weights * models**2).sum(axis=(1, 2)))[keep] * fluxes[keep]
        cap = np.maximum(snr / (1.5 * np.median(snr)), 1.0)[:, None, None]
        variances = cap**2 / np.maximum(weights[keep] * scale**2, 1e-30) + (_MODEL_ERROR * models[keep]) ** 2
        bad = weights[keep] == 0
        left = shift(np.where(bad, 0.0, left), -dx[keep], -dy[keep])
        bad = ndimage.maximum_filter(bad, size=(1, 3, 3))
        update = _combine(left, variances, bad, first=step == 0)
        stamp = _finish(stamp + update, fwhm_px)
    width = fwhm_of(stamp)
    if not np.isfinite(width):
        return Psf(fallback[None], 0, int(keep.sum()), fwhm_px, float("nan"), True)
    return Psf(stamp.astype(np.float32)[None], 0, int(keep.sum()), width, float(np.median(chi2[keep])))


def _choose(stars: StarList, shape: tuple[int, ...], box: int, fwhm_px: float) -> NDArray[np.intp]:
    """Brightest clean stars whose neighbours in the list are far or faint."""
    snr = stars.flux / stars.flux_err
    margin = min(box // 2, int(np.ceil(2.5 * fwhm_px)))
    inside = (stars.x >= margin) & (stars.x <= shape[1] - 1 - margin)
    inside &= (stars.y >= margin) & (stars.y <= shape[0] - 1 - margin)
    usable = np.flatnonzero((stars.flags == 0) & (snr >= _MIN_SNR) & inside)
    if len(usable) == 0:
        return usable
    tree = cKDTree(np.column_stack([stars.x, stars.y]))
    near = tree.query_ball_point(np.column_stack([stars.x, stars.y])[usable], 3 * fwhm_px)
    worst = np.array(
        [max((stars.flux[j] for j in js if j != i), default=0.0) for i, js in zip(usable, near, strict=True)]
    )
    share = worst / stars.flux[usable]
    isolated = usable[share < 0.05]
    if len(isolated) < 2 * MIN_STARS:  # crowded: the clipping deals with the neighbours
        isolated = usable[np.sort(np.argsort(share, kind="stable")[: 4 * MIN_STARS])]
    order = np.argsort(-stars.flux[isolated], kind="stable")
    return isolated[order][:_MAX_STARS]


def _cut(
    image: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    stars: StarList,
    chosen: NDArray[np.intp],
    box: int,
    fwhm_px: float,
) -> tuple[Float64, Float64, NDArray[np.intp]]:
    """Stamps and inverse variances (0 where unusable) of the stars whose cores are whole."""
    half = box // 2
    usable = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & ((mask & int(UNUSABLE)) == 0)
    offsets = np.arange(-half, half + 1)
    rows = np.rint(stars.y[chosen]).astype(int)[:, None, None] + offsets[None, :, None]
    columns = np.rint(stars.x[chosen]).astype(int)[:, None, None] + offsets[None, None, :]
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    rows, columns = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
    good = inside & usable[rows, columns]
    stamps = np.where(good, image[rows, columns], 0.0).astype(np.float64)
    weights = np.where(good, 1 / np.where(good, variance[rows, columns], 1.0), 0.0).astype(np.float64)
    core = _radius(box) < 1.5 * fwhm_px
    whole = good[:, core].all(axis=1)
    return stamps[whole], weights[whole], chosen[whole]


def _fit_stars(
    stamps: Float64, weights: Float64, models: Float64, fwhm_px: float
) -> tuple[Float64, Float64, Float64, Float64]:
    """Flux, floor and chi-square per degree of freedom of each star, without and with the model's error."""
    radius = _radius(stamps.shape[1])
    ring = radius > _TAPER_FWHM[1] * fwhm_px
    floors = np.zeros(len(stamps))
    if ring.sum() > 50:
        outer = np.where(weights[:, ring] > 0, stamps[:, ring], np.nan)
        known = np.isfinite(outer).sum(axis=1) > 50
        floors[known] = np.nanmedian(outer[known], axis=1)
    core = radius < fwhm_px
    data, w, p = (stamps - floors[:, None, None])[:, core], weights[:, core], models[:, core]
    fluxes = (w * p * data).sum(axis=1) / np.maximum((w * p * p).sum(axis=1), 1e-30)
    left = data - fluxes[:, None] * p
    tolerated = 1 + w * (_MODEL_ERROR * fluxes[:, None] * p) ** 2
    chi2 = (left**2 * w).sum(axis=1) / max(core.sum() - 1, 1)
    misfit = (left**2 * w / tolerated).mean(axis=1)
    return fluxes, floors, chi2, misfit


def _combine(left: Float64, variances: Float64, bad: NDArray[np.bool_], *, first: bool) -> Float64:
    """Clipped, weighted mean over stars of what the model leaves, pixel by pixel."""
    values = np.where(bad, np.nan, left)
    empty = bad.all(axis=0)
    values[:, empty] = 0.0
    middle = np.nanmedian(values, axis=0)
    deviation = np.abs(values - middle)
    spread = 1.4826 * np.nanmedian(deviation, axis=0)
    keep = ~bad & (deviation <= 3 * np.maximum(spread, 1e-12))
    if first:  # the guess may be far off: the median is what stands
        update = middle
    else:
        weights = np.where(keep, 1 / variances, 0.0)
        total = weights.sum(axis=0)
        update = np.where(
            total > 0, (weights * np.where(keep, left, 0)).sum(axis=0) / np.maximum(total, 1e-30), 0
        )
    out: Float64 = np.where(empty, 0.0, update)
    return out


def _finish(stamp: Float64, fwhm_px: float) -> Float64:
    """Centred, wings smoothed in rings, tapered, unit sum."""
    for _ in range(5):
        x, y = centroid(stamp, fwhm_px)
        if abs(x) + abs(y) < 0.002 or max(abs(x), abs(y)) > 1:
            break
        stamp = shift(stamp, -x, -y)[0]
    radius = _radius(len(stamp))
    ring = np.rint(radius).astype(int)
    count = np.bincount(ring.ravel())
    mean = np.bincount(ring.ravel(), stamp.ravel()) / np.maximum(count, 1)
    smooth = np.interp(radius, np.arange(len(mean)), mean)
    blend = np.clip((radius - _SMOOTH_FWHM * fwhm_px) / fwhm_px, 0, 1)
    stamp = ((1 - blend) * stamp + blend * smooth) * _taper(len(stamp), fwhm_px)
    out: Float64 = stamp / stamp.sum()
    return out


def _radius(box: int) -> Float64:
    half = box // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    radius: Float64 = np.hypot(v, u)
    return radius


def _taper(box: int, fwhm_px: float) -> Float64:
    """Cosine bell: 1 within the inner radius, 0 beyond the outer one."""
    outer = min(_TAPER_FWHM[1] * fwhm_px, box / 2)
    inner = min(_TAPER_FWHM[0] * fwhm_px, 0.7 * outer)
    t = np.clip((_radius(box) - inner) / (outer - inner), 0, 1)
    bell: Float64 = 0.5 * (1 + np.cos(np.pi * t))
    return bell


def _moffat_core(fwhm_px: float, beta: float) -> float:
    return float(fwhm_px / (2 * np.sqrt(2 ** (1 / beta) - 1)))


def _shift_weights(delta: Float64) -> Float64:
    """Quintic B-spline weights (n, 7) of the pixels around one that looks back by `delta`."""
    t = -delta[:, None] - np.arange(-3, 4)[None, :]
    return np.nan_to_num(np.asarray(_SPLINE(t), dtype=np.float64))
