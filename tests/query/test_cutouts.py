import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

import astrid_dist.query  # noqa: F401 - registers the accessor
from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag

HEIGHT, WIDTH = 41, 53


def numbered_grid():
    """Every pixel holds its own position, so that no slicing mistake can hide."""
    value = np.arange(HEIGHT * WIDTH, dtype="f4").reshape(1, HEIGHT, WIDTH)
    planes = ("epoch", "y", "x")
    return xr.Dataset({"image": (planes, value), "mask": (planes, np.zeros(value.shape, "u2"))})


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-0.49, WIDTH - 0.51),
    y=st.floats(-0.49, HEIGHT - 0.51),
    size=st.integers(1, 70),
)
def test_a_cutout_has_exactly_the_size_and_every_pixel_in_its_place_or_no_data(x, y, size):
    cut = numbered_grid().astrid.cutout(x=x, y=y, size=size)
    assert cut.sizes["x"] == cut.sizes["y"] == size
    rows, columns = np.meshgrid(cut["y"], cut["x"], indexing="ij")
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    np.testing.assert_array_equal(cut["image"][0], np.where(inside, rows * WIDTH + columns, np.nan))
    np.testing.assert_array_equal(cut["mask"][0], np.where(inside, 0, Flag.NO_DATA))
    assert cut["image"].dtype == "f4"
    assert cut["mask"].dtype == "u2"
    if size % 2:
        middle = size // 2
        assert abs(float(cut["x"][middle]) - x) <= 0.5
        assert abs(float(cut["y"][middle]) - y) <= 0.5


def test_a_cutout_of_a_cutout_is_the_smaller_cutout_and_keeps_the_grid_of_the_parent(survey):
    planes = ["image", "variance", "mask"]
    large = survey.astrid.cutout(x=100, y=90, size=63)
    small = large.astrid.cutout(x=104, y=88, size=9)
    xr.testing.assert_identical(small[planes], survey.astrid.cutout(x=104, y=88, size=9)[planes])
    ra, dec = (float(v) for v in small.astrid.wcs.pixel_to_world_values(104, 88))
    assert small.astrid.cutout(ra, dec, size=1)["x"].item() == 104


def test_a_sky_position_lands_in_the_middle_pixel(survey):
    cut = survey.astrid.cutout(150.0, 2.0, size=5)
    assert (cut["x"][2].item(), cut["y"][2].item()) == (120, 100)


def test_a_sky_coordinate_or_angles_are_a_position_and_what_is_none_is_refused(survey):
    coordinate = SkyCoord(150.001, 2.001, unit="deg")
    x = survey.astrid.cutout(150.001, 2.001, size=5)["x"]
    for position in ([coordinate], [coordinate.galactic], [coordinate.ra, coordinate.dec]):
        xr.testing.assert_equal(survey.astrid.cutout(*position, size=5)["x"], x)
        assert survey.astrid.light_curve(*position).attrs["x"] == pytest.approx(float(x[2]), abs=0.5)
    for wrong in ([coordinate, 2.0], [150.0, 91.0], [361.0, 2.0], [SkyCoord([1, 2], [1, 2], unit="deg")]):
        with pytest.raises(ConfigError, match="position"):
            survey.astrid.cutout(*wrong)
    for wrong in (["10h", "2d"], [150.0, [2.0, 1.0]]):
        with pytest.raises(ConfigError, match="number of degrees"):
            survey.astrid.cutout(*wrong)
    with pytest.raises(ConfigError, match="either ra and dec"):
        survey.astrid.cutout(coordinate, x=3, y=4)


def test_a_cutout_carries_the_psf_and_the_tile_at_its_centre(survey, difference):
    assert survey.astrid.cutout(x=10, y=10, size=5)["psf"].dims == ("epoch", "v", "u")
    cut = difference.astrid.cutout(x=200, y=20, size=5)
    assert cut["psf_d"].dims == ("epoch", "v", "u")
    np.testing.assert_array_equal(cut["sigma_n"], difference["sigma_n"][:, 0, 1])


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({}, "either ra and dec"),
        ({"x": 3.0}, "either ra and dec"),
        ({"ra": 150.0, "dec": 2.0, "x": 3.0, "y": 3.0}, "either ra and dec"),
        (
            {"x": 240.0, "y": 3.0},
            r"x=240.0, y=3.0, outside memory://survey f0/r, which covers x 0..239, y 0..199",
        ),
        ({"ra": 10.0, "dec": 2.0}, "outside memory://survey"),
        ({"ra": 330.0, "dec": -2.0}, "outside memory://survey"),
    ],
)
def test_a_position_that_is_none_says_what_is_wrong(survey, position, message):
    with pytest.raises(ConfigError, match=message):
        survey.astrid.cutout(**position)


def test_without_a_wcs_positions_are_pixels(survey):
    survey.attrs["wcs"] = None
    with pytest.raises(ConfigError, match="as x= and y="):
        survey.astrid.cutout(150.0, 2.0)
    assert survey.astrid.cutout(x=3, y=3, size=3).sizes["x"] == 3


def test_building_a_cutout_computes_nothing():
    def refuse(block):
        raise AssertionError("a pixel was read")

    grid = numbered_grid()
    grid["image"] = (
        grid["image"].dims,
        da.zeros((1, HEIGHT, WIDTH)).map_blocks(refuse, dtype="f4", meta=np.empty((0, 0, 0), "f4")),
    )
    cut = grid.astrid.cutout(x=0, y=0, size=63)
    with pytest.raises(AssertionError, match="a pixel was read"):
        cut.compute()
