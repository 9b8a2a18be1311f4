import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.evaluation.matching import completeness, match_one_to_one, wilson_interval

places = st.lists(st.tuples(st.floats(0, 12), st.floats(0, 12)), max_size=12)


@given(places, places)
@settings(max_examples=60, deadline=None)
def test_no_detection_and_no_object_is_used_twice_and_no_free_pair_is_left(detections, truths):
    d, t = np.array(detections).reshape(-1, 2), np.array(truths).reshape(-1, 2)
    i, j = match_one_to_one(d[:, 0], d[:, 1], t[:, 0], t[:, 1], 2.0)
    assert len(set(i)) == len(i) == len(set(j))
    assert (np.hypot(*(d[i] - t[j]).T) <= 2.0).all()
    free_d, free_t = np.setdiff1d(range(len(d)), i), np.setdiff1d(range(len(t)), j)
    gaps = (
        np.hypot(*(d[free_d][:, None] - t[free_t][None]).T)
        if len(free_d) and len(free_t)
        else np.array([9.0])
    )
    assert gaps.min() > 2.0


def test_the_closer_detection_wins_and_the_other_stays_unmatched():
    i, j = match_one_to_one([10.0, 10.9, 50.0], [5.0, 5.0, 5.0], [10.7], [5.0])
    assert (i.tolist(), j.tolist()) == ([1], [0])


def test_a_wilson_interval_holds_the_truth_two_times_in_three():
    rng = np.random.default_rng(3)
    for fraction in (0.1, 0.5, 0.95):
        hits = rng.binomial(25, fraction, 4000)
        inside = [low <= fraction <= high for low, high in (wilson_interval(int(k), 25) for k in hits)]
        assert np.mean(inside) == pytest.approx(0.68, abs=0.1)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10) == (pytest.approx(10 / 11), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_completeness_counts_each_object_in_its_bin():
    bins = completeness([18.5, 19.5, 19.6, 21.0], [True, False, True, True], [18, 19, 20, 21])
    assert [(b.trials, b.found) for b in bins] == [(1, 1), (2, 1), (0, 0)]
    assert np.isnan(bins[2].fraction)
    assert bins[1].interval[0] < 0.5 < bins[1].interval[1]
