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


def test_a_reference_or_a_slice_has_no_light_curve_and_the_error_says_why(survey):
    with pytest.raises(ConfigError, match="no epochs"):
        survey.isel(epoch=0).astrid.light_curve(x=120, y=100)
    with pytest.raises(ConfigError, match="whole cube"):
        survey.astrid.cutout(x=120, y=100).astrid.light_curve(x=120, y=100)
