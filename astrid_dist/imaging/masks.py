"""Where there is no source: the pixels on which noise is judged."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SAMPLE = 20_000


def source_free(
    image: NDArray[np.float32], sigma: float, fwhm_px: float, threshold: float = 4.0
) -> NDArray[np.bool_]:
    """Pixels of a sky-subtracted image without a detectable source.

    The image is smoothed with a Gaussian of the PSF's width, so that faint sources are found too; what
    exceeds ``threshold`` of the smoothed noise is widened to a square, by 1.25 FWHM on each side.

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
    smooth = ndimage.gaussian_filter(
        np.where(good, image, np.float32(0)), width, mode="constant", truncate=3.0
    )
    # White noise smoothed by a Gaussian of width s keeps 1 / (2 s sqrt(pi)) of its standard deviation.
    noise = sigma / (2 * width * np.sqrt(np.pi))
    sources = smooth > threshold * noise
    return np.asarray(good & ~squared(sources, max(1, round(1.25 * fwhm_px))))


def squared(where: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels within ``reach`` rows and columns of a marked one, (y, x) bool."""
    grown = where.copy()
    for axis in (0, 1):
        lines = grown if axis == 0 else grown.T
        done = 0
        while done < reach:
            # What is covered so far, moved by as much, covers twice as far and leaves no gap.
            step = min(max(done, 1), reach - done)
            before = lines.copy(order="K")
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
            done += step
    return grown


def noise_moments(
    score: NDArray[np.float32], where: NDArray[np.bool_], clip: float = 5.0
) -> tuple[float, float, int]:
    """Mean and standard deviation of a score image on chosen pixels, and how many there were.

    Pixels beyond ``clip`` times the robust width (16th to 84th percentile, of at most 20,000 of them evenly
    spread) are left out: they are detections or defects, counted elsewhere.
    """
    values = score[where & np.isfinite(score)]
    if values.size < 100:
        return float("nan"), float("nan"), int(values.size)
    sample = values[:: -(-values.size // _SAMPLE)]
    low, middle, high = np.percentile(sample, [15.87, 50, 84.13])
    kept = values[np.abs(values - middle) <= clip * max((high - low) / 2, 1e-6)]
    return float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64)), int(kept.size)
