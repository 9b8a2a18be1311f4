"""From FITS files to queried candidates, with the commands a user types, on a sky that is known."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import astrid_dist as astrid
from astrid_dist.cli import app

cli = CliRunner()


def run(*arguments: str) -> str:
    """Run the command in this process; the output, or a failed test."""
    done = cli.invoke(app, list(arguments))
    assert done.exit_code == 0, f"{arguments}: {done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def products(mock_reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``difference.zarr`` and ``candidates.zarr`` of the mock survey."""
    folder = tmp_path_factory.mktemp("products")
    survey, reference = mock_reference / "survey.zarr", mock_reference / "reference.zarr"
    difference, candidates = folder / "difference.zarr", folder / "candidates.zarr"
    run(
        *("run", "jobs/difference.yaml", f"survey={survey}", f"reference={reference}"),
        *(f"output={difference}", "--cluster", "serial"),
    )
    run("run", "jobs/detect.yaml", f"difference={difference}", f"output={candidates}", "--cluster", "serial")
    return folder


def test_epochs_of_the_search_have_unit_noise_before_any_renormalisation(products: Path) -> None:
    cube = astrid.open_difference(str(products / "difference.zarr"))["f0000/r"]
    search = cube.isel(epoch=cube["reference_weight"].values == 0)
    np.testing.assert_allclose(search["score_std"].values, 1.0, atol=0.06)
    np.testing.assert_allclose(search["score_mean"].values, 0.0, atol=0.03)


def test_an_epoch_of_the_reference_says_so_and_is_not_sharpened(products: Path) -> None:
    cube = astrid.open_difference(str(products / "difference.zarr"))["f0000/r"]
    members = cube.isel(epoch=slice(0, 3))
    assert (members["reference_weight"] > 0.1).all()
    assert all("of its own reference" in reason for reason in members["reason"].values)
    assert (members["score_std"] < 0.95).all()
    assert (members["renormalisation"] == 1).all()


def test_bright_transients_are_found_where_they_are_with_their_flux(
    mock_reference: Path, products: Path
) -> None:
    truth = astrid.open_truth(str(mock_reference / "truth.zarr")).to_dataframe()
    found = astrid.open_candidates(str(products / "candidates.zarr")).to_dataframe()
    new = truth[
        (truth["class"] == "transient") & (truth["snr"] > 12) & (truth["epoch"] >= 3) & truth["injectable"]
    ]
    assert len(new) >= 5, "the mock survey holds too few bright supernovae for this test"
    misses, pulls = [], []
    for row in new.itertuples():
        near = found[(found["epoch"] == row.epoch) & (np.hypot(found["x"] - row.x, found["y"] - row.y) < 1.0)]
        if near.empty:
            misses.append((row.epoch, row.x, row.y, row.snr))
            continue
        best = near.loc[near["snr"].idxmax()]
        assert best["flux_unit"] == "uJy"
        expected = 10 ** (-0.4 * (row.mag - 23.9))
        pulls.append((best["flux"] - expected) / np.hypot(best["flux_err"], 0.05 * expected))
    assert len(misses) <= 0.1 * len(new), misses
    assert abs(np.median(pulls)) < 1.0


def test_a_light_curve_follows_a_star_that_does_not_vary(mock_reference: Path) -> None:
    cube = astrid.open_survey(str(mock_reference / "survey.zarr"))["f0000/r"]
    flags, x, y = (cube[name].isel(epoch=0).values for name in ("star_flags", "star_x", "star_y"))
    inside = (x > 30) & (x < 225) & (y > 30) & (y < 225) & (flags == 0)
    scatter = []
    for star in np.flatnonzero(inside)[:6]:
        curve = cube.astrid.light_curve(x=float(x[star]), y=float(y[star])).compute()
        assert curve.sizes["epoch"] == cube.sizes["epoch"]
        scatter.append(float(np.nanstd(curve["mag"])))
    assert np.median(scatter) < 0.1, (
        "stars should repeat within the calibration of the mock, 0.01 mag and noise"
    )


def test_status_verify_why_and_export_speak_of_the_finished_products(products: Path, tmp_path: Path) -> None:
    url = str(products / "difference.zarr")
    assert "f0000/r: 12 epochs, 12 valid, 256 x 256 pixels" in run("status", url)
    assert re.search(r"difference product, complete\n(?s:.*)finished .*: 12 tasks", run("status", url))
    assert re.search(r"(\d+) shards, .* 0 problems", run("verify", url))
    assert "no task was set aside" in run("why", url)
    assert "f0000/r/e000005/y00x00: done" in run("why", url, "f0000/r/e000005/y00x00")
    target = tmp_path / "candidates.csv"
    assert "candidates written" in run(
        "export", "candidates", str(products / "candidates.zarr"), "--to", str(target)
    )
    assert target.read_text().splitlines()[0].startswith(("x,", "object,", "ra,", "candidate,", "field,"))


def test_the_same_command_again_does_nothing_and_another_setting_is_refused(
    mock_reference: Path, products: Path
) -> None:
    command = (
        *("run", "jobs/difference.yaml", f"survey={mock_reference / 'survey.zarr'}"),
        *(f"reference={mock_reference / 'reference.zarr'}", f"output={products / 'difference.zarr'}"),
    )
    assert "12 done before" in run(*command, "--cluster", "serial")
    done = cli.invoke(app, [*command, "renormalise=false", "--cluster", "serial"])
    assert isinstance(done.exception, astrid.AstridError)
    assert "choose another output" in str(done.exception)


def test_an_unfinished_product_is_refused_unless_asked_for(mock_reference: Path, tmp_path: Path) -> None:
    from astrid_dist.engine.serial import SerialEngine
    from astrid_dist.stages.run import run_stage

    output = str(tmp_path / "difference.zarr")
    settings = {
        "survey": str(mock_reference / "survey.zarr"),
        "reference": str(mock_reference / "reference.zarr"),
        "output": output,
    }

    def stop(event: object) -> None:
        if type(event).__name__ == "TaskFinished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("difference", settings, SerialEngine(), [stop])
    with pytest.raises(astrid.AstridError, match="astrid resume"):
        astrid.open_difference(output)
    assert "astrid resume" in run("status", output)
    run("resume", output, "--cluster", "serial")
    assert astrid.open_difference(output)["f0000/r"].sizes["epoch"] == 12
