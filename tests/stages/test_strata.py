"""Balance: what is asked is what every set holds, whatever part of it is looked at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.philox import stream
from astrid_dist.stages.synthetic.strata import (
    DEFAULT_MIX,
    assignment,
    environment_shares,
    largest_remainder,
    make_strata,
    permuted,
)
from astrid_dist.taxonomy import KINDS

EVERYWHERE = {kind: {"empty": 0.5, "host": 0.5} for kind in KINDS}


def strata(**changes):
    asked = {
        "mix": DEFAULT_MIX, "kinds": tuple(KINDS), "environments": EVERYWHERE, "snr": (3, 300), "snr_bins": 6,
        "negative": 0.2,
    }  # fmt: skip
    return make_strata(**(asked | changes))


@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_a_permutation_takes_every_place_once(number, key):
    places = permuted(np.arange(number), number, np.uint64(key))
    np.testing.assert_array_equal(np.sort(places), np.arange(number))


def test_permutations_of_other_keys_and_parts_of_one():
    one, other = (permuted(np.arange(10_000), 10_000, stream(seed, "a")) for seed in (1, 2))
    assert np.mean(one == other) < 0.01
    assert abs(np.corrcoef(np.arange(10_000), one)[0, 1]) < 0.05
    np.testing.assert_array_equal(permuted(np.array([77, 5]), 10_000, stream(1, "a")), one[[77, 5]])


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.integers(0, 10_000))
def test_quotas_sum_up_and_miss_their_share_by_less_than_one(shares, number):
    counts = largest_remainder(shares, number)
    assert counts.sum() == number
    assert np.all(np.abs(counts - np.array(shares) / sum(shares) * number) < 1)


def test_shares_of_classes_signs_and_snr_are_those_asked_for():
    made = strata()
    assert sum(one.share for one in made) == pytest.approx(1)
    of = {}
    for one in made:
        of[one.classification] = of.get(one.classification, 0) + one.share
    assert of == pytest.approx(DEFAULT_MIX)
    real = [one for one in made if one.classification in ("transient", "variable", "moving")]
    assert sum(one.share for one in real if one.negative) == pytest.approx(0.2 * 0.5)
    assert sum(one.share for one in real if one.snr[1] < 7) == pytest.approx(0.5 / 6)


def test_a_set_holds_its_quotas_exactly():
    made = strata()
    one = assignment(made, 20_000, 3, "ztf/train")
    got = np.bincount(one.of(np.arange(20_000)), minlength=len(made))
    np.testing.assert_array_equal(got, one.quotas)
    part = one.of(np.arange(512, 768))
    # Any group of samples is a fair draw: no class is missing from 256 of them by order alone.
    assert len({made[k].classification for k in part}) >= 11


@pytest.mark.parametrize("seed", range(5))
def test_a_set_smaller_than_its_strata_is_balanced_all_the_same(seed):
    made = strata()
    number = len(made) // 2
    one = assignment(made, number, seed, "ztf/val")
    assert one.quotas.sum() == number
    assert np.all(np.abs(one.quotas - number * np.array([each.share for each in made])) < 1)
    parts = {}
    for each, count in zip(made, one.quotas.tolist(), strict=True):
        for part in (each.classification, (each.classification, each.negative, each.snr)):
            got, asked = parts.get(part, (0, 0.0))
            parts[part] = got + count, asked + number * each.share
    assert all(abs(got - asked) < 1 for got, asked in parts.values())


def test_which_strata_of_a_small_set_are_filled_is_drawn_fairly():
    made = strata()
    filled = np.mean([assignment(made, 50, seed, "x").quotas for seed in range(400)], axis=0)
    asked = 50 * np.array([one.share for one in made])
    assert np.all(np.abs(filled - asked) < 5 * np.sqrt(asked / 400))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mix": {"transient": -1}}, "share of transient is -1"),
        ({"mix": {"comets": 1}}, "no class is called 'comets'"),
        ({"mix": {"transient": 0}}, "sum to 0"),
        ({"mix": {"moving": 1}, "kinds": ("SN Ia",)}, "kinds holds none"),
        ({"kinds": ("SN Ia", "SN Iax"), "mix": {"transient": 1}}, "SN Iax not known"),
        ({"snr": (5, 3)}, "lowest < highest"),
        ({"negative": 1.5}, "between 0 and 1"),
    ],
)
def test_an_impossible_balance_is_refused_with_what_is_wrong(changes, said):
    with pytest.raises(ConfigError, match=said):
        strata(**changes)


def test_environments_asked_for_are_kept_to_those_a_kind_can_have():
    own = {"host": 0.9, "empty": 0.1}
    assert environment_shares(own, {"host": 1, "star": 1}) == {"host": 1}
    assert environment_shares(own, {"star": 1}) == own
    with pytest.raises(ConfigError, match="clusters not known"):
        environment_shares(own, {"clusters": 1})
