"""PSF photometry at fixed places."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging import psf
from astrid_dist.imaging.stars import StarList

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
    stamp = _trim(psf_stamp)
    for start in range(0, len(along_x), _BATCH):
        part = slice(start, start + _BATCH)
        flux[part], error[part] = _fluxes(
            image_minus_background, variance, usable, stamp, along_x[part], along_y[part]
        )
    return flux, error


def fit_star_fluxes(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    psf_stamp: NDArray[Any],
    stars: StarList,
    *,
    rounds: int = 3,
) -> StarList:
    """Star list with PSF fluxes instead of aperture fluxes, neighbours in the list taken away.

    Each round subtracts all stars and measures each on what is left, so that blends separate. Ratios of
    fluxes fitted with each epoch's own PSF are those that cancel a star in that epoch's subtraction,
    however its PSF's wings are normalised; use them for flux ratios, above all in crowded fields.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`.
    psf_stamp : (v, u)
        Unit sum, centred on the middle pixel, odd sides.
    stars : StarList
        From `stars.measure_stars`; places and flags are kept.
    rounds : int
        Of subtracting and measuring again, after the first measurement.

    Returns
    -------
    StarList
        Brightest first; a star that cannot be measured keeps its aperture flux.
    """
    if len(stars) == 0:
        return stars
    stamp = _trim(psf_stamp)
    flux, error = forced_flux(image_minus_background, variance, mask, stamp, stars.x, stars.y)
    measured = np.isfinite(flux)
    flux = np.where(measured, flux, stars.flux)
    error = np.where(measured, error, stars.flux_err)
    for _ in range(rounds):
        left = image_minus_background - _render(image_minus_background.shape, stamp, stars, flux)
        change, _ = forced_flux(left, variance, mask, stamp, stars.x, stars.y)
        flux = flux + np.nan_to_num(change)
    order = np.argsort(-flux, kind="stable")
    return replace(
        stars,
        x=stars.x[order],
        y=stars.y[order],
        flux=flux[order].astype(np.float32),
        flux_err=error[order].astype(np.float32),
        flags=stars.flags[order],
    )


def _render(
    shape: tuple[int, ...], stamp: NDArray[Any], stars: StarList, flux: Float64
) -> NDArray[np.float32]:
    """Image of the stars alone."""
    half_v, half_u = stamp.shape[0] // 2, stamp.shape[1] // 2
    canvas = np.zeros((shape[0] + 2 * half_v, shape[1] + 2 * half_u), dtype=np.float32)
    column, row = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    for start in range(0, len(stars), _BATCH):
        part = range(start, min(start + _BATCH, len(stars)))
        profiles = psf.shift(stamp, stars.x[part] - column[part], stars.y[part] - row[part])
        for i, profile in zip(part, profiles, strict=True):
            y0, x0 = row[i], column[i]  # the canvas begins half a stamp before the frame
            if not (0 <= y0 < shape[0] and 0 <= x0 < shape[1]):
                continue  # a centroid that ran off the frame
            canvas[y0 : y0 + stamp.shape[0], x0 : x0 + stamp.shape[1]] += (flux[i] * profile).astype(
                np.float32
            )
    return canvas[half_v : half_v + shape[0], half_u : half_u + shape[1]]


def _trim(stamp: NDArray[Any]) -> NDArray[Any]:
    """The stamp without its outermost rows and columns that are zero all round (beyond the taper)."""
    v, u = np.nonzero(stamp)
    if len(v) == 0:
        return stamp
    middle = stamp.shape[0] // 2, stamp.shape[1] // 2
    reach_v, reach_u = int(np.abs(v - middle[0]).max()), int(np.abs(u - middle[1]).max())
    return stamp[middle[0] - reach_v : middle[0] + reach_v + 1, middle[1] - reach_u : middle[1] + reach_u + 1]


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
