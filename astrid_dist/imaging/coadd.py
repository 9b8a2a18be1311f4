"""Clipped weighted mean of registered epochs: the reference image."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE, Flag

#: Share of a pixel's own brightness that seeing and registration may change between epochs.
RELATIVE_ALLOWANCE = 0.3
_BLOCK_PIXELS = 1 << 18


def clipped_mean(
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    masks: NDArray[np.uint16],
    scales: ArrayLike,
    *,
    clip_sigma: float = 4.0,
    weights: ArrayLike | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16], NDArray[np.uint16]]:
    """Weighted mean of epochs without cosmic rays, trails and transients.

    A value is left out when it differs from the median of the epochs by more than
    clip_sigma · sigma + 0.3 · |median|, sigma being its own noise and the median's: the rule of Gruen, Seitz
    & Bernstein 2014 (PASP 126, 158; SWarp's CLIPPED). The second term keeps the cores of stars, which differ
    by seeing and registration far beyond their noise. The median taken there is the largest of its 3×3
    neighbours, since a displaced star changes the pixels beside its core most. With two epochs the fainter
    is believed, as outliers are bright.

    Weights are one number per epoch, not per pixel: the PSF of the result is then the same weighted mean of
    PSFs everywhere, and bright pixels are not biased low by their own noise.

    Parameters
    ----------
    images, variances : (k, y, x) float32
        Background-subtracted electrons on one grid, and electron²; NaN is no data.
    masks : (k, y, x) uint16
        Bits of `astrid_dist.flags`; unusable pixels are left out.
    scales : (k,) float
        Factor that brings each epoch to the flux scale of the result.
    clip_sigma : float
        Clipping threshold in standard deviations.
    weights : (k,) float, optional
        Weights of the epochs; by default 1 / median of the scaled variance. Give them where a frame is
        co-added in pieces, so that the pieces join.

    Returns
    -------
    image, variance : (y, x) float32
        NaN where no epoch has data.
    mask : (y, x) uint16
        Bits of the epochs that entered; where none did, the bits of all, and NO_DATA.
    n_epochs : (y, x) uint16
        How many epochs entered.

    Raises
    ------
    InputError
        Cubes of different shapes; scales or weights that do not fit or are not positive.
    """
    if not images.shape == variances.shape == masks.shape or images.ndim != 3:
        raise InputError(
            f"co-add: images {images.shape}, variances {variances.shape} and masks {masks.shape} "
            "must be cubes (epoch, y, x) of one shape"
        )
    count, height, width = images.shape
    factors = _per_epoch(scales, count, "scales")
    if weights is None:
        shares = _inverse_variances(variances, masks, factors)
    else:
        shares = _per_epoch(weights, count, "weights")
    image, variance = (np.full((height, width), np.nan, dtype=np.float32) for _ in range(2))
    mask, n_epochs = (np.zeros((height, width), dtype=np.uint16) for _ in range(2))
    rows = max(1, _BLOCK_PIXELS // (count * width))
    for top in range(0, height, rows):
        # One more row on either side: the allowance looks at neighbours.
        low, high = max(top - 1, 0), min(top + rows + 1, height)
        inner, block = slice(top - low, top - low + min(rows, height - top)), slice(low, high)
        out = slice(top, min(top + rows, height))
        image[out], variance[out], mask[out], n_epochs[out] = (
            plane[inner]
            for plane in _block_mean(
                images[:, block], variances[:, block], masks[:, block], factors, shares, clip_sigma
            )
        )
    return image, variance, mask, n_epochs


def _per_epoch(values: ArrayLike, count: int, name: str) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.shape != (count,) or not np.all(np.isfinite(array) & (array > 0)):
        raise InputError(f"co-add: {name} {array.tolist()} must be {count} positive numbers, one per epoch")
    return array


def _inverse_variances(
    variances: NDArray[np.float32], masks: NDArray[np.uint16], factors: NDArray[np.float32]
) -> NDArray[np.float32]:
    shares = np.zeros(len(variances), dtype=np.float32)
    for epoch, (plane, bits) in enumerate(zip(variances, masks, strict=True)):
        good = np.isfinite(plane) & (plane > 0) & ((bits & UNUSABLE) == 0)
        if good.any():
            shares[epoch] = 1 / (np.median(plane[good]) * factors[epoch] ** 2)
    return shares


def _block_mean(
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    masks: NDArray[np.uint16],
    factors: NDArray[np.float32],
    shares: NDArray[np.float32],
    clip_sigma: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16], NDArray[np.uint16]]:
    values = images * factors[:, None, None]
    noise = variances * np.square(factors)[:, None, None]
    good = np.isfinite(values) & np.isfinite(noise) & (noise >= 0) & ((masks & UNUSABLE) == 0)
    middle = _median(values, good)
    allowance = RELATIVE_ALLOWANCE * ndimage.maximum_filter(np.abs(middle), size=3, mode="nearest")
    noise[~good] = 0
    values[~good] = 0
    sigma = np.sqrt(noise)
    # The median is noisy too: pi/2 · n / (sum of 1/sigma)², which matters where good epochs meet poor ones.
    inverse = np.divide(1, sigma, out=np.zeros_like(sigma), where=sigma > 0).sum(axis=0)
    count = good.sum(axis=0, dtype=np.float32)
    own = np.divide(np.pi / 2 * count, inverse**2, out=np.zeros_like(inverse), where=inverse > 0)
    used = good & (np.abs(values - middle) <= clip_sigma * np.sqrt(noise + own) + allowance)
    # Epochs so unlike each other that none agrees with their median: nothing to choose by, keep all.
    used |= good & ~used.any(axis=0)
    weight = np.where(used, shares[:, None, None], np.float32(0))
    total = weight.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weight * values).sum(axis=0) / total
        variance = (np.square(weight) * noise).sum(axis=0) / np.square(total)
    n_epochs = used.sum(axis=0).astype(np.uint16)
    bits = np.bitwise_or.reduce(np.where(used, masks, np.uint16(0)), axis=0)
    every = np.bitwise_or.reduce(masks, axis=0) | np.uint16(Flag.NO_DATA)
    return mean, variance, np.where(n_epochs > 0, bits, every).astype(np.uint16), n_epochs


def _median(values: NDArray[np.float32], good: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Median over good epochs, (y, x); the lower of two, 0 of none."""
    present = good.sum(axis=0)
    ordered = np.sort(np.where(good, values, np.float32(np.inf)), axis=0)
    upper = np.where(present == 2, 0, present // 2)
    lower = np.maximum(present - 1, 0) // 2
    pair = np.take_along_axis(ordered, np.stack([lower, upper]), axis=0)
    middle = np.where(present > 0, pair.mean(axis=0), np.float32(0))
    return middle.astype(np.float32)
