"""The gain that the noise of one frame tells, and where it tells none."""

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.imaging.gain import estimate_gain

SIZE = 512


def counts(gain, sky, *, gradient=0.0, bias=0.0, stars=120, seed=0, size=SIZE):
    """A frame of known gain: sky in electrons, stars of 3 px FWHM, 5 electrons of read noise, in counts."""
    rng = np.random.default_rng(seed)
    electrons = np.full((size, size), float(sky)) * (1 + gradient * (np.arange(size) / size - 0.5))
    y, x = np.mgrid[-15:16, -15:16]
    star = np.exp(-(x**2 + y**2) / (2 * 1.27**2)) / (2 * np.pi * 1.27**2)
    for row, column in rng.integers(15, size - 16, (stars, 2)):
        electrons[row - 15 : row + 16, column - 15 : column + 16] += 10 ** rng.uniform(2.5, 5.5) * star
    return (rng.poisson(electrons) + rng.normal(0, 5, electrons.shape)) / gain + bias


def estimate(image):
    return estimate_gain(image, np.zeros(image.shape, bool), 5.0)


@pytest.mark.parametrize(("gain", "sky"), [(0.4, 80), (1.9, 2500), (9.0, 800)])
def test_the_gain_of_whole_counts_is_found_within_five_percent(gain, sky):
    found = estimate(np.rint(counts(gain, sky)).astype(np.uint16))
    assert found.value == pytest.approx(gain, rel=0.05)
    assert abs(found.value - gain) < 4 * found.error
    assert found.how == "sky noise"


def test_a_gradient_tells_the_gain_whatever_bias_is_left():
    flat = estimate(np.rint(counts(2.0, 2000, bias=1500, size=800)))
    assert flat.value > 4, "without a gradient a bias looks like sky"
    found = estimate(np.rint(counts(2.0, 2000, bias=1500, gradient=0.8, size=800)))
    assert found.value == pytest.approx(2.0, rel=0.05)
    assert "different levels" in found.how


def resampled(image, how):
    if how == "cubic":
        return ndimage.shift(image, (0.2, 0.35), order=3, mode="nearest")
    if how == "linear":
        return ndimage.shift(image, (0.3, 0.4), order=1, mode="nearest")
    return ndimage.rotate(image, 4, reshape=False, order=3, mode="nearest")


@pytest.mark.parametrize("how", ["cubic", "linear", "rotated"])
def test_noise_that_resampling_took_is_given_back(how):
    found = estimate(resampled(counts(2.0, 1500), how))
    assert found.value == pytest.approx(2.0, rel=0.1)
    assert "resampling" in found.how


def test_without_a_sky_level_or_noise_there_is_no_gain():
    image = counts(2.0, 1500)
    with pytest.raises(InputError, match="the sky was subtracted"):
        estimate(image - 750)
    with pytest.raises(InputError, match=r"would mean 2\.0\de\+03±|would mean 2e\+03±"):
        estimate(image / 1000)
    with pytest.raises(InputError, match="pixels show sky without sources, too few"):
        estimate_gain(image, np.arange(SIZE)[:, None] + np.zeros((1, SIZE)) > 3, 5.0)


@pytest.mark.realdata
def test_real_frames_tell_the_gain_that_their_header_says(realdata):
    files = sorted((realdata / "saao_iband_series").rglob("*.fits.gz"))
    assert len(files) == 6
    for path in files[::2]:
        image, header = fits.getdata(path), fits.getheader(path)
        found = estimate_gain(image, image > 60000, header["RDNOISE"])
        assert found.value == pytest.approx(header["GAIN"], rel=0.05), path.name


@pytest.mark.realdata
def test_two_frames_of_one_camera_agree_though_one_was_resampled(realdata):
    one, other = (fits.getdata(path) for path in sorted((realdata / "properimage_eso085").glob("*.gz")))
    first, second = (estimate_gain(image, image > 60000, 5.0) for image in (one, other))
    assert ("resampling" in first.how, "resampling" in second.how) == (True, False)
    assert abs(first.value - second.value) < 3 * np.hypot(first.error, second.error)
