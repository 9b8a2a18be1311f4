"""Stars that are not subtracted: displaced, of another width or flux, elongated, or left in the template."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.artifacts.base import (
    Array,
    Artifact,
    Put,
    Site,
    add_pattern,
    add_reshaped_star,
    add_star,
    expose_pattern,
    log_between,
    nearest,
    needed,
    noise_of,
    psf_noise,
    quantile,
    reach_of,
    spline_of,
)
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.surveys.profile import Camera

#: Of the noise in a pixel: light that is not worth reshaping.
_FAINT = 0.02


def _pattern(spline: Array) -> Image:
    """Zeros for a star's stamp, with the margin that its spline has."""
    return np.zeros(spline.shape, np.float32)


@dataclass(frozen=True)
class Misregistration:
    """A star of the epoch lies beside that of the template."""

    smallest_px: float = 0.04
    """Standard deviation per axis, drawn evenly in its logarithm between these two: BlackBOX 0.04 px; ZTF 45
    to 85 mas; distortion and refraction by colour reach further."""
    largest_px: float = 0.15

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "misregistration")
        scale = log_between(draws[0], self.smallest_px, self.largest_px)
        length = scale * math.sqrt(-2 * math.log(draws[1]))
        dx, dy = length * math.cos(2 * math.pi * draws[2]), length * math.sin(2 * math.pi * draws[2])
        displace(canvas, view, star, dx, dy)
        return Put(0.0, {"shift_px": length, "dx_px": dx, "dy_px": dy, "star_flux": star.flux})


def displace(canvas: Canvas, view: View, star: Star, dx: float, dy: float) -> None:
    """Move a star of the epoch by less than a pixel or so."""
    spline = spline_of(view.psf_n)
    pattern = _pattern(spline)
    left, top = nearest(star.x) - pattern.shape[1] // 2, nearest(star.y) - pattern.shape[0] // 2
    add_star(pattern, spline, star.x + dx - left, star.y + dy - top, star.flux)
    add_star(pattern, spline, star.x - left, star.y - top, -star.flux)
    add_pattern(canvas.science, canvas.science_variance, pattern, left, top)


def reshape(canvas: Canvas, view: View, star: Star, width: float, shear: float, angle: float) -> None:
    """Give a star of the epoch another width and axis ratio.

    Parameters
    ----------
    width : float
        Factor of the FWHM, geometric mean of the axes.
    shear : float
        Logarithm of major over minor axis, beyond that of the PSF.
    angle : float
        Of the major axis from x towards y, radians.
    """
    spline = spline_of(view.psf_n)
    # a faint star's wings change by too little to be seen
    side = 2 * (reach_of(spline, star.flux, _FAINT * view.sigma_n) + 3) + 1
    pattern = np.zeros((side, side), np.float32)
    left, top = nearest(star.x) - side // 2, nearest(star.y) - side // 2
    even, odd = width * math.cosh(shear / 2), width * math.sinh(shear / 2)
    xx, xy = even + odd * math.cos(2 * angle), odd * math.sin(2 * angle)
    x, y = star.x - left, star.y - top
    add_reshaped_star(pattern, spline, x, y, star.flux, xx, xy, 2 * even - xx)
    add_star(pattern, spline, x, y, -star.flux)
    add_pattern(canvas.science, canvas.science_variance, pattern, left, top)


@dataclass(frozen=True)
class PsfMismatch:
    """A star whose PSF is not the one that the subtraction was told."""

    width: float = 0.02
    """Standard deviation of the relative error of the FWHM."""
    shear: float = 0.03
    """Standard deviation of the error of the logarithm of the axis ratio."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "PSF mismatch")
        error, shear = self.width * quantile(draws[0]), self.shear * abs(quantile(draws[1]))
        reshape(canvas, view, star, 1 + error, shear, math.pi * draws[2])
        return Put(0.0, {"width_error": error, "shear": shear, "star_flux": star.flux})


@dataclass(frozen=True)
class ElongatedPsf:
    """Every star of the window is drawn out: guiding, wind, jitter."""

    shear: float = 0.1
    """Standard deviation of the logarithm of the axis ratio: BlackBOX elongation 1.1 ± 0.2."""
    tail_share: float = 0.1
    """Share of exposures whose ellipticity is even up to `tail_shear` instead."""
    tail_shear: float = 0.6
    broadening: float = 0.05
    """Standard deviation of the relative growth of the FWHM."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "elongated PSF")
        far = draws[0] < self.tail_share
        shear = self.tail_shear * draws[1] if far else self.shear * abs(quantile(draws[1]))
        width = 1 + self.broadening * abs(quantile(draws[2]))
        stars = view.stars if star in view.stars else (star, *view.stars)
        for one in stars:
            reshape(canvas, view, one, width, shear, math.pi * draws[3])
        return Put(0.0, {"width_error": width - 1, "shear": shear, "stars": float(len(stars))})


@dataclass(frozen=True)
class FluxScaleError:
    """A star that is brighter or fainter in the epoch than its flux scale says."""

    smallest: float = 0.01
    """Standard deviation of the relative error, drawn evenly in its logarithm between these two: BlackBOX's
    scatter of star fluxes is 0.03 ± 0.03."""
    largest: float = 0.03

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "flux-scale error")
        error = log_between(draws[0], self.smallest, self.largest) * quantile(draws[1])
        spline = spline_of(view.psf_n)
        for image in (canvas.science, canvas.science_variance):
            add_star(image, spline, star.x, star.y, error * star.flux)
        return Put(error * star.flux, {"flux_error": error, "star_flux": star.flux})


@dataclass(frozen=True)
class TemplateContamination:
    """A source that was in the template's sky and has gone: real, and negative in the difference."""

    faintest_snr: float = 5.0
    brightest_snr: float = 100.0
    """In the difference; even in the logarithm."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        snr = log_between(draws[0], self.faintest_snr, self.brightest_snr)
        flux = snr * psf_noise(view)
        spline = spline_of(view.psf_r)
        pattern = _pattern(spline)
        left, top = nearest(x) - pattern.shape[1] // 2, nearest(y) - pattern.shape[0] // 2
        add_star(pattern, spline, x - left, y - top, flux / view.flux_ratio)
        start, twist = noise_of(site)
        expose_pattern(
            canvas.template, canvas.template_variance, pattern, left, top, view.sigma_r**2, start, twist
        )
        return Put(-flux, {"snr": -snr})


@dataclass(frozen=True)
class NoisePeak:
    """Nothing: the noise of the window does it."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        return Put(0.0)


def _per_star(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    return n_stars


@dataclass(frozen=True)
class _Share:
    """The same for every exposure, whatever its area."""

    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.share


@dataclass(frozen=True)
class _PerMpix:
    number: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.number * pixels / 1e6


ARTIFACTS = (
    Artifact(
        "misregistration",
        3,
        "Errors of registration, refraction by colour and proper motion leave a pair of opposite signs along "
        "the shift: S = ±1.01 (shift / FWHM) S/N of the star. Shifts: BlackBOX 0.04 px, ZTF 45 to 85 mas "
        "(Masci et al. 2019).",
        "star",
        False,
        True,
        3,
        _per_star,
        Misregistration(),
    ),
    Artifact(
        "PSF mismatch",
        4,
        "A PSF that is modelled too narrow or too wide leaves a spot within a ring: -ε S/N in the middle, "
        "+0.13 ε S/N around it, for a FWHM wrong by ε; typically 2 %.",
        "star",
        False,
        False,
        3,
        _per_star,
        PsfMismatch(),
    ),
    Artifact(
        "flux-scale error",
        5,
        "A zero point that is wrong, or varies over the field, leaves a share of every star; BlackBOX finds "
        "0.03 ± 0.03 of scatter.",
        "star",
        False,
        False,
        2,
        _per_star,
        FluxScaleError(),
    ),
    Artifact(
        "elongated PSF",
        18,
        "Guiding, wind and jitter draw all stars out along one direction: two lobes along it, two of the "
        "other sign across. BlackBOX elongation 1.1 ± 0.2.",
        "star",
        True,
        True,
        4,
        _Share(0.1),
        ElongatedPsf(),
    ),
    Artifact(
        "template contamination",
        19,
        "A variable, transient or asteroid that shone when the template was made leaves a negative source; "
        "models that never saw any score them as bogus (Rubin DMTN-337).",
        "anywhere",
        False,
        False,
        1,
        _PerMpix(0.5),
        TemplateContamination(),
    ),
    Artifact(
        "noise peak",
        20,
        "Peaks of the noise itself; 0.37 per Mpix pass |S| > 5 in white noise at a FWHM of 3 px, ten times "
        "what counting beams gives.",
        "anywhere",
        False,
        False,
        0,
        _PerMpix(0.37),
        NoisePeak(),
    ),
)
