"""Noise: as a survey's depth says, as real pixels show, and the same when it is drawn again."""

import numpy as np
import pytest

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.masks import source_free
from astrid_dist.simulation.noise import NoiseModel, draw_noise, effective_pixels, measure_noise, survey_noise
from astrid_dist.simulation.philox import stream
from astrid_dist.surveys.profile import load_profile

KEY = stream(1, "noise of a test")
SHAPE = (512, 512)
WHITE = NoiseModel(sky=900.0, sigma=30.0)
CORRELATED = NoiseModel(900.0, 30.0, (0.3, 0.2, 0.05))
_CP = "decam_epochs/testcase4/images/decam/CP"
TAILED = NoiseModel(900.0, 30.0, (0.2, 0.2, 0.04), 2e-3, 4.0)


def measured(plane, model, **kwargs):
    variance = np.full(plane.shape, model.sky + 25.0, np.float32)
    return measure_noise(plane, variance, np.zeros(plane.shape, np.uint16), 3.0, read_noise=5.0, **kwargs)


@pytest.mark.parametrize("model", [WHITE, CORRELATED, TAILED])
def test_what_is_drawn_is_measured_back(model):
    found = measured(draw_noise(model, SHAPE, KEY, 1), model)
    assert found.sky == pytest.approx(900, rel=1e-6)
    assert found.sigma == pytest.approx(30, rel=0.01)
    np.testing.assert_allclose(found.correlation, model.correlation, atol=0.012)
    assert found.rms == pytest.approx(model.rms, rel=0.02)
    if model.tail_fraction:
        assert found.tail_fraction == pytest.approx(model.tail_fraction, rel=0.6)
        assert found.tail_width == pytest.approx(model.tail_width, rel=0.25)
    else:
        assert (found.tail_fraction, found.tail_width) == (0, 1)


def test_correlation_ends_after_one_pixel_and_does_not_reach_the_other_edge():
    planes = np.stack([draw_noise(CORRELATED, (64, 64), KEY, k) for k in range(200)]) / 30

    def correlation(a, b):
        return float(np.mean(a * b))

    error = 4 / np.sqrt(planes.size)
    assert planes.std() == pytest.approx(1, abs=error)
    assert correlation(planes[..., 1:], planes[..., :-1]) == pytest.approx(0.3, abs=error)
    assert correlation(planes[:, 1:], planes[:, :-1]) == pytest.approx(0.2, abs=error)
    assert correlation(planes[:, 1:, 1:], planes[:, :-1, :-1]) == pytest.approx(0.05, abs=error)
    assert correlation(planes[..., 2:], planes[..., :-2]) == pytest.approx(0, abs=error)
    assert correlation(planes[..., 0], planes[..., -1]) == pytest.approx(0, abs=8 * error)


def test_noise_belongs_to_its_key_and_item():
    one = draw_noise(TAILED, (40, 50), KEY, 7)
    draw_noise(TAILED, (80, 20), KEY, 8)
    np.testing.assert_array_equal(one, draw_noise(TAILED, (40, 50), KEY, 7))
    for other in (
        draw_noise(TAILED, (40, 50), KEY, 8),
        draw_noise(TAILED, (40, 50), stream(2, "noise of a test"), 7),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


def test_sources_and_a_slowly_varying_sky_are_not_noise():
    plane = draw_noise(CORRELATED, SHAPE, KEY, 3)
    y, x = np.indices(SHAPE)
    plane += (40 * np.sin(x / 60) + 0.1 * y).astype(np.float32)
    rng = np.random.default_rng(5)
    for u, v in rng.uniform(0, 512, (60, 2)):
        plane += (2e4 / 16 * np.exp(-0.5 * ((x - u) ** 2 + (y - v) ** 2) / 1.6)).astype(np.float32)
    found = measured(plane, CORRELATED)
    assert found.sigma == pytest.approx(30, rel=0.02)
    np.testing.assert_allclose(found.correlation, CORRELATED.correlation, atol=0.02)


def test_too_few_pixels_say_nothing():
    with pytest.raises(InputError, match="source-free pixels tell no noise"):
        measured(draw_noise(WHITE, (30, 30), KEY, 1), WHITE)
    plane = np.full((100, 100), np.nan, np.float32)
    with pytest.raises(InputError, match="0 source-free pixels"):
        measured(plane, WHITE)


@pytest.mark.parametrize(
    ("name", "band", "fwhm", "sky"),
    [
        ("lsst", "u", 0.90, 48),
        ("lsst", "r", 0.81, 986),
        ("lsst", "y", 0.76, 2696),
    ],
)
def test_the_sky_that_a_depth_was_computed_from_comes_back(name, band, fwhm, sky):
    found = survey_noise(load_profile(name), band, fwhm)
    assert found.sky == pytest.approx(sky, rel=0.1)


def test_ztf_images_have_the_noise_that_their_depth_implies():
    """10 to 13 counts; scisigpix of usual images lies below 25 (ZTF Science Data System)."""
    profile = load_profile("ztf")
    for band, fwhm in (("g", 2.1), ("r", 2.0), ("i", 2.1)):
        assert 10 < survey_noise(profile, band, fwhm).rms / profile.gain < 13


@pytest.mark.parametrize("name", ["ztf", "lsst", "ps1", "decam", "meerlicht"])
def test_a_point_source_at_the_depth_has_five_sigma(name):
    profile = load_profile(name)
    for band in profile.depth:
        model = survey_noise(profile, band)
        fwhm_px = profile.seeing_arcsec.typical / profile.pixel_scale_arcsec
        flux = 10 ** (0.4 * (profile.electron_magnitude(band) - profile.depth[band]))
        assert flux / np.sqrt(flux + effective_pixels(fwhm_px) * model.sigma**2) == pytest.approx(5)
        longer = survey_noise(profile, band, exptime_s=4 * profile.camera.exptime_s)
        assert longer.sky == pytest.approx(4 * model.sky)
        assert model.sigma < longer.sigma < 2 * model.sigma


def test_a_depth_that_cannot_be_is_refused():
    profile = load_profile("ztf")
    with pytest.raises(ConfigError, match="no depth of band 'z', only of g, r, i"):
        survey_noise(profile, "z")
    deep = profile.model_copy(update={"depth": {"r": 24.0}})
    with pytest.raises(ConfigError, match="deeper than zero point"):
        survey_noise(deep, "r")


REAL = {
    "sfft": ("sfft_decam_obs04_obs18/input_data/DEC-OBS04b.mini.fits.gz", 0),
    "CP r": (f"{_CP}/V4.8.2/CP20170521/c4d_170522_005829_ooi_r_ls9.N2.fits.gz", 1),
    "CP z": (f"{_CP}/V4.8.2a/CP20180211/c4d_180212_083009_ooi_z_ls9.N3.fits.gz", 1),
}


def epoch(path, hdu, gain):
    """Sky-subtracted electrons of a middle part, and the noise of the sky as its variance."""
    from astropy.io import fits

    if not path.is_file():
        pytest.skip(f"no frame {path}")
    image = fits.getdata(path, hdu).astype(np.float32) * np.float32(gain)
    y, x = (max(n - 1024, 0) // 2 for n in image.shape)
    image = image[y : y + 1024, x : x + 1024]
    mask = np.zeros(image.shape, np.uint16)
    mesh, rms = measure_background(image, mask)
    image = image - evaluate(mesh, 64, 0, 0, *image.shape)
    return image, evaluate(rms, 64, 0, 0, *image.shape) ** 2, mask


@pytest.mark.parametrize("name", REAL)
def test_noise_of_a_real_frame_drawn_again_is_the_same_noise(realdata, name):
    path, hdu = REAL[name]
    image, variance, mask = epoch(realdata / path, hdu, 4.0)
    real = measure_noise(image, variance, mask, 4.0)
    drawn = draw_noise(real, image.shape, KEY, 1)
    flat = np.full_like(drawn, real.sigma**2)
    again = measure_noise(drawn, flat, mask, 4.0)
    assert again.sigma == pytest.approx(real.sigma, rel=0.01)
    assert again.rms == pytest.approx(real.rms, rel=0.02)
    np.testing.assert_allclose(again.correlation, real.correlation, atol=0.015)
    # pixels far below the sky are as many as in the frame
    quiet = source_free(image, real.sigma, 4.0)
    seen = np.mean((image / np.sqrt(variance) < -4)[quiet])
    expected = np.mean(drawn < -4 * real.sigma)
    assert expected == pytest.approx(seen, rel=0.35, abs=4e-5)


def test_a_frame_without_empty_sky_is_refused(realdata):
    """Crowded: what is left between the stars is not sky."""
    image, variance, mask = epoch(realdata / "saao_iband_series/images/AKB13475I0169.fits.gz", 0, 1.0)
    with pytest.raises(InputError, match="take a larger window"):
        measure_noise(image, variance, mask, 4.0)
