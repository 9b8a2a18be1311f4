import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord, angular_separation
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError
from astrid_dist.query.tables import angular_separation_arcsec


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 360), st.floats(-90, 90), st.floats(0, 360), st.floats(-90, 90))
def test_separations_agree_with_astropy_everywhere_on_the_sphere(ra, dec, ra2, dec2):
    ours = angular_separation_arcsec(ra, dec, np.array([ra2]), np.array([dec2]))[0]
    theirs = angular_separation(*np.radians([ra, dec, ra2, dec2]))
    assert ours == pytest.approx(np.degrees(theirs) * 3600, abs=1e-2)


def test_a_cone_finds_rows_across_the_meridian_nearest_first(candidates):
    found = candidates.astrid.cone(0.0, 0.0, 1.0)
    assert found["object"].values.tolist() == [10]
    found = candidates.astrid.cone(150.0, 2.0, 10)
    assert found["object"].values.tolist() == [7, 7, 8]
    there = SkyCoord(150.001 * units.deg, 2 * units.deg).separation(SkyCoord(150 * units.deg, 2 * units.deg))
    assert found["separation"].values[-1] == pytest.approx(there.arcsec)
    assert candidates.astrid.cone(10.0, 10.0, 1.0).sizes["candidate"] == 0


def test_a_cone_takes_a_sky_coordinate_of_any_frame_and_refuses_what_is_no_position(candidates):
    coordinate = SkyCoord(150.0 * units.deg, 2 * units.deg)
    for centre in (coordinate, coordinate.galactic):
        assert candidates.astrid.cone(centre, radius_arcsec=1)["object"].values.tolist() == [7, 7]
    assert candidates.astrid.cone(-0.0001, 0.0, 0.1)["object"].values.tolist() == [10]
    with pytest.raises(ConfigError, match="no dec beside it"):
        candidates.astrid.cone(coordinate, 5)
    with pytest.raises(ConfigError, match="radius_arcsec="):
        candidates.astrid.cone(coordinate)
    for ra, dec in ((361, 0), (-181, 0), (0, 91), (0, np.nan)):
        with pytest.raises(ConfigError, match="no position on the sky"):
            candidates.astrid.cone(ra, dec, 1)


def test_the_light_curve_of_an_object_is_its_detections_in_order_of_time(candidates):
    history = candidates.astrid.light_curve(object=7)
    assert history["mjd"].values.tolist() == [1.0, 3.0]
    assert history["flux"].values.tolist() == [4.0, 5.0]
    with pytest.raises(ConfigError, match="no object 99"):
        candidates.astrid.light_curve(object=99)
    with pytest.raises(ConfigError, match="object=ID"):
        candidates.astrid.light_curve(150.0, 2.0)


def test_a_table_without_sky_positions_says_to_use_pixels(candidates):
    candidates["ra"][:] = np.nan
    with pytest.raises(ConfigError, match="in pixels"):
        candidates.astrid.cone(150.0, 2.0, 1.0)


def test_a_data_frame_has_every_column_and_row(candidates):
    frame = candidates.astrid.to_dataframe()
    assert set(frame.columns) == set(candidates.data_vars)
    assert frame["flux"].tolist() == [5, 4, 3, 2, 1]


def test_a_cube_of_one_epoch_is_no_table(survey):
    with pytest.raises(ConfigError, match="not a table"):
        survey.isel(epoch=0).astrid.to_dataframe()
