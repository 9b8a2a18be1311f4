"""Eclipsing binaries: two round stars that hide each other.

Peak magnitudes are those out of eclipse, r (SDSS, AB), depths are in V; phases are random.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.populations import galaxy, quantiles
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.galaxy import Sightline
from astrid_dist.simulation.populations.planck import (
    R_WAVELENGTH,
    V_WAVELENGTH,
    brightness,
    colour,
    columns,
    reddening,
)

Array = NDArray[np.float64]

M_V = (1.0, 7.5)  # of both stars together
SKY = Sightline(galaxy.disc(0.3), 90.0, 20.0)


def overlap(distance: ArrayLike, radius_1: ArrayLike, radius_2: ArrayLike) -> Array:
    """Area that two discs share, by the distance of their centres."""
    d, a, b = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (distance, radius_1, radius_2)))
    safe = np.maximum(d, 1e-12)
    angle_a = np.arccos(np.clip((d**2 + a**2 - b**2) / (2 * safe * a), -1, 1))
    angle_b = np.arccos(np.clip((d**2 + b**2 - a**2) / (2 * safe * b), -1, 1))
    lens = a**2 * (angle_a - np.sin(2 * angle_a) / 2) + b**2 * (angle_b - np.sin(2 * angle_b) / 2)
    inside = np.pi * np.minimum(a, b) ** 2
    return np.asarray(np.where(d >= a + b, 0.0, np.where(d <= np.abs(a - b), inside, lens)))


@dataclass(frozen=True, eq=False)
class Binaries:
    """Two round stars of even brightness on a circular orbit; phase 0 hides the first, the hotter."""

    parameters: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.parameters["period_d"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB, see `Events`."""
        p = {name: value[:, None] for name, value in self.parameters.items()}
        wavelength = band.effective_wavelength
        cycle = p["phase"] + columns(days) / p["period_d"]
        light_1, light_2 = _two_lights(p, wavelength)
        light_r = np.add(*_two_lights(p, R_WAVELENGTH))
        outside = p["peak_mag"] + colour(wavelength, p["temperature_K"])
        outside = outside - 2.5 * np.log10((light_1 + light_2) / light_r)
        outside = outside + p["extinction_mag"] * reddening(wavelength)
        return np.asarray(outside - 2.5 * np.log10(_left(p, cycle, light_1, light_2)))

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


def _two_lights(p: Mapping[str, Array], wavelength: float) -> tuple[Array, Array]:
    """Light of either star, where the first's surface has unit brightness."""
    hot, cool = p["temperature_K"], p["temperature_K"] * p["temperature_ratio"]
    surface = brightness(wavelength, cool) / brightness(wavelength, hot)
    return np.pi * p["radius_1"] ** 2, np.pi * p["radius_2"] ** 2 * surface


def _left(p: Mapping[str, Array], cycle: Array, light_1: Array, light_2: Array) -> Array:
    """Part of the light that is seen."""
    angle = 2 * np.pi * cycle
    apart = np.sqrt(np.sin(angle) ** 2 + (np.cos(angle) * p["cos_inclination"]) ** 2)
    hidden = overlap(apart, p["radius_1"], p["radius_2"])
    first_behind = np.cos(angle) > 0
    area = np.pi * np.where(first_behind, p["radius_1"], p["radius_2"]) ** 2
    lost = np.where(first_behind, light_1, light_2) * hidden / area
    return np.asarray(1 - lost / (light_1 + light_2))


def _kelvin(q1: Array) -> Array:
    return galaxy.main_sequence_kelvin(galaxy.main_sequence_mag(q1, *M_V))


def _binary_mag(q1: Array, _: Array) -> Array:
    """M_r of both stars together, out of eclipse."""
    return galaxy.to_r(galaxy.main_sequence_mag(q1, *M_V), _kelvin(q1))


def _draw_binaries(u: Array, limit_mag: float) -> Binaries:
    seen = SKY.draw(u[:, :3], limit_mag, _binary_mag, "eclipsing binary")
    # close pairs, of short periods, are eclipsed for a longer part of the orbit
    width = quantiles.log_even((1 - u[:, 3] + u[:, 4]) / 2, 0.02, 0.2)
    reach = np.sin(np.pi * width)  # both radii, in units of the orbit's: first contact of a central eclipse
    ratio = quantiles.even(u[:, 5], 0.4, 1.0)
    p = {
        "period_d": quantiles.log_even(u[:, 3], 0.2, 100.0),
        "width_phase": width,
        "radius_1": reach / (1 + ratio),
        "radius_2": reach * ratio / (1 + ratio),
        "cos_inclination": reach * quantiles.even(u[:, 6], 0.0, 0.7),
        "temperature_K": _kelvin(seen.q1),
        "temperature_ratio": quantiles.even(u[:, 7], 0.8, 1.0),
        "phase": u[:, 8],
        "peak_mag": seen.peak_mag,
        "distance_kpc": seen.distance_kpc,
        "extinction_mag": seen.extinction_mag,
    }
    depth = -2.5 * np.log10(_left(p, np.zeros(len(u)), *_two_lights(p, V_WAVELENGTH)))
    return Binaries({**p, "amplitude_mag": depth})


PER_KPC3 = 0.015 * galaxy.stars_per_kpc3(*M_V)


def _per_square_degree(limit_mag: float) -> float:
    return SKY.per_square_degree(PER_KPC3, limit_mag, _binary_mag)


ECLIPSING_BINARY = Population(
    kind="eclipsing binary",
    description="Pairs of main-sequence stars that hide each other for 2 to 20 % of a period "
    "between 0.2 and 100 d (Prsa et al. 2011): two round discs of black bodies.",
    rate=Rate(PER_KPC3, "kpc-3", "1.5 % of stars: Prsa et al. 2011; stars: Reid et al. 2002"),
    environments={"empty": 0.85, "near star": 0.15},
    n_draws=9,
    draw=_draw_binaries,
    span_days=(0.0, 3652.5),
    always_there=True,
    present=_per_square_degree,
)
