"""The page of an injected survey says what was put into it."""

import re
from pathlib import Path

import pytest

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError
from astrid_dist.stages.injected_report import injected_report
from astrid_dist.stages.run import run_stage
from astrid_dist.store.opening import open_truth
from tests.small_survey import small_survey


@pytest.mark.slow
def test_the_page_counts_what_the_truth_holds(tmp_path: Path) -> None:
    made = small_survey(256)
    injected, difference = str(tmp_path / "injected.zarr"), str(tmp_path / "difference.zarr")
    pair = {"survey": made.survey, "reference": made.reference}
    frames = {"mode": "frames", "sources_per_mpix": 300, "realisations": 2}
    run_stage("inject", {**pair, **frames, "output": injected}, SerialEngine())
    run_stage("difference", {**pair, "survey": injected, "output": difference}, SerialEngine())
    text = injected_report(difference)
    truth = open_truth(injected).to_dataframe()
    put = int((truth["injectable"] & (truth["epoch"] >= 0)).sum())
    assert put > 0
    assert f"{put:,}" in text
    assert "12 difference images" in text or re.search(r">12<", text)
    assert text.count("data:image/png") > 4
    with pytest.raises(ConfigError, match="truth"):
        injected_report(made.difference)
