"""What a PSF is measured from: stars of a frame chosen for it, and what a model leaves around them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.flags import StarFlag
from astrid_dist.imaging import psf
from astrid_dist.imaging.photometry import Places, Scene, render
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]

_MIN_SNR = 20.0
_MAX_STARS = 250
_CELLS = 4  # along each side of the field, which give stars in turn
REACH_FWHM = 4.0  # where the taper of the PSF ends
_MODEL_ERROR = 0.01  # of the PSF's value: so that no star outweighs the others in its core
_TOLERANCE = 0.04  # of the PSF's value: what a star of the same PSF may differ by


def choose_stars(scene: Scene, stars: StarList, fwhm_px: float, wanted: int) -> NDArray[np.intp]:
    """Bright, clean stars from all over the field; the more crowded the frame, the closer the neighbours."""
    shape, reach = scene.image.shape, int(np.ceil(1.5 * fwhm_px))
    inside = (stars.x >= reach) & (stars.x <= shape[1] - 1 - reach)
    inside &= (stars.y >= reach) & (stars.y <= shape[0] - 1 - reach)
    unfit = ~np.uint16(StarFlag.BLENDED)
    bright = np.flatnonzero(((stars.flags & unfit) == 0) & (stars.flux >= _MIN_SNR * stars.flux_err) & inside)
    if len(bright) == 0:
        return bright
    disc = psf.radius_of(2 * reach + 1) < 1.5 * fwhm_px
    v, u = (offset - reach for offset in np.nonzero(disc))
    rows, columns = (np.rint(p[bright]).astype(int)[:, None] for p in (stars.y, stars.x))
    bright = bright[(scene.weight[rows + v, columns + u] > 0).all(axis=1)]
    share = _neighbour_share(stars, bright, 3 * fwhm_px)
    for tolerated in (0.05, 0.2, 1.0):
        clean = share < tolerated
        if tolerated < 0.1:
            clean &= stars.flags[bright] == 0
        if clean.sum() >= wanted:
            break
    found = bright[clean]
    # In turn from every cell of the field: the best of each, the second best of each, ...
    cell = (_CELLS * stars.y[found] // shape[0]) * _CELLS + _CELLS * stars.x[found] // shape[1]
    by_cell = np.lexsort((-stars.flux[found], cell))
    ordered = cell[by_cell]
    turn = np.arange(len(found)) - np.searchsorted(ordered, ordered)
    return found[by_cell[np.argsort(turn, kind="stable")]][:_MAX_STARS]


def _neighbour_share(stars: StarList, chosen: NDArray[np.intp], radius_px: float) -> Float64:
    """Flux of the brightest neighbour within a radius, in parts of the star's own."""
    places = np.column_stack([stars.x, stars.y])
    near = cKDTree(places).query_ball_point(places[chosen], radius_px)
    worst = [
        max((stars.flux[j] for j in js if j != i), default=0.0) for i, js in zip(chosen, near, strict=True)
    ]
    return np.asarray(worst / stars.flux[chosen], dtype=np.float64)


def with_neighbours(stars: StarList, chosen: NDArray[np.intp], radius_px: float) -> NDArray[np.intp]:
    """The chosen stars, then all others within a radius of one of them."""
    places = np.column_stack([stars.x, stars.y])
    distance, _ = cKDTree(places[chosen]).query(places, distance_upper_bound=radius_px)
    others = np.isfinite(distance)
    others[chosen] = False
    return np.concatenate([chosen, np.flatnonzero(others)])


@dataclass(frozen=True)
class Residuals:
    """What the model leaves around the PSF stars that it fits, on the samples of the model.

    `values`, `weights` (star, v, u): parts of the star's flux, and inverse variances (0: nothing there).
    """

    x: Float64
    y: Float64
    chi2: Float64
    values: Float64
    weights: Float64


@dataclass(frozen=True)
class PsfStars:
    """The PSF stars of a frame: the first `count` of the places in a fit."""

    scene: Scene
    order: int
    oversampling: int
    count: int
    half: int
    """Of the box of pixels that is looked at."""
    fwhm_px: float

    def left(self, terms: Float64, places: Places) -> Residuals:
        """Residuals of the PSF stars that the model fits, all stars taken away."""
        x, y, flux, error = (p[: self.count] for p in (places.x, places.y, places.flux, places.error))
        left, weights, variance, model = self.cut(terms, places)
        radius = psf.radius_of(2 * self.half + 1)
        left -= _floors(left, weights, radius > REACH_FWHM * self.fwhm_px)[:, None, None]

        core = radius < max(self.fwhm_px, 1.5)
        good = weights[:, core] > 0
        squares = np.where(good, left[:, core] ** 2 / np.where(good, variance[:, core], 1), 0)
        freedom = np.maximum(good.sum(axis=1) - 3, 1)
        chi2 = squares.sum(axis=1) / freedom
        tolerated = 1 + weights[:, core] * (_TOLERANCE * flux[:, None] * model[:, core]) ** 2
        misfit = (squares / tolerated).sum(axis=1) / freedom
        fitted = (flux > 0) & np.isfinite(error)
        keep = fitted & (misfit < max(5 * float(np.median(misfit[fitted])) if fitted.any() else 0, 5.0))

        x, y, flux, chi2, left, weights, model = (a[keep] for a in (x, y, flux, chi2, left, weights, model))
        scale = np.maximum(flux, 1e-12)[:, None, None]
        # In the core no star may outweigh the typical one by much: the brightest few would be the PSF
        # everywhere. In the wings they must, for only theirs stand out of the noise and of faint neighbours.
        snr = np.sqrt((weights * model**2).sum(axis=(1, 2))) * flux
        outwards = np.clip(radius / self.fwhm_px - 1, 0, 1)
        cap = (
            np.maximum(snr / (1.5 * np.median(snr)), 1.0)[:, None, None] ** (1 - outwards)
            if len(snr)
            else 1.0
        )
        known = weights > 0
        noise = cap**2 / np.where(known, weights * scale**2, 1) + (_MODEL_ERROR * model) ** 2
        on_samples = _on_samples(left / scale, np.where(known, 1 / noise, 0), x, y, self.oversampling)
        return Residuals(x, y, chi2, *on_samples)

    def cut(self, terms: Float64, places: Places) -> tuple[Float64, ...]:
        """Boxes (star, v, u) around PSF stars: what is left, weight, variance, and the model of unit flux."""
        shape, half = self.scene.image.shape, self.half
        left = self.scene.image - render(shape, terms, self.order, self.oversampling, places)
        x, y = places.x[: self.count], places.y[: self.count]
        offsets = np.arange(-half, half + 1)
        rows = np.rint(y).astype(int)[:, None, None] + offsets[None, :, None]
        columns = np.rint(x).astype(int)[:, None, None] + offsets[None, None, :]
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        flat = np.where(inside, rows * shape[1] + columns, 0)
        planes = (p.ravel()[flat].astype(np.float64) for p in (left, self.scene.weight, self.scene.variance))
        boxes, weights, variance = planes
        border = terms.shape[1] // 2 - half * self.oversampling
        inner = slice(border, terms.shape[1] - border)
        model = psf.profiles(terms[:, inner, inner], self.order, self.oversampling, x, y, shape)[0]
        return boxes, np.where(inside, weights, 0), variance, model.astype(np.float64)


def _floors(left: Float64, weights: Float64, ring: NDArray[np.bool_]) -> Float64:
    """Median level around each star, beyond the reach of the PSF; 0 where little of that is in the box."""
    floors = np.zeros(len(left))
    if ring.sum() > 50:
        outer = np.where(weights[:, ring] > 0, left[:, ring], np.nan)
        known = np.isfinite(outer).sum(axis=1) > 50
        floors[known] = np.nanmedian(outer[known], axis=1)
    return floors


def _on_samples(
    values: Float64, weights: Float64, x: Float64, y: Float64, oversampling: int
) -> tuple[Float64, Float64]:
    """Each star's pixels on those samples of the model that are nearest to them."""
    if oversampling == 1:
        return values, weights
    n, box = len(values), values.shape[1]
    side = psf.stamp_side(box, oversampling)
    spare = oversampling // 2
    fine = np.zeros((2, n, side + 2 * spare, side + 2 * spare))
    starts = [spare - np.rint(oversampling * (p - np.rint(p))).astype(int) for p in (y, x)]
    for i, (v, u) in enumerate(zip(*starts, strict=True)):
        place = (slice(v, v + side, oversampling), slice(u, u + side, oversampling))
        fine[0, i][place], fine[1, i][place] = values[i], weights[i]
    kept = slice(spare, spare + side)
    return fine[0][:, kept, kept], fine[1][:, kept, kept]
