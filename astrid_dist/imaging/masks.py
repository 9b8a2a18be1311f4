"""Where there is no source: the pixels on which noise is judged."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def source_free(
    image: NDArray[np.float32], sigma: float, fwhm_px: float, threshold: float = 4.0
) -> NDArray[np.bool_]:
    """Pixels of a sky-subtracted image without a detectable source.

    The image is smoothed with a Gaussian of the PSF's width, so that faint sources are found too; what
    exceeds ``threshold`` of the smoothed noise is widened by 1.5 FWHM.

    Parameters
    ----------
    image : (y, x) float32
        Sky-subtracted electrons; NaN is no data (and is not source-free).
    sigma : float
        Background noise per pixel, electrons.
    fwhm_px : float
        Seeing in pixels.
    threshold : float
        In standard deviations of the smoothed noise; 4 cuts one noise pixel in 3e4, so that the noise's own
        tails are hardly touched.

    Returns
    -------
    (y, x) bool
    """
    width = fwhm_px / 2.3548
    good = np.isfinite(image)
    smooth = ndimage.gaussian_filter(np.where(good, image, 0.0), width, mode="constant")
    # White noise smoothed by a Gaussian of width s keeps 1 / (2 s sqrt(pi)) of its standard deviation.
    noise = sigma / (2 * width * np.sqrt(np.pi))
    sources = smooth > threshold * noise
    radius = max(1, round(1.5 * fwhm_px))
    grown = ndimage.binary_dilation(sources, ndimage.generate_binary_structure(2, 1), iterations=radius)
    return np.asarray(good & ~grown)


def noise_moments(
    score: NDArray[np.float32], where: NDArray[np.bool_], clip: float = 5.0
) -> tuple[float, float, int]:
    """Mean and standard deviation of a score image on chosen pixels, and how many there were.

    Pixels beyond ``clip`` times the robust width (16th to 84th percentile) are left out: they are
    detections or defects, counted elsewhere.
    """
    values = score[where & np.isfinite(score)]
    if values.size < 100:
        return float("nan"), float("nan"), int(values.size)
    low, middle, high = np.percentile(values, [15.87, 50, 84.13])
    kept = values[np.abs(values - middle) <= clip * max((high - low) / 2, 1e-6)].astype(np.float64)
    return float(kept.mean()), float(kept.std()), int(kept.size)
