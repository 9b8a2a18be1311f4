"""What is measured on a subtraction comes out as it was put in."""

from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.imaging import quality_metrics as metrics
from astrid_dist.imaging.masks import noise_moments
from astrid_dist.imaging.noise import neighbour_correlation, predicted_score_std
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from tests.bad_subtractions import BOX, GOOD, SIDE, catalogue, measure, profile, scene

FWHM = 3.0
PSF = profile(FWHM, 0.0, 0.0)[0].astype(np.float32)
STARS = catalogue(4)
NOWHERE = [-10.0, SIDE + 5.0, 2.0]


def left_by(dx=0.0, dy=0.0, wider=1.0, ratio=1.0, sigma=1.0):
    """What is left where stars are subtracted by themselves as they should be."""
    x, y, flux = STARS
    moved = (x + dx, y + dy, flux * ratio)
    noise = np.random.default_rng(0).normal(0, sigma, (SIDE, SIDE))
    return (scene(moved, FWHM * wider) - scene(STARS, FWHM) + noise).astype(np.float32)


@pytest.mark.parametrize(("dx", "dy"), [(0.1, 0.0), (0.0, -0.05), (-0.15, 0.1)])
def test_a_displacement_is_found_with_its_sign(dx, dy):
    found = metrics.star_residuals(left_by(dx, dy), PSF, *STARS, FWHM)
    assert (found.dx, found.dy) == pytest.approx((dx, dy), abs=0.006)
    assert found.displacement == pytest.approx(np.hypot(dx, dy), abs=0.006)
    assert abs(found.width_error) < 0.01
    assert abs(found.flux_left) < 0.01


@pytest.mark.parametrize("wider", [0.97, 1.03])
def test_a_wrong_width_is_found_as_a_fraction(wider):
    found = metrics.star_residuals(left_by(wider=wider), PSF, *STARS, FWHM)
    assert found.width_error == pytest.approx(wider - 1, abs=0.005)
    assert found.displacement < 0.01


def test_a_wrong_scale_is_found_as_the_flux_left():
    found = metrics.star_residuals(left_by(ratio=1.05), PSF, *STARS, FWHM)
    assert found.flux_left == pytest.approx(0.05, abs=0.003)


def test_what_noise_alone_displaces_is_not_called_displaced():
    found = [metrics.star_residuals(left_by(sigma=s), PSF, *STARS, FWHM).displacement for s in (5.0, 8.0)]
    assert max(found) < 0.02


def test_stars_without_data_off_the_frame_or_too_faint_say_nothing():
    image = left_by()
    image[:] = np.nan
    assert np.isnan(metrics.star_residuals(image, PSF, *STARS, FWHM).displacement)
    assert np.isnan(metrics.star_residuals(left_by(), PSF, NOWHERE, NOWHERE, [1e5] * 3, FWHM).dx)
    faint = metrics.star_residuals(left_by(), PSF, *STARS[:2], np.full(len(STARS[2]), 10.0), FWHM)
    assert faint.n == 0
    assert np.isnan(faint.flux_left)
    quiet = np.ones((SIDE, SIDE), bool)
    assert np.isnan(metrics.residual_ratio(image, image, quiet, *STARS[:2], FWHM)).all()
    assert np.isnan(metrics.star_chi2(image, image, NOWHERE, NOWHERE, FWHM))


def test_the_light_left_is_a_fraction_of_the_stars_own():
    science, quiet = scene(STARS, FWHM).astype(np.float32), scene(STARS, FWHM) < 0.01
    none, _ = metrics.residual_ratio(left_by(), science, quiet, *STARS[:2], FWHM)
    tenth, spread = metrics.residual_ratio(left_by(ratio=1.1), science, quiet, *STARS[:2], FWHM)
    whole, _ = metrics.residual_ratio(science + left_by(), science, quiet, *STARS[:2], FWHM)
    assert none == pytest.approx(0, abs=0.01)
    # Absolute values of a residual below the noise hardly add to those of the noise.
    assert tenth == pytest.approx(0.1, abs=0.015)
    assert spread < 0.03
    assert whole == pytest.approx(1, abs=0.02)


def test_chi_squared_of_stars_is_one_where_noise_is_as_told():
    sigma = np.full((SIDE, SIDE), 5.0, np.float32)
    assert metrics.star_chi2(left_by(sigma=5.0), sigma, *STARS[:2], FWHM) == pytest.approx(1, abs=0.1)
    assert metrics.star_chi2(left_by(sigma=10.0), sigma, *STARS[:2], FWHM) == pytest.approx(4, abs=0.4)


def test_peaks_are_counted_per_megapixel_with_data():
    score = np.zeros((1000, 1000), np.float32)
    score[100, 100], score[200, 300], score[300, 300] = 6, -7, 4.9
    assert metrics.peaks_per_mpix(score) == 2
    score[500:] = np.nan
    assert metrics.peaks_per_mpix(score) == 4
    assert np.isnan(metrics.peaks_per_mpix(np.full((4, 4), np.nan, np.float32)))


def test_mask_sky_depth_and_clouds():
    mask = np.zeros((10, 10), np.uint16)
    mask[0, :2], mask[1, 0], mask[2, :] = Flag.SATURATED, Flag.NO_DATA, Flag.EDGE
    assert metrics.mask_fractions(mask) == (0.03, 0.02)
    mesh = np.linspace(100, 200, 101, dtype=np.float32).reshape(1, -1)
    assert metrics.sky_gradient(mesh, np.full_like(mesh, 10)) == pytest.approx(9)
    assert np.isnan(metrics.sky_gradient(mesh * np.nan, mesh))
    assert metrics.limiting_mag(100.0, 25.0) == 20.0
    assert np.isnan(metrics.limiting_mag(100.0, float("nan")))
    assert metrics.transparency(0.5, 60.0, 30.0) == 0.25
    assert np.isnan(metrics.transparency(0.5, 0.0, 30.0))


def smoothed(white):
    """Noise as bilinear resampling by half a pixel leaves it: neighbours share half of their variance."""
    for axis in (0, 1):
        white = (white + np.roll(white, 1, axis)) / 2
    return white


def test_correlation_of_neighbours_is_that_of_the_noise_and_not_of_a_slanted_sky():
    white = np.random.default_rng(5).normal(size=(300, 300))
    slope = np.linspace(0, 3, 300)
    quiet = np.ones(white.shape, bool)
    quiet[100:140, 50:90] = False
    white[110, 60] = 1e6
    for noise, expected in ((white, 0.0), (smoothed(white), 0.5)):
        noise = np.where(quiet, noise, 0.0).astype(np.float32)
        assert neighbour_correlation(noise, quiet) == pytest.approx(expected, abs=0.01)
        assert neighbour_correlation((noise + slope).astype(np.float32), quiet) == pytest.approx(
            expected, abs=0.02
        )
    assert np.isnan(neighbour_correlation(np.zeros((20, 20), np.float32), np.ones((20, 20), bool)))


def test_correlated_noise_widens_the_score_as_predicted():
    rng = np.random.default_rng(6)
    shape, psf_r = (512, 512), profile(2.6, 0.0, 0.0)[0]
    white_n, white_r = rng.normal(0, 20, shape), rng.normal(0, 8, shape)
    new, ref = white_n + 0.5 * np.roll(white_n, 1, 0) + 0.5 * np.roll(white_n, 1, 1), white_r
    sigma = float(new.std())
    quiet = np.ones(shape, bool)
    found = neighbour_correlation(new.astype(np.float32), quiet)
    predicted = predicted_score_std(PSF, psf_r, sigma, 8.0, 1.0, found, 0.0)
    plan = plan_subtraction(PSF, psf_r, sigma, 8.0, 1.0, shape=shape)
    variances = (np.full(shape, s**2, np.float32) for s in (sigma, 8.0))
    made = subtract(new.astype(np.float32), ref.astype(np.float32), *variances, plan)
    inner = np.asarray(made.score)[BOX:-BOX, BOX:-BOX]
    _, std, _ = noise_moments(inner, np.ones(inner.shape, bool))
    assert predicted > 1.2
    assert predicted == pytest.approx(std, rel=0.06)
    assert predicted_score_std(PSF, psf_r, sigma, 8.0, 1.0, 0.0, 0.0) == pytest.approx(1)
    told_too_little = predicted_score_std(PSF, psf_r, 10.0, 4.0, 1.0, 0.0, 0.0, noise_n=20.0, noise_r=8.0)
    assert told_too_little == pytest.approx(2)


def test_a_case_measures_the_same_twice():
    assert measure(GOOD) == measure(replace(GOOD))
