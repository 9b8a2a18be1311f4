"""What is no data in a pair: how far it reaches, and that nothing rings round it."""

import numpy as np
import pytest
from scipy import ndimage

from astrid_dist.imaging.no_data import widened
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from tests.imaging.zogy_scenes import gaussian, moffat, noisy, pair, scene


def test_no_data_stays_no_data_one_kernel_radius_wide_and_biases_nobody():
    shape = (240, 240)
    new, ref, var_new, var_ref = pair(shape, 21)
    quiet = np.zeros(shape, np.float32)
    plan = plan_subtraction(gaussian(2.6), gaussian(2.2), 20, 10, 1.0, shape=shape)
    radius = plan.kernel_radius_px
    rng = np.random.default_rng(0)
    sky_new, sky_ref = (rng.normal(0, s, shape).astype(np.float32) for s in (20, 10))
    holes = quiet > 0
    holes[60, 70] = holes[100:103, 100:140] = holes[200:, 210:] = True
    sky_new[holes] = np.nan
    sky_ref[30, 200] = np.nan
    holes[30, 200] = True
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    result = subtract(sky_new, sky_ref, *flat, plan)
    distance = ndimage.distance_transform_edt(~holes)
    lost = np.isnan(result.score)
    assert lost[distance <= radius].all()
    assert not lost[distance > radius + 2.5].any()
    assert np.array_equal(lost, np.isnan(result.difference))
    assert np.array_equal(lost, np.isnan(result.sigma_flux))
    around = ~lost & (distance < radius + 6)
    assert abs(result.score[around].std() - 1) < 0.15
    # Among stars: what is far from the hole is what it was without.
    before = subtract(new, ref, var_new, var_ref, plan)
    new[holes] = np.nan
    after = subtract(new, ref, var_new, var_ref, plan)
    far = ndimage.distance_transform_edt(~holes) > 20
    np.testing.assert_allclose(after.score[far], before.score[far], atol=1e-2)


@pytest.mark.parametrize("radius", [1.0, 6.3, 20.0])
def test_holes_in_empty_sky_widen_by_disks(radius):
    bad = np.random.default_rng(1).random((70, 83)) < 0.004
    bad[20:30, 60:] = True
    dark = np.zeros(bad.shape, np.float32)
    wide = widened(bad, bad, ((dark, 1.0), (dark, 1.0)), np.zeros(30), radius)
    assert np.array_equal(wide, ndimage.distance_transform_edt(~bad) <= radius)


@pytest.mark.parametrize("hole", [False, True])
def test_a_window_without_data_stays_so_and_one_without_holes_too(hole):
    bad = np.full((20, 30), hole)
    images = ((np.ones(bad.shape, np.float32), 1.0), (np.ones(bad.shape, np.float32), 1.0))
    assert np.array_equal(widened(bad, bad, images, np.ones(30), 4.0), bad)


@pytest.mark.parametrize("both", [False, True])
def test_a_saturated_core_leaves_no_false_source_round_its_hole(both):
    shape = (201, 201)
    star = (np.array([100.0]), np.array([100.0]), np.array([1e6]))
    new, var_new = noisy(scene(shape, 3.2, star), 20, 1)
    ref, var_ref = noisy(scene(shape, 2.4, star), 10, 2)
    rows, columns = np.indices(shape) - 100
    core = np.hypot(rows, columns) < 2.5
    new[core] = np.nan
    if both:
        ref[core] = np.nan
    plan = plan_subtraction(gaussian(3.2), gaussian(2.4), 20, 10, 1.0, shape=shape)
    score = subtract(new, ref, var_new, var_ref, plan).score
    assert np.nanmax(np.abs(score)) < 5
    assert np.isnan(score).sum() < np.pi * 20**2


def bleeding(psf, place, sky_sigma, seed, shape, half_length, half_width, full_well=6e4):
    """A star of 1e7 e- with its bleed trail along a column, NaN where the well was full; and the variance."""
    star = np.zeros((shape[0] + psf.shape[0], shape[1] + psf.shape[1]))
    star[place[0] : place[0] + psf.shape[0], place[1] : place[1] + psf.shape[1]] = 1e7 * psf
    half = psf.shape[0] // 2
    image, variance = noisy(star[half : half + shape[0], half : half + shape[1]], sky_sigma, seed)
    rows, columns = np.indices(shape)
    # A trail narrows towards its ends, and its last pixels are filled but in part.
    away = np.abs(rows - place[0]) / half_length
    trail = (away < 1) & (np.abs(columns - place[1]) <= half_width * (1 - away) + 0.5)
    tip = (away >= 1) & (away < 1.03) & (columns == place[1])
    image[tip] += full_well / 3
    full = ndimage.binary_dilation(trail | tip | (image > full_well), np.ones((3, 3)))
    image[full] = np.nan
    return image, variance, full


@pytest.mark.parametrize("lengths", [(70, 60), (90, 0), (0, 90)])
def test_a_bleed_trail_costs_its_surroundings_and_rings_nowhere(lengths):
    shape, place = (300, 300), (150, 148)
    Pn, Pr = moffat(3.2, 63), moffat(2.6, 63)
    new, var_new, full_new = bleeding(Pn, place, 20, 1, shape, max(lengths[0], 1), 2)
    ref, var_ref, full_ref = bleeding(Pr, place, 10, 2, shape, max(lengths[1], 1), 2)
    plan = plan_subtraction(Pn, Pr, 20, 10, 1.0, shape=shape)
    score = subtract(new, ref, var_new, var_ref, plan).score
    assert np.isnan(score[full_new | full_ref]).all()
    assert np.nanmax(np.abs(score)) < 5
    assert np.nanstd(score) == pytest.approx(1, abs=0.03)
    distance = ndimage.distance_transform_edt(~(full_new | full_ref))
    assert np.isfinite(score[distance > 40]).all()


def test_exact_zeros_are_data():
    shape = (128, 128)
    rng = np.random.default_rng(1)
    new, ref = (np.rint(rng.normal(0, s, shape)).astype(np.float32) for s in (3, 2))
    flat = np.full(shape, 9, np.float32), np.full(shape, 4, np.float32)
    assert (new == 0).sum() > 1000
    plan = plan_subtraction(gaussian(2.6), gaussian(2.2), 3, 2, 1.0, shape=shape)
    score = subtract(new, ref, *flat, plan).score
    assert np.isfinite(score).all()
    assert abs(score.std() - 1) < 0.06


@pytest.mark.parametrize(
    ("plane", "value"), [(0, 1e20), (0, -np.inf), (1, 1e12), (3, 1e30), (2, -1.0), (1, np.nan)]
)
def test_a_garbage_pixel_costs_its_neighbourhood_not_the_tile(plane, value):
    planes = [image.copy() for image in pair((160, 160), 8)]
    plan = plan_subtraction(gaussian(2.6), gaussian(2.2), 20, 10, 1.0, shape=(160, 160))
    clean = subtract(*planes, plan).score
    planes[plane][80, 80] = value
    score = subtract(*planes, plan).score
    far = np.hypot(*(np.indices(score.shape) - 80)) > 25
    assert np.isnan(score[80, 80])
    np.testing.assert_allclose(score[far], clean[far], atol=1e-3)


def test_a_shift_moves_variance_and_no_data_along():
    shape = (120, 120)
    rng = np.random.default_rng(4)
    variance = np.full(shape, 100, np.float32)
    variance[50:70, 50:70] = 1e4
    new = (rng.normal(size=shape) * np.sqrt(variance)).astype(np.float32)
    new[20, 30] = np.nan
    ref, flat = np.zeros(shape, np.float32), np.full(shape, 1e-3, np.float32)
    plan = plan_subtraction(gaussian(3.0), gaussian(2.6), 10, 10, 1.0, shape=shape)
    moved = subtract(new, ref, variance, flat, plan, shift=(3.0, -2.0))
    lost = np.isnan(moved.score)
    assert lost[22, 27]
    assert not lost[22, 27 + 2 * int(plan.kernel_radius_px) + 3]
    assert lost[60, 119]  # nothing was seen beyond the border
    assert lost[0, 60]
    still = subtract(new, ref, variance, flat, plan)
    np.testing.assert_allclose(moved.sigma_flux[45:80, 40:75], still.sigma_flux[43:78, 43:78], rtol=1e-3)
