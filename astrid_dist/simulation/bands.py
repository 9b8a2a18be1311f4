"""Photometric bands of surveys: filter curves and what follows from them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.surveys.profile import Profile, load_profile

Array = NDArray[np.float64]

#: Angstrom per second.
C_ANGSTROM = 2.99792458e18

_STEP = 10.0  # Angstrom between the samples of a curve
_LEAK = 1e-3  # of the highest throughput; less is left out at both ends


@dataclass(frozen=True, eq=False)
class Band:
    """A filter's throughput.

    Bands are made by `band_of` once and kept: they compare by identity, so they can key a cache of grids.
    """

    survey: str
    name: str
    wavelength: Array
    """Angstrom, increasing."""
    throughput: Array
    """Of photons, any scale."""

    @cached_property
    def effective_wavelength(self) -> float:
        """Mean wavelength of detected photons from a flat spectrum, Angstrom."""
        weight = self.throughput / self.wavelength
        return float(
            np.trapezoid(weight * self.wavelength, self.wavelength) / np.trapezoid(weight, self.wavelength)
        )

    @cached_property
    def photon_weights(self) -> Array:
        """Weights, of unit sum, that make the mean f_nu of a source from f_nu at `wavelength`."""
        step = np.gradient(self.wavelength)
        step[[0, -1]] /= 2
        weights = self.throughput / self.wavelength * step
        return np.asarray(weights / weights.sum())


def band_of(profile: Profile | str, name: str) -> Band:
    """A band of a survey, the same object each time.

    Parameters
    ----------
    profile : Profile or str
        A survey's profile, or what `load_profile` takes.
    name : str
        Key of its `filters`.

    Raises
    ------
    ConfigError
        The survey has no such band, or its curve is none that speclite brings.
    """
    survey = load_profile(profile) if isinstance(profile, str) else profile
    if name not in survey.filters:
        known = ", ".join(survey.filters) or "none"
        raise ConfigError(
            f"survey {survey.name!r} has no filter curve for band {name!r}; bands with one are {known}; "
            "add it to `filters` of the profile"
        )
    return _band(survey.name, name, survey.filters[name])


@lru_cache(maxsize=16)
def reference_band(name: str = "r") -> Band:
    """Band of SDSS in which populations state luminosities and the faintest peak of interest."""
    return band_of("generic", name)


@lru_cache(maxsize=256)
def _band(survey: str, name: str, curve: str | tuple[float, float, float, float]) -> Band:
    known, throughput = _curve(survey, name, curve) if isinstance(curve, str) else _trapezoid(curve)
    high = np.flatnonzero(throughput > _LEAK * throughput.max())
    first, last = known[max(high[0] - 1, 0)], known[min(high[-1] + 1, len(known) - 1)]
    wavelength = np.linspace(first, last, round((last - first) / _STEP) + 1)
    return Band(survey, name, wavelength, np.interp(wavelength, known, throughput))


def _trapezoid(corners: tuple[float, float, float, float]) -> tuple[Array, Array]:
    return np.array(corners), np.array([0.0, 1.0, 1.0, 0.0])


def _curve(survey: str, name: str, curve: str) -> tuple[Array, Array]:
    from speclite import filters

    try:
        loaded = filters.load_filter(curve)
    except ValueError as error:
        raise ConfigError(
            f"band {name!r} of survey {survey!r}: speclite has no filter curve {curve!r} ({error}); "
            "give another name, or the four corners of a trapezoid in Angstrom"
        ) from error
    return np.asarray(loaded.wavelength, np.float64), np.asarray(loaded.response, np.float64)


def ab_magnitudes(band: Band, wavelength: Array, flux: Array) -> Array:
    """Synthetic AB magnitudes of spectra (Bessell & Murphy 2012, eq. A15).

    Parameters
    ----------
    band : Band
    wavelength : (k,) float64
        Angstrom, increasing.
    flux : (..., k) float64
        f_lambda in erg/s/cm2/Angstrom, linear between the wavelengths.

    Returns
    -------
    (...) float64
        Infinite where there is no light.

    Raises
    ------
    InputError
        The spectra do not cover the band.
    """
    if wavelength[0] > band.wavelength[0] or wavelength[-1] < band.wavelength[-1]:
        raise InputError(
            f"spectra from {wavelength[0]:g} to {wavelength[-1]:g} Angstrom do not cover {band.name!r} of "
            f"{band.survey!r}, {band.wavelength[0]:g} to {band.wavelength[-1]:g}; extend them"
        )
    left = np.clip(np.searchsorted(wavelength, band.wavelength, "right") - 1, 0, len(wavelength) - 2)
    part = (band.wavelength - wavelength[left]) / (wavelength[left + 1] - wavelength[left])
    weights = band.photon_weights * band.wavelength**2 / C_ANGSTROM  # f_nu = f_lambda lambda^2 / c
    on_spectrum = np.zeros(len(wavelength))
    np.add.at(on_spectrum, left, weights * (1 - part))
    np.add.at(on_spectrum, left + 1, weights * part)
    with np.errstate(divide="ignore"):
        return np.asarray(-2.5 * np.log10(np.maximum(flux @ on_spectrum, 0.0)) - 48.6)
