"""Linear co-addition of epochs of one tile: each through its own filter, then summed.

Epochs come on the flux scale of the result. A PSF that lies off its middle pixel by an epoch's offset brings
the epoch into register when the filter holds its conjugate, so that shifting costs nothing more.
Tiles are mirrored into a margin before they are transformed: a border stays as noisy as the rest.
"""

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from astrid_dist.errors import InputError
from astrid_dist.imaging.psf import legendre_weights

Cube: TypeAlias = NDArray[np.float32]
Transforms: TypeAlias = NDArray[np.complex64]

# Below this part of its zero frequency the transform of a measured PSF is its error, not signal.
_FLOOR = 1e-3
# Below this part an epoch is hardly moved any more: shifting all frequencies, noise too, has endless kernels.
_MOVED = 0.02


@dataclass(frozen=True)
class Stack:
    """What the filters of a tile are made of.

    Attributes
    ----------
    shape, padded : (int, int)
        Tile (y, x) and the transform grid.
    margin : int
        Rows and columns mirrored before the tile's first.
    psfs : (k, ky, kx) complex64
        Transforms of the PSFs, moved by the offsets.
    ramps : (k, ky, kx) complex64
        Phases that move by the offsets, where there is signal to move.
    weights : (k,) float64
        1 / noise²: what a pixel of each epoch is worth, noise on the scale of the result.
    power : (ky, kx) float32
        Sum of weights |psfs|².
    offsets : (k, 2) float64
        (dx, dy) pixels.
    """

    shape: tuple[int, int]
    padded: tuple[int, int]
    margin: int
    psfs: Transforms
    ramps: Transforms
    weights: NDArray[np.float64]
    power: NDArray[np.float32]
    offsets: NDArray[np.float64]

    def forward(self, plane: NDArray[np.float32]) -> Transforms:
        """Transform of a plane mirrored at its borders."""
        after = [whole - side - self.margin for whole, side in zip(self.padded, self.shape, strict=True)]
        widths = ((self.margin, after[0]), (self.margin, after[1]))
        return cast(Transforms, fft.rfft2(np.pad(plane, widths, mode="symmetric")))

    def inverse(self, transform: Transforms) -> NDArray[np.float32]:
        """The tile back from its transform."""
        whole = fft.irfft2(transform, self.padded)
        cut = tuple(slice(self.margin, self.margin + side) for side in self.shape)
        return cast(NDArray[np.float32], np.ascontiguousarray(whole[cut]))

    def mean_square(self, transform: Transforms) -> float:
        """Mean of |filter|² over all frequencies: by it the variance of white noise is multiplied."""
        square = np.square(np.abs(transform), dtype=np.float64)
        # Columns of a real transform stand for their mirror image too, but for the first and an even last.
        twice = 2 * square.sum() - square[:, 0].sum()
        twice -= square[:, -1].sum() if self.padded[1] % 2 == 0 else 0
        return float(twice / (self.padded[0] * self.padded[1]))


def plan_stack(
    psfs: NDArray[np.float32],
    noise: ArrayLike,
    *,
    shape: tuple[int, int],
    offsets: ArrayLike | None = None,
) -> Stack:
    """Transforms of the PSFs of the epochs of a tile.

    Parameters
    ----------
    psfs : (k, v, u) float32
        PSF of each epoch on this tile, odd boxes, centred on the middle pixel; scaled to sum 1.
    noise : (k,) float
        Background noise per pixel of each epoch, electrons of the result.
    shape : (int, int)
        Rows and columns of the tile.
    offsets : (k, 2) float, optional
        (dx, dy): where stars of an epoch lie beyond those of the result, pixels.

    Raises
    ------
    InputError
        Noise that is not positive, numbers that do not fit, PSFs that are not finite or without flux.
    """
    sigma = np.asarray(noise, np.float64)
    moved = np.zeros((len(psfs), 2)) if offsets is None else np.asarray(offsets, np.float64)
    if psfs.ndim != 3 or len(psfs) != len(sigma) or moved.shape != (len(psfs), 2):
        raise InputError(
            f"co-add: PSFs {psfs.shape}, noise {sigma.shape} and offsets {moved.shape} must agree"
        )
    if not np.all(np.isfinite(sigma) & (sigma > 0)):
        raise InputError(f"co-add: noise {sigma.tolist()} must be positive numbers, one per epoch")
    margin = halo_px(psfs.shape[1])
    padded = (fft.next_fast_len(shape[0] + 2 * margin), fft.next_fast_len(shape[1] + 2 * margin, real=True))
    transforms = responses(psfs, padded, np.zeros_like(moved))
    weights = 1 / sigma**2
    power = np.tensordot(weights / weights.sum(), np.square(np.abs(transforms)), axes=1)
    # Where no epoch has signal all PSFs become one small number: the filters stay smooth there.
    filled = transforms + _FLOOR * np.exp(-power / _FLOOR**2)
    ramps = _ramps(padded, moved, power**2 / (power**2 + _MOVED**4))
    power = np.tensordot(weights, np.square(np.abs(filled)), axes=1)
    return Stack(
        (int(shape[0]), int(shape[1])),
        padded,
        margin,
        (filled * ramps).astype(np.complex64),
        ramps.astype(np.complex64),
        weights,
        power.astype(np.float32),
        moved,
    )


def halo_px(psf_box: int) -> int:
    """Margin in pixels that a tile needs to give inside what the whole field would give, to 1e-3 sigma."""
    return psf_box // 2 + 8


def responses(
    psfs: NDArray[np.float32], padded: tuple[int, int], offsets: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Transforms of stamps of unit sum whose middle pixel lies at [0, 0], then moved by their offsets."""
    sums = psfs.sum(axis=(1, 2), dtype=np.float64)
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise InputError(f"co-add: the PSFs sum to {sums.tolist()}; each must be finite and positive")
    grid = np.zeros((len(psfs), *padded))
    rows, columns = (np.arange(side) - side // 2 for side in psfs.shape[1:])
    where = np.ix_(np.arange(len(psfs)), rows % padded[0], columns % padded[1])
    np.add.at(grid, where, psfs / sums[:, None, None])
    return cast(NDArray[np.complex128], fft.rfft2(grid) * _ramps(padded, offsets, 1.0))


def _ramps(
    padded: tuple[int, int], offsets: NDArray[np.float64], part: NDArray[np.float64] | float
) -> NDArray[np.complex128]:
    """Shift theorem: moves by a part of (dx, dy), frequency by frequency; one per epoch."""
    across, along = fft.rfftfreq(padded[1]), fft.fftfreq(padded[0])[:, None]
    if not offsets.any():
        return np.ones((len(offsets), len(along), len(across)), np.complex128)
    dx, dy = offsets.T[:, :, None, None]
    return cast(NDArray[np.complex128], np.exp(-2j * np.pi * part * (dx * across + dy * along)))


def mean_filters(stack: Stack) -> Transforms:
    """Filters of the weighted mean: shares of the weights, epochs moved back by their offsets."""
    shares = stack.weights / stack.weights.sum()
    return cast(Transforms, (shares[:, None, None] * np.conj(stack.ramps)).astype(np.complex64))


def combine(stack: Stack, filters: Transforms, images: Cube, variances: Cube) -> tuple[Cube, Cube]:
    """Sum of the filtered epochs of a tile, and its variance.

    Parameters
    ----------
    stack : Stack
        Of the tile.
    filters : (k, ky, kx) complex64
        `mean_filters`, or those of `proper_coadd`.
    images, variances : (k, y, x) float32
        Whole: no NaN. Variances are convolved with the squared kernels.

    Returns
    -------
    image, variance : (y, x) float32
    """
    total = np.zeros(filters.shape[1:], np.complex64)
    spread = np.zeros(filters.shape[1:], np.complex64)
    for one, image, variance in zip(filters, images, variances, strict=True):
        total += one * stack.forward(image)
        squared = np.square(fft.irfft2(one, stack.padded))
        spread += cast(Transforms, fft.rfft2(squared)) * stack.forward(variance)
    return stack.inverse(total), np.maximum(stack.inverse(spread), np.float32(0))


def stacked_psf(stack: Stack, filters: Transforms, psfs: NDArray[np.float32]) -> NDArray[np.float32]:
    """PSF of the co-add, (v, u) float32 of unit sum, from the stamps (k, v, u) of its plan."""
    answer = (filters * responses(psfs, stack.padded, stack.offsets)).sum(axis=0)
    whole = fft.irfft2(answer, stack.padded)
    rows, columns = (np.arange(side) - side // 2 for side in psfs.shape[1:])
    stamp = whole[np.ix_(rows % stack.padded[0], columns % stack.padded[1])]
    return np.asarray(stamp / stamp.sum(), dtype=np.float32)


def fit_psf_terms(
    stamps: NDArray[np.float32], x: ArrayLike, y: ArrayLike, order: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Legendre terms (n_term, v, u) over a field (height, width) that fit stamps (n, v, u) at n places best.

    Term 0 sums to 1 and the others to 0 where every stamp sums to 1.
    """
    weights = legendre_weights(order, x, y, shape)
    found, *_ = np.linalg.lstsq(weights, stamps.reshape(len(stamps), -1).astype(np.float64), rcond=None)
    return found.reshape(-1, *stamps.shape[1:]).astype(np.float32)
