"""Two star lists of one field: which stars are the same, how far apart, how much brighter."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from astrid_dist.flags import StarFlag
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]
Indices = NDArray[np.intp]

_NOT_A_STAR = int(StarFlag.SATURATED | StarFlag.EXTENDED | StarFlag.SHARP | StarFlag.CENTROID)
_NO_FLUX = int(StarFlag.BLENDED | StarFlag.MASKED | StarFlag.EDGE)
_CLIP_SIGMA = 4.0


@dataclass(frozen=True)
class Offset:
    """Mean offset of two lists in pixels, a minus b; `scatter` is what single stars add to their noise."""

    dx: float
    dy: float
    dx_err: float
    dy_err: float
    scatter: float
    n: int


@dataclass(frozen=True)
class FluxRatio:
    """Flux in a over flux in b, its error, the scatter beyond noise (a fraction) and the stars used."""

    ratio: float
    error: float
    scatter: float
    n: int


def match_stars(a: StarList, b: StarList, radius_px: float) -> tuple[Indices, Indices]:
    """Pairs of stars that are each other's nearest within a radius; each star is in one pair at most.

    Saturated stars, galaxies, cosmic rays and stars without a centroid are left out.

    Parameters
    ----------
    a, b : StarList
        On one pixel grid.
    radius_px : float
        Largest distance of a pair.

    Returns
    -------
    ia, ib : (n,) int
        Indices into a and b, in the order of a.
    """
    ia, ib = (np.flatnonzero((s.flags & _NOT_A_STAR) == 0) for s in (a, b))
    if len(ia) == 0 or len(ib) == 0:
        return ia[:0], ib[:0]
    at_a, at_b = (np.column_stack([s.x[i], s.y[i]]) for s, i in ((a, ia), (b, ib)))
    distance, to_b = cKDTree(at_b).query(at_a)
    _, to_a = cKDTree(at_a).query(at_b)
    mutual = (to_a[to_b] == np.arange(len(ia))) & (distance <= radius_px)
    return ia[mutual], ib[to_b[mutual]]


def measure_offset(a: StarList, b: StarList, ia: Indices, ib: Indices) -> Offset:
    """Robust weighted mean offset of matched stars.

    Parameters
    ----------
    a, b : StarList
    ia, ib : (n,) int
        From `match_stars`.

    Returns
    -------
    Offset
        NaN without a pair. The scatter is per axis, and all of it where a list does not know its FWHM.
    """
    noise = np.hypot(np.nan_to_num(a.position_err[ia]), np.nan_to_num(b.position_err[ib]))
    dx, dx_err, scatter_x, n_x = _robust_mean(a.x[ia] - b.x[ib], noise)
    dy, dy_err, scatter_y, n_y = _robust_mean(a.y[ia] - b.y[ib], noise)
    return Offset(dx, dy, dx_err, dy_err, float(np.hypot(scatter_x, scatter_y) / np.sqrt(2)), min(n_x, n_y))


def measure_flux_ratio(a: StarList, b: StarList, ia: Indices, ib: Indices) -> FluxRatio:
    """Robust weighted flux ratio a / b of matched stars; variable stars are clipped.

    Parameters
    ----------
    a, b : StarList
    ia, ib : (n,) int
        From `match_stars`. Blended stars are used only where fewer than five others are left.

    Returns
    -------
    FluxRatio
        NaN without a pair. The error is that of the mean, scatter between stars included.
    """
    positive = (a.flux[ia] > 0) & (b.flux[ib] > 0)
    clean = positive & (((a.flags[ia] | b.flags[ib]) & _NO_FLUX) == 0)
    use = clean if clean.sum() >= 5 else positive
    fa, fb = a.flux[ia][use].astype(np.float64), b.flux[ib][use].astype(np.float64)
    noise = np.hypot(a.flux_err[ia][use] / fa, b.flux_err[ib][use] / fb)
    mean, error, scatter, n = _robust_mean(np.log(fa / fb), noise)
    ratio = float(np.exp(mean))
    return FluxRatio(ratio, ratio * error, scatter, n)


def _robust_mean(values: Float64, noise: NDArray[Any]) -> tuple[float, float, float, int]:
    """Mean, its error, scatter beyond the noise and number kept, clipped at four sigma."""
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan"), 0
    noise2 = np.maximum(np.asarray(noise, dtype=np.float64), 1e-6) ** 2
    mean = float(np.median(values))
    spread2 = (1.4826 * float(np.median(np.abs(values - mean)))) ** 2
    scatter2 = max(spread2 - float(np.median(noise2)), 0.0)
    keep = np.ones(len(values), dtype=bool)
    for _ in range(20):
        inside = np.abs(values - mean) <= _CLIP_SIGMA * np.sqrt(noise2 + scatter2)
        if not inside.any():
            inside = np.abs(values - mean) <= np.abs(values - mean).min()
        v, n2 = values[inside], noise2[inside]
        scatter2 = _excess(v, n2)
        weight = 1 / (n2 + scatter2)
        mean = float((weight * v).sum() / weight.sum())
        if np.array_equal(inside, keep):
            break
        keep = inside
    return mean, float(weight.sum() ** -0.5), float(np.sqrt(scatter2)), int(keep.sum())


def _excess(values: Float64, noise2: Float64) -> float:
    """Variance beyond the noise that is most likely; 0 where the noise suffices.

    The likelihood hears the stars whose own noise is small; chi-square would hear the many faint ones.
    """

    def slope(scatter2: float) -> float:
        weight = 1 / (noise2 + scatter2)
        mean = (weight * values).sum() / weight.sum()
        return float(
            (weight**2 * (values - mean) ** 2).sum() * len(values) / (len(values) - 1) - weight.sum()
        )

    if len(values) < 2 or slope(0.0) <= 0:
        return 0.0
    top = float(np.var(values, ddof=1)) * 2 + 1e-30
    while slope(top) > 0:
        top *= 2
    return float(brentq(slope, 0.0, top, xtol=1e-14))
