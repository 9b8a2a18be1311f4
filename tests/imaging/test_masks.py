import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from astrid_dist.imaging.masks import noise_moments, source_free, squared
from astrid_dist.imaging.psf import moffat


@given(st.integers(1, 9), st.integers(3, 40), st.integers(3, 40), st.integers(0, 2**31))
def test_squared_is_the_maximum_within_a_square(reach, height, width, seed):
    where = np.random.default_rng(seed).random((height, width)) < 0.02
    widened = ndimage.maximum_filter(where.view(np.uint8), size=2 * reach + 1, mode="constant") > 0
    assert np.array_equal(squared(where, reach), widened)


def test_noise_is_source_free_and_stars_are_not():
    rng = np.random.default_rng(4)
    sigma, fwhm = 20.0, 3.0
    image = rng.normal(0, sigma, (400, 400)).astype(np.float32)
    assert source_free(image, sigma, fwhm).mean() > 0.99
    stamp = moffat(fwhm, 21)
    for y, x in ((100, 100), (300, 220)):
        # SNR 8: sigma of the flux is sigma / sqrt(sum P²).
        flux = 8 * sigma / np.sqrt(np.square(stamp).sum())
        image[y - 10 : y + 11, x - 10 : x + 11] += flux * stamp
    image[350, 50] = np.nan
    quiet = source_free(image, sigma, fwhm)
    for y, x in ((100, 100), (300, 220)):
        assert not quiet[y - 4 : y + 5, x - 4 : x + 5].any()
    assert not quiet[350, 50]
    assert quiet.mean() > 0.98


def test_moments_leave_detections_out_and_say_how_many_pixels_there_were():
    rng = np.random.default_rng(5)
    score = rng.normal(0.1, 1.2, (500, 500)).astype(np.float32)
    score[::50, ::50] = 300.0
    score[:10] = np.nan
    mean, std, count = noise_moments(score, np.ones(score.shape, bool))
    assert mean == pytest.approx(0.1, abs=0.01)
    assert std == pytest.approx(1.2, abs=0.01)
    assert count == np.isfinite(score).sum() - 90
    assert np.isnan(noise_moments(score, np.zeros(score.shape, bool))[0])
