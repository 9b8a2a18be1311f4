"""Offset of two images by what light both hold: for fields with too few stars to be matched."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.registration import phase_cross_correlation

from astrid_dist.imaging.registration import NO_OFFSET, Offset

Float64 = NDArray[np.float64]

#: Steps of a pixel to which the peak of the correlation is sought.
UPSAMPLE = 100
#: Height of the peak over the noise of the correlation below which nothing is common.
SIGNIFICANT = 5.0
#: Sources below which an offset has no error.
FEWEST_SOURCES = 3
#: Where pixels are bent from linear to logarithmic, in sigmas, so that no one star speaks for all.
_BEND = 5.0
#: Sigmas above which filtered pixels of the reference belong to a source.
_SOURCE = 3.0


def phase_offset(
    new: NDArray[Any], ref: NDArray[Any], fwhm_px: tuple[float, float], radius_px: float = 3.0
) -> Offset:
    """Offset of two sky-subtracted images, from the peak of their cross-correlation.

    Both are filtered to the scales between their seeing and four times it, and compressed. The whole sources
    of the reference, stars and galaxies, are correlated with the whole of the new image, so that no edge is
    common to both. Leaving out each source in turn gives the error (jackknife, Efron 1982).

    Parameters
    ----------
    new, ref : (y, x)
        On one pixel grid, in any unit; NaN marks no data.
    fwhm_px : (float, float)
        Of new and ref.
    radius_px : float
        Largest offset sought per axis.

    Returns
    -------
    Offset
        new minus ref; the scatter is 0, as the error holds it, and `n` counts sources. NaN where the
        correlation is not significant, its peak lies beyond the radius, or fewer than three sources show.
    """
    sigma = float(np.hypot(*fwhm_px)) / np.sqrt(2) / 2.3548
    a, b = _filtered(new, sigma), _filtered(ref, sigma)
    labels = _sources(b, np.isfinite(new) & np.isfinite(ref), radius_px + sigma, sigma)
    b *= _weights(b, labels)
    if not _significance(a, b, radius_px) >= SIGNIFICANT:
        return NO_OFFSET
    back, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        b, a, upsample_factor=UPSAMPLE, normalization=None
    )
    dy, dx = -float(back[0]), -float(back[1])
    if max(abs(dx), abs(dy)) > radius_px:
        return NO_OFFSET
    (dx_err, dy_err), n = _jackknife(ndimage.shift(a, back, order=3), b, labels)
    if not np.isfinite([dx_err, dy_err]).all():
        return NO_OFFSET
    return Offset(dx, dy, dx_err, dy_err, 0.0, 0.0, n)


def _filtered(image: NDArray[Any], sigma: float) -> Float64:
    """An image without its large scales, in units of its noise, compressed; 0 where there is no data."""
    valid = np.isfinite(image)
    weight = valid.astype(np.float64)
    data = np.where(valid, image, 0).astype(np.float64)
    narrow, wide = (
        ndimage.gaussian_filter(data, s, truncate=3)
        / np.maximum(ndimage.gaussian_filter(weight, s, truncate=3), 1e-3)
        for s in (sigma, 4 * sigma)
    )
    band = np.where(valid, narrow - wide, 0)
    noise = 1.4826 * float(np.median(np.abs(band[valid]))) if valid.any() else 0.0
    if noise == 0:
        return np.zeros_like(band)
    return np.asarray(np.arcsinh(band / (_BEND * noise)))


def _sources(
    filtered: Float64, valid: NDArray[np.bool_], margin_px: float, sigma: float
) -> NDArray[np.int32]:
    """Number of the source of each pixel, 0 for none; sources near a border or a hole are left out."""
    bright = ndimage.binary_dilation(filtered > np.arcsinh(_SOURCE / _BEND), iterations=max(round(sigma), 1))
    labels, n = ndimage.label(bright)
    padded = np.pad(valid, 1)
    near = ndimage.distance_transform_edt(padded)[1:-1, 1:-1] <= margin_px
    whole = np.ones(n + 1, bool)
    whole[np.unique(labels[near])] = False
    whole[0] = False
    return np.where(whole[labels], labels, 0)


def _weights(b: Float64, labels: NDArray[np.int32]) -> Float64:
    """Weight of each pixel, 0 outside sources; none weighs more than the third brightest: stars move."""
    light = np.bincount(labels.ravel(), weights=np.square(b).ravel())
    light[0] = 0
    cap = np.sort(light)[-FEWEST_SOURCES] if len(light) > FEWEST_SOURCES else 0.0
    weight = np.minimum(cap / np.maximum(light, 1e-12), 1)
    weight[0] = 0
    return np.asarray(weight[labels])


def _significance(a: Float64, b: Float64, radius_px: float) -> float:
    """Highest correlation within the radius over the noise of the correlation elsewhere."""
    shape = [fft.next_fast_len(size, real=True) for size in a.shape]
    spectrum = fft.rfft2(a, shape) * np.conj(fft.rfft2(b, shape))
    correlation = fft.fftshift(fft.irfft2(spectrum, shape))
    middle = [size // 2 for size in shape]
    reach = int(np.ceil(radius_px))
    near = correlation[tuple(slice(max(m - reach, 0), m + reach + 1) for m in middle)]
    noise = 1.4826 * float(np.median(np.abs(correlation - np.median(correlation))))
    return float(near.max() / noise) if noise > 0 else float("nan")


def _jackknife(aligned: Float64, b: Float64, labels: NDArray[np.int32]) -> tuple[tuple[float, float], int]:
    """Errors (x, y) of the offset at which two images correlate best, and the sources that made it.

    Without a source, the peak of what is left of the correlation is one Newton step away.
    """
    slope_y, slope_x = np.gradient(aligned)
    curve_yy, curve_yx = np.gradient(slope_y)
    curve_xx = np.gradient(slope_x, axis=1)
    slopes_and_curves = (slope_x, slope_y, curve_xx, curve_yx, curve_yy)
    there = labels > 0
    number = np.unique(labels[there], return_inverse=True)[1]
    gx, gy, hxx, hxy, hyy = (np.bincount(number, weights=(b * one)[there]) for one in slopes_and_curves)
    n = len(gx)
    if n < FEWEST_SOURCES:
        return (float("nan"), float("nan")), n
    gradient = np.column_stack([gx, gy])
    curvature = np.stack([np.column_stack([hxx, hxy]), np.column_stack([hxy, hyy])], axis=1)
    rest = -(curvature.sum(axis=0) - curvature)
    if not (np.linalg.eigvalsh(rest) > 0).all():
        return (float("nan"), float("nan")), n
    left_out = np.linalg.solve(rest, (gradient.sum(axis=0) - gradient)[..., None])[..., 0]
    variance = (n - 1) * np.var(left_out, axis=0) + 1 / (12 * UPSAMPLE**2)
    return (float(np.sqrt(variance[0])), float(np.sqrt(variance[1]))), n
