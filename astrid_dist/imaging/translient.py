"""Motion or change of flux: the translient statistic (Springer, Ofek, Zackay et al. 2024, AJ 167, 281)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft


def translient(
    difference: NDArray[np.floating], psf_d: NDArray[np.floating], sigma: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """S² and Z² of images: how well a change of flux, or a small shift, at a pixel explains the difference.

    A source of flux f that moves by a small d leaves -f (d · grad P_D) in D. With d unknown, the best such
    model lowers chi squared by Z² = z C⁻¹ z, z the correlation of D with the two slopes of P_D and C the
    covariance of z in white noise; a change of flux lowers it by S² (their section 3, background-dominated).
    Between lobes Z² exceeds S² if the source moved; at a source that changed, Z² stays near 0.4 S².

    Parameters
    ----------
    difference : (..., y, x) float
        D or D / F_D; NaN is no data and counts as zero.
    psf_d : (v, u) float
        Its PSF, centred on the middle pixel.
    sigma : float or (...)
        Its noise per pixel.

    Returns
    -------
    s2, z2 : (..., y, x) float64
        In noise alone chi squared of one and of two degrees of freedom.
    """
    image = np.nan_to_num(np.asarray(difference, dtype=np.float64))
    height, width = image.shape[-2:]
    box = len(psf_d)
    shape = (fft.next_fast_len(height + box - 1), fft.next_fast_len(width + box - 1, real=True))
    stamp = np.asarray(psf_d, dtype=np.float64)
    turn = 2j * np.pi * np.fft.fftfreq(box)
    spectrum = np.fft.fft2(stamp)
    slopes = [np.fft.ifft2(spectrum * part).real for part in (turn[:, None], turn[None, :])]
    data = fft.rfft2(image, shape)
    s, z_y, z_x = (_correlate(data, kernel, shape)[..., :height, :width] for kernel in (stamp, *slopes))
    noise = np.asarray(sigma, dtype=np.float64)[..., None, None] ** 2
    yy, xx, xy = (float(np.sum(a * b)) for a, b in ((slopes[0],) * 2, (slopes[1],) * 2, slopes))
    z2 = (xx * z_y**2 - 2 * xy * z_y * z_x + yy * z_x**2) / (yy * xx - xy**2)
    return s**2 / np.sum(stamp**2) / noise, z2 / noise


def _correlate(
    data: NDArray[np.complex128], kernel: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    grid = np.zeros(shape)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    grid[np.ix_(offsets % shape[0], offsets % shape[1])] = kernel
    return np.asarray(fft.irfft2(data * np.conj(fft.rfft2(grid)), shape))
