"""What MLflow remembers, and what is kept for it while it is away."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astrid_dist.errors import ConfigError, InputError, StorageError
from astrid_dist.learning.flavour import Model
from astrid_dist.learning.model_file import save_model, weights_digest
from astrid_dist.learning.registry import load, promote, register
from astrid_dist.learning.tracking import SPOOL, Tracker, client_of, flat, start_run, tracking_uri
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.store.locations import Location

# MLflow's own warnings, of libraries it stands on and of the missing example of an input of any size
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.parse(tmp_path / "run")


@pytest.fixture
def run(uri: str, output: Location) -> str:
    return start_run(uri, "test", "one", output / "artifacts")


def model(seed: int = 0, **changes: Any) -> UNet:
    torch.manual_seed(seed)
    small = {"widths": (4, 8), "hidden": 8, "heads": 2, "condition": 4}
    return UNet(UNetConfig.named("small", **{**small, **changes})).eval()


def epoch(number: int, auc: float = 0.5) -> dict[str, float]:
    return {"epoch": float(number), "val_auc": auc}


def test_an_epoch_that_is_told_again_is_there_once(uri: str, run: str, output: Location) -> None:
    Tracker(uri, run, output).epoch(epoch(1, 0.7))
    after_a_kill = Tracker(uri, run, output)
    after_a_kill.epoch(epoch(1, 0.7))
    after_a_kill.epoch(epoch(2, 0.8))
    after_a_kill.catch_up([epoch(1, 0.7), epoch(2, 0.8), epoch(3, 0.9)])
    history = client_of(uri).get_metric_history(run, "val_auc")
    assert [(one.step, one.value) for one in history] == [(1, 0.7), (2, 0.8), (3, 0.9)]


def test_settings_and_data_are_on_its_page(uri: str, run: str, output: Location) -> None:
    tracker = Tracker(uri, run, output)
    tracker.describe({"rate": 0.1, "loss": {"dice": 2}, "samples": ["a", "b"]}, {"code": "1"})
    group = {"url": "file:///s.zarr", "group": "ztf/train", "samples": 7, "job": "j"}
    digest = "ab" * 32
    tracker.datasets("training", [{**group, "digest": digest, "inputs_digest": "x"}], {"samples": 7})
    tracker.summary({"best_auc": 0.9, "nothing": float("nan")})
    tracker.finish()
    found = client_of(uri).get_run(run)
    assert found.data.params == {"rate": "0.1", "loss.dice": "2", "samples": '["a", "b"]'}
    assert found.data.metrics == {"best_auc": 0.9}
    assert found.info.status == "FINISHED"
    (one,) = found.inputs.dataset_inputs
    assert digest.startswith(one.dataset.digest)
    assert json.loads(one.dataset.profile)["digest"] == digest
    assert json.loads(one.dataset.source)["uri"] == "file:///s.zarr#ztf/train"


def test_a_server_that_is_gone_stops_nothing_and_hears_of_all_later(
    uri: str, run: str, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{one.getsockname()[1]}"
    tracker = Tracker(gone, run, output)
    start = time.monotonic()
    assert not tracker.epoch(epoch(1))
    assert not tracker.epoch(epoch(2))
    assert time.monotonic() - start < 60
    assert tracker.waiting == 2
    with pytest.raises(StorageError, match=r"MLflow at http.*failed.*run the same again"):
        tracker.catch_up([])
    with pytest.raises(StorageError, match="failed"):
        start_run(gone, "test", "one", output)
    back = Tracker(uri, run, output)  # another process, later
    assert back.waiting == 2
    assert back.epoch(epoch(3))
    assert back.waiting == 0
    assert json.loads(output.objects().get(SPOOL) or b"") == []
    assert [m.step for m in client_of(uri).get_metric_history(run, "epoch")] == [1, 2, 3]


def test_the_first_of_a_name_is_champion_and_then_the_better_one(
    uri: str, output: Location, tmp_path: Path
) -> None:
    def never(_: UNet) -> float:
        raise AssertionError("the champion was measured on these data already")

    def add(seed: int, auc: float, data: str = "d", measure: Any = never) -> Any:
        number = start_run(uri, "test", f"run {seed}", output / "artifacts")
        tags = {"data": data, "val_auc": repr(auc)}
        version = register(uri, number, model(seed), "astrid-test", tags)
        assert register(uri, number, model(seed), "astrid-test", tags) == version
        return promote(uri, "astrid-test", version, "auc", auc, data, measure)

    assert add(1, 0.8).champion
    worse = add(2, 0.7)
    assert not worse.champion
    assert "0.7000, version 1 has 0.8000" in worse.why
    assert weights_digest(load(uri, "astrid-test")) == weights_digest(model(1))
    assert weights_digest(load(uri, "astrid-test@challenger")) == weights_digest(model(2))
    assert weights_digest(load(uri, "astrid-test/1")) == weights_digest(model(1))
    assert add(3, 0.9).champion
    measured: list[str] = []

    def on_others(champion: UNet) -> float:
        measured.append(weights_digest(champion))
        return 0.95

    assert not add(4, 0.93, "other data", on_others).champion
    assert measured == [weights_digest(model(3))]
    aliases = client_of(uri).get_registered_model("astrid-test").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "3", "challenger": "4"}


def test_a_registered_model_has_a_signature_and_takes_any_size(uri: str, output: Location) -> None:
    import mlflow

    number = start_run(uri, "any size", "run", output / "artifacts")
    register(uri, number, model(), "astrid-any", {})
    source = client_of(uri).get_model_version_download_uri("astrid-any", "1")
    assert not list((output.path or Path()).rglob("*.pkl"))
    assert mlflow.get_tracking_uri() != uri
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(source)
    finally:
        mlflow.set_tracking_uri(None)
    for shape in ((1, 1, 4, 31, 31), (3, 2, 4, 64, 40)):
        told = loaded.predict(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        assert told["segmentation"].shape == (*shape[:2], 11, *shape[3:])
        assert ((told["real"] > 0) & (told["real"] < 1)).all()
    with pytest.raises(Exception, match="Shape"):
        loaded.predict(np.zeros((1, 4, 31, 31), np.float32))
    with pytest.raises(InputError, match="it must be"):
        Model(model()).predict(np.zeros((4, 31, 31), np.float32))


def test_an_unreadable_model_of_the_registry_is_told_and_stays_champion(uri: str, output: Location) -> None:
    number = start_run(uri, "broken", "run", output / "artifacts")
    register(uri, number, model(), "astrid-broken", {})
    promote(uri, "astrid-broken", "1", "auc", 0.8, "d", lambda _: 0.0)
    (kept,) = (output.path or Path()).rglob("model.pt")
    kept.write_bytes(kept.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"model.pt.*damaged"):
        load(uri, "astrid-broken")
    again = start_run(uri, "test", "run", output / "artifacts")
    version = register(uri, again, model(), "astrid-broken", {})
    verdict = promote(uri, "astrid-broken", version, "auc", 0.9, "d", lambda _: 0.0)
    assert not verdict.champion
    assert "version 1, cannot be measured" in verdict.why
    kept.unlink()
    with pytest.raises(InputError, match=r"astrid-broken version 1"):
        load(uri, "astrid-broken")


def test_models_come_from_names_from_files_and_from_the_base(
    uri: str, output: Location, tmp_path: Path
) -> None:
    save_model(model(5), tmp_path / "base.pt")
    path = str(tmp_path / "base.pt")
    for found in (load(uri, path), load(uri, "astrid-none", fallback=path)):
        assert weights_digest(found) == weights_digest(model(5))
    with pytest.raises(InputError, match=r"there is no model .*other.pt"):
        load(uri, str(tmp_path / "other.pt"))
    with pytest.raises(ConfigError, match="has no model 'astrid-none' champion"):
        load(uri, "astrid-none")


def test_where_runs_are_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    there, bucket = Location.parse(tmp_path), Location.parse("s3://bucket/runs")
    assert tracking_uri(None, there) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("http://server", bucket) == "http://server"
    monkeypatch.chdir(tmp_path)  # workers stand elsewhere
    assert tracking_uri("sqlite:///runs/mlflow.db", bucket) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:////data/mlflow.db", bucket) == "sqlite:////data/mlflow.db"
    with pytest.raises(ConfigError, match=r"is no folder.*give tracking"):
        tracking_uri(None, bucket)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert tracking_uri(None, bucket) == "http://other"


def test_nested_settings_get_dotted_names() -> None:
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}) == {"a": 1, "b.c": 2, "b.d.e": 3, "f": {}}
