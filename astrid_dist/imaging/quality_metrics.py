"""What stars, noise and mask of a subtraction tell about it; `imaging.quality` judges the figures.

Stars are given by place and flux: unsaturated, isolated, at their places in the reference, with fluxes on its
scale. None of these functions looks for them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging.detection import find_peaks

Float64 = NDArray[np.float64]

#: Brightest stars looked at, and the fewest that say anything.
MOST_STARS, FEWEST_STARS = 100, 5
#: Pixels apart at which the level of the sky is sampled, and the fewest that say anything.
_STRIDE, _FEWEST_SKY = 3, 100
#: Radius of a star's footprint in FWHM: 97 % of a Gaussian's light.
_FOOTPRINT_FWHM = 1.2
#: Light of a star used, over the noise of its footprint.
_LEAST_SNR = 30.0


def peaks_per_mpix(score: NDArray[np.float32], threshold: float = 5.0) -> float:
    """Peaks of |S_corr| at or above the threshold per million pixels with data; NaN without any.

    White noise has fewer than one; a misregistration of 0.1 px moves this a hundredfold where it moves the
    standard deviation by 2 %.
    """
    good = int(np.isfinite(score).sum())
    return 1e6 * len(find_peaks(score, threshold)[0]) / good if good else float("nan")


def mask_fractions(mask: NDArray[np.uint16]) -> tuple[float, float]:
    """Pixels without usable data, and those saturated or bleeding, each of all pixels."""
    bad = (mask & int(UNUSABLE)) != 0
    saturated = (mask & int(Flag.SATURATED | Flag.BLEED)) != 0
    return float(bad.mean()), float(saturated.mean())


def sky_gradient(background: NDArray[np.float32], background_rms: NDArray[np.float32]) -> float:
    """Range of the sky over a frame (5th to 95th percentile of its mesh), in noise of a pixel."""
    known = np.isfinite(background)
    noise = float(np.nanmedian(background_rms)) if np.isfinite(background_rms).any() else 0.0
    if not known.any() or noise <= 0:
        return float("nan")
    low, high = np.percentile(background[known], [5, 95])
    return float(high - low) / noise


def limiting_mag(flux: float, zeropoint: float) -> float:
    """AB magnitude of a flux in electrons; NaN where there is no zero point."""
    return float(zeropoint - 2.5 * np.log10(flux)) if flux > 0 else float("nan")


def transparency(flux_ratio: float, exptime_n: float, exptime_r: float) -> float:
    """Light of a star per second, of that in the reference: below 1 behind clouds.

    `exptime_r` is that of the exposure whose scale the reference has, seconds.
    """
    known = exptime_n > 0 and exptime_r > 0
    return float(flux_ratio * exptime_r / exptime_n) if known else float("nan")


def residual_ratio(
    difference: NDArray[np.float32],
    science: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    x: ArrayLike,
    y: ArrayLike,
    fwhm_px: float,
) -> tuple[float, float]:
    """Light that stars leave in the difference, of their own: mean over stars, and standard deviation.

    Per star, the mean of abs(difference) less its mean on source-free pixels, over the mean of the science
    image; as LSST's ip_diffim judges its kernel stars (bad above 0.2, or a deviation above 0.4).

    Parameters
    ----------
    difference, science : (y, x) float32
        Electrons of the reference's scale, sky taken away: divide the science image by the flux ratio.
    quiet : (y, x) bool
        Source-free pixels.
    x, y : (n,) float
        Pixels, brightest first.
    fwhm_px : float
        Of the science image.

    Returns
    -------
    mean, std : float
        NaN with fewer than five stars whose footprint is whole and 30 times its noise.
    """
    sky = difference[::_STRIDE, ::_STRIDE][quiet[::_STRIDE, ::_STRIDE]]
    sky = sky[np.isfinite(sky)]
    if sky.size < _FEWEST_SKY:
        return float("nan"), float("nan")
    level = float(np.mean(np.abs(sky)))
    rows, columns = _footprints(x, y, _FOOTPRINT_FWHM * fwhm_px, difference.shape)
    light = science[rows, columns].sum(axis=1, dtype=np.float64)
    left = np.abs(difference[rows, columns]).sum(axis=1, dtype=np.float64) - level * rows.shape[1]
    noise = level * np.sqrt(rows.shape[1]) * np.sqrt(np.pi / 2)
    good = np.isfinite(left) & np.isfinite(light) & (light > _LEAST_SNR * noise)
    ratio = left[good][:MOST_STARS] / light[good][:MOST_STARS]
    if len(ratio) < FEWEST_STARS:
        return float("nan"), float("nan")
    return float(ratio.mean()), float(ratio.std())


def star_chi2(
    difference: NDArray[np.float32],
    sigma: NDArray[np.float32],
    x: ArrayLike,
    y: ArrayLike,
    fwhm_px: float,
) -> float:
    """Median over stars of the chi squared per pixel of their footprint in the difference; 1 is right.

    Parameters
    ----------
    difference, sigma : (y, x) float32
        Electrons; sigma is the standard deviation of a pixel of the difference, source noise included
        (``sigma_flux * sqrt(sum(psf_d**2))`` of a `Subtraction`).
    x, y : (n,) float
        Pixels.
    fwhm_px : float
        Of the science image.
    """
    rows, columns = _footprints(x, y, _FOOTPRINT_FWHM * fwhm_px, difference.shape)
    chi2 = np.square(difference[rows, columns].astype(np.float64) / sigma[rows, columns]).mean(axis=1)
    chi2 = chi2[np.isfinite(chi2)]
    return float(np.median(chi2)) if len(chi2) >= FEWEST_STARS else float("nan")


@dataclass(frozen=True)
class StarResiduals:
    """What stars leave in a difference, in terms of what would leave it: medians over stars."""

    n: int
    dx: float
    """Science minus reference, columns, that was not taken out; pixels."""
    dy: float
    flux_left: float
    """Flux left, of the star's own: an error of the flux ratio, as a fraction."""
    width_error: float
    """By which fraction of itself the science PSF's FWHM is wider than assumed."""
    dx_err: float
    dy_err: float

    @property
    def displacement(self) -> float:
        """Length of the offset beyond what its errors would make, twice their variance taken off; pixels."""
        beyond = self.dx**2 + self.dy**2 - 2 * (self.dx_err**2 + self.dy_err**2)
        return float(np.sqrt(max(beyond, 0.0))) if np.isfinite(beyond) else float("nan")


def star_residuals(
    difference: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    fwhm_px: float,
) -> StarResiduals:
    """Fit the difference around each star with P_D, its slopes and its Laplacian.

    Subtraction is linear, and a source of flux f adds f P_D. So a star at a place off by (dx, dy) leaves
    -f (dx, dy) · grad P_D; one whose variance along each axis is wider by 2 w leaves f w Laplacian(P_D).

    Parameters
    ----------
    difference : (y, x) float32
        Electrons of the reference's scale; NaN is no data.
    psf_d : (v, u) float32
        PSF of the difference.
    x, y, flux : (n,) float
        Pixels and electrons of the reference, brightest first.
    fwhm_px : float
        Of the science image: sets the window, and turns w into a fraction of the width.

    Returns
    -------
    StarResiduals
        NaN with fewer than five stars whose window is whole and whose SNR in the difference's sky is 30.
    """
    along_x, along_y, light = (np.asarray(one, dtype=np.float64) for one in (x, y, flux))
    half = int(min(len(psf_d) // 2, max(3, np.ceil(2 * fwhm_px))))
    column, row = np.rint(along_x).astype(int), np.rint(along_y).astype(int)
    height, width = difference.shape
    whole = (row >= half) & (row < height - half) & (column >= half) & (column < width - half)
    whole &= light * np.linalg.norm(psf_d) > _LEAST_SNR * _noise(difference)
    chosen = np.flatnonzero(whole)
    reach = np.arange(-half, half + 1)
    stamps = difference[row[chosen, None, None] + reach[:, None], column[chosen, None, None] + reach]
    good = np.isfinite(stamps).all(axis=(1, 2))
    chosen, stamps = chosen[good][:MOST_STARS], stamps[good][:MOST_STARS]
    if len(chosen) < FEWEST_STARS:
        return StarResiduals(len(chosen), *(float("nan"),) * 6)
    basis = _terms(psf_d, along_x[chosen] - column[chosen], along_y[chosen] - row[chosen], half)
    found = np.array(
        [
            np.linalg.lstsq(terms.reshape(4, -1).T, stamp.ravel() / one, rcond=None)[0]
            for terms, stamp, one in zip(basis, stamps, light[chosen], strict=True)
        ]
    )
    left, slope_x, slope_y, laplacian = np.median(found, axis=0)
    # A median's error is 1.25 times a mean's; half the 16th to 84th percentile is the scatter.
    low, high = np.percentile(found, [15.87, 84.13], axis=0)
    _, x_err, y_err, _ = 1.25 * (high - low) / 2 / np.sqrt(len(found))
    width_error = laplacian / (fwhm_px / 2.3548) ** 2
    figures = (-slope_x, -slope_y, left, width_error, x_err, y_err)
    return StarResiduals(len(chosen), *(float(one) for one in figures))


def _noise(difference: NDArray[np.float32]) -> float:
    """Robust standard deviation of a difference, from at most some 20,000 of its pixels."""
    values = difference[np.isfinite(difference)]
    values = values[:: max(1, values.size // 20_000)]
    return float(np.diff(np.percentile(values, [15.87, 84.13]))[0] / 2) if values.size else float("inf")


def _terms(psf_d: NDArray[np.float32], dx: Float64, dy: Float64, half: int) -> Float64:
    """P_D, its slopes along x and y, and its Laplacian, moved by (dx, dy): (n, 4, v, u), by transforms."""
    box = len(psf_d)
    turn = 2j * np.pi * np.fft.fftfreq(box)
    transform = np.fft.fft2(np.fft.ifftshift(psf_d.astype(np.float64)))
    moved = transform * np.exp(-turn[:, None] * dy[:, None, None] - turn * dx[:, None, None])
    factors = np.stack(
        [np.ones((box, box)), np.tile(turn, (box, 1)), np.tile(turn[:, None], (1, box)),
         turn[:, None] ** 2 + turn**2]
    )  # fmt: skip
    stamps = np.fft.fftshift(np.fft.ifft2(moved[:, None] * factors).real, axes=(-2, -1))
    cut = slice(box // 2 - half, box // 2 + half + 1)
    return np.asarray(stamps[..., cut, cut])


def _footprints(
    x: ArrayLike, y: ArrayLike, radius: float, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns (n, pixels) of a disk round each star that lies whole within the frame."""
    reach = max(1, round(radius))
    dy, dx = np.nonzero(np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= max(radius, 1.0))
    column, row = np.rint(np.asarray(x, float)).astype(int), np.rint(np.asarray(y, float)).astype(int)
    whole = (row >= reach) & (row < shape[0] - reach) & (column >= reach) & (column < shape[1] - reach)
    return row[whole, None] + dy - reach, column[whole, None] + dx - reach
