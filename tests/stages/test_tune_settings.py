"""What a search tries follows from its file alone, and its mistakes are told before anything begins."""

import math
from pathlib import Path
from typing import Any

import pytest

from astrid_dist.cli import _load
from astrid_dist.errors import ConfigError, TaskError
from astrid_dist.stages.tune import Axis, Settings, laid_over, run, told


def settings(search: dict[str, Any], **changes: Any) -> Settings:
    return Settings.model_validate({"samples": "s.zarr", "output": "o", "search": search, **changes})


def test_draws_fill_the_range_evenly_and_follow_from_seed_and_name() -> None:
    one = settings({"rate": {"low": 1e-4, "high": 1e-2, "log": True}, "loss.dice": {"choices": [0, 1]}})
    drawn = [one.changes(number) for number in range(400)]
    tenths = [math.log10(each["rate"] / 1e-4) / 2 for each in drawn]
    assert 0 <= min(tenths) < 0.02 < 0.98 < max(tenths) <= 1
    assert sum(tenths) / 400 == pytest.approx(0.5, abs=0.05)
    assert 150 < sum(each["loss.dice"] for each in drawn) < 250
    assert settings({"loss.dice": {"choices": [0, 1]}}).changes(7) == {"loss.dice": drawn[7]["loss.dice"]}
    assert one.model_copy(update={"seed": 2}).changes(7) != drawn[7]


def test_a_search_is_of_single_networks() -> None:
    with pytest.raises(ValueError, match="members: a search trains single networks"):
        settings({"loss.dice": {"choices": [0, 1]}}, members=3)


def test_a_trial_is_a_training_with_some_settings_changed() -> None:
    one = settings({"loss.dice": {"choices": [0.5]}, "size": {"choices": ["large"]}}, loss={"real": 2.0})
    made = one.trial(0)
    assert (made.loss, made.size) == ({"real": 2.0, "dice": 0.5}, "large")
    assert made.samples == [f"file://{Path('s.zarr').absolute()}"]
    assert laid_over({"a": {"b": 1}}, {"a.c.d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({}, "low and high, or choices"),
        ({"low": 1}, "low and high, or choices"),
        ({"low": 1, "high": 2, "choices": [1]}, "low and high, or choices"),
        ({"low": 2, "high": 1}, "low 2 must lie below high 1"),
        ({"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"choices": [1, 2], "log": True}, "log needs a low above 0"),
    ],
)
def test_an_axis_that_says_nothing_is_refused(axis: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Axis.model_validate(axis)


def test_a_setting_that_nobody_knows_is_told_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings"):
        run(settings({"loss.beauty": {"choices": [1]}}, output=str(tmp_path / "o")))
    with pytest.raises(ValueError, match="Extra inputs"):
        run(settings({"beauty": {"choices": [1]}}, output=str(tmp_path / "o")))
    assert not list(tmp_path.iterdir())


def test_the_best_trial_comes_first_and_failed_ones_last() -> None:
    def trial(number: int, best: float | None, error: str = "") -> dict[str, Any]:
        changes = {"rate": 0.001 * number, "model.dropout": 0.1}
        return {"trial": number, "changes": changes, "history": [{}], "best": best, "error": error}

    lines = told([trial(1, 0.8), trial(2, None, "boom"), trial(3, 0.9)], "auc")
    assert [line.split(":")[0] for line in lines[:3]] == ["trial 3", "trial 1", "trial 2"]
    assert "boom" in lines[2]
    assert lines[3] == "# best, for train.yaml\nrate: 0.003\nmodel:\n  dropout: 0.1"
    assert told([trial(1, 0.8), trial(3, 0.9)], "loss")[0].startswith("trial 1")
    with pytest.raises(TaskError, match="all 1 trials failed, the first so: boom"):
        told([trial(2, None, "boom")], "auc")


def test_the_shipped_job_file_is_read(tmp_path: Path) -> None:
    stage, read = _load("tune", [f"output={tmp_path}", "trials=3"])
    assert (stage, read.trials, set(read.search)) == (
        "tune",
        3,
        {"rate", "decay", "model.dropout", "loss.dice"},
    )
