import numpy as np
import pytest
import xarray as xr

from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag


def test_forced_photometry_of_a_survey_finds_each_epochs_flux_within_its_error(survey):
    curve = survey.astrid.light_curve(x=120.3, y=99.6)
    pull = (curve["flux"] - [1000, 2000, 3000]) / curve["flux_err"]
    assert np.abs(pull).max() < 4
    # Optimal PSF photometry in white noise: sigma / sqrt(sum PSF^2), with sigma 2 and a Gaussian of 1.5 px.
    np.testing.assert_allclose(curve["flux_err"], 2 * np.sqrt(4 * np.pi) * 1.5, rtol=0.02)


def test_only_valid_epochs_are_measured_and_they_keep_their_numbers(survey):
    survey["valid"][:] = [True, False, True, False]
    curve = survey.astrid.light_curve(x=120.3, y=99.6)
    assert curve["epoch"].values.tolist() == [0, 2]
    assert curve["mjd"].values.tolist() == [58849.0, 58851.0]
    assert curve["time"].values[1] == np.datetime64("2020-01-03")


def test_fluxes_are_physical_only_where_a_zero_point_is_known(survey):
    curve = survey.astrid.light_curve(x=120.3, y=99.6)
    assert np.isnan(curve["flux_ujy"]).values.tolist() == [False, False, True]
    # 2.5 log10 of 3631 Jy over the flux is the definition of an AB magnitude.
    definition = 2.5 * np.log10(3631e6 / curve["flux_ujy"][:2])
    np.testing.assert_allclose(curve["mag"][:2], definition, atol=1e-3)
    assert float(curve["mag"][0]) == pytest.approx(25 - 7.5, abs=0.1)


def test_a_negative_flux_has_no_magnitude_and_keeps_its_sign(survey):
    survey["background"][:] = 260
    curve = survey.astrid.light_curve(x=30, y=30)
    assert (curve["flux"] < 0).all()
    assert curve["mag"].isnull().all()


def test_a_difference_is_fitted_with_its_own_psf_between_pixels_and_takes_its_error_from_sigma_flux(
    difference,
):
    curve = difference.astrid.light_curve(x=60.25, y=140.5)
    np.testing.assert_allclose(curve["flux"], 500, rtol=2e-3)
    np.testing.assert_allclose(curve["flux_err"], 140.5)


def test_a_difference_without_an_error_at_the_position_has_no_flux_there(difference):
    difference["sigma_flux"][1, 140:142, 60] = np.nan
    curve = difference.astrid.light_curve(x=60.25, y=140.5)
    assert curve["flux"].isnull().values.tolist() == [False, True, False]


@pytest.mark.parametrize("edge", [(0, 50), (239, 50), (50, 0), (50, 199), (50, 3)])
def test_positions_at_an_edge_are_measured_on_the_pixels_there_are(survey, difference, edge):
    x, y = edge
    for cube in (survey, difference):
        assert np.isfinite(cube.astrid.light_curve(x=x, y=y)["flux"]).all()
    assert np.abs(survey.astrid.light_curve(x=x, y=y)["snr"]).max() < 5


def test_where_most_of_the_psf_has_no_data_there_is_no_flux(survey, difference):
    for cube in (survey, difference):
        assert cube.astrid.light_curve(x=0, y=0)["flux"].isnull().all()
    survey["psf"][1] = np.nan
    assert survey.astrid.light_curve(x=50, y=50)["flux"].isnull().values.tolist() == [False, True, False]


def test_flags_are_the_mask_bits_within_two_pixels(survey):
    survey["mask"][0, 100, 122] = Flag.SPIKE
    survey["mask"][1, 100, 123] = Flag.SPIKE
    flag = survey.astrid.light_curve(x=120, y=100)["flag"]
    assert flag.values.tolist() == [Flag.SPIKE, 0, 0]
    assert flag.dtype == "u2"


def test_a_light_curve_is_the_same_however_the_cube_is_chunked(survey, difference):
    chunks = {"epoch": 1, "y": 64, "x": 64}
    for cube in (survey, difference):
        lazy = cube.chunk(chunks).astrid.light_curve(x=127.7, y=64.2)
        assert lazy["flux"].chunks is not None
        xr.testing.assert_equal(lazy.compute(), cube.astrid.light_curve(x=127.7, y=64.2))


@pytest.mark.parametrize("chunked", [False, True])
def test_every_variable_of_a_light_curve_says_its_own_unit_and_meaning(survey, difference, chunked):
    units = {
        "flux": "electron",
        "flux_err": "electron",
        "snr": "1",
        "flux_ujy": "uJy",
        "flux_ujy_err": "uJy",
        "mag": "mag",
        "mag_err": "mag",
        "flag": None,
    }
    for cube, what, scale in ((survey, "image", "exposure"), (difference, "difference", "reference")):
        for name in ("image", "difference", "variance", "sigma_flux", "mask", "zeropoint"):
            if name in cube:
                cube[name].attrs = {"units": "wrong", "long_name": f"that of {name}", "other": 1}
        curve = (cube.chunk({"epoch": 1}) if chunked else cube).astrid.light_curve(x=60, y=100)
        assert {name: curve[name].attrs.get("units") for name in curve.data_vars} == units
        names = [curve[name].attrs["long_name"] for name in units]
        assert len(set(names)) == len(names)
        assert not any("that of" in name for name in names)
        assert what in curve["flux"].attrs["long_name"]
        assert scale in curve["flux_err"].attrs["long_name"]
        for name in ("flux", "flux_ujy", "mag"):
            assert curve[f"{name}_err"].attrs["long_name"].startswith(f"standard error of {name}")
        assert curve["flag"].attrs["flag_meanings"].split()[-1] == "injected"
        assert curve["flag"].attrs["flag_masks"][-1] == Flag.INJECTED
        assert all("other" not in curve[name].attrs for name in curve.data_vars)


def test_a_reference_or_a_slice_has_no_light_curve_and_the_error_says_why(survey):
    reference = survey.isel(epoch=0).assign_attrs(product="reference")
    with pytest.raises(ConfigError, match="ask the survey or the difference"):
        reference.astrid.light_curve(x=120, y=100)
    with pytest.raises(ConfigError, match="whole cube"):
        survey.astrid.cutout(x=120, y=100).astrid.light_curve(x=120, y=100)


def test_one_epoch_is_measured_with_its_axis_and_without_it_the_error_says_how_to_keep_it(survey, difference):
    for cube in (survey, difference):
        with pytest.raises(ConfigError, match=r"isel\(epoch=\[3\]\)"):
            cube.isel(epoch=1).astrid.light_curve(x=120, y=100)
        one = cube.isel(epoch=[1]).astrid.light_curve(x=120, y=100)
        np.testing.assert_array_equal(one["flux"], cube.astrid.light_curve(x=120, y=100)["flux"][[1]])
