"""An ensemble from candidates and truth: labels, cells, what is registered, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from astrid_dist.cli import _load
from astrid_dist.errors import InputError, ResumeConflictError
from astrid_dist.learning.ensemble import Ensemble
from astrid_dist.learning.model_file import save_model
from astrid_dist.learning.registry import load_ensemble, registered_name
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.stages import ensemble as stage
from astrid_dist.stages import labelled, scoring
from astrid_dist.stages.comparison import Comparison
from astrid_dist.stages.ensemble import Settings, make, run
from astrid_dist.stages.labels import BESIDE_PX, labels, sky_cells
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import create_product, set_state
from tests.learning.made_candidates import made_candidates, told_by_a_unet

FAST: dict[str, Any] = {"trees": {"trees": 15, "leaves": 6, "least": 10}, "folds": 3, "repeats": 1}


def comparison(places: list[tuple[float, float, int]], **truth: list[Any]) -> Comparison:
    """Candidates at x, y that match a row of the truth (-1: none), all of one image."""
    candidates = pd.DataFrame(places, columns=["x", "y", "truth"])
    candidates[["group", "epoch"]] = ["f/r", 0]
    rows = pd.DataFrame(truth)
    rows[["group", "difference_epoch"]] = ["f/r", 0]
    return Comparison(rows, candidates, 1)


def test_who_is_real_who_is_bogus_and_who_is_neither() -> None:
    found = comparison(
        [(10, 10, 0), (30, 30, 1), (50, 50, 2), (70, 70, 3), (11, 10 + BESIDE_PX - 1.5, -1), (90, 10, -1),
         (91, 90, -1), (20, 90, -1)],
        x=[10, 30, 50, 70, 90, 20],
        y=[10, 30, 50, 70, 90, 90],
        **{"class": ["transient", "variable", "transient", "moving", "transient", "bad_pixel"]},
        true_snr=[8.0, 2.5, 50.0, -9.0, 1.0, np.nan],
        countable=[True, True, False, True, True, False],
    )  # fmt: skip
    # bright: real; faint or not to be put in: neither; fading: real; beside something real: neither;
    # far from everything: bogus; beside what is too faint: neither; an artifact: bogus
    assert labels(found, 3.0).tolist() == [1, -1, -1, 1, -1, 0, -1, 0]
    known = pd.DataFrame({"x": [90.0], "y": [11.0], "class": ["variable"], "field": ["f"], "band": ["r"]})
    assert labels(found, 3.0, known).tolist() == [1, -1, -1, 1, -1, -1, -1, 0]


def test_cells_are_of_the_sky_whatever_the_field_and_of_pixels_without_one() -> None:
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"ra": rng.uniform(0, 360, 500), "dec": rng.uniform(-80, 80, 500)})
    table[["x", "y", "field"]] = [0.0, 0.0, "a"]
    near = table.assign(dec=table["dec"] + 1e-7, field="b")
    both = sky_cells(pd.concat([table, near], ignore_index=True), 60)
    assert (both[:500] == both[500:]).mean() > 0.99
    assert len(np.unique(both)) > 490
    flat = table.assign(ra=np.nan, x=np.repeat([1.0, 70.0], 250), field=["a", "b"] * 250)
    assert len(np.unique(sky_cells(flat, 60))) == 4


def test_a_name_of_the_registry() -> None:
    assert registered_name("models:/astrid-ztf@champion") == "astrid-ztf"
    assert registered_name("astrid-ztf/3") == "astrid-ztf"
    assert registered_name("runs/first/model.pt") == "astrid"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, pd.DataFrame]:
    """Settings for candidates that a model scored, whose comparison with the truth is at hand."""
    columns, real = made_candidates(500)
    rng = np.random.default_rng(6)
    table = pd.DataFrame(columns).assign(p_unet=told_by_a_unet(real), field="f", band="r", group="f/r")
    table = table.assign(epoch=0, x=np.arange(500) * 20.0, y=0.0, cause="unknown", truth=-1)
    table = table.assign(ra=rng.uniform(10, 10.2, 500), dec=rng.uniform(0, 0.2, 500))
    table.loc[real, "truth"] = np.arange(real.sum())
    rows = table[real][["x", "y", "group"]].reset_index(drop=True)
    rows = rows.assign(difference_epoch=0, countable=True, true_snr=10.0)
    rows["class"] = "transient"
    monkeypatch.setattr(labelled, "compare", lambda *_: Comparison(rows, table, 1))
    torch.manual_seed(0)
    unet = UNet(UNetConfig(widths=(4, 8), hidden=8, heads=2, condition=4)).eval()
    save_model(unet, tmp_path / "model.pt")
    url = str(tmp_path / "candidates.zarr")
    chosen = scoring.Chosen(f"model.pt#{Ensemble((unet,)).digest}", Ensemble((unet,)))
    inputs = {"reference": "r", "difference": "d", "model": chosen.pinned}
    create_product(Location.parse(url), "candidates", job="detect", inputs=inputs, digest="x")
    scoring.keep_model(chosen, Location.parse(url))
    asked = {"candidates": url, "truth": "t", "model": str(tmp_path / "model.pt")}
    return Settings.model_validate({**asked, "output": str(tmp_path / "runs" / "one"), **FAST}), table


@pytest.mark.filterwarnings("default")
def test_an_ensemble_is_made_measured_and_registered(found: tuple[Settings, Any], tmp_path: Path) -> None:
    from astrid_dist.learning.tracking import client_of

    settings, table = found
    lines: list[str] = []
    run(settings, lines.append)
    told = {line.split("  ")[0]: line.split()[-3:] for line in lines[2:6]}
    aucs = {name: float(numbers[0]) for name, numbers in told.items()}
    assert list(aucs) == ["S_corr cut", "trees", "U-Net", "stack"]
    assert aucs["stack"] > max(aucs["trees"], aucs["U-Net"]) > 0.8 > aucs["S_corr cut"]
    assert "astrid version 1 is champion" in lines[-1]
    record = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert record["real"] + record["bogus"] == 500
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    kept = load_ensemble(uri, "astrid@champion")
    assert kept.digest == load_ensemble("", str(tmp_path / "runs" / "one" / "ensemble.zip")).digest
    columns = {name: table[name].to_numpy() for name in table}
    assert np.isfinite(kept.real(columns["p_unet"], columns)["p_real"]).all()
    client = client_of(uri)
    files = {one.path for one in client.list_artifacts(record["run"])}
    assert {"importances.csv", "scores.json", "figures"} <= files
    metrics = client.get_run(record["run"]).data.metrics
    assert metrics["stack_auc"] == pytest.approx(aucs["stack"], abs=1e-4)
    again: list[str] = []
    run(settings, again.append)
    assert again == lines
    assert len(client.search_model_versions("name='astrid'")) == 1
    with pytest.raises(ResumeConflictError, match="choose another output"):
        run(settings.model_copy(update={"seed": 5}))


def test_what_is_told_of_a_candidate_does_not_know_its_label(found: tuple[Settings, Any]) -> None:
    """With labels dealt out at random there is nothing to learn, and nobody claims so."""
    from dataclasses import replace

    settings, _ = found
    examples = stage.read_examples(settings, load_ensemble("", settings.model))
    shuffled = replace(examples, real=np.random.default_rng(0).permutation(examples.real))
    for name, scores in make(shuffled, settings).scores.items():
        assert scores["auc"] == pytest.approx(0.5, abs=0.08), name


def test_candidates_that_do_not_do_are_refused(found: tuple[Settings, Any], tmp_path: Path) -> None:
    settings, table = found
    real = table["truth"] >= 0
    with pytest.raises(InputError, match="1000 of each are needed"):
        run(settings.model_copy(update={"examples": 1000}))
    table.loc[real, "truth"] = -1
    with pytest.raises(InputError, match="none of the 500 candidates"):
        run(settings)
    table["cause"] = "transient"
    with pytest.raises(InputError, match="0 real and"):
        run(settings)
    torch.manual_seed(1)
    save_model(UNet(UNetConfig(widths=(4, 8), hidden=8, heads=2, condition=4)), tmp_path / "other.pt")
    with pytest.raises(InputError, match="is another than that of"):
        run(settings.model_copy(update={"model": str(tmp_path / "other.pt")}))
    plain = str(tmp_path / "plain.zarr")
    create_product(Location.parse(plain), "candidates", job="x", inputs={"reference": "r"}, digest="x")
    set_state(Location.parse(plain), "complete")
    with pytest.raises(InputError, match=r"no p_unet: run detect with model="):
        run(settings.model_copy(update={"candidates": plain}))
    table["ra"], table["dec"] = 10.0, 0.0
    table.loc[real, "truth"] = np.arange(real.sum())
    with pytest.raises(InputError, match=r"lie in 1 places of the sky, 3 folds"):
        run(settings)
    assert not (tmp_path / "runs" / "one").exists()


def test_the_shipped_job_file_is_read(tmp_path: Path) -> None:
    name, read = _load("ensemble", [f"output={tmp_path}", "folds=4"])
    assert (name, read.folds) == ("ensemble", 4)
