"""Bodies of the solar system: asteroids by dynamical class, comets.

They are seen near opposition and near the ecliptic. Peak magnitudes are in r (SDSS, AB) at the
brightest of the rotation; the reference moment is the middle of a night.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.populations import quantiles
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.planck import R_WAVELENGTH, V_WAVELENGTH, colour, columns

Array = NDArray[np.float64]

SUN_KELVIN = 5778.0
DEG_PER_DAY = 150.0  # arcsec per hour
ECLIPTIC_TILT_DEG = 23.44


@dataclass(frozen=True)
class Orbits:
    """Bodies whose orbits are alike; numbers are typical."""

    name: str
    one_per_deg2_mag: float
    """V down to which one square degree of ecliptic holds one."""
    slope: float
    """Of the logarithm of their number by magnitude."""
    speed_deg_per_day: tuple[float, float]
    scatter_deg: float
    """Of the direction of motion about the ecliptic, rms."""
    redness: tuple[float, float]
    """Least and largest gain of reflectance per 1000 Angstrom."""

    def per_square_degree(self, limit_mag: float) -> float:
        """Brighter than a limit (r), where they are as red as the Sun."""
        v = limit_mag + float(colour(V_WAVELENGTH, SUN_KELVIN))
        return float(10 ** (self.slope * (v - self.one_per_deg2_mag)))


#: Position in this tuple is the ``orbit`` of an asteroid. Main belt: Gladman et al. (2009); Trojans: Yoshida
#: & Nakamura (2005); beyond Neptune: Fraser et al. (2008); near the Earth: Heinze et al. (2021).
ASTEROIDS = (
    Orbits("main belt", 15.7, 0.30, (0.1, 0.3), 8.0, (0.0, 0.12)),
    Orbits("Hilda or Trojan", 19.5, 0.40, (0.05, 0.15), 8.0, (0.06, 0.12)),
    Orbits("trans-Neptunian", 23.6, 0.65, (0.005, 0.03), 10.0, (0.05, 0.35)),
    Orbits("near Earth", 23.0, 0.35, (0.5, 20.0), 180.0, (0.0, 0.12)),
)
COMETS = Orbits("comet", 27.5, 0.30, (0.05, 1.0), 60.0, (0.0, 0.12))
BRIGHTEST_MAG = 8.0


@dataclass(frozen=True, eq=False)
class Bodies:
    """Sunlight from turning bodies, on the move."""

    parameters: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.parameters["peak_mag"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB, see `Events`: two maxima in each rotation."""
        p = {name: value[:, None] for name, value in self.parameters.items()}
        wavelength = band.effective_wavelength
        reflected = 1 + p["redness"] * (wavelength - R_WAVELENGTH) / 1000
        turned = 4 * np.pi * (columns(days) / p["period_d"] + p["phase"])
        dimmer = p["amplitude_mag"] / 2 * (1 - np.cos(turned))
        tint = colour(wavelength, SUN_KELVIN) - 2.5 * np.log10(np.maximum(reflected, 0.1))
        return np.asarray(p["peak_mag"] + tint + dimmer)

    def motion(self) -> tuple[Array, Array]:
        """(n,) arcsec per hour towards east and north."""
        p = self.parameters
        angle = np.radians(p["position_angle_deg"])
        return p["speed_arcsec_per_h"] * np.sin(angle), p["speed_arcsec_per_h"] * np.cos(angle)


def trail_arcsec(speed_arcsec_per_h: ArrayLike, exptime_s: ArrayLike) -> Array:
    """Length of the trail that a body leaves in an exposure."""
    return np.asarray(speed_arcsec_per_h, np.float64) * np.asarray(exptime_s, np.float64) / 3600


def _moving(u: Array, orbits: tuple[Orbits, ...], limit_mag: float) -> dict[str, Array]:
    """What asteroids and comets have in common, from (n, 7) uniform numbers."""
    counts = np.array([orbit.per_square_degree(limit_mag) for orbit in orbits])
    which = np.searchsorted(np.cumsum(counts / counts.sum())[:-1], u[:, 0], side="right")
    slope = np.array([orbit.slope for orbit in orbits])[which]
    speed = np.array([orbit.speed_deg_per_day for orbit in orbits])[which]
    redness = np.array([orbit.redness for orbit in orbits])[which]
    scatter = np.array([orbit.scatter_deg for orbit in orbits])[which]
    # number grows as 10^(slope m): its inverse, cut off where there is none
    cut = 10 ** (slope * (min(BRIGHTEST_MAG, limit_mag - 1) - limit_mag))
    # westwards along the ecliptic, whose direction on the sky turns by its tilt over the year
    ecliptic = 270.0 + ECLIPTIC_TILT_DEG * np.sin(2 * np.pi * u[:, 3])
    return {
        "orbit": which.astype(np.float64),
        "peak_mag": limit_mag + np.log10(cut + (1 - cut) * u[:, 1]) / slope,
        "speed_arcsec_per_h": DEG_PER_DAY * speed[:, 0] * (speed[:, 1] / speed[:, 0]) ** u[:, 2],
        "position_angle_deg": np.mod(ecliptic + quantiles.bell(u[:, 4], 0.0, scatter), 360.0),
        "redness": quantiles.even(u[:, 5], redness[:, 0], redness[:, 1]),
        "phase": u[:, 6],
    }


def _draw_asteroids(u: Array, limit_mag: float) -> Bodies:
    return Bodies(
        {
            **_moving(u, ASTEROIDS, limit_mag),
            "amplitude_mag": quantiles.even(u[:, 7], 0.05, 0.4),
            "period_d": quantiles.log_even(u[:, 8], 3 / 24, 20 / 24),
        }
    )


def coma_share(radius: ArrayLike, coma_radius: ArrayLike) -> Array:
    """Part of a coma's light within a radius: it is as bright as 1 / rho out to where it ends.

    Light leaves a comet at an even speed (A'Hearn et al. 1984), so that every ring of the same width holds as
    much: the share grows with the radius itself.
    """
    return np.clip(np.asarray(radius, np.float64) / np.asarray(coma_radius, np.float64), 0.0, 1.0)


def _draw_comets(u: Array, limit_mag: float) -> Bodies:
    nucleus = quantiles.log_even(u[:, 7], 0.05, 0.5)
    tail = quantiles.even(u[:, 8], 0.0, 0.4) * (1 - nucleus)
    moving = _moving(u, (COMETS,), limit_mag)
    return Bodies(
        {
            **moving,
            "nucleus_fraction": nucleus,
            "tail_fraction": tail,
            "coma_fraction": 1 - nucleus - tail,
            "coma_radius_arcsec": quantiles.log_even(u[:, 9], 3.0, 30.0),
            "tail_length_arcsec": quantiles.log_even(u[:, 10], 10.0, 60.0),
            "tail_angle_deg": 360 * u[:, 11],
            "amplitude_mag": np.zeros(len(u)),
            "period_d": np.ones(len(u)),
        }
    )


def _asteroids_per_square_degree(limit_mag: float) -> float:
    return sum(orbits.per_square_degree(limit_mag) for orbits in ASTEROIDS)


ASTEROID = Population(
    kind="asteroid",
    description="Main-belt bodies, Hildas and Trojans, trans-Neptunian and near-Earth ones in proportion to "
    "their counts: sunlight on grey to red surfaces, in trails as long as speed times exposure.",
    rate=Rate(_asteroids_per_square_degree(20.0), "deg-2", "on the ecliptic, r < 20; sources at `ASTEROIDS`"),
    environments={"empty": 0.85, "near star": 0.1, "star": 0.05},
    n_draws=9,
    draw=_draw_asteroids,
    span_days=(-0.25, 0.25),
    present=_asteroids_per_square_degree,
)
COMET = Population(
    kind="comet",
    description="A nucleus in a coma whose light falls as one over the distance from it, and a tail away "
    "from the Sun, which may lie anywhere.",
    rate=Rate(COMETS.per_square_degree(20.0), "deg-2", "r < 20; typical: some two hundred on the whole sky"),
    environments={"empty": 0.9, "near star": 0.1},
    n_draws=12,
    draw=_draw_comets,
    span_days=(-0.25, 0.25),
    present=COMETS.per_square_degree,
    extras={"coma_radius_arcsec": 10.0, "tail_length_arcsec": 30.0},
)
POPULATIONS = (ASTEROID, COMET)
