import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.evaluation.bootstrap import bootstrap, ratio_interval, ratio_intervals
from astrid_dist.evaluation.metrics import ranking


def clustered(rng, images=60, each=20):
    """Recall differs from image to image: 0.8 on average, correlated within."""
    chance = rng.beta(4, 1, images).repeat(each)
    return (rng.random(images * each) < chance).astype(float), np.arange(images).repeat(each)


def test_intervals_over_images_hold_the_truth_as_often_as_they_say_and_naive_ones_do_not():
    rng = np.random.default_rng(6)
    over_images, naive, sets = 0, 0, 120
    for seed in range(sets):
        hit, image = clustered(rng)
        one = ratio_interval(hit, np.ones(len(hit)), image, draws=200, seed=seed)
        other = ratio_interval(hit, np.ones(len(hit)), np.arange(len(hit)), draws=60, seed=seed)
        over_images += one.low <= 0.8 <= one.high
        naive += other.low <= 0.8 <= other.high
    assert over_images / sets == pytest.approx(0.94, abs=0.055)
    assert naive / sets < 0.8


def test_sums_per_group_give_the_interval_that_indices_give():
    rng = np.random.default_rng(0)
    hit, image = clustered(rng, 30, 7)
    weight = rng.random(len(hit))
    fast = ratio_interval(hit * weight, weight, image, seed=3)
    slow = bootstrap(lambda rows: (hit * weight)[rows].sum() / weight[rows].sum(), image, seed=3)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
    assert fast.groups == slow.groups == 30


def test_the_same_seed_gives_the_same_interval_and_group_names_do_not_matter():
    hit, image = clustered(np.random.default_rng(1))
    ones = np.ones(len(hit))
    first = ratio_interval(hit, ones, image, seed=5)
    assert first == ratio_interval(hit, ones, [f"{i:03d}" for i in image], seed=5)
    assert first != ratio_interval(hit, ones, image, seed=6)
    assert first.low < first.value < first.high
    many = ratio_intervals(np.column_stack([hit, 1 - hit]), np.ones((len(hit), 2)), image, seed=5)
    assert many[0] == first
    assert many[1].low == pytest.approx(1 - first.high)


def test_any_statistic_has_an_interval_and_draws_without_both_classes_are_left_out():
    rng = np.random.default_rng(9)
    real = np.arange(80) % 40 == 0
    score = rng.normal(2.0 * real)
    found = bootstrap(lambda rows: ranking(score[rows], real[rows]).auc, np.arange(80), draws=200)
    assert found.value == ranking(score, real).auc
    assert 0 < found.low <= found.value <= found.high <= 1


def test_one_group_says_nothing_of_how_much_groups_differ():
    found = ratio_interval([1.0, 0.0], [1.0, 1.0], [7, 7])
    assert found.value == 0.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert np.isnan(ratio_interval([0.0, 0.0], [0.0, 0.0], [1, 2]).value)


def test_what_has_no_interval_is_refused():
    with pytest.raises(InputError, match="one example at least"):
        ratio_interval([], [], [])
    with pytest.raises(InputError, match="1 rows of values, 2 groups"):
        ratio_interval([1.0], [1.0], [1, 2])
    with pytest.raises(InputError, match="level 95"):
        bootstrap(lambda rows: 0.0, [1, 2], level=95)
