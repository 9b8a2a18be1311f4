"""What an artifact says of itself, and the drawing that artifacts share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.simulation.philox import block, compiled, normal_at
from astrid_dist.surveys.profile import Camera

Array = NDArray[np.float64]

_PAD = 3
#: Shot noise below this share of the sky's variance is left out.
_NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Put:
    """What an artifact has become in one window."""

    flux: float
    """Electrons of the epoch that it adds in all, what lies outside the window included, negative if it takes
    light away or adds it to the template; 0 where it moves light only, NaN where it has no meaning."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Named with their unit where they have one (``length_px``, ``shift_px``...)."""


@dataclass(frozen=True)
class Site:
    """Where and from what one artifact is made."""

    x: float
    y: float
    """Its middle, pixels of the window; may lie outside."""
    draws: Array
    """(n_draws,) uniform numbers in (0, 1)."""
    key: np.uint64
    item: int
    """Of the noise in pixels (`astrid_dist.simulation.philox.block`); it is tied to the artifact, so it is
    the same in whatever window the artifact is seen."""
    star: Star | None = None
    """What the artifact is made of, if `where` is ``star``."""


class Putter(Protocol):
    """Puts an artifact on a canvas; an instance of a frozen dataclass that holds its amplitudes."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        """Change `canvas` in place.

        Parameters
        ----------
        canvas, view
            Of the same shape; only what the artifact reaches is touched.
        """


class Rate(Protocol):
    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        """Expected number in an area of `pixels` in one exposure with `n_stars` stars that can cause it."""


@dataclass(frozen=True)
class Artifact:
    """One kind of artifact."""

    kind: str
    """Of `astrid_dist.taxonomy.KINDS`."""
    number: int
    """Of the catalogue."""
    description: str
    """How it comes about and what its amplitudes are from, for the catalogue."""
    where: Literal["star", "anywhere", "edge"]
    """What its middle is put on."""
    extended: bool
    """Whether it reaches beyond a stamp of 63 pixels."""
    directed: bool
    """Whether the detector or the sky gives it a direction: then quarter-turns make it something else."""
    n_draws: int
    rate: Rate
    put: Putter


def quantile(u: float) -> float:
    """Value of N(0, 1) that a share u of it lies below."""
    return _NORMAL.inv_cdf(u)


_NORMAL = NormalDist()


def noise_of(site: Site) -> tuple[np.uint64, np.uint64]:
    """What `normal_at` needs of an artifact; numba would hand the words back as plain integers."""
    start, twist = block(site.key, site.item)
    return np.uint64(start), np.uint64(twist)


def between(u: float, low: float, high: float) -> float:
    """Evenly distributed between two values."""
    return low + (high - low) * u


def log_between(u: float, low: float, high: float) -> float:
    """Evenly distributed in the logarithm."""
    return float(low * (high / low) ** u)


def nearest(place: float) -> int:
    """Pixel that a place lies in, whatever the window's origin (`round` takes halves to even numbers)."""
    return math.floor(place + 0.5)


def needed(star: Star | None, kind: str) -> Star:
    """The star that an artifact is made of."""
    if star is None:
        raise InputError(f"{kind}: it is made of a star, and none was given: pass star=")
    return star


def psf_noise(view: View) -> float:
    """Standard deviation of the PSF flux of a point source in the difference, electrons of the epoch."""
    new = view.sigma_n**2 / float(np.sum(np.square(view.psf_n)))
    old = (view.sigma_r * view.flux_ratio) ** 2 / float(np.sum(np.square(view.psf_r)))
    return math.sqrt(new + old)


def spline_of(psf: Image) -> Array:
    """(v + 6, u + 6) coefficients of the quintic spline through a PSF stamp, three more on every side.

    Kept for the PSFs used last.
    """
    return _spline_of(psf.tobytes(), psf.shape, psf.dtype.str)


@lru_cache(maxsize=256)
def _spline_of(content: bytes, shape: tuple[int, int], dtype: str) -> Array:
    stamp = np.frombuffer(content, dtype).reshape(shape).astype(np.float64)
    for axis in (0, 1):
        stamp = ndimage.spline_filter1d(stamp, order=5, axis=axis, mode="mirror")
    return np.pad(stamp, _PAD, mode="reflect")


@compiled
def taps(t: float, out: Array) -> None:
    """Weights of six coefficients of a quintic B-spline about a place that is 0 <= t < 1 behind the third."""
    for k in range(3):
        # the pieces of the spline, each at its distance from the place: 2 to 3, 1 to 2, 0 to 1
        for d, at in ((t + 2.0 - k, k), (3.0 - k - t, 5 - k)):
            if k == 0:
                rest = 3.0 - d
                out[at] = rest * rest * rest * rest * rest / 120.0
            elif k == 1:
                out[at] = 0.425 + d * (0.625 + d * (-1.75 + d * (1.25 + d * (-0.375 + d / 24.0))))
            else:
                out[at] = 0.55 + d * d * (-0.5 + d * d * (0.25 - d / 12.0))


@compiled
def add_star(out: Image, spline: Array, x: float, y: float, flux: float) -> None:
    """Add a star, as its PSF stamp says, at a place between pixels; shape of `out` (y, x)."""
    half_v, half_u = spline.shape[0] // 2 - _PAD, spline.shape[1] // 2 - _PAD
    at_x, at_y = math.floor(x + 0.5), math.floor(y + 0.5)
    first_x, last_x = max(at_x - half_u, 0), min(at_x + half_u, out.shape[1] - 1)
    weights_y, weights_x = np.empty(6), np.empty(6)
    floor_y, floor_x = math.floor(at_y - y), math.floor(at_x - x)
    taps(at_y - y - floor_y, weights_y)
    taps(at_x - x - floor_x, weights_x)
    sums = np.empty(spline.shape[1])
    for i in range(max(at_y - half_v, 0), min(at_y + half_v, out.shape[0] - 1) + 1):
        v = i - at_y + half_v + floor_y - 2 + _PAD
        sums[:] = 0.0
        for k in range(6):
            for u in range(spline.shape[1]):
                sums[u] += weights_y[k] * spline[v + k, u]
        for j in range(first_x, last_x + 1):
            u = j - at_x + half_u + floor_x - 2 + _PAD
            value = 0.0
            for k in range(6):
                value += weights_x[k] * sums[u + k]
            out[i, j] += np.float32(flux * value)


@compiled
def reach_of(spline: Array, flux: float, least: float) -> int:
    """Pixels from its middle to where a star is fainter than `least`."""
    middle_v, middle_u = spline.shape[0] // 2, spline.shape[1] // 2
    reach: int = middle_v - _PAD
    while (
        reach > 2
        and flux * max(spline[middle_v + reach, middle_u], spline[middle_v, middle_u + reach]) < least
    ):
        reach -= 1
    return reach


@compiled
def add_reshaped_star(
    out: Image, spline: Array, x: float, y: float, flux: float, xx: float, xy: float, yy: float
) -> None:
    """Add a star whose PSF is stretched by the symmetric matrix (xx, xy; xy, yy)."""
    half_v, half_u = spline.shape[0] // 2 - _PAD, spline.shape[1] // 2 - _PAD
    at_x, at_y = math.floor(x + 0.5), math.floor(y + 0.5)
    area = xx * yy - xy * xy
    weights_y, weights_x = np.empty(6), np.empty(6)
    for i in range(max(at_y - half_v, 0), min(at_y + half_v, out.shape[0] - 1) + 1):
        for j in range(max(at_x - half_u, 0), min(at_x + half_u, out.shape[1] - 1) + 1):
            u = (yy * (j - x) - xy * (i - y)) / area + half_u
            v = (xx * (i - y) - xy * (j - x)) / area + half_v
            if not (0.0 <= u <= 2 * half_u and 0.0 <= v <= 2 * half_v):
                continue
            floor_v, floor_u = math.floor(v), math.floor(u)
            taps(v - floor_v, weights_y)
            taps(u - floor_u, weights_x)
            value = 0.0
            for k in range(6):
                line = 0.0
                for m in range(6):
                    line += weights_x[m] * spline[floor_v - 2 + _PAD + k, floor_u - 2 + _PAD + m]
                value += weights_y[k] * line
            out[i, j] += np.float32(flux * value / area)


@compiled
def pixel_index(dy: int, dx: int) -> int:
    """Number of a pixel of an artifact for its noise, by its place from the artifact's middle."""
    return (dy + 32768) * 65536 + dx + 32768


@compiled
def expose(
    image: Image,
    variance: Image,
    i: int,
    j: int,
    mean: float,
    sky_variance: float,
    start: np.uint64,
    twist: np.uint64,
    index: int,
) -> None:
    """Add light (or charge) to a pixel with its shot noise, as a Gaussian, and the variance that it shows."""
    value = mean
    if mean > _NEGLIGIBLE * sky_variance:
        value += math.sqrt(mean) * normal_at(start, twist, index)
    image[i, j] += np.float32(value)
    variance[i, j] += np.float32(max(value, 0.0))


@compiled
def expose_pattern(
    image: Image,
    variance: Image,
    pattern: Image,
    first_x: int,
    first_y: int,
    sky_variance: float,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """Add a pattern of expected light with its shot noise; its first pixel lies at (first_x, first_y)."""
    for v in range(max(0, -first_y), min(pattern.shape[0], image.shape[0] - first_y)):
        for u in range(max(0, -first_x), min(pattern.shape[1], image.shape[1] - first_x)):
            index = v * pattern.shape[1] + u
            mean = float(pattern[v, u])
            expose(image, variance, first_y + v, first_x + u, mean, sky_variance, start, twist, index)


@compiled
def add_pattern(image: Image, variance: Image, pattern: Image, first_x: int, first_y: int) -> None:
    """Move light: a pattern of either sign that needs no noise of its own, for the light has it already."""
    for v in range(max(0, -first_y), min(pattern.shape[0], image.shape[0] - first_y)):
        for u in range(max(0, -first_x), min(pattern.shape[1], image.shape[1] - first_x)):
            image[first_y + v, first_x + u] += pattern[v, u]
            variance[first_y + v, first_x + u] += pattern[v, u]


def box_around(
    shape: tuple[int, int], x: float, y: float, reach_x: float, reach_y: float
) -> tuple[int, int, int, int]:
    """Rows and columns (y0, y1, x0, x1) within a reach of a place, cut at the window; may be empty."""
    y0, y1 = max(math.floor(y - reach_y), 0), min(math.ceil(y + reach_y) + 1, shape[0])
    x0, x1 = max(math.floor(x - reach_x), 0), min(math.ceil(x + reach_x) + 1, shape[1])
    return y0, max(y1, y0), x0, max(x1, x0)
