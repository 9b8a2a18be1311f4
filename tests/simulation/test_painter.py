from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from astrid_dist.errors import InputError
from astrid_dist.imaging.psf import legendre_weights, moffat, moffat_at, n_terms, profiles
from astrid_dist.simulation.painter import MANY, paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.psf_bank import PsfBank

KEY = stream(11, "shot noise")
ROUND = PsfBank.of_stamp(moffat(3.0, 41), 12)


@cache
def moffat_bank(fwhm, radius, oversampling):
    return PsfBank.of_stamp(moffat(fwhm, 41, oversampling=oversampling), radius, oversampling)


def empty(*shape):
    return np.zeros(shape, np.float32)


def painted(shape, x, y, flux, bank=ROUND, **noise):
    image, variance = empty(*shape), empty(*shape)
    paint_points(image, variance, x, y, flux, bank, **noise)
    return image, variance


def centroid(image):
    y, x = np.indices(image.shape)
    return (image * x).sum() / image.sum(), (image * y).sum() / image.sum()


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(28, 33),
    y=st.floats(28, 33),
    flux=st.sampled_from([-2e4, 0.5, 1e5, 3e7]),
    fwhm=st.sampled_from([2.2, 3.0, 4.5]),
    radius=st.sampled_from([8, 12, None]),
    oversampling=st.sampled_from([1, 2]),
)
def test_a_source_has_its_total_flux_and_its_place_at_any_phase_and_in_any_footprint(
    x, y, flux, fwhm, radius, oversampling
):
    bank = moffat_bank(fwhm, radius, oversampling)
    image, variance = painted((64, 64), x, y, flux, bank)
    assert image.sum(dtype=float) == pytest.approx(flux, rel=1e-5)
    assert variance.sum(dtype=float) == pytest.approx(max(flux, 0), rel=1e-5)
    # what a small footprint cuts off on one side moves the middle of the rest
    assert centroid(image.astype(float)) == pytest.approx((x, y), abs={8: 0.03, 12: 5e-3, None: 1e-3}[radius])


@pytest.mark.parametrize(("fwhm", "limit"), [(2.0, 1.7e-3), (2.5, 1e-3), (3.0, 7.5e-4), (4.0, 4.5e-4)])
def test_interpolated_phases_are_the_exactly_shifted_moffat_and_leave_no_dipole(fwhm, limit):
    """Against a closed form; with the nearest phase instead the worst is 2 % of the peak at a FWHM of 3."""
    bank = PsfBank.of_stamp(moffat(fwhm, 51, oversampling=2), None, 2)
    v, u = np.indices((51, 51)) - 25.0
    dipole = []
    for dx, dy in np.random.default_rng(3).uniform(-0.5, 0.5, (60, 2)):
        image, _ = painted((51, 51), 25 + dx, 25 + dy, 1.0, bank)
        truth = moffat_at(v - dy, u - dx, fwhm, 3.5, (0.0, 0.0))
        core = np.hypot(v, u) < 2.4 * fwhm  # what the taper leaves as it is
        error = image / image[core].sum() - truth / truth[core].sum()
        peak = (truth / truth[core].sum()).max()
        assert np.abs(error[core]).max() < limit * peak
        slopes = np.gradient(truth / truth[core].sum())
        dipole += [abs((error * slope)[core].sum() / (slope**2)[core].sum()) for slope in slopes]
    assert max(dipole) < 5e-4  # pixels by which the source seems to be displaced


def varying(shape=(400, 600)):
    """A PSF whose width grows along x and whose ellipticity changes along y, of order 2."""
    order, side = 2, 41
    base = moffat(3.0, side).astype(float)
    wider = moffat(3.3, side) - base
    sheared = moffat(3.0, side, shear=(0.15, 0.0)) - base
    terms = np.zeros((n_terms(order), side, side))
    terms[0], terms[1], terms[2], terms[4] = base, sheared, wider, 0.5 * wider
    return terms, order, shape


def test_every_source_has_the_psf_of_its_own_place():
    terms, order, shape = varying()
    bank = PsfBank.of_terms(terms, order, 1, shape)
    x, y = np.array([30.0, 300.0, 570.0, 30.0]), np.array([25.0, 200.0, 375.0, 375.0])
    image, _ = painted(shape, x, y, 1e4, bank)
    for a, b in zip(x.astype(int), y.astype(int), strict=True):
        wanted = np.tensordot(legendre_weights(order, a, b, shape)[0], terms, axes=1)
        made = image[b - 20 : b + 21, a - 20 : a + 21]
        np.testing.assert_allclose(made, 1e4 * wanted / wanted.sum(), atol=1e-5 * made.max())
    # the same in windows, where the place in the field is not that in the window
    stack = empty(4, 41, 41)
    paint_points(stack, None, np.full(4, 20.0), np.full(4, 20.0), np.full(4, 1e4), bank, place=(x, y))
    for one, a, b in zip(stack, x.astype(int), y.astype(int), strict=True):
        np.testing.assert_array_equal(one, image[b - 20 : b + 21, a - 20 : a + 21])


def test_a_stored_psf_is_painted_as_the_photometry_evaluates_it():
    """Order 2, two samples to a pixel, at any place and phase."""
    order, shape, side = 2, (300, 500), 81
    terms = np.zeros((n_terms(order), side, side), np.float32)
    terms[0] = moffat(2.6, 41, oversampling=2)
    terms[2] = 0.5 * (moffat(3.0, 41, oversampling=2) - terms[0])
    terms[5] = 0.3 * (moffat(2.6, 41, oversampling=2, shear=(0.0, 0.1)) - terms[0])
    bank = PsfBank.of_terms(terms, order, 2, shape)
    assert list(bank.chosen) == [0, 2, 5]
    x, y = np.random.default_rng(4).uniform([[25], [25]], [[475], [275]], (2, 40))
    wanted = profiles(terms, order, 2, x, y, shape)[0]
    stack = empty(40, 41, 41)
    off = 20 - np.rint([x, y])
    paint_points(stack, None, x + off[0], y + off[1], 1.0, bank, place=(x, y))
    peaks = wanted.max(axis=(1, 2), keepdims=True)
    assert (np.abs(stack - wanted / wanted.sum(axis=(1, 2), keepdims=True)) / peaks).max() < 1.5e-3


def test_shot_noise_is_that_of_the_electrons_and_its_variance_plane_says_so():
    flux = np.repeat([40.0, 2e3, 1e5], 4000)
    n = len(flux)
    stack, plane = empty(n, 25, 25), empty(n, 25, 25)
    paint_points(stack, plane, np.full(n, 12.3), np.full(n, 11.8), flux, ROUND, key=KEY, items=np.arange(n))
    for one in np.unique(flux):
        seen, mean = stack[flux == one].astype(float), plane[flux == one][0].astype(float)
        np.testing.assert_array_equal(plane[flux == one], np.broadcast_to(plane[flux == one][0], seen.shape))
        assert mean.sum() == pytest.approx(one, rel=1e-5)
        lit = mean > 0.02
        pull = (seen.mean(axis=0) - mean)[lit] / np.sqrt(mean[lit] / 4000)
        assert stats.chi2(lit.sum()).sf((pull**2).sum()) > 1e-4
        # a Poisson variable's sample variance scatters by sqrt((2 + 1/mean) / n)
        spread = (seen.var(axis=0)[lit] / mean[lit] - 1) / np.sqrt((2 + 1 / mean[lit]) / 4000)
        assert abs(spread.mean()) < 5 / np.sqrt(lit.sum())
        assert spread.std() == pytest.approx(1, abs=0.2)
        few = (mean > 0) & (mean < MANY)
        np.testing.assert_array_equal(seen[:, few], np.rint(seen[:, few]))
        total = seen.sum(axis=(1, 2))
        assert stats.kstest((total - one) / np.sqrt(one), "norm").statistic < 0.06 + 0.4 / np.sqrt(one)


@pytest.mark.parametrize("mean", [0.03, 0.9, 6.0, 9.9, 10.1, 15.0, 80.0])
def test_a_pixel_counts_electrons_as_poisson_does(mean):
    n = 20_000
    stack = empty(n, 1, 1)
    one = PsfBank.of_stamp(np.ones((1, 1)))
    paint_points(stack, None, np.zeros(n), np.zeros(n), mean, one, key=KEY, items=np.arange(n))
    counts = stack.ravel().astype(float)
    values = np.arange(stats.poisson(mean).ppf(0.002), stats.poisson(mean).ppf(0.998) + 1)
    edges = np.concatenate([[-np.inf], values[:-1] + 0.5, [np.inf]])
    expected = np.diff(stats.poisson(mean).cdf(edges)) * n
    found, _ = np.histogram(counts, edges)
    big = expected > 8
    assert stats.chi2(big.sum()).sf(((found - expected)[big] ** 2 / expected[big]).sum()) > 1e-5
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / n))
    assert counts.var() == pytest.approx(mean, rel=5 * np.sqrt((2 + 1 / mean) / n))


def test_light_that_is_taken_away_is_exact_and_silent():
    loud, variance = painted((31, 31), 15.2, 15.4, -3e3, key=KEY, items=[4])
    quiet, _ = painted((31, 31), 15.2, 15.4, 3e3)
    np.testing.assert_array_equal(loud, -quiet)
    assert not variance.any()


def test_a_source_is_the_same_alone_among_others_in_any_order_and_in_a_window():
    rng = np.random.default_rng(2)
    n = 30
    x, y, flux, items = (
        rng.uniform(-5, 60, n),
        rng.uniform(-5, 60, n),
        10 ** rng.uniform(1, 5, n),
        np.arange(n),
    )
    stack, plane = empty(n, 56, 56), empty(n, 56, 56)
    paint_points(stack, plane, x, y, flux, ROUND, key=KEY, items=items)
    order = rng.permutation(n)
    shuffled = empty(n, 56, 56)
    paint_points(shuffled, None, x[order], y[order], flux[order], ROUND, key=KEY, items=order)
    np.testing.assert_array_equal(shuffled, stack[order])
    frame, noise = painted((56, 56), x, y, flux, key=KEY, items=items)
    np.testing.assert_allclose(frame, stack.sum(axis=0), rtol=1e-5, atol=1e-2)
    again, _ = painted((56, 56), x[order], y[order], flux[order], key=KEY, items=order)
    np.testing.assert_array_equal(again, frame)
    np.testing.assert_allclose(noise, plane.sum(axis=0), rtol=1e-5, atol=1e-4)
    given_windows = empty(2, 56, 56)
    paint_points(
        given_windows, None, x, y, flux, ROUND, key=KEY, items=items, window=(items >= 20).astype(int)
    )
    np.testing.assert_allclose(given_windows[1], stack[20:].sum(axis=0), rtol=1e-5, atol=1e-2)
    alone, _ = painted((56, 56), x[7], y[7], flux[7], key=KEY, items=7)
    np.testing.assert_array_equal(alone, stack[7])


def test_two_tiles_see_the_two_parts_of_a_source_that_lies_across_them():
    whole, variance = painted((40, 60), 29.6, 21.2, 5e4, key=KEY, items=[3])
    left, left_variance = painted((40, 30), 29.6, 21.2, 5e4, key=KEY, items=[3])
    right, right_variance = painted((40, 30), -0.4, 21.2, 5e4, key=KEY, items=[3])
    np.testing.assert_allclose(np.hstack([left, right]), whole, rtol=1e-6)
    np.testing.assert_allclose(np.hstack([left_variance, right_variance]), variance, rtol=1e-6)


@pytest.mark.parametrize("x", [-12.4, 71.4, -12.6, 71.6, 1e300, -1e300, 2.0**40])
def test_sources_off_the_image_leave_what_reaches_into_it_and_nothing_else(x):
    image, variance = painted((60, 60), x, 30.0, 1e6)
    assert (image[:, 0].any() or image[:, -1].any()) == (-12.5 < x < 71.5)
    assert not image[:, 1:-1].any()
    assert (variance > 0).sum() == (image > 0).sum()


def test_painting_adds_to_what_is_there_and_no_data_stay_no_data():
    image = np.full((30, 30), 7, np.float32)
    image[15, 15] = np.nan
    paint_points(image, None, 15.0, 15.0, 1e3, ROUND)
    assert np.isnan(image).sum() == 1
    assert image[15, 16] > 8
    assert image[0, 0] == 7


def test_a_pattern_without_a_sum_is_painted_as_it_is():
    dipole = np.roll(moffat(3.0, 41), 1, axis=1) - moffat(3.0, 41)
    bank = PsfBank.of_stamp(dipole, conserve=False)
    image, variance = painted((41, 41), 20, 20, 500.0, bank)
    np.testing.assert_allclose(image, 500 * dipole, atol=1e-4)
    np.testing.assert_allclose(variance, np.maximum(image, 0))
    with pytest.raises(InputError, match="conserve=False"):
        PsfBank.of_stamp(dipole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": [np.nan, 1.0]}, "1 of 2 sources"),
        ({"x": [1.0, np.inf]}, "first: 1"),
        ({"image": np.zeros((5, 5))}, "float64"),
        ({"variance": empty(4, 5)}, r"variance is float32 \(4, 5\)"),
        ({"key": KEY}, "needs `items`"),
        ({"window": [0, 1]}, "windows up to 1, but there are 1"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_words(change, message):
    call = {"image": empty(5, 5), "variance": None, "x": [1.0, 2.0], "y": 1.0, "flux": [1.0, 2.0]} | change
    with pytest.raises(InputError, match=message):
        paint_points(**call, bank=ROUND)


@pytest.mark.parametrize(
    ("terms", "order", "message"),
    [
        (np.ones((1, 4, 4)), 0, "odd side"),
        (np.full((1, 5, 5), np.nan), 0, "finite"),
        (np.ones((2, 5, 5)), 1, r"needs \(3"),
        (np.zeros((1, 5, 5)), 0, "less than half"),
    ],
)
def test_a_psf_that_makes_no_bank_is_refused_in_words(terms, order, message):
    with pytest.raises(InputError, match=message):
        PsfBank.of_terms(terms, order, 1, (10, 10))
