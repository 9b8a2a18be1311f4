"""The stage from job file to registered model: real Ray workers, real MLflow, a product on disk."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from astrid_dist.cli import _load
from astrid_dist.errors import ClusterError, ConfigError, InputError, ResumeConflictError
from astrid_dist.learning.model_file import load_model, weights_digest
from astrid_dist.learning.registry import load, load_ensemble
from astrid_dist.stages.run import plan_stage
from astrid_dist.stages.train import Settings, run
from astrid_dist.store.locations import Location
from tests.learning.test_training import TINY, dot_product
from tests.r2_rules import R2Server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]
FAST: dict[str, Any] = {
    "size": "small",
    "model": {name: value for name, value in TINY.items() if name != "size"},
    "epochs": 2,
    "batch": 32,
    "rate": 1e-2,
    "warmup": 0.2,
}


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        ray.init(num_cpus=2, include_dashboard=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("samples")
    return [dot_product(folder), *[dot_product(folder, "val", 128)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie beside each other, with one data base of MLflow."""
    return tmp_path_factory.mktemp("runs")


def settings(groups: list[str], output: Path, **changes: Any) -> Settings:
    named = {"samples": groups[0], "validation": [groups[1]], "output": str(output)}
    return Settings.model_validate(FAST | named | changes)


def said(one: Settings) -> list[str]:
    """The last lines: where the model is, its place, its page."""
    lines: list[str] = []
    run(one, lines.append)
    return lines[-3:]


@pytest.fixture(scope="module")
def first(samples: list[str], folder: Path) -> list[str]:
    """Lines of a first run with one worker."""
    return said(settings(samples, folder / "first"))


def command(one: Settings) -> list[str]:
    """The same run as a process, with a Ray of its own."""
    asked = one.model_dump(mode="json", exclude_unset=True)
    code = f"from astrid_dist.stages.train import Settings, run; run(Settings.model_validate({asked!r}))"
    return [sys.executable, "-c", code]


def client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db")


def test_a_run_ends_as_a_model_that_three_lines_apply_to_another_size(first: list[str], folder: Path) -> None:
    import mlflow

    assert "2 epochs" in first[0]
    assert "astrid version 1 is champion" in first[1]
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/astrid@champion")
    told = model.predict(np.zeros((2, 1, 4, 64, 48), np.float32))
    assert told["segmentation"].shape == (2, 1, 11, 64, 48)
    assert told["real"].shape == (2,)
    kept = load(f"sqlite:///{folder}/mlflow.db", "astrid")
    assert weights_digest(kept) == weights_digest(load_model(folder / "first" / "model.pt"))


def test_members_differ_by_their_seed_and_are_one_model(samples: list[str], folder: Path) -> None:
    one = settings(samples, folder / "deep", epochs=1, members=2, name="deep")
    lines: list[str] = []
    run(one, lines.append)
    assert "2 networks" in lines[-2]
    assert "deep version 3 is ch" in lines[-1]
    uri = f"sqlite:///{folder}/mlflow.db"
    kept = load_ensemble(uri, "deep/3")
    members = [load_model(folder / "deep" / f"member-{i}" / "model.pt") for i in range(2)]
    assert [weights_digest(own) for own in kept.unets] == [weights_digest(own) for own in members]
    assert weights_digest(members[0]) != weights_digest(members[1])
    alone, other = (client(folder).get_model_version("deep", str(i)).tags for i in (1, 2))
    both = client(folder).get_model_version("deep", "3").tags
    assert both["data"] == alone["data"]
    assert float(both["val_auc"]) >= min(float(alone["val_auc"]), float(other["val_auc"]))
    again: list[str] = []
    run(one, again.append)
    assert again[-2:] == lines[-2:]
    assert not any(line.startswith("epoch") for line in again)  # nothing was trained twice
    with pytest.raises(ResumeConflictError, match="an ensemble of other settings"):
        run(one.model_copy(update={"members": 3}))


def test_its_page_tells_on_what_how_and_how_well(first: list[str], folder: Path) -> None:
    record = json.loads((folder / "first" / "run.json").read_text())
    found = client(folder).get_run(record["run"])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.hidden"] == str(TINY["hidden"])
    assert found.data.params["rate"] == "0.01"
    assert {i.tags[0].value for i in found.inputs.dataset_inputs} == {"training", "validation"}
    assert {i.dataset.digest for i in found.inputs.dataset_inputs} == {"ztf0"}  # as the product says
    history = client(folder).get_metric_history(record["run"], "val_auc")
    assert [one.step for one in history] == [1, 2]
    assert [one.value for one in history] == [epoch["val_auc"] for epoch in record["history"]]
    assert found.data.metrics["best_auc"] == pytest.approx(record["best"], abs=1e-3)
    assert found.data.tags["astrid_dist"]
    names = {one.path for one in client(folder).list_artifacts(record["run"], "figures")}
    always = ("training_curves", "reliability", "confusion", "most_wrong", "least_sure")
    assert names == {f"figures/{name}.png" for name in always}
    assert found.info.run_name == "first"
    note = found.data.tags["mlflow.note.content"]
    assert note.startswith("**astrid version 1 is champion")
    for said in (
        "on validation samples | AUC",
        "256 samples, all made",
        "a new small model",
        "| transient | 128",
    ):
        assert said in note
    version = client(folder).get_model_version("astrid", "1")
    assert version.description.startswith(f"AUC {record['best']:.4f}")
    assert "models:/astrid/1" in version.description


def test_the_same_command_again_does_nothing_twice(
    first: list[str], samples: list[str], folder: Path
) -> None:
    before = (folder / "first" / "model.pt").stat().st_mtime_ns
    assert said(settings(samples, folder / "first")) == first
    assert (folder / "first" / "model.pt").stat().st_mtime_ns == before
    with pytest.raises(ResumeConflictError, match="other settings"):
        run(settings(samples, folder / "first", rate=0.5))


def test_a_worse_model_stays_a_challenger(first: list[str], samples: list[str], folder: Path) -> None:
    lines = said(settings(samples, folder / "worse", rate=1e-9, epochs=1, seed=2))
    assert "astrid version 2 is challenger" in lines[1]
    aliases = client(folder).get_registered_model("astrid").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "1", "challenger": "2"}


def test_a_survey_has_its_own_model_from_the_base(first: list[str], samples: list[str], folder: Path) -> None:
    lines = said(
        settings(
            samples, folder / "ztf", base="astrid", survey="ztf", tune="heads", epochs=1, model={}, rate=1e-3
        )
    )
    assert "astrid-ztf version 1 is champion" in lines[1]
    uri = f"sqlite:///{folder}/mlflow.db"
    base, tuned = load(uri, "astrid").state_dict(), load(uri, "astrid-ztf").state_dict()
    assert torch.equal(base["enter.weight"], tuned["enter.weight"])
    assert not torch.equal(base["segment.weight"], tuned["segment.weight"])
    assert load(uri, "astrid-decam", fallback="astrid").config == load(uri, "astrid").config
    with pytest.raises(ConfigError, match="no model 'astrid-decam'"):
        load(uri, "astrid-decam")


def test_two_workers_one_of_them_killed_end_as_if_nothing_had_happened(
    samples: list[str], folder: Path
) -> None:
    """The worker is a process of this machine that is killed by its number, in the middle of the run."""
    import psutil

    calm = {"workers": 2, "batch": 16, "epochs": 4, "keep_every": 2}
    run(settings(samples, folder / "calm", **calm))
    killed: list[int] = []

    def kill() -> None:
        kept = folder / "killed" / "ray"
        while not list(kept.glob("*/checkpoint_*")):
            time.sleep(0.05)
        for one in psutil.Process().children(recursive=True):
            if "TrainWorker" in " ".join(one.cmdline()):
                killed.append(one.pid)
                one.kill()
                return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run(settings(samples, folder / "killed", experiment="astrid", **calm))
    killer.join(10)
    assert len(killed) == 1
    records = [json.loads((folder / name / "run.json").read_text()) for name in ("calm", "killed")]
    for ours, theirs in zip(*(record["history"] for record in records), strict=True):
        for name in ("val_loss", "val_auc", "val_iou"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
    history = client(folder).get_metric_history(records[1]["run"], "val_auc")
    assert [one.step for one in history] == [1, 2, 3, 4]


def test_a_driver_that_is_killed_goes_on_when_the_same_command_runs_again(
    samples: list[str], folder: Path
) -> None:
    """The command is a process with a Ray of its own; both are killed after a checkpoint within an epoch."""
    whole = {"epochs": 3, "keep_every": 2}
    run(settings(samples, folder / "whole", **whole))
    driver = subprocess.Popen(
        command(settings(samples, folder / "stopped", **whole)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kept = folder / "stopped" / "ray"
    while len(list(kept.glob("*/checkpoint_*/state.pt"))) < 2 and driver.poll() is None:
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    record = json.loads((folder / "stopped" / "run.json").read_text())
    assert "history" not in record
    run(settings(samples, folder / "stopped", **whole))
    records = [json.loads((folder / name / "run.json").read_text()) for name in ("whole", "stopped")]
    assert records[1]["run"] == record["run"]
    for ours, theirs in zip(*(one["history"] for one in records), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, nan_ok=True)


@pytest.mark.s3
def test_checkpoints_and_the_model_lie_in_a_bucket(
    samples: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that refuses what Cloudflare R2 refuses; workers know of it by the environment alone."""
    with R2Server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        url = server.bucket()
        one = settings(samples, folder, tracking=f"sqlite:///{folder}/mlflow.db", experiment="bucket")
        one = one.model_copy(update={"output": f"{url}/run"})
        done = subprocess.run(command(one), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"{url}/run/model.pt" in done.stdout
        names = [name for name, _ in Location.parse(f"{url}/run").objects().list("ray")]
        assert any(name.endswith("/state.pt") for name in names)
        assert list(Location.parse(f"{url}/mlflow-artifacts").objects().list())
        assert load("", f"{url}/run/model.pt").config.hidden == TINY["hidden"]


def test_more_workers_than_there_is_room_for_is_told(samples: list[str], folder: Path) -> None:
    with pytest.raises(ClusterError, match=r"1 workers need 1 GPU, Ray has 0"):
        run(settings(samples, folder / "none", gpu=True))


def test_what_does_not_fit_is_told_before_anything_begins(samples: list[str], tmp_path: Path) -> None:
    url = samples[0].partition("#")[0]
    with pytest.raises(InputError, match="no group 'val'"):
        run(settings(samples, tmp_path / "o", samples=url, validation=[]))
    with pytest.raises(InputError, match="trained on and validated on"):
        run(settings(samples, tmp_path / "o", validation=[samples[0]]))
    with pytest.raises(InputError, match="no group 'train' of decam"):
        run(settings(samples, tmp_path / "o", samples=url, survey="decam"))
    with pytest.raises(ConfigError, match="no settings"):
        run(settings(samples, tmp_path / "o", loss={"beauty": 1}))
    with pytest.raises(ConfigError, match="no tasks to plan"):
        plan_stage("train", settings(samples, tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_the_shipped_job_file_is_read(tmp_path: Path) -> None:
    stage, read = _load("train", [f"output={tmp_path}", "epochs=3"])
    assert (stage, read.epochs) == ("train", 3)
