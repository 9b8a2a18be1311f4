"""A mock survey: exposures of a sky that is known, and the truth about them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.exposure import Defects, cosmic_rays, hot_pixels, read_out
from astrid_dist.simulation.randomness import generator
from astrid_dist.simulation.render import convolve, paint_galaxy, paint_points, paint_trail
from astrid_dist.simulation.sky import Galaxies, Stars, draw_galaxies, draw_stars
from astrid_dist.simulation.sources import Source, asteroids, supernovae, variables
from astrid_dist.simulation.survey import Conditions, MockSurvey, conditions

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Everything in a field that does not depend on the epoch."""

    stars: Stars
    galaxies: Galaxies
    sources: tuple[Source, ...]
    """Supernovae and variables; asteroids belong to nights."""


@dataclass(frozen=True)
class Exposure:
    """One epoch as a camera would write it."""

    counts: NDArray[np.uint16] | NDArray[np.int32]
    """(y, x), DN; electrons where the survey's files hold them."""
    header: dict[str, tuple[Any, str]]
    """FITS keyword to value and comment."""


def build_scene(survey: MockSurvey, field: int) -> Scene:
    """Stars, galaxies, supernovae and variables of a field."""
    size, margin = survey.size_px, survey.margin_px
    stars = draw_stars(generator(survey.seed, "stars", field), size, margin, survey.star_density)
    galaxies = draw_galaxies(
        generator(survey.seed, "galaxies", field), size, margin, survey.galaxy_density, survey.pixel_scale
    )
    explosions = supernovae(survey, field, galaxies)
    return Scene(stars, galaxies, tuple(explosions + variables(survey, field, explosions)))


def sources_at(survey: MockSurvey, scene: Scene, field: int, epoch: int) -> list[Source]:
    """Changing sources that an epoch may show: the field's, and the asteroids of its night."""
    night = survey.night(epoch)
    first = night if epoch < survey.template_epochs else _first_epoch(survey, night)
    return [*scene.sources, *asteroids(survey, field, night, survey.mjd(survey.bands[0], first))]


def _first_epoch(survey: MockSurvey, night: int) -> int:
    return survey.template_epochs + (night - survey.template_epochs) * survey.visits_per_night


def mean_image(survey: MockSurvey, scene: Scene, field: int, band: str, epoch: int) -> Array:
    """Expected electrons of an epoch from the sky alone: no cosmic ray, no defect, no noise.

    Returns
    -------
    (y, x) float64
    """
    state = conditions(survey, field, band, epoch)
    image = np.zeros((survey.size_px, survey.size_px))
    galaxies = scene.galaxies
    x, y = state.to_frame(galaxies.x, galaxies.y)
    flux = _electrons(galaxies.magnitude(band), state)
    for k in range(len(x)):
        paint_galaxy(
            image,
            float(x[k]),
            float(y[k]),
            float(flux[k]),
            float(galaxies.radius_px[k]),
            float(galaxies.axis_ratio[k]),
            float(galaxies.angle[k]) + state.rotation_rad,
            float(galaxies.index[k]),
        )
    image = convolve(image, state.psf)
    stars = scene.stars
    x, y = state.to_frame(stars.x, stars.y)
    paint_points(image, x, y, _electrons(stars.magnitude(band), state), state.psf)
    for source in sources_at(survey, scene, field, epoch):
        flux_of_source = float(_electrons(source.magnitude(band, state.mjd), state))
        x, y = state.to_frame(*source.position(state.mjd))
        rate = np.asarray(source.rate_px_per_day)
        length = float(np.hypot(*rate)) * survey.exptime_s / 86400
        angle = float(np.arctan2(rate[1], rate[0])) + state.rotation_rad
        paint_trail(image, float(x), float(y), flux_of_source, length, angle, state.psf)
    across = np.linspace(-0.5, 0.5, survey.size_px)
    return image + state.sky * (1 + state.gradient[0] * across + state.gradient[1] * across[:, None])


def make_exposure(survey: MockSurvey, scene: Scene, field: int, band: str, epoch: int) -> Exposure:
    """One epoch: the sky, cosmic rays, defects and noise, in DN, with its header.

    The same whatever other epoch is made, in any order.
    """
    mean = mean_image(survey, scene, field, band, epoch)
    for defects in defects_at(survey, field, band, epoch).values():
        mean += defects.image
    item = (field, survey.bands.index(band), epoch)
    counts = read_out(
        generator(survey.seed, "noise", *item),
        mean,
        gain=survey.gain,
        read_noise=survey.read_noise,
        saturation_dn=survey.saturation_dn,
    )
    return Exposure(counts, make_header(survey, field, band, epoch))


def defects_at(survey: MockSurvey, field: int, band: str, epoch: int) -> dict[str, Defects]:
    """Cosmic rays and bad pixels of an epoch, by class of the taxonomy."""
    shape = (survey.size_px, survey.size_px)
    area = 1e-6 * survey.size_px**2
    rng = generator(survey.seed, "cosmic rays", field, survey.bands.index(band), epoch)
    return {
        "cosmic_ray": cosmic_rays(rng, shape, int(rng.poisson(survey.cosmic_rays * area))),
        # the detector is the same in every field, band and epoch
        "bad_pixel": hot_pixels(generator(survey.seed, "detector"), shape, round(survey.hot_pixels * area)),
    }


def make_header(survey: MockSurvey, field: int, band: str, epoch: int) -> dict[str, tuple[Any, str]]:
    """FITS keywords of an epoch: exposure, calibration, and a tangent-plane WCS."""
    state = conditions(survey, field, band, epoch)
    begin = state.mjd - 0.5 * survey.exptime_s / 86400
    moment = datetime(1858, 11, 17) + timedelta(days=begin)
    zeropoint_dn = state.zeropoint - 2.5 * np.log10(survey.gain) + state.zeropoint_error
    # CD of the grid (north up, east left) times the inverse of the frame's rotation: exact on the
    # tangent plane, because the frame turns about the reference pixel
    scale, cos, sin = survey.pixel_scale / 3600, np.cos(state.rotation_rad), np.sin(state.rotation_rad)
    reference = [survey.centre_px + 1 + state.offset_px[k] + state.wcs_error_px[k] for k in (0, 1)]
    ra, dec = survey.field_centre(field)
    return {
        "OBJECT": (survey.field_name(field), "field"),
        "FILTER": (band, "band"),
        "DATE-OBS": (moment.isoformat(timespec="milliseconds"), "UTC at the start of the exposure"),
        "MJD-OBS": (begin, "[d] UTC at the start of the exposure"),
        "TIMESYS": ("UTC", ""),
        "EXPTIME": (survey.exptime_s, "[s] exposure time"),
        "GAIN": (survey.gain, "[electron/DN]"),
        "RDNOISE": (survey.read_noise, "[electron] read noise"),
        "SATURATE": (survey.saturation_dn, "[DN] full well"),
        "MAGZERO": (round(float(zeropoint_dn), 4), "[mag] AB magnitude of 1 DN in this exposure"),
        "FWHM": (round(state.psf.fwhm_px, 3), "[pixel] seeing"),
        "SEEING": (round(state.psf.fwhm_px * survey.pixel_scale, 3), "[arcsec] seeing"),
        "BUNIT": ("DN", "bias subtracted, sky included"),
        "MOCKEPO": (epoch, "epoch of the mock survey"),
        "WCSAXES": (2, ""),
        "CTYPE1": ("RA---TAN", ""),
        "CTYPE2": ("DEC--TAN", ""),
        "CUNIT1": ("deg", ""),
        "CUNIT2": ("deg", ""),
        "CRVAL1": (ra, "[deg]"),
        "CRVAL2": (dec, "[deg]"),
        "CRPIX1": (reference[0], ""),
        "CRPIX2": (reference[1], ""),
        "CD1_1": (-scale * cos, ""),
        "CD1_2": (-scale * sin, ""),
        "CD2_1": (-scale * sin, ""),
        "CD2_2": (scale * cos, ""),
        "RADESYS": ("ICRS", ""),
    }


def _electrons(magnitude: Any, state: Conditions) -> Array:
    """Electrons in an epoch of an AB magnitude; 0 for an infinite one."""
    return np.asarray(10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - state.zeropoint)))
