"""The wider PSF of a pair refined until stars cancel, and what they still leave as an error of the model.

Subtraction needs the PSFs right relative to each other: for the true ones P_r * N = P_n * R (Zackay, Ofek &
Gal-Yam 2016, ApJ 830, 27, section 1). Where measured ones fail this, a kernel K near a delta function is
fitted so that P_r * N = f K * P_n * R, as in Alard & Lupton 1998 (ApJ 503, 325), and P_n takes K over; where
P_r is the wider, the other way round: K then need not sharpen. The fit is done in D, whose noise is white.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg, ndimage, signal

from astrid_dist.imaging import psf
from astrid_dist.imaging.arrays import Array
from astrid_dist.imaging.filters import SubtractionPlan

Image: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]

# The kernel's basis: single pixels in the middle, Gaussians of growing width (pixels) on ever wider lattices.
_RINGS = ((0.0, 1, 0.0, 2.3), (1.5, 2, 2.3, 6.0), (3.0, 4, 6.0, 12.0))  # sigma, step, radii from, to
_REACH, _HOLE_PX = 12, 10
_RIDGES = (1e-5, 1e-3)
_BLOCK = 64  # pixels: what is held out is held out in blocks, so that no star is in both parts
_FOLDS = 4
_MIN_STARS = 8
_STAR_SIGMA, _PIXEL_SIGMA = 20.0, 5.0
_MAX_PIXELS, _LATTICE = 30_000, 4
_MODEL_ERROR = 0.02  # of a pixel's light, what even the refined PSF may be wrong by: bright stars do not rule
_CLIP_SIGMA = 4.0
_ROUNDS = 3
_SKY_TERMS = 6
_LIT_SIGMA = 3.0  # where the sharper image shows less than this its light is noise, and counts as none
_LIGHT_SIGMA, _ODD_SIGMA = 10.0, 3.0
_DARK_SIGMA, _ENOUGH_DARK = 3.0, 1000


@dataclass(frozen=True)
class Match:
    """PSFs of a pair, the wider one refined, or as they were given where refining does not help.

    Attributes
    ----------
    psf_n, psf_r : (v, u) float32
        Of science image and reference, unit sum, in the box and about the middle of those given.
    flux_ratio : float
        Science over reference, for those PSFs.
    shift : (float, float)
        (dx, dy) of the science image's stars, pixels.
    kernel : (k, k) float64
        K; a delta function where not accepted.
    chi2_before, chi2_after : float
        Mean of the squared residuals of star pixels, in units of their noise and 2 % of their light, capped
        at 25; of blocks that the fit did not see. NaN without stars.
    n_stars : int
        Stars of SNR 20 and more that were there to fit.
    accepted : bool
        Whether there were enough stars, and unseen ones cancelled better.
    """

    psf_n: Image
    psf_r: Image
    flux_ratio: float
    shift: tuple[float, float]
    kernel: Float64
    chi2_before: float
    chi2_after: float
    n_stars: int
    accepted: bool


def match_psf(
    new: Image,
    ref: Image,
    var_new: Image,
    var_ref: Image,
    psf_n: Image,
    psf_r: Image,
    plan: SubtractionPlan,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Match:
    """Refine the wider PSF, the flux ratio and the shift of a pair by what its stars leave in D.

    Pixels where the sharper image has light are fitted by K times that and a sky quadratic in x and y,
    weighted by noise and model error, in three rounds of clipping, so that variables, transients and defects
    do not count. How stiff K is, and whether it is used at all, is decided by blocks held out.

    Parameters
    ----------
    new, ref, var_new, var_ref : (y, x) float32
        As `zogy.subtract` takes them; saturated stars must be NaN.
    psf_n, psf_r : (v, u)
        PSFs of `plan`, unit sum.
    plan : SubtractionPlan
        Filters of the pair as measured.
    shift : (float, float)
        As for `zogy.subtract`.

    Returns
    -------
    Match
        For a new plan and `zogy.subtract`, together: K's offset is in the shift, its sum in the flux ratio.
    """
    science, reference, variance, usable = _in_difference(new, ref, var_new, var_ref, plan, shift)
    given_n, given_r = np.asarray(psf_n, dtype=np.float32), np.asarray(psf_r, dtype=np.float32)
    of_science = bool(np.square(given_n).sum() <= np.square(given_r).sum())
    target, light = (science, reference) if of_science else (reference, science)
    significance = np.where(usable, ndimage.uniform_filter(light, 3) * 3 / np.sqrt(variance), 0)
    peaks = significance == ndimage.maximum_filter(significance, 7)
    n_stars = int(np.count_nonzero(peaks & (significance > _STAR_SIGMA)))
    nothing = Match(given_n, given_r, plan.flux_ratio, shift, np.ones((1, 1)), np.nan, np.nan, n_stars, False)
    if n_stars < _MIN_STARS:
        return nothing
    response, own = (plan.reference_d, var_ref) if of_science else (plan.science_d, var_new)
    pixels = _fit_pixels(target, light, variance, usable, significance, own)
    if len(np.unique(pixels.fold)) < 2:
        return nothing
    stamps = pixels.stamps
    solution, before, after = _fit(pixels, _covariance(stamps, response, plan.padded))
    nothing = replace(nothing, chi2_before=before, chi2_after=after)
    if not after < before:
        return nothing
    kernel = np.tensordot(solution[: len(stamps)], stamps, axes=1)
    kernel[len(kernel) // 2, len(kernel) // 2] += 1
    refined, gain, (dx, dy) = _convolved(given_n if of_science else given_r, kernel)
    if gain <= 0 or max(abs(dx), abs(dy)) > 1:  # something else was fitted
        return nothing
    if of_science:
        found = replace(nothing, psf_n=refined, flux_ratio=plan.flux_ratio * gain)
    else:
        found = replace(nothing, psf_r=refined, flux_ratio=plan.flux_ratio / gain)
        dx, dy = -dx, -dy
    return replace(found, shift=(shift[0] + dx, shift[1] + dy), kernel=kernel, accepted=True)


def model_error(score: Image, sigma_flux: Image, ref: Image, plan: SubtractionPlan) -> float:
    """Fraction of its light that a star leaves beyond noise: it brings the score on stars to unit width.

    A variance component: score^2 = w^2 + error^2 S_r^2 / V on pixels with light, where w is the width between
    the stars or 1, which renormalising mends; fitted with clipping at three deviations, so that variables do
    not count. Errors of the PSF, of places and of fluxes alike go into
    it; a term in the slope of S_r beside it would cost more of the faint sources near bright stars than it
    saves in false ones.

    Parameters
    ----------
    score, sigma_flux : (y, x) float32
        Of a subtraction without astrometric and flux-ratio errors, its sky taken out.
    ref : (y, x) float32
        Reference.
    plan : SubtractionPlan
        That of the subtraction.

    Returns
    -------
    float
        Times `plan.flux_ratio` it is the flux_ratio_err of `zogy.subtract`, with astrometric_sigma 0 beside
        it. Zero below eight stars, which could not outvote one that is odd.
    """
    light = _filtered(np.nan_to_num(ref, nan=0.0), plan, plan.reference_d * plan.match) / sigma_flux
    peaks = (light > _STAR_SIGMA) & (light == ndimage.maximum_filter(light, 7))
    use = np.isfinite(score) & (light > _LIGHT_SIGMA)
    if np.count_nonzero(peaks & use) < _MIN_STARS:
        return 0.0
    power, excess = np.square(light[use], dtype=np.float64), np.square(score[use], dtype=np.float64)
    floor = _width_without_light(score, light) ** 2
    squared = 1e-4
    for _ in range(10):
        expected = floor + squared * power
        weight = power * (excess < _ODD_SIGMA**2 * expected) / expected**2
        squared = max(float((weight * (excess - floor)).sum() / (weight * power).sum()), 0.0)
    return float(np.sqrt(squared))


def _width_without_light(score: Image, light: Image) -> float:
    """Half the range of the middle 68 % of pixels without stars, at least 1."""
    dark = score[np.isfinite(score) & (light < _DARK_SIGMA)]
    if dark.size < _ENOUGH_DARK:
        return 1.0
    low, high = np.percentile(dark, [15.87, 84.13])
    return max(1.0, float(high - low) / 2)


def _in_difference(
    new: Image,
    ref: Image,
    var_new: Image,
    var_ref: Image,
    plan: SubtractionPlan,
    shift: tuple[float, float],
) -> tuple[Image, Image, Image, Bool]:
    """Both images as they stand in D / F_D, its variance, and pixels that no hole is near."""
    bad_new, bad_ref = (
        ~(np.isfinite(image) & np.isfinite(variance)) for image, variance in ((new, var_new), (ref, var_ref))
    )
    ratio = np.float32(plan.flux_ratio)
    # A hole takes the other image's light, so that a star with a hole in one does not ring.
    science = np.where(bad_new, np.where(bad_ref, 0, ref * ratio), new)
    reference = np.where(bad_ref, np.where(bad_new, 0, new / ratio), ref)
    variance = np.where(bad_new | bad_ref, 1, var_new / ratio**2 + var_ref)
    ky, kx = fft.fftfreq(plan.padded[0])[:, None], fft.rfftfreq(plan.padded[1])
    ramp = np.exp(2j * np.pi * (kx * shift[0] + ky * shift[1])).astype(np.complex64)
    usable = ~ndimage.maximum_filter(bad_new | bad_ref, 2 * _HOLE_PX + 1)
    edge = np.zeros_like(usable)
    edge[_REACH:-_REACH, _REACH:-_REACH] = True
    return (
        _filtered(science, plan, plan.science_d * ramp),
        _filtered(reference, plan, plan.reference_d),
        ndimage.gaussian_filter(variance.astype(np.float32), 1.0, truncate=3),
        usable & edge,
    )


def _filtered(image: Image, plan: SubtractionPlan, response: NDArray[np.complex64]) -> Image:
    """An image through a filter of the plan."""
    made = fft.irfft2(fft.rfft2(image, plan.padded) * response, plan.padded)
    return np.asarray(made[: plan.shape[0], : plan.shape[1]], dtype=np.float32)


@dataclass(frozen=True)
class _Pixels:
    """What is fitted; in units of the error."""

    design: Image
    """(pixel, term): K's basis applied to the sharper image, the identity first, then a sky quadratic."""
    values: Image
    """(pixel,): what the wider image has more."""
    noise: Float64
    """(pixel,): variance of the sharper image's own noise where the terms hold it."""
    fold: NDArray[np.intp]
    """(pixel,)"""
    stamps: Float64
    """K's basis (term, k, k)."""


def _basis() -> list[tuple[float, int, int]]:
    """Gaussian width, row and column of every term of K, pixels; the middle pixel comes first."""
    found = [
        (sigma, dy, dx)
        for sigma, step, inner, outer in _RINGS
        for dy in range(-_REACH, _REACH + 1, step)
        for dx in range(-_REACH, _REACH + 1, step)
        if inner <= np.hypot(dy, dx) < outer
    ]
    return sorted(found, key=lambda one: (one[0], np.hypot(*one[1:])))


def _fit_pixels(
    target: Image, light: Image, variance: Image, usable: Bool, significance: Image, own: Image
) -> _Pixels:
    """Pixels to fit, of the wider image and the sharper one; `own` is the variance of the latter's frame."""
    threshold = _PIXEL_SIGMA
    if np.count_nonzero(significance > threshold) > _MAX_PIXELS:
        threshold = float(np.partition(significance.ravel(), -_MAX_PIXELS)[-_MAX_PIXELS])
    chosen = significance > threshold
    # K's wings reach pixels without light of their own: some of these hold its sum to what is there.
    chosen[::_LATTICE, ::_LATTICE] |= usable[::_LATTICE, ::_LATTICE]
    rows, columns = np.nonzero(chosen)
    here = light[rows, columns]
    weight = 1 / np.sqrt(variance[rows, columns] + np.square(_MODEL_ERROR * here))
    lit = ndimage.maximum_filter(significance, 3) > _LIT_SIGMA
    source = np.where(lit, light, np.float32(0))
    flat, width = rows * light.shape[1] + columns, light.shape[1]
    middle = _REACH + 9
    parts, stamps = [], []
    wide = {
        sigma: ndimage.gaussian_filter(source, sigma, truncate=3) if sigma else source for sigma, *_ in _RINGS
    }
    for sigma, dy, dx in _basis():
        parts.append(wide[sigma].ravel()[flat - dy * width - dx])
        stamp = np.zeros((2 * middle + 1, 2 * middle + 1))
        stamp[middle + dy, middle + dx] = 1
        stamps.append(ndimage.gaussian_filter(stamp, sigma, truncate=3) if sigma else stamp)
    y, x = (2 * at / size - 1 for at, size in zip((rows, columns), light.shape, strict=True))
    parts += [np.ones_like(x), x, y, x * y, x**2, y**2]
    own = ndimage.gaussian_filter(np.where(np.isfinite(own), own, np.float32(0)), 1.0, truncate=3)
    return _Pixels(
        np.stack([part * weight for part in parts], axis=1).astype(np.float32),
        ((target[rows, columns] - here) * weight).astype(np.float32),
        np.where(lit, own, 0)[rows, columns] * weight.astype(np.float64) ** 2,
        (rows // _BLOCK + 2 * (columns // _BLOCK)) % _FOLDS,
        np.array(stamps),
    )


def _covariance(stamps: Float64, response: Array, padded: tuple[int, int]) -> Float64:
    """Covariance of the terms in one pixel where an image of white noise of unit variance is filtered."""
    size = 4 * stamps.shape[-1]
    grid = min(size, padded[0]), min(size, padded[1])
    auto = np.fft.fftshift(fft.irfft2(np.square(np.abs(response)), padded))
    corner = tuple(whole // 2 - part // 2 for whole, part in zip(padded, grid, strict=True))
    auto = auto[corner[0] : corner[0] + grid[0], corner[1] : corner[1] + grid[1]]
    power = fft.fft2(np.fft.ifftshift(auto)).real
    waves = fft.fft2(stamps, grid).reshape(len(stamps), -1)
    found = np.zeros((len(stamps) + _SKY_TERMS,) * 2)
    found[: len(stamps), : len(stamps)] = ((waves * power.ravel()) @ waves.conj().T).real / power.size
    return found


def _fit(pixels: _Pixels, covariance: Float64) -> tuple[Float64, float, float]:
    """Solution, and mean squared residuals of unseen folds without and with K.

    Noise of the sharper image is in the terms and, with the other sign, in the values: uncorrected it makes K
    too faint and too wide (attenuation: Fuller 1987, Measurement Error Models, chapter 1). What it adds to
    the right-hand side is taken out; left in the matrix it holds K to a delta function where stars say
    little.
    """
    parts = [
        (pixels.design[here], pixels.values[here], pixels.noise[here])
        for here in (pixels.fold == k for k in np.unique(pixels.fold))
    ]
    kept = [np.ones(len(values), np.float32) for _, values, _ in parts]
    for _ in range(_ROUNDS):
        sums = []
        for (columns, values, noise), weight in zip(parts, kept, strict=True):
            used = columns * weight[:, None]
            shared = float(noise @ weight) * covariance[:, 0]
            sums.append(
                ((used.T @ columns).astype(np.float64), (used.T @ values).astype(np.float64) + shared)
            )
        matrix, right = sum(one for one, _ in sums), sum(one for _, one in sums)
        unseen = {
            ridge: _chi2(parts, [_solve(matrix - a, right - b, ridge) for a, b in sums], covariance)
            for ridge in (None, *_RIDGES)
        }
        ridge = min(_RIDGES, key=lambda one: unseen[one])
        solution = _solve(matrix, right, ridge)
        left = [np.abs(values - columns @ solution.astype(np.float32)) for columns, values, _ in parts]
        width = max(1.0, 1.4826 * float(np.median(np.concatenate(left))))
        kept = [(one < _CLIP_SIGMA * width).astype(np.float32) for one in left]
    return solution, unseen[None], unseen[ridge]


def _solve(matrix: Float64, right: Float64, ridge: float | None) -> Float64:
    """Ridge regression in columns of unit norm, the sky left free; without a ridge the sky alone."""
    chosen = slice(-_SKY_TERMS if ridge is None else 0, None)
    matrix, known = matrix[chosen, chosen], right[chosen]
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-30))
    penalty = np.full(len(known), ridge or 0.0)
    penalty[-_SKY_TERMS:] = 1e-9
    solution = np.zeros(len(right))
    scaled = matrix / np.outer(scale, scale) + np.diag(penalty)
    solution[chosen] = linalg.solve(scaled, known / scale, assume_a="pos") / scale
    return solution


def _chi2(parts: list[tuple[Image, Image, Float64]], solutions: list[Float64], covariance: Float64) -> float:
    """Mean squared residual of each part by the solution that did not see it.

    What a smoothing K takes from the noise is put back: it is no merit.
    """
    total = 0.0
    for (columns, values, noise), one in zip(parts, solutions, strict=True):
        left = np.square(values - columns @ one.astype(np.float32))
        kernel = one.copy()
        kernel[0] += 1
        smoothed = covariance[0, 0] - float(kernel @ covariance @ kernel)
        total += float(np.minimum(left, 25).sum()) + smoothed * float(noise.sum())
    return total / sum(len(values) for _, values, _ in parts)


def _convolved(stamp: Image, kernel: Float64) -> tuple[Image, float, tuple[float, float]]:
    """The PSF with K, centred again and of unit sum; the gain in flux and the offset taken out."""
    fwhm_px = psf.fwhm_of(stamp)
    made = signal.fftconvolve(stamp.astype(np.float64), kernel, mode="same")
    gain = float(made.sum() / stamp.sum())
    before, after = psf.centroid(stamp, fwhm_px), psf.centroid(made, fwhm_px)
    moved = after[0] - before[0], after[1] - before[1]
    if max(abs(moved[0]), abs(moved[1])) <= 1:
        made = psf.shift(made, -moved[0], -moved[1])[0]
    return (made / made.sum()).astype(np.float32), gain, moved
