import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.evaluation.metrics import PRIORS, Counts, at_threshold, prior_weights, ranking

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the judge")

rows = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


def arrays(drawn):
    score, real, weight = (np.array(column) for column in zip(*drawn, strict=True))
    weight = weight.astype(float)
    assume(weight[real].any() and weight[~real].any())
    return score / 8, real, weight


@given(rows)
@settings(max_examples=150, deadline=None)
def test_weights_and_ties_count_as_in_scikit_learn(drawn):
    score, real, weight = arrays(drawn)
    told = ranking(score, real, weight)
    assert told.auc == pytest.approx(sklearn.roc_auc_score(real, score, sample_weight=weight))
    expected = sklearn.average_precision_score(real, score, sample_weight=weight)
    assert told.average_precision() == pytest.approx(expected)
    fpr, tpr, threshold = sklearn.roc_curve(real, score, sample_weight=weight, drop_intermediate=False)
    np.testing.assert_array_equal(told.threshold, threshold)
    np.testing.assert_allclose(told.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(told.completeness, tpr, atol=1e-12)
    counts = at_threshold(score, real, 0.5, weight)
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(
        real, score >= 0.5, sample_weight=weight, average="binary", zero_division=0
    )
    assert counts.recall == pytest.approx(recall)
    assert counts.f1 == pytest.approx(f1)
    assert np.nan_to_num(counts.precision) == pytest.approx(precision)


@given(rows, st.sampled_from(list(PRIORS.values())), st.floats(0.05, 0.99))
@settings(max_examples=100, deadline=None)
def test_a_prior_is_the_same_as_weights_that_make_it(drawn, prior, purity):
    score, real, weight = arrays(drawn)
    told, made = ranking(score, real, weight), ranking(score, real, prior_weights(real, prior, weight))
    assert made.prior == pytest.approx(prior)
    np.testing.assert_allclose(told.purity(prior), made.purity(), rtol=1e-9)
    assert told.average_precision(prior) == pytest.approx(made.average_precision())
    point, counts = told.at_purity(purity, prior), at_threshold(score, real, 0.5, weight)
    assert told.at(0.5, prior).completeness == pytest.approx(counts.recall)
    assert np.nan_to_num(told.at(0.5, prior).purity) == pytest.approx(np.nan_to_num(counts.purity(prior)))
    if np.isinf(point.threshold):
        assert not (told.purity(prior)[1:] >= purity).any()
        assert point.completeness == 0
    else:
        assert point.purity >= purity - 1e-9
        looser = told.threshold < point.threshold
        assert not (told.purity(prior)[looser] >= purity).any()


def test_rates_at_rates_are_reached_by_a_real_threshold_and_no_better_one_is_left():
    rng = np.random.default_rng(5)
    real = rng.random(3000) < 0.3
    score = np.round(rng.normal(2.0 * real, 1), 2)
    told = ranking(score, real)
    point = told.at_fpr(0.01)
    counts = at_threshold(score, real, point.threshold)
    assert counts.fpr <= 0.01 < told.fpr[np.flatnonzero(told.threshold == point.threshold)[0] + 1]
    assert told.fnr_at_fpr(0.01) == pytest.approx(1 - counts.recall)
    assert told.fpr_at_fnr(told.fnr_at_fpr(0.01)) <= counts.fpr
    lost = told.fpr_at_fnr(0.01)
    strict = told.threshold[told.fpr < lost]
    assert all(at_threshold(score, real, t).recall < 0.99 for t in strict[-3:])
    # two Gaussians 2 apart: each error rate is Phi(-1) = 0.159 where they are equal
    assert told.equal_error == pytest.approx(0.159, abs=0.02)
    even = told.break_even(0.5)
    assert even.purity == pytest.approx(even.completeness, abs=0.01)


def test_a_hundred_bogus_to_one_real_needs_a_stricter_threshold():
    rng = np.random.default_rng(1)
    real = np.arange(20_000) % 2 == 0
    told = ranking(rng.normal(3.0 * real, 1), real)
    points = [told.at_purity(0.95, prior) for prior in PRIORS.values()]
    assert points[0].threshold < points[1].threshold < points[2].threshold
    assert points[0].completeness > points[1].completeness > points[2].completeness
    assert all(point.purity >= 0.95 for point in points)


def test_a_purity_out_of_reach_lets_nothing_pass():
    point = ranking([0.1, 0.9], [True, False]).at_purity(0.9)
    assert (point.threshold, point.completeness) == (np.inf, 0.0)
    assert np.isnan(point.purity)
    assert np.isnan(Counts(0, 0, 0, 5).recall)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(InputError, match="needs both classes"):
        ranking([0.1, 0.2], [True, True])
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        ranking([0.1, np.nan], [True, False])
    with pytest.raises(InputError, match="finite"):
        ranking([0.1, 0.2], [True, False], [1.0, -1.0])
    with pytest.raises(InputError, match=r"\(n,\)"):
        ranking([0.1, 0.2], [True])
    with pytest.raises(InputError, match="prior of 1"):
        prior_weights([True, False], 1.0)
