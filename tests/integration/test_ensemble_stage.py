"""From an injected survey to an ensemble, and back into detection: every part real."""

from pathlib import Path

import numpy as np
import pytest
import torch

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.learning.model_file import save_model
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.stages.ensemble import Settings, run
from astrid_dist.stages.run import run_stage
from tests.small_survey import small_survey


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_candidates_with_truth_make_an_ensemble_that_detects(tmp_path: Path) -> None:
    made_of = small_survey()
    survey, difference, scored, again = (
        str(tmp_path / f"{name}.zarr") for name in ("injected", "difference", "candidates", "again")
    )
    inject = {"mode": "frames", "survey": made_of.survey, "reference": made_of.reference, "output": survey}
    run_stage("inject", {**inject, "sources_per_mpix": 160.0, "snr": [5, 100], "seed": 8}, SerialEngine())
    subtract = {"survey": survey, "reference": made_of.reference, "output": difference}
    run_stage("difference", subtract, SerialEngine())
    torch.manual_seed(0)
    save_model(UNet(UNetConfig(widths=(4, 8), hidden=8, heads=2, condition=4)), tmp_path / "model.pt")
    detect = {"difference": difference, "quality": "all", "device": "cpu", "propose": 1.0}
    model = str(tmp_path / "model.pt")
    run_stage("detect", {**detect, "output": scored, "model": model}, SerialEngine())
    lines: list[str] = []
    settings = {"candidates": scored, "truth": survey, "model": model, "output": str(tmp_path / "runs" / "e")}
    few = {"folds": 3, "examples": 10, "repeats": 1, "name": "small", "trees": {"trees": 40, "least": 5}}
    run(Settings.model_validate({**settings, **few}), lines.append)
    aucs = {line.split("  ")[0]: float(line.split()[-3]) for line in lines[2:6]}
    assert aucs["trees"] > 0.8  # of a network that learned nothing nothing comes
    assert aucs["stack"] > 0.8
    assert "small version 1 is champion" in lines[-1]

    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    run_stage("detect", {**detect, "output": again, "model": "small", "tracking": uri}, SerialEngine())
    before, after = astrid.open_candidates(scored), astrid.open_candidates(again)
    np.testing.assert_array_equal(before["x"], after["x"])
    np.testing.assert_allclose(before["p_unet"], after["p_unet"], atol=1e-6)
    assert np.isnan(before["p_trees"]).all()
    assert np.isfinite(after["p_trees"]).all()
    assert np.isfinite(after["p_real"]).all()
    assert not np.allclose(after["p_real"], before["p_real"], atol=0.05)
