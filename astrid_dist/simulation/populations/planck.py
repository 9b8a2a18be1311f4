"""Colours of black bodies and how dust reddens them, by effective wavelength, against r."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Angstrom. Limits and peak magnitudes of stars, nuclei and moving bodies are given in r of SDSS (AB).
R_WAVELENGTH = 6180.0
V_WAVELENGTH = 5500.0
_HC_OVER_K = 1.438776877e8  # Angstrom kelvin


def brightness(wavelength: float, temperature: ArrayLike) -> Array:
    """Planck's B_nu of a surface, any scale: wavelength in Angstrom, temperature in kelvin."""
    x = _HC_OVER_K / (wavelength * np.asarray(temperature, np.float64))
    return np.asarray((R_WAVELENGTH / wavelength) ** 3 / np.expm1(x))


def colour(wavelength: float, temperature: ArrayLike) -> Array:
    """AB magnitude at a wavelength (Angstrom) minus that in r, of a black body (kelvin)."""
    ratio = brightness(wavelength, temperature) / brightness(R_WAVELENGTH, temperature)
    return np.asarray(-2.5 * np.log10(ratio))


def dimming(wavelength: float) -> float:
    """A(wavelength) / A_V of diffuse dust: a power law of -1.3, near Cardelli et al. (1989)."""
    return float((wavelength / V_WAVELENGTH) ** -1.3)


def reddening(wavelength: float) -> float:
    """Extinction at a wavelength beyond that in r, over A_V."""
    return dimming(wavelength) - dimming(R_WAVELENGTH)


def columns(days: ArrayLike) -> Array:
    """Days (t,) or (n, t) as (1, t) or (n, t)."""
    return np.atleast_2d(np.asarray(days, dtype=np.float64))
