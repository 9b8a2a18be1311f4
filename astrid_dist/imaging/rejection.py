"""What one epoch has and the others have not: transients, cosmic rays, moving objects, found and replaced.

An epoch is judged twice. First all epochs are brought to one PSF and compared with their median, which two
of five cannot move. Then each is compared, in its own PSF, with the best model of the sky that the stack
gives: pixel by pixel, which finds cosmic rays, and through its matched filter, which finds sources.
What is rejected takes the model's value, so that a filtered co-add has no holes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from astrid_dist.imaging.coadd import Cube, Stack, Transforms

Mask = NDArray[np.bool_]

# Part of a pixel's brightness by which a PSF may be wrong: the core of a star is no cosmic ray.
_PIXEL_ERROR = 0.05
# An outlier is what exceeds the threshold, and all around it that exceeds this part of it.
_SKIRT = 0.5
# Part of the full power below which the other epochs do not tell what an epoch should hold at a frequency.
_UNSEEN = 5e-5


@dataclass(frozen=True)
class Cleaned:
    """Epochs of a tile without outliers or holes, ready to be filtered and summed.

    Attributes
    ----------
    images, variances : (k, y, x) float32
        What is not used holds the model of the others, with the variance that makes the co-add's right.
    used : (k, y, x) bool
        Data that entered.
    """

    images: Cube
    variances: Cube
    used: Mask


def clean(
    stack: Stack,
    images: Cube,
    variances: Cube,
    good: Mask,
    *,
    clip_sigma: float = 4.0,
    flux_sigma: ArrayLike = 0.005,
    offset_sigma: ArrayLike = 0.05,
) -> Cleaned:
    """Reject what does not belong to the steady sky, and fill it and the holes.

    Of two epochs the fainter is believed, since outliers are bright. Of one nothing can be told. Where every
    epoch disagrees, all are kept.

    Parameters
    ----------
    stack : Stack
        Of the tile.
    images, variances : (k, y, x) float32
        Background-subtracted electrons on the flux scale of the result, and electron².
    good : (k, y, x) bool
        Data; false for holes, whatever the planes hold there.
    clip_sigma : float
        Threshold in standard deviations.
    flux_sigma, offset_sigma : float or (k,)
        By how much a single star may be off in an epoch beyond its noise: fraction of its flux, and pixels
        per axis. Within these a bright star is no outlier.
    """
    count = len(images)
    flux_error = np.broadcast_to(np.asarray(flux_sigma, np.float32), count)
    offset_error = np.broadcast_to(np.asarray(offset_sigma, np.float32), count)
    noise = (1 / stack.weights).astype(np.float32)
    middle = _median(images, good)
    data = np.where(good, images, _filled(middle, np.any(good, axis=0)))
    spread = np.where(good, variances, noise[:, None, None])
    local = np.stack([ndimage.uniform_filter(plane, 5, mode="mirror") for plane in spread])
    rejected = np.zeros_like(good)
    if count > 1:
        tolerance = _Tolerance(clip_sigma, flux_error, offset_error, one_sided=count == 2)
        rejected = _against_median(stack, data, local, good, tolerance)
        data = np.where(rejected, middle, data)
        # Twice, since a filling is made of the others, which may have one at the same place.
        for _ in range(2):
            data = np.where(good & ~rejected, images, _models(stack, data, others=True))
        given = np.where(good, images, data)
        model = _models(stack, data)
        rejected = _against_model(stack, given, spread, local, good, model, tolerance, rejected)
        data = np.where(rejected, data, given)
        data = np.where(good & ~rejected, images, _models(stack, data, others=True))
    used = good & ~rejected
    return Cleaned(data, _variances(stack, spread, used), used)


@dataclass(frozen=True)
class _Tolerance:
    """How far a value may be off."""

    clip: float
    flux: NDArray[np.float32]
    offset: NDArray[np.float32]
    one_sided: bool

    def outliers(
        self,
        epoch: int,
        deviation: NDArray[np.float32],
        variance: NDArray[np.float32],
        expected: NDArray[np.float32],
        flux: float = 0.0,
    ) -> Mask:
        """Pixels of one epoch that deviate from what is expected, with their skirts."""
        dy, dx = np.gradient(expected)
        allowed = variance + np.square(expected * max(float(self.flux[epoch]), flux))
        allowed += (np.square(dx) + np.square(dy)) * self.offset[epoch] ** 2
        significance = deviation / np.sqrt(np.maximum(allowed, np.float32(1e-30)))
        if not self.one_sided:
            significance = np.abs(significance)
        seeds = significance > self.clip
        if not seeds.any():
            return np.zeros(deviation.shape, bool)
        labels, _ = ndimage.label(significance > _SKIRT * self.clip)
        kept = np.zeros(labels.max() + 1, bool)
        kept[labels[seeds]] = True
        return np.asarray(kept[labels])


def _against_median(stack: Stack, data: Cube, local: Cube, good: Mask, tolerance: _Tolerance) -> Mask:
    """Outliers among epochs that were brought to one PSF, narrow enough for none to be deconvolved."""
    narrowest = np.square(np.abs(stack.psfs)).min(axis=0)
    smooth, noise = np.empty_like(data), np.empty_like(data)
    for epoch, psf in enumerate(stack.psfs):
        kernel: Transforms = narrowest / psf
        smooth[epoch] = stack.inverse(kernel * stack.forward(data[epoch]))
        noise[epoch] = local[epoch] * np.float32(stack.mean_square(kernel))
    everywhere = np.ones_like(good)
    middle = _median(smooth, everywhere)
    # The median is noisy too: pi/2 · n / (sum of 1/sigma)².
    own = np.pi / 2 * len(data) / np.square((1 / np.sqrt(np.maximum(noise, 1e-30))).sum(axis=0))
    found = [
        tolerance.outliers(epoch, smooth[epoch] - middle, noise[epoch] + own, middle)
        for epoch in range(len(data))
    ]
    return _unless_all(np.stack(found), good, np.zeros_like(good))


def _models(stack: Stack, data: Cube, *, others: bool = False) -> Cube:
    """The sky that the stack, or all of it but the epoch itself, says there is, as each epoch would see it.

    P_j sum_k w_k conj(P_k) d_k / sum_k w_k |P_k|², the likeliest sky; without the epoch, frequencies that the
    others do not hold are left out.
    """
    parts = np.stack(
        [
            np.float32(weight) * np.conj(psf) * stack.forward(plane)
            for psf, weight, plane in zip(stack.psfs, stack.weights, data, strict=True)
        ]
    )
    total = parts.sum(axis=0)
    made = []
    for psf, weight, part in zip(stack.psfs, stack.weights, parts, strict=True):
        if others:
            power = stack.power - np.float32(weight) * np.square(np.abs(psf))
            sky = (total - part) / (np.maximum(power, 0) + np.float32(_UNSEEN * stack.weights.sum()))
        else:
            sky = total / stack.power
        made.append(stack.inverse(psf * sky))
    return np.stack(made)


def _against_model(
    stack: Stack,
    data: Cube,
    spread: Cube,
    local: Cube,
    good: Mask,
    model: Cube,
    tolerance: _Tolerance,
    before: Mask,
) -> Mask:
    """Outliers of each epoch against the model: pixels, and sources through the matched filter."""
    found = []
    for epoch, (psf, weight) in enumerate(zip(stack.psfs, stack.weights, strict=True)):
        left = np.where(good[epoch], data[epoch] - model[epoch], np.float32(0))
        pixels = tolerance.outliers(epoch, left, spread[epoch], model[epoch], _PIXEL_ERROR)
        matched = np.conj(psf)
        source = stack.inverse(matched * stack.forward(left))
        star = stack.inverse(matched * stack.forward(model[epoch]))
        # What the epoch itself gave to the model is missing from the noise of what is left.
        share = np.float32(weight) * np.square(np.abs(psf)) / stack.power
        kept = stack.mean_square(matched * np.sqrt(np.maximum(1 - share, 0)))
        sources = tolerance.outliers(epoch, source, local[epoch] * np.float32(kept), star)
        found.append(pixels | sources)
    return _unless_all(np.stack(found), good, before)


def _unless_all(found: Mask, good: Mask, otherwise: Mask) -> Mask:
    """Rejected data; where that would be all there is, what else was to be rejected."""
    rejected = found & good
    return np.asarray(np.where((good & ~rejected).any(axis=0), rejected, otherwise))


def _median(values: Cube, good: Mask) -> NDArray[np.float32]:
    """Median over good epochs, (y, x); of an even number the lower, as outliers are bright; 0 of none."""
    ordered = np.sort(np.where(good, values, np.float32(np.inf)), axis=0)
    present = good.sum(axis=0)
    lower = np.maximum(present - 1, 0) // 2
    middle = np.take_along_axis(ordered, lower[None], axis=0)[0]
    return np.where(present > 0, middle, np.float32(0))


def _filled(plane: NDArray[np.float32], known: Mask) -> NDArray[np.float32]:
    """Unknown pixels take the nearest known one: the core of a saturated star is no hole."""
    if known.all() or not known.any():
        return plane
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(plane[rows, columns])


def _variances(stack: Stack, spread: Cube, used: Mask) -> Cube:
    """Variances that, weighted as in the mean, add up to that of the mean of what was used.

    A filled value repeats its neighbours in the stack: with Q the sum of w² V over the W_G of used weights
    the mean has variance Q / W_G², so the filled must add Q (W² / W_G² - 1) to the sum of w² V.
    """
    if used.all():
        return spread
    weights = stack.weights.astype(np.float32)[:, None, None]
    inside = np.where(used, weights, np.float32(0))
    got = inside.sum(axis=0)
    total = np.float32(stack.weights.sum())
    energy = (np.square(inside) * np.where(used, spread, 0)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = energy * (np.square(total / got) - 1) / (total - got)
    filled = np.where((got > 0) & (got < total), missing, np.float32(0)) / weights
    noise = (1 / stack.weights).astype(np.float32)[:, None, None]
    return np.where(used, spread, np.where(got > 0, filled, noise)).astype(np.float32)
