"""A mock survey's plan: the telescope, and the conditions of every epoch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.randomness import generator
from astrid_dist.simulation.render import MoffatPsf
from astrid_dist.surveys.profile import Profile

Array = NDArray[np.float64]

#: Zero point (AB magnitude of 1 electron/s, one airmass) and dark sky (mag/arcsec²) of a 1.2 m telescope.
BANDS = {"g": (24.2, 21.7), "r": (24.0, 20.9), "i": (23.6, 20.0), "z": (22.7, 19.0)}

#: Scatter of the sky's brightness from night to night, dex; it is never darker than dark.
_SKY_DEX = 0.12
#: A Moffat of beta 3.5 competes with as much sky, 3.44 FWHM², as a Gaussian this much wider (2.266 FWHM²).
_EQUAL_GAUSSIAN = 1.232
#: Of the air, in half of the exposures better (`conditions`).
_USUAL_TRANSPARENCY = 0.9375
#: The largest number that 16 bits of an exposure hold, with room for noise.
_MOST_COUNTS = 65000.0

#: Days between the end of the template season and the search.
_SEASON_GAP = 300.0
#: Days between the visits of one night.
_REVISIT = 0.02


@dataclass(frozen=True)
class MockSurvey:
    """What a mock survey is made of; every number has the unit of its name or of the line below it."""

    seed: int = 1
    fields: int = 1
    bands: tuple[str, ...] = ("r",)
    epochs: int = 14
    """Per field and band, templates included."""
    template_epochs: int = 4
    """The first epochs, taken a season before the rest: one a night, no supernova yet."""
    visits_per_night: int = 2
    """In the search season, half an hour apart."""
    cadence_days: float = 3.0
    season_days: float = 20.0
    """Supernovae peak between 5 days before the search starts and this many days after it."""
    start_mjd: float = 60600.0
    size_px: int = 768
    pixel_scale: float = 0.7
    """Arcsec per pixel."""
    exptime_s: float = 60.0
    gain: float = 1.6
    """Electron per DN."""
    read_noise: float = 7.0
    """Electron."""
    saturation_dn: float = 55000.0
    seeing_arcsec: float = 2.0
    """Median FWHM; log-normal with 15% scatter."""
    ellipticity: float = 0.025
    """Standard deviation of each component."""
    dither_px: float = 4.0
    rotation_deg: float = 0.04
    wcs_error_px: float = 0.03
    """Error of each header's reference pixel; the first epoch, which defines the grid, has none."""
    zeropoint_error_mag: float = 0.01
    star_density: float = 450.0
    """Stars with r < 21.5 per million pixels."""
    galaxy_density: float = 180.0
    supernovae: int = 8
    """In galaxies, per field."""
    hostless: int = 4
    variables: int = 10
    asteroids: int = 2
    """Per field and night."""
    cosmic_rays: float = 8.0
    """Tracks per million pixels and exposure."""
    hot_pixels: float = 4.0
    """Per million pixels."""
    telescope: tuple[tuple[str, float, float], ...] = tuple((band, *light) for band, light in BANDS.items())
    """Band, AB magnitude of 1 electron/s, dark sky (mag/arcsec²)."""

    @classmethod
    def of_profile(cls, profile: Profile, **changes: Any) -> "MockSurvey":
        """A mock of a real survey: its pixels, seeing, zero points, depth, noise and exposure.

        Bands are those with a zero point and a depth: a usual epoch of typical seeing reaches that depth.

        Parameters
        ----------
        profile : Profile
        **changes
            Any field of this class, instead of the profile's.

        Raises
        ------
        ConfigError
            The profile has no such band, or its depths leave no room for the sky.
        """
        from astrid_dist.simulation.noise import survey_noise

        camera, scale = profile.camera, profile.pixel_scale_arcsec
        usual = 10 ** (0.6745 * _SKY_DEX)  # median of how much brighter than dark nights are
        equal_fwhm = _EQUAL_GAUSSIAN / _USUAL_TRANSPARENCY * profile.seeing_arcsec.typical
        telescope = []
        for band in (band for band in profile.zeropoint.bands if band in profile.depth):
            of_a_second = profile.electron_magnitude(band) - 2.5 * math.log10(camera.exptime_s)
            background = survey_noise(profile, band, equal_fwhm).sky / camera.exptime_s + camera.dark_current
            dark_sky = of_a_second - 2.5 * math.log10(background / usual / scale**2)
            telescope.append((band, of_a_second, dark_sky))
        megapixel_cm2 = 1e6 * (1e-4 * camera.pixel_um) ** 2
        own: dict[str, Any] = {
            "pixel_scale": scale,
            "exptime_s": camera.exptime_s,
            "gain": camera.gain,
            "read_noise": camera.read_noise,
            "saturation_dn": min(camera.full_well / camera.gain, _MOST_COUNTS),
            "seeing_arcsec": profile.seeing_arcsec.typical,
            "cosmic_rays": camera.cosmic_rays * megapixel_cm2 * camera.exptime_s / 60,
            "telescope": tuple(telescope),
        }
        return cls(**(own | changes))

    def __post_init__(self) -> None:
        known = [band for band, *_ in self.telescope]
        unknown = sorted(set(self.bands) - set(known))
        if unknown or not self.bands:
            raise ConfigError(f"bands {list(self.bands)}: choose among {known}, not {unknown}")
        if not 0 < self.template_epochs <= self.epochs:
            raise ConfigError(f"template_epochs={self.template_epochs} must lie in 1..epochs={self.epochs}")
        if self.size_px < 128:
            raise ConfigError(f"size_px={self.size_px}: fields smaller than 128 px hold too few stars")

    @property
    def margin_px(self) -> int:
        """How far beyond the grid the sky is filled: dithers, and the wings of bright stars."""
        return int(np.ceil(6 * self.dither_px)) + 40

    @property
    def centre_px(self) -> float:
        """The grid's middle, pixels, the same along x and y."""
        return (self.size_px - 1) / 2

    def light(self, band: str) -> tuple[float, float]:
        """AB magnitude of 1 electron/s, and dark sky (mag/arcsec²)."""
        return next((zeropoint, sky) for name, zeropoint, sky in self.telescope if name == band)

    def field_name(self, field: int) -> str:
        """Name in headers and group keys, ``f0000``."""
        return f"f{field:04d}"

    def field_centre(self, field: int) -> tuple[float, float]:
        """ICRS right ascension and declination of a field, degrees; fields do not touch."""
        step = 1.5 * self.size_px * self.pixel_scale / 3600
        return (150.0 + (field % 100) * step) % 360, -20.0 + (field // 100) * step

    def night(self, epoch: int) -> int:
        """Number of the night of an epoch; template nights come first."""
        after = epoch - self.template_epochs
        return epoch if after < 0 else self.template_epochs + after // self.visits_per_night

    def mjd(self, band: str, epoch: int) -> float:
        """UTC at mid-exposure."""
        after = epoch - self.template_epochs
        band_delay = 0.002 * self.bands.index(band)
        if after < 0:
            return self.start_mjd - _SEASON_GAP + 5.0 * epoch + band_delay
        night, visit = divmod(after, self.visits_per_night)
        return self.start_mjd + self.cadence_days * night + _REVISIT * visit + band_delay


#: Enough for every stage in a few minutes on two cores.
DEMO = MockSurvey()
#: For tests: one small crowded field, seconds for every stage.
SMALL = MockSurvey(
    epochs=6,
    template_epochs=3,
    size_px=256,
    season_days=5.0,
    star_density=1500.0,
    galaxy_density=300.0,
    supernovae=3,
    hostless=2,
    variables=3,
    asteroids=1,
)


@dataclass(frozen=True)
class Conditions:
    """The state of air, telescope and pointing during one epoch."""

    mjd: float
    """UTC at mid-exposure."""
    psf: MoffatPsf
    zeropoint: float
    """True AB magnitude of 1 electron in this exposure."""
    sky: float
    """Electron per pixel in the middle of the frame."""
    gradient: tuple[float, float]
    """Relative change of the sky across the frame, along x and y."""
    offset_px: tuple[float, float]
    rotation_rad: float
    centre_px: float
    wcs_error_px: tuple[float, float]
    zeropoint_error: float

    def to_frame(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Pixels on this epoch's frame of places on the field's grid."""
        u, v = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        u, v = u - self.centre_px, v - self.centre_px
        cos, sin = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        return (
            cos * u - sin * v + self.centre_px + self.offset_px[0],
            sin * u + cos * v + self.centre_px + self.offset_px[1],
        )

    def to_grid(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Places on the field's grid of pixels on this epoch's frame, the inverse of `to_frame`."""
        u = np.asarray(x, dtype=np.float64) - self.centre_px - self.offset_px[0]
        v = np.asarray(y, dtype=np.float64) - self.centre_px - self.offset_px[1]
        cos, sin = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        return cos * u + sin * v + self.centre_px, -sin * u + cos * v + self.centre_px


def conditions(survey: MockSurvey, field: int, band: str, epoch: int) -> Conditions:
    """Draw the conditions of one epoch; depends on nothing but its own key."""
    rng = generator(survey.seed, "conditions", field, survey.bands.index(band), epoch)
    fwhm_px = max(2.2, survey.seeing_arcsec / survey.pixel_scale * np.exp(rng.normal(0, 0.15)))
    e1, e2 = np.clip(rng.normal(0, survey.ellipticity, 2), -0.15, 0.15)
    psf = MoffatPsf(float(fwhm_px), float(np.clip(rng.normal(3.5, 0.2), 2.8, 4.5)), float(e1), float(e2))
    transparency = 1 - 0.25 * rng.random() ** 2
    of_a_second, dark_sky = survey.light(band)
    zeropoint = of_a_second + 2.5 * np.log10(survey.exptime_s * transparency)
    sky = survey.pixel_scale**2 * survey.exptime_s * 10 ** (-0.4 * (dark_sky - of_a_second))
    sky *= 10 ** abs(rng.normal(0, _SKY_DEX))
    gradient = rng.normal(0, 0.01, 2)
    offset, rotation = rng.normal(0, survey.dither_px, 2), rng.normal(0, survey.rotation_deg)
    wcs_error = rng.normal(0, survey.wcs_error_px, 2)
    zeropoint_error = rng.normal(0, survey.zeropoint_error_mag)
    if epoch == 0:  # the first epoch's pixels are the field's grid
        offset, rotation, wcs_error = np.zeros(2), 0.0, np.zeros(2)
    return Conditions(
        survey.mjd(band, epoch),
        psf,
        float(zeropoint),
        float(sky),
        (float(gradient[0]), float(gradient[1])),
        (float(offset[0]), float(offset[1])),
        float(np.deg2rad(rotation)),
        survey.centre_px,
        (float(wcs_error[0]), float(wcs_error[1])),
        float(zeropoint_error),
    )
