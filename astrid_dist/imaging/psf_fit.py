"""The point-spread function of an epoch, measured from its stars."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.flags import StarFlag
from astrid_dist.imaging import psf
from astrid_dist.imaging.photometry import Places, Scene, fit_scene, render
from astrid_dist.imaging.psf import Psf
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]

MIN_STARS = 8
_PER_TERM = 6  # stars that a term of the field needs
_MIN_SNR = 20.0
_MAX_STARS = 250
_ROUNDS = 6
_ORDER_ROUND = 2  # of the rounds: the constant model holds by then
_SMOOTH_FWHM = 1.5  # beyond this radius the wings are the mean of a ring: pixels there are noise
_REACH_FWHM = 4.0  # where the taper ends
_MODEL_ERROR = 0.01  # of the PSF's value: so that no star outweighs the others in its core
_TOLERANCE = 0.04  # of the PSF's value: what a star of the same PSF may differ by
_PRIOR = 0.3  # of the PSF's value: how much the terms of the field are expected to be


def measure_psf(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    stars: StarList,
    box: int,
    fwhm_px: float,
    *,
    order: int = 0,
    oversampling: int = 1,
) -> Psf:
    """PSF of an epoch from its unsaturated stars of SNR >= 20, as it varies over the field.

    Rounds of two steps, from a Moffat: all stars are fitted together with the PSF and taken away; what is
    left around each PSF star corrects the model, by clipped least squares at each sample (Anderson & King
    2000, section 3, with Legendre terms over the field). So neighbours are gone before a star is looked at
    (Stetson 1987), and the places of the stars are the PSF's own. Wings are averaged in rings and tapered.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`.
    stars : StarList
        From `stars.measure_stars` on the same frame.
    box : int
        Side of the stamp in pixels, odd.
    fwhm_px : float
        FWHM from `stars.estimate_fwhm`, or the header's.
    order : int
        Highest order of the terms. It is lowered, the terms above being zero, where stars are too few or
        leave parts of the field out, or where held-out stars are not better described by it.
    oversampling : int
        Samples to a pixel; 2 where the FWHM is below about 2.2 pixels.

    Returns
    -------
    Psf
        The windowed centroid is the middle of the stamp and the sum 1 everywhere in the field. A Moffat of
        the given width below eight stars.
    """
    scene = Scene.of(image_minus_background, variance, mask)
    shape = scene.image.shape
    guess = psf.moffat(fwhm_px, box, oversampling=oversampling)
    terms = np.zeros((psf.n_terms(order), *guess.shape))
    terms[0] = guess
    chosen = _choose(scene, stars, fwhm_px, max(2 * MIN_STARS, _PER_TERM * len(terms)))
    if len(chosen) < MIN_STARS:
        return _fallback(terms, order, oversampling, fwhm_px, len(chosen))
    half = min(box // 2, int(np.ceil(_REACH_FWHM * fwhm_px)) + 3)
    near = _with_neighbours(stars, chosen, 2 * half)
    places = Places(stars.x[near], stars.y[near], stars.flux[near])
    used, reason = 0, ""
    for step in range(_ROUNDS):
        places = fit_scene(scene, terms, order, oversampling, places, 2 if step == 0 else 1)
        left = _left(scene, terms, order, oversampling, places, len(chosen), half, fwhm_px)
        if len(left.chi2) < MIN_STARS:
            return _fallback(
                terms * 0 + _only_first(guess, len(terms)), order, oversampling, fwhm_px, len(left.chi2)
            )
        if step == _ORDER_ROUND and order > 0:
            used, reason = _supported_order(left, order, shape, oversampling * fwhm_px)
        if step == _ROUNDS - 1:
            break
        design = psf.legendre_weights(used, left.x, left.y, shape)
        part = _part(terms, left)
        part[: design.shape[1]] += _correction(left, design, part[: design.shape[1]])
        terms = _finish(terms, used, shape, oversampling, fwhm_px)
    central = psf.stamps_at(terms, order, (shape[1] - 1) / 2, (shape[0] - 1) / 2, shape)[0]
    width = psf.fwhm_of(central) / oversampling
    if not np.isfinite(width):
        return _fallback(_only_first(guess, len(terms)), order, oversampling, fwhm_px, len(left.chi2))
    residual = np.zeros_like(terms)
    flat = np.ones((len(left.x), 1))
    _part(residual, left)[:1] = _correction(left, flat, np.zeros((1, *left.values.shape[1:])))
    return Psf(
        terms.astype(np.float32),
        order,
        oversampling,
        len(left.chi2),
        width,
        psf.elongation_of(central),
        float(np.median(left.chi2)),
        residual[0].astype(np.float32),
        reason=reason,
        star_x=left.x,
        star_y=left.y,
        star_chi2=left.chi2,
    )


def _only_first(stamp: NDArray[Any], count: int) -> Float64:
    terms = np.zeros((count, *stamp.shape))
    terms[0] = stamp
    return terms


def _fallback(terms: Float64, order: int, oversampling: int, fwhm_px: float, n_stars: int) -> Psf:
    """A Moffat of the frame's width, constant over the field."""
    return Psf(
        terms.astype(np.float32),
        order,
        oversampling,
        n_stars,
        fwhm_px,
        1.0,
        float("nan"),
        np.zeros(terms.shape[1:], np.float32),
        fallback=True,
        reason=f"{n_stars} usable stars, {MIN_STARS} needed: a Moffat of FWHM {fwhm_px:.2f} px",
    )


def _choose(scene: Scene, stars: StarList, fwhm_px: float, wanted: int) -> NDArray[np.intp]:
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
    cell = (4 * stars.y[found] // shape[0]) * 4 + 4 * stars.x[found] // shape[1]
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


def _with_neighbours(stars: StarList, chosen: NDArray[np.intp], radius_px: float) -> NDArray[np.intp]:
    """The chosen stars, then all others within a radius of one of them."""
    places = np.column_stack([stars.x, stars.y])
    distance, _ = cKDTree(places[chosen]).query(places, distance_upper_bound=radius_px)
    others = np.isfinite(distance)
    others[chosen] = False
    return np.concatenate([chosen, np.flatnonzero(others)])


@dataclass(frozen=True)
class _Left:
    """What the model leaves around the PSF stars that it fits, on the samples of the model.

    `values`, `weights` (star, v, u): parts of the star's flux, and inverse variances (0: nothing there).
    """

    x: Float64
    y: Float64
    chi2: Float64
    values: Float64
    weights: Float64


def _left(
    scene: Scene,
    terms: Float64,
    order: int,
    oversampling: int,
    places: Places,
    count: int,
    half: int,
    fwhm_px: float,
) -> _Left:
    """Residuals of the first `count` stars, all stars taken away."""
    shape = scene.image.shape
    left_image = scene.image - render(shape, terms, order, oversampling, places)
    x, y, flux, error = (p[:count] for p in (places.x, places.y, places.flux, places.error))
    offsets = np.arange(-half, half + 1)
    rows = np.rint(y).astype(int)[:, None, None] + offsets[None, :, None]
    columns = np.rint(x).astype(int)[:, None, None] + offsets[None, None, :]
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    rows, columns = np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)
    weights = np.where(inside, scene.weight[rows, columns], 0).astype(np.float64)
    variance = scene.variance[rows, columns]
    left = left_image[rows, columns].astype(np.float64)
    radius = psf.radius_of(2 * half + 1)
    left -= _floors(left, weights, radius > _REACH_FWHM * fwhm_px)[:, None, None]
    cut = terms.shape[1] // 2 - half * oversampling
    inner = slice(cut, terms.shape[1] - cut)
    model = psf.profiles(terms[:, inner, inner], order, oversampling, x, y, shape)[0].astype(np.float64)

    core = radius < max(fwhm_px, 1.5)
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
    # No star may outweigh the typical one by much: the brightest few would be the PSF, wherever they are.
    snr = np.sqrt((weights * model**2).sum(axis=(1, 2))) * flux
    cap = np.maximum(snr / (1.5 * np.median(snr)), 1.0)[:, None, None] if len(snr) else 1.0
    known = weights > 0
    noise = cap**2 / np.where(known, weights * scale**2, 1) + (_MODEL_ERROR * model) ** 2
    values = left / scale
    return _Left(x, y, chi2, *_on_samples(values, np.where(known, 1 / noise, 0), x, y, oversampling))


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


def _part(terms: Float64, left: _Left) -> Float64:
    """View of the samples of the terms that residuals cover."""
    cut = (terms.shape[1] - left.values.shape[1]) // 2
    inner = slice(cut, terms.shape[1] - cut)
    return terms[:, inner, inner]


def _clipped(left: _Left) -> Float64:
    """Weights (star, v, u) without pixels that differ from the other stars' by more than 3 sigma."""
    known = left.weights > 0
    values = np.where(known, left.values, np.nan)
    empty = ~known.any(axis=0)
    values[:, empty] = 0.0
    deviation = np.abs(values - np.nanmedian(values, axis=0))
    spread = np.maximum(1.4826 * np.nanmedian(deviation, axis=0), 1e-12)
    own = np.sqrt(1 / np.where(known, left.weights, 1))
    return np.where(known & (np.nan_to_num(deviation) <= 3 * np.maximum(spread, own)), left.weights, 0.0)


def _correction(left: _Left, design: Float64, terms: Float64) -> Float64:
    """(term, v, u) to be added to terms: least squares at each sample, higher terms drawn to zero."""
    count, shape = design.shape[1], left.values.shape[1:]
    weights = _clipped(left).reshape(len(design), -1)
    values = left.values.reshape(len(design), -1)
    return _solved(weights, values, design, terms.reshape(count, -1)).T.reshape(count, *shape)


def _solved(weights: Float64, values: Float64, design: Float64, terms: Float64) -> Float64:
    """(sample, term) solutions of weighted least squares with the prior; weights, values (star, sample)."""
    n, count = design.shape
    outer = (design[:, :, None] * design[:, None, :]).reshape(n, count * count)
    normal = (weights.T @ outer).reshape(-1, count, count)
    side = (weights * values).T @ design
    expected = _PRIOR * np.maximum(terms[0], 1e-4 * terms[0].max(initial=0)) + 1e-12
    for term in range(1, count):
        normal[:, term, term] += 1 / expected**2
        side[:, term] -= terms[term] / expected**2
    normal[:, range(count), range(count)] += 1e-9
    return np.asarray(np.linalg.solve(normal, side[:, :, None])[:, :, 0])


def _supported_order(left: _Left, order: int, shape: tuple[int, ...], fwhm: float) -> tuple[int, str]:
    """Highest order that the stars are enough for and that describes held-out stars better; why no higher."""
    n = len(left.x)
    corners = np.array([(x, y) for y in (0, 0.5, 1) for x in (0, 0.5, 1)]) * (shape[1] - 1, shape[0] - 1)
    core = psf.radius_of(left.values.shape[1]) < 1.25 * fwhm
    weights, values = _clipped(left)[:, core], left.values[:, core]
    fold = np.arange(n) % 5
    best, best_misfit, why = 0, np.zeros(0), ""
    for tried in range(order + 1):
        design = psf.legendre_weights(tried, left.x, left.y, shape)
        if tried and n < _PER_TERM * design.shape[1]:
            why = f"{n} stars, order {tried} needs {_PER_TERM * design.shape[1]}"
            break
        at_corners = psf.legendre_weights(tried, corners[:, 0], corners[:, 1], shape)
        leverage = (at_corners @ np.linalg.pinv(design.T @ design) * at_corners).sum(axis=1).max()
        if tried and leverage > 1:
            why = f"stars leave parts of the field out, which order {tried} would extrapolate to"
            break
        misfit = np.zeros(n)
        for held in range(5):
            out = fold == held
            # 1 / variance of the prior is left to the fit itself: what counts here is the order
            found = _solved(weights[~out], values[~out], design[~out], np.ones((design.shape[1], core.sum())))
            misfit[out] = (weights[out] * (values[out] - design[out] @ found.T) ** 2).sum(axis=1)
        if tried == 0:
            best_misfit = misfit
            continue
        gain = np.minimum(best_misfit, 10 * np.median(best_misfit)) - np.minimum(
            misfit, 10 * np.median(best_misfit)
        )
        if gain.mean() > 2 * gain.std() / np.sqrt(n):
            best, best_misfit = tried, misfit
    if best < order and not why:
        why = f"held-out stars are no better described by an order above {best}"
    return best, f"order {best} instead of {order}: {why}" if best < order else ""


def _finish(terms: Float64, used: int, shape: tuple[int, ...], oversampling: int, fwhm_px: float) -> Float64:
    """Centred everywhere, wings smoothed in rings and tapered, unit sum."""
    count, width = psf.n_terms(used), oversampling * fwhm_px
    made = _centred(terms[:count], used, shape, width)
    radius = psf.radius_of(terms.shape[1])
    ring = np.rint(radius).astype(int)
    members = np.maximum(np.bincount(ring.ravel()), 1)
    blend = np.clip((radius - _SMOOTH_FWHM * width) / width, 0, 1)
    bell = psf.taper(terms.shape[1], width)
    out = np.zeros_like(terms)
    for term in range(count):
        mean = np.bincount(ring.ravel(), made[term].ravel()) / members
        smooth = np.interp(radius, np.arange(len(mean)), mean)
        out[term] = ((1 - blend) * made[term] + blend * smooth) * bell
    # A star's light is all there wherever in a pixel it lies: every phase of the samples has the same sum.
    for v in range(oversampling):
        for u in range(oversampling):
            phase = out[:, v::oversampling, u::oversampling]
            phase[0] /= phase[0].sum()
            phase[1:] -= phase[1:].sum(axis=(1, 2))[:, None, None] * phase[0]
    return out


def _centred(terms: Float64, order: int, shape: tuple[int, ...], width: float) -> Float64:
    """Terms moved so that the windowed centroid is the middle of the stamp everywhere in the field."""
    y, x = (g.ravel() for g in np.meshgrid(*(np.linspace(0, n - 1, order + 3) for n in shape), indexing="ij"))
    x, y = (x, y) if order else (x[:1], y[:1])
    weights = psf.legendre_weights(order, x, y, shape)
    for _ in range(5):
        offsets = np.array([psf.centroid(s, width) for s in np.tensordot(weights, terms, axes=1)])
        if np.abs(offsets).max() < 0.001 or np.abs(offsets).max() > 1:
            break
        along_x, along_y = np.linalg.lstsq(weights, offsets, rcond=None)[0].T
        step = 0.01
        slope_x = (psf.shift(terms[0], -step, 0)[0] - psf.shift(terms[0], step, 0)[0]) / (2 * step)
        slope_y = (psf.shift(terms[0], 0, -step)[0] - psf.shift(terms[0], 0, step)[0]) / (2 * step)
        # The field's mean offset exactly, what varies over it to first order.
        terms = psf.shift(terms, -along_x[0], -along_y[0])
        terms[1:] += along_x[1:, None, None] * slope_x + along_y[1:, None, None] * slope_y
    return terms
