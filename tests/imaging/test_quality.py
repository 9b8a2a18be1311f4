"""The verdict on a subtraction: each kind of bad one gets the colour and the words it deserves."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.imaging.quality import METRICS, combine, depth_lost, judge
from astrid_dist.store.layouts import variables
from astrid_dist.surveys.profile import resolve_thresholds
from astrid_dist.surveys.thresholds import COLOURS, Thresholds
from tests.bad_subtractions import CASES, GOOD, measure

GENERIC = resolve_thresholds("generic")
#: Values that are green in every metric of the generic profile.
ALL_GREEN = {
    name: np.mean([end for end in bounds.green if end is not None])
    for name in METRICS
    if (bounds := GENERIC.of(name))
}


def judged(name, **changes):
    return judge(measure(replace(CASES[name], **changes)), GENERIC)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_good_subtraction_is_green_and_says_nothing(seed):
    verdict = judged("good", seed=seed)
    assert (verdict.verdict, verdict.reason) == ("green", "")
    assert verdict.score > 0.99


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("case", "colours", "words"),
    [
        ("shifted 0.1", ("yellow",), "shifted: stars are displaced by 0.1"),
        ("shifted 0.3", ("red",), "shifted: stars are displaced by 0.3"),
        ("psf 10% narrow", ("yellow",), "wrong PSF: "),
        ("psf 30% narrow", ("red",), "wrong PSF: stars leave 0.3"),
        ("clouded", ("orange",), "clouded: stars have 0.3 of their light"),
        ("moonlit", ("orange",), "moonlit or bright sky: "),
        ("trailed", ("red",), "trailed: "),
        ("trailed, known", ("yellow",), "trailed: stars are elongated by 2"),
        ("saturated", ("yellow",), "saturated: "),
        ("other field", ("red",), "wrong reference or field: "),
        ("flux scale", ("orange",), "wrong flux scale: "),
        ("noise", ("orange",), "wrong noise: S_corr has std 1."),
        ("correlated", ("yellow",), "correlated noise: S_corr has std 1.5"),
    ],
)
def test_a_bad_subtraction_gets_the_colour_and_the_cause_it_deserves(case, colours, words, seed):
    verdict = judged(case, seed=seed)
    assert verdict.verdict in colours, verdict
    rounded = verdict.reason.replace("by 0.09", "by 0.1")  # 0.1 px is measured to 0.01
    assert rounded.startswith(words), verdict.reason
    assert verdict.score < judged("good", seed=seed).score - 0.05


def test_a_shift_moves_the_count_of_peaks_far_more_than_the_width():
    still, moved = measure(GOOD), measure(replace(GOOD, shift=0.3))
    assert abs(moved["score_std"] / still["score_std"] - 1) < 0.05
    assert moved["peaks"] > 10 * max(still["peaks"], 1)


def test_without_thresholds_or_without_a_hard_metric_nothing_is_called_good():
    assert judge(ALL_GREEN, Thresholds()).verdict == "red"
    soft = {name: value for name, value in ALL_GREEN.items() if not METRICS[name].hard}
    verdict = judge(soft, GENERIC)
    assert (verdict.verdict, verdict.score) == ("red", 0.0)
    assert verdict.reason.startswith("not measured: score_std, peaks")


def test_a_hard_metric_that_was_not_measured_is_named_and_does_not_count():
    verdict = judge(ALL_GREEN | {"depth_lost": float("nan"), "seeing": None}, GENERIC)
    assert (verdict.verdict, verdict.score) == ("green", 1.0)
    assert verdict.reason == "not measured: depth_lost"
    assert "depth_lost" not in verdict.colours


def test_soft_metrics_lower_the_verdict_by_one_step_at_most():
    one = judge(ALL_GREEN | {"seeing": 6.0}, GENERIC)
    all_red = ALL_GREEN | dict.fromkeys(("seeing", "elongation", "psf_chi2", "sky_ratio"), 1e9)
    assert one.verdict == judge(all_red, GENERIC).verdict == "yellow"
    assert judge(all_red, GENERIC).score < one.score < 1
    mild = judge(ALL_GREEN | {"seeing": 4.0}, GENERIC)
    assert mild.verdict == "green"
    assert mild.reason == "poor seeing: seeing is 4 arcsec (yellow above 3)"


@pytest.mark.parametrize("name", ALL_GREEN)
@pytest.mark.parametrize("side", [0, 1])
def test_the_score_falls_steadily_to_nothing_as_a_metric_worsens(name, side):
    bounds = GENERIC.of(name)
    if bounds.green[side] is None:
        return
    ends = [getattr(bounds, colour)[side] for colour in ("green", "yellow", "orange")]
    inner, outer = ends[0], ends[2] if ends[2] is not None else ends[1]
    values = np.linspace(inner, outer + 0.2 * (outer - inner), 60)
    verdicts = [judge(ALL_GREEN | {name: value}, GENERIC) for value in values]
    scores = [verdict.score for verdict in verdicts]
    assert all(a >= b for a, b in pairwise(scores))
    seen = [verdict.colours[name] for verdict in verdicts]
    assert [COLOURS.index(c) for c in seen] == sorted((COLOURS.index(c) for c in seen), reverse=True)
    assert {"green", "yellow"} <= set(seen)
    if METRICS[name].hard and ends[2] is not None:
        assert (verdicts[-1].verdict, scores[-1]) == ("red", 0.0)


@given(st.dictionaries(st.sampled_from(sorted(METRICS)), st.one_of(st.none(), st.floats())))
def test_any_values_get_a_verdict_a_score_and_words(values):
    verdict = judge(values, GENERIC)
    assert 0 <= verdict.score <= 1
    assert verdict.verdict in COLOURS
    assert "nan" not in verdict.reason


def test_thresholds_of_a_job_decide():
    values = ALL_GREEN | {"displacement": 0.1}
    lax = resolve_thresholds("generic", {"displacement": {"green": [None, 0.2], "yellow": [None, 0.3],
                                                          "orange": [None, 0.4]}})  # fmt: skip
    off = resolve_thresholds("generic", {"displacement": None})
    assert [judge(values, one).verdict for one in (GENERIC, lax, off)] == ["yellow", "green", "green"]


def test_a_shard_is_not_told_from_its_tiles():
    tiles = [{"score_std": 1.0 + 0.01 * i, "peaks": float(i), "sky_gradient": -i} for i in range(8)]
    whole = combine([(tile, 100.0) for tile in tiles])
    assert whole["score_std"] == pytest.approx(1.035)
    assert whole["peaks"] == pytest.approx(3.5)
    assert whole["sky_gradient"] == -7
    shards = [(combine([(t, 100.0) for t in part]), 400.0) for part in (tiles[::2], tiles[1::2])]
    parts = json.loads(json.dumps(shards))
    assert combine(parts) == pytest.approx(whole, rel=0.01)


def test_parts_weigh_by_their_pixels_and_what_was_not_measured_does_not_count():
    parts = [
        ({"peaks": 10.0, "score_std": 1.0}, 300.0),
        ({"peaks": 50.0, "score_std": 3.0}, 100.0),
        ({"peaks": float("nan"), "score_std": None, "seeing": None}, 1e6),
        ({"peaks": 9e9}, 0.0),
    ]
    whole = combine(parts)
    assert whole["peaks"] == pytest.approx(20)
    assert whole["score_std"] == 1.0
    assert np.isnan(whole["seeing"])
    assert combine([]) == {}


def test_an_epoch_in_its_own_reference_is_not_blamed_for_the_noise_that_cancels():
    narrow = ALL_GREEN | {"score_std": 0.5}
    assert judge(narrow, GENERIC).verdict == "yellow"
    shared = judge(narrow, GENERIC, reference_share=0.3)
    assert (shared.verdict, shared.reason) == ("green", "")
    wide = judge(ALL_GREEN | {"score_std": 1.5}, GENERIC, reference_share=0.3)
    assert wide.verdict == "yellow"
    alone = judge(ALL_GREEN | {"score_std": 0.0}, GENERIC, reference_share=1.0)
    assert (alone.verdict, alone.score) == ("red", 0.0)
    assert "its own reference" in alone.reason


def test_the_cause_stands_before_the_metric_that_shows_it():
    verdict = judge(ALL_GREEN | {"n_matched": 3, "displacement": 0.07, "depth_lost": 2.0}, GENERIC)
    assert verdict.reason.startswith("shifted: stars are displaced by 0.07 px in the difference (yellow")
    few = judge(ALL_GREEN | {"n_matched": 5}, GENERIC)
    assert few.reason == "few stars: 5 matched stars (orange below 8)"


def test_depth_is_lost_against_the_profile_or_else_against_the_field():
    assert depth_lost(20.0, 20.8) == pytest.approx(0.8)
    assert depth_lost(20.0, None, [20.5, float("nan"), 21.0, 20.0]) == pytest.approx(0.5)
    assert np.isnan(depth_lost(20.0, None))


def test_every_metric_has_a_variable_per_epoch_with_its_unit_and_every_threshold_a_metric():
    stored = {n.removeprefix("quality_"): v for n, v in variables("difference").items() if "quality_" in n}
    assert {name: (v.unit, v.long_name) for name, v in stored.items()} == {
        name: (metric.unit, metric.long_name) for name, metric in METRICS.items()
    }
    assert set(Thresholds.model_fields) <= set(METRICS)
