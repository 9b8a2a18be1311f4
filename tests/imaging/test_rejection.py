"""What must not enter a reference: transients, cosmic rays, movers; and what must: every star."""

import numpy as np
import pytest

from astrid_dist.imaging.coadd import combine, mean_filters, stacked_psf
from astrid_dist.imaging.proper_coadd import proper_filters
from astrid_dist.imaging.rejection import clean
from astrid_dist.simulation.render import paint_points
from tests.imaging.stacks import MIXED, Scene, measured, paint

SEEING = pytest.mark.parametrize("seeing", [MIXED, (3.0, 3.1, 2.9, 3.0, 3.2)], ids=["mixed", "alike"])


class Visitors:
    """Sources of a true SNR at given places, each in some of the epochs only."""

    def __init__(self, x, y, snr, epochs, light=0.0):
        self.x, self.y, self.snr, self.light = x, y, snr, light
        self.epochs = epochs
        self.total = np.zeros(len(x))

    def __call__(self, epoch, truth, psf):
        here = (self.epochs == epoch).any(axis=1)
        noise = np.sqrt((400 + self.light * psf(0, 0) / 2) / np.square(psf.stamp(20)).sum())
        flux = np.where(here, self.snr * noise, 0)
        self.total += flux
        paint_points(truth, self.x, self.y, flux, psf)


def drawn(count, seen, of=5):
    return np.random.default_rng(3).permuted(np.tile(np.arange(of), (count, 1)), axis=1)[:, :seen]


def residual(seeing, visitors, **painted):
    """Flux that visitors leave in the co-add, over what they leave if nothing is rejected; and in sigma."""
    scene, clear = paint(seeing, extra=visitors, **painted), paint(seeing, **painted)
    stack = scene.stack()
    filters = proper_filters(stack)
    cleaned = clean(stack, scene.images, scene.variances, scene.good, flux_sigma=0.003, offset_sigma=0.02)
    image, _ = combine(stack, filters, cleaned.images, cleaned.variances)
    dirty, _ = combine(stack, filters, scene.images, scene.variances)
    truth, variance = combine(stack, filters, clear.images, clear.variances)
    psf = stacked_psf(stack, filters, scene.psfs)
    left, error = measured(image - truth, variance, psf, visitors.x, visitors.y)
    share, _ = measured(dirty - truth, variance, psf, visitors.x, visitors.y)
    return left / share, left / error


def between():
    """Places between the stars."""
    return np.mgrid[48:240:48, 48:240:48].reshape(2, -1) * 1.0


@SEEING
@pytest.mark.parametrize("seen", [1, 2])
@pytest.mark.parametrize("snr", [8, 15, 100])
def test_a_transient_in_one_or_two_of_five_epochs_does_not_enter(seeing, seen, snr):
    y, x = between()
    left, sigmas = residual(seeing, Visitors(x, y, snr, drawn(len(x), seen)))
    # What is left is the noise of the filling, about one sigma of the reference.
    assert abs(np.mean(left)) < (0.25 if snr == 8 else 0.1)
    assert abs(np.mean(sigmas)) < 0.6
    assert np.sqrt(np.mean(sigmas**2)) < 2.2


@SEEING
@pytest.mark.parametrize("snr", [25, 100])
def test_nor_does_one_on_a_bright_star(seeing, snr):
    stars = paint(seeing, bright=1.2e5, faint=8e4)
    visitors = Visitors(stars.x, stars.y, snr, drawn(len(stars.x), 1), light=1e5)
    left, _ = residual(seeing, visitors, bright=1.2e5, faint=8e4)
    assert abs(np.median(left)) < 0.1
    assert np.abs(left).max() < 0.75


def test_nor_does_one_in_a_galaxy():
    y, x = between()
    rng = np.random.default_rng(8)
    knots = rng.normal(0, 4, (2, 60))

    def galaxies(epoch, truth, psf):
        for place in zip(x, y, strict=True):
            paint_points(truth, place[0] + knots[0], place[1] + knots[1], np.full(60, 1000.0), psf)

    visitors = Visitors(x, y, 25, drawn(len(x), 1))

    def both(epoch, truth, psf):
        galaxies(epoch, truth, psf)
        visitors(epoch, truth, psf)

    scene, clear = paint(MIXED, extra=both), paint(MIXED, extra=galaxies)
    stack = scene.stack()
    filters = proper_filters(stack)
    cleaned = clean(stack, scene.images, scene.variances, scene.good)
    image, _ = combine(stack, filters, cleaned.images, cleaned.variances)
    truth, variance = combine(stack, filters, clear.images, clear.variances)
    left, _ = measured(image - truth, variance, stacked_psf(stack, filters, scene.psfs), x, y)
    assert abs(np.mean(left / (visitors.total / 5))) < 0.1


@SEEING
def test_cosmic_rays_do_not_enter_not_even_in_stars(seeing):
    scene = paint(seeing, shape=(300, 300), bright=1e5, faint=2e4)
    clear = scene.images.copy()
    rng = np.random.default_rng(2)
    near = rng.permutation(len(scene.x))[:15].reshape(5, 3)
    hit = np.zeros(scene.images.shape, bool)
    for epoch in range(5):
        y, x = rng.integers(10, 285, (2, 40))
        hit[epoch, y, x] = hit[epoch, y, x + 1] = True
        row, column = (np.rint(place[near[epoch]]).astype(int) for place in (scene.y, scene.x))
        hit[epoch, row, column + 2] = True
    rays = np.where(hit, rng.uniform(300, 20000, hit.shape), 0).astype(np.float32)
    stack = scene.stack()
    cleaned = clean(stack, clear + rays, scene.variances + rays, scene.good)
    assert cleaned.used[hit].mean() < 0.03
    filters = proper_filters(stack)
    image, _ = combine(stack, filters, cleaned.images, cleaned.variances)
    truth, variance = combine(stack, filters, clear, scene.variances)
    # A fifth of the share of a pixel by which a PSF may be wrong stays in the core of a star.
    assert np.all(np.abs(image - truth) < 6 * np.sqrt(variance) + 0.05 * np.maximum(truth, 0))


def test_a_mover_leaves_no_trace():
    def asteroid(epoch, truth, psf):
        paint_points(
            truth, 60 + 7 * epoch + np.linspace(0, 5, 30), np.full(30, 72.0), np.full(30, 200.0), psf
        )

    scene, clear = paint(MIXED, extra=asteroid), paint(MIXED)
    stack = scene.stack()
    filters = proper_filters(stack)
    cleaned = clean(stack, scene.images, scene.variances, scene.good)
    image, _ = combine(stack, filters, cleaned.images, cleaned.variances)
    truth, _ = combine(stack, filters, clear.images, clear.variances)
    assert abs((image - truth)[64:80, 50:105].sum()) < 0.05 * 6000


@SEEING
@pytest.mark.parametrize("filters", [mean_filters, proper_filters])
def test_stars_keep_their_flux_though_seeing_and_places_differ(seeing, filters):
    scene = paint(seeing, (400, 400), scatter_px=0.05, faint=5e4, bright=1e6)
    stack = scene.stack()
    cleaned = clean(stack, scene.images, scene.variances, scene.good, offset_sigma=0.05)
    image, variance = combine(stack, filters(stack), cleaned.images, cleaned.variances)
    flux, _ = measured(image, variance, stacked_psf(stack, filters(stack), scene.psfs), scene.x, scene.y)
    assert np.median(flux / scene.flux) == pytest.approx(1, abs=0.005)
    row, column = np.rint(scene.y).astype(int), np.rint(scene.x).astype(int)
    assert cleaned.used[:, row, column].mean() > 0.95


def test_of_two_epochs_the_one_without_the_visitor_is_believed():
    y, x = between()
    left, sigmas = residual((2.8, 3.4), Visitors(x, y, 20, drawn(len(x), 1, of=2)))
    assert abs(np.mean(left)) < 0.1
    assert np.sqrt(np.mean(sigmas**2)) < 2.2


def test_one_epoch_is_left_as_it_is():
    scene = paint((3.0,), spacing=60)
    scene.images[0, 33, 33] += 5000
    cleaned = clean(scene.stack(), scene.images, scene.variances, scene.good)
    assert cleaned.used.all()
    np.testing.assert_array_equal(cleaned.images, scene.images)


def test_noise_alone_loses_next_to_nothing():
    scene = paint((3.0,) * 5, (300, 300), faint=1.0, bright=1.1)
    cleaned = clean(scene.stack(), scene.images, scene.variances, scene.good)
    assert cleaned.used.mean() > 0.998


def test_holes_are_filled_with_what_the_others_see_and_cost_what_they_should():
    scene = paint(bright=2e5, faint=5e4)
    stack, good = scene.stack(), scene.good
    row, column = (int(np.rint(place[12])) for place in (scene.y, scene.x))
    good[1, row - 2 : row + 3, column - 6 : column + 7] = False
    good[0, 100:102, :] = False
    good[:, 60:63, 60:63] = False
    cleaned = clean(
        stack, np.where(good, scene.images, np.nan), np.where(good, scene.variances, np.nan), good
    )
    filters = proper_filters(stack)
    image, variance = combine(stack, filters, cleaned.images, cleaned.variances)
    whole, spread = combine(stack, filters, scene.images, scene.variances)
    assert np.isfinite(image).all()
    assert np.isfinite(variance).all()
    psf = stacked_psf(stack, filters, scene.psfs)
    (flux,), _ = measured(image, variance, psf, scene.x[12:13], scene.y[12:13])
    (before,), _ = measured(whole, spread, psf, scene.x[12:13], scene.y[12:13])
    assert flux == pytest.approx(before, rel=0.01)
    assert not cleaned.used[:, 61, 61].any()
    # One of five epochs of equal sky is missing along the line.
    plain = mean_filters(stack)
    _, variance = combine(stack, plain, cleaned.images, cleaned.variances)
    assert np.median(variance[100:102]) == pytest.approx(400 / 4, rel=0.03)
    assert np.median(variance[130:140]) == pytest.approx(400 / 5, rel=0.03)


def test_the_false_source_that_a_plain_sum_would_leave_in_every_difference_is_gone():
    """A co-add without rejection keeps a fifth of a transient for good; a cleaned one nothing to be seen."""
    y, x = between()
    visitors = Visitors(x, y, 60, drawn(len(x), 1))
    scene = paint(MIXED, extra=visitors)
    stack = scene.stack()
    filters = proper_filters(stack)
    psf = stacked_psf(stack, filters, scene.psfs)

    def significance(images, variances):
        image, variance = combine(stack, filters, images, variances)
        flux, error = measured(image, variance, psf, x, y)
        return flux / error

    cleaned = clean(stack, scene.images, scene.variances, scene.good)
    assert np.median(significance(scene.images, scene.variances)) > 20
    assert np.abs(significance(cleaned.images, cleaned.variances)).max() < 5


def test_what_every_epoch_disagrees_on_is_kept():
    scene: Scene = paint((3.0, 3.0, 3.0), spacing=60)
    scene.images[:, 33, 33] += np.array([-4000, 0, 4000], np.float32)
    cleaned = clean(scene.stack(), scene.images, scene.variances, scene.good)
    assert cleaned.used[:, 33, 33].any()
