import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.simulation.bands import C_ANGSTROM, ab_magnitudes, band_of, reference_band
from astrid_dist.surveys.profile import load_profile, profile_names

WAVELENGTH = np.arange(3000.0, 12001.0, 5.0)
BANDS = [(name, band) for name in profile_names() for band in load_profile(name).filters]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a filter curve must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("survey", "name"), BANDS)
def test_every_band_of_every_survey_measures_a_flat_spectrum(survey, name, no_network):
    band = band_of(survey, name)
    assert (np.diff(band.wavelength) > 0).all()
    assert (band.throughput >= 0).all()
    assert band.wavelength[0] < band.effective_wavelength < band.wavelength[-1]
    # 3631 Jy at every frequency is magnitude zero (Oke & Gunn 1983)
    flat = 10 ** (-0.4 * 48.6) * C_ANGSTROM / WAVELENGTH**2
    assert ab_magnitudes(band, WAVELENGTH, flat) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("survey", "name", "angstrom"),
    [
        ("decam", "g", 4810),
        ("lsst", "r", 6249),
        ("ps1", "z", 8690),
        ("ztf", "g", 4784),
        ("generic", "r", 6206),
    ],
)
def test_effective_wavelengths_are_those_published(survey, name, angstrom):
    assert band_of(survey, name).effective_wavelength == pytest.approx(angstrom, rel=0.012)


def test_magnitudes_agree_with_sncosmo_on_a_steep_spectrum_with_a_break():
    import sncosmo

    band = band_of("lsst", "i")
    flux = 1e-15 * (WAVELENGTH / 5000) ** -3 * np.where(WAVELENGTH < 7500, 1.0, 0.4)
    spectrum = sncosmo.Spectrum(WAVELENGTH, flux)
    curve = sncosmo.Bandpass(band.wavelength, band.throughput)
    assert ab_magnitudes(band, WAVELENGTH, flux) == pytest.approx(spectrum.bandmag(curve, "ab"), abs=0.003)


@given(st.floats(-30, -5), st.floats(-4, 4))
def test_twice_the_light_is_three_quarters_of_a_magnitude_and_none_is_infinite(log_flux, slope):
    flux = 10**log_flux * (WAVELENGTH / 6000) ** slope
    once, twice, dark = ab_magnitudes(reference_band(), WAVELENGTH, np.stack([flux, 2 * flux, 0 * flux]))
    assert once - twice == pytest.approx(2.5 * np.log10(2))
    assert dark == np.inf


def test_a_band_is_made_once_so_that_it_can_key_a_cache():
    assert band_of("decam", "g") is band_of(load_profile("decam"), "g")
    assert band_of("decam", "g") is not band_of("decam", "r")


def test_an_unknown_band_names_those_there_are():
    with pytest.raises(
        ConfigError, match=r"'ztf' has no filter curve for band 'y'; bands with one are g, r, i"
    ):
        band_of("ztf", "y")


def test_an_unknown_curve_says_where_it_stands():
    profile = load_profile("generic").model_copy(update={"filters": {"V": "nonsense-V"}})
    with pytest.raises(ConfigError, match="band 'V' of survey 'generic': speclite has no filter curve"):
        band_of(profile, "V")


def test_a_spectrum_that_ends_within_the_band_is_refused():
    with pytest.raises(InputError, match="do not cover 'r'"):
        ab_magnitudes(reference_band(), WAVELENGTH[:500], np.ones(500))
