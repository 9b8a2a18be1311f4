"""A scientist opens and queries a survey, over and over, while an ingest appends to it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_every_look_at_a_growing_survey_shows_whole_epochs(mock_survey: Path, tmp_path: Path) -> None:
    survey = str(tmp_path / "survey.zarr")
    files = sorted(str(path) for path in (mock_survey / "fits").iterdir())
    first = {"paths": files[:4], "survey": "generic", "output": survey, "field": "f0000"}
    run_stage("ingest", first, SerialEngine())
    ingest = [sys.executable, "-m", "astrid_dist.cli", "ingest", *files]
    ingest += ["--survey", "generic", "--to", survey, "--field", "f0000"]
    seen: list[int] = []
    with subprocess.Popen(ingest, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as appending:
        while appending.poll() is None:
            seen.append(look(survey))
        assert appending.returncode == 0, appending.stderr.read().decode() if appending.stderr else ""
    assert look(survey) == len(files)
    assert seen == sorted(seen), "an epoch that was shown went away"
    assert seen[0] == 4
    assert len(seen) > 5, "the ingest was over before it could be watched"


def look(survey: str) -> int:
    """Query the survey as it is now; the number of its epochs."""
    cube = astrid.open_survey(survey)["f0000/r"]
    count = cube.sizes["epoch"]
    assert all(
        variable.sizes["epoch"] == count for variable in cube.variables.values() if "epoch" in variable.dims
    )
    assert bool(cube["valid"].all())
    assert np.all(np.diff(cube["time"].values[:count]) > np.timedelta64(0))
    # The newest epoch is the one that could be half there: its pixels, its noise, its stars, its light curve.
    newest = cube.isel(epoch=-1)
    window = newest.isel(y=slice(100, 130), x=slice(100, 130)).compute()
    assert np.isfinite(window["image"]).mean() > 0.9
    assert np.isfinite(window["background"]).all()
    assert int(np.isfinite(window["star_x"]).sum()) == int(newest["n_stars"])
    samples = int(cube.attrs["oversampling"]) ** 2
    assert abs(float(window["psf"].isel(psf_term=0).sum()) / samples - 1) < 1e-3
    assert cube.astrid.light_curve(x=128.0, y=128.0).sizes["epoch"] == count
    return count
