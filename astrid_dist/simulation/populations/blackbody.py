"""Events that shine as a blackbody: brightness in one band of the rest frame, temperature for the others.

A blackbody of T at redshift z looks like one of T / (1 + z), so its K-correction needs no template.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import Band, reference_band
from astrid_dist.simulation.populations.base import Rate
from astrid_dist.simulation.populations.cosmology import distance_modulus
from astrid_dist.simulation.populations.demography import Demography, Excess, Luminosity
from astrid_dist.simulation.populations.sed_grid import bilinear, extinction

Array = NDArray[np.float64]

_HC_K = 1.438776877e8
"""h c / k, Angstrom kelvin."""
_COLDEST, _HOTTEST, _N_TEMPERATURE = 800.0, 80000.0, 128
_LOG_Z_TOP, _N_Z = np.log(5.0), 64


@dataclass(frozen=True)
class Spectrum:
    """Of a population: where its luminosity is known, and what dims its ultraviolet."""

    rest: str
    """SDSS band of the rest frame in which absolute magnitudes and light curves are meant."""
    cutoff: float = 0.0
    """Angstrom; bluer light falls as wavelength / cutoff (Nicholl et al. 2017, eq. 11): metal lines."""
    r_v: float = 2.0
    """Of the host's dust."""

    def colour(self, band: Band, z: Array, temperature: Array) -> Array:
        """Observed magnitude in `band` less distance modulus and absolute magnitude, (n, t)."""
        rows = np.log1p(z) / _LOG_Z_TOP * (_N_Z - 1)
        step = np.log(_HOTTEST / _COLDEST) / (_N_TEMPERATURE - 1)
        return np.asarray(bilinear(_grid(self, band), rows, np.log(temperature / _COLDEST) / step))


def emission(wavelength: Array, temperature: Array, cutoff: float) -> Array:
    """f_nu of a blackbody, any scale, with its ultraviolet dimmed; wavelength in Angstrom."""
    dimming = np.minimum(wavelength / cutoff, 1.0) if cutoff else 1.0
    return np.asarray(dimming / wavelength**3 / np.expm1(_HC_K / (wavelength * temperature)))


@lru_cache(maxsize=512)
def _grid(spectrum: Spectrum, band: Band) -> Array:
    """(z, temperature) K-correction with colour."""
    temperature = np.geomspace(_COLDEST, _HOTTEST, _N_TEMPERATURE)
    rest = reference_band(spectrum.rest)
    at_rest = emission(rest.wavelength, temperature[:, None], spectrum.cutoff) @ rest.photon_weights
    grid = np.empty((_N_Z, _N_TEMPERATURE))
    for row, stretch in enumerate(np.exp(np.linspace(0, _LOG_Z_TOP, _N_Z))):
        light = emission(band.wavelength / stretch, temperature[:, None], spectrum.cutoff)
        grid[row] = -2.5 * np.log10(stretch * (light @ band.photon_weights) / at_rest)
    return grid


#: From (n, t) days of the rest frame since the peak to flux, 1 at day 0 and 0 before the first light, and
#: temperature in kelvin.
Curve = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Glows:
    """n events of one population."""

    parameters: Mapping[str, Array]
    """``z``, ``absolute_mag`` in the band of `spectrum`, ``excess`` (host's E(B-V)), ``peak_mag``, more."""
    spectrum: Spectrum
    curve: Curve

    def __len__(self) -> int:
        return len(self.parameters["z"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB magnitudes in any band; see `Events`."""
        z = self.parameters["z"]
        level = distance_modulus(z) + self.parameters["absolute_mag"]
        level += self.parameters["excess"] * extinction(band, z, self.spectrum.r_v)
        with np.errstate(divide="ignore", invalid="ignore"):  # darkness, and days that are not known
            flux, temperature = self.curve(np.atleast_2d(days) / (1 + z[:, None]))
            fading = -2.5 * np.log10(flux)
        return np.asarray(level[:, None] + fading + self.spectrum.colour(band, z, temperature))

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


@dataclass(frozen=True, eq=False)
class Shape:
    """What an event's light curve looks like, before it is known how far and how bright it is."""

    parameters: Mapping[str, Array]
    """(n,) each."""
    curve: Curve


@dataclass(frozen=True, eq=False)
class Glowing:
    """A population of such events in the volume of the Universe."""

    rate: Rate
    luminosity: Luminosity
    spectrum: Spectrum
    excess: Excess
    peak_temperature: float
    """Of a usual event, kelvin: for how far they are seen."""
    shapes: Callable[[Array], Shape]
    """From (n, draws) uniform numbers."""

    def demography(self) -> Demography:
        return _demography(self)

    def draw(self, uniform: Array, limit: float) -> Glows:
        """(n, 3 + draws of a shape) uniform numbers to n events that peak brighter than `limit`."""
        band = reference_band()
        shape = self.shapes(uniform[:, 3:])
        z, excess = self.demography().draw(uniform[:, :2], limit)
        _, temperature = shape.curve(np.zeros((len(z), 1)))
        above = distance_modulus(z) + self.spectrum.colour(band, z, temperature)[:, 0]
        above += excess * extinction(band, z, self.spectrum.r_v)
        absolute = self.luminosity.draw(uniform[:, 2], limit - above)
        known = {"z": z, "peak_mag": absolute + above, "absolute_mag": absolute, "excess": excess}
        return Glows({**known, **shape.parameters}, self.spectrum, shape.curve)

    def per_deg2_year(self, limit: float) -> float:
        """Events that peak brighter than `limit` (AB, reference band), per square degree and year."""
        return self.demography().per_deg2_year(limit)


@lru_cache(maxsize=64)
def _demography(glowing: Glowing) -> Demography:
    band, spectrum = reference_band(), glowing.spectrum

    def peak(z: Array, excess: Array) -> Array:
        flat = z.ravel()
        colour = spectrum.colour(band, flat, np.full((len(flat), 1), glowing.peak_temperature))
        dust = excess * extinction(band, z, spectrum.r_v)
        return np.asarray(distance_modulus(z) + colour.reshape(z.shape) + dust)

    return Demography(glowing.rate, glowing.luminosity, glowing.excess, peak)
