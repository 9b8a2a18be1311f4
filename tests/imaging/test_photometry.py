import numpy as np
import pytest
from scipy.spatial import cKDTree

from astrid_dist.flags import Flag
from astrid_dist.imaging.photometry import fit_star_fluxes, forced_flux
from astrid_dist.imaging.psf import moffat, shift
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.stars import StarList, measure_stars
from tests.starfield import Optics
from tests.starfield import paint as paint_field


@pytest.mark.parametrize("sky", [3.0, 300.0])
def test_fluxes_are_unbiased_and_errors_right_dark_and_bright(sky):
    rng = np.random.default_rng(0)
    n, size, stamp = 400, 41, moffat(3.0, 33)
    dx, dy = rng.uniform(-0.5, 0.5, (2, n))
    flux = 1500.0
    truth = np.full((size, size * n), sky)
    for i, star in enumerate(shift(stamp, dx, dy)):
        truth[4:37, i * size + 4 : i * size + 37] += flux * np.clip(star, 0, None)
    counts = rng.poisson(truth).astype(np.float32)
    mask = np.zeros(truth.shape, np.uint16)
    x, y = np.arange(n) * size + 20 + dx, 20 + dy

    # the variance plane of a real frame: its own counts
    measured, error = forced_flux(counts - sky, np.maximum(counts, 1.0), mask, stamp, x, y)

    assert np.mean(measured) == pytest.approx(flux, rel=0.01)
    assert np.std((measured - flux) / error) == pytest.approx(1, abs=0.12)


def test_noiseless_flux_is_exact_at_any_sub_pixel_place_and_linear():
    stamp = moffat(2.8, 31)
    image = np.zeros((80, 80))
    image[20:51, 25:56] += 700 * shift(stamp, 0.37, -0.44)[0]
    variance, mask = np.ones(image.shape), np.zeros(image.shape, np.uint16)
    flux, error = forced_flux(image, variance, mask, stamp, 40.37, 34.56)
    assert flux[0] == pytest.approx(700, rel=1e-4)
    twice, same = forced_flux(-2 * image, variance, mask, stamp, 40.37, 34.56)
    assert twice[0] == pytest.approx(-2 * flux[0])
    assert same[0] == error[0]


def test_masked_pixels_are_left_out_and_half_a_star_is_nan():
    stamp = moffat(3.0, 31)
    image = np.zeros((100, 100), np.float32)
    image[35:66, 35:66] = 1000 * stamp
    variance, mask = np.ones_like(image), np.zeros(image.shape, np.uint16)
    _, whole_err = forced_flux(image, variance, mask, stamp, 50, 50)
    image[49, 51] = np.nan
    image[51, 48] = 1e6
    mask[51, 48] = Flag.COSMIC_RAY
    flux, error = forced_flux(
        image, variance, mask, stamp, [50, 99.4, -200, np.nan, 50], [50, 50, 50, 50, 1e9]
    )
    assert flux[0] == pytest.approx(1000, rel=1e-3)
    assert error[0] > whole_err[0]
    assert np.isfinite(flux[1])  # a whole half on the frame
    assert np.isnan(flux[2:]).all()
    image[:, :51] = np.nan
    assert np.isnan(forced_flux(image, variance, mask, stamp, 50, 50)[0][0])


def test_answers_do_not_depend_on_company():
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (200, 200)).astype(np.float32)
    variance, mask = np.ones_like(image), np.zeros(image.shape, np.uint16)
    x, y = rng.uniform(-5, 205, (2, 300))
    together = forced_flux(image, variance, mask, moffat(3.0, 31), x, y)
    alone = [forced_flux(image, variance, mask, moffat(3.0, 31), x[i], y[i]) for i in (0, 127, 128, 299)]
    for i, (flux, error) in zip((0, 127, 128, 299), alone, strict=True):
        assert np.array_equal([together[0][i], together[1][i]], [flux[0], error[0]], equal_nan=True)


def test_psf_fluxes_separate_close_pairs(paint):
    field = paint(3.5, faint=2e4, spacing=40)
    listed = measure_stars(field.image, field.variance, field.mask, 3.5)
    stamp = measure_psf(field.image, field.variance, field.mask, listed, 63, 3.5).terms[0]
    rng = np.random.default_rng(4)
    angle = rng.uniform(0, 2 * np.pi, len(field.x))
    x = np.concatenate([field.x, field.x + 4.5 * np.cos(angle)])
    y = np.concatenate([field.y, field.y + 4.5 * np.sin(angle)])
    flux = np.concatenate([field.flux, 0.4 * field.flux])
    image = field.image.copy()
    for one_x, one_y, one in zip(x[100:], y[100:], flux[100:], strict=True):
        column, row = round(one_x), round(one_y)
        if 31 <= column < image.shape[1] - 31 and 31 <= row < image.shape[0] - 31:
            image[row - 31 : row + 32, column - 31 : column + 32] += (
                one * shift(stamp, one_x - column, one_y - row)[0]
            )
    inner = (x > 45) & (x < 355) & (y > 45) & (y < 355)
    aperture = (flux * 1.1).astype(np.float32)
    stars = StarList(x, y, aperture, aperture / 100, np.zeros(200, np.uint16), 3.5)
    fitted = fit_star_fluxes(image, field.variance, field.mask, stamp, stars)
    _, i = cKDTree(np.column_stack([fitted.x, fitted.y])).query(np.column_stack([x, y])[inner])
    ratio = fitted.flux[i] / flux[inner]
    assert abs(np.median(ratio) - 1) < 0.02
    assert np.std(ratio) < 0.03
    assert np.all(np.diff(fitted.flux) <= 0)


def test_places_and_fluxes_in_a_crowded_field_are_as_good_as_their_errors_say():
    optics, shape = Optics(4.0, axis_ratio=1.1), (400, 400)
    field = paint_field(optics, shape, 500, (2e3, 3e5))
    listed = measure_stars(field.image, field.variance, field.mask, 4.0)
    terms = measure_psf(field.image, field.variance, field.mask, listed, 63, 4.0).terms
    fitted = fit_star_fluxes(field.image, field.variance, field.mask, terms, listed)
    truth = cKDTree(np.column_stack([field.x, field.y]))

    def pulls(stars):
        distance, i = truth.query(np.column_stack([stars.x, stars.y]))
        real = distance < 2
        places = np.concatenate([stars.x - field.x[i], stars.y - field.y[i]])[np.tile(real, 2)]
        pull = places / np.tile(stars.position_err[real], 2)
        flux = (stars.flux / field.flux[i] - 1)[real]
        return 1.4826 * np.median(np.abs(pull)), 1.4826 * np.median(np.abs(flux))

    before, after = pulls(listed), pulls(fitted)
    assert before[0] > 1.8
    assert after[0] < 1.35
    assert after[1] < 0.5 * before[1]


def test_stars_are_fitted_with_the_psf_of_their_place():
    optics, shape = Optics(3.2, growth=0.4), (500, 500)
    field = paint_field(optics, shape, 80, (3e4, 2e5))
    terms = np.zeros((3, 63, 63))
    left, right = (optics.stamp(x, 250, shape) for x in (0, 499))
    terms[0], terms[2] = (left + right) / 2, (right - left) / 2
    stars = measure_stars(field.image, field.variance, field.mask, 3.2)
    one, whole = (
        fit_star_fluxes(field.image, field.variance, field.mask, terms[: 3 * order or 1], stars, order=order)
        for order in (0, 1)
    )

    def slope(fitted):
        clean = fitted.flags == 0
        _, i = cKDTree(np.column_stack([field.x, field.y])).query(np.column_stack([fitted.x, fitted.y]))
        return np.polyfit(fitted.x[clean] / 250 - 1, (fitted.flux / field.flux[i])[clean], 1)[0]

    assert abs(slope(one)) > 0.1
    assert abs(slope(whole)) < 0.02
