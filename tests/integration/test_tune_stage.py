"""A search on a Ray of its own: stopped and gone on with, its trials in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from mlflow import MlflowClient

from astrid_dist.errors import ResumeConflictError
from astrid_dist.stages.tune import Settings, run
from tests.learning.test_training import TINY, dot_product

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_a_search_that_was_killed_goes_on_and_prefers_the_rate_that_learns(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "samples": dot_product(tmp_path),
        "validation": [dot_product(tmp_path, "val", 128)],
        "output": str(tmp_path / "search"),
        "size": "small",
        "model": {name: value for name, value in TINY.items() if name != "size"},
        "search": {"rate": {"choices": [1e-8, 1e-2]}, "model.dropout": {"low": 0.0, "high": 0.2}},
        "trials": 4,
        "epochs": 3,
        "batch": 32,
        "grace": 1,
    }
    code = f"from astrid_dist.stages.tune import Settings, run; run(Settings.model_validate({asked!r}))"
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "TUNE_GLOBAL_CHECKPOINT_S": "1"},
    )
    while not list((tmp_path / "search").rglob("state.pt")) and driver.poll() is None:
        time.sleep(0.1)
    time.sleep(1.5)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    early = {path.parent.parent.name for path in (tmp_path / "search").rglob("state.pt")}
    assert early

    lines: list[str] = []
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        run(Settings.model_validate(asked), lines.append)
    finally:
        ray.shutdown()

    record = json.loads((tmp_path / "search" / "tune.json").read_text())
    assert [one["trial"] for one in record["trials"]] == [0, 1, 2, 3]
    assert all(one["best"] is not None for one in record["trials"])
    assert early <= {path.parent.parent.name for path in (tmp_path / "search").rglob("state.pt")}
    best = yaml.safe_load(lines[-1])
    assert best["rate"] == 0.01
    assert set(best["model"]) == {"dropout"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    parent = record["runs"]["all"]
    [experiment] = [one for one in client.search_experiments() if one.name == "astrid"]
    runs = client.search_runs([experiment.experiment_id])
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == 4
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert {one.data.params["rate"] for one in children} <= {"0.01", "1e-08"}
    assert all(client.get_metric_history(one.info.run_id, "val_auc") for one in children)
    again: list[str] = []
    run(Settings.model_validate(asked), again.append)  # reads what is there; needs no Ray
    assert again == lines
    with pytest.raises(ResumeConflictError, match="other settings"):
        run(Settings.model_validate(asked | {"trials": 5}))
