"""Filters, cameras and depths of the surveys that ship: complete, and in agreement with each other."""

from importlib import resources

import numpy as np
import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.surveys.profile import Profile, load_profile, profile_names

SURVEYS = [name for name in profile_names() if name != "generic"]


def noise_of_a_pixel(profile: Profile, band: str, fwhm_arcsec: float) -> float:
    """Electrons that the depth says: sigma = F5 / (5 sqrt(n_eff)), n_eff of SMTN-002."""
    flux = 10 ** (0.4 * (profile.electron_magnitude(band) - profile.depth[band]))
    n_eff = 2.266 * (fwhm_arcsec / profile.pixel_scale_arcsec) ** 2
    return float(flux / (5 * np.sqrt(n_eff)))


@pytest.mark.parametrize("name", profile_names())
def test_every_band_with_a_zero_point_or_a_depth_has_a_filter_that_exists(name):
    profile = load_profile(name)
    assert set(profile.filters) >= set(profile.zeropoint.bands) | set(profile.depth)
    curves = {curve for curve in profile.filters.values() if isinstance(curve, str)}
    shipped = resources.files("speclite").joinpath("data", "filters")
    assert not [curve for curve in curves if not shipped.joinpath(f"{curve}.ecsv").is_file()]


@pytest.mark.parametrize("name", SURVEYS)
def test_a_survey_has_none_of_the_generic_filters(name):
    assert not {curve for curve in load_profile(name).filters.values() if str(curve).startswith("sdss2010")}


@pytest.mark.parametrize(
    ("name", "means"), [("ztf", {"g": 4783, "r": 6417, "i": 7867}), ("meerlicht", {"q": 5800, "z": 9150})]
)
def test_trapezoids_lie_where_the_filters_do(name, means):
    for band, mean in means.items():
        assert np.mean(load_profile(name).filters[band]) == pytest.approx(mean, rel=0.005)


@pytest.mark.parametrize("name", SURVEYS)
def test_the_camera_has_the_gain_and_read_noise_of_the_profile(name):
    profile = load_profile(name)
    assert (profile.camera.gain, profile.camera.read_noise) == (profile.gain, profile.read_noise)
    # no pixel is brighter than the well is deep, within what headers scatter
    electrons = 1.0 if profile.unit == "electron" else profile.gain
    assert profile.saturation * electrons == pytest.approx(profile.camera.full_well, rel=0.25)


def test_a_user_who_measured_the_gain_changes_the_camera_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: decam\ngain: 3.6\nfilters: {VR: [4900, 5100, 7500, 7700]}\n")
    mine, decam = load_profile(path), load_profile("decam")
    assert mine.camera == decam.camera.model_copy(update={"gain": 3.6})
    assert mine.filters == {**decam.filters, "VR": (4900, 5100, 7500, 7700)}


def test_corners_that_do_not_increase_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nfilters: {r: [5600, 5500, 7000, 7100]}\n")
    with pytest.raises(ConfigError, match="corners of r must increase"):
        load_profile(path)


def test_the_depth_of_lsst_follows_from_its_zero_points_seeing_and_sky():
    profile = load_profile("lsst")
    sky = {"u": 48, "g": 461, "r": 986, "i": 1563, "z": 2397, "y": 2696}  # electron per pixel, dark zenith
    fwhm = {"u": 0.90, "g": 0.86, "r": 0.81, "i": 0.79, "z": 0.77, "y": 0.76}
    for band, level in sky.items():
        n_eff = 2.266 * (fwhm[band] / profile.pixel_scale_arcsec) ** 2
        flux = 12.5 + 2.5 * np.sqrt(25 + 4 * n_eff * (level + profile.read_noise**2))
        depth = profile.electron_magnitude(band) - 2.5 * np.log10(flux)
        assert depth == pytest.approx(profile.depth[band], abs=0.03)


def test_a_magnitude_zero_point_of_ztf_is_of_a_count_of_the_whole_image():
    """63, 77 and 79 electrons, 10 to 13 counts; scisigpix of usual images lies below 25."""
    profile = load_profile("ztf")
    for band, fwhm, expected in (("g", 2.1, 63), ("r", 2.0, 77), ("i", 2.1, 79)):
        noise = noise_of_a_pixel(profile, band, fwhm)
        assert noise == pytest.approx(expected * profile.gain / 6.2, rel=0.04)


@pytest.mark.parametrize("name", SURVEYS)
def test_the_noise_that_a_depth_allows_leaves_room_for_the_sky(name):
    profile = load_profile(name)
    for band in profile.depth:
        noise = noise_of_a_pixel(profile, band, profile.seeing_arcsec.typical)
        assert profile.camera.read_noise < noise < 0.01 * profile.camera.full_well, band


def test_a_longer_exposure_counts_more_electrons_unless_the_zero_point_is_of_the_whole_image():
    decam, ztf = load_profile("decam"), load_profile("ztf")
    assert decam.electron_magnitude("r", 900) - decam.electron_magnitude("r", 90) == pytest.approx(2.5)
    assert ztf.electron_magnitude("r", 300) == ztf.electron_magnitude("r", 30)
    assert ztf.electron_magnitude("r") == pytest.approx(26.275 + 2.5 * np.log10(5.8))
    with pytest.raises(ConfigError, match="no zero point of band 'u', only of g, r, i"):
        ztf.electron_magnitude("u")
