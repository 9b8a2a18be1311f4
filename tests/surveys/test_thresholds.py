"""Thresholds of quality: what ships holds together, what a profile or job says differently wins."""

import json
import re

import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.surveys.profile import load_profile, profile_names, resolve_thresholds
from astrid_dist.surveys.thresholds import COLOURS, Bounds, Thresholds


@pytest.mark.parametrize("name", profile_names())
def test_thresholds_that_ship_survive_a_job_file(name):
    resolved = resolve_thresholds(name)
    assert resolved == load_profile(name).quality
    assert Thresholds.model_validate(json.loads(json.dumps(resolved.model_dump()))) == resolved


def test_a_survey_of_the_users_own_has_the_generic_ones():
    assert resolve_thresholds("nobody-ships-this") == resolve_thresholds("generic")
    assert resolve_thresholds("decam").seeing != resolve_thresholds("generic").seeing


def test_a_profile_and_a_job_override_one_colour_and_keep_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: decam\nquality: {score_std: {green: [0.9, 1.1]}, seeing: null}\n")
    profile, decam = load_profile(path), load_profile("decam").quality
    assert profile.quality.score_std.green == (0.9, 1.1)
    assert profile.quality.score_std.yellow == decam.score_std.yellow
    assert profile.quality.seeing is None
    job = resolve_thresholds(profile, {"peaks": {"orange": [None, 9000]}})
    assert job.peaks.orange == (None, 9000)
    assert job.score_std.green == (0.9, 1.1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"score_sdt": {"green": [0, 1]}}, "unknown key score_sdt, did you mean score_std"),
        ({"score_std": {"geen": [0, 1]}}, "unknown key score_std.geen, did you mean green"),
        (
            {"score_std": {"green": [0.1, 1.1]}},
            "green [0.1, 1.1] reaches beyond the next colour's [0.4, 1.6]",
        ),
        (
            {"seeing": {"orange": [None, 2]}},
            "yellow [None, 5.0] reaches beyond the next colour's [None, 2.0]",
        ),
        ({"score_std": {"green": 3}}, "3 is no range: write [lowest, highest]"),
        ({"score_std": {"green": [1.2, 0.9]}}, "write the lower value first"),
        ({"correlation_n": {"green": [None, 0.2]}}, "correlation_n.yellow is missing"),
    ],
)
def test_what_is_wrong_is_named(overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve_thresholds("generic", overrides)


def test_colours_and_the_limit_that_is_crossed():
    bounds = Bounds(green=(0.7, 1.3), yellow=(0.4, 1.6), orange=(None, 2.0))
    values = {
        0.7: "green",
        1.3: "green",
        1.4: "yellow",
        0.5: "yellow",
        0.1: "orange",
        2.0: "orange",
        2.1: "red",
    }
    assert {value: bounds.colour(value) for value in values} == values
    assert bounds.limit(0.1) == ("below", 0.7)
    assert bounds.limit(2.1) == ("above", 1.3)
    with pytest.raises(ValueError, match="green"):
        bounds.limit(1.0)
    assert set(values.values()) == set(COLOURS)
