"""Ingest: what becomes an epoch, where it goes, what is set aside, and what a stopped job leaves."""

import fsspec
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, IncompleteProductError, ResumeConflictError
from astrid_dist.flags import Flag
from astrid_dist.stages import exposure, ingest
from astrid_dist.stages.run import give_up_failed, plan_stage, resume, run_stage
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_survey
from tests.r2_rules import R2Server

SIZE, GAIN, SKY, FWHM = 160, 2.0, 800.0, 3.5
_PLACES = np.random.default_rng(1).uniform(12, SIZE - 12, (18, 2))
_FLUX = 10 ** np.random.default_rng(2).uniform(4.3, 5.2, 18)


def frame_wcs(dx=0.0, dy=0.0, ra=150.0, dec=2.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [SIZE / 2 + dx, SIZE / 2 + dy]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    return wcs


def make_frame(
    path, seed=0, mjd=58000.0, band="r", dx=0.0, dy=0.0, wcs=True, data=None, ra=150.0, dec=2.0, **more
):
    """One exposure of 18 stars, shifted by dx, dy pixels, with photon noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    electrons = np.full((SIZE, SIZE), SKY)
    sigma = FWHM / 2.3548
    for (px, py), flux in zip(_PLACES, _FLUX, strict=True):
        electrons += (
            flux
            * np.exp(-((x - px - dx) ** 2 + (y - py - dy) ** 2) / (2 * sigma**2))
            / (2 * np.pi * sigma**2)
        )
    if data is None:
        data = np.round(rng.poisson(electrons) / GAIN).astype(np.uint16)
    header = frame_wcs(dx, dy, ra, dec).to_header() if wcs else fits.Header()
    header.update(
        {"MJD-OBS": mjd, "EXPTIME": 0.0864, "GAIN": GAIN, "RDNOISE": 4.0, "SATURATE": 6e4, "MAGZERO": 25.0}
    )
    header.update({name: value for name, value in {"FILTER": band, **more}.items() if value is not None})
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return str(path)


def ingest_into(output, paths, **more):
    settings = {"paths": [str(path) for path in paths], "output": str(output), **more}
    return run_stage("ingest", settings, SerialEngine())


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three good epochs written in disorder, and a folder of things that are wrong."""
    folder = tmp_path_factory.mktemp("night")
    make_frame(folder / "c.fits", 3, 58000.0)
    make_frame(folder / "a.fits", 1, 58002.0, dx=2.3, dy=-1.6)
    make_frame(folder / "b.fits", 2, 58001.0, dx=-1.2)
    return folder


@pytest.fixture(scope="module")
def survey(night, tmp_path_factory):
    """A survey of the three good epochs."""
    output = tmp_path_factory.mktemp("survey") / "survey.zarr"
    ingest_into(output, [night / "*.fits"], field="east")
    return output


def test_epochs_are_ordered_by_time_and_measured(survey):
    cube = open_survey(survey)["east/r"]
    assert [str(s).rpartition("/")[2] for s in cube["source"].values] == ["c.fits", "b.fits", "a.fits"]
    np.testing.assert_allclose(cube["mjd"], [58000.0000005, 58001.0000005, 58002.0000005], atol=1e-9)
    assert str(cube["time"].values[1])[:19] == "2017-09-05T00:00:00"
    np.testing.assert_allclose(cube["fwhm"], FWHM, rtol=0.05)
    np.testing.assert_allclose(cube["sky"], SKY, rtol=0.01)
    np.testing.assert_allclose(cube["zeropoint"], 25.0 + 2.5 * np.log10(GAIN))
    assert cube["verdict"].values.tolist() == ["good"] * 3
    assert cube["valid"].values.all()
    assert (cube["n_stars"].values >= 12).all()
    np.testing.assert_allclose(cube["psf"].sum(("v", "u")), 1, atol=1e-4)
    assert (cube["elongation"].values < 1.1).all()
    assert (cube["psf_stars"].values >= 8).all()
    np.testing.assert_allclose(cube["psf_chi2"], 1, atol=0.5)
    np.testing.assert_allclose(cube["psf_chi2_map"].squeeze(), cube["psf_chi2"], rtol=0.2)
    assert np.abs(cube["psf_residual"].values).max() < 0.01
    assert not cube["gain_estimated"].values.any()
    lost = (cube["mask"].values & Flag.NO_DATA) > 0
    np.testing.assert_allclose(cube["bad_fraction"], lost.mean(axis=(1, 2)), rtol=1e-5)
    # A Gaussian of FWHM w has a sum of squares of 0.441 / w^2 at the pixels.
    noise = np.sqrt(SKY + 16) * FWHM / np.sqrt(0.441)
    limit = 25.0 + 2.5 * np.log10(GAIN) - 2.5 * np.log10(5 * noise)
    np.testing.assert_allclose(cube["limiting_mag"], limit, atol=0.1)


def test_shifted_epochs_land_on_the_grid_of_the_first_with_their_flux(survey):
    cube = open_survey(survey)["east/r"]
    places = []
    for epoch in range(3):
        x, y, flux = (cube[f"star_{name}"].isel(epoch=epoch).values for name in ("x", "y", "flux"))
        nearest = [int(np.nanargmin(np.hypot(x - px, y - py))) for px, py in _PLACES]
        places.append(np.array([(x[i], y[i], flux[i]) for i in nearest]))
    isolated = np.array([np.sort(np.hypot(*(_PLACES - p).T))[1] > 20 for p in _PLACES])
    assert isolated.sum() >= 5
    for found in places:
        assert np.median(np.hypot(*(found[isolated, :2] - _PLACES[isolated]).T)) < 0.05
        assert np.median(found[isolated, 2] / _FLUX[isolated]) == pytest.approx(1, abs=0.03)


def test_where_a_shifted_epoch_has_no_pixels_there_is_no_data(survey):
    cube = open_survey(survey)["east/r"]
    last = cube.isel(epoch=2)
    image, mask = last["image"].values, last["mask"].values
    assert np.isnan(image[-1]).any() or np.isnan(image[:, 0]).any()
    np.testing.assert_array_equal(np.isnan(image), (mask & Flag.NO_DATA) > 0)
    assert np.isfinite(cube.isel(epoch=0)["image"].values).all()


def test_the_same_command_again_finds_nothing_new_and_changes_nothing(survey, night):
    before = open_survey(survey)["east/r"].load()
    settings = {"paths": [str(night)], "output": str(survey), "field": "east"}
    plan = plan_stage("ingest", settings)
    assert not plan.keys
    assert plan.warnings[0].startswith("nothing new")
    summary = run_stage("ingest", settings, SerialEngine())
    assert (summary.done, summary.quarantined) == (0, 0)
    after = open_survey(survey)["east/r"].load()
    assert after.identical(before)


def test_two_runs_write_the_same_bits(survey, night, tmp_path):
    ingest_into(tmp_path / "again.zarr", [night / "*.fits"], field="east")

    def said(url):
        markers = Ledger(Location.parse(url)).markers("ingest")
        return {marker["key"]: marker["shards"] for marker in markers if marker["shards"]}

    assert said(str(tmp_path / "again.zarr")) == {
        k: v for k, v in said(str(survey)).items() if k.startswith("east/r")
    }


def test_later_epochs_are_appended_whatever_their_time(night, tmp_path):
    output = tmp_path / "s.zarr"
    ingest_into(output, [night / "b.fits"])
    name = next(iter(open_survey(output)))
    assert name == "f150.000+02.000/r"
    ingest_into(output, [night / "b.fits", night / "c.fits"])
    cube = open_survey(output)[name]
    assert [str(s).rpartition("/")[2] for s in cube["source"].values] == ["b.fits", "c.fits"]


def test_bad_frames_are_set_aside_with_their_reason_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    good = make_frame(folder / "1.fits", 1, 58001.0)
    make_frame(folder / "2copy.fits", 1, 58005.0)  # the same pixels under another name and time
    make_frame(folder / "3nan.fits", mjd=58002.0, data=np.full((SIZE, SIZE), np.nan, np.float32))
    make_frame(folder / "4elsewhere.fits", 4, 58003.0, dec=3.0)
    make_frame(folder / "5green.fits", 5, 58004.0, band="g")
    make_frame(folder / "6timeless.fits", 6, mjd=None)
    (folder / "7cut.fits").write_bytes((folder / "1.fits").read_bytes()[:9000])
    make_frame(folder / "8.fits", 8, 58006.0)
    (folder / "readme.txt").write_text("not an image")
    output = tmp_path / "s.zarr"
    summary = ingest_into(output, [folder], field="east", band="r")
    assert (summary.done, summary.quarantined, summary.failed) == (2, 5, [])
    cube = open_survey(output)["east/r"]
    said = {
        str(s).rpartition("/")[2]: str(r)
        for s, r in zip(cube["source"].values, cube["reason"].values, strict=True)
    }
    assert said == {
        "1.fits": "",
        "3nan.fits": said["3nan.fits"],
        "4elsewhere.fits": said["4elsewhere.fits"],
        "8.fits": "",
    }
    assert said["3nan.fits"].startswith("every pixel is NaN")
    assert said["4elsewhere.fits"].startswith("WCS of another field")
    np.testing.assert_array_equal(cube["valid"], [True, False, False, True])
    assert np.isnan(cube["image"].isel(epoch=1).values).all()
    assert (cube["mask"].isel(epoch=1).values == Flag.NO_DATA).all()
    reasons = {
        m["scalars"]["source"].rpartition("/")[2]: m["scalars"]["reason"]
        for m in Ledger(Location.parse(output)).markers("ingest")
        if m["status"] == "quarantined"
    }
    assert len(reasons) == 5
    assert reasons["3nan.fits"] == said["3nan.fits"]
    assert reasons["7cut.fits"].startswith("cannot be read as FITS")
    assert "cut short" in reasons["7cut.fits"]
    assert reasons["6timeless.fits"].startswith("no time in the header")
    assert reasons["5green.fits"].startswith("wrong band: the header says g, the job takes r")
    again = plan_stage(
        "ingest", {"paths": [str(folder)], "output": str(output), "field": "east", "band": "r"}
    )
    assert not again.keys
    assert "5 duplicates" in again.warnings[1]
    stored = cube["image"].isel(epoch=0).values
    np.testing.assert_array_equal(stored, fits.getdata(good).astype(np.float32) * np.float32(GAIN))


def test_bands_can_be_taken_one_after_the_other_from_one_folder(tmp_path):
    make_frame(tmp_path / "red.fits", 1, 58001.0)
    make_frame(tmp_path / "green.fits", 2, 58002.0, band="g")
    output = tmp_path / "s.zarr"
    for band in ("r", "g"):
        summary = ingest_into(output, [tmp_path / "*.fits"], field="east", band=band)
        assert summary.done == 1
    assert {name: cube.sizes["epoch"] for name, cube in open_survey(output).items()} == {
        "east/g": 1,
        "east/r": 1,
    }


def test_a_quarantined_frame_is_tried_again_only_when_asked(tmp_path, monkeypatch):
    make_frame(tmp_path / "1.fits", 1, 58001.0)
    make_frame(tmp_path / "2.fits", 2, 58002.0)
    output, paths = tmp_path / "s.zarr", [tmp_path / "*.fits"]
    real = exposure.measure_psf
    with monkeypatch.context() as broken:
        broken.setattr(exposure, "measure_psf", lambda *given, **named: real(None))
        assert ingest_into(output, paths, field="east").quarantined == 2
    assert ingest_into(output, paths, field="east").done == 0
    assert ingest_into(output, paths, field="east", retry=True).done == 2
    cube = open_survey(output)["east/r"]
    np.testing.assert_array_equal(cube["valid"], [False, False, True, True])
    assert ingest_into(output, paths, field="east", retry=True).done == 0


def test_a_frame_that_kills_its_task_is_given_up_and_the_survey_goes_on(night, tmp_path, monkeypatch):
    output, real, calls = tmp_path / "s.zarr", exposure.measure_psf, []

    def dies_on_second(*given, **named):
        calls.append(given)
        if 2 <= len(calls) <= 4:  # every attempt at the second frame; memory is not the frame's fault
            raise MemoryError("no room")
        return real(*given, **named)

    monkeypatch.setattr(exposure, "measure_psf", dies_on_second)
    with pytest.raises(IncompleteProductError, match="astrid resume"):
        ingest_into(output, [night / "*.fits"], field="east")
    assert open_survey(output)["east/r"].sizes["epoch"] == 1
    [key] = give_up_failed(str(output))
    assert resume(str(output), SerialEngine()).skipped == 3
    cube = open_survey(output)["east/r"]
    np.testing.assert_array_equal(cube["valid"], [True, False, True])
    assert str(cube["reason"].values[1]) == "given up after 3 attempts: MemoryError: no room"
    assert key == "east/r/e000001/y00x00"
    with pytest.raises(ConfigError, match="nothing to resume"):
        give_up_failed(str(output))


def test_a_frame_that_breaks_the_measuring_is_set_aside_and_the_rest_goes_on(night, tmp_path, monkeypatch):
    real, calls = exposure.measure_psf, []

    def breaks_on_second(*given, **named):
        calls.append(given)
        if len(calls) == 2:
            raise ValueError("zero-size array")
        return real(*given, **named)

    monkeypatch.setattr(exposure, "measure_psf", breaks_on_second)
    summary = ingest_into(tmp_path / "s.zarr", [night / "*.fits"], field="east")
    assert (summary.done, summary.quarantined, summary.failed) == (2, 1, [])
    cube = open_survey(tmp_path / "s.zarr")["east/r"]
    np.testing.assert_array_equal(cube["valid"], [True, False, True])
    assert str(cube["reason"].values[1]) == (
        "could not be measured: ValueError: zero-size array in measure_exposure; the frame is left out, "
        "please report it"
    )


def test_a_stopped_job_shows_only_what_is_whole_and_resumes_to_the_same_survey(
    night, survey, tmp_path, monkeypatch
):
    output = tmp_path / "s.zarr"
    real = ingest.read_frame

    def fails_on_second(source, hdu, profile):
        if source.endswith("b.fits"):
            raise RuntimeError("the worker's disk is gone")
        return real(source, hdu, profile)

    monkeypatch.setattr(ingest, "read_frame", fails_on_second)
    with pytest.raises(IncompleteProductError, match="e000001"):
        ingest_into(output, [night / "*.fits"], field="east")
    shown = open_survey(output)["east/r"]
    assert shown.sizes["epoch"] == 1  # the third is written, but the second is not
    assert str(shown["source"].values[0]).endswith("c.fits")
    with pytest.raises(ResumeConflictError, match="unfinished"):
        ingest_into(output, [night / "a.fits"], field="west")
    monkeypatch.setattr(ingest, "read_frame", real)
    summary = resume(str(output), SerialEngine())
    assert (summary.done, summary.skipped) == (1, 2)
    resumed, whole = open_survey(output)["east/r"].load(), open_survey(survey)["east/r"].load()
    assert resumed.drop_attrs().equals(whole.drop_attrs())


def test_the_same_command_goes_on_with_a_stopped_job(night, tmp_path, monkeypatch):
    output = tmp_path / "s.zarr"
    real = ingest.read_frame
    monkeypatch.setattr(ingest, "read_frame", lambda *_: (_ for _ in ()).throw(RuntimeError("gone")))
    with pytest.raises(IncompleteProductError):
        ingest_into(output, [night / "b.fits"])
    monkeypatch.setattr(ingest, "read_frame", real)
    plan = plan_stage("ingest", {"paths": [str(night / "b.fits")], "output": str(output)})
    assert "goes on with" in plan.warnings[0]
    assert ingest_into(output, [night / "b.fits"]).done == 1


def test_a_resolved_plan_planned_again_is_the_same(night, tmp_path):
    settings = {"paths": [str(night)], "output": str(tmp_path / "s.zarr")}
    plan = plan_stage("ingest", settings)
    again = plan_stage("ingest", plan.job.settings)
    assert again.job.digest == plan.job.digest
    assert list(again.keys) == list(plan.keys)
    assert not (tmp_path / "s.zarr").exists()


def test_fields_follow_the_detector_or_the_place_on_the_sky(tmp_path):
    folder = tmp_path / "n"
    folder.mkdir()
    make_frame(folder / "1.fits", 1, 58001.0)
    make_frame(folder / "2.fits", 2, 58002.0, dx=30.0)
    make_frame(folder / "3.fits", 3, 58003.0, ra=200.0, dec=-30.0)
    make_frame(folder / "4.fits", 4, 58004.0, CCDNUM=7)
    make_frame(folder / "5.fits", 5, 58005.0, wcs=False)
    plan = plan_stage("ingest", {"paths": [str(folder)], "output": str(tmp_path / "s.zarr")})
    assert [str(key) for key in plan.keys] == [
        "ccd07/r/e000000/y00x00",
        "f150.000+02.000/r/e000000/y00x00",
        "f150.000+02.000/r/e000001/y00x00",
        "f200.000-30.000/r/e000000/y00x00",
        "field0/r/e000000/y00x00",
    ]


@pytest.mark.parametrize("named", [{"field": "east"}, {}])
def test_a_frame_moved_by_ten_degrees_never_sets_the_grid_even_if_it_is_the_first(tmp_path, named):
    ccd = {} if named else {"CCDNUM": 7}
    moved = make_frame(tmp_path / "a.fits", 1, 57000.0, dec=12.0, **ccd)
    others = [make_frame(tmp_path / f"{k}.fits", k, 57000.0 + k, dx=k, **ccd) for k in (2, 3, 4)]
    for number, paths in enumerate([[moved, *others], [*others[::-1], moved]]):
        output = tmp_path / f"{number}.zarr"
        summary = ingest_into(output, paths, **named)
        assert (summary.done, summary.quarantined) == (3, 1)
        product = open_survey(output)
        cube = next(iter(product.values()))
        np.testing.assert_array_equal(cube["valid"], [False, True, True, True])
        reason = str(cube["reason"].values[0])
        assert reason.startswith("WCS of another field: the frame is centred at ra 149.9999, dec +12.0001 ")
        for said in (f"that of {others[0]}", "dec +2.00", "--grid", "--field"):
            assert said in reason
        assert WCS(fits.Header.fromstring(cube.attrs["wcs"])).wcs.crpix[0] == SIZE / 2 + 2
        later = make_frame(tmp_path / "later.fits", 9, 57009.0, dec=12.0, **ccd)
        ingest_into(output, [later], **named)
        reason = str(next(iter(open_survey(output).values()))["reason"].values[-1])
        assert "of the grid of this field which is centred at ra 150.0002, dec +2.0001;" in reason


def test_a_frame_of_a_wildly_wrong_scale_touches_all_others_and_still_does_not_set_the_grid(tmp_path):
    path = make_frame(tmp_path / "a.fits", 1, 57000.0)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["CDELT1"] *= 1000
        hdus[0].header["CDELT2"] *= 1000
    for k in (2, 3):
        make_frame(tmp_path / f"{k}.fits", k, 57000.0 + k)
    plan = plan_stage("ingest", {"paths": [str(tmp_path)], "output": "memory://scale", "field": "east"})
    assert plan.job.settings["grids"]["east"]["source"].endswith("2.fits")


def test_a_frame_of_the_future_is_refused_once(tmp_path):
    path = make_frame(tmp_path / "1.fits", mjd=90000.0)
    assert ingest_into(tmp_path / "s.zarr", [path]).quarantined == 1
    plan = plan_stage("ingest", {"paths": [path], "output": str(tmp_path / "s.zarr")})
    assert not plan.keys
    assert "refused before" in plan.warnings[1]


def test_a_given_grid_is_the_grid_and_bands_of_a_field_share_it(tmp_path, night):
    grid = make_frame(tmp_path / "grid.fits", 9, dx=5.0)
    make_frame(tmp_path / "g.fits", 4, 58004.0, band="g")
    output = tmp_path / "s.zarr"
    ingest_into(output, [night / "c.fits"], field="east", grid=grid)
    ingest_into(output, [tmp_path / "g.fits"], field="east")
    product = open_survey(output)
    wcs = [WCS(fits.Header.fromstring(product[name].attrs["wcs"])) for name in ("east/g", "east/r")]
    for one in wcs:
        np.testing.assert_allclose(one.wcs.crpix, [SIZE / 2 + 5, SIZE / 2])
    x, y = (product["east/r"][f"star_{name}"].isel(epoch=0).values for name in ("x", "y"))
    offsets = [np.nanmin(np.hypot(x - px - 5.0, y - py)) for px, py in _PLACES]
    assert np.median(offsets) < 0.05


def test_frames_without_a_band_or_paths_without_frames_say_what_to_do(tmp_path):
    make_frame(tmp_path / "1.fits", band=None)
    plan = plan_stage("ingest", {"paths": [str(tmp_path / "1.fits")], "output": str(tmp_path / "s.zarr")})
    assert "no band in the header" in plan.warnings[0]
    assert "looked for BAND, FILTER, FILTNAM, FILTER1; give --band" in plan.warnings[0]
    assert [key.group.split("/")[0] for key in plan.keys] == ["refused"]
    named = {"paths": [str(tmp_path / "1.fits")], "output": str(tmp_path / "s.zarr"), "band": "r"}
    assert [key.group for key in plan_stage("ingest", named).keys] == ["f150.000+02.000/r"]
    (tmp_path / "empty").mkdir()
    for name, said in {
        "none*.fits": r"nothing there ends in .*\.fits\.fz",
        "empty": "nothing there ends in",
        "absent": f"{tmp_path}/absent does not exist",
    }.items():
        with pytest.raises(ConfigError, match=f"stands for no FITS image: {said}"):
            plan_stage("ingest", {"paths": [str(tmp_path / name)], "output": str(tmp_path / "s.zarr")})
    with pytest.raises(ConfigError, match="cannot be taken"):
        plan_stage("ingest", {**named, "grid": str(tmp_path / "none.fits")})


def test_a_frame_of_few_stars_is_kept_and_said_so(tmp_path):
    data = np.random.default_rng(0).poisson(SKY, (SIZE, SIZE)).astype(np.uint16)
    make_frame(tmp_path / "1.fits", data=data)
    ingest_into(tmp_path / "s.zarr", [tmp_path / "1.fits"])
    cube = next(iter(open_survey(tmp_path / "s.zarr").values()))
    assert cube["verdict"].values.tolist() == ["few stars"]
    assert cube["valid"].values.tolist() == [True]


@pytest.mark.realdata
def test_decam_epochs_of_two_detectors_and_bands_share_one_field(realdata, tmp_path):
    """FWHM against the header's own; sky against its AVSKY."""
    paths = sorted(str(p) for p in (realdata / "decam_epochs").glob("**/images/**/*_ooi_*.fits.gz"))
    summary = ingest_into(tmp_path / "s.zarr", paths, survey="decam", field="east")
    assert (summary.done, summary.quarantined) == (5, 0)
    product = open_survey(tmp_path / "s.zarr")
    assert {name: product[name].sizes["epoch"] for name in product} == {"east/r": 2, "east/z": 3}
    for name in product:
        cube = product[name].load()
        for epoch in range(cube.sizes["epoch"]):
            one = cube.isel(epoch=epoch)
            header = fits.getheader(str(one["source"].values).removesuffix("[1]"), 1)
            assert float(one["fwhm"]) == pytest.approx(header["FWHM"], rel=0.15)  # the CCD's median
            assert float(one["sky"]) == pytest.approx(header["AVSKY"] * float(one["gain"]), rel=0.05)
            assert str(one["verdict"].values) == "few stars"


@pytest.mark.realdata
def test_sfft_epochs_that_share_one_wrong_time_are_epochs_of_their_own(realdata, tmp_path):
    pattern = realdata / "sfft_decam_obs04_obs18" / "input_data" / "*18*mini*"
    assert ingest_into(tmp_path / "s.zarr", [pattern], survey="decam").done == 5
    cube = open_survey(tmp_path / "s.zarr")["ccd37/i"]
    assert len(set(cube["epoch_id"].values.tolist())) == 5
    assert cube["valid"].values.all()


def test_images_of_one_file_are_epochs_that_say_which_extension_they_are(tmp_path):
    hdus = []
    for k in (1, 2):
        path = make_frame(tmp_path / f"{k}.fits", k, CCDNUM=k)
        hdus.append(fits.ImageHDU(fits.getdata(path), fits.getheader(path), name=f"N{k}"))
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "both.fits")
    ingest_into(tmp_path / "s.zarr", [tmp_path / "both.fits"])
    product = open_survey(tmp_path / "s.zarr")
    said = {name: str(product[name]["source"].values[0]).rpartition("/")[2] for name in product}
    assert said == {"ccd01/r": "both.fits[1]", "ccd02/r": "both.fits[2]"}


@pytest.mark.s3
def test_frames_in_a_bucket_become_a_survey_in_a_bucket(night, survey, monkeypatch):
    with R2Server() as server:
        url = server.bucket()
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        for name in ("a.fits", "b.fits", "c.fits"):
            files.put(str(night / name), f"{url}/night/{name}")
        summary = ingest_into(f"{url}/survey.zarr", [f"{url}/night"], field="east")
        assert summary.done == 3
        cube, local = open_survey(f"{url}/survey.zarr")["east/r"].load(), open_survey(survey)["east/r"].load()
        for name in ("image", "mask", "psf", "star_flux", "fwhm"):
            np.testing.assert_array_equal(cube[name].values, local[name].values)
