"""PSF photometry at fixed places."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging import psf

Float64 = NDArray[np.float64]

_BATCH = 128
_MIN_WEIGHT = 0.5


def forced_flux(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    psf_stamp: NDArray[Any],
    x: ArrayLike,
    y: ArrayLike,
) -> tuple[Float64, Float64]:
    """Flux of point sources at given places by optimal PSF weighting (Naylor 1998, eq. 9-12).

    The weights take the variance averaged over 3x3 pixels: with a source's own counts in them, pixels that
    fluctuate upwards would weigh less and fluxes come out low. The error takes the variance as given.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`; UNUSABLE pixels and NaN are left out.
    psf_stamp : (v, u)
        Unit sum, centred on the middle pixel, odd sides.
    x, y : (n,) or scalar
        Pixels, anywhere; neighbours are not taken into account.

    Returns
    -------
    flux, error : (n,) float64
        Electrons; NaN where less than half of the PSF's light falls on usable pixels.
    """
    if psf_stamp.ndim != 2 or psf_stamp.shape[0] % 2 == 0 or psf_stamp.shape[1] % 2 == 0:
        raise InputError(f"PSF stamp is {psf_stamp.shape}: need two odd sides, so that it has a middle pixel")
    along_x = np.atleast_1d(np.asarray(x, dtype=np.float64))
    along_y = np.atleast_1d(np.asarray(y, dtype=np.float64))
    usable = np.isfinite(image_minus_background) & np.isfinite(variance) & (variance > 0)
    usable &= (mask & int(UNUSABLE)) == 0
    flux, error = np.full(len(along_x), np.nan), np.full(len(along_x), np.nan)
    for start in range(0, len(along_x), _BATCH):
        part = slice(start, start + _BATCH)
        flux[part], error[part] = _fluxes(
            image_minus_background, variance, usable, psf_stamp, along_x[part], along_y[part]
        )
    return flux, error


def _fluxes(
    image: NDArray[Any],
    variance: NDArray[Any],
    usable: NDArray[np.bool_],
    stamp: NDArray[Any],
    x: Float64,
    y: Float64,
) -> tuple[Float64, Float64]:
    height, width = image.shape
    real = np.isfinite(x) & np.isfinite(y)
    near = real & (np.abs(np.where(real, x, 0) - width / 2) < width + stamp.shape[1])
    near &= np.abs(np.where(real, y, 0) - height / 2) < height + stamp.shape[0]
    x, y = np.where(near, x, -1e6), np.where(near, y, -1e6)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    half_v, half_u = stamp.shape[0] // 2, stamp.shape[1] // 2
    rows = row[:, None, None] + np.arange(-half_v, half_v + 1)[None, :, None]
    columns = column[:, None, None] + np.arange(-half_u, half_u + 1)[None, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    good = inside & usable[rows, columns]

    profile = psf.shift(stamp, x - column, y - row)
    data = np.where(good, image[rows, columns], 0.0)
    noise = np.where(good, variance[rows, columns], 0.0).astype(np.float64)
    counted = ndimage.uniform_filter(good.astype(np.float64), size=(0, 3, 3))
    smooth = ndimage.uniform_filter(noise, size=(0, 3, 3)) / np.maximum(counted, 1e-9)
    weight = np.where(good, profile / np.where(good, np.maximum(smooth, 1e-30), 1.0), 0.0)
    norm = (weight * profile).sum(axis=(1, 2))
    share = (profile * good).sum(axis=(1, 2)) / profile.sum(axis=(1, 2))
    enough = (share >= _MIN_WEIGHT) & (norm > 0)
    norm = np.where(enough, norm, 1.0)
    flux = (weight * data).sum(axis=(1, 2)) / norm
    error = np.sqrt((weight**2 * noise).sum(axis=(1, 2))) / norm
    return np.where(enough, flux, np.nan), np.where(enough, error, np.nan)
