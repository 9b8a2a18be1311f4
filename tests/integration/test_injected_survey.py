"""An injected survey goes the way of a real one: what was put in is found, where it is and as bright."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.comparison import Comparison, compare
from astrid_dist.stages.run import run_stage
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.reading import ProductReader, group_names
from tests.small_survey import SmallSurvey, small_survey

DRAWN = {"sources_per_mpix": 160.0, "snr": [5, 100], "seed": 8}


def searched(made_of: SmallSurvey, folder: Path, reference: str, **more: Any) -> Comparison:
    """Inject, difference, detect, and compare with the truth."""
    survey, difference, candidates = (
        str(folder / f"{name}.zarr") for name in ("injected", "difference", "candidates")
    )
    asked = {"mode": "frames", "survey": made_of.survey, "reference": reference, "output": survey}
    run_stage("inject", {**asked, **DRAWN, **more}, SerialEngine())
    subtract = {"survey": survey, "reference": reference, "output": difference}
    run_stage("difference", subtract, SerialEngine())
    run_stage("detect", {"difference": difference, "output": candidates, "quality": "all"}, SerialEngine())
    return compare(survey, reference, difference, candidates)


def check_found(found: Comparison, rows: pd.DataFrame, least: int) -> None:
    """Everything at ten sigma or more is found, within a pixel, with its flux."""
    bright = rows[rows["true_snr"].abs() >= 10]
    assert len(bright) >= least, "too few bright sources for this test"
    hit = bright[bright["candidate"] >= 0]
    missed = bright[bright["candidate"] < 0][["id", "difference_epoch", "x", "y", "kind", "true_snr"]]
    assert len(missed) <= 0.05 * len(bright), f"\n{missed}"
    seen = found.candidates.loc[hit["candidate"]]
    away = np.hypot(seen["x"].to_numpy() - hit["x"].to_numpy(), seen["y"].to_numpy() - hit["y"].to_numpy())
    assert np.median(away) < 0.3
    pull = (seen["flux"].to_numpy() - hit["flux_ujy"].to_numpy()) / seen["flux_err"].to_numpy()
    assert abs(np.median(pull)) < 0.5
    assert 1.48 * np.median(np.abs(pull - np.median(pull))) < 1.6


@pytest.fixture(scope="module")
def made_of() -> SmallSurvey:
    return small_survey()


def test_sources_are_found_and_false_positives_have_their_artifact(
    made_of: SmallSurvey, tmp_path: Path
) -> None:
    found = searched(made_of, tmp_path, made_of.reference, environments={"empty": 1, "star": 1, "nucleus": 1})
    points = found.countable[found.countable["class"] != "moving"]
    check_found(found, points[points["class"] == "transient"], least=15)
    # The truth's own SNR is that of the subtraction.
    measurable = points[points["true_snr"].abs() > 5]
    ratio = measurable["snr"] / measurable["true_snr"]
    assert ratio.median() == pytest.approx(1, abs=0.03)
    faint = points[points["true_snr"].abs() < 2]
    assert (faint["candidate"] >= 0).mean() < 0.1
    # Hot pixels and cosmic rays are what most false positives are, and the truth says so.
    causes = found.false["cause"].value_counts()
    assert causes["bad_pixel"] > 0.3 * len(found.false)
    lost = found.truth[~found.truth["injectable"]]
    assert not lost["countable"].any(), "what could not be put in counts as missed"


@pytest.mark.slow
def test_what_the_reference_holds_fades(made_of: SmallSurvey, tmp_path: Path) -> None:
    reference = str(tmp_path / "reference.zarr")
    kinds = {"negative": 0.5, "artifacts": 100.0, "kinds": ["SN Ia", "SN II", "template contamination"]}
    run_stage(
        "inject",
        {
            "mode": "frames", "into": "reference", "survey": made_of.survey,
            "reference": made_of.reference, "output": reference, **DRAWN, **kinds,
        },
        SerialEngine(),
    )  # fmt: skip
    found = searched(made_of, tmp_path, reference, **kinds)
    gone = found.countable[found.countable["flux_ujy"] < 0]
    assert set(gone["kind"]) == {"SN Ia", "SN II", "template contamination"}
    check_found(found, gone, least=20)
    assert (gone["snr"] < 0).all()


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_and_bands_agree(tmp_path: Path) -> None:
    made_of = small_survey(256, 4, ("g", "r"), 6)
    asked = {"mode": "frames", "survey": made_of.survey, "reference": made_of.reference, **DRAWN}
    urls = [str(tmp_path / f"{name}.zarr") for name in ("serial", "workers")]
    run_stage("inject", {**asked, "output": urls[0]}, SerialEngine())
    with open_engine("local") as engine:
        run_stage("inject", {**asked, "output": urls[1]}, engine)
    groups = list(group_names(Location.parse(urls[0])))
    assert len(groups) == 2
    for group in groups:
        one, other = (ProductReader(Location.parse(url), group) for url in urls)
        for name in variables("survey"):
            np.testing.assert_array_equal(other.read(name), one.read(name), err_msg=name)
    rows, same = (open_truth(url).to_dataframe() for url in urls)
    pd.testing.assert_frame_equal(rows, same)
    real = rows[rows["class"].isin(["transient", "variable"])].dropna(subset=["x"])
    places = real.groupby("id")[["x", "y"]].nunique()
    assert (places == 1).all(axis=None), "a source is elsewhere in another band"
    assert (real.groupby("id")["band"].nunique() == 2).all()
