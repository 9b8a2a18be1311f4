"""Stars that brighten once in a while: dwarf novae, flares of M dwarfs, microlensing.

`magnitudes` are of the light that is *added* to the star's own; `quiescent` are those of the star, which is
in the template as well. Peak magnitudes are of the added light in r (SDSS, AB).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.populations import galaxy, quantiles
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.galaxy import Sightline
from astrid_dist.simulation.populations.planck import colour, columns, reddening

Array = NDArray[np.float64]

DWARF_NOVA_SKY = Sightline(galaxy.disc(0.28), 90.0, 20.0)  # height: Pala et al. 2020
FLARE_SKY = Sightline(galaxy.disc(0.3), 90.0, 60.0)
LENS_SKY = Sightline(galaxy.disc(0.3), 1.0, -3.0)


@dataclass(frozen=True, eq=False)
class Outbursts:
    """Light with the colour of one black body added to a star with that of another."""

    parameters: Mapping[str, Array]
    """With ``peak_mag``, ``quiescent_mag`` (r), ``hot_K``, ``star_K`` and ``extinction_mag``."""
    fraction: Callable[[Mapping[str, Array], Array], Array]
    """Added light over that at the peak, by (n, 1) parameters and days."""

    def __len__(self) -> int:
        return len(self.parameters["peak_mag"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB of the added light, see `Events`."""
        p = {name: value[:, None] for name, value in self.parameters.items()}
        with np.errstate(divide="ignore"):
            fainter = -2.5 * np.log10(self.fraction(p, columns(days)))
        return np.asarray(p["peak_mag"] + self._from_r(p["hot_K"], p["extinction_mag"], band) + fainter)

    def quiescent(self, band: Band) -> Array:
        """(n,) AB of the star by itself, in science and template alike."""
        p = self.parameters
        return np.asarray(p["quiescent_mag"] + self._from_r(p["star_K"], p["extinction_mag"], band))

    def _from_r(self, kelvin: Array, extinction: Array, band: Band) -> Array:
        wavelength = band.effective_wavelength
        return np.asarray(colour(wavelength, kelvin) + extinction * reddening(wavelength))

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


def _star(u: Array, m_v: tuple[float, float]) -> tuple[Array, Array]:
    """M_r and temperature of a star of the main sequence."""
    v = galaxy.main_sequence_mag(u, *m_v)
    kelvin = galaxy.main_sequence_kelvin(v)
    return galaxy.to_r(v, kelvin), kelvin


# --- dwarf novae


def dwarf_nova_curve(
    days: ArrayLike, amplitude: ArrayLike, rise: ArrayLike, plateau: ArrayLike, per_mag: ArrayLike
) -> Array:
    """Magnitudes below the outburst's maximum, of star and disc together.

    Parameters
    ----------
    days : array_like
        Since the plateau begins.
    amplitude : array_like
        From quiescence to maximum, mag.
    rise, plateau : array_like
        Days that they last.
    per_mag : array_like
        Days that the decline takes per magnitude.
    """
    t = np.asarray(days, np.float64)
    rising = -t * np.asarray(amplitude) / np.asarray(rise)
    falling = (t - np.asarray(plateau)) / np.asarray(per_mag)
    return np.asarray(np.clip(np.maximum(rising, falling), 0.0, np.asarray(amplitude)))


def _dwarf_nova_fraction(p: Mapping[str, Array], days: Array) -> Array:
    below = dwarf_nova_curve(days, p["amplitude_mag"], p["rise_d"], p["plateau_d"], p["decline_d_per_mag"])
    quiet = 10 ** (-0.4 * p["amplitude_mag"])
    # rounding must leave no light at all in quiescence
    added = np.where(below < p["amplitude_mag"], 10 ** (-0.4 * below) - quiet, 0.0)
    return np.asarray(added / (1 - quiet))


def _disc_kelvin(q2: Array) -> Array:
    return quantiles.log_even(q2, 7500.0, 14000.0)


def _dwarf_nova_mag(q1: Array, q2: Array) -> Array:
    """M_r of the added light at maximum, from M_V (Warner 1987; Patterson 2011)."""
    return galaxy.to_r(quantiles.bell(q1, 4.8, 0.8, 2.5, 7.0), _disc_kelvin(q2))


def _draw_dwarf_novae(u: Array, limit_mag: float) -> Outbursts:
    seen = DWARF_NOVA_SKY.draw(u[:, :3], limit_mag, _dwarf_nova_mag, "dwarf nova")
    amplitude = quantiles.even(u[:, 3], 2.0, 6.0)
    contrast = 10 ** (0.4 * amplitude) - 1  # added light over the star's
    parameters = {
        "amplitude_mag": amplitude,
        "rise_d": quantiles.even(u[:, 4], 0.5, 2.0),
        "plateau_d": quantiles.even(u[:, 5], 2.0, 10.0),
        "decline_d_per_mag": quantiles.even(u[:, 6], 2.0, 5.0),
        "recurrence_d": quantiles.log_even(u[:, 7], 10.0, 300.0),
        "hot_K": _disc_kelvin(seen.q2),
        "star_K": np.full(len(u), 5500.0),
        "quiescent_mag": seen.peak_mag + 2.5 * np.log10(contrast),
        "peak_mag": seen.peak_mag,
        "distance_kpc": seen.distance_kpc,
        "extinction_mag": seen.extinction_mag,
    }
    return Outbursts(parameters, _dwarf_nova_fraction)


# --- flares

_RISE = (1.0, 1.941, -0.175, -2.246, -1.125)
_DECAY = ((0.6890, 1.600), (0.3030, 0.2783))
_RISE_FLUENCE = sum((-1) ** n * c / (n + 1) for n, c in enumerate(_RISE))


def flare(t: ArrayLike) -> Array:
    """Added light over that at the peak; `t` since the peak in units of t_1/2, the width at half of it.

    Template of Davenport et al. (2014), eqs. 1 and 4, over the sum of its decay at the peak (0.992), so that
    neither side jumps there. The published fits are 0.92 of their unit wide at half the peak.
    """
    x = np.asarray(t, np.float64)
    rising = np.polynomial.polynomial.polyval(np.clip(x, -1.0, 0.0), _RISE)
    late = np.maximum(x, 0.0)
    falling = sum(c * np.exp(-k * late) for c, k in _DECAY) / _DECAY_PEAK
    return np.asarray(np.where(x < -1, 0.0, np.where(x < 0, rising, falling)))


_DECAY_PEAK = sum(c for c, _ in _DECAY)


def flare_fluence(t: ArrayLike) -> Array:
    """Integral of `flare` up to `t`, in closed form."""
    x = np.asarray(t, np.float64)
    early = np.clip(x, -1.0, 0.0)
    antiderivative = sum(c / (n + 1) * early ** (n + 1) for n, c in enumerate(_RISE))
    late = np.maximum(x, 0.0)
    decayed = sum(c / k * -np.expm1(-k * late) for c, k in _DECAY) / _DECAY_PEAK
    return np.asarray(antiderivative + _RISE_FLUENCE + decayed)


def _flare_fraction(exposure_s: float, p: Mapping[str, Array], days: Array) -> Array:
    """Mean over an exposure whose middle is given."""
    minutes = days * 1440
    half = exposure_s / 120
    until, since = ((minutes + side * half) / p["half_width_min"] for side in (1, -1))
    return np.asarray((flare_fluence(until) - flare_fluence(since)) / (until - since))


M_DWARFS = (9.0, 16.0)  # M_V
#: Peak of a flare over its star, in g: power law of energies, dN/dE ~ E^-2 (Hawley et al. 2014).
FLARE_CONTRAST, FLARE_INDEX = (0.1, 15.0), -2.0
FLARE_KELVIN = 1e4  # Kowalski et al. 2013
_G = 4800.0


def _flare_mag(q1: Array, q2: Array) -> Array:
    """M_r of the flare at its peak."""
    star, kelvin = _star(q1, M_DWARFS)
    g = star + colour(_G, kelvin)
    contrast = quantiles.power_law(q2, FLARE_INDEX, *FLARE_CONTRAST)
    return np.asarray(g - 2.5 * np.log10(contrast) - colour(_G, FLARE_KELVIN))


def _draw_flares(exposure_s: float, u: Array, limit_mag: float) -> Outbursts:
    seen = FLARE_SKY.draw(u[:, :3], limit_mag, _flare_mag, "M-dwarf flare")
    star, kelvin = _star(seen.q1, M_DWARFS)
    contrast = quantiles.power_law(seen.q2, FLARE_INDEX, *FLARE_CONTRAST)
    parameters = {
        "half_width_min": quantiles.log_even(u[:, 3], 1.0, 60.0),
        "contrast_g": contrast,
        "amplitude_mag": 2.5 * np.log10(1 + contrast),
        "hot_K": np.full(len(u), FLARE_KELVIN),
        "star_K": kelvin,
        "quiescent_mag": star + seen.peak_mag - _flare_mag(seen.q1, seen.q2),
        "peak_mag": seen.peak_mag,
        "distance_kpc": seen.distance_kpc,
        "extinction_mag": seen.extinction_mag,
    }
    return Outbursts(parameters, partial(_flare_fraction, exposure_s))


# --- microlensing


def magnification(u: ArrayLike) -> Array:
    """Of a point source by a point lens, by their separation in Einstein radii (Paczynski 1986)."""
    x = np.asarray(u, np.float64)
    return np.asarray((x**2 + 2) / (x * np.sqrt(x**2 + 4)))


def _lensed_fraction(p: Mapping[str, Array], days: Array) -> Array:
    apart = np.hypot(p["u0"], days / p["einstein_d"])
    # A - 1 without cancellation: 2 / (y (x² + 2 + y)) with y = x sqrt(x² + 4), twice over
    y = apart * np.sqrt(apart**2 + 4)
    y0 = p["u0"] * np.sqrt(p["u0"] ** 2 + 4)
    return np.asarray(y0 * (p["u0"] ** 2 + 2 + y0) / (y * (apart**2 + 2 + y)))


LENSED = (0.0, 8.0)  # M_V of the sources


def _lensed_mag(q1: Array, q2: Array) -> Array:
    """M_r of the added light at the peak; the least separation is evenly distributed from 0 to 1."""
    return np.asarray(_star(q1, LENSED)[0] - 2.5 * np.log10(magnification(q2) - 1))


def _draw_lensed(u: Array, limit_mag: float) -> Outbursts:
    seen = LENS_SKY.draw(u[:, :3], limit_mag, _lensed_mag, "microlensing")
    star, kelvin = _star(seen.q1, LENSED)
    parameters = {
        "u0": seen.q2,
        "einstein_d": 20.0 * np.exp(np.log(2.0) * quantiles.bell(u[:, 3], 0.0, 1.0)),
        "amplitude_mag": 2.5 * np.log10(magnification(seen.q2)),
        "hot_K": kelvin,
        "star_K": kelvin,
        "quiescent_mag": star + seen.peak_mag - _lensed_mag(seen.q1, seen.q2),
        "peak_mag": seen.peak_mag,
        "distance_kpc": seen.distance_kpc,
        "extinction_mag": seen.extinction_mag,
    }
    return Outbursts(parameters, _lensed_fraction)


# --- populations

#: Events per kpc³ and year near the Sun.
DWARF_NOVAE, FLARES, LENSED_STARS = (
    9e3,
    57 * galaxy.stars_per_kpc3(*M_DWARFS),
    1.5e-5 * galaxy.stars_per_kpc3(*LENSED),
)


def _dwarf_novae_per_year(limit_mag: float) -> float:
    return DWARF_NOVA_SKY.per_square_degree(DWARF_NOVAE, limit_mag, _dwarf_nova_mag)


def _flares_per_year(limit_mag: float) -> float:
    return FLARE_SKY.per_square_degree(FLARES, limit_mag, _flare_mag)


def _lensed_per_year(limit_mag: float) -> float:
    return LENS_SKY.per_square_degree(LENSED_STARS, limit_mag, _lensed_mag)


DWARF_NOVA = Population(
    kind="dwarf nova",
    description="Outbursts of discs around white dwarfs: a rise of a day, a plateau of days, a decline of "
    "2 to 5 d per magnitude, as blue as an A star (Warner 1995).",
    rate=Rate(DWARF_NOVAE, "kpc-3 yr-1", "typical: 4.8e-6 pc-3 (Pala et al. 2020), half erupting each 100 d"),
    environments={"empty": 0.7, "star": 0.2, "near star": 0.1},
    n_draws=8,
    draw=_draw_dwarf_novae,
    span_days=(-2.0, 40.0),
    expected=_dwarf_novae_per_year,
)


def m_dwarf_flare(exposure_s: float = 30.0) -> Population:
    """Flares whose light is averaged over exposures of so many seconds; ``peak_mag`` is of the moment."""
    return Population(
        kind="M-dwarf flare",
        description="Minutes to hours of 10 000 K light on a star of 3000 K: strongest in u (Davenport et "
        "al. 2014), averaged over the exposure.",
        rate=Rate(
            FLARES,
            "kpc-3 yr-1",
            "57 per star and year: 1.3 per hour and deg2 by 0.7 mag in u < 22, Kowalski et al. 2009",
        ),
        environments={"empty": 0.5, "star": 0.5},
        n_draws=4,
        draw=partial(_draw_flares, exposure_s),
        span_days=(-0.04, 0.25),
        expected=_flares_per_year,
        extras={"exposure_s": exposure_s},
    )


M_DWARF_FLARE = m_dwarf_flare()
MICROLENSING = Population(
    kind="microlensing",
    description="A star in front gathers the light of one behind, in all colours alike (Paczynski 1986), "
    "over weeks; towards the bulge.",
    rate=Rate(
        LENSED_STARS,
        "kpc-3 yr-1",
        "1.5e-5 per star and year towards the bulge (Mroz et al. 2019); stars: Reid et al. 2002",
    ),
    environments={"star": 0.7, "empty": 0.2, "near star": 0.1},
    n_draws=4,
    draw=_draw_lensed,
    span_days=(-60.0, 60.0),
    expected=_lensed_per_year,
)
POPULATIONS = (DWARF_NOVA, M_DWARF_FLARE, MICROLENSING)
