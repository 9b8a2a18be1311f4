"""Filters of proper image subtraction for one pair of PSFs.

Equation numbers are those of Zackay, Ofek & Gal-Yam 2016 (ApJ 830, 27).
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from astrid_dist.errors import InputError
from astrid_dist.imaging.arrays import Array, namespace, on_device, to_host
from astrid_dist.imaging.kernels import (
    Stamp,
    centred,
    energy_radius,
    largest_beyond,
    noise_floor,
    transform,
)

Image: TypeAlias = NDArray[np.float32]

# Transforms of PSFs below this fraction of their zero frequency are rounding, not signal.
_ROUNDING_FLOOR = 1e-6
# Standard deviations at which a point source counts as seen.
_DETECTION = 5.0


@dataclass(frozen=True)
class SubtractionPlan:
    """Filters of one PSF pair on one tile shape; reusable for every tile that shares them.

    Attributes
    ----------
    shape, padded : (int, int)
        Tile (y, x) and the transform grid around it.
    science_d, reference_d : (ky, kx) complex64
        Filters that make D / F_D of the images (eq. 13 over eq. 15).
    match : (ky, kx) complex64
        Makes S / F_S of D / F_D: the conjugate transform of P_D, scaled (eq. 12). Times `science_d` it is
        k_n / F_S, times `reference_d` k_r / F_S (eq. 28, 29).
    science_v, reference_v : (ky, kx) complex64
        Transforms of (k_n / F_S)² and (k_r / F_S)², squared in pixel space (eq. 26, 27).
    psf_d : (v, u) float32
        PSF of D, centred on the middle pixel (eq. 14): a source of flux 1 adds exactly this to `difference`.
        Its sum is 1 but for what lies outside the box.
    sigma_n, sigma_r, flux_ratio : float
        As planned; F_n / F_r.
    F_D, F_S : float
        Flux scales of D and S (eq. 15, 42).
    limiting_flux : float
        Flux of a point source that stands 5 sigma above the background alone: 5 sqrt(V_S) / F_S (eq. 41-43)
        with V_S from sigma_n and sigma_r, on the scale of `difference`.
    kernel_radius_px : float
        Radius in pixels that holds 99.9 % of the energy of k_n and of k_r.
    leak : (n,) float64
        Largest response of the score to one science electron n pixels away or farther.
    """

    shape: tuple[int, int]
    padded: tuple[int, int]
    science_d: Array
    reference_d: Array
    match: Array
    science_v: Array
    reference_v: Array
    psf_d: Image
    sigma_n: float
    sigma_r: float
    flux_ratio: float
    F_D: float
    F_S: float
    limiting_flux: float
    kernel_radius_px: float
    leak: NDArray[np.float64]

    @property
    def science_s(self) -> Array:
        """k_n (eq. 28), (ky, kx) complex64."""
        return self.science_d * self.match * self.F_S

    @property
    def reference_s(self) -> Array:
        """k_r (eq. 29), (ky, kx) complex64."""
        return self.reference_d * self.match * self.F_S

    def to(self, device: Any) -> "SubtractionPlan":
        """The plan with its filters as torch tensors on a device ("cuda", "cpu"); None makes them NumPy's."""
        place = on_device(device)
        if namespace(self.match).device == place.device:
            return self
        names = ("science_d", "reference_d", "match", "science_v", "reference_v")
        return replace(self, **{name: place.moved(to_host(getattr(self, name))) for name in names})


def halo_px(psf_box: int) -> int:
    """Margin a tile needs so that what it computes inside equals the untiled result to 1e-4 in the score.

    Parameters
    ----------
    psf_box : int
        Side of the PSF stamps, pixels.

    Returns
    -------
    int
        Half the box, where k_n and k_r (PSFs through a smooth filter) end, and 8 px for the filter itself.
        A PSF cut off in its wings, or one with 5e-5 of noise per pixel, has ragged filters: 1e-3 there.
    """
    return psf_box // 2 + 8


def plan_subtraction(
    psf_n: ArrayLike,
    psf_r: ArrayLike,
    sigma_n: float,
    sigma_r: float,
    flux_n: float,
    flux_r: float = 1.0,
    *,
    shape: tuple[int, int],
) -> SubtractionPlan:
    """Filters that subtract a reference from a science image, ZOGY eq. 12-17, 26-29 and 42.

    Parameters
    ----------
    psf_n, psf_r : (v, u) float
        PSFs of science image and reference, odd square boxes, centred on the middle pixel; scaled to sum 1.
    sigma_n, sigma_r : float
        Background noise per pixel, electrons.
    flux_n, flux_r : float
        Flux scales F_n and F_r: electrons that a source of flux 1 leaves in each image.
    shape : (int, int)
        Rows and columns of the tiles to subtract, any parity.

    Raises
    ------
    InputError
        A PSF without a middle pixel, not finite or without flux; a sigma or scale that is not positive.
    """
    scales = {"sigma_n": sigma_n, "sigma_r": sigma_r, "flux_n": flux_n, "flux_r": flux_r}
    for name, value in scales.items():
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"subtraction: {name} is {value}, it must be a positive number")
    science = _checked_psf(psf_n, "science")
    reference = _checked_psf(psf_r, "reference")
    box = max(len(science), len(reference))
    margin = halo_px(box)
    # Columns are transformed as complex numbers, which have more fast lengths than rows.
    padded = (
        fft.next_fast_len(max(shape[0] + margin, box)),
        fft.next_fast_len(max(shape[1] + margin, box), real=True),
    )
    maker = _Maker(
        max(_ROUNDING_FLOOR, noise_floor(science), noise_floor(reference)),
        *(float(value) for value in scales.values()),
    )

    # Kernels end within the margin: what needs them in pixel space is made on a small grid, in float64.
    small = cast(tuple[int, int], tuple(min(side, fft.next_fast_len(4 * margin)) for side in padded))
    Pn = transform(science, small)
    science_d, reference_d, match = maker.filters(Pn, transform(reference, small), 1.0)
    kernel_n, kernel_r = fft.irfft2(science_d * match, small), fft.irfft2(reference_d * match, small)
    # S of a unit source at its own pixel: eq. 42 where the guard is idle.
    F_S = float(flux_n * np.sum(centred(kernel_n, len(science))[::-1, ::-1] * science))
    noise = float(np.hypot(sigma_n * np.linalg.norm(kernel_n), sigma_r * np.linalg.norm(kernel_r)))
    response = np.maximum(np.abs(kernel_n), np.abs(kernel_r) * (flux_r / flux_n)) / noise
    psf_d = fft.irfft2(flux_n * science_d * Pn, small)
    science_v, reference_v = (
        transform(centred(np.square(kernel / F_S), min(small) - 1 + min(small) % 2), padded, np.float32)
        for kernel in (kernel_n, kernel_r)
    )
    # Transforms in float64, as high frequencies of a PSF are small beside its sum; ratios in float32.
    Pn, Pr = (transform(stamp, padded).astype(np.complex64) for stamp in (science, reference))
    science_d, reference_d, match = maker.filters(Pn, Pr, 1 / F_S)
    return SubtractionPlan(
        shape=(int(shape[0]), int(shape[1])),
        padded=padded,
        science_d=science_d,
        reference_d=reference_d,
        match=match,
        science_v=science_v,
        reference_v=reference_v,
        psf_d=centred(psf_d, box).astype(np.float32),
        sigma_n=float(sigma_n),
        sigma_r=float(sigma_r),
        flux_ratio=float(flux_n / flux_r),
        F_D=maker.scale_d,
        F_S=F_S,
        limiting_flux=_DETECTION * noise / F_S,
        leak=largest_beyond(response, margin),
        kernel_radius_px=max(energy_radius(kernel, margin) for kernel in (kernel_n, kernel_r)),
    )


@dataclass(frozen=True)
class _Maker:
    """Filters of two transformed PSFs on any grid, in their own precision."""

    floor: float
    sigma_n: float
    sigma_r: float
    flux_n: float
    flux_r: float

    @property
    def scale_d(self) -> float:
        """F_D, eq. 15."""
        noise = np.hypot(self.sigma_n * self.flux_r, self.sigma_r * self.flux_n)
        return self.flux_n * self.flux_r / float(noise)

    def filters(self, Pn: NDArray[Any], Pr: NDArray[Any], scale: float) -> tuple[NDArray[Any], ...]:
        """D / F_D of the science image and of the reference, and S times `scale` of D / F_D."""
        share_r = (self.sigma_n * self.flux_r) ** 2 / ((self.flux_n * self.flux_r / self.scale_d) ** 2)
        # Root of eq. 13's denominator, over the one of eq. 15: of order 1 where the PSFs have power.
        power = _squared(Pr)
        power *= share_r
        other = _squared(Pn)
        other *= 1 - share_r
        power += other
        # Where both PSFs have no power D would be 0/0, or noise of the PSFs over noise, which smears cosmic
        # rays and saturated stars over the tile. There both are set to one small number: D stays white and
        # becomes the plain weighted difference, and the score ignores the frequency.
        weak = np.nonzero(power < 6 * self.floor**2)
        signal = -np.expm1(-np.square(power[weak] / self.floor**2))
        Qn, Qr = Pn.copy(), Pr.copy()
        for Q in (Qn, Qr):
            Q[weak] = Q[weak] * signal + self.floor * (1 - signal)
        power[weak] = share_r * _squared(Qr[weak]) + (1 - share_r) * _squared(Qn[weak])
        root = np.sqrt(power, out=power)
        match = Qn * Qr
        np.conj(match, out=match)
        match *= self.scale_d**2 * scale / root
        match[weak] *= signal
        Qr *= (1 / self.flux_n) / root
        Qn *= (1 / self.flux_r) / root
        return Qr, Qn, match


def _checked_psf(psf: ArrayLike, whose: str) -> Stamp:
    stamp = np.asarray(psf, dtype=np.float64)
    if stamp.ndim != 2 or stamp.shape[0] != stamp.shape[1] or stamp.shape[0] % 2 == 0:
        raise InputError(f"subtraction: {whose} PSF is {stamp.shape}; it needs a square, odd box")
    total = stamp.sum()
    if not (np.isfinite(total) and total > 0):
        raise InputError(f"subtraction: {whose} PSF sums to {total}; it must be finite and positive")
    return cast(Stamp, stamp / total)


def _squared(transform: NDArray[Any]) -> NDArray[Any]:
    square = np.square(transform.real)
    square += np.square(transform.imag)
    return cast(NDArray[Any], square)
