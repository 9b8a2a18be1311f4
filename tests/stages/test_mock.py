import io

import numpy as np
import pytest
from astropy.io import fits

import astrid_dist as astrid
from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError
from astrid_dist.simulation.mock import build_scene, make_exposure
from astrid_dist.simulation.survey import conditions
from astrid_dist.stages import mock
from astrid_dist.stages.run import run_stage
from astrid_dist.store.locations import Location
from astrid_dist.surveys.headers import read_facts
from astrid_dist.surveys.profile import load_profile

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
    survey = settings.mock_survey()
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
    table = mock.truth_table(settings.mock_survey())
    assert len({len(column) for column in table.values()}) == 1
    lasting = np.isin(table["class"], ["transient", "variable"])
    assert lasting.sum() == 6 * (3 + 2 + 3)
    assert set(table["source"]) == {f"f0000_r_e{epoch:04d}.fits.fz" for epoch in range(6)}
    assert np.isfinite(table["mag"][lasting & (table["flux"] > 0)]).all()


@pytest.mark.parametrize("name", ["ztf", "lsst", "ps1", "decam", "meerlicht"])
def test_the_profile_of_a_survey_reads_its_mock(settings, name):
    profile = load_profile(name)
    band = list(profile.depth)[-1]
    one = settings.model_copy(update={"survey": name, "bands": (band,)})
    survey = one.mock_survey()
    mock.task(one.model_dump(mode="json"), ShardKey(f"f0000/{band}", 0))
    with fits.open(f"{one.files}/f0000_{band}_e0000.fits.fz") as hdus:
        found, counts = read_facts(hdus[1].header, profile), hdus[1].data
    state = conditions(survey, 0, band, 0)
    assert found.band == band
    assert (found.gain, found.read_noise) == (profile.gain, profile.read_noise)
    assert found.exptime == profile.camera.exptime_s
    assert found.mjd == pytest.approx(state.mjd, abs=1e-6)
    assert found.fwhm_px == pytest.approx(state.psf.fwhm_px, abs=1e-3)
    assert found.zeropoint == pytest.approx(state.zeropoint + state.zeropoint_error, abs=1e-3)
    assert found.saturation_electron == pytest.approx(survey.saturation_dn * survey.gain)
    # the sky in the file, in electrons, is the sky of the epoch
    assert np.median(counts * found.scale) == pytest.approx(state.sky, rel=0.1)


@pytest.mark.parametrize("name", ["ztf", "lsst"])
def test_a_mock_of_a_survey_is_ingested_and_as_deep_as_the_survey(tmp_path, name):
    made = {"survey": name, "output": str(tmp_path / "truth.zarr"), "files": str(tmp_path / "fits")}
    few = {**SMALL, "epochs": 3, "template_epochs": 2, "asteroids": 0, "variables": 1, "supernovae": 1}
    run_stage("mock", made | few, SerialEngine())
    survey = str(tmp_path / "survey.zarr")
    ingest = {"paths": [made["files"]], "survey": name, "output": survey, "field": "f0000"}
    run_stage("ingest", ingest, SerialEngine())
    profile, cube = load_profile(name), astrid.open_survey(survey)["f0000/r"]
    assert cube.sizes["epoch"] == 3
    assert (cube.gain == profile.gain).all()
    seeing = cube.fwhm.values * profile.pixel_scale_arcsec
    depth = profile.depth["r"] - 2.5 * np.log10(seeing / profile.seeing_arcsec.typical)
    assert np.abs(np.mean(cube.limiting_mag.values - depth)) < 0.3


def test_a_survey_that_cannot_be_mocked_is_refused(settings):
    with pytest.raises(ValueError, match="did you mean 'lsst'"):
        mock.Settings(output="o", files="f", survey="lst")
    with pytest.raises(ConfigError, match=r"bands \['u'\]: choose among \['g', 'r', 'i'\]"):
        settings.model_copy(update={"survey": "ztf", "bands": ("u",)}).mock_survey()


def test_settings_of_a_survey_can_be_said_otherwise(settings):
    said = {"survey": "lsst", "seeing_arcsec": 1.4, "cosmic_rays": 0.0}
    survey = settings.model_copy(update=said).mock_survey()
    assert (survey.seeing_arcsec, survey.cosmic_rays, survey.pixel_scale) == (1.4, 0.0, 0.2)
    assert settings.mock_survey().seeing_arcsec == 2.0
