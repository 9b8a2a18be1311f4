import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.evaluation.completeness import Curve, crossing, curve_points, fit_curve
from astrid_dist.evaluation.limits import matched_filter_recall
from astrid_dist.evaluation.matching import CompletenessBin, completeness


def drawn(curve, n, seed, low=2.0, high=12.0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, n)
    return x, rng.random(n) < curve(x)


@given(st.floats(-30, 30), st.floats(0.01, 5), st.booleans(), st.floats(0.55, 1), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_a_curve_has_the_level_at_its_point(middle, width, falls, top, level):
    curve = Curve(middle, -width if falls else width, top)
    if level < top:
        assert curve(curve.point(level)) == pytest.approx(level)
    else:
        assert np.isnan(curve.point(level))


@pytest.mark.parametrize("curve", [Curve(5.4, 0.6, 0.97), Curve(22.1, -0.3, 0.93), Curve(60.0, 9.0, 1.0)])
def test_a_curve_is_found_again(curve):
    low, high = curve.middle - 6 * abs(curve.width), curve.middle + 6 * abs(curve.width)
    x, hit = drawn(curve, 40_000, 1, low, high)
    found = fit_curve(x, hit)
    assert found.middle == pytest.approx(curve.middle, abs=0.06 * abs(curve.width))
    assert found.width == pytest.approx(curve.width, rel=0.06)
    assert found.top == pytest.approx(curve.top, abs=0.008)
    even = fit_curve(x, hit, np.full(len(x), 0.25))
    assert (even.middle, even.top) == pytest.approx((found.middle, found.top), rel=1e-3)


def test_a_fit_is_the_logistic_regression_where_nothing_bright_is_lost():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the judge")
    x, hit = drawn(Curve(5.0, 0.8, 1.0), 5000, 3)
    judge = linear.LogisticRegression(C=np.inf).fit(x[:, None], hit)
    found = fit_curve(x, hit)
    assert found.point(0.5) == pytest.approx(-judge.intercept_[0] / judge.coef_[0, 0], abs=0.03)


def test_counted_and_fitted_points_agree_with_the_matched_filter():
    rng = np.random.default_rng(4)
    snr = rng.uniform(2, 10, 60_000)
    hit = rng.random(len(snr)) < matched_filter_recall(snr, 5.1)
    bins = completeness(snr, hit, np.arange(2, 10.1, 0.25))
    # Phi(s - 5.1) is 0.5 at 5.1 and 0.9 at 5.1 + 1.28
    assert crossing(bins, 0.5) == pytest.approx(5.1, abs=0.06)
    assert crossing(bins, 0.9) == pytest.approx(6.38, abs=0.08)
    assert fit_curve(snr, hit).point(0.5) == pytest.approx(5.1, abs=0.05)


def test_a_point_is_passed_for_good_on_either_side():
    rising = [CompletenessBin(10, k, i, i + 1) for i, k in enumerate([0, 6, 4, 6, 10])]
    assert crossing(rising, 0.5) == pytest.approx(3.0)
    falling = [CompletenessBin(10, k, i, i + 1) for i, k in enumerate([10, 8, 2, 0])]
    assert crossing(falling, 0.5) == pytest.approx(2.0)
    assert np.isnan(crossing(rising, 0.0))
    assert np.isnan(crossing([CompletenessBin(5, 4, 0, 1), CompletenessBin(0, 0, 1, 2)], 0.5))
    assert np.isnan(crossing([CompletenessBin(10, 2, 0, 1), CompletenessBin(10, 6, 1, 2)], 0.9))


def test_intervals_of_the_50_percent_point_hold_the_truth():
    rng, inside, sets = np.random.default_rng(5), 0, 12
    for seed in range(sets):
        # the depth of images differs
        image = np.repeat(np.arange(40), 25)
        snr = rng.uniform(2, 12, 1000)
        depth = rng.normal(5.4, 0.6, 40)[image]
        hit = rng.random(1000) < 1 / (1 + np.exp(-(snr - depth) / 0.4))
        half, top = curve_points(snr, hit, image, (0.5, 0.9), draws=40, seed=seed)
        inside += half.low <= 5.4 <= half.high
        assert half.value < top.value
        assert half.groups == 40
    assert inside >= 9


def test_what_has_no_curve_is_refused():
    with pytest.raises(InputError, match="some found and some not"):
        fit_curve(np.arange(20.0), np.ones(20))
    with pytest.raises(InputError, match="not finite"):
        fit_curve([np.nan] * 20, np.ones(20))
