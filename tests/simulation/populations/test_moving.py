import numpy as np
import pytest
from scipy import stats

from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.simulation.populations import moving


def narrow(wavelength):
    """A band of one wavelength, Angstrom."""
    around = np.array([wavelength - 50.0, wavelength, wavelength + 50.0])
    return Band("test", f"{wavelength:g}", around, np.array([0.0, 1.0, 0.0]))


def drawn(population, limit=22.0, n=20_000, seed=1):
    return population.draw(np.random.default_rng(seed).uniform(size=(n, population.n_draws)), limit)


@pytest.mark.parametrize("population", moving.POPULATIONS, ids=lambda each: each.kind)
def test_magnitudes_follow_the_counts_and_none_is_fainter_than_the_limit(population):
    events = drawn(population)
    peak = events.parameters["peak_mag"]
    assert peak.max() <= 22.0
    share = population.present(20.0) / population.present(22.0)
    assert np.mean(peak < 20.0) == pytest.approx(share, abs=0.015)
    assert sum(population.environments.values()) == pytest.approx(1.0)
    for survey, name in (("lsst", "u"), ("ztf", "r"), ("meerlicht", "q")):
        magnitudes = events.magnitudes(band_of(survey, name), np.array([-0.1, 0.1]))
        assert magnitudes.shape == (20_000, 2)
        assert np.isfinite(magnitudes).all()
    brightest = events.magnitudes(narrow(6180.0), np.linspace(0, 1, 400)[None])[:500].min(axis=1)
    np.testing.assert_allclose(brightest, peak[:500], atol=0.01)


@pytest.mark.parametrize(
    ("name", "slowest", "fastest"),
    [
        ("main belt", 0.1, 0.3),
        ("Hilda or Trojan", 0.05, 0.15),
        ("trans-Neptunian", 0.005, 0.03),
        ("near Earth", 0.5, 20.0),
    ],
)
def test_each_dynamical_class_moves_at_its_own_speed(name, slowest, fastest):
    events = drawn(moving.ASTEROID, 24.5, 60_000)
    code = [orbits.name for orbits in moving.ASTEROIDS].index(name)
    east, north = (each[events.parameters["orbit"] == code] for each in events.motion())
    speed = np.hypot(east, north) / 3600 * 24  # deg per day
    assert len(speed) > 50
    assert (
        stats.kstest(np.log(speed), stats.uniform(np.log(slowest), np.log(fastest / slowest)).cdf).pvalue
        > 1e-3
    )
    if name != "near Earth":
        # at opposition they fall back westwards, along the ecliptic
        assert np.mean(east < 0) > 0.99
        assert np.mean(np.abs(north) < np.abs(east)) > 0.9


def test_classes_are_as_frequent_as_their_counts_and_faint_ones_are_farther_out():
    for limit in (20.0, 24.5):
        orbit = drawn(moving.ASTEROID, limit, 60_000).parameters["orbit"]
        counts = np.array([orbits.per_square_degree(limit) for orbits in moving.ASTEROIDS])
        measured = np.bincount(orbit.astype(int), minlength=4) / len(orbit)
        np.testing.assert_allclose(measured, counts / counts.sum(), atol=0.006)
    beyond = moving.ASTEROIDS[2].per_square_degree
    assert beyond(24.0) / beyond(20.0) == pytest.approx(10 ** (0.65 * 4))
    # Gladman et al. (2009): 210 per square degree of ecliptic down to R = 23
    assert moving.ASTEROIDS[0].per_square_degree(23.1) == pytest.approx(210, rel=0.25)


def test_a_trail_is_as_long_as_speed_times_exposure():
    # one degree a day is 2.5 arcsec a minute
    assert moving.trail_arcsec(moving.DEG_PER_DAY, 60.0) == pytest.approx(2.5)
    events = drawn(moving.ASTEROID, n=100)
    length = moving.trail_arcsec(np.hypot(*events.motion()), 30.0)
    np.testing.assert_allclose(length, events.parameters["speed_arcsec_per_h"] / 120)


def test_asteroids_are_as_red_as_the_sun_or_redder_and_turn():
    events = drawn(moving.ASTEROID, n=2000)
    p = events.parameters
    days = np.linspace(0, 1, 500)
    curve = events.magnitudes(narrow(6180.0), days)
    np.testing.assert_allclose(np.ptp(curve, axis=1), p["amplitude_mag"], rtol=0.02)
    later = events.magnitudes(narrow(6180.0), days + p["period_d"][:, None] / 2)
    np.testing.assert_allclose(later, curve, atol=1e-9)
    colour = (events.magnitudes(narrow(4800.0), days[:1]) - events.magnitudes(narrow(6200.0), days[:1]))[:, 0]
    # the Sun has g - r = 0.44 (Willmer 2018); C and S asteroids 0.45 to 0.7
    assert 0.38 < colour.min() < 0.5
    assert np.percentile(colour, 95) < 0.75
    assert np.corrcoef(colour, p["redness"])[0, 1] > 0.99


def test_light_of_a_comet_is_shared_between_nucleus_coma_and_tail():
    p = drawn(moving.COMET, n=5000).parameters
    shares = [p[f"{part}_fraction"] for part in ("nucleus", "coma", "tail")]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1.0)
    assert min(share.min() for share in shares) >= 0
    for name, low, high in (
        ("nucleus_fraction", 0.05, 0.5),
        ("coma_radius_arcsec", 3, 30),
        ("tail_length_arcsec", 10, 60),
    ):
        even = stats.uniform(np.log(low), np.log(high / low))
        assert stats.kstest(np.log(p[name]), even.cdf).pvalue > 1e-3, name


def test_a_coma_of_one_over_rho_holds_light_as_its_radius():
    rho = np.linspace(1e-6, 10.0, 200_001)
    for within in (2.5, 7.0, 10.0, 25.0):
        ring = 2 * np.pi * rho * np.where(rho <= within, 1 / rho, 0.0)
        share = np.trapezoid(ring, rho) / np.trapezoid(2 * np.pi * np.ones_like(rho), rho)
        assert moving.coma_share(within, 10.0) == pytest.approx(share, abs=1e-4)
