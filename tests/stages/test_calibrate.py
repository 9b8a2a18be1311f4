"""A calibration: what it recovers; from a model through detection to a calibrated one and back, all real."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astrid_dist as astrid
from astrid_dist.cli import _load
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, InputError, ResumeConflictError
from astrid_dist.evaluation.guarantee import certify
from astrid_dist.evaluation.scaling import shift_prior
from astrid_dist.learning.calibration import Calibration, Guarantee
from astrid_dist.learning.ensemble import Ensemble, ensemble_bytes, logit, read_ensemble
from astrid_dist.learning.registry import load_ensemble
from astrid_dist.learning.trees import sigmoid
from astrid_dist.learning.unet import MODEL_CLASSES, UNet
from astrid_dist.stages import calibrate
from astrid_dist.stages.calibrate import Settings
from astrid_dist.stages.calibration_fit import Examples, class_temperature, make
from astrid_dist.stages.run import plan_stage, run_stage
from tests.small_survey import SmallSurvey, small_survey
from tests.stages.test_detect_model import SIDE, marker

#: Of the tests' few candidates and images.
FEW: dict[str, Any] = {"examples": 10, "folds": 2, "cell_arcsec": 20, "limit": 10, "confidence": 0.8}


def examples(n: int = 10_000, temperature: float = 2.5, offset: float = 0.8, images: int = 400) -> Examples:
    """Log odds that are too sure and off, of as many candidates as images share."""
    rng = np.random.default_rng(3)
    true = rng.normal(-0.5, 2, n)
    real = rng.random(n) < 1 / (1 + np.exp(-true))
    kinds = rng.integers(0, len(MODEL_CLASSES), 4000)
    told = rng.normal(0, 1, (4000, len(MODEL_CLASSES)))
    told[np.arange(4000), kinds] += 2  # the posterior of equal Gaussians is the softmax of twice this
    image = rng.integers(0, images, n)
    return Examples(
        table={},
        logit=(true - offset) * temperature,
        real=real,
        cells=rng.integers(0, 50, n),
        classes=np.exp(6 * told) / np.exp(6 * told).sum(1, keepdims=True),
        codes=kinds,
        false_image=image[~real],
        images=images,
        conditions={"threshold": 5.0},
        ignored=0,
    )


SETTINGS = Settings(candidates="c", truth="t", model="m", output="o")


def test_temperatures_and_offset_are_found_again_and_probabilities_come_true() -> None:
    one = examples()
    made = make(one, SETTINGS.model_copy(update={"prior": float(one.real.mean())}))
    assert made.calibration.temperature == pytest.approx(2.5, rel=0.05)
    assert made.calibration.offset == pytest.approx(0.8, abs=0.06)
    assert made.calibration.class_temperature == pytest.approx(3, rel=0.06)
    assert made.scores["before"]["ece"] > 0.05
    assert made.scores["after"]["ece"] < 2 * made.scores["after"]["ece_by_chance"] < 0.03
    assert made.scores["after"]["log_loss"] < made.scores["before"]["log_loss"]


def test_a_prior_only_moves_the_offset() -> None:
    """As fitted at one prior and moved to another, and as evaluation moves probabilities."""
    one = examples()
    half, rare = (make(one, SETTINGS.model_copy(update={"prior": p})).calibration for p in (0.5, 0.05))
    assert rare.temperature == pytest.approx(half.temperature, rel=0.1)
    x = np.linspace(-3, 3, 9)
    moved = 1 / (1 + np.exp(-(half.logit(x) + half.shift(0.05))))
    np.testing.assert_allclose(moved, shift_prior(1 / (1 + np.exp(-half.logit(x))), 0.5, 0.05))
    np.testing.assert_allclose(moved, 1 / (1 + np.exp(-rare.logit(x))), atol=0.02)


def test_the_threshold_is_the_guarantees_and_none_where_images_are_too_few() -> None:
    one = examples()
    made = make(one, SETTINGS)
    shown = made.calibration.guarantee
    assert shown is not None
    assert (shown.limit, shown.confidence, shown.cap, shown.images) == (1.0, 0.95, 20, 400)
    p = 1 / (1 + np.exp(-made.calibration.logit(one.logit)))
    passed = p[~one.real] >= shown.p_threshold
    assert 0.5 < passed.sum() / 400 < shown.bound <= 1.0
    # The order of candidates is not fitted: thresholds of raw and of calibrated scores pass the same ones.
    raw = certify(one.logit[~one.real], one.false_image, 400).threshold
    assert (one.logit[~one.real] >= raw).sum() == pytest.approx(passed.sum(), abs=2)
    few = make(replace(one, images=5, false_image=one.false_image % 5), SETTINGS)
    assert few.calibration.guarantee is None
    assert "no threshold" in str(few.certified)


def test_classes_of_nobody_stay_as_they_are() -> None:
    assert class_temperature(np.zeros((0, len(MODEL_CLASSES))), np.zeros(0, np.int64)) == 1


def sure(seed: int = 4) -> UNet:
    """The marker of the tests of detection, that tells real from bogus a little and is far too sure of it."""
    model = marker(seed=seed)
    with torch.no_grad():
        model.candidates.kind.weight[0] *= 30
        model.candidates.kind.bias[0] = -float(logit(0.49)) - 30 * 0.05
    return model


@pytest.fixture(scope="module")
def made() -> SmallSurvey:
    return small_survey(size_px=SIDE, epochs=5, changing=12)


@pytest.fixture(scope="module")
def job(made: SmallSurvey, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of detection, with a deep ensemble of two."""
    folder = tmp_path_factory.mktemp("calibrated")
    (folder / "deep.zip").write_bytes(ensemble_bytes(Ensemble((sure(), sure(3)))))
    asked = {"difference": made.difference, "quality": "all", "threshold": 3.8, "propose": 1.0}
    found = {**asked, "model": str(folder / "deep.zip"), "output": str(folder / "c.zarr")}
    run_stage("detect", found, SerialEngine())
    return found


def test_detection_lays_a_calibration_over_what_networks_say(
    made: SmallSurvey, job: dict[str, Any], tmp_path: Path
) -> None:
    before = astrid.open_candidates(job["output"])
    assert (before["epistemic"] > 0).mean() > 0.9
    whole = before["aleatoric"] + before["epistemic"]
    np.testing.assert_allclose(whole, before["uncertainty"], atol=1e-5)  # no trees: p_real is p_unet
    assert "accepted" not in before
    conditions = {"threshold": 3.8, "quality": "all", "propose": 1.0, "propose_snr": 4.0}
    conditions |= {"mc_samples": 0, "surveys": ["generic"]}
    calibration = Calibration(2.0, -0.3, 1.5, 0.5, Guarantee(0.4, 1.0, 0.95, 20, 0.9, 300, conditions))
    networks = read_ensemble(Path(job["model"]).read_bytes(), "deep.zip").unets
    (tmp_path / "deep.zip").write_bytes(ensemble_bytes(Ensemble(networks, calibration=calibration)))
    asked = {**job, "model": str(tmp_path / "deep.zip")}
    for name, prior in (("a", None), ("b", 0.01)):
        run_stage(
            "detect", {**asked, "output": str(tmp_path / f"{name}.zarr"), "prior": prior}, SerialEngine()
        )
    after, rare = (astrid.open_candidates(str(tmp_path / f"{name}.zarr")) for name in "ab")
    np.testing.assert_array_equal(after["p_unet"], before["p_unet"])
    np.testing.assert_allclose(after["p_real"], sigmoid(logit(before["p_unet"]) / 2 - 0.3), atol=1e-6)
    np.testing.assert_array_equal(after["accepted"], after["p_real"] >= 0.4)
    assert 0 < after["accepted"].sum() < after.sizes["candidate"]
    np.testing.assert_array_equal(rare["accepted"], after["accepted"])
    np.testing.assert_allclose(rare["p_real"], shift_prior(after["p_real"], 0.5, 0.01), rtol=1e-4)
    for table, at in ((after, None), (rare, 0.01)):
        names = [f"p_{name}" for name in MODEL_CLASSES]
        told = calibration.classes(np.column_stack([before[name] for name in names]), at)
        np.testing.assert_allclose(np.column_stack([table[name] for name in names]), told, atol=1e-6)
    assert (rare.attrs["prior"], "prior" in after.attrs) == (0.01, False)
    both = astrid.open_candidates([job["output"], str(tmp_path / "a.zarr")])
    assert both["accepted"].dtype == bool
    assert not both["accepted"][: before.sizes["candidate"]].any()

    # Another detection than the one that was certified: the plan says so, and nothing is called accepted.
    other = {**asked, "output": str(tmp_path / "d.zarr"), "threshold": 4.5}
    (said,) = [w for w in plan_stage("detect", other).warnings if "certified" in w]
    assert "threshold is 4.5, was 3.8" in said
    run_stage("detect", other, SerialEngine())
    assert "accepted" not in astrid.open_candidates(str(tmp_path / "d.zarr"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_is_calibrated_and_registered_and_may_be_again(
    made: SmallSurvey, job: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"candidates": job["output"], "truth": made.truth, "model": job["model"], **FEW}
    settings = Settings.model_validate({**asked, "output": str(tmp_path / "one"), "name": "small"})
    lines: list[str] = []
    calibrate.run(settings, lines.append)
    scores = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in lines[2:4]}
    assert scores["after"][0] < scores["before"][0]
    assert "small version 1 is champion: loss" in lines[-1]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    kept = load_ensemble(uri, "small")
    assert kept.digest == load_ensemble("", str(tmp_path / "one" / "ensemble.zip")).digest
    assert len(kept.unets) == 2
    first = kept.calibration
    assert first is not None
    assert first.guarantee is not None
    assert first.guarantee.images == 5
    again: list[str] = []
    calibrate.run(settings, again.append)
    assert again == lines
    with pytest.raises(ResumeConflictError, match="a calibration of other settings"):
        calibrate.run(settings.model_copy(update={"prior": 0.1}))

    # Calibrated candidates may be calibrated again; those of another prior may not.
    found = {**job, "model": "small", "tracking": uri, "output": str(tmp_path / "a.zarr")}
    run_stage("detect", found, SerialEngine())
    assert astrid.open_candidates(found["output"])["accepted"].any()
    twice = settings.model_copy(
        update={"candidates": found["output"], "model": "small", "output": str(tmp_path / "two")}
    )
    calibrate.run(twice, lines.append)
    assert "small version 2 is challenger" in lines[-1]  # it is no better than what it was made from
    second = load_ensemble(uri, "small@challenger").calibration
    assert second is not None
    assert second.temperature == pytest.approx(first.temperature, rel=1e-3)
    assert second.class_temperature == pytest.approx(first.class_temperature, rel=0.02)
    run_stage("detect", {**found, "output": str(tmp_path / "b.zarr"), "prior": 0.01}, SerialEngine())
    shifted = {"candidates": str(tmp_path / "b.zarr"), "output": str(tmp_path / "three")}
    with pytest.raises(InputError, match="detect again without `prior`"):
        calibrate.run(twice.model_copy(update=shifted))


def test_what_a_model_cannot_do_is_told_at_once(job: dict[str, Any], tmp_path: Path) -> None:
    asked = {**job, "output": str(tmp_path / "c.zarr")}
    with pytest.raises(ConfigError, match=r"prior=0.01: .*deep.zip.* was never calibrated"):
        plan_stage("detect", {**asked, "prior": 0.01})
    model = marker()
    dry = UNet(replace(model.config, dropout=0.0))
    (tmp_path / "dry.zip").write_bytes(ensemble_bytes(Ensemble((dry,))))
    with pytest.raises(ConfigError, match=r"mc_samples=5: .*dry.zip.* was trained without dropout"):
        plan_stage("detect", {**asked, "model": str(tmp_path / "dry.zip"), "mc_samples": 5})
    damaged = json.dumps({"format": "astrid_dist calibration 1", "temperature": -1})
    with zipfile.ZipFile(tmp_path / "dry.zip", "a") as archive:
        archive.writestr("calibration.json", damaged)
    with pytest.raises(InputError, match=r"dry.zip: calibration.json: the calibration is damaged"):
        plan_stage("detect", {**asked, "model": str(tmp_path / "dry.zip")})
    assert not (tmp_path / "c.zarr").exists()


def test_samples_of_dropout_make_one_network_say_what_it_does_not_know(
    job: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "one.zip").write_bytes(ensemble_bytes(Ensemble((sure(),))))
    tables = []
    for name in "ab":
        output = str(tmp_path / f"{name}.zarr")
        asked = {**job, "model": str(tmp_path / "one.zip"), "mc_samples": 4, "output": output}
        run_stage("detect", asked, SerialEngine())
        tables.append(astrid.open_candidates(output).to_dataframe())
    assert (tables[0]["epistemic"] > 0).mean() > 0.9
    assert (tables[0] == tables[1])[["p_unet", "aleatoric", "epistemic"]].all().all()
    assert astrid.open_candidates(output).attrs["mc_samples"] == 4


def test_the_shipped_job_file_is_read(tmp_path: Path) -> None:
    name, read = _load("calibrate", [f"output={tmp_path}", "prior=0.1"])
    assert (name, read.prior, read.confidence) == ("calibrate", 0.1, 0.95)
