import io

import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.engine.keys import ShardKey
from astrid_dist.simulation.mock import build_scene, make_exposure
from astrid_dist.stages import mock
from astrid_dist.store.locations import Location

SMALL = {
    "epochs": 6,
    "template_epochs": 3,
    "size_px": 256,
    "star_density": 1500.0,
    "supernovae": 3,
    "hostless": 2,
    "variables": 3,
    "asteroids": 1,
}


@pytest.fixture
def settings(tmp_path):
    return mock.Settings(output=str(tmp_path / "truth.zarr"), files=str(tmp_path / "mock"), **SMALL)


def test_the_plan_has_one_key_per_exposure_and_resolves_to_itself(settings):
    plan = mock.plan(settings.model_copy(update={"fields": 2, "bands": ("r", "g")}))
    assert len(plan.keys) == 24
    assert str(plan.keys[7]) == "f0000/g/e000001/y00x00"
    again = mock.plan(mock.Settings.model_validate(plan.job.settings))
    assert again.job.digest == plan.job.digest


def test_a_task_writes_the_exposure_losslessly_with_its_header(settings, tmp_path):
    plan = mock.plan(settings)
    outcome = mock.task(plan.job.settings, ShardKey("f0000/r", 3))
    path = tmp_path / "mock" / "f0000_r_e0003.fits.fz"
    survey = settings.survey()
    expected = make_exposure(survey, build_scene(survey, 0), 0, "r", 3)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(hdus[1].data, expected.counts)
        header = hdus[1].header
    assert header["OBJECT"] == "f0000"
    assert header["GAIN"] == 1.6
    assert header["CTYPE1"] == "RA---TAN"
    assert header["DATE-OBS"].startswith("2024-10-16")
    assert list(outcome.shards) == ["files:f0000_r_e0003.fits.fz"]
    assert mock.task(plan.job.settings, ShardKey("f0000/r", 3)).shards == outcome.shards


def test_files_are_small_and_readable_from_any_store(settings):
    remote = settings.model_copy(update={"files": "memory://mock-stage"})
    mock.task(remote.model_dump(), ShardKey("f0000/r", 0))
    data = Location.parse("memory://mock-stage").objects().get("f0000_r_e0000.fits.fz")
    assert len(data) < 2 * 256 * 256
    with fits.open(io.BytesIO(data)) as hdus:
        assert hdus[1].data.shape == (256, 256)


def test_the_truth_table_has_a_row_for_every_lasting_object_in_every_epoch(settings):
    table = mock.truth_table(settings.survey())
    assert len({len(column) for column in table.values()}) == 1
    lasting = np.isin(table["class"], ["transient", "variable"])
    assert lasting.sum() == 6 * (3 + 2 + 3)
    assert set(table["source"]) == {f"f0000_r_e{epoch:04d}.fits.fz" for epoch in range(6)}
    assert np.isfinite(table["mag"][lasting & (table["flux"] > 0)]).all()
