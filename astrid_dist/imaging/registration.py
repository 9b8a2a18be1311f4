"""Two star lists of one field: which stars are the same, how far apart, how much brighter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.flags import StarFlag
from astrid_dist.imaging.field_models import Surface, fit_surface
from astrid_dist.imaging.stars import StarList

Indices = NDArray[np.intp]

_NOT_A_STAR = int(StarFlag.SATURATED | StarFlag.EXTENDED | StarFlag.SHARP | StarFlag.CENTROID)
_SOILED = int(StarFlag.BLENDED | StarFlag.MASKED | StarFlag.EDGE)


@dataclass(frozen=True)
class Offset:
    """Offset of two lists or images in pixels, a minus b, from n stars or parts of an image.

    The scatter is what single stars add to their noise.
    """

    dx: float
    dy: float
    dx_err: float
    dy_err: float
    scatter_x: float
    scatter_y: float
    n: int

    @property
    def scatter(self) -> float:
        """Per axis, of both axes together."""
        return float(np.hypot(self.scatter_x, self.scatter_y) / np.sqrt(2))


NAN = float("nan")
#: Where nothing can be measured.
NO_OFFSET = Offset(NAN, NAN, NAN, NAN, NAN, NAN, 0)


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


def offset_surfaces(
    a: StarList, b: StarList, ia: Indices, ib: Indices, shape: tuple[int, int] | None = None
) -> tuple[Surface, Surface]:
    """How dx and dy, a minus b, vary over a field.

    Parameters
    ----------
    a, b : StarList
    ia, ib : (n,) int
        From `match_stars`, one pair at least. Blended and cut stars are used only where fewer than eight
        others are left.
    shape : (height, width), optional
        Of the field, pixels; one value for the whole field without it.

    Returns
    -------
    dx, dy : Surface
        Pixels. The scatter is all the spread where a list does not know its FWHM.
    """
    use = _clean(a, b, ia, ib, 8)
    ia, ib = ia[use], ib[use]
    noise = np.hypot(np.nan_to_num(a.position_err[ia]), np.nan_to_num(b.position_err[ib]))
    dx, dy = (
        fit_surface(b.x[ib], b.y[ib], difference, noise, shape)
        for difference in (a.x[ia] - b.x[ib], a.y[ia] - b.y[ib])
    )
    return dx, dy


def flux_surface(
    a: StarList, b: StarList, ia: Indices, ib: Indices, shape: tuple[int, int] | None = None
) -> Surface | None:
    """How the natural logarithm of the flux ratio a / b varies over a field.

    Parameters
    ----------
    a, b, ia, ib, shape
        As of `offset_surfaces`. Blended and cut stars are used only where fewer than five others are left.

    Returns
    -------
    Surface or None
        None without a pair of positive fluxes.
    """
    positive = (a.flux[ia] > 0) & (b.flux[ib] > 0)
    ia, ib = ia[positive], ib[positive]
    use = _clean(a, b, ia, ib, 5)
    ia, ib = ia[use], ib[use]
    if len(ia) == 0:
        return None
    fa, fb = a.flux[ia].astype(np.float64), b.flux[ib].astype(np.float64)
    noise = np.hypot(a.flux_err[ia] / fa, b.flux_err[ib] / fb)
    return fit_surface(b.x[ib], b.y[ib], np.log(fa / fb), noise, shape)


def measure_offset(a: StarList, b: StarList, ia: Indices, ib: Indices) -> Offset:
    """One offset for all matched stars (`offset_surfaces` of order 0); NaN without a pair."""
    if len(ia) == 0:
        return NO_OFFSET
    return mean_offset(*offset_surfaces(a, b, ia, ib))


def mean_offset(dx: Surface, dy: Surface) -> Offset:
    """One offset for the whole field of two surfaces; the scatter holds their slopes."""
    dx, dy = dx.constant, dy.constant
    (x, x_err), (y, y_err) = dx.at(0, 0), dy.at(0, 0)
    return Offset(x, y, x_err, y_err, dx.scatter, dy.scatter, min(dx.n_inliers, dy.n_inliers))


def measure_flux_ratio(a: StarList, b: StarList, ia: Indices, ib: Indices) -> FluxRatio:
    """One flux ratio a / b for all matched stars (`flux_surface` of order 0); NaN without a pair."""
    return mean_flux_ratio(flux_surface(a, b, ia, ib))


def mean_flux_ratio(log_ratio: Surface | None) -> FluxRatio:
    """One flux ratio for the whole field of a surface of its logarithm; NaN without one."""
    if log_ratio is None:
        return FluxRatio(NAN, NAN, NAN, 0)
    constant = log_ratio.constant
    mean, error = constant.at(0, 0)
    ratio = float(np.exp(mean))
    return FluxRatio(ratio, ratio * error, constant.scatter, constant.n_inliers)


def _clean(a: StarList, b: StarList, ia: Indices, ib: Indices, enough: int) -> NDArray[np.bool_]:
    """Pairs without a blended or cut star, or all where those are too few."""
    clean = ((a.flags[ia] | b.flags[ib]) & _SOILED) == 0
    return clean if clean.sum() >= enough else np.ones(len(ia), bool)
