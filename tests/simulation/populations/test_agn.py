import numpy as np
import pytest

from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.simulation.populations import agn


def narrow(wavelength):
    """A band of one wavelength, Angstrom."""
    around = np.array([wavelength - 50.0, wavelength, wavelength + 50.0])
    return Band("test", f"{wavelength:g}", around, np.array([0.0, 1.0, 0.0]))


def drawn(limit=20.0, n=2000, seed=1):
    return agn.AGN.draw(np.random.default_rng(seed).uniform(size=(n, agn.AGN.n_draws)), limit)


def seeds(n):
    return np.random.default_rng(5).integers(0, 2**63, n, dtype=np.uint64)


@pytest.mark.parametrize("tau", [30.0, 250.0, 1500.0])
def test_walks_have_mean_zero_unit_variance_and_the_structure_function_at_irregular_times(tau):
    n = 20_000
    # pairs at many lags, each at a random moment of ten years, before and after the origin
    lags = tau * np.array([0.003, 0.03, 0.3, 1.0, 3.0, 20.0])
    first = np.random.default_rng(2).uniform(-2000, 2000, (n, 1))
    walk = agn.damped_random_walk(seeds(n), np.full(n, tau), first + np.append(0.0, lags))
    assert np.abs(walk.mean(axis=0)).max() < 4 / np.sqrt(n)
    np.testing.assert_allclose(walk.var(axis=0), 1.0, atol=4 * np.sqrt(2 / n))
    # rms difference of two values: SF = SF_inf sqrt(1 - exp(-dt / tau)), SF_inf² = 2
    measured = np.sqrt(np.mean((walk[:, 1:] - walk[:, :1]) ** 2, axis=0))
    expected = np.sqrt(2 * (1 - np.exp(-lags / tau)))
    # times are rounded to 1/256 day, which the shortest lags feel
    np.testing.assert_allclose(measured, expected, rtol=4 / np.sqrt(2 * n))


def test_a_walk_is_a_markov_process_of_exact_covariance():
    """Covariances of five irregular times against exp(-|dt| / tau), entry by entry."""
    n, tau = 40_000, 100.0
    days = np.array([0.0, 1.3, 60.0, 61.0, 400.0])
    walk = agn.damped_random_walk(seeds(n), np.full(n, tau), np.tile(days, (n, 1)))
    covariance = walk.T @ walk / n
    np.testing.assert_allclose(
        covariance, np.exp(-np.abs(days[:, None] - days) / tau), atol=4 * np.sqrt(2 / n)
    )
    # given the second, the third knows nothing of the first
    partial = np.linalg.inv(covariance)
    assert abs(partial[0, 2]) / np.sqrt(partial[0, 0] * partial[2, 2]) < 5 / np.sqrt(n)
    # Gaussian: fourth moment three times the squared second
    assert np.mean(walk**4) == pytest.approx(3.0, abs=0.1)


def test_a_light_curve_is_one_whatever_days_are_asked_for_and_in_what_order():
    days = np.sort(np.random.default_rng(1).uniform(-500, 3000, 60))
    events = drawn(n=5)
    band = band_of("ztf", "r")
    whole = events.magnitudes(band, days)
    np.testing.assert_array_equal(events.magnitudes(band, days[::-1])[:, ::-1], whole)
    np.testing.assert_array_equal(events.magnitudes(band, days[7:9]), whole[:, 7:9])
    np.testing.assert_array_equal(drawn(n=5).magnitudes(band, np.tile(days, (5, 1))), whole)


def test_nuclei_differ_from_each_other():
    walks = agn.damped_random_walk(seeds(3000), np.full(3000, 200.0), np.tile([0.0, 1000.0], (3000, 1)))
    assert abs(np.corrcoef(walks[:-1, 0], walks[1:, 0])[0, 1]) < 0.08
    assert len(np.unique(walks)) == walks.size


def test_magnitudes_have_the_variance_of_each_band_and_vary_together():
    events = drawn(n=4000)
    p = events.parameters
    blue, red = narrow(4000.0), narrow(9000.0)
    days = np.linspace(0, 200_000, 40)  # far enough apart to be independent
    curves = {band.name: events.magnitudes(band, days) for band in (blue, red)}
    for band in (blue, red):
        wavelength = band.effective_wavelength / (1 + p["z"])
        sigma = agn.structure_function(wavelength, p["i_mag"], p["log_mass"]) / np.sqrt(2)
        mean = p["mean_mag"] + 2.5 * p["spectral_index"] * np.log10(band.effective_wavelength / 6180)
        pull = (curves[band.name] - mean[:, None]) / sigma[:, None]
        assert abs(pull.mean()) < 0.02
        assert pull.var() == pytest.approx(1.0, abs=0.02)
    ratio = curves["4000"].std(axis=1) / curves["9000"].std(axis=1)
    np.testing.assert_allclose(ratio, (9000 / 4000) ** 0.479, rtol=1e-6)
    deviations = [each - each.mean(axis=1, keepdims=True) for each in curves.values()]
    assert np.corrcoef(deviations[0].ravel(), deviations[1].ravel())[0, 1] > 0.99


def test_time_runs_slower_for_a_distant_nucleus():
    events = drawn(n=20_000, limit=22.0)
    p = events.parameters
    sigma = p["sf_mag"] / np.sqrt(2)
    change = np.diff(events.magnitudes(narrow(6180.0), np.array([0.0, 100.0])), axis=1)[:, 0] / sigma
    expected = 2 * (1 - np.exp(-100 / (1 + p["z"]) / p["tau_d"]))
    far = p["z"] > 2
    for part in (far, ~far):
        assert np.mean(change[part] ** 2 / expected[part]) == pytest.approx(1.0, abs=0.06)


def test_amplitudes_and_times_are_those_of_suberlak():
    # a nucleus of M_i = -23 and 10^9 solar masses at 4000 Angstrom has the coefficients themselves
    assert agn.structure_function(4000.0, -23.0, 9.0) == pytest.approx(10**-0.476)
    assert agn.damping_days(4000.0, -23.0, 9.0) == pytest.approx(10**2.597)
    assert agn.structure_function(8000.0, -26.0, 8.0) == pytest.approx(
        10 ** (-0.476 - 0.479 * np.log10(2) - 0.118 * 3 - 0.118)
    )
    p = drawn().parameters
    assert 0.05 < np.percentile(p["sf_mag"], 5) < np.percentile(p["sf_mag"], 95) < 0.4
    assert 100 < np.percentile(p["tau_d"], 1) < np.percentile(p["tau_d"], 99) < 1000


def test_nuclei_are_as_many_as_surveys_count_and_none_is_fainter_than_the_limit():
    p = drawn(19.0, 5000).parameters
    assert p["peak_mag"].max() <= 19.001
    assert 0.5 < np.median(p["z"]) < 2.0
    # Richards et al. (2006): ten per square degree above i = 19.1; Palanque-Delabrouille et al. (2016): some
    # hundred above g = 22
    assert 4 < agn.AGN.present(19.1) < 20
    assert 60 < agn.AGN.present(22.0) < 250
    share = agn.AGN.present(18.0) / agn.AGN.present(19.0)
    assert np.mean(p["peak_mag"] < 18.0) == pytest.approx(share, abs=0.03)
    assert sum(agn.AGN.environments.values()) == pytest.approx(1.0)
    assert agn.AGN.always_there
