import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, maximum_filter

from astrid_dist.errors import InputError
from astrid_dist.evaluation.limits import (
    matched_filter_limit,
    matched_filter_recall,
    noise_peaks,
    noise_threshold,
)

SIDE = 1024


def smoothed_noise(rng, fwhm_px):
    """White noise filtered with the PSF, of unit width: the score of an empty image."""
    sigma = fwhm_px / 2.3548
    point = np.zeros((64, 64))
    point[32, 32] = 1
    width = np.sqrt((gaussian_filter(point, sigma) ** 2).sum())
    return gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma, mode="wrap") / width


@pytest.mark.parametrize("fwhm_px", [1.6, 3.0, 5.0])
def test_peaks_of_smoothed_noise_are_as_many_as_expected(fwhm_px):
    rng = np.random.default_rng(1)
    counts = np.zeros(2)
    for _ in range(4):
        score = smoothed_noise(rng, fwhm_px)
        for side in (score, -score):
            peaks = side[side == maximum_filter(side, 3, mode="wrap")]
            counts += (peaks >= 2.5).sum(), (peaks >= 3.5).sum()
    expected = np.array([noise_peaks(t, fwhm_px) for t in (2.5, 3.5)]) * 8 * SIDE**2
    assert (np.abs(counts - expected) < 3.5 * np.sqrt(expected) + 0.01 * expected).all()


def test_five_sigma_peaks_are_those_that_were_measured():
    # 1.5 +- 0.25 of either sign in 2048^2 pixels at a FWHM of 3 px
    assert 2 * noise_peaks(5.0, 3.0) * 2048**2 == pytest.approx(1.5, abs=0.3)


def test_the_density_of_a_wide_psf_is_that_of_a_continuous_field():
    sigma = 12 / 2.3548
    continuous = 5 * np.exp(-12.5) / (2 * np.pi) ** 1.5 / (2 * sigma**2)
    assert noise_peaks(5.0, 12.0) == pytest.approx(continuous, rel=0.06)
    # no more peaks than pixels above, which is the limit of narrow ones
    assert noise_peaks(5.0, 1.0) == pytest.approx(2.87e-7, rel=0.01)


def test_the_threshold_leaves_as_many_peaks_as_asked_for():
    for both, peaks in ((True, 1.0), (False, 0.1)):
        t = noise_threshold(1e6, 2.4, peaks=peaks, both_signs=both)
        assert noise_peaks(t, 2.4) * 1e6 * (2 if both else 1) == pytest.approx(peaks, rel=1e-6)


def test_recall_at_a_pixel_is_that_of_sources_put_into_noise():
    rng = np.random.default_rng(3)
    score = smoothed_noise(rng, 3.0)[::8, ::8]
    assert matched_filter_recall(6.0, 5.1) == pytest.approx(np.mean(score + 6.0 >= 5.1), abs=0.012)
    limit = matched_filter_limit([5.0, 6.0, 8.0], 2048**2, 3.0)
    assert limit[1] == pytest.approx(0.82, abs=0.015)
    assert (np.diff(limit) > 0).all()


def test_a_threshold_within_the_noise_is_refused():
    with pytest.raises(InputError, match="below 2 sigma"):
        noise_threshold(100, 3.0, peaks=20)
    with pytest.raises(InputError, match=r"FWHM 0\.5"):
        noise_peaks(5.0, 0.5)
