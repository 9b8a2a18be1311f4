"""Where there is no source: the pixels on which noise is judged."""

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 20_000


def source_free(
    image: NDArray[np.float32], sigma: float, fwhm_px: float, threshold: float = 4.0
) -> NDArray[np.bool_]:
    """Pixels of a sky-subtracted image without a detectable source.

    The image is summed over squares of 1.2 FWHM, which find a point source nearly as well as its own profile
    would; what exceeds ``threshold`` of their noise is widened to a square, by 1.25 FWHM on each side.

    Parameters
    ----------
    image : (y, x) float32
        Sky-subtracted electrons; NaN is no data (and is not source-free).
    sigma : float
        Background noise per pixel, electrons.
    fwhm_px : float
        Seeing in pixels.
    threshold : float
        In standard deviations of the sums; 4 cuts one noise pixel in 3e4, so that the noise's own
        tails are hardly touched.

    Returns
    -------
    (y, x) bool
    """
    good = np.isfinite(image)
    half = max(1, round(0.6 * fwhm_px))
    sums = _moving_sum(np.where(good, image, np.float32(0)), half)
    sources = sums > threshold * sigma * (2 * half + 1)
    return np.asarray(good & ~squared(sources, max(1, round(1.25 * fwhm_px))))


def _moving_sum(image: NDArray[np.float32], half: int) -> NDArray[np.float32]:
    """Sum over the square of `half` pixels to either side; zero lies beyond the border."""
    for axis in (0, 1):
        lines = image if axis == 0 else image.T
        total = lines.copy(order="K")
        for step in range(1, half + 1):
            total[step:] += lines[:-step]
            total[:-step] += lines[step:]
        image = total if axis == 0 else total.T
    return image


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
