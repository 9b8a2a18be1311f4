import numpy as np
import pytest
from scipy import stats

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.simulation.populations import eclipsing, galaxy, periodic, quantiles
from astrid_dist.simulation.populations.galaxy import Sightline

N = 3000


def narrow(wavelength):
    """A band of one wavelength, Angstrom."""
    around = np.array([wavelength - 50.0, wavelength, wavelength + 50.0])
    return Band("test", f"{wavelength:g}", around, np.array([0.0, 1.0, 0.0]))


V, R = narrow(5500.0), narrow(6180.0)


def drawn(population, limit=20.0, n=N, seed=1):
    return population.draw(np.random.default_rng(seed).uniform(size=(n, population.n_draws)), limit)


def one_cycle(events, band, steps=400):
    """(n, steps) magnitudes from minimum light, or mid-eclipse, on."""
    p = events.parameters
    phase = np.arange(steps) / steps
    return events.magnitudes(band, (phase - p["phase"][:, None]) * p["period_d"][:, None])


@pytest.mark.parametrize("population", periodic.POPULATIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize("limit", [14.0, 17.0, 22.0])
def test_none_peaks_fainter_than_the_limit_and_the_peak_is_what_the_light_curve_reaches(population, limit):
    events = drawn(population, limit, 500)
    peak = events.parameters["peak_mag"]
    assert peak.max() <= limit + 1e-3
    np.testing.assert_allclose(one_cycle(events, R).min(axis=1), peak, atol=0.01)
    assert all(len(value) == 500 and np.isfinite(value).all() for value in events.parameters.values())
    assert sum(population.environments.values()) == pytest.approx(1.0)
    east, north = events.motion()
    assert not east.any()
    assert not north.any()


@pytest.mark.parametrize("population", periodic.POPULATIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize(("survey", "name"), [("lsst", "u"), ("ztf", "g"), ("meerlicht", "q"), ("ps1", "z")])
def test_every_band_of_a_survey_has_a_light_curve_that_repeats(population, survey, name):
    events = drawn(population, n=40)
    days = np.array([3.0, 700.0])
    band = band_of(survey, name)
    now = events.magnitudes(band, days)
    assert now.shape == (40, 2)
    later = events.magnitudes(band, days + 5 * events.parameters["period_d"][:, None])
    np.testing.assert_allclose(later, now, atol=1e-6)
    assert np.isfinite(now).all()


def test_three_of_four_rr_lyrae_have_long_periods_large_amplitudes_and_a_fast_rise():
    p = drawn(periodic.RR_LYRAE).parameters
    overtone = p["period_d"] < periodic.OVERTONE_BELOW_D
    # bright large amplitudes are seen a little farther: the share may move
    assert overtone.mean() == pytest.approx(0.25, abs=0.05)
    ab, c = ({name: value[which] for name, value in p.items()} for which in (~overtone, overtone))
    assert ab["period_d"].mean() == pytest.approx(0.58, abs=0.015)
    assert ab["period_d"].std() == pytest.approx(0.08, abs=0.012)
    assert c["period_d"].mean() == pytest.approx(0.33, abs=0.015)
    for part, amplitude, rise in ((ab, (0.3, 1.3), (0.12, 0.25)), (c, (0.2, 0.5), (0.4, 0.5))):
        assert amplitude[0] <= part["amplitude_mag"].min() <= part["amplitude_mag"].max() <= amplitude[1]
        assert rise[0] <= part["rise_fraction"].min() <= part["rise_fraction"].max() <= rise[1]
    # Bailey's diagram: the longer the period, the smaller the amplitude
    assert np.corrcoef(ab["period_d"], ab["amplitude_mag"])[0, 1] < -0.5


def test_an_rr_lyrae_varies_most_in_the_blue_and_rises_within_its_fraction_of_the_cycle():
    events = drawn(periodic.RR_LYRAE, n=200)
    span = {
        name: np.ptp(one_cycle(events, narrow(at)), axis=1)
        for name, at in (("g", 4800), ("r", 6200), ("i", 7600))
    }
    amplitude = events.parameters["amplitude_mag"]
    for name, ratio in (("g", 1.2), ("r", 0.9), ("i", 0.7)):
        np.testing.assert_allclose(span[name] / amplitude, ratio, rtol=0.01)
    brightest = one_cycle(events, V).argmin(axis=1) / 400
    np.testing.assert_allclose(brightest, events.parameters["rise_fraction"], atol=0.003)


def test_rr_lyrae_are_as_many_as_the_halo_has_and_blue():
    # Sesar et al. (2010) find 1.3 to 2 per square degree to 100 kpc at high latitude
    assert 0.8 < periodic.RR_LYRAE.present(21.0) < 2.5
    events = drawn(periodic.RR_LYRAE, n=200)
    mean = [one_cycle(events, narrow(at)).mean(axis=1) for at in (4800, 6200)]
    assert 0.1 < np.median(mean[0] - mean[1]) < 0.4


def test_cepheids_follow_their_period_luminosity_relation():
    events = drawn(periodic.CEPHEID, 14.0)
    p = events.parameters
    v = one_cycle(events, V).mean(axis=1) - p["extinction_mag"] - 5 * np.log10(100 * p["distance_kpc"])
    slope, zero = np.polyfit(np.log10(p["period_d"]) - 1, v, 1)
    assert slope == pytest.approx(-2.43, abs=0.02)
    assert zero == pytest.approx(-4.05, abs=0.02)
    assert 1.0 <= p["period_d"].min() < 2.0
    assert 45.0 < p["period_d"].max() <= 60.0
    assert stats.kstest(p["amplitude_mag"], stats.uniform(0.3, 0.9).cdf).pvalue > 1e-3


def test_miras_vary_by_magnitudes_over_months_and_much_less_in_the_infrared():
    events = drawn(periodic.MIRA)
    p = events.parameters
    assert p["period_d"].min() >= 100.0
    assert p["period_d"].max() <= 700.0
    amplitude = np.ptp(one_cycle(events, V), axis=1)
    in_i = np.ptp(one_cycle(events, narrow(7600.0)), axis=1)
    assert 2.4 < amplitude.min() < 2.7
    assert 7.8 < amplitude.max() <= 8.01
    assert in_i.min() > 0.9
    assert in_i.max() < 3.3
    red = (one_cycle(events, V) - one_cycle(events, narrow(9000.0))).mean(axis=1)
    assert np.median(red) > 2


def test_two_discs_overlap_as_circles_do():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (400_000, 2))
    for distance, small in ((0.7, 0.5), (0.45, 0.6), (1.2, 0.4)):
        in_both = (np.hypot(*points.T) < 1) & (np.hypot(points[:, 0] - distance, points[:, 1]) < small)
        assert eclipsing.overlap(distance, 1.0, small) == pytest.approx(4 * in_both.mean(), abs=0.01)
    assert eclipsing.overlap(1.6, 1.0, 0.5) == 0.0
    assert eclipsing.overlap(0.3, 1.0, 0.5) == pytest.approx(np.pi * 0.25)
    # touching from within is the limit of either form
    assert eclipsing.overlap(0.5 + 1e-7, 1.0, 0.5) == pytest.approx(np.pi * 0.25, rel=1e-4)


def test_eclipses_are_as_deep_and_as_wide_as_their_parameters_say():
    events = drawn(eclipsing.ECLIPSING_BINARY, n=600)
    p = events.parameters
    curve = one_cycle(events, V, 1200)
    outside = curve[:, 300]  # a quarter of the orbit after the eclipse
    depth = curve[:, 0] - outside
    np.testing.assert_allclose(depth, p["amplitude_mag"], atol=1e-6)
    assert (curve.max(axis=1) - curve[:, 0] < 1e-6).all(), "hiding the hotter star loses most light"
    assert depth.min() > 0.04
    assert depth.max() < 1.9
    assert np.mean((depth > 0.05) & (depth < 1.5)) > 0.98
    # the part of the orbit in which light is lost, of eclipses close to central: the primary's is half of it
    central = p["cos_inclination"] < 0.05 * (p["radius_1"] + p["radius_2"])
    dimmed = (curve > outside[:, None] + 1e-9).mean(axis=1)
    np.testing.assert_allclose(dimmed[central], 2 * p["width_phase"][central], atol=0.004)
    assert p["width_phase"].min() > 0.02
    assert p["width_phase"].max() < 0.2
    assert stats.kstest(np.log(p["period_d"]), stats.uniform(np.log(0.2), np.log(500)).cdf).pvalue > 1e-3
    # hiding the hotter of two stars costs more in the blue
    blue = one_cycle(events, narrow(4000.0), 4)[:, :2]
    assert (blue[:, 0] - blue[:, 1] >= depth - 1e-9).all()


def test_counts_grow_with_depth_as_drawn_magnitudes_do():
    """The share of a deep survey's stars above a brighter limit is the ratio of the two limits' counts."""
    for population in periodic.POPULATIONS:
        deep, shallow = (18.0, 15.0) if population.kind != "Mira" else (11.0, 8.5)
        if population.kind == "Cepheid":
            deep, shallow = 13.0, 9.0
        peak = drawn(population, deep, 20_000).parameters["peak_mag"]
        share = population.present(shallow) / population.present(deep)
        assert np.mean(peak < shallow) == pytest.approx(share, abs=0.02), population.kind


def test_stars_of_even_density_grow_in_number_by_the_volume():
    even = Sightline(lambda radius, z: np.ones_like(radius), 90.0, 90.0)
    near = 5 * np.log10(np.array([1.0, 2.0]) * 100) + galaxy.dimming(6180.0) * galaxy.DUST_MAG_PER_KPC * 0.1
    volume = even.volume(near)
    assert volume[1] / volume[0] == pytest.approx(8.0, rel=2e-3)
    assert volume[0] == pytest.approx(np.radians(1) ** 2 / 3, rel=2e-3)


def test_a_limit_that_no_star_reaches_is_refused():
    with pytest.raises(ConfigError, match="no Mira peaks above -40 mag"):
        drawn(periodic.MIRA, -40.0, 5)


def test_inverse_distributions_return_the_distributions():
    u = np.random.default_rng(3).uniform(size=20_000)
    bell = quantiles.bell(u, 1.0, 2.0, 0.0, 4.0)
    assert stats.kstest(bell, stats.truncnorm(-0.5, 1.5, 1.0, 2.0).cdf).pvalue > 1e-3
    steep = quantiles.power_law(u, -2.0, 0.1, 15.0)
    assert stats.kstest(steep, lambda x: (10 - 1 / x) / (10 - 1 / 15)).pvalue > 1e-3
    ramp = quantiles.tabulated(u, [0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    assert stats.kstest(ramp, stats.triang(0.5, 0.0, 2.0).cdf).pvalue > 1e-3
    place, cell = quantiles.cells(u, np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]), np.arange(len(u)) % 2)
    assert set(cell[1::2]) == {1}
    assert np.mean(cell[::2] == 2) == pytest.approx(0.75, abs=0.02)
    assert stats.kstest(place[1::2], stats.uniform(1 / 3, 1 / 3).cdf).pvalue > 1e-3
