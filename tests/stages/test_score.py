"""What a model says of alert packets: a row for each, the same as of its sample, and a reason for none."""

import csv
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from astrid_dist.cli import app
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.model_file import save_model
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.query.samples import open_samples
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.score import COLUMNS, ask, score_packets
from tests.made_packets import image, write, ztf

ALERTS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Packets, one of them twice, one without a cutout, one small, one large."""
    path = tmp_path_factory.mktemp("alerts")
    packets = [ztf(2**62 + i, fid=1 + i % 3) for i in range(ALERTS)]
    packets[3] = ztf(2**62 + 3, [image(i, 100, side=30) for i in range(3)], xpos=None, ypos=None)
    packets[4] = ztf(2**62 + 4, [image(i, 100, side=91) for i in range(3)])
    broken = ztf(5)
    broken["cutoutScience"] = None
    write(path / "a.avro", [*packets, broken, packets[0]])
    (path / "b.avro").write_bytes(b"")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that learned nothing."""
    torch.manual_seed(3)
    config = UNetConfig(widths=(4, 8), hidden=8, surveys=("ztf",), bands=("ztf/g", "ztf/r"), temporal=False)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(UNet(config).eval(), path)
    return str(path)


@pytest.fixture(scope="module")
def rows(folder, model, tmp_path_factory):
    to = tmp_path_factory.mktemp("scores") / "scores.csv"
    told = score_packets([str(folder)], model, str(to), say=lambda said: None)
    assert (told.scored, told.not_scored) == (ALERTS, 3)
    with to.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_packet_has_a_row_with_a_score_or_a_reason(rows):
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == ALERTS + 3
    for row in rows:
        assert (row["p_real"] == "") == (row["reason"] != "")
    scored = [row for row in rows if row["p_real"]]
    assert [int(row["candid"]) for row in scored] == [2**62 + i for i in range(ALERTS)]
    assert [row["reason"].split(" (")[0] for row in rows if row["reason"]] == [
        "cutoutScience is missing",
        f"the same alert as in {rows[0]['source']}",
        "it is empty",
    ]


def test_probabilities_are_such_and_the_uncertainty_is_their_entropy(rows):
    for row in rows[:ALERTS]:
        p = float(row["p_real"])
        assert 0 < p < 1
        classes = [float(row[name]) for name in COLUMNS if name.startswith("p_") and name != "p_real"]
        assert sum(classes) == pytest.approx(1, abs=1e-4)
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        assert float(row["uncertainty"]) == pytest.approx(entropy, rel=1e-3)
        assert row["epistemic"] == ""  # one network disagrees with nobody
        assert float(row["offset_err"]) > 0


@pytest.mark.parametrize("score", ["absent", "filtered"])
def test_a_packet_is_scored_as_its_sample_is(folder, model, tmp_path, score):
    output, to = str(tmp_path / "samples.zarr"), tmp_path / "scores.csv"
    asked = {"input": str(folder), "output": output, "splits": {"all": 1.0}, "score": score}
    run_stage("realbogus", asked, SerialEngine())
    score_packets([str(folder)], model, str(to), score=score, say=lambda said: None)
    with to.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    samples = open_samples(output)["ztf/all"]
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.model_file import load_model

    bands = np.array(samples.attrs["bands"])[samples.band.to_numpy()[:, 0]]
    told = ask(
        Ensemble((load_model(model),)), samples.pixels.to_numpy()[:, 0], bands.tolist(), ["ztf"] * len(bands)
    )
    scored = {int(row["candid"]): float(row["p_real"]) for row in rows if row["p_real"]}
    assert len(scored) == len(bands) == ALERTS
    for alert, p_real in zip(samples.alert.to_numpy().tolist(), told["p_real"].tolist(), strict=True):
        assert scored[alert] == pytest.approx(p_real, rel=1e-4)
    assert len({round(p, 6) for p in scored.values()}) > ALERTS / 2


def test_samples_of_dropout_tell_what_the_model_does_not_know(folder, model, tmp_path):
    to = tmp_path / "scores.csv"
    score_packets([str(folder)], model, str(to), samples=3, say=lambda said: None)
    with to.open(newline="") as stream:
        told = [float(row["epistemic"]) for row in csv.DictReader(stream) if row["p_real"]]
    assert len(told) == ALERTS
    assert min(told) >= 0
    assert max(told) > 0


def test_the_command_says_how_many_were_scored(folder, model, tmp_path):
    to = tmp_path / "scores.csv"
    done = CliRunner().invoke(app, ["score", str(folder), "--model", model, "--to", str(to)])
    assert done.exit_code == 0
    assert f"{ALERTS} alerts scored, 3 not" in done.output
    done = CliRunner().invoke(app, ["score", str(folder / "b.avro"), "--model", model, "--to", str(to)])
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("paths", "model_name", "to", "error", "said"),
    [
        (["nowhere.avro"], None, "scores.csv", ConfigError, "stands for no alert packets"),
        (None, "nowhere.pt", "scores.csv", InputError, "there is no model"),
        (None, "astrid@champion", "scores.csv", ConfigError, "no MLflow data base"),
        (None, None, "scores.txt", ConfigError, "must end in .csv"),
    ],
)
def test_what_is_wrong_is_said(folder, model, tmp_path, paths, model_name, to, error, said):
    with pytest.raises(error, match=said):
        score_packets(paths or [str(folder)], model_name or model, str(tmp_path / to))
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
def test_real_packets_of_two_pipelines_get_scores(realdata, model, tmp_path):
    to = tmp_path / "scores.csv"
    told = score_packets([str(realdata / "ztf_kowalski")], model, str(to), say=lambda said: None)
    assert (told.scored, told.not_scored) == (36, 0)
    with to.open(newline="") as stream:
        assert all(0 <= float(row["p_real"]) <= 1 for row in csv.DictReader(stream))
