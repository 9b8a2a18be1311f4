"""The most that any search can find in white noise, and the false peaks that noise alone makes.

The score of a matched filter on white noise is a Gaussian random field of unit width, smoothed by the PSF. At
the pixel of a source of true SNR s it is s plus a unit Gaussian.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]

#: Neighbours of a pixel.
_AROUND = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
_DRAWS = 1 << 14


def matched_filter_recall(snr: ArrayLike, threshold: float) -> Floats:
    """Chance that a source passes a threshold at its own pixel: Phi(snr - threshold).

    Exact for a source in the middle of a pixel, judged there. A search for peaks takes the highest of the
    pixels around, which noise makes higher: it finds a little more, most at faint sources. A source between
    pixels loses up to some per cent of its SNR.

    Parameters
    ----------
    snr : array_like
        True SNR, its sign that of the threshold; any shape.
    threshold : float
        In the same unit, noise sigmas.
    """
    return np.asarray(ndtr(np.asarray(snr, np.float64) - threshold))


def noise_peaks(threshold: float, fwhm_px: float) -> float:
    """Expected peaks of pure noise per pixel at or above a threshold, on one side.

    A peak is a pixel not below any of its eight neighbours. Given its value they are a Gaussian of eight
    dimensions, for the noise is that of white noise filtered with a round Gaussian PSF; the chance that all
    are lower is counted in draws that are always the same. For wide PSFs this comes near the density of peaks
    of a continuous field (Bond & Efstathiou 1987, MNRAS 226, 655), for narrow ones near the share of pixels
    above.

    Parameters
    ----------
    threshold : float
        In noise sigmas, above 2, where peaks are apart.
    fwhm_px : float
        Of the PSF that the filter is matched to, pixels.

    Raises
    ------
    InputError
        A threshold of 2 or less, or a FWHM outside 1 to 20 pixels.
    """
    if not (threshold > 2 and 1 <= fwhm_px <= 20):
        raise InputError(
            f"threshold {threshold}, FWHM {fwhm_px} px: peaks are counted above 2, for a FWHM of 1 to 20 px"
        )
    # of a PSF sampled at pixels with itself, 0, 1 and 2 pixels apart along an axis
    reach = np.arange(-int(4 * fwhm_px) - 1, int(4 * fwhm_px) + 2)
    psf = np.exp(-0.5 * (reach * 2.3548 / fwhm_px) ** 2)
    along = np.array([psf @ psf, psf[1:] @ psf[:-1], psf[2:] @ psf[:-2]]) / (psf @ psf)
    to_pixel = along[np.abs(_AROUND)].prod(-1)
    apart = along[np.abs(_AROUND[:, None] - _AROUND[None])].prod(-1)
    given = apart - np.outer(to_pixel, to_pixel)
    size, axes = np.linalg.eigh(given)
    noise = _normals() * np.sqrt(size.clip(0)) @ axes.T
    # a neighbour at correlation r is r times the pixel plus its noise: lower where the pixel is high enough
    lowest = (noise / (1 - to_pixel)).max(axis=1)
    return float(ndtr(-np.maximum(lowest, threshold)).mean())


def noise_threshold(pixels: float, fwhm_px: float, *, peaks: float = 1.0, both_signs: bool = True) -> float:
    """Threshold at which pure noise has `peaks` false peaks per image, in noise sigmas.

    Parameters
    ----------
    pixels : float
        Of an image, with data.
    fwhm_px : float
        Of the PSF that the filter is matched to, pixels.
    peaks : float
        Per image; fewer than its independent places by far.
    both_signs : bool
        Count troughs below -threshold too, as a search for sources of either sign does.

    Raises
    ------
    InputError
        So many peaks, or so few pixels, that the threshold would be 2 or less; a FWHM outside 1 to 20 pixels.

    Examples
    --------
    >>> round(noise_threshold(2048**2, fwhm_px=3.0), 1)
    5.1
    """
    wanted = peaks / pixels / (2 if both_signs else 1)
    lowest = 2.0 + 1e-9
    if not 0 < wanted < noise_peaks(lowest, fwhm_px):
        raise InputError(f"{peaks} noise peaks in {pixels} pixels: the threshold would be below 2 sigma")
    return float(brentq(lambda t: np.log(noise_peaks(t, fwhm_px) / wanted), lowest, 12.0))


def matched_filter_limit(
    snr: ArrayLike, pixels: float, fwhm_px: float, *, peaks: float = 1.0, both_signs: bool = True
) -> Floats:
    """Recall of a matched filter at true SNRs, at the threshold of `peaks` false peaks per image.

    See `matched_filter_recall` and `noise_threshold`.

    Examples
    --------
    >>> matched_filter_limit([5.0, 6.0], 2048**2, fwhm_px=3.0).round(2)
    array([0.46, 0.81])
    """
    return matched_filter_recall(snr, noise_threshold(pixels, fwhm_px, peaks=peaks, both_signs=both_signs))


def _normals() -> Floats:
    """(draws, 8) standard normals, always the same: a scrambled Sobol' sequence covers them evenly."""
    from scipy.stats import qmc

    return np.asarray(ndtri(qmc.Sobol(8, rng=1).random(_DRAWS).clip(1e-12, 1 - 1e-12)))
