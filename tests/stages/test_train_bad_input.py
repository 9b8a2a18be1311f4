"""What a training job is told before anything begins, and what holds when MLflow goes away."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astrid_dist.errors import AstridError, ConfigError, InputError, StorageError
from astrid_dist.learning.model_file import save_model
from astrid_dist.learning.registry import load, promote, register
from astrid_dist.learning.tracking import Tracker, client_of, start_run
from astrid_dist.learning.training import new_model
from astrid_dist.stages.train import Settings, run
from astrid_dist.store.locations import Location
from tests.learning.products import product
from tests.learning.test_training import FAST, TINY, dot_product, trainer

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("good")
    return dot_product(folder), dot_product(folder, "val", 64)


def refused(good: tuple[str, str], output: Path, **changes: Any) -> None:
    """Run what should not get as far as Ray."""
    given = {"samples": good[0], "validation": [good[1]], "output": str(output), "size": "small", "batch": 32}
    try:
        run(Settings.model_validate(given | changes))
    finally:
        assert not list(output.rglob("*"))  # nothing was begun


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": np.zeros(64)}, r"ztf/train: 0 real and 64 bogus .*cannot be learned.*loss: \{real: 0\}"),
        ({"label": np.ones(64)}, r"64 real and 0 bogus samples; without both"),
        ({"label": np.full(64, np.nan)}, r"the label of 64 samples is not .*, but nan"),
        ({"injectable": np.zeros(64, bool)}, r"0 real and 0 bogus|none usable: 64 could not be put in"),
        ({"weight": np.full(64, np.nan)}, r"0 real and 0 bogus|none usable: .* 64 have weight 0"),
    ],
)
def test_labels_from_which_nothing_is_learned(
    good: tuple[str, str], tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    bad = product(tmp_path / "bad", samples=64, side=15, columns=columns)
    with pytest.raises(InputError, match=message):
        refused(good, tmp_path / "out", samples=bad)


def test_stamps_without_any_data(good: tuple[str, str], tmp_path: Path) -> None:
    empty = product(tmp_path / "empty", samples=64, stamps=np.full((1, 4, 9, 9), np.nan))
    with pytest.raises(InputError, match=r"#ztf/train: 32 stamps were read, and none has a pixel with data"):
        refused(good, tmp_path / "out", samples=empty)


def test_one_sample(good: tuple[str, str], tmp_path: Path) -> None:
    one, other = dot_product(tmp_path / "one", samples=1), dot_product(tmp_path / "one", "val", 1)
    with pytest.raises(InputError, match=r"1 real and 0 bogus"):
        refused(good, tmp_path / "out", samples=one)
    with pytest.raises(InputError, match=r"1 samples make no batch of 32 on 1 ranks: choose a smaller batch"):
        refused(good, tmp_path / "out", samples=one, loss={"real": 0})
    with pytest.raises(InputError, match=r"1 real and 0 bogus .*there is no AUC.*metric: loss"):
        refused(good, tmp_path / "out", validation=[other])


def test_a_class_that_has_no_sample(good: tuple[str, str], tmp_path: Path) -> None:
    asked = {"balance": ["class"], "shares": {"variable": 2}}
    with pytest.raises(InputError, match=r"stated for \['variable'\].*there are transient, bad_pixel"):
        refused(good, tmp_path / "out", sampling=asked)


def test_another_layout_version_and_missing_planes(good: tuple[str, str], tmp_path: Path) -> None:
    old = dot_product(tmp_path / "old", samples=32)
    meta = Location.parse(old.partition("#")[0]).path / "zarr.json"  # type: ignore[operator]
    header = json.loads(meta.read_text())
    header["attributes"]["astrid"]["version"] = 1
    meta.write_text(json.dumps(header))
    with pytest.raises(ConfigError, match=r"ztf.zarr.*layout version 1.*make it again"):
        refused(good, tmp_path / "out", samples=old)
    flat = product(tmp_path / "flat", samples=32, planes=("difference", "score"))
    url = flat.partition("#")[0]
    meta = Location.parse(url).path / "ztf" / "train" / "zarr.json"  # type: ignore[operator]
    header = json.loads(meta.read_text())
    header["attributes"]["planes"] = ["science", "score"]
    meta.write_text(json.dumps(header))
    with pytest.raises(
        InputError, match=r"has the planes science, score: samples need at least a difference"
    ):
        refused(good, tmp_path / "out", samples=flat)


class Trap:
    """Pickles as a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").mkdir, (str(self.trace),))


def test_a_base_that_cannot_be_taken(good: tuple[str, str], tmp_path: Path) -> None:
    torch.save({"state": Trap(tmp_path / "ran")}, tmp_path / "trap.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "empty.pt").write_bytes(b"")
    save_model(new_model(TINY, 1), tmp_path / "good.pt")
    cases: list[tuple[dict[str, Any], type[AstridError], str]] = [
        ({"base": str(tmp_path / "trap.pt")}, InputError, r"trap.pt: refused, .* would run code"),
        ({"base": str(tmp_path / "junk.pt")}, InputError, r"junk.pt: this is no model, or a damaged one"),
        ({"base": str(tmp_path / "empty.pt")}, InputError, r"empty.pt: this is no model, or a damaged one"),
        ({"base": str(tmp_path / "none.pt")}, InputError, r"there is no model .*none.pt: check the path"),
        ({"base": "astrid-none"}, ConfigError, r"no model 'astrid-none' champion: train it, or name another"),
        (
            {"base": str(tmp_path / "good.pt"), "model": {"hidden": 8}},
            ConfigError,
            r"architecture is that of the base",
        ),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            refused(good, tmp_path / "runs" / "out", **changes)
    assert not (tmp_path / "ran").exists()


def test_a_registered_model_that_was_replaced_by_a_trap(tmp_path: Path) -> None:
    """Somebody who can write into the store of files must not run code here; the new model is kept."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    model = new_model(TINY, 1).eval()
    number = start_run(uri, "test", "one", Location.parse(tmp_path / "artifacts"))
    register(uri, number, model, "astrid-trap", {})
    promote(uri, "astrid-trap", "1", "auc", 0.8, "d", lambda _: 0.0)
    (kept,) = tmp_path.rglob("model.pt")
    for content in (b"junk", b""):
        kept.write_bytes(content)
        with pytest.raises(InputError, match=r"model.pt: this is no model"):
            load(uri, "astrid-trap")
    torch.save({"state": Trap(tmp_path / "ran")}, kept)
    with pytest.raises(InputError, match=r"refused, .* would run code"):
        load(uri, "astrid-trap@champion")
    again = start_run(uri, "test", "two", Location.parse(tmp_path / "artifacts"))
    version = register(uri, again, new_model(TINY, 2).eval(), "astrid-trap", {})
    verdict = promote(uri, "astrid-trap", version, "auc", 0.9, "d", lambda _: 0.0)
    assert "version 1, cannot be measured" in str(verdict)
    assert load(uri, "astrid-trap@challenger").config == model.config
    assert not (tmp_path / "ran").exists()


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """A real MLflow server on loopback."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / f"server{time.monotonic_ns()}.log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                assert running.poll() is None, "the server did not start"
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # as a machine that fails: nothing is closed
        running.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_hears_of_all_when_it_is_back(
    good: tuple[str, str], tmp_path: Path
) -> None:
    """Real training, a real server, a real kill; the worker's Tracker is told of each epoch, as in a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = Location.parse(tmp_path / "run")
    one = trainer(good, FAST.model_copy(update={"epochs": 4}))
    epochs = (moment.metrics for moment in one.run())
    with server(tmp_path, port) as url:
        number = start_run(url, "test", "run", output)
        tracker = Tracker(url, number, output)
        tracker.describe({"rate": 1e-2}, {"code": "1"})
        assert tracker.epoch(next(epochs) or {})
    assert not tracker.epoch(next(epochs) or {})  # it is gone; training goes on
    assert not tracker.epoch(next(epochs) or {})
    assert tracker.waiting == 2
    with pytest.raises(
        StorageError, match=rf"MLflow at {url} failed: .*; see that it runs, then run the same"
    ):
        register(url, number, one.best_model(), "astrid", {})
    with server(tmp_path, port) as url:
        back = Tracker(url, number, output)  # what a worker that was started again has
        assert back.waiting == 2
        assert back.epoch(next(epochs) or {})
        assert next(epochs, None) is None
        assert back.waiting == 0
        assert register(url, number, one.best_model(), "astrid", {}) == "1"
        assert load(url, "astrid@challenger").config == one.model.config
        client = client_of(url)
        for name in ("epoch", "val_auc", "train_loss"):
            history = client.get_metric_history(number, name)
            assert [(m.step, m.value) for m in history] == [
                (int(epoch["epoch"]), epoch[name]) for epoch in one.history
            ]
