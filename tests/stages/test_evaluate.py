"""What candidates are worth: figures against sums done by hand."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from astrid_dist.stages.comparison import Comparison
from astrid_dist.stages.evaluate import Settings, headline, own_threshold
from astrid_dist.stages.judged import Judged
from astrid_dist.stages.judging import figures

IMAGES, EACH = 20, 10
PASSES, CUT = 0.8, 0.5


def _comparison(seed: int = 1) -> Comparison:
    """In each image five sources, the last not detected, one that is too faint, and six bogus candidates.

    Real ones are told a probability from .3 to 1, bogus ones from 0 to .7.
    """
    rng = np.random.default_rng(seed)
    candidates, truth = [], []
    for image in range(IMAGES):
        where = {"group": "f/r", "field": "f", "band": "r", "ra": np.nan, "dec": np.nan}
        for number in range(5):
            x, y, snr = 20.0 + 40 * number, 30.0, (-1) ** number * (5.0 + 2 * number)
            found = len(candidates) if number < 4 else -1
            truth.append(
                {
                    "class": ("transient", "variable")[number % 2],
                    "kind": ("SN Ia", "Mira")[number % 2],
                    "host": "g1" if number == 0 else "",
                    "group": "f/r",
                    "difference_epoch": image,
                    "true_snr": snr,
                    "countable": True,
                    "candidate": found,
                    "x": x,
                    "y": y,
                }
            )
            if found >= 0:
                place = {"fwhm": 2.5, "x": x + 0.3, "y": y + 0.4, "model_x": x + 0.1, "model_y": y}
                told = rng.uniform(0.3, 1)
                cause = truth[-1]["class"]
                row = {"epoch": image, "snr": snr, "p_real": told, "truth": len(truth) - 1, "cause": cause}
                candidates.append(where | place | row | {"p_transient": told, "p_variable": 1 - told})
        for number in range(6):
            place = {"fwhm": 2.5, "x": 20.0 + 30 * number, "y": 150.0, "model_x": np.nan, "model_y": np.nan}
            told = rng.uniform(0, 0.7)
            cause = ("bad_pixel", "unknown")[number % 2]
            row = {"epoch": image, "snr": 6.0, "p_real": told, "truth": -1, "cause": cause}
            candidates.append(where | place | row | {"p_transient": told, "p_variable": 1 - told})
        truth.append(truth[-1] | {"true_snr": 3.0, "y": 90.0, "candidate": -1})
    table = pd.DataFrame(candidates)
    table["found_by"] = "score"
    return Comparison(pd.DataFrame(truth), table, IMAGES)


@pytest.fixture(scope="module")
def judged() -> Judged:
    return Judged.of(_comparison(), CUT, 5.0)


@pytest.fixture(scope="module")
def found(judged: Judged) -> dict:
    return figures(judged, megapixels=2.0)


def test_counts_are_of_what_is_sure(found: dict) -> None:
    assert (found["candidates"], found["real"], found["bogus"]) == (200, 80, 120)
    assert (found["sources"], found["images"], found["score"]) == (100, IMAGES, "model")


def test_what_passes_is_counted_in_images_and_among_sources(judged: Judged, found: dict) -> None:
    p, real = judged.candidates["p_real"], judged.candidates["truth"] >= 0
    ends = found["end_to_end"]["model"]
    assert ends["false_per_image"][0] == ((p >= CUT) & ~real).sum() / IMAGES
    assert ends["false_per_megapixel"] == ((p >= CUT) & ~real).sum() / 2.0
    assert ends["recall"][0] == pytest.approx(((p >= CUT) & real).sum() / 100)
    assert ends["recall"][1] < ends["recall"][0] < ends["recall"][2]
    assert found["end_to_end"]["S_corr cut"]["recall"][0] == pytest.approx(0.8)
    assert found["end_to_end"]["S_corr cut"]["false_per_image"] == (6.0, 6.0, 6.0)


def test_a_score_is_ranked_as_by_hand(judged: Judged, found: dict) -> None:
    p = judged.candidates["p_real"].to_numpy()
    real = (judged.candidates["truth"] >= 0).to_numpy()
    above = np.mean(p[real][:, None] > p[~real])
    one = found["ranking"]["model"]
    assert one["auc"] == pytest.approx(above)
    assert one["recall"] == pytest.approx((p[real] >= CUT).mean())
    assert one["precision"] == pytest.approx(real[p >= CUT].mean())
    strict = one["at_purity"]["1:100"]
    assert strict["completeness"] <= one["at_purity"]["1:1"]["completeness"]
    assert strict["completeness"] == pytest.approx((p[real] > p[~real].max()).mean())
    assert found["near_limit"]["model"]["real"] == 0  # sources have 5, 7, 9 and 11 sigma


def test_strata_hold_what_they_say_and_the_worst_comes_first(found: dict) -> None:
    by_class = [row for row in found["strata"] if row["stratum"] == "class"]
    assert {row["value"]: row["sources"] for row in by_class} == {"transient": 60, "variable": 40}
    recalls = [row["recall"][0] for row in by_class]
    assert recalls == sorted(recalls)
    hosts = {row["value"]: row for row in found["strata"] if row["stratum"] == "environment"}
    assert hosts["in a galaxy"]["sources"] == IMAGES
    assert hosts["in a galaxy"]["detected"] == 1.0
    missed = next(row for row in found["strata"] if row["value"] == "10 to 15")  # of 11 and of 13 sigma
    assert missed["detected"] == 0.5


def test_places_and_classes(found: dict) -> None:
    # one source of each image has ten sigma or more and is detected
    assert found["localisation"]["detection"]["median_px"] == pytest.approx(0.5)
    assert found["localisation"]["model"]["median_px"] == pytest.approx(0.1)
    assert found["localisation"]["model"]["sources"] == IMAGES
    assert np.sum(found["confusion"]["counts"]) == 80
    assert found["rejection"]["bad_pixel"]["bogus"] == 60


def test_probabilities_that_hold_are_told_apart_from_those_that_do_not() -> None:
    rng = np.random.default_rng(2)
    comparison = _comparison()
    table = comparison.candidates
    real = table["truth"] >= 0
    share = real.mean()
    odds = share / (1 - share) * np.exp(np.where(real, 1, -1) * 2 + rng.normal(0, 2, len(table)))
    table["p_real"] = odds / (1 + odds)
    right = figures(Judged.of(comparison, CUT, 5.0), 2.0)["calibration"]["as_they_come"]
    table["p_real"] = odds**5 / (1 + odds**5)
    sure = figures(Judged.of(comparison, CUT, 5.0), 2.0)["calibration"]["as_they_come"]
    assert right["ece"] < right["ece_by_chance"][1]
    assert sure["ece"] > sure["ece_by_chance"][1]


def test_the_limit_of_a_matched_filter_is_half_at_the_threshold(found: dict) -> None:
    whole = found["completeness"]
    assert whole["threshold_of_limit"] == 5.0
    by_bin = {one["low"]: one for one in whole["model"]}
    assert by_bin[5.0]["limit"] == 0.5
    assert by_bin[3.0]["found"] == 0
    assert 3 < whole["points"]["0.5"][0] < 13


def test_candidates_that_nobody_scored_are_judged_by_s_corr_alone() -> None:
    comparison = _comparison()
    comparison.candidates["p_real"] = np.nan
    found = figures(Judged.of(comparison, CUT, 5.0), 2.0)
    assert list(found["ranking"]) == ["S_corr cut"]
    assert found["calibration"] == {}
    assert found["end_to_end"]["S_corr cut"]["recall"][0] == pytest.approx(0.8)


def test_the_headline_has_a_line_for_each_score(found: dict) -> None:
    text = "\n".join(headline(found))
    assert re.search(r"20 images, 2.0 megapixels; 80 real and 120 bogus", text)
    assert re.search(r"^model .* \d\.\d{3}$", text, re.M)


def test_the_threshold_is_the_models_own_where_it_has_one() -> None:
    table = _comparison().candidates
    assert own_threshold(table) == 0.5
    table["accepted"] = table["p_real"] >= 0.62
    assert own_threshold(table) == table["p_real"][table["p_real"] >= 0.62].min()
    table["accepted"] = False
    assert (table["p_real"] < own_threshold(table)).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Settings(candidates="a", truth="b", output="c", threshold=1.5)
    json.dumps(Settings(candidates="a", truth="b", output="c").model_dump())
