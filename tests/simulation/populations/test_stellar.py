import numpy as np
import pytest
from scipy import integrate, optimize, stats

from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.simulation.populations import stellar

N = 3000


def narrow(wavelength):
    """A band of one wavelength, Angstrom."""
    around = np.array([wavelength - 50.0, wavelength, wavelength + 50.0])
    return Band("test", f"{wavelength:g}", around, np.array([0.0, 1.0, 0.0]))


U, G, V, R = narrow(3600.0), narrow(4800.0), narrow(5500.0), narrow(6180.0)


def drawn(population, limit=20.0, n=N, seed=1):
    return population.draw(np.random.default_rng(seed).uniform(size=(n, population.n_draws)), limit)


def total(events, band, days):
    """(n, t) of star and added light together."""
    star, added = events.quiescent(band)[:, None], events.magnitudes(band, days)
    return -2.5 * np.log10(10 ** (-0.4 * star) + 10 ** (-0.4 * added))


@pytest.mark.parametrize("population", stellar.POPULATIONS, ids=lambda each: each.kind)
def test_none_peaks_fainter_than_the_limit_and_light_is_added_in_every_band(population):
    events = drawn(population, 19.0, 300)
    assert events.parameters["peak_mag"].max() <= 19.001
    for survey, name in (("lsst", "u"), ("ztf", "r"), ("meerlicht", "q")):
        magnitudes = events.magnitudes(band_of(survey, name), np.array([[0.0, 1e-3]] * 300))
        assert magnitudes.shape == (300, 2)
        assert np.isfinite(magnitudes).all()
    assert not events.motion()[0].any()
    assert sum(population.environments.values()) == pytest.approx(1.0)
    assert not population.always_there


@pytest.mark.parametrize("population", stellar.POPULATIONS, ids=lambda each: each.kind)
def test_counts_grow_with_depth_as_drawn_magnitudes_do(population):
    peak = drawn(population, 18.0, 20_000).parameters["peak_mag"]
    share = population.expected(16.0) / population.expected(18.0)
    assert np.mean(peak < 16.0) == pytest.approx(share, abs=0.02)


def test_a_dwarf_nova_rises_stays_and_declines_as_long_as_it_says():
    events = drawn(stellar.DWARF_NOVA, n=400)
    p = {name: value[:, None] for name, value in events.parameters.items()}
    # the template is of star and disc together in r
    start = total(events, R, -p["rise_d"] * np.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(start[:, 0], events.quiescent(R), atol=1e-6)
    top = start[:, 2]
    np.testing.assert_allclose(start[:, 0] - top, p["amplitude_mag"][:, 0], atol=1e-6)
    np.testing.assert_allclose(start[:, 1] - top, p["amplitude_mag"][:, 0] / 2, atol=1e-6)
    later = total(events, R, p["plateau_d"] + p["decline_d_per_mag"] * np.array([0.0, 1.0, 1.5]))
    np.testing.assert_allclose(later - top[:, None], np.broadcast_to([0.0, 1.0, 1.5], later.shape), atol=1e-6)
    assert np.isinf(events.magnitudes(R, np.array([-3.0, 200.0]))).all()


def test_dwarf_novae_have_the_amplitudes_times_and_colours_of_the_literature():
    events = drawn(stellar.DWARF_NOVA)
    p = events.parameters
    for name, low, high in (
        ("amplitude_mag", 2, 6),
        ("rise_d", 0.5, 2),
        ("plateau_d", 2, 10),
        ("decline_d_per_mag", 2, 5),
    ):
        assert stats.kstest(p[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    colour = (events.magnitudes(G, np.zeros(1)) - events.magnitudes(narrow(6200.0), np.zeros(1)))[:, 0]
    assert colour.min() > -0.25
    assert np.median(colour) < 0.15
    # Warner (1987): outbursts reach about the luminosity of the Sun
    distance = 5 * np.log10(100 * p["distance_kpc"]) + p["extinction_mag"]
    v = events.magnitudes(V, np.zeros(1))[:, 0] - distance
    assert 4.0 < np.median(v) < 5.2


def test_the_flare_template_peaks_at_one_and_is_as_wide_as_published():
    t = np.linspace(-2, 20, 220_001)
    light = stellar.flare(t)
    assert light.max() == pytest.approx(1.0, abs=1e-9)
    assert t[light.argmax()] == pytest.approx(0.0, abs=1e-3)
    # where the published polynomial and exponentials themselves cross half of their peaks
    roots = np.roots([-1.125, -2.246, -0.175, 1.941, 0.5])
    rise = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > -1) & (roots.real < 0)]
    decay = optimize.brentq(
        lambda x: 0.689 * np.exp(-1.6 * x) + 0.303 * np.exp(-0.2783 * x) - 0.992 / 2, 0, 2
    )
    np.testing.assert_allclose(t[light >= 0.5][[0, -1]], [rise.max(), decay], atol=2e-4)
    assert decay - rise.max() == pytest.approx(0.92, abs=0.005)
    assert np.abs(np.diff(light)).max() < 0.01, "no jump"
    assert not light[t < -1].any()
    assert stellar.flare(20.0) < 2e-3


def test_the_fluence_of_a_flare_is_the_integral_of_its_light():
    for until in (-0.5, 0.0, 0.7, 5.0, 60.0):
        by_steps = integrate.quad(stellar.flare, -1.0, until, points=[0.0], limit=200)[0]
        assert stellar.flare_fluence(until) == pytest.approx(by_steps, rel=1e-6)
    assert stellar.flare_fluence(-1.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("exposure_s", [15.0, 60.0, 900.0])
def test_exposures_back_to_back_hold_all_the_light_of_a_flare(exposure_s):
    events = drawn(stellar.m_dwarf_flare(exposure_s), n=60)
    p = events.parameters
    span = 3600.0 * 30
    middles = (np.arange(int(span / exposure_s)) + 0.5) * exposure_s / 86400 - 1.5 / 24
    flux = 10 ** (-0.4 * (events.magnitudes(R, middles) - p["peak_mag"][:, None]))
    fluence_min = flux.sum(axis=1) * exposure_s / 60
    np.testing.assert_allclose(fluence_min, stellar.flare_fluence(1e9) * p["half_width_min"], rtol=1e-3)
    assert flux.max() <= 1 + 1e-9
    # the longer the exposure against the flare, the less of its peak is seen
    short = p["half_width_min"] * 60 < exposure_s
    assert (flux.max(axis=1)[short] < 0.8).all()


def test_an_exposure_holds_the_light_that_falls_into_it_and_no_other():
    events = drawn(stellar.m_dwarf_flare(120.0), n=20)
    p = events.parameters
    for middle_min in (-1.3, 0.0, 0.4, 7.0):
        flux = 10 ** (-0.4 * (events.magnitudes(R, np.array([middle_min / 1440]))[:, 0] - p["peak_mag"]))
        for measured, width in zip(flux, p["half_width_min"], strict=True):
            t = np.linspace(middle_min - 1, middle_min + 1, 20_001) / width
            assert measured == pytest.approx(np.trapezoid(stellar.flare(t), t) / (t[-1] - t[0]), abs=2e-4)
    # before it begins and long after there is no light, and no rounding that looks like some
    assert np.isinf(events.magnitudes(R, np.array([-1.0, 10.0]))).all()


def test_flares_are_blue_last_minutes_and_follow_the_power_law_of_energies():
    events = drawn(stellar.M_DWARF_FLARE, 23.0)
    p = events.parameters
    assert stats.kstest(np.log(p["half_width_min"]), stats.uniform(0, np.log(60)).cdf).pvalue > 1e-3
    assert p["contrast_g"].min() >= 0.1
    assert p["contrast_g"].max() <= 15.0
    now = np.zeros(1)
    rise = {
        band.name: events.quiescent(band) - total(events, band, now)[:, 0] for band in (U, G, narrow(7600.0))
    }
    assert (rise["3600"] > rise["4800"]).all()
    assert (rise["4800"] > rise["7600"]).all()
    assert 4.0 < rise["3600"].max() < 6.0
    # drawn without a limit that bites, contrasts are as frequent as contrast^-2
    every = stellar.quantiles.power_law(np.random.default_rng(1).uniform(size=N), -2.0, 0.1, 15.0)
    assert np.mean(every > 1.0) == pytest.approx((1 - 1 / 15) / (10 - 1 / 15), abs=0.02)


def test_flares_are_as_frequent_as_sdss_saw():
    """Kowalski et al. (2009): 1.3 per hour and square degree by at least 0.7 mag in u < 22."""
    exposure = stellar.m_dwarf_flare(0.1)
    events = drawn(exposure, 25.0, 20_000)
    star, bright = events.quiescent(U), total(events, U, np.zeros(1))[:, 0]
    seen = (star - bright > 0.7) & (bright < 22.0)
    assert exposure.expected(25.0) * seen.mean() / 8766 == pytest.approx(1.3, rel=0.1)


def test_a_lens_magnifies_by_paczynskis_formula_in_all_bands_alike():
    assert stellar.magnification(1.0) == pytest.approx(3 / np.sqrt(5))
    assert stellar.magnification(0.01) == pytest.approx(100.0, rel=1e-3)
    events = drawn(stellar.MICROLENSING, n=500)
    p = {name: value[:, None] for name, value in events.parameters.items()}
    days = np.array([-40.0, -3.0, 0.0, 10.0])
    expected = stellar.magnification(np.hypot(p["u0"], days / p["einstein_d"]))
    for wavelength in (3600.0, 6200.0, 9000.0):
        band = narrow(wavelength)
        ratio = 10 ** (0.4 * (events.quiescent(band)[:, None] - total(events, band, days)))
        np.testing.assert_allclose(ratio, expected, rtol=1e-6)


def test_lensing_lasts_for_weeks_symmetrically_and_at_random_separations():
    events = drawn(stellar.MICROLENSING)
    days = np.linspace(1, 50, 20)
    np.testing.assert_allclose(events.magnitudes(R, -days), events.magnitudes(R, days))
    logarithm = np.log(events.parameters["einstein_d"])
    assert logarithm.mean() == pytest.approx(np.log(20.0), abs=0.05)
    assert logarithm.std() == pytest.approx(np.log(2.0), abs=0.03)
    # a survey that sees all stars of the sightline sees separations from 0 to 1 evenly
    deep = drawn(stellar.MICROLENSING, 40.0).parameters["u0"]
    assert stats.kstest(deep, stats.uniform(0, 1).cdf).pvalue > 1e-3
    # a shallow one sees close passages, which are brighter
    assert np.median(events.parameters["u0"]) < 0.35
