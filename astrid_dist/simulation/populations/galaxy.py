"""Where the stars of the Galaxy are, what they are like, and which of them a survey sees."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.populations import quantiles
from astrid_dist.simulation.populations.planck import R_WAVELENGTH, V_WAVELENGTH, colour, dimming

Array = NDArray[np.float64]

SUN_KPC = 8.2  # GRAVITY Collaboration (2019)
#: Dust in the plane: A_V per kpc and height in kpc, typical (Spitzer 1978; Marshall et al. 2006).
DUST_MAG_PER_KPC, DUST_HEIGHT_KPC = 0.7, 0.1

#: Main sequence (Pecaut & Mamajek 2013): M_V, kelvin, and stars per pc³ and magnitude (Reid et al. 2002).
_M_V = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
_KELVIN = np.array(
    [9900.0, 9000, 8400, 7000, 6250, 5650, 5200, 4650, 4150, 3900, 3700, 3500, 3350, 3200, 3050]
)
_KELVIN = np.append(_KELVIN, [2900.0, 2750.0])
_PER_PC3 = 1e-3 * np.array([0.1, 0.25, 0.5, 1, 2, 3, 3.4, 3, 3.5, 4.5, 7, 9, 10, 8.5, 7, 5, 4])
_CELLS = 64


def disc(height_kpc: float, length_kpc: float = 2.6) -> Callable[[Array, Array], Array]:
    """Exponential disc, relative to its density at the Sun (scale length: Bland-Hawthorn & Gerhard 2016)."""

    def density(radius: Array, z: Array) -> Array:
        return np.asarray(np.exp(-(radius - SUN_KPC) / length_kpc - np.abs(z) / height_kpc))

    return density


def halo(index: float = -2.8, flattening: float = 0.7) -> Callable[[Array, Array], Array]:
    """Flattened power law, relative to its density at the Sun; that of RR Lyrae (Sesar et al. 2010)."""

    def density(radius: Array, z: Array) -> Array:
        return np.asarray((np.hypot(np.hypot(radius, z / flattening), 0.5) / SUN_KPC) ** index)

    return density


def main_sequence_kelvin(absolute_mag: ArrayLike) -> Array:
    """Effective temperature by M_V (0 to 16)."""
    return np.asarray(np.interp(np.asarray(absolute_mag, np.float64), _M_V, _KELVIN))


def to_r(v_mag: ArrayLike, kelvin: ArrayLike) -> Array:
    """Magnitude in r of a black body from that in V."""
    return np.asarray(np.asarray(v_mag, np.float64) - colour(V_WAVELENGTH, kelvin))


def stars_per_kpc3(brightest: float, faintest: float) -> float:
    """Stars near the Sun between two absolute magnitudes."""
    grid = np.linspace(brightest, faintest, 201)
    return float(np.trapezoid(np.interp(grid, _M_V, _PER_PC3), grid)) * 1e9


def main_sequence_mag(u: ArrayLike, brightest: float, faintest: float) -> Array:
    """M_V of a star of the luminosity function between two magnitudes."""
    grid = np.linspace(brightest, faintest, 201)
    return quantiles.tabulated(u, grid, np.interp(grid, _M_V, _PER_PC3))


class Seen(NamedTuple):
    """Stars as a survey of some depth sees them, (n,) each."""

    q1: Array
    """In (0, 1): the quantile of the first quantity that brightness depends on."""
    q2: Array
    distance_kpc: Array
    extinction_mag: Array
    """A_V."""
    peak_mag: Array
    """r, AB."""


@dataclass(frozen=True)
class Sightline:
    """One direction of the Galaxy, through stars of one density; a typical one for each population."""

    density: Callable[[Array, Array], Array]
    """By distance from the axis and height, kpc: relative to that at the Sun."""
    longitude_deg: float
    latitude_deg: float

    @cached_property
    def _table(self) -> tuple[Array, Array, Array, Array]:
        """Distance (kpc), A_V, what both dim in r (mag), and log of the weighted kpc³ per deg² within."""
        d = np.geomspace(1e-4, 150.0, 3001)
        lon, lat = np.radians([self.longitude_deg, self.latitude_deg])
        flat = d * np.cos(lat)
        radius = np.sqrt(np.maximum(SUN_KPC**2 + flat**2 - 2 * SUN_KPC * flat * np.cos(lon), 0.0))
        z = d * np.sin(lat)
        rise = max(abs(np.sin(lat)), 1e-9)
        dust = DUST_MAG_PER_KPC * DUST_HEIGHT_KPC / rise * -np.expm1(-d * rise / DUST_HEIGHT_KPC)
        shell = np.radians(1.0) ** 2 * d**3 * self.density(radius, z)  # per ln(d)
        step = np.diff(np.log(d)) * (shell[1:] + shell[:-1]) / 2
        volume = np.cumsum(np.append(shell[0] / 3, step))
        return d, dust, 5 * np.log10(d * 100) + dimming(R_WAVELENGTH) * dust, np.log(volume)

    def volume(self, dimming_mag: ArrayLike) -> Array:
        """kpc³ per deg² out to where light in r is dimmed by so much, weighted by density."""
        _, _, steps, log_volume = self._table
        return np.asarray(
            np.exp(np.interp(np.asarray(dimming_mag, np.float64), steps, log_volume, left=-np.inf))
        )

    def per_square_degree(
        self, per_kpc3: float, limit_mag: float, absolute: Callable[[Array, Array], Array]
    ) -> float:
        """Stars (or events) that peak above a limit, from their density at the Sun."""
        return per_kpc3 * float(_weights(self, limit_mag, absolute).mean())

    def draw(self, u: Array, limit_mag: float, absolute: Callable[[Array, Array], Array], kind: str) -> Seen:
        """Stars that peak above a limit: bright ones from farther, so that they are more of the seen.

        Parameters
        ----------
        u : (n, 3) float64
            Uniform numbers.
        limit_mag : float
            Faintest peak, r (AB).
        absolute : callable
            Peak M_r by two quantiles.
        kind : str
            Named in the error.

        Raises
        ------
        ConfigError
            None can be that bright.
        """
        weights = _weights(self, limit_mag, absolute)
        if not weights.any():
            raise ConfigError(f"no {kind} peaks above {limit_mag:g} mag: give a fainter limit")
        q1, row = quantiles.cells(u[:, 0], weights.sum(axis=1)[None], np.zeros(len(u), np.int64))
        q2, _ = quantiles.cells(u[:, 1], weights, row)
        brightest = absolute(q1, q2)
        d, dust, steps, log_volume = self._table
        # the least volume stands in for a star that its cell's middle, but not itself, can be seen from
        within = np.log(u[:, 2]) + np.interp(limit_mag - brightest, steps, log_volume)
        distance = np.exp(np.interp(within, log_volume, np.log(d)))
        extinction = np.interp(distance, d, dust)
        peak = brightest + 5 * np.log10(distance * 100) + dimming(R_WAVELENGTH) * extinction
        return Seen(q1, q2, distance, extinction, peak)


@lru_cache(maxsize=256)
def _weights(sky: Sightline, limit_mag: float, absolute: Callable[[Array, Array], Array]) -> Array:
    """(q1, q2) volume in which stars of those quantiles are seen; kept, since most draws are of few stars."""
    middle = (np.arange(_CELLS) + 0.5) / _CELLS
    q1, q2 = np.meshgrid(middle, middle, indexing="ij")
    return sky.volume(limit_mag - absolute(q1, q2))
