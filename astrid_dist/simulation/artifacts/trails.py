"""What moves across the sky during an exposure: satellites' trails, and trains of their glints."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts.base import (
    Array,
    Artifact,
    Put,
    Site,
    add_star,
    between,
    expose,
    expose_pattern,
    log_between,
    nearest,
    noise_of,
    pixel_index,
    psf_noise,
    quantile,
    spline_of,
)
from astrid_dist.simulation.canvas import Canvas, Image, Mask, View
from astrid_dist.simulation.philox import compiled, uniform_at
from astrid_dist.surveys.profile import Camera

#: Samples of a trail's cross section per pixel.
_FINE = 8
_ARCSEC = 206265.0
_GRAVITY, _EARTH_KM = 398600.0, 6371.0  # km³/s², km
_PIXELS_OF_A_DETECTOR = 3000.0**2


def cross_section(psf: Image, disk_px: float) -> Array:
    """Light of a trail across it: the PSF seen as a line, and the disk that a near object's light makes.

    Parameters
    ----------
    psf : (v, u)
        Rounded: trails have the mean width of every direction.
    disk_px : float
        Diameter of the disk out of focus.

    Returns
    -------
    (n,) float64
        At steps of 1/8 px, symmetric about the middle sample; a sum over every 8th is 1.
    """
    return _cross_section(psf.tobytes(), psf.shape, psf.dtype.str, round(disk_px * _FINE))


@lru_cache(maxsize=256)
def _cross_section(content: bytes, shape: tuple[int, int], dtype: str, disk_steps: int) -> Array:
    psf = np.frombuffer(content, dtype).reshape(shape).astype(np.float64)
    line = 0.5 * (psf.sum(axis=0) + psf.sum(axis=1))
    half = len(line) // 2
    reach = half + disk_steps // (2 * _FINE) + 1
    at = np.arange(-_FINE * reach, _FINE * reach + 1) / _FINE
    profile = ndimage.map_coordinates(0.5 * (line + line[::-1]), [at + half], order=5, mode="constant")
    if disk_steps > 1:
        steps = np.arange(-(disk_steps // 2), disk_steps // 2 + 1)
        chord = np.sqrt(np.maximum(1 - (2 * steps / disk_steps) ** 2, 0))
        profile = np.convolve(profile, chord / chord.sum(), "same")
    return np.ascontiguousarray(profile / profile.sum() * _FINE)


@compiled
def _trail(
    image: Image,
    variance: Image,
    mask: Mask,
    x: float,
    y: float,
    angle: float,
    profile: Array,
    per_px: float,
    swing: float,
    period: float,
    phase: float,
    sky_variance: float,
    bit: int,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """A line through the whole window; its brightness may swing along it."""
    cosine, sine = math.cos(angle), math.sin(angle)
    half = len(profile) // 2
    reach = half / _FINE
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    height, width = image.shape
    for i in range(height):
        first, last = 0, width - 1
        if abs(sine) > 1e-9:
            # distance from the line: (j - x) sin - (i - y) cos
            here = x + (i - y) * cosine / sine
            spread = reach / abs(sine)
            if here + spread < 0 or here - spread > width - 1:
                continue
            first, last = max(first, int(here - spread)), min(last, int(here + spread) + 1)
        elif abs(i - y) > reach:
            continue
        for j in range(first, last + 1):
            across = (j - x) * sine - (i - y) * cosine
            at = across * _FINE + half
            k = math.floor(at)
            if k < 0 or k >= len(profile) - 1:
                continue
            light = per_px * (profile[k] + (at - k) * (profile[k + 1] - profile[k]))
            if swing > 0:
                along = (j - x) * cosine + (i - y) * sine
                light *= 1 + swing * math.sin(2 * math.pi * (along / period + phase))
            expose(
                image,
                variance,
                i,
                j,
                light,
                sky_variance,
                start,
                twist,
                pixel_index(i - middle_y, j - middle_x),
            )
            if bit and light * light > sky_variance:
                mask[i, j] |= np.uint16(bit)


@dataclass(frozen=True)
class SatelliteTrail:
    """A satellite in a low orbit, which crosses any detector within an exposure."""

    brightest_mag: float = 5.0
    faintest_mag: float = 16.0
    """AB, steady; constellations shine at 5 to 8, old satellites and debris fainter."""
    lowest_km: float = 350.0
    highest_km: float = 2000.0
    tumbling_share: float = 0.3
    flagged_share: float = 0.3
    """Of those that are left for a model to see, that the pipeline has found."""
    faintest_snr: float = 1.0
    brightest_snr: float = 30.0
    """Peak of its light over the sky's noise, where the zero point is unknown."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        height_km = log_between(draws[0], self.lowest_km, self.highest_km)
        speed = math.sqrt(_GRAVITY / (_EARTH_KM + height_km)) / height_km * _ARCSEC  # arcsec/s, at the zenith
        disk_px = view.camera.aperture_m / (height_km * 1e3) * _ARCSEC / view.pixel_scale_arcsec
        profile = cross_section(view.psf_n, disk_px)
        if math.isfinite(view.zeropoint):
            mag = between(draws[1], self.brightest_mag, self.faintest_mag)
            rate = 10 ** (0.4 * (view.zeropoint - mag)) / view.exptime_s
            per_px = rate * view.pixel_scale_arcsec / speed
        else:
            snr = log_between(draws[1], self.faintest_snr, self.brightest_snr)
            per_px = snr * view.sigma_n / float(profile.max())
        angle = math.pi * draws[2]
        tumbles = draws[3] < self.tumbling_share
        swing = draws[3] / self.tumbling_share if tumbles else 0.0
        period_px = log_between(draws[4], 0.01, 2.0) * speed / view.pixel_scale_arcsec
        bit = int(Flag.TRAIL) if draws[5] < self.flagged_share else 0
        start, twist = noise_of(site)
        _trail(
            canvas.science,
            canvas.science_variance,
            canvas.mask,
            x,
            y,
            angle,
            profile,
            per_px,
            swing,
            period_px,
            float(draws[4]),
            view.sigma_n**2,
            bit,
            start,
            twist,
        )
        return Put(
            math.nan,
            {"flux_per_px": per_px, "angle_rad": angle, "disk_px": disk_px, "height_km": height_km},
        )


@dataclass(frozen=True)
class GlintTrain:
    """Flashes of something that turns: points along a line."""

    fewest: int = 3
    most: int = 30
    nearest_px: float = 5.0
    farthest_px: float = 80.0
    """Between flashes, even in the logarithm."""
    faintest_snr: float = 5.0
    brightest_snr: float = 100.0
    """Of a typical flash in the difference, even in the logarithm."""
    scatter: float = 0.5
    """Of the flashes' fluxes, in the natural logarithm."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        number = int(between(draws[0], self.fewest, self.most + 1))
        spacing = log_between(draws[1], self.nearest_px, self.farthest_px)
        angle = 2 * math.pi * draws[2]
        usual = log_between(draws[3], self.faintest_snr, self.brightest_snr) * psf_noise(view)
        # the flash at (x, y) is any of them
        at_middle = int(draws[4] * number)
        spline = spline_of(view.psf_n)
        half = spline.shape[0] // 2
        height, width = view.shape
        start, twist = noise_of(site)
        total = 0.0
        for k in range(number):
            noise = twist ^ np.uint64(k + 1 << 32)
            flux = usual * math.exp(self.scatter * quantile(uniform_at(start, noise, 0)))
            total += flux
            at_x = x + (k - at_middle) * spacing * math.cos(angle)
            at_y = y + (k - at_middle) * spacing * math.sin(angle)
            if not (-half < at_x < width + half and -half < at_y < height + half):
                continue
            pattern = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
            left, top = nearest(at_x) - half, nearest(at_y) - half
            add_star(pattern, spline, at_x - left, at_y - top, flux)
            expose_pattern(
                canvas.science, canvas.science_variance, pattern, left, top, view.sigma_n**2, start, ~noise
            )
        return Put(total, {"flashes": float(number), "spacing_px": spacing, "angle_rad": angle})


@dataclass(frozen=True)
class _Rate:
    number: float
    """In a detector of 3000² pixels and 30 s."""

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        # a line crosses a field with a chance as its side
        return self.number * math.sqrt(pixels / _PIXELS_OF_A_DETECTOR) * exptime_s / 30


ARTIFACTS = (
    Artifact(
        "satellite trail",
        7,
        "Satellites cross the whole image; a trail is as wide as the PSF and the disk that an object at "
        "some hundred km makes out of focus (aperture / height: 3.1 arcsec for Rubin at 550 km). In 18 % of "
        "ZTF's twilight images of 2021, under 0.5 % of those of 2019 (Mróz et al. 2022).",
        "anywhere",
        True,
        False,
        6,
        _Rate(0.02),
        SatelliteTrail(),
    ),
    Artifact(
        "glint train",
        8,
        "Turning satellites and debris flash: 3 to 30 points of various brightness evenly along a line "
        "(Corbett et al. 2020; Rubin flags them as glint trails).",
        "anywhere",
        True,
        False,
        5,
        _Rate(0.002),
        GlintTrain(),
    ),
)
