from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom

from astrid_dist.errors import InputError
from astrid_dist.evaluation.calibration import (
    brier,
    calibration,
    calibration_error,
    error_by_chance,
    reliability,
)
from astrid_dist.evaluation.metrics import prior_weights
from astrid_dist.evaluation.scaling import shift_prior

rows = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60)


def columns(drawn):
    p, real, weight = (np.array(column) for column in zip(*drawn, strict=True))
    assume(weight.any())
    return p, real.astype(bool), weight.astype(float)


def calibrated(seed, n=20_000):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.4, 0.4, n)
    return p, rng.random(n) < p


@given(rows, st.integers(1, 20), st.booleans())
@settings(max_examples=150, deadline=None)
def test_bins_hold_every_example_once_and_a_weight_is_a_repetition(drawn, bins, equal_mass):
    p, real, weight = columns(drawn)
    found = reliability(p, real, weight, bins=bins, equal_mass=equal_mass)
    assert sum(one.share for one in found) == pytest.approx(1)
    assert sum(one.share * one.told for one in found) == pytest.approx(np.average(p, weights=weight))
    assert sum(one.share * one.real for one in found) == pytest.approx(np.average(real, weights=weight))
    assert all(one.low - 1e-9 <= one.told <= one.high + 1e-9 for one in found)
    assert all(a.high <= b.low for a, b in pairwise(found))
    assert all(one.interval95[0] - 1e-9 <= one.real <= one.interval95[1] + 1e-9 for one in found)
    times = weight.astype(int)
    again = reliability(p.repeat(times), real.repeat(times), bins=bins, equal_mass=equal_mass)
    assert [one.real for one in again] == pytest.approx([one.real for one in found])
    error = sum(one.share * abs(one.told - one.real) for one in found)
    assert calibration_error(p, real, weight, bins=bins, equal_mass=equal_mass) == pytest.approx(error)


@given(rows, st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_the_parts_of_a_brier_score_add_up(drawn, bins):
    p, real, weight = columns(drawn)
    found = brier(p, real, weight, bins=bins)
    assert found.score == pytest.approx(np.average((p - real) ** 2, weights=weight))
    parts = found.reliability - found.resolution + found.uncertainty + found.within_bins
    assert parts == pytest.approx(found.score, abs=1e-12)
    assert min(found.reliability, found.resolution, found.uncertainty) >= -1e-12
    # one probability in each bin: nothing is left within them
    rounded = (np.floor(np.minimum(p, 1 - 1e-9) * bins) + 0.5) / bins
    assert brier(rounded, real, weight, bins=bins).within_bins == pytest.approx(0, abs=1e-9)


def test_scikit_learn_draws_the_same_reliability_and_brier_score():
    judge = pytest.importorskip("sklearn.calibration", reason="scikit-learn is the judge")
    from sklearn.metrics import brier_score_loss

    p, real = calibrated(3)
    true, told = judge.calibration_curve(real, p, n_bins=15)
    found = reliability(p, real)
    np.testing.assert_allclose([one.real for one in found], true)
    np.testing.assert_allclose([one.told for one in found], told)
    true, told = judge.calibration_curve(real, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(
        [one.real for one in reliability(p, real, bins=10, equal_mass=True)], true, atol=2e-3
    )
    assert brier(p, real).score == pytest.approx(brier_score_loss(real, p))


def test_bins_of_equal_mass_are_and_ties_stay_together():
    p, real = calibrated(5)
    shares = [one.share for one in reliability(p, real, equal_mass=True)]
    assert shares == pytest.approx([1 / 15] * 15, abs=1e-4)
    tied = reliability([0.2] * 9 + [0.7], [True] * 10, equal_mass=True)
    assert [one.share for one in tied] == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("equal_mass", [False, True])
def test_a_perfect_model_errs_as_much_as_chance_says(equal_mass):
    for n in (200, 5000):
        errors, chance = [], []
        for seed in range(60):
            p, real = calibrated(seed, n)
            errors.append(calibration_error(p, real, equal_mass=equal_mass))
            chance.append(error_by_chance(p, equal_mass=equal_mass, draws=20, seed=seed).mean())
        assert np.mean(errors) == pytest.approx(np.mean(chance), rel=0.08)
        # few examples look badly calibrated although none are
        assert (np.mean(errors) > 0.03) == (n == 200)


@pytest.mark.parametrize("prior", [0.01, 0.1, None])
def test_at_any_prior_a_calibrated_model_exceeds_the_95th_percentile_of_chance_in_5_percent(prior):
    above, sets = np.zeros(2), 100
    for seed in range(sets):
        p, real = calibrated(seed + 1, 2000)
        # p is true for even classes
        at = p if prior is None else shift_prior(p, 0.5, prior)
        found = calibration(at, real, prior=prior, draws=60, seed=seed)
        assert found.prior == pytest.approx(real.mean() if prior is None else prior)
        above += found.ece > found.ece_by_chance[1], found.adaptive_ece > found.adaptive_by_chance[1]
    assert (above <= binom.ppf(0.999, sets, 0.06)).all()


def test_a_model_used_at_another_prior_than_it_was_made_for_is_not_calibrated():
    p, real = calibrated(1)
    assert calibration(p, real, prior=0.01, draws=2).ece > 0.1
    found = reliability(p, real, prior_weights(real, 0.01))
    assert sum(one.share * one.real for one in found) == pytest.approx(0.01)


def test_a_model_that_is_too_sure_is_found_out():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1.5, 20_000)
    found = calibration(expit(3 * x), rng.random(20_000) < expit(x))
    assert found.ece > 3 * found.ece_by_chance[1]
    assert found.adaptive_ece > 3 * found.adaptive_by_chance[1]
    assert found.brier.reliability > 0.01


def test_weights_make_fewer_examples():
    even, uneven = (reliability([0.5] * 100, [True, False] * 50, w)[0] for w in (None, [1.0] * 99 + [99.0]))
    assert even.number == pytest.approx(100)
    assert uneven.number == pytest.approx(50 + 148**2 / (49 + 99**2))
    assert uneven.interval[1] - uneven.interval[0] > even.interval[1] - even.interval[0]


def test_intervals_at_another_prior_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    inside, bins = np.zeros(2), 0
    for _ in range(60):
        p = rng.beta(0.4, 0.4, 1500)
        real = rng.random(1500) < p
        at = shift_prior(p, 0.5, 0.05)
        for one in reliability(at, real, prior_weights(real, 0.05), equal_mass=True):
            for k, (low, high) in enumerate((one.interval, one.interval95)):
                inside[k] += low <= one.told <= high
            bins += 1
    # Wilson's is a little wide where a bin has few of one class
    assert inside / bins == pytest.approx([0.71, 0.955], abs=0.05)


def test_what_is_no_probability_is_refused():
    with pytest.raises(InputError, match=r"from -0\.5 to 2: they must"):
        reliability([2.0, -0.5], [True, False])
    with pytest.raises(InputError, match="needs both classes"):
        calibration([0.5, 0.6], [True, True], prior=0.1)
