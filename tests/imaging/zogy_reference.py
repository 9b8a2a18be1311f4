"""Zackay, Ofek & Gal-Yam 2016 symbol by symbol: complex float64 transforms of the whole padded frame.

Slow and plain on purpose, and sharing no code with the package: the tests hold the subtraction against it,
and the benchmarks time it as the textbook.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Textbook:
    """What eq. 13-17, 25-33 and 41-43 leave, cut to the frame."""

    difference: Float64
    """D / F_D."""
    score: Float64
    """S_corr."""
    sigma_flux: Float64
    psf_d: Float64
    """P_D, (v, u), in the larger of the two boxes."""
    F_D: float
    F_S: float


def textbook(
    N: NDArray[Any],
    R: NDArray[Any],
    Vn: NDArray[Any],
    Vr: NDArray[Any],
    Pn: NDArray[Any],
    Pr: NDArray[Any],
    sn: float,
    sr: float,
    fn: float,
    fr: float = 1.0,
    astrometric_sigma: tuple[float, float] = (0.0, 0.0),
    flux_ratio_err: float = 0.0,
    pad: int = 64,
) -> Textbook:
    """Subtract R from N (y, x) on a frame padded with zeros; PSFs are odd square boxes.

    `astrometric_sigma` (x, y, pixels) is the scatter between the images, of which each carries half the
    variance; slopes are central differences. `flux_ratio_err` is that of fn / fr.
    """
    height, width = N.shape
    shape = (height + pad, width + pad)

    def transform(image: NDArray[Any]) -> NDArray[np.complex128]:
        frame = np.zeros(shape, dtype=complex)
        frame[:height, :width] = image
        return np.fft.fft2(frame)

    def transform_psf(psf: NDArray[Any]) -> NDArray[np.complex128]:
        frame = np.zeros(shape, dtype=complex)
        box = psf.shape[0]
        frame[:box, :box] = psf / psf.sum(dtype=float)
        return np.fft.fft2(np.roll(frame, (-(box // 2), -(box // 2)), (0, 1)))

    def image_of(spectrum: NDArray[np.complex128]) -> Float64:
        return np.fft.ifft2(spectrum).real

    n, r, pn, pr = transform(N), transform(R), transform_psf(Pn), transform_psf(Pr)
    den = sn**2 * fr**2 * np.abs(pr) ** 2 + sr**2 * fn**2 * np.abs(pn) ** 2
    D = image_of((fr * pr * n - fn * pn * r) / np.sqrt(den))  # 13
    F_D = fr * fn / np.sqrt(sn**2 * fr**2 + sr**2 * fn**2)  # 15
    P_D = image_of(fr * fn * pr * pn / (F_D * np.sqrt(den)))  # 14
    k_r = fr * fn**2 * np.conj(pr) * np.abs(pn) ** 2 / den  # 28
    k_n = fn * fr**2 * np.conj(pn) * np.abs(pr) ** 2 / den  # 29
    S_n, S_r = image_of(k_n * n), image_of(k_r * r)
    V = image_of(transform(Vn) * np.fft.fft2(image_of(k_n) ** 2))  # 26
    V += image_of(transform(Vr) * np.fft.fft2(image_of(k_r) ** 2))  # 27
    for S in (S_n, S_r):  # 30-33
        for axis, sigma in ((1, astrometric_sigma[0]), (0, astrometric_sigma[1])):
            V += sigma**2 / 2 * ((np.roll(S, -1, axis) - np.roll(S, 1, axis)) / 2) ** 2
    V += (flux_ratio_err * fr / fn * S_r) ** 2
    F_S = float(np.sum(fn**2 * fr**2 * np.abs(pn) ** 2 * np.abs(pr) ** 2 / den) / den.size)  # 42
    box = max(Pn.shape[0], Pr.shape[0])
    inside = np.s_[:height, :width]
    return Textbook(
        difference=D[inside] / F_D,
        score=(S_n - S_r)[inside] / np.sqrt(V[inside]),  # 25
        sigma_flux=np.sqrt(V[inside]) / F_S,  # 43
        psf_d=np.roll(P_D, (box // 2, box // 2), (0, 1))[:box, :box],
        F_D=float(F_D),
        F_S=F_S,
    )
