"""The clipped mean: what it keeps, what it rejects, what it says about both."""

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import coadd
from astrid_dist.imaging.coadd import clipped_mean


def epochs(count=6, shape=(60, 70), sigma=(10.0,), seed=0, clean=0.0):
    rng = np.random.default_rng(seed)
    sigmas = np.resize(sigma, count)
    images = np.stack([clean + rng.normal(0, s, shape) for s in sigmas]).astype(np.float32)
    variances = np.stack([np.full(shape, s**2) for s in sigmas]).astype(np.float32)
    return images, variances, np.zeros(images.shape, np.uint16)


def star(shape, y, x, flux, fwhm):
    rows, columns = np.indices(shape)
    sigma = fwhm / 2.3548
    return flux / (2 * np.pi * sigma**2) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))


def test_noise_averages_down_as_the_variance_says():
    images, variances, masks = epochs(sigma=(5.0, 10.0, 20.0), shape=(200, 200))
    image, variance, mask, n_epochs = clipped_mean(images, variances, masks, np.ones(6))
    assert variance.mean() == pytest.approx(1 / (2 / 25 + 2 / 100 + 2 / 400), rel=0.01)
    assert image.std() / np.sqrt(variance.mean()) == pytest.approx(1, abs=0.02)
    assert abs(image.mean()) < 0.05
    assert not mask.any()
    # Four sigma against a median that shares the noise clips next to nothing.
    assert n_epochs.mean() > 5.9995


def test_scales_bring_epochs_to_one_flux():
    images, variances, masks = epochs(clean=1000.0, sigma=(1.0,))
    dimming = np.array([1.0, 0.5, 0.8, 0.25, 1.0, 0.9], dtype=np.float32)
    image, variance, *_ = clipped_mean(images * dimming[:, None, None], variances, masks, 1 / dimming)
    assert image.mean() == pytest.approx(1000, rel=1e-3)
    weights = dimming**2
    assert variance.mean() == pytest.approx(1 / weights.sum(), rel=0.01)


def test_cosmic_rays_and_transients_are_rejected_and_counted():
    images, variances, masks = epochs()
    images[2, 30, 40] += 300
    images[4, 10:14, 10] += 5000
    image, variance, _, n_epochs = clipped_mean(images, variances, masks, np.ones(6))
    assert abs(image[30, 40]) < 5 * np.sqrt(variance[30, 40])
    assert np.all(np.abs(image[10:14, 10]) < 25)
    assert n_epochs[30, 40] == 5
    assert np.all(n_epochs[10:14, 10] == 5)
    assert variance[30, 40] == pytest.approx(20, rel=1e-5)


def test_of_two_epochs_the_one_without_the_hit_is_believed():
    images, variances, masks = epochs(count=2)
    images[1, 20, 20] += 1000
    image, _, _, n_epochs = clipped_mean(images, variances, masks, np.ones(2))
    assert image[20, 20] == images[0, 20, 20]
    assert n_epochs[20, 20] == 1


def test_cores_of_stars_survive_seeing_and_registration():
    shape, flux = (61, 61), 1e6
    seeing = [2.8, 3.0, 3.2, 3.4, 3.0, 3.1, 2.9]
    offsets = np.random.default_rng(3).normal(0, 0.1, (7, 2))
    clean = np.stack(
        [star(shape, 30 + dy, 30 + dx, flux, f) for f, (dy, dx) in zip(seeing, offsets, strict=True)]
    )
    noise = np.random.default_rng(4).normal(size=clean.shape)
    variances = (clean + 100).astype(np.float32)
    images = (clean + noise * np.sqrt(variances)).astype(np.float32)
    image, _, _, n_epochs = clipped_mean(images, variances, np.zeros(clean.shape, np.uint16), np.ones(7))
    core = np.hypot(*(np.indices(shape) - 30)) < 4
    assert np.all(n_epochs[core] == 7)
    assert image[core].sum() / clean[:, core].sum(axis=1).mean() == pytest.approx(1, abs=2e-3)
    # A hit beside the star is still seen.
    images[3, 30, 42] += 500
    assert clipped_mean(images, variances, np.zeros(clean.shape, np.uint16), np.ones(7))[3][30, 42] == 6


def test_masked_and_missing_pixels_stay_out_and_leave_their_bits():
    images, variances, masks = epochs(count=3)
    masks[0, 5, 5] = Flag.SATURATED
    masks[1, 6, 6] = Flag.INTERPOLATED
    images[:, 7, 7] = np.nan
    masks[:, 8, 8] = Flag.BAD
    images[2, 9, 9] = np.nan
    image, variance, mask, n_epochs = clipped_mean(images, variances, masks, np.ones(3))
    assert [n_epochs[k, k] for k in (5, 6, 7, 8, 9)] == [2, 3, 0, 0, 2]
    assert [mask[k, k] for k in (5, 6, 7, 8, 9)] == [
        0,
        Flag.INTERPOLATED,
        Flag.NO_DATA,
        Flag.BAD | Flag.NO_DATA,
        0,
    ]
    for plane in (image, variance):
        assert np.isnan(plane[7, 7])
        assert np.isnan(plane[8, 8])
        assert np.isnan(plane).sum() == 2


def test_an_image_in_pieces_joins_to_the_same_bits(monkeypatch):
    images, variances, masks = epochs(sigma=(8.0, 12.0), clean=star((60, 70), 31, 33, 1e5, 3.0))
    weights = np.array([1, 2, 3, 1, 2, 3.0])
    whole = clipped_mean(images, variances, masks, np.ones(6), weights=weights)
    monkeypatch.setattr(coadd, "_BLOCK_PIXELS", 6 * 70 * 7)
    for one, other in zip(
        whole, clipped_mean(images, variances, masks, np.ones(6), weights=weights), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_one_epoch_is_itself():
    images, variances, masks = epochs(count=1)
    image, variance, _, n_epochs = clipped_mean(images, variances, masks, [2.0])
    np.testing.assert_allclose(image, 2 * images[0], rtol=1e-6)
    np.testing.assert_allclose(variance, 4 * variances[0], rtol=1e-6)
    assert np.all(n_epochs == 1)


def test_refusals_quote_both_sides():
    images, variances, masks = epochs(count=3)
    with pytest.raises(InputError, match=r"\(3, 60, 70\).*\(2, 60, 70\)"):
        clipped_mean(images, variances[:2], masks, np.ones(3))
    with pytest.raises(InputError, match=r"scales.*3 positive"):
        clipped_mean(images, variances, masks, [1.0, 0.0, 1.0])
