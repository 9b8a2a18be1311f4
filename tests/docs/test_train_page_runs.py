"""The page about training does what it says: its first command, and its Python blocks after it."""

import re
import shlex
from pathlib import Path

import pytest

from astrid_dist.cli import _load
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.train import Settings, run
from tests.small_survey import small_survey

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto-train.md"
#: Seconds instead of hours.
SMALL = {"size": "small", "epochs": 1, "batch": 32, "model": {"widths": (4, 8), "heads": 2, "hidden": 16}}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_the_first_command_trains_and_the_python_blocks_use_its_model(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    made = small_survey()
    asked = {"samples": 400, "way": "fast", "splits": {"train": 0.7, "val": 0.3}, "split_by": "night"}
    pair = {"survey": made.survey, "reference": made.reference}
    run_stage("inject", {**pair, **asked, "output": "samples.zarr"}, SerialEngine())
    page = PAGE.read_text()
    command = re.search(r"^astrid (run jobs/train.yaml.*)$", page, re.MULTILINE)
    settings = _load("train", shlex.split(command[1])[2:])[1]
    lines = []
    run(Settings.model_validate({**settings.model_dump(exclude_unset=True), **SMALL}), lines.append)
    assert "astrid version 1 is champion" in lines[-2]
    import mlflow

    names = {}
    try:
        for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            exec(compile(block, PAGE.name, "exec"), names)
    finally:
        mlflow.set_tracking_uri(None)
    assert names["told"].shape[1:3] == (1, 11)
