"""Filtered sums of epochs: flux, noise, registration, PSF; in pieces as in one."""

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.imaging.coadd import combine, fit_psf_terms, halo_px, mean_filters, plan_stack, stacked_psf
from astrid_dist.imaging.proper_coadd import proper_filters
from astrid_dist.imaging.psf import evaluate, moffat
from tests.imaging.stacks import measured, paint

FILTERS = pytest.mark.parametrize("filters", [mean_filters, proper_filters])
OFFSETS = np.array([(0, 0), (0.4, -0.3), (-0.5, 0.1), (0.2, 0.7), (-0.1, -1.2)])


def blank(sigmas=(5.0, 10.0, 20.0), seeing=(3.0, 3.0, 3.0), shape=(300, 300)):
    rng = np.random.default_rng(0)
    images = np.stack([rng.normal(0, sigma, shape) for sigma in sigmas]).astype(np.float32)
    variances = np.stack([np.full(shape, sigma**2) for sigma in sigmas]).astype(np.float32)
    return images, variances, np.stack([moffat(fwhm, 41) for fwhm in seeing])


@FILTERS
def test_noise_averages_down_as_the_variance_says_and_stays_white(filters):
    images, variances, psfs = blank(seeing=(2.5, 3.2, 4.0))
    stack = plan_stack(psfs, [5, 10, 20], shape=(300, 300))
    image, variance = combine(stack, filters(stack), images, variances)
    np.testing.assert_allclose(variance, 1 / (1 / 25 + 1 / 100 + 1 / 400), rtol=2e-3)
    assert image.std() / np.sqrt(variance.mean()) == pytest.approx(1, abs=0.01)
    for neighbour in (image[1:] * image[:-1], image[:, 1:] * image[:, :-1], image[2:] * image[:-2]):
        assert abs(neighbour.mean()) / image.var() < 0.01


@FILTERS
def test_stars_keep_flux_and_place_whatever_seeing_and_offset(filters):
    scene = paint(offsets=OFFSETS, bright=3e6, faint=1e5)
    stack = scene.stack(OFFSETS)
    image, variance = combine(stack, filters(stack), scene.images, scene.variances)
    psf = stacked_psf(stack, filters(stack), scene.psfs)
    assert psf.sum() == pytest.approx(1, abs=1e-6)
    flux, error = measured(image, variance, psf, scene.x, scene.y)
    assert np.median(flux / scene.flux) == pytest.approx(1, abs=0.002)
    assert np.all(np.abs(flux / scene.flux - 1) < 5 * error / scene.flux + 0.003)
    # The PSF describes the stars: what it leaves of the brightest is noise.
    star = int(np.argmax(scene.flux))
    shifted, _ = measured(image, variance, psf, scene.x[star] + np.array([0.1]), scene.y[star] + np.zeros(1))
    assert shifted[0] < flux[star]


def test_without_registration_the_mean_is_wider():
    scene = paint((3.0,) * 5, offsets=2 * OFFSETS)
    aligned, ignored = scene.stack(2 * OFFSETS), scene.stack()
    good, bad = (combine(s, mean_filters(s), scene.images, scene.variances)[0] for s in (aligned, ignored))
    row, column = (int(np.rint(place[np.argmax(scene.flux)])) for place in (scene.y, scene.x))
    assert good[row, column] > 1.1 * bad[row, column]


@FILTERS
@pytest.mark.parametrize("offsets", [np.zeros((5, 2)), OFFSETS])
def test_a_piece_with_its_halo_joins_the_whole(filters, offsets):
    scene = paint(offsets=offsets, shape=(300, 300))
    halo = halo_px(scene.psfs.shape[1])
    stack = scene.stack(offsets)
    whole, spread = combine(stack, filters(stack), scene.images, scene.variances)
    piece = slice(100 - halo, 180 + halo)
    images, variances = (cube[:, piece, piece] for cube in (scene.images, scene.variances))
    stack = plan_stack(scene.psfs, scene.noise, shape=images.shape[1:], offsets=offsets)
    image, variance = (
        plane[halo:-halo, halo:-halo] for plane in combine(stack, filters(stack), images, variances)
    )
    np.testing.assert_allclose(image, whole[100:180, 100:180], atol=3e-3 * np.sqrt(np.median(spread)))
    # An epoch that is moved by more than a pixel has the longest kernels.
    assert np.std(image - whole[100:180, 100:180]) < 1.2e-3 * np.sqrt(np.median(spread))
    np.testing.assert_allclose(variance, spread[100:180, 100:180], rtol=1e-4)


def test_variance_holds_the_light_of_stars():
    scene = paint(shape=(160, 160), bright=2e5, faint=1e5)
    rng = np.random.default_rng(5)
    stack = scene.stack()
    filters = proper_filters(stack)
    _, variance = combine(stack, filters, scene.images, scene.variances)
    trials = []
    for _ in range(60):
        noise = rng.normal(size=scene.images.shape) * np.sqrt(scene.variances)
        trials.append(combine(stack, filters, noise.astype(np.float32), scene.variances)[0])
    bright = variance > 5 * np.median(variance)
    assert bright.sum() > 200
    ratio = np.var(trials, axis=0, ddof=1) / variance
    assert ratio[bright].mean() == pytest.approx(1, abs=0.05)
    assert ratio[~bright].mean() == pytest.approx(1, abs=0.01)


def test_psf_terms_give_the_stamps_back():
    shape, places = (800, 600), [(x, y) for x in (0.0, 200.0, 599.0) for y in (0.0, 400.0, 799.0)]
    terms = np.stack([moffat(3.0, 21), *(moffat(f, 21) - moffat(3.0, 21) for f in (3.2, 2.9))])
    x, y = np.transpose(places)
    stamps = np.stack([evaluate(terms, 1, *place, shape) for place in places])
    found = fit_psf_terms(stamps, x, y, 1, shape)
    np.testing.assert_allclose(found, terms, atol=1e-6)
    assert found.sum(axis=(1, 2)) == pytest.approx([1, 0, 0], abs=1e-5)


def test_refusals_quote_what_is_wrong():
    psfs = np.stack([moffat(3.0, 21)] * 3)
    with pytest.raises(InputError, match=r"noise \[1.0, 0.0, 1.0\]"):
        plan_stack(psfs, [1, 0, 1], shape=(50, 50))
    with pytest.raises(InputError, match=r"\(3, 21, 21\), noise \(2,\)"):
        plan_stack(psfs, [1, 1], shape=(50, 50))
    with pytest.raises(InputError, match="PSFs sum to"):
        plan_stack(np.zeros_like(psfs), [1, 1, 1], shape=(50, 50))
