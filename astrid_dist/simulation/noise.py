"""Noise of an epoch: from what a survey says of itself, or measured on real pixels, and drawn again."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, special

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.masks import source_free
from astrid_dist.simulation.philox import noise, stream
from astrid_dist.surveys.profile import Profile

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Pixels apart where noise no longer correlates.
_FAR = 8
#: Lags (rows, columns) of `NoiseModel.correlation`; the two diagonals are one.
_LAGS = (((0, 1),), ((1, 0),), ((1, 1), (1, -1)))
#: Widths below the middle at which tails are counted: nothing on the sky is fainter than the sky.
_TAIL_AT, _FAR_TAIL_AT = 3.5, 5.0
_WIDEST_TAIL = 30.0
#: Source-free pixels below which nothing can be said.
_FEWEST = 2000


@dataclass(frozen=True)
class NoiseModel:
    """Noise of the sky of one exposure; a Gaussian core, and some pixels from a wider Gaussian."""

    sky: float
    """Electrons per pixel."""
    sigma: float
    """Standard deviation of the core, electrons."""
    correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of neighbours in a row, in a column and on a diagonal; white noise has 0."""
    tail_fraction: float = 0.0
    """Of pixels that are drawn from the wider Gaussian."""
    tail_width: float = 1.0
    """Its standard deviation, in `sigma`."""

    @property
    def rms(self) -> float:
        """Standard deviation of a pixel, tails included, electrons."""
        return self.sigma * math.sqrt(1 + self.tail_fraction * (self.tail_width**2 - 1))


def effective_pixels(fwhm_px: float) -> float:
    """Pixels whose sky noise a point source competes with (LSST SMTN-002: 2.266 FWHM²)."""
    return 2.266 * fwhm_px**2


def survey_noise(
    profile: Profile, band: str, fwhm_arcsec: float | None = None, exptime_s: float | None = None
) -> NoiseModel:
    """White noise that gives a point source at the survey's depth a signal to noise ratio of five.

    The depth says more than a dark sky's magnitude: it is of usual nights. The flux F5 of five sigma and the
    noise of a pixel are bound by F5² = 25 (F5 + n_eff sigma²), n_eff = 2.266 (FWHM/pixel)².

    Parameters
    ----------
    profile : Profile
    band : str
    fwhm_arcsec : float, optional
        Seeing of which the depth is; the typical one where left out.
    exptime_s : float, optional
        Of the exposure wanted; a usual one, of which the depth is, where left out.

    Raises
    ------
    ConfigError
        The profile has no depth or zero point of that band, or they leave no room for the read noise.
    """
    if band not in profile.depth:
        raise ConfigError(
            f"survey {profile.name!r} has no depth of band {band!r}, only of "
            f"{', '.join(profile.depth) or 'none'}: add it to depth of the profile"
        )
    camera = profile.camera
    flux = 10 ** (0.4 * (profile.electron_magnitude(band) - profile.depth[band]))
    n_eff = effective_pixels((fwhm_arcsec or profile.seeing_arcsec.typical) / profile.pixel_scale_arcsec)
    dark = camera.dark_current * camera.exptime_s
    sky = (flux**2 / 25 - flux) / n_eff - camera.read_noise**2 - dark
    if sky <= 0:
        raise ConfigError(
            f"depth {profile.depth[band]} of survey {profile.name!r} in {band} is deeper than zero point, "
            f"seeing and read noise of {camera.read_noise:g} electrons allow: correct one of them"
        )
    longer = (exptime_s or camera.exptime_s) / camera.exptime_s
    return NoiseModel(longer * sky, math.sqrt(longer * (sky + dark) + camera.read_noise**2))


def measure_noise(
    image: Image, variance: Image, mask: NDArray[np.uint16], fwhm_px: float, read_noise: float = 0.0
) -> NoiseModel:
    """Level, correlation and tails of the noise in an epoch's pixels without sources.

    Widths are half the distance of the 16th and 84th percentile of differences, so that neither a sky that
    varies over more than 8 pixels nor tails touch them. Tails are those below the sky, where no source hides.

    Parameters
    ----------
    image : (y, x) float32
        Sky-subtracted electrons; NaN no data.
    variance : (y, x) float32
        Electron².
    mask : (y, x) uint16
        Bits of `Flag`; UNUSABLE pixels are left out.
    fwhm_px : float
        Seeing, pixels.
    read_noise : float
        Electrons; what the variance holds beyond it is sky.

    Raises
    ------
    InputError
        Fewer than 2000 source-free pixels.
    """
    usable = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & ((mask & int(UNUSABLE)) == 0)
    pixels = np.where(usable, image, np.float32(np.nan)).astype(np.float32)
    level = math.sqrt(float(np.median(variance[usable]))) if usable.any() else math.nan
    quiet = source_free(pixels, level, fwhm_px) if usable.any() else usable
    n = int(quiet.sum())
    if n < _FEWEST:
        raise InputError(f"{n} source-free pixels tell no noise, {_FEWEST} are needed: take a larger window")
    pixels[~quiet] = np.nan
    far = (_width(pixels, 0, _FAR) ** 2 + _width(pixels, _FAR, 0) ** 2) / 2
    near = [np.mean([_width(pixels, *lag) ** 2 for lag in lags]) for lags in _LAGS]
    row, column, diagonal = (float(1 - square / far) for square in near)
    sky = float(np.median(variance[quiet])) - read_noise**2
    fraction, width = _tail(pixels[quiet])
    return NoiseModel(max(sky, 0.0), math.sqrt(far / 2), (row, column, diagonal), fraction, width)


def draw_noise(model: NoiseModel, shape: tuple[int, int], key: np.uint64, item: int) -> Image:
    """Noise of mean zero as the model says, electrons.

    Parameters
    ----------
    model : NoiseModel
    shape : (height, width)
    key, item
        From `philox.stream`, and which of its items: the same ones give the same noise.

    Returns
    -------
    (y, x) float32
    """
    height, width = shape
    if any(model.correlation):
        # margins keep the edges apart that a Fourier transform makes neighbours
        grid = fft.next_fast_len(height + _FAR, real=True), fft.next_fast_len(width + _FAR, real=True)
        white = noise(key, item, grid)[0]
        spectrum = _amplitudes(model.correlation, grid)
        plane = fft.irfft2(fft.rfft2(white) * spectrum, grid)[:height, :width].astype(np.float32)
    else:
        plane = noise(key, item, shape)[0]
    plane *= np.float32(model.sigma)
    if model.tail_fraction > 0:
        chosen = noise(key ^ _TAILS, item, shape)[0] > special.ndtri(1 - model.tail_fraction)
        plane[chosen] *= np.float32(model.tail_width)
    return np.asarray(plane, np.float32)


#: Tails fall on pixels that have nothing to do with their noise.
_TAILS = stream(0, "tails of noise")


@lru_cache(maxsize=16)
def _amplitudes(correlation: tuple[float, float, float], grid: tuple[int, int]) -> Image:
    """Square root of the power spectrum of unit variance that has these correlations and none farther."""
    row, column, diagonal = correlation
    y, x = np.cos(2 * np.pi * fft.fftfreq(grid[0])), np.cos(2 * np.pi * fft.rfftfreq(grid[1]))
    power = 1 + 2 * row * x + 2 * column * y[:, None] + 4 * diagonal * x * y[:, None]
    power = np.maximum(power, 0)  # correlations that no noise can have are met as nearly as one can
    variance = fft.irfft2(power, grid)[0, 0]
    return np.asarray(np.sqrt(power / variance), np.float32)


def _width(pixels: Image, rows: int, columns: int) -> float:
    """Robust standard deviation of the difference of pixels so far apart."""
    height, width = pixels.shape
    left, right = max(-columns, 0), max(columns, 0)
    apart = pixels[rows:, right : width - left] - pixels[: height - rows, left : width - right]
    values = apart[np.isfinite(apart)]
    if values.size < _FEWEST // 4:
        raise InputError(
            f"{values.size} pairs of source-free pixels tell no correlation: take a larger window"
        )
    low, high = np.percentile(values, [15.866, 84.134])
    return float(high - low) / 2


def _tail(values: Image) -> tuple[float, float]:
    """Fraction and width of the Gaussian that makes the excess below the sky; 0 and 1 where none is seen."""
    low, middle = np.percentile(values, [15.866, 50])
    depth = (middle - values) / max(float(middle - low), 1e-12)
    n = len(values)

    def excess(at: float) -> float:
        return float(np.count_nonzero(depth > at)) / n - float(special.ndtr(-at))

    near, far = excess(_TAIL_AT), max(excess(_FAR_TAIL_AT), 0.5 / n)
    if near * n < 3 * math.sqrt(n * special.ndtr(-_TAIL_AT)) + 3:
        return 0.0, 1.0

    def ratio(width: float) -> float:
        return float(special.ndtr(-_FAR_TAIL_AT / width) / special.ndtr(-_TAIL_AT / width) - far / near)

    lowest = 1.2
    if ratio(lowest) > 0:
        width = lowest
    else:
        width = _WIDEST_TAIL if ratio(_WIDEST_TAIL) < 0 else optimize.brentq(ratio, lowest, _WIDEST_TAIL)
    fraction = near / float(special.ndtr(-_TAIL_AT / width) - special.ndtr(-_TAIL_AT))
    return min(fraction, 0.5), float(width)
