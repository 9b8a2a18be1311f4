"""The ensemble: better than its parts, sensible where one is mute, kept on disk and in the registry."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.calibration import Calibration, Guarantee
from astrid_dist.learning.ensemble import (
    CALIBRATION,
    MODEL,
    STACK,
    TREES,
    Ensemble,
    Stack,
    ensemble_bytes,
    ensemble_parts,
    fit_stack,
    logit,
    read_ensemble,
    read_parts,
)
from astrid_dist.learning.model_file import model_bytes, weights_digest
from astrid_dist.learning.out_of_fold import auc, grow_folds, predicted
from astrid_dist.learning.registry import load, load_ensemble, promote, register
from astrid_dist.learning.tracking import client_of, start_run
from astrid_dist.learning.trees import TreesConfig, class_weights, features, grow, sigmoid
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.store.locations import Location
from tests.learning.made_candidates import made_candidates, told_by_a_unet
from tests.learning.test_trees import Trap

CALIBRATED = Calibration(2.0, -0.5, 1.5, 0.25, Guarantee(0.75, 1.0, 0.95, 20, 0.8, 300, {"threshold": 5.0}))
FEW = TreesConfig(trees=15, leaves=6, least=10)


def unet(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(UNetConfig(widths=(4, 8), hidden=8, heads=2, condition=4)).eval()


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    table, real = made_candidates(400)
    matrix = features(table)
    trees = grow(matrix, real, class_weights(real), FEW)
    return Ensemble((unet(),), trees, Stack((0.1, 0.9, 0.8), (0.2, 1.1), (-0.1, 0.7)))


def test_the_stack_is_better_than_its_parts() -> None:
    table, real = made_candidates(2000, seed=3)
    matrix, told = features(table), logit(told_by_a_unet(real))
    fold = np.arange(len(real)) % 4
    trees = predicted(grow_folds(matrix, real, fold, FEW, 0.5), matrix)
    half = np.arange(len(real)) % 8 < 4  # fitted on one half, judged on the other
    stack = fit_stack(told[half], trees[half], real[half])
    both = stack.logit(told, trees)[~half]
    seen = ~np.isnan(told[~half])
    parts = [auc(real[~half][seen], part[~half][seen]) for part in (told, trees)]
    assert auc(real[~half][seen], both[seen]) > max(parts) + 0.02
    assert np.isfinite(both).all()
    assert min(stack.both[1:]) > 0


def test_a_useless_part_does_no_harm() -> None:
    _, real = made_candidates(2000, seed=4)
    rng = np.random.default_rng(0)
    good, noise = np.where(real, 2, -2) + 2 * rng.normal(size=2000), rng.normal(size=2000)
    stack = fit_stack(good, noise, real)
    assert auc(real, stack.logit(good, noise)) > auc(real, good) - 0.002
    assert abs(stack.both[2]) < 0.2


def test_probabilities_are_true_for_the_prior() -> None:
    rng = np.random.default_rng(1)
    real = rng.random(20_000) < 0.1
    told, trees = (np.where(real, 1, -1) + rng.normal(size=20_000) for _ in range(2))
    p = sigmoid(fit_stack(told, trees, real, prior=0.1).logit(told, trees))
    assert p.mean() == pytest.approx(0.1, abs=0.003)
    near = (p > 0.4) & (p < 0.6)
    assert real[near].mean() == pytest.approx(0.5, abs=0.06)


def test_each_decides_alone_where_the_other_is_mute(ensemble: Ensemble) -> None:
    table, _ = made_candidates(4)
    for column in table:
        if column != "mask":
            table[column] = table[column].astype(np.float32)
            table[column][2:] = np.nan
    del table["mask"]
    found = ensemble.real(np.array([0.7, np.nan, 0.7, np.nan]), table)
    assert found["p_real"].dtype == np.float32
    assert np.isnan(found["p_trees"]).tolist() == [False, False, True, True]
    assert np.isnan(found["p_real"]).tolist() == [False, False, False, True]
    trees = float(logit(found["p_trees"][1]))
    assert found["p_real"][1] == pytest.approx(sigmoid(np.array(-0.1 + 0.7 * trees)), abs=1e-5)
    assert found["p_real"][2] == pytest.approx(sigmoid(0.2 + 1.1 * logit(0.7)), abs=1e-6)


def test_a_unet_alone_says_what_it_says() -> None:
    told = np.array([0.2, np.nan], np.float32)
    found = Ensemble((unet(),)).real(told, {})
    np.testing.assert_array_equal(found["p_real"], told)
    assert np.isnan(found["p_trees"]).all()
    with pytest.raises(ConfigError, match="or neither"):
        Ensemble((unet(),), stack=Stack((0, 1, 1), (0, 1), (0, 1)))


def test_it_comes_back_from_one_file(ensemble: Ensemble) -> None:
    table, real = made_candidates(50, seed=7)
    told = told_by_a_unet(real)
    back = read_ensemble(ensemble_bytes(ensemble), "e.zip")
    for name, values in ensemble.real(told, table).items():
        np.testing.assert_array_equal(back.real(told, table)[name], values)
    assert back.digest == ensemble.digest != Ensemble(ensemble.unets).digest
    assert back.stack == ensemble.stack
    alone = read_ensemble(model_bytes(ensemble.unets[0]), "model.pt")
    assert alone.trees is None
    assert alone.digest == weights_digest(ensemble.unets[0])


def test_several_networks_and_a_calibration_come_back_too(ensemble: Ensemble) -> None:
    deep = replace(ensemble, unets=tuple(unet(seed) for seed in range(12)), calibration=CALIBRATED)
    parts = ensemble_parts(deep)
    assert set(parts) == {MODEL, *(f"model-{i}.pt" for i in range(1, 12)), TREES, STACK, CALIBRATION}
    back = read_ensemble(ensemble_bytes(deep), "e.zip")
    assert [weights_digest(one) for one in back.unets] == [weights_digest(one) for one in deep.unets]
    assert back.calibration == CALIBRATED
    assert back.digest == deep.digest
    digests = {one.digest for one in (ensemble, deep, replace(deep, calibration=None), Ensemble(deep.unets))}
    assert len(digests) == 4
    del parts["model-3.pt"]
    with pytest.raises(InputError, match=r"e.zip: model-3.pt is missing"):
        read_parts(parts, "e.zip")
    other = UNet(UNetConfig(widths=(4, 8), hidden=16, heads=2, condition=4))
    with pytest.raises(InputError, match=r"e.zip: network 1 has another architecture.*hidden is 16, not 8"):
        read_parts({MODEL: model_bytes(unet()), "model-1.pt": model_bytes(other)}, "e.zip")


def test_a_calibration_is_laid_over_what_the_ensemble_says(ensemble: Ensemble) -> None:
    table, real = made_candidates(300, seed=7)
    told = told_by_a_unet(real)
    plain = ensemble.real(told, table)
    calibrated = replace(ensemble, calibration=CALIBRATED)
    found = calibrated.real(told, table)
    np.testing.assert_allclose(logit(found["p_real"]), logit(plain["p_real"]) / 2 - 0.5, atol=1e-3)
    np.testing.assert_array_equal(found["p_trees"], plain["p_trees"])
    np.testing.assert_array_equal(found["accepted"], found["p_real"] >= 0.75)
    assert "accepted" not in plain
    rare = calibrated.real(told, table, prior=0.01)
    np.testing.assert_allclose(
        logit(rare["p_real"]), logit(found["p_real"]) + logit(0.01) - logit(0.25), atol=1e-3
    )
    np.testing.assert_array_equal(rare["accepted"], found["accepted"])  # who passes does not depend on it
    with pytest.raises(ConfigError, match=r"never calibrated.*jobs/calibrate.yaml"):
        ensemble.real(told, table, prior=0.01)
    blind = Ensemble(ensemble.unets, calibration=CALIBRATED).real([np.nan, 0.999], {})
    assert np.isnan(blind["p_real"][0])
    assert blind["accepted"].tolist() == [False, True]


def test_parts_that_would_run_code_are_refused(ensemble: Ensemble, tmp_path: Path) -> None:
    trap = io.BytesIO()
    np.savez(trap, format=np.array([Trap(tmp_path / "ran")], dtype=object))
    with pytest.raises(InputError, match=r"e.zip: trees.npz: refused"):
        read_parts({**ensemble_parts(ensemble), TREES: trap.getvalue()}, "e.zip")
    pickled = io.BytesIO()
    torch.save({"state": Trap(tmp_path / "ran")}, pickled)
    with pytest.raises(InputError, match=r"e.zip: model.pt: refused"):
        read_parts({**ensemble_parts(ensemble), MODEL: pickled.getvalue()}, "e.zip")
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_or_damaged_is_told(ensemble: Ensemble) -> None:
    parts = ensemble_parts(ensemble)
    for lost, problem in ((MODEL, "no model.pt"), (TREES, "trees.npz is missing"), (STACK, "stack.json is")):
        with pytest.raises(InputError, match=problem):
            read_parts({name: content for name, content in parts.items() if name != lost}, "e.zip")
    for stack in (b"{", b"{}", b"[]", json.dumps({"format": "another"}).encode()):
        with pytest.raises(InputError, match=r"stack.json: (the|this) stack"):
            read_parts({**parts, STACK: stack}, "e.zip")
    said = json.loads(parts[STACK])
    for change in ({"both": [1, 2]}, {"unet": [0, "NaN"]}, {"more": [1]}):
        with pytest.raises(InputError, match="damaged"):
            read_parts({**parts, STACK: json.dumps({**said, **change}).encode()}, "e.zip")
    whole = ensemble_bytes(ensemble)
    for content in (b"", b"nothing", whole[:-300], b"\0" * 50 + whole[50:]):
        with pytest.raises(InputError, match=r"e.zip: .*damaged"):
            read_ensemble(content, "e.zip")
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"e.zip: this is no model"):
        read_ensemble(other.getvalue(), "e.zip")


def test_a_stack_needs_both_classes() -> None:
    with pytest.raises(InputError, match=r"U-Net and trees: 0 real and 5 bogus"):
        fit_stack(np.zeros(5), np.zeros(5), np.zeros(5, bool))


@pytest.mark.filterwarnings("default")
def test_an_ensemble_is_a_version_beside_its_unet(ensemble: Ensemble, tmp_path: Path) -> None:
    uri, place = f"sqlite:///{tmp_path}/mlflow.db", Location.parse(tmp_path / "artifacts")
    alone = register(uri, start_run(uri, "test", "unet", place), ensemble.unets[0], "astrid", {"data": "a"})
    promote(uri, "astrid", alone, "auc", 0.8, "a", lambda other: 0.0)
    assert load_ensemble(uri, "astrid").trees is None
    run = start_run(uri, "test", "ensemble", place)
    version = register(uri, run, ensemble, "astrid", {"data": "b", "val_auc": "0.9"})
    assert register(uri, run, ensemble, "astrid", {}) == version != alone
    measured = []

    def measure(other: Ensemble) -> float:
        measured.append(other.trees is None)
        return 0.85

    verdict = promote(uri, "astrid", version, "auc", 0.9, "b", measure, load_ensemble)
    assert (verdict.champion, measured) == (True, [True])
    assert load_ensemble(uri, "astrid").digest == ensemble.digest
    assert load_ensemble(uri, f"astrid/{alone}").digest == weights_digest(ensemble.unets[0])
    assert weights_digest(load(uri, "astrid@champion")) == weights_digest(ensemble.unets[0])
    (tmp_path / "e.zip").write_bytes(ensemble_bytes(ensemble))
    assert load_ensemble("", str(tmp_path / "e.zip")).digest == ensemble.digest
    assert weights_digest(load("", str(tmp_path / "e.zip"))) == weights_digest(ensemble.unets[0])
    import mlflow

    try:
        mlflow.set_tracking_uri(uri)
        told = mlflow.pyfunc.load_model("models:/astrid@champion").predict(np.zeros((1, 1, 4, 16, 16), "f4"))
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert told["real"].shape == (1,)
    assert str(client_of(uri).get_model_version_by_alias("astrid", "champion").version) == version
