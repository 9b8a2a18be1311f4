"""Detection with a model: scores for all, candidates of its own, and which model a job stands by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import cKDTree

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import (
    ConfigError,
    IncompleteProductError,
    InputError,
    ResumeConflictError,
    StorageError,
)
from astrid_dist.learning.model_file import save_model
from astrid_dist.learning.unet import MODEL_CLASSES, UNet, UNetConfig
from astrid_dist.stages import detect, scoring
from astrid_dist.stages.blocks import Window
from astrid_dist.stages.model_planes import model_planes
from astrid_dist.stages.run import plan_stage, resume, run_stage
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from tests.small_survey import SmallSurvey, small_survey

SIDE = 256
#: S_corr above which the models of these tests mark a pixel.
MARKS = 4.0
SCORE = 3


@pytest.fixture(scope="module")
def made() -> SmallSurvey:
    return small_survey(size_px=SIDE, epochs=5, changing=12)


def marker(level: float = MARKS, seed: int = 0) -> UNet:
    """Marks pixels whose |S_corr| is above a level, as transient or as variable by their sign.

    The head of candidates has random weights: it says something else of each.
    """
    torch.manual_seed(seed)
    names = {"surveys": ("generic",), "bands": ("generic/r",)}
    small = {"widths": (4, 4, 8), "hidden": 16, "heads": 2, "condition": 4}
    model = UNet(UNetConfig.named("small", **small, **names)).eval()
    inputs = 8  # four planes and whether each holds data lie behind the features
    with torch.no_grad():
        assert model.segment.bias is not None
        model.segment.weight.zero_()
        model.segment.bias.fill_(-20)
        for name, sign in (("transient", 1), ("variable", -1)):
            row = MODEL_CLASSES.index(name)
            model.segment.weight[row, -inputs + SCORE] = 20.0 * sign
            model.segment.bias[row] = -20 * float(np.arcsinh(level))
        for layer in (model.candidates.kind, model.candidates.place):
            layer.weight.normal_(0, 0.5)
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "marker.pt"
    save_model(marker(), path)
    return str(path)


def settings(made: SmallSurvey, output: Path, **changes: Any) -> dict[str, Any]:
    return {"difference": made.difference, "output": str(output), "quality": "all", **changes}


def found(made: SmallSurvey, output: Path, engine: Any = None, **changes: Any) -> pd.DataFrame:
    """Candidates of a run."""
    run_stage("detect", settings(made, output, **changes), engine or SerialEngine())
    return astrid.open_candidates(str(output)).to_dataframe()


@pytest.fixture(scope="module")
def runs(made: SmallSurvey, file: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Candidates without a model, with one, and with one but hardly any peak of S_corr."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "plain": found(made, folder / "plain.zarr"),
        "model": found(made, folder / "model.zarr", model=file),
        "few": found(made, folder / "few.zarr", model=file, threshold=60.0),
    }


def of_model(table: pd.DataFrame) -> list[str]:
    unknown = ("uncertainty", "aleatoric", "epistemic")
    return [name for name in table if name.startswith(("p_", "model_")) or name in unknown]


def test_every_peak_of_the_score_stays_as_it_was_and_is_scored(runs: dict[str, pd.DataFrame]) -> None:
    plain, scored = runs["plain"], runs["model"]
    kept = scored[scored["found_by"] == "score"].reset_index(drop=True)
    told = [*of_model(scored), "object"]
    pd.testing.assert_frame_equal(kept.drop(columns=told), plain.drop(columns=told).reset_index(drop=True))
    assert plain[of_model(plain)].isna().all().all()
    without_trees = scored[of_model(scored)].drop(columns=["p_trees", "epistemic"])
    assert np.isfinite(without_trees).all().all()
    assert scored[["p_trees", "epistemic"]].isna().all().all()  # no trees; one network, asked once
    np.testing.assert_allclose(scored["aleatoric"], scored["uncertainty"], atol=1e-6)
    pd.testing.assert_series_equal(scored["p_real"], scored["p_unet"], check_names=False)
    classes = scored[[f"p_{name}" for name in MODEL_CLASSES]]
    np.testing.assert_allclose(classes.sum(axis=1), 1, atol=1e-5)
    assert (scored["p_real"] < 0.5).any()  # not one was dropped for what the model says of it
    assert kept["p_real"].nunique() > len(kept) / 2
    assert scored["model_position_err"].gt(0).all()


def test_scores_are_what_the_model_says_of_the_planes_at_that_place(
    made: SmallSurvey, runs: dict[str, pd.DataFrame]
) -> None:
    table = runs["model"]
    group = f"{table['field'].iloc[0]}/{table['band'].iloc[0]}"
    reader = ProductReader(Location.parse(made.difference), group)
    model = marker()
    for epoch in (3, 4):
        rows = table[table["epoch"] == epoch]
        assert len(rows) > 3
        planes = torch.as_tensor(model_planes(reader, epoch, Window(0, SIDE, 0, SIDE)))
        at = torch.as_tensor(np.column_stack([np.zeros(len(rows)), rows["x"], rows["y"]])).float()
        with torch.inference_mode():
            told = model(planes[None, None], at=at, band=torch.tensor([[1]]), survey=torch.tensor([1]))
        np.testing.assert_allclose(rows["p_unet"], told.real.sigmoid(), atol=1e-4)
        np.testing.assert_allclose(rows["p_dipole"], told.classes.softmax(1)[:, 3], atol=1e-4)
        np.testing.assert_allclose(rows["model_x"], rows["x"] + told.position[:, 0].numpy(), atol=1e-3)
        np.testing.assert_allclose(rows["model_y"], rows["y"] + told.position[:, 1].numpy(), atol=1e-3)


def test_what_the_model_alone_sees_is_a_candidate_measured_like_any_other(
    runs: dict[str, pd.DataFrame],
) -> None:
    own = runs["model"][runs["model"]["found_by"] == "model"]
    assert len(own) > 5
    assert own["snr"].abs().between(MARKS, 5.0).all()
    assert (own["snr"] < 0).any()
    # Few peaks of the score are left; the model finds the others, and detection measures the same of them.
    plain, few = runs["plain"], runs["few"]
    assert (few["found_by"] == "score").sum() < 0.3 * len(plain)
    matched = 0
    for epoch, known in plain[plain["snr"].abs().between(5.5, 55)].groupby("epoch"):
        others = plain[(plain["epoch"] == epoch)]
        apart = cKDTree(others[["x", "y"]]).query(known[["x", "y"]], k=2)[0][:, 1]
        alone = known[(apart > 15) & known["streak_length"].isna()]
        there = few[(few["epoch"] == epoch) & (few["found_by"] == "model")]
        gap, which = cKDTree(there[["x", "y"]]).query(alone[["x", "y"]])
        assert (gap < 0.01).mean() > 0.9
        one, other = alone[gap < 0.01], there.iloc[which[gap < 0.01]]
        np.testing.assert_allclose(other["flux"], one["flux"], rtol=1e-4)
        np.testing.assert_allclose(other["chi2"], one["chi2"], rtol=1e-3)
        matched += len(one)
    assert matched > 10


@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_two_workers_of_a_cluster_give_the_same_table(
    made: SmallSurvey, file: str, runs: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    from distributed import Client, LocalCluster

    from astrid_dist.engine.dask import DaskEngine

    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        table = found(made, tmp_path / "c.zarr", DaskEngine(client), model=file)
    expected = runs["model"]
    numbers = expected.select_dtypes("number").columns
    assert (table["found_by"] == expected["found_by"]).all()
    np.testing.assert_allclose(table[numbers], expected[numbers], rtol=1e-4, atol=1e-5)


def test_a_job_goes_on_with_its_model_and_with_no_other(
    made: SmallSurvey, runs: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "model.pt", tmp_path / "c.zarr"
    save_model(marker(), path)
    right = scoring.score

    def fails(shard: Any, *others: Any) -> Any:
        if shard.epoch == 2:
            raise StorageError("not now")
        return right(shard, *others)

    monkeypatch.setattr(scoring, "score", fails)
    with pytest.raises(IncompleteProductError):
        run_stage("detect", settings(made, output, model=str(path)), SerialEngine(), retries=0)
    monkeypatch.undo()
    job = Ledger(Location.parse(str(output))).jobs()[-1]
    assert job["settings"]["model"] == job["inputs"]["model"] == f"{path}#{marker_digest()}"
    save_model(marker(seed=1), path)
    with pytest.raises(ConfigError, match="was changed since it was chosen"):
        resume(str(output), SerialEngine())
    with pytest.raises(ResumeConflictError, match="model"):
        run_stage("detect", settings(made, output, model=str(path)), SerialEngine())
    save_model(marker(), path)
    resume(str(output), SerialEngine())
    table = astrid.open_candidates(str(output)).to_dataframe()
    pd.testing.assert_frame_equal(table, runs["model"])
    assert astrid.open_candidates(str(output)).attrs["model"].endswith(marker_digest())


def marker_digest() -> str:
    from astrid_dist.learning.ensemble import Ensemble

    return Ensemble((marker(),)).digest


def without(name: str) -> Callable[[str], Any]:
    from importlib.util import find_spec

    return lambda asked: None if asked == name else find_spec(asked)


def test_models_that_cannot_be_used_are_refused_before_anything_is_written(
    made: SmallSurvey, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: type[Exception], match: str, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            plan_stage("detect", settings(made, tmp_path / "c.zarr", **changes))
        assert not (tmp_path / "c.zarr").exists()

    refused(InputError, "there is no model .*none.pt", model=str(tmp_path / "none.pt"))
    (tmp_path / "bad.pt").write_bytes(Path(file).read_bytes()[:5000])
    refused(InputError, "bad.pt.*damaged", model=str(tmp_path / "bad.pt"))
    other = torch.load(file, weights_only=True)
    other["config"]["widths"] = [8, 8, 8]
    torch.save(other, tmp_path / "other.pt")
    refused(InputError, "do not fit the architecture", model=str(tmp_path / "other.pt"))
    refused(ConfigError, "no MLflow data base .*mlflow.db: give tracking", model="astrid-ztf")
    assert not (tmp_path / "mlflow.db").exists()
    for name, model in (("torch", file), ("mlflow", "astrid")):
        monkeypatch.setattr(scoring, "find_spec", without(name))
        refused(ConfigError, rf"needs {name}: pip install 'astrid-dist\[train\]'", model=model)
    if not torch.cuda.is_available():
        monkeypatch.undo()
        with pytest.raises(IncompleteProductError):
            run_stage(
                "detect", settings(made, tmp_path / "c.zarr", model=file, device="cuda"), SerialEngine()
            )
        (said, *_) = Ledger(Location.parse(str(tmp_path / "c.zarr"))).failures("detect")
        assert "torch finds no GPU here: choose cpu or auto" in said["error"]


def test_a_worker_that_finds_another_model_than_the_jobs_says_so(
    made: SmallSurvey, file: str, tmp_path: Path
) -> None:
    planned = plan_stage("detect", settings(made, tmp_path / "c.zarr", model=file))
    key = planned.keys[0]
    with pytest.raises(InputError, match=r"there is nothing: `astrid resume .*c\.zarr` puts it there again"):
        detect.task(planned.job.settings, key)
    detect.prepare(planned)
    other = scoring.choose_model(file, None, Location.parse(planned.job.output))
    assert detect.task(planned.job.settings, key).counts["peaks"] > 0
    scoring.keep_model(
        scoring.Chosen("", type(other.ensemble)((marker(seed=1),))), Location.parse(planned.job.output)
    )
    changed = {**planned.job.settings, "model": "x.pt#0123456789abcdef"}
    with pytest.raises(InputError, match="should be the model 0123456789abcdef, there is the model"):
        detect.task(changed, key)


def test_without_the_survey_a_plan_with_a_model_says_what_to_do(
    made: SmallSurvey, file: str, tmp_path: Path
) -> None:
    away, there = tmp_path / "away", Path(made.survey)
    there.rename(away)
    try:
        with pytest.raises(InputError, match="make the difference again, or detect without a model"):
            plan_stage("detect", settings(made, tmp_path / "c.zarr", model=file))
        assert len(plan_stage("detect", settings(made, tmp_path / "c.zarr")).keys) == 5
    finally:
        away.rename(there)


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_a_name_of_the_registry_is_pinned_to_its_version(made: SmallSurvey, tmp_path: Path) -> None:
    from astrid_dist.learning.registry import register
    from astrid_dist.learning.tracking import client_of, start_run

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    one = Location.parse(tmp_path / "artifacts")
    for seed in (0, 1):
        register(uri, start_run(uri, "test", f"run{seed}", one), marker(seed=seed), "astrid", {})
    client_of(uri).set_registered_model_alias("astrid", "champion", "1")

    def planned(model: str) -> Any:
        return plan_stage("detect", settings(made, tmp_path / "c.zarr", model=model))

    first = planned("astrid")
    assert first.job.inputs["model"] == f"astrid/1#{marker_digest()}"
    assert not any("astrid" in said for said in first.warnings if "MLflow" in said)
    assert planned("astrid@challenger").job.inputs["model"].startswith("astrid/2#")
    base = planned("astrid-nowhere")
    assert base.job.inputs == first.job.inputs
    assert any(
        "no model 'astrid-nowhere': astrid/1, the base, is used instead" in said for said in base.warnings
    )
    # The champion changes; the job, planned again from what it was planned to, does not.
    client_of(uri).set_registered_model_alias("astrid", "champion", "2")
    assert plan_stage("detect", first.job.settings).job.digest == first.job.digest
    assert planned("astrid").job.digest != first.job.digest
    for model in ("astrid@nobody", "supernet", "astrid/7"):
        with pytest.raises(ConfigError, match="has no model"):
            planned(model)
    run_stage("detect", first.job.settings, SerialEngine())
    assert np.isfinite(astrid.open_candidates(str(tmp_path / "c.zarr"))["p_real"]).all()
