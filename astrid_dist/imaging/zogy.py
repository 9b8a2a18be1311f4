"""Proper image subtraction: D, P_D and S_corr of a science image and its reference.

Equation numbers are those of Zackay, Ofek & Gal-Yam 2016 (ApJ 830, 27). Filters depend on PSFs, noise and
flux scales alone: `plan_subtraction` makes them once, `subtract` then costs eight real transforms a tile
(four images in; D, S_n, S_r and the variance of S out).

Whatever lies outside the image, or is no data in both images, enters with zero signal and zero variance:
no noise is invented, and the variance of S, being convolved from the variance planes themselves (eq. 26, 27),
stays right up to the border. What a border or hole costs is light: a source nearer to it than the kernel
radius is measured too faint, and a star cut by it leaves a residual.
"""

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from astrid_dist.errors import InputError
from astrid_dist.imaging.no_data import fill_pair, moved, widened

Image: TypeAlias = NDArray[np.float32]

# Transforms of PSFs below this fraction of their zero frequency are rounding, not signal.
_ROUNDING_FLOOR = 1e-6
_KERNEL_ENERGY = 0.999
# In background sigmas; a full well is below 1e5 of them. One pixel at this limit costs its tile 1e-3 sigma.
_LARGEST_VALUE = 1e7


@dataclass(frozen=True)
class SubtractionPlan:
    """Filters of one PSF pair on one tile shape; reusable for every tile that shares them.

    Attributes
    ----------
    shape, padded : (int, int)
        Tile (y, x) and the transform grid around it.
    science_d, reference_d : (ky, kx) complex64
        Filters that make D / F_D of the images (eq. 13 over eq. 15).
    science_s, reference_s : (ky, kx) complex64
        k_n and k_r (eq. 28, 29).
    science_v, reference_v : (ky, kx) complex64
        Transforms of k_n² and k_r², squared in pixel space (eq. 26, 27).
    psf_d : (v, u) float32
        PSF of D, centred on the middle pixel (eq. 14): a source of flux 1 adds exactly this to `difference`.
        Its sum is 1 but for what lies outside the box.
    sigma_n, sigma_r, flux_ratio : float
        As planned; F_n / F_r.
    F_D, F_S : float
        Flux scales of D and S (eq. 15, 42).
    kernel_radius_px : float
        Radius in pixels that holds 99.9 % of the energy of k_n and of k_r.
    leak : (n,) float64
        Largest response of the score to one science electron n pixels away or farther.
    """

    shape: tuple[int, int]
    padded: tuple[int, int]
    science_d: NDArray[np.complex64]
    reference_d: NDArray[np.complex64]
    science_s: NDArray[np.complex64]
    reference_s: NDArray[np.complex64]
    science_v: NDArray[np.complex64]
    reference_v: NDArray[np.complex64]
    psf_d: Image
    sigma_n: float
    sigma_r: float
    flux_ratio: float
    F_D: float
    F_S: float
    kernel_radius_px: float
    leak: NDArray[np.float64]


@dataclass(frozen=True)
class Subtraction:
    """Difference of a pair on the reference's flux scale; every image is (y, x) float32, NaN no data.

    Attributes
    ----------
    difference : (y, x) float32
        D / F_D, electrons of the reference; its noise is white.
    score : (y, x) float32
        Signed S_corr (eq. 25), in its own standard deviations.
    sigma_flux : (y, x) float32
        Standard deviation of the PSF flux, electrons of the reference: `score * sigma_flux` is the flux
        S / F_S of a point source centred on the pixel (eq. 41-43, with the astrometric and flux-ratio terms).
    psf_d : (v, u) float32
        PSF of `difference`.
    F_S, kernel_radius_px : float
        As in `SubtractionPlan`.
    """

    difference: Image
    score: Image
    sigma_flux: Image
    psf_d: Image
    F_S: float
    kernel_radius_px: float


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
    padded = (fft.next_fast_len(shape[0] + margin), fft.next_fast_len(shape[1] + margin, real=True))
    Pn, Pr = _transform(science, padded), _transform(reference, padded)

    # Where both PSFs have no power D would be 0/0, or noise of the PSFs over noise, which smears cosmic rays
    # and saturated stars over the tile. There both are set to one small number: D stays white and becomes
    # the plain weighted difference, and the score ignores the frequency.
    floor = max(_ROUNDING_FLOOR, _noise_floor(science), _noise_floor(reference))
    weight_r, weight_n = (sigma_n * flux_r) ** 2, (sigma_r * flux_n) ** 2
    power = (weight_r * _squared(Pr) + weight_n * _squared(Pn)) / (weight_r + weight_n)
    weak = np.nonzero(power < 6 * floor**2)
    signal = -np.expm1(-((power[weak] / floor**2) ** 2))
    Qn, Qr = Pn.copy(), Pr.copy()
    for Q in (Qn, Qr):
        Q[weak] = Q[weak] * signal + floor * (1 - signal)
    power_n, power_r = _squared(Qn), _squared(Qr)
    den = weight_r * power_r + weight_n * power_n
    F_D = flux_n * flux_r / np.sqrt(weight_r + weight_n)
    scale_d = 1 / (F_D * np.sqrt(den))
    scale_s = flux_n * flux_r / den
    scale_s[weak] *= signal
    science_d = (Qr * (flux_r * scale_d)).astype(np.complex64)
    reference_d = (Qn * (flux_n * scale_d)).astype(np.complex64)
    science_s = (np.conj(Qn) * (flux_r * power_r * scale_s)).astype(np.complex64)
    reference_s = (np.conj(Qr) * (flux_n * power_n * scale_s)).astype(np.complex64)
    kernel_n, kernel_r = fft.irfft2(science_s, padded), fft.irfft2(reference_s, padded)
    psf_d = fft.irfft2((flux_n * science_d * Pn).astype(np.complex64), padded)
    return SubtractionPlan(
        shape=(int(shape[0]), int(shape[1])),
        padded=padded,
        science_d=science_d,
        reference_d=reference_d,
        science_s=science_s,
        reference_s=reference_s,
        science_v=fft.rfft2(np.square(kernel_n)),
        reference_v=fft.rfft2(np.square(kernel_r)),
        psf_d=_centred(psf_d, box),
        sigma_n=float(sigma_n),
        sigma_r=float(sigma_r),
        flux_ratio=float(flux_n / flux_r),
        F_D=float(F_D),
        # S of a unit source at its own pixel: eq. 42 where the guard is idle.
        F_S=float(flux_n * np.sum(_centred(kernel_n, len(science))[::-1, ::-1] * science)),
        leak=_leak(kernel_n, kernel_r, sigma_n, sigma_r, flux_n / flux_r, margin),
        kernel_radius_px=max(_energy_radius(kernel, margin) for kernel in (kernel_n, kernel_r)),
    )


def subtract(
    new: Image,
    ref: Image,
    var_new: Image,
    var_ref: Image,
    plan: SubtractionPlan,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    astrometric_sigma: tuple[float, float] = (0.0, 0.0),
    flux_ratio_err: float = 0.0,
) -> Subtraction:
    """Difference, score and flux error of a pair, ZOGY eq. 12-17, 25-33 and 41-43.

    Parameters
    ----------
    new, ref : (y, x) float32
        Background-subtracted electrons; NaN is no data, zero is data. A value beyond 1e7 sigma is garbage and
        taken as no data.
    var_new, var_ref : (y, x) float32
        Variance planes, electron², source noise included; a negative one is no data.
    plan : SubtractionPlan
        Filters of this pair, for this shape.
    shift : (float, float)
        (dx, dy) in pixels: stars of the science image lie at +dx, +dy of the reference's. The image is
        moved back by a phase ramp; meant for residuals of registration, at most a few pixels.
    astrometric_sigma : (float, float)
        Standard deviation of the relative position of single stars in the two images per axis, pixels (the
        scatter of matched stars, not the error of their mean, which `shift` has taken out). Half its variance
        goes to each image (eq. 30-33), so that together they carry it once.
    flux_ratio_err : float
        Uncertainty of flux_n / flux_r as a single star sees it, PSF errors included. A wrong ratio leaves
        the same share of every pixel of a star, hence a variance (flux_ratio_err / flux_ratio · S_r)².

    Returns
    -------
    Subtraction
        NaN within `kernel_radius_px` of a pixel that is NaN in any of the four planes (farther away less
        than 0.1 % of the energy of a kernel lies on it), and as much farther as the hidden part of a bright
        star would move the score by its own noise.

    Raises
    ------
    InputError
        Shapes that differ from each other or the plan's; a shift beyond the padding.
    """
    height, width = plan.shape
    for name, plane in (("science", new), ("reference", ref), ("variance", var_new), ("variance", var_ref)):
        if plane.shape != plan.shape:
            raise InputError(f"subtraction: {name} plane is {plane.shape}, the plan is for {plan.shape}")
    dx, dy = shift
    limit = min(plan.padded[0] - height, plan.padded[1] - width) / 2
    if not (abs(dx) <= limit and abs(dy) <= limit):
        raise InputError(
            f"subtraction: shift {shift} px exceeds {limit} px; resample the science image first"
        )

    new, ref, var_new, var_ref = (
        np.asarray(plane, dtype=np.float32) for plane in (new, ref, var_new, var_ref)
    )
    bad_new = ~_usable(new, var_new, plan.sigma_n)
    bad_ref = ~_usable(ref, var_ref, plan.sigma_r)
    given_new, given_ref = new, ref
    new, var_new, ref, var_ref = fill_pair(new, var_new, bad_new, ref, var_ref, bad_ref, plan.flux_ratio)

    N, R = fft.rfft2(new, plan.padded), fft.rfft2(ref, plan.padded)
    Vn, Vr = fft.rfft2(var_new, plan.padded), fft.rfft2(var_ref, plan.padded)
    if dx or dy:
        ramp = _phase_ramp(plan.padded, dx, dy)
        N *= ramp
        # S_n then is made by the moved kernel, whose square moves along.
        Vn *= ramp

    work = plan.science_d * N
    other = plan.reference_d * R
    work -= other
    difference = fft.irfft2(work, plan.padded)[:height, :width]
    N *= plan.science_s
    R *= plan.reference_s
    S_n, S_r = fft.irfft2(N, plan.padded), fft.irfft2(R, plan.padded)
    Vn *= plan.science_v
    Vr *= plan.reference_v
    Vn += Vr
    variance = fft.irfft2(Vn, plan.padded)[:height, :width]

    if any(astrometric_sigma):
        for part in (S_n, S_r):
            _add_gradient_variance(variance, part, astrometric_sigma)
    S_r = S_r[:height, :width]
    score = S_n[:height, :width] - S_r
    if flux_ratio_err:
        variance += np.square(S_r * np.float32(flux_ratio_err / plan.flux_ratio))

    bad = widened(
        moved(bad_new, dx, dy) | bad_ref,
        bad_new & bad_ref,
        (given_new, given_ref * np.float32(plan.flux_ratio)),
        plan.leak,
        plan.kernel_radius_px,
    )
    bad |= variance <= 0
    variance[bad] = np.nan
    sigma = np.sqrt(variance, out=variance)
    score /= sigma
    difference = np.ascontiguousarray(difference)
    difference[bad] = np.nan
    return Subtraction(
        difference=difference,
        score=score,
        sigma_flux=sigma * np.float32(1 / plan.F_S),
        psf_d=plan.psf_d,
        F_S=plan.F_S,
        kernel_radius_px=plan.kernel_radius_px,
    )


def _checked_psf(psf: ArrayLike, whose: str) -> NDArray[np.float64]:
    stamp = np.asarray(psf, dtype=np.float64)
    if stamp.ndim != 2 or stamp.shape[0] != stamp.shape[1] or stamp.shape[0] % 2 == 0:
        raise InputError(f"subtraction: {whose} PSF is {stamp.shape}; it needs a square, odd box")
    total = stamp.sum()
    if not (np.isfinite(total) and total > 0):
        raise InputError(f"subtraction: {whose} PSF sums to {total}; it must be finite and positive")
    return cast(NDArray[np.float64], stamp / total)


def _transform(stamp: NDArray[np.float64], padded: tuple[int, int]) -> NDArray[np.complex128]:
    """Transform of a stamp whose middle pixel is put at [0, 0]; a stamp larger than the grid wraps."""
    grid = np.zeros(padded)
    offsets = np.arange(len(stamp)) - len(stamp) // 2
    np.add.at(grid, np.ix_(offsets % padded[0], offsets % padded[1]), stamp)
    return cast(NDArray[np.complex128], fft.rfft2(grid))


def _squared(transform: NDArray[np.complex128]) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], np.square(transform.real) + np.square(transform.imag))


def _centred(kernel: Image, box: int) -> Image:
    """Cut a box round [0, 0] of a periodic image."""
    offsets = np.arange(box) - box // 2
    return kernel[np.ix_(offsets % kernel.shape[0], offsets % kernel.shape[1])]


def _noise_floor(stamp: NDArray[np.float64]) -> float:
    """Level under which the transform of a PSF is its own noise, or the cut at the box, not signal."""
    box = len(stamp)
    edge = np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]])
    cut = box * float(np.sqrt(np.mean(edge**2)))
    if box < 7:
        return cut
    # The mixed second difference removes any smooth wing; white noise leaves 6 of its sigmas.
    curvature = stamp[:-2] - 2 * stamp[1:-1] + stamp[2:]
    curvature = curvature[:, :-2] - 2 * curvature[:, 1:-1] + curvature[:, 2:]
    offsets = np.arange(1, box - 1) - box // 2
    outside = np.hypot(offsets[:, None], offsets) > box / 3
    noise = 1.4826 * float(np.median(np.abs(curvature[outside]))) / 6
    # White noise of sigma s per pixel transforms to s * box; five of those are above nearly all of it.
    return max(cut, 5 * box * noise)


def _energy_radius(kernel: Image, reach: int) -> float:
    """Radius of the disk that holds `_KERNEL_ENERGY` of a kernel's square, at most the padding."""
    offsets = np.arange(-reach, reach + 1)
    radius = np.rint(np.hypot(offsets[:, None], offsets) * 10).astype(np.int64)
    square = np.square(_centred(kernel, 2 * reach + 1), dtype=np.float64)
    energy = np.cumsum(np.bincount(radius.ravel(), weights=square.ravel()))
    total = np.sum(np.square(kernel), dtype=np.float64)
    return min(float(np.searchsorted(energy, _KERNEL_ENERGY * total)) / 10, float(reach))


def _leak(
    kernel_n: Image, kernel_r: Image, sigma_n: float, sigma_r: float, flux_ratio: float, reach: int
) -> NDArray[np.float64]:
    """Response of S to one science electron, or its like in the reference, over the noise of S."""
    offsets = np.arange(-reach, reach + 1)
    radius = np.minimum(np.hypot(offsets[:, None], offsets).astype(np.int64), reach)
    noise = np.hypot(sigma_n * np.linalg.norm(kernel_n), sigma_r * np.linalg.norm(kernel_r))
    response = np.maximum(np.abs(kernel_n), np.abs(kernel_r) / flux_ratio) / noise
    largest = np.zeros(reach + 1)
    np.maximum.at(largest, radius.ravel(), _centred(response, 2 * reach + 1).ravel())
    return np.maximum.accumulate(largest[::-1])[::-1]


def _usable(image: Image, variance: Image, sigma: float) -> NDArray[np.bool_]:
    """Data, and no value so absurd that its rounding would drown its neighbours in a float32 transform."""
    limit = np.float32(_LARGEST_VALUE * sigma), np.float32(_LARGEST_VALUE * sigma**2)
    return (np.abs(image) <= limit[0]) & (variance >= 0) & (variance <= limit[1])


def _phase_ramp(padded: tuple[int, int], dx: float, dy: float) -> NDArray[np.complex64]:
    """Shift theorem: moves an image by (-dx, -dy)."""
    rows = np.exp(2j * np.pi * dy * fft.fftfreq(padded[0]))
    columns = np.exp(2j * np.pi * dx * fft.rfftfreq(padded[1]))
    return cast(NDArray[np.complex64], (rows[:, None] * columns).astype(np.complex64))


def _add_gradient_variance(variance: Image, S: Image, sigma: tuple[float, float]) -> None:
    """Add half of sigma² (dS/dx)² per axis, eq. 31 and 33, by central differences on the padded grid.

    Central, since a backward difference moves peaks of the score by 0.3-0.6 px.
    """
    height, width = variance.shape
    sigma_x, sigma_y = sigma
    if sigma_x:
        left = np.concatenate([S[:height, -1:], S[:height, : width - 1]], axis=1)
        slope = S[:height, 1 : width + 1] - left
        variance += np.square(slope, out=slope) * np.float32(sigma_x**2 / 8)
    if sigma_y:
        below = np.concatenate([S[-1:, :width], S[: height - 1, :width]])
        slope = S[1 : height + 1, :width] - below
        variance += np.square(slope, out=slope) * np.float32(sigma_y**2 / 8)
