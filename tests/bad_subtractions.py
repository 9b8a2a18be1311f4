"""Simulated pairs that subtract well, or badly for a known cause, and the metrics of what comes out."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from astrid_dist.imaging import quality_metrics, zogy
from astrid_dist.imaging.masks import noise_moments, source_free
from astrid_dist.imaging.noise import neighbour_correlation

SIDE, BOX, STARS = 400, 31, 60
#: Saturation, electrons; no star comes near it unless a case says so.
FULL_WELL = 6e4


@dataclass(frozen=True)
class Case:
    """What is done to the science image, and what the subtraction believes of it."""

    seed: int = 1
    fwhm: float = 3.2
    believed_fwhm: float = 3.2
    shift: float = 0.0
    """Pixels in x that nobody corrects."""
    transparency: float = 1.0
    sky: float = 400.0
    trail: float = 0.0
    """Length of the trail along x, pixels; the PSF assumed is round."""
    psf_knows_trail: bool = False
    brightness: float = 1.0
    """Of all stars, in both images; bright ones saturate in the science image where it is above one."""
    other_field: bool = False
    believed_ratio: float | None = None
    believed_sky: float | None = None
    correlated: bool = False


def profile(fwhm, dx, dy, trail=0.0):
    """A star that the pixels see as a Gaussian, trailed along x: (n, v, u), each of sum 1."""
    axis = np.arange(BOX) - BOX // 2
    sigma = fwhm / 2.3548
    steps = np.linspace(-trail / 2, trail / 2, 15 if trail else 1)
    along = np.exp(-0.5 * ((axis - np.atleast_1d(dx)[:, None])[:, None, :] - steps[:, None]) ** 2 / sigma**2)
    across = np.exp(-0.5 * (axis - np.atleast_1d(dy)[:, None]) ** 2 / sigma**2)
    stamps = across[:, :, None] * along.mean(axis=1)[:, None, :]
    return stamps / stamps.sum(axis=(1, 2), keepdims=True)


def catalogue(seed):
    rng = np.random.default_rng(seed)
    flux = np.sort(1500 * rng.uniform(0.01, 1, STARS) ** -1.0)[::-1]
    return rng.uniform(20, SIDE - 20, STARS), rng.uniform(20, SIDE - 20, STARS), flux


def scene(stars, fwhm, scale=1.0, shift=0.0, trail=0.0):
    """Noise-free electrons of stars."""
    x, y, flux = stars
    x = x + shift
    image = np.zeros((SIDE + BOX, SIDE + BOX))
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    for stamp, i, j, f in zip(profile(fwhm, x - column, y - row, trail), row, column, flux, strict=True):
        image[i : i + BOX, j : j + BOX] += f * scale * stamp
    return image[BOX // 2 : BOX // 2 + SIDE, BOX // 2 : BOX // 2 + SIDE]


def measure(case):
    """Subtract a case and measure it: metrics by name, as a stage would."""
    stars = catalogue(case.seed)
    stars = stars[0], stars[1], stars[2] * case.brightness
    rng = np.random.default_rng(case.seed + 1000)
    ref_clean = scene(catalogue(case.seed + 50) if case.other_field else stars, 2.8)
    new_clean = scene(stars, case.fwhm, case.transparency, case.shift, case.trail)
    ref_sky = 100.0
    new = rng.poisson(new_clean + case.sky).astype(np.float64)
    mask = np.zeros(new.shape, np.uint16)
    saturated = new > FULL_WELL
    mask[ndimage.binary_dilation(saturated, iterations=2)] = 4
    new = np.minimum(new, FULL_WELL) - case.sky
    if case.correlated:
        # The noise of bilinear resampling by half a pixel in both axes.
        noise = new - new_clean
        for axis in (0, 1):
            noise = (noise + np.roll(noise, 1, axis)) / 2
        new = new_clean + noise
    ref = rng.poisson(ref_clean + ref_sky) - ref_sky
    sky = case.believed_sky or case.sky
    if case.correlated:
        sky /= 4
    variance = np.maximum(new_clean, 0) + sky
    new, ref = new.astype(np.float32), ref.astype(np.float32)
    variance_r = (ref_clean + ref_sky).astype(np.float32)
    sigma_n, sigma_r = float(np.sqrt(sky)), float(np.sqrt(ref_sky))
    new[mask != 0] = np.nan
    psf = profile(case.believed_fwhm, 0.0, 0.0, case.trail if case.psf_knows_trail else 0.0)[0]
    ratio = case.transparency if case.believed_ratio is None else case.believed_ratio
    plan = zogy.plan_subtraction(psf, profile(2.8, 0.0, 0.0)[0], sigma_n, sigma_r, ratio, shape=(SIDE, SIDE))
    made = zogy.subtract(
        new, ref, variance.astype(np.float32), variance_r, plan, astrometric_sigma=(0.01, 0.01)
    )
    quiet = source_free(new, np.sqrt(case.sky), case.fwhm) & source_free(ref, sigma_r, 2.8)
    quiet &= np.isfinite(made.score)
    raw = np.array(made.score)
    mean, std, _ = noise_moments(raw, quiet)
    x, y, flux = stars
    left = quality_metrics.star_residuals(made.difference, made.psf_d, x, y, flux, case.fwhm)
    residual, scatter = quality_metrics.residual_ratio(
        made.difference, new / np.float32(ratio), quiet, x, y, case.fwhm
    )
    noise = np.array(made.sigma_flux) * np.float32(np.sqrt(np.square(made.psf_d).sum()))
    bad, full = quality_metrics.mask_fractions(mask)
    depth = quality_metrics.limiting_mag(5 * float(np.nanmedian(made.sigma_flux)), 25.0)
    return {
        "score_std": std,
        "score_mean": mean,
        "peaks_raw": quality_metrics.peaks_per_mpix(raw),
        "peaks": quality_metrics.peaks_per_mpix(raw / np.float32(std)),
        "displacement": left.displacement,
        "psf_width_error": left.width_error,
        "flux_left": left.flux_left,
        "residual_ratio": residual,
        "residual_ratio_std": scatter,
        "match_chi2": quality_metrics.star_chi2(made.difference, noise, x, y, case.fwhm),
        "bad_fraction": bad,
        "saturated_fraction": full,
        "depth_lost": 18.29 - depth,
        "transparency": quality_metrics.transparency(ratio, 30.0, 30.0),
        "matched_fraction": 0.05 if case.other_field else 0.9,
        "seeing": case.fwhm * 0.5,
        "elongation": float(np.hypot(1, case.trail / case.fwhm * 0.68)),
        "n_matched": 3 if case.other_field else 50,
        "sky_ratio": case.sky / 400,
        "correlation_n": neighbour_correlation(new, quiet),
    }


GOOD = Case()
CASES = {
    "good": GOOD,
    "shifted 0.1": replace(GOOD, shift=0.1),
    "shifted 0.3": replace(GOOD, shift=0.3),
    "psf 10% narrow": replace(GOOD, believed_fwhm=2.9),
    "psf 30% narrow": replace(GOOD, believed_fwhm=2.3),
    "clouded": replace(GOOD, transparency=0.3),
    "moonlit": replace(GOOD, sky=8000.0),
    "trailed": replace(GOOD, trail=8.0),
    "trailed, known": replace(GOOD, trail=8.0, psf_knows_trail=True),
    "saturated": replace(GOOD, brightness=600.0),
    "other field": replace(GOOD, other_field=True),
    "flux scale": replace(GOOD, believed_ratio=1.15),
    "noise": replace(GOOD, believed_sky=100.0),
    "correlated": replace(GOOD, correlated=True),
}
