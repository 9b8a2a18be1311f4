"""The point-spread function of an epoch, measured from its stars."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from astrid_dist.imaging import psf
from astrid_dist.imaging.photometry import Places, Scene, companions, fit_scene
from astrid_dist.imaging.psf import Psf
from astrid_dist.imaging.psf_stars import REACH_FWHM, PsfStars, Residuals, choose_stars, with_neighbours
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]

MIN_STARS = 8
_PER_TERM = 6  # stars that a term of the field needs
_MOFFAT_ROUNDS, _ORDER_ROUND, _ROUNDS = 2, 3, 7  # a Moffat until the first, constant until the second
_MOFFAT_STARS = 40
_SMOOTH_FWHM = 1.5  # beyond this radius the wings are the mean of a ring: pixels there are noise
_SANE = (0.4, 2.5)  # FWHM of a PSF in parts of that of the frame's stars
_WELL_SAMPLED_PX = 2.4  # FWHM from which the pixels themselves sample the PSF
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
        The windowed centroid is the middle of the stamp and the sum 1 everywhere in the field. Below eight
        stars an elliptical Moffat fitted to them, without any a round one of the width given.
    """
    scene = Scene.of(image_minus_background, variance, mask)
    if oversampling > 1 and fwhm_px > _WELL_SAMPLED_PX:
        # Pixels say all there is: samples between them would each hear fewer stars.
        found = _measured(scene, stars, box, fwhm_px, order, 1)
        return _finer(found, oversampling)
    return _measured(scene, stars, box, fwhm_px, order, oversampling)


def _finer(found: Psf, oversampling: int) -> Psf:
    """The same PSF with more samples to a pixel, from the spline through those there are."""
    side = oversampling * (found.terms.shape[1] - 1) + 1
    planes = np.concatenate([found.terms, found.residual[None]])
    fine = np.zeros((len(planes), side, side))
    for v in range(oversampling):
        for u in range(oversampling):
            phase = psf.shift(planes, [-u / oversampling] * len(planes), [-v / oversampling] * len(planes))
            part = fine[:, v::oversampling, u::oversampling]
            part[:] = phase[:, : part.shape[1], : part.shape[2]]
    terms = _same_sums(fine[:-1], oversampling).astype(np.float32)
    return replace(found, terms=terms, residual=fine[-1].astype(np.float32), oversampling=oversampling)


def _measured(scene: Scene, stars: StarList, box: int, fwhm_px: float, order: int, oversampling: int) -> Psf:
    shape = scene.image.shape
    terms = np.zeros((psf.n_terms(order), *[psf.stamp_side(box, oversampling)] * 2))
    terms[0] = psf.moffat(fwhm_px, box, oversampling=oversampling)
    chosen = choose_stars(scene, stars, fwhm_px, max(2 * MIN_STARS, _PER_TERM * len(terms)))
    if len(chosen) == 0:
        return _round_moffat(terms, order, oversampling, fwhm_px, "no usable star")
    half = min(box // 2, int(np.ceil(REACH_FWHM * fwhm_px)) + 3)
    near = with_neighbours(stars, chosen, 2 * half)
    places = Places(stars.x[near], stars.y[near], stars.flux[near])
    sample = PsfStars(scene, order, oversampling, len(chosen), half, fwhm_px)
    used, reason, fallback = 0, "", False
    for step in range(_ROUNDS):
        places = fit_scene(scene, terms, order, oversampling, places, 2 if step == 0 else 1)
        if step in (_MOFFAT_ROUNDS - 1, _ORDER_ROUND):
            places = places.joined(companions(scene, terms, order, oversampling, places))
            places = fit_scene(scene, terms, order, oversampling, places, 1)
        if step < _MOFFAT_ROUNDS:
            terms[0] = _fitted_moffat(sample, terms, places, box)
            continue
        left = sample.left(terms, places)
        fallback = len(left.chi2) < MIN_STARS
        if fallback:
            reason = f"{len(left.chi2)} usable stars, {MIN_STARS} needed: a Moffat fitted to them"
            terms[0], terms[1:] = _fitted_moffat(sample, terms, places, box), 0
        if fallback or step == _ROUNDS - 1:
            break
        if step == _ORDER_ROUND and order > 0:
            used, reason = _supported_order(left, _part(terms, left), order, shape, oversampling * fwhm_px)
        design = psf.legendre_weights(used, left.x, left.y, shape)
        part = _part(terms, left)
        part[: design.shape[1]] += _correction(left, design, part[: design.shape[1]])
        terms = _finish(terms, used, shape, oversampling, fwhm_px)
    central = psf.stamps_at(terms, order, (shape[1] - 1) / 2, (shape[0] - 1) / 2, shape)[0]
    width = psf.fwhm_of(central) / oversampling
    if not _SANE[0] < width / fwhm_px < _SANE[1]:
        reason = f"{len(left.chi2)} usable stars that have no profile in common"
        return _round_moffat(terms, order, oversampling, fwhm_px, reason)
    residual = np.zeros((1, *terms.shape[1:]))
    if len(left.x):
        inner = _part(residual, left)
        inner += _correction(left, np.ones((len(left.x), 1)), np.zeros_like(inner))
    return Psf(
        terms.astype(np.float32),
        order,
        oversampling,
        len(left.chi2),
        width,
        psf.elongation_of(central, oversampling * fwhm_px),
        float(np.median(left.chi2)) if len(left.chi2) else float("nan"),
        residual[0].astype(np.float32),
        fallback,
        reason,
        left.x,
        left.y,
        left.chi2,
    )


def _round_moffat(terms: Float64, order: int, oversampling: int, fwhm_px: float, reason: str) -> Psf:
    """What is left to do without stars."""
    stamps = np.zeros(terms.shape, dtype=np.float32)
    stamps[0] = psf.moffat(fwhm_px, (terms.shape[1] - 1) // oversampling + 1, oversampling=oversampling)
    none, nan = np.zeros(stamps.shape[1:], np.float32), float("nan")
    reason = f"{reason}: a round Moffat of FWHM {fwhm_px:.2f} px"
    return Psf(stamps, order, oversampling, 0, fwhm_px, 1.0, nan, none, True, reason)


def _fitted_moffat(sample: PsfStars, terms: Float64, places: Places, box: int) -> NDArray[np.float32]:
    """Elliptical Moffat through the brightest of the PSF stars; a round one where the fit fails."""
    left, weights, _, model = sample.cut(terms, places)
    bright = np.argsort(-places.flux[: sample.count], kind="stable")[:_MOFFAT_STARS]
    disc = psf.radius_of(2 * sample.half + 1) < 2 * max(sample.fwhm_px, 1.5)
    data = (left + places.flux[: sample.count, None, None] * model)[bright][:, disc]
    weights = weights[bright][:, disc]
    v, u = (offset - sample.half for offset in np.nonzero(disc))
    dy, dx = ((np.rint(p) - p)[bright, None] for p in (places.y, places.x))
    # A bright star counts as one of SNR 50 per pixel: no Moffat is better than that.
    peak = np.maximum(data.max(axis=1, keepdims=True), 1e-12)
    root = np.sqrt(weights / (1 + weights * (0.02 * peak) ** 2))

    def misfit(p: Float64) -> Float64:
        star = psf.moffat_at(v + dy, u + dx, np.exp(p[0]), np.exp(p[1]), (p[2], p[3])) * root
        norm = np.maximum((star**2).sum(axis=1), 1e-30)
        flux = (star * root * data).sum(axis=1) / norm
        return np.asarray((root * data - flux[:, None] * star).ravel())

    width = np.log(sample.fwhm_px)
    bounds = ([width - 0.4, np.log(1.5), -1.5, -1.5], [width + 0.4, np.log(10), 1.5, 1.5])
    fit = optimize.least_squares(misfit, [width, np.log(3.5), 0, 0], bounds=bounds, loss="soft_l1", f_scale=3)
    if not fit.success:
        return psf.moffat(sample.fwhm_px, box, oversampling=sample.oversampling)
    fwhm_px, beta = (float(np.exp(p)) for p in fit.x[:2])
    return psf.moffat(fwhm_px, box, beta, sample.oversampling, (float(fit.x[2]), float(fit.x[3])))


def _part(terms: Float64, left: Residuals) -> Float64:
    """View of the samples of the terms that residuals cover."""
    cut = (terms.shape[1] - left.values.shape[1]) // 2
    inner = slice(cut, terms.shape[1] - cut)
    return terms[:, inner, inner]


def _clipped(left: Residuals) -> Float64:
    """Weights (star, v, u) without pixels that differ from the other stars' by more than 3 sigma."""
    known = left.weights > 0
    values = np.where(known, left.values, np.nan)
    empty = ~known.any(axis=0)
    values[:, empty] = 0.0
    deviation = np.abs(values - np.nanmedian(values, axis=0))
    spread = np.maximum(1.4826 * np.nanmedian(deviation, axis=0), 1e-12)
    own = np.sqrt(1 / np.where(known, left.weights, 1))
    return np.where(known & (np.nan_to_num(deviation) <= 3 * np.maximum(spread, own)), left.weights, 0.0)


def _correction(left: Residuals, design: Float64, terms: Float64) -> Float64:
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


def _supported_order(
    left: Residuals, terms: Float64, order: int, shape: tuple[int, ...], fwhm: float
) -> tuple[int, str]:
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
            model = terms[: design.shape[1], core]
            found = _solved(weights[~out], values[~out], design[~out], model)
            misfit[out] = (weights[out] * (values[out] - design[out] @ found.T) ** 2).sum(axis=1)
        if tried == 0:
            best_misfit = misfit
            continue
        most = 10 * np.median(best_misfit)  # so that no single star decides
        gain = np.minimum(best_misfit, most) - np.minimum(misfit, most)
        if gain.mean() > 2 * gain.std() / np.sqrt(n):
            best, best_misfit = tried, misfit
    if best < order and not why:
        why = f"held-out stars are no better described by an order above {best}"
    return best, f"order {best} instead of {order}: {why}" if best < order else ""


def _finish(terms: Float64, used: int, shape: tuple[int, ...], oversampling: int, fwhm_px: float) -> Float64:
    """Centred everywhere, wings smoothed in rings and tapered, unit sum."""
    count, width = psf.n_terms(used), oversampling * fwhm_px
    made = _centred(terms[:count], used, shape, width)
    radius = _elliptical_radius(made[0], width)
    ring = np.rint(radius).astype(int)
    members = np.maximum(np.bincount(ring.ravel()), 1)
    blend = np.clip((radius - _SMOOTH_FWHM * width) / width, 0, 1)
    bell = psf.taper(terms.shape[1], width)
    out = np.zeros_like(terms)
    for term in range(count):
        mean = np.bincount(ring.ravel(), made[term].ravel()) / members
        smooth = np.interp(radius, np.arange(len(mean)), mean)
        out[term] = ((1 - blend) * made[term] + blend * smooth) * bell
    return _same_sums(out, oversampling)


def _same_sums(terms: Float64, oversampling: int) -> Float64:
    """Every phase of the samples with the same sum: a star's light is all there wherever in a pixel it is."""
    for v in range(oversampling):
        for u in range(oversampling):
            phase = terms[:, v::oversampling, u::oversampling]
            phase[0] /= phase[0].sum()
            phase[1:] -= phase[1:].sum(axis=(1, 2))[:, None, None] * phase[0]
    return terms


def _elliptical_radius(stamp: Float64, width: float) -> Float64:
    """Distance from the middle in which the ellipse of the PSF is a circle of its area."""
    moments = psf.moments_of(stamp, width)
    inverse = np.linalg.inv(moments / np.sqrt(np.linalg.det(moments)))
    half = stamp.shape[0] // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    squared = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
    return np.asarray(np.sqrt(squared), dtype=np.float64)


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
