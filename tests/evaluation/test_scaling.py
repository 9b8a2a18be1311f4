import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from astrid_dist.errors import InputError
from astrid_dist.evaluation.metrics import prior_weights
from astrid_dist.evaluation.scaling import Scaling, estimate_prior, fit_scaling, shift_prior

shares = st.floats(0.001, 0.999)


def told(seed, n=4000, scale=2.5, offset=0.0):
    """Log odds that are `scale` times too sure and off by `offset`, and truths."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, n)
    return scale * true + offset, rng.random(n) < expit(true)


@pytest.mark.parametrize("offset", [False, True])
def test_a_scaling_is_the_unpenalised_logistic_regression(offset):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the judge")
    x, real = told(1, offset=0.7)
    weight = prior_weights(real, 0.2)
    judge = linear.LogisticRegression(C=np.inf, fit_intercept=offset, tol=1e-9, max_iter=1000)
    judge.fit(x[:, None], real, sample_weight=weight)
    found = fit_scaling(x, real, weight, offset=offset)
    assert found.scale == pytest.approx(judge.coef_[0, 0], rel=1e-4)
    assert found.offset == pytest.approx(judge.intercept_[0] if offset else 0, abs=1e-4)


def test_a_model_that_is_too_sure_is_cooled_by_as_much():
    x, real = told(2, n=40_000)
    found = fit_scaling(x, real)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    np.testing.assert_array_equal(np.argsort(found.p(x)), np.argsort(x))
    shifted = fit_scaling(*told(2, n=40_000, offset=3.0), offset=True)
    assert shifted.logit(3.0) == pytest.approx(0.0, abs=0.06)


def test_the_scale_of_float32_log_odds_does_not_depend_on_their_size():
    x, real = told(3)
    for size in (1e-3, 1.0, 300.0):
        assert fit_scaling((size * x).astype(np.float32), real).scale * size == pytest.approx(
            fit_scaling(x, real).scale, rel=1e-4
        )


def test_what_has_no_best_scale_is_refused():
    with pytest.raises(InputError, match="all told right"):
        fit_scaling([-2.0, -1.0, 1.0, 3.0], [False, False, True, True])
    with pytest.raises(InputError, match="all told right"):
        fit_scaling([1.0, 2.0, 3.0], [False, True, True], offset=True)
    assert fit_scaling([1.0, 2.0, 3.0], [False, True, True]).scale > 0
    with pytest.raises(InputError, match="more real than real"):
        fit_scaling([-2.0, -1.0, 0.5, 1.0, 3.0], [True, True, True, False, False])
    with pytest.raises(InputError, match="infinite"):
        fit_scaling([np.inf, 0.0], [True, False])
    with pytest.raises(InputError, match="both are needed"):
        fit_scaling([1.0, 0.0], [True, True])


@given(st.floats(1e-6, 1 - 1e-6), shares, shares, shares)
@settings(max_examples=200, deadline=None)
def test_a_shift_is_one_of_log_odds_and_can_be_undone(p, a, b, c):
    assert logit(shift_prior(p, a, b)) == pytest.approx(logit(p) + logit(b) - logit(a), abs=1e-6)
    assert shift_prior(shift_prior(p, a, b), b, c) == pytest.approx(float(shift_prior(p, a, c)), rel=1e-6)
    assert shift_prior([0.0, 1.0], a, b).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.7])
def test_the_share_of_real_is_found_without_truth(share):
    rng = np.random.default_rng(7)
    real = rng.random(60_000) < share
    # classes 3 apart: log odds at even prior are 3 x - 4.5
    p = expit(3 * rng.normal(3.0 * real, 1) - 4.5)
    assert estimate_prior(p, 0.5) == pytest.approx(real.mean(), rel=0.06)
    assert shift_prior(p, 0.5, share).mean() == pytest.approx(share, rel=0.1)


def test_shares_of_nothing_and_all_are_refused():
    with pytest.raises(InputError, match="prior of 0"):
        shift_prior(0.5, 0.5, 0.0)
    with pytest.raises(InputError, match="1 of them NaN"):
        estimate_prior([0.5, np.nan], 0.5)
    assert Scaling().p(0.0) == 0.5
