"""Detection on a difference product: quality of epochs, the reference's stars, columns with units."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import astrid_dist as astrid
from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages import detect
from astrid_dist.stages.run import run_stage
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.writing import ProductWriter
from tests.realsky import SETS, difference

MOCK = {"size_px": 256, "epochs": 5, "template_epochs": 3, "supernovae": 3, "variables": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small survey's ``reference.zarr`` and ``difference.zarr`` of two epochs."""
    there = tmp_path_factory.mktemp("detect")
    engine = SerialEngine()
    run_stage("mock", {**MOCK, "output": str(there / "truth.zarr"), "files": str(there / "fits")}, engine)
    survey, reference = str(there / "survey.zarr"), str(there / "reference.zarr")
    ingest = {"paths": [str(there / "fits")], "survey": "generic", "output": survey, "field": "f0000"}
    run_stage("ingest", ingest, engine)
    names = [f"f0000_r_e{i:04d}.fits.fz" for i in range(5)]
    run_stage("reference", {"survey": survey, "output": reference, "epochs": names[:3]}, engine)
    output = str(there / "difference.zarr")
    settings = {"survey": survey, "reference": reference, "output": output, "epochs": names[3:]}
    run_stage("difference", settings, engine)
    return there


def judged(folder: Path, copy: Path, verdicts: list[str]) -> str:
    """The difference with other verdicts."""
    shutil.copytree(folder / "difference.zarr", copy)
    writer = ProductWriter(Location.parse(str(copy)), "f0000/r")
    writer.write_scalars({"verdict": verdicts}, 0)
    return str(copy)


def test_epochs_below_the_quality_asked_for_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    product = judged(folder, tmp_path / "judged.zarr", ["red", "yellow"])
    settings = detect.Settings(difference=product, output=str(tmp_path / "candidates.zarr"))
    planned = detect.plan(settings)
    assert [key.epoch for key in planned.keys] == [1]
    (warning,) = planned.warnings
    assert "1 of 2 epochs" in warning
    assert "1 red" in warning
    assert "quality=min=orange" in warning
    everything = detect.plan(settings.model_copy(update={"quality": "all"}))
    assert [key.epoch for key in everything.keys] == [0, 1]
    assert not everything.warnings
    run_stage("detect", settings.model_dump(), SerialEngine())
    found = astrid.open_candidates(settings.output)
    assert set(found["epoch"].values.tolist()) == {1}
    with pytest.raises(ValueError, match="min=green"):
        detect.Settings(difference=product, output="x", quality="blue")


def test_every_column_of_the_layout_is_filled_and_has_its_unit(folder: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "candidates.zarr")
    settings = {"difference": str(folder / "difference.zarr"), "output": output, "quality": "all"}
    run_stage("detect", settings, SerialEngine())
    found = astrid.open_candidates(output)
    layout = variables("candidates")
    unknown = {"uncertainty", "aleatoric", "epistemic"}
    rare = {"streak_length", "streak_angle", "streak_flux", "opposite_distance",
            "opposite_ratio", "ra", "dec"}  # fmt: skip
    for name, one in layout.items():
        if name not in ("time", *detect.FLUXES):
            assert found[name].attrs.get("units", "") == one.unit, name
        of_model = name.startswith(("p_", "model_")) or name in unknown
        if of_model:
            assert np.isnan(found[name]).all(), name
        elif one.dtype[0] == "f" and name not in rare:
            assert np.isfinite(found[name]).any(), name
    assert set(found["found_by"].values.tolist()) == {"score"}
    reference = astrid.open_reference(str(folder / "reference.zarr"))["f0000/r"]
    stars = np.column_stack([reference["star_x"], reference["star_y"]])
    first = found.isel(candidate=0)
    gaps = np.hypot(stars[:, 0] - float(first["x"]), stars[:, 1] - float(first["y"]))
    nearest = int(np.nanargmin(gaps))
    assert float(first["star_distance"]) == pytest.approx(gaps[nearest], rel=1e-5)
    flux = 10 ** (-0.4 * (float(first["star_mag"]) - 23.9))
    assert float(first["star_ratio"]) == pytest.approx(flux / abs(float(first["flux"])), rel=1e-3)
    assert str(first["flux_unit"].values) == "uJy"
    height, width = reference.sizes["y"], reference.sizes["x"]
    borders = (
        float(first["x"]),
        float(first["y"]),
        width - 1 - float(first["x"]),
        height - 1 - float(first["y"]),
    )
    assert float(first["edge_distance"]) == pytest.approx(min(borders), abs=1e-3)


def test_without_its_reference_stars_are_unknown_and_the_plan_says_so(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "moved"
    hidden = folder / "reference.zarr"
    hidden.rename(away)
    try:
        settings = detect.Settings(
            difference=str(folder / "difference.zarr"), output=str(tmp_path / "c.zarr"), quality="all"
        )
        (warning,) = detect.plan(settings).warnings
        assert "star_distance" in warning
        assert "reference.zarr" in warning
        run_stage("detect", settings.model_dump(), SerialEngine())
        found = astrid.open_candidates(settings.output)
        assert found.sizes["candidate"] > 0
        assert np.isnan(found["star_distance"]).all()
    finally:
        away.rename(hidden)


def test_a_task_gives_the_same_rows_again(folder: Path, tmp_path: Path) -> None:
    settings = {
        "difference": str(folder / "difference.zarr"),
        "output": str(tmp_path / "c.zarr"),
        "quality": "all",
    }
    marks = [detect.task(settings, ShardKey("f0000/r", 1, 0, 0)).shards for _ in range(2)]
    assert marks[0] == marks[1]


@pytest.mark.realdata
def test_the_new_source_of_real_frames_is_a_point_source_and_cosmic_rays_are_not(
    realdata: Path, tmp_path: Path
) -> None:
    difference(SETS[1], realdata, tmp_path)
    found = astrid.open_candidates(str(tmp_path / "candidates.zarr")).to_dataframe()
    new = np.hypot(found["x"] - 128.2, found["y"] - 127.5) < 0.6
    real, others = found[new], found[~new & (found["snr"] > 8)]
    assert len(real) == 5
    assert real["object"].nunique() == 1
    assert real["chi2"].between(0.5, 1.2).all()
    assert (real["peak_ratio"] < 1.4).all()
    assert (real["translient"] < 0.6).all()
    assert (real["dchi2_hit"] < -100).all()
    assert (real["minor_ratio"] > 0.6).all()
    assert real["fwhm_ratio"].between(0.7, 1.2).all()
    assert real["streak_length"].isna().all()
    # Five exposures a few minutes long: the rest is what was left of particles, none like a point source.
    assert len(others) >= 5
    assert others["chi2"].median() > 1.5
    sharp = (others["peak_ratio"] > 1.4) | (others["minor_ratio"] < 0.4) | others["streak_length"].notna()
    assert sharp.mean() > 0.9
