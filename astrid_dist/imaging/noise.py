"""Noise that is not white: how neighbouring pixels correlate, and what that does to S_corr."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

#: Pixels apart where noise no longer correlates: beyond resampling kernels and most read-out effects.
_FAR = 8
_FEWEST = 500


def neighbour_correlation(image: NDArray[np.float32], quiet: NDArray[np.bool_]) -> float:
    """Mean correlation of the noise of neighbours in a row and in a column.

    1 - V(1) / V(8), where V(n) is the variance of the difference of pixels n apart: a sky that varies over
    many pixels falls out. White noise has 0, resampled frames 0.05 to 0.4.

    Parameters
    ----------
    image : (y, x) float32
        Sky-subtracted; NaN is left out.
    quiet : (y, x) bool
        Source-free pixels, from `masks.source_free`; pairs with both ends there are used.

    Returns
    -------
    float
        NaN with fewer than 500 pairs.
    """
    used = np.where(quiet & np.isfinite(image), image, np.nan).astype(np.float64)
    found = []
    for plane in (used, used.T):
        near, far = (_structure(plane, apart) for apart in (1, _FAR))
        found.append(1 - near / far if far > 0 else np.nan)
    return float(np.mean(found))


def _structure(plane: NDArray[np.float64], apart: int) -> float:
    """Variance of the difference of pixels so far apart in a row, clipped at five robust widths."""
    values = (plane[:, apart:] - plane[:, :-apart]).ravel()
    values = values[np.isfinite(values)]
    if values.size < _FEWEST:
        return float("nan")
    low, high = np.percentile(values, [15.87, 84.13])
    kept = values[np.abs(values) <= 2.5 * max(high - low, 1e-12)]
    return float(np.mean(kept**2))


def predicted_score_std(
    psf_n: NDArray[np.float32],
    psf_r: NDArray[np.float32],
    sigma_n: float,
    sigma_r: float,
    flux_ratio: float,
    correlation_n: float,
    correlation_r: float,
    noise_n: float | None = None,
    noise_r: float | None = None,
) -> float:
    """Standard deviation of S_corr on empty sky that correlated noise makes of the expected 1.

    The variance of S_n is sigma² times the sum over lags of the noise's correlation times the
    autocorrelation of k_n; eq. 26 of Zackay et al. 2016 keeps lag 0 alone. Here lags of one pixel along rows
    and columns are added.

    Parameters
    ----------
    psf_n, psf_r : (v, u) float
        PSFs of science and reference, centred on the middle pixel.
    sigma_n, sigma_r : float
        Noise per pixel that the subtraction was told, electrons.
    flux_ratio : float
        Science over reference.
    correlation_n, correlation_r : float
        From `neighbour_correlation`.
    noise_n, noise_r : float, optional
        Standard deviation that the pixels really have; as told where left out. A resampled frame has a
        smaller one than its variance plane says, since that speaks of its large-scale noise.
    """
    grid = (2 * max(len(psf_n), len(psf_r)),) * 2
    P_n, P_r = (np.square(np.abs(fft.rfft2(psf / np.sum(psf), grid))) for psf in (psf_n, psf_r))
    den = sigma_n**2 * P_r + (sigma_r * flux_ratio) ** 2 * P_n
    den = np.maximum(den, 1e-9 * den.max())
    # |k_n|² and |k_r|² up to a common factor, eq. 28 and 29.
    powers = P_n * np.square(P_r / den), flux_ratio**2 * P_r * np.square(P_n / den)
    expected = real = 0.0
    for power, told, measured, correlation in (
        (powers[0], sigma_n, noise_n, correlation_n),
        (powers[1], sigma_r, noise_r, correlation_r),
    ):
        auto = fft.irfft2(power, grid)
        expected += told**2 * float(auto[0, 0])
        neighbours = 2 * float(auto[0, 1] + auto[1, 0])
        real += (told if measured is None else measured) ** 2 * float(auto[0, 0] + correlation * neighbours)
    return float(np.sqrt(max(real, 0.0) / expected))
