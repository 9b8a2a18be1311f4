"""Frames without a WCS in a survey: on the grid of the field's own stars, or set aside with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.imaging.registration import match_stars, measure_offset
from astrid_dist.imaging.resampling import Grid
from astrid_dist.imaging.stars import StarList
from astrid_dist.stages.exposure import PsfModel
from astrid_dist.stages.run import run_stage
from astrid_dist.store.opening import open_survey
from astrid_dist.surveys.profile import Profile, load_profile

GAIN, SKY, FWHM = 2.0, 600.0, 3.2
GENERIC = load_profile("generic")


def sky_of(seed=1, n=300, reach=300):
    """Stars around the origin: x, y, electrons."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-reach, reach, n), rng.uniform(-reach, reach, n), 10 ** rng.uniform(4.0, 5.3, n)


def seen(x, y, *, shape=(240, 260), angle_deg=0.0, dx=0.0, dy=0.0):
    """Where the sky's stars lie on a frame that is turned about its middle and shifted."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return shape[1] / 2 + c * x - s * y + dx, shape[0] / 2 + s * x + c * y + dy


def write(path, mjd, *, stars=None, shape=(240, 260), seed=0, wcs=False, cards=None, sky=SKY, **turn):
    """One exposure of the sky with photon noise."""
    x, y, flux = stars if stars is not None else sky_of()
    at_x, at_y = seen(x, y, shape=shape, **turn)
    electrons = np.full(shape, SKY)
    sigma = FWHM / 2.3548
    v, u = np.mgrid[-14:15, -14:15]
    padded = np.pad(electrons, 30)
    for one_x, one_y, one in zip(at_x, at_y, flux, strict=True):
        if -12 < one_x < shape[1] + 11 and -12 < one_y < shape[0] + 11:
            row, column = round(one_y) + 30, round(one_x) + 30
            r2 = (u - one_x + round(one_x)) ** 2 + (v - one_y + round(one_y)) ** 2
            light = one * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
            padded[row - 14 : row + 15, column - 14 : column + 15] += light
    electrons = padded[30:-30, 30:-30]
    data = np.round(np.random.default_rng(seed).poisson(electrons) / GAIN)
    data = data.astype(np.uint16) if sky else (data - SKY / GAIN).astype(np.float32)
    header = fits.Header()
    if wcs:
        tan = WCS(naxis=2)
        tan.wcs.ctype, tan.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
        tan.wcs.crpix = [shape[1] / 2 + turn.get("dx", 0.0) + 1, shape[0] / 2 + turn.get("dy", 0.0) + 1]
        tan.wcs.cdelt = [0.5 / 3600, 0.5 / 3600]
        header = tan.to_header()
    header.update({"MJD-OBS": mjd, "EXPTIME": 60.0, "GAIN": GAIN, "RDNOISE": 5.0, "FILTER": "r"})
    for name, value in (cards or {}).items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    fits.PrimaryHDU(data, header).writeto(path)
    return str(path)


def ingest(output, paths, **more):
    settings = {"paths": [str(path) for path in paths], "output": str(output), "field": "F", **more}
    return run_stage("ingest", settings, SerialEngine())


def error_px(cube, epoch, x, y):
    """Median distance of an epoch's measured stars from where the founder has them."""
    row = cube.isel(epoch=epoch)
    at = np.column_stack([row["star_x"].values, row["star_y"].values])
    at = at[np.isfinite(at).all(axis=1)]
    distance = np.hypot(at[:, 0, None] - x, at[:, 1, None] - y).min(axis=1)
    near = distance < 2
    assert near.sum() >= 20
    return float(np.median(distance[near]))


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """A survey of frames without a WCS, one of them of another sky, and that one the first in time."""
    folder = tmp_path_factory.mktemp("lost")
    write(folder / "0stray.fits", 58000.0, stars=sky_of(77), seed=1)
    write(folder / "1.fits", 58001.0, seed=2)
    write(folder / "2turned.fits", 58002.0, seed=3, angle_deg=3.0, dx=40.3, dy=-11.6)
    write(folder / "3larger.fits", 58003.0, seed=4, shape=(300, 320), dx=7.0)
    write(folder / "4whole.fits", 58004.0, seed=5, dx=-21.0, dy=6.0)
    write(folder / "5blank.fits", 58005.0, seed=6, stars=[np.zeros(0)] * 3)
    output = folder / "s.zarr"
    ingest(output, [folder / "*.fits"])
    return output


def test_frames_that_are_shifted_turned_or_larger_come_onto_the_grid_of_one(lost):
    cube = open_survey(lost)["F/r"]
    assert (cube.sizes["y"], cube.sizes["x"]) == (240, 260)
    np.testing.assert_array_equal(cube["valid"], [False, True, True, True, True, False])
    reasons = [str(one) for one in cube["reason"].values]
    assert reasons[1] == "no WCS: the field's grid is that of this frame"
    x, y = seen(*sky_of()[:2])
    for epoch in (1, 2, 3, 4):
        assert error_px(cube, epoch, x, y) < 0.06
        if epoch > 1:
            assert reasons[epoch].startswith("no WCS: aligned by ")
            assert ", rms 0.0" in reasons[epoch]
    fluxes = [float(np.nansum(cube["star_flux"].isel(epoch=epoch)[:10])) for epoch in (1, 3)]
    assert fluxes[1] == pytest.approx(fluxes[0], rel=0.02)


def test_a_frame_of_another_sky_or_without_stars_is_set_aside_and_founds_no_field(lost):
    cube = open_survey(lost)["F/r"]
    reasons = [str(one) for one in cube["reason"].values]
    assert reasons[0].startswith("no WCS, and cannot be aligned: no shift, rotation and scale")
    assert reasons[5].startswith("no WCS, and the frame shows 0 stars, and at least 5 are needed")


def test_a_whole_pixel_shift_keeps_the_pixels(lost):
    cube = open_survey(lost)["F/r"]
    raw = fits.getdata(lost.parent / "4whole.fits").astype(np.float32) * np.float32(GAIN)
    image = cube["image"].isel(epoch=4).values
    np.testing.assert_array_equal(image[:234, 21:], raw[6:, :239])
    assert np.isnan(image[234:]).all()
    assert np.isnan(image[:, :21]).all()


def test_later_ingests_align_to_the_same_grid_in_any_band_and_a_wcs_does_not_matter(lost, tmp_path):
    path = write(tmp_path / "late.fits", 58010.0, seed=9, dx=-33.4, dy=20.2, wcs=True, cards={"FILTER": "g"})
    assert ingest(lost, [path]).done == 1
    cube = open_survey(lost)["F/g"]
    assert str(cube["reason"].values[0]).startswith("no WCS of the field: aligned by ")
    assert error_px(cube, 0, *seen(*sky_of()[:2])) < 0.06
    kept = json.loads((Path(lost) / "F" / "zarr.json").read_text())["attributes"]["stars"]
    assert len(kept["x"]) == len(kept["flux"]) >= 20


@pytest.mark.parametrize("at_once", [True, False])
def test_a_frame_without_a_wcs_joins_a_field_that_has_one(tmp_path, at_once):
    first = write(tmp_path / "1.fits", 58001.0, seed=2, wcs=True)
    lost = write(tmp_path / "2.fits", 58002.0, seed=3, dx=12.4, dy=-7.7)
    for paths in [[first, lost]] if at_once else [[first], [lost]]:
        ingest(tmp_path / "s.zarr", paths)
    cube = open_survey(tmp_path / "s.zarr")["F/r"]
    assert cube["valid"].values.all()
    assert str(cube["reason"].values[0]) == ""
    assert "shift (12.4" in str(cube["reason"].values[1])
    assert error_px(cube, 1, *seen(*sky_of()[:2])) < 0.06


def test_a_field_whose_frames_show_no_stars_says_what_it_lacks(tmp_path):
    paths = [
        write(tmp_path / f"{k}.fits", 58000.0 + k, seed=k, stars=[np.zeros(0)] * 3, wcs=k == 0)
        for k in (0, 1)
    ]
    assert ingest(tmp_path / "s.zarr", paths).quarantined == 1
    reasons = open_survey(tmp_path / "s.zarr")["F/r"]["reason"].values
    assert str(reasons[1]).startswith("no WCS, and the frame shows 0 stars, and at least 5")
    starry = write(tmp_path / "2.fits", 58002.0, seed=2)
    assert ingest(tmp_path / "s.zarr", [starry]).quarantined == 1
    reason = str(open_survey(tmp_path / "s.zarr")["F/r"]["reason"].values[2])
    assert reason.startswith("no WCS, and the field's grid shows 0 stars, and at least 5")
    more = [write(tmp_path / f"{k}.fits", 58000.0 + k, seed=k, wcs=k == 3) for k in (3, 4)]
    assert ingest(tmp_path / "s.zarr", more[:1]).done == 1
    assert ingest(tmp_path / "s.zarr", more[1:]).done == 1, "the first epoch with stars stands in for a grid"


def test_frames_without_a_gain_are_measured_and_flagged_or_ask_for_it(tmp_path):
    good = write(tmp_path / "1.fits", 58001.0, seed=2, cards={"GAIN": None})
    gone = write(tmp_path / "2.fits", 58002.0, seed=3, cards={"GAIN": None}, sky=0)
    summary = ingest(tmp_path / "s.zarr", [good, gone])
    assert (summary.done, summary.quarantined) == (1, 1)
    cube = open_survey(tmp_path / "s.zarr")["F/r"]
    np.testing.assert_array_equal(cube["gain_estimated"], [True, False])
    assert float(cube["gain"][0]) == pytest.approx(GAIN, rel=0.05)
    assert "e/DN estimated from sky noise" in str(cube["reason"].values[0])
    for said in ("no gain in the header: looked for GAIN", "gain: <electron per DN>", "sky was subtracted"):
        assert said in str(cube["reason"].values[1])


@pytest.mark.parametrize(
    ("side", "order", "arcsec", "wanted"),
    [(200, 2, 1.5, (0, 1)), (500, 2, 1.5, (1, 1)), (900, 2, 1.0, (2, 2)), (900, 0, 1.5, (0, 1))],
)
def test_the_psf_of_a_field_follows_its_size_and_seeing(side, order, arcsec, wanted):
    seeing = {"typical": arcsec, "worst": 4.0}
    profile = Profile.model_validate(GENERIC.model_dump() | {"psf_order": order, "seeing_arcsec": seeing})
    model = PsfModel.of(profile, Grid("", side, 1000))
    assert (model.order, model.oversampling) == wanted
    assert model.sizes["v"] == wanted[1] * (model.box - 1) + 1
    assert model.sizes["psf_term"] == (wanted[0] + 1) * (wanted[0] + 2) // 2


def quarters(cube, epoch):
    """Offset (x, y) of an epoch's clean stars from the first epoch's in each quarter of a field, pixels."""
    lists = []
    for index in (0, epoch):
        row = cube.isel(epoch=index)
        columns = {name: row[f"star_{name}"].values for name in ("x", "y", "flux", "flux_err", "flags")}
        known = np.isfinite(columns["x"])
        lists.append(
            StarList(**{name: one[known] for name, one in columns.items()}, fwhm_px=float(row["fwhm"]))
        )
    first, second = lists
    height, width = cube.sizes["y"], cube.sizes["x"]
    found = []
    for low, left in [(low, left) for low in (0, 1) for left in (0, 1)]:
        here = (first.y // (height / 2) == low) & (first.x // (width / 2) == left)
        part = StarList(*(getattr(first, name)[here] for name in ("x", "y", "flux", "flux_err", "flags")))
        offset = measure_offset(second, part, *match_stars(second, part, 1.5))
        if offset.n >= 10:
            found.append((offset.dx, offset.dy))
    return np.array(found)


@pytest.mark.realdata
def test_raw_saao_frames_come_onto_one_grid(realdata, tmp_path):
    files = [realdata / f"saao_iband_series/images/AKB13475I{k}.fits.gz" for k in ("0001", "0169", "0171")]
    assert ingest(tmp_path / "s.zarr", files, band="I").done == 3
    cube = open_survey(tmp_path / "s.zarr")["F/I"]
    assert cube["verdict"].values.tolist() == ["good"] * 3
    shifts = [str(one).partition("shift ")[2].partition(")")[0] for one in cube["reason"].values]
    assert shifts[1].startswith("(27.5")
    assert shifts[2].startswith("(-139.4")
    for epoch in (1, 2):
        offsets = quarters(cube, epoch)
        assert len(offsets) >= 2
        assert np.abs(offsets).max() < 0.05


@pytest.mark.realdata
def test_two_frames_without_gain_or_wcs_are_ingested(realdata, tmp_path):
    files = sorted((realdata / "properimage_eso085").glob("*.fit.gz"))
    assert ingest(tmp_path / "s.zarr", files).done == 2
    cube = open_survey(tmp_path / "s.zarr")["F/Clear"]
    assert cube["verdict"].values.tolist() == ["good", "good"]
    assert cube["gain_estimated"].values.all()
    assert 1.1 < float(cube["gain"].min()) <= float(cube["gain"].max()) < 1.6
    assert np.abs(quarters(cube, 1)).max() < 0.05
