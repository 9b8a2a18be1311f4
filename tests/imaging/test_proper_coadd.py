"""The proper co-add loses nothing: its depth is that of all epochs taken together."""

import numpy as np
import pytest

from astrid_dist.imaging.coadd import combine, mean_filters, stacked_psf
from astrid_dist.imaging.proper_coadd import proper_filters
from tests.imaging.stacks import MIXED, measured, paint

#: Nights unlike each other: what a mean serves worst.
WIDE = (2.2, 2.6, 3.4, 4.4, 5.0)


def information(scene, filters):
    """Inverse variance of the flux of a faint point source, from PSF and noise of the co-add."""
    stack = scene.stack()
    psf = stacked_psf(stack, filters(stack), scene.psfs).astype(float)
    return np.square(psf).sum() * stack.weights.sum()


@pytest.mark.parametrize(("seeing", "skies", "gain"), [(MIXED, 400.0, 0.02), (WIDE, 400.0, 0.07)])
def test_it_reaches_the_depth_of_all_epochs_together_and_a_mean_does_not(seeing, skies, gain):
    scene = paint(seeing, skies=skies)
    psfs = scene.psfs / scene.psfs.sum(axis=(1, 2))[:, None, None]
    # Independent of any co-add: each epoch's own information on a faint source, summed.
    limit = float((np.square(psfs).sum(axis=(1, 2)) / scene.noise**2).sum())
    proper, mean = information(scene, proper_filters), information(scene, mean_filters)
    assert proper == pytest.approx(limit, rel=0.008)
    assert np.sqrt(proper / mean) > 1 + gain


def test_measured_fluxes_scatter_as_little_as_promised():
    scene = paint(WIDE, (400, 400), faint=500, bright=501, spacing=25)
    stack, pulls, spreads = scene.stack(), [], []
    for filters in (proper_filters, mean_filters):
        image, variance = combine(stack, filters(stack), scene.images, scene.variances)
        flux, error = measured(
            image, variance, stacked_psf(stack, filters(stack), scene.psfs), scene.x, scene.y
        )
        pulls.append(np.std((flux - scene.flux) / error))
        spreads.append(np.median(error))
    assert pulls == pytest.approx([1, 1], abs=0.12)
    assert spreads[1] > 1.05 * spreads[0]


def test_of_one_psf_it_is_the_mean():
    scene = paint((3.0, 3.0, 3.0), skies=(200.0, 400.0, 800.0))
    stack = scene.stack()
    proper, mean = (
        combine(stack, f(stack), scene.images, scene.variances)[0] for f in (proper_filters, mean_filters)
    )
    np.testing.assert_allclose(proper, mean, atol=0.02 * np.sqrt(1 / stack.weights.sum()))
