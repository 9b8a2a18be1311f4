"""Proper subtraction against an independent textbook, and the promises of the design page."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.imaging.zogy import halo_px, plan_subtraction, subtract
from tests.imaging.zogy_reference import textbook
from tests.imaging.zogy_scenes import BOX, empty_sky, gaussian, moffat, noisy, pair, scene, stars


@pytest.mark.parametrize("shape", [(160, 160), (161, 175), (150, 203)])
@pytest.mark.parametrize(
    ("psfs", "flux_n", "flux_r", "ast", "error"),
    [
        ((gaussian(2.6), gaussian(2.2)), 1.0, 1.0, (0.0, 0.0), 0.0),
        ((gaussian(2.6), gaussian(2.2)), 0.4, 1.0, (0.1, 0.2), 0.02),
        # Broad wings let the corner of the frequency plane fall to 1e-5 of the PSF's sum.
        ((moffat(3.0), moffat(2.2)), 3.0, 1.5, (0.2, 0.0), 0.01),
    ],
)
def test_agrees_with_the_textbook_in_double_precision(shape, psfs, flux_n, flux_r, ast, error):
    planes = pair(shape, 11, ratio=flux_n / flux_r)
    plan = plan_subtraction(*psfs, 20, 10, flux_n, flux_r, shape=shape)
    ours = subtract(*planes, plan, astrometric_sigma=ast, flux_ratio_err=error)
    book = textbook(*planes, *psfs, 20, 10, flux_n, flux_r, ast, error)
    for name, unit in (("score", 1.0), ("difference", 1 / book.F_D)):
        off = (getattr(ours, name) - getattr(book, name)) / unit
        assert np.sqrt(np.mean(off**2)) < 1e-5, name
        assert np.abs(off).max() < 1e-3, name
    np.testing.assert_allclose(ours.sigma_flux, book.sigma_flux, rtol=1e-4)
    np.testing.assert_allclose(ours.psf_d, book.psf_d, atol=1e-6)
    np.testing.assert_allclose((plan.F_D, ours.F_S), (book.F_D, book.F_S), rtol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(90, 140),
    width=st.integers(90, 140),
    fwhm_n=st.floats(2.0, 5.0),
    fwhm_r=st.floats(2.0, 5.0),
    ratio=st.floats(0.2, 5.0),
    box=st.sampled_from([25, 31, 33]),
)
def test_any_shape_psf_and_ratio_gives_unit_scores_and_the_flux_put_in(
    height, width, fwhm_n, fwhm_r, ratio, box
):
    Pn, Pr = moffat(fwhm_n, box), moffat(fwhm_r, box)
    rng = np.random.default_rng(height * 1000 + width)
    shape = (height, width)
    new, ref = (rng.normal(0, s, shape).astype(np.float32) for s in (20, 10))
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    plan = plan_subtraction(Pn, Pr, 20, 10, ratio, shape=shape)
    empty = subtract(new, ref, *flat, plan)
    assert 0.85 < empty.score.std() < 1.15
    row, column, half = height // 2, width // 2 + 1, box // 2
    with_star = new.copy()
    with_star[row - half : row + half + 1, column - half : column + half + 1] += (1e4 * ratio * Pn).astype(
        np.float32
    )
    seen = subtract(with_star, ref, *flat, plan)
    added = (seen.score - empty.score) * seen.sigma_flux
    assert np.unravel_index(np.argmax(added), shape) == (row, column)
    assert added[row, column] == pytest.approx(1e4, rel=1e-4)
    stamp = (seen.difference - empty.difference)[
        row - half : row + half + 1, column - half : column + half + 1
    ]
    np.testing.assert_allclose(
        stamp, 1e4 * plan.psf_d, atol=1e-5 * 1e4 * plan.psf_d.max() + 1e-4 * 20 / ratio
    )


@pytest.mark.parametrize(
    ("psfs", "sigma", "ratio", "gradient"),
    [
        ((gaussian(3.2), gaussian(2.4)), (20, 10), 1.0, 0.0),
        ((moffat(2.2), moffat(3.5)), (8, 15), 0.4, 0.6),
        ((moffat(4.0), moffat(3.0)), (30, 5), 3.0, 0.3),
    ],
)
def test_scores_of_empty_sky_are_standard_normal_and_the_difference_white(psfs, sigma, ratio, gradient):
    shape = (1024, 1000)
    new, var_new = empty_sky(shape, sigma[0], 1, gradient)
    ref, var_ref = empty_sky(shape, sigma[1], 2, gradient)
    plan = plan_subtraction(*psfs, *sigma, ratio, shape=shape)
    result = subtract(new, ref, var_new, var_ref, plan)
    score = result.score.astype(float)
    assert abs(score.mean()) < 0.02
    assert abs(score.std() - 1) < 0.02
    # Its own scatter is 0.015 here; over a large frame below 0.02.
    assert abs(np.mean(score**4) / np.mean(score**2) ** 2 - 3) < 0.06
    # Right up to the border, where half of every kernel lies on nothing.
    border = np.concatenate(
        [score[:6].ravel(), score[-6:].ravel(), score[:, :6].ravel(), score[:, -6:].ravel()]
    )
    assert abs(border.std() - 1) < 0.1
    D = result.difference.astype(float) * plan.F_D
    assert D.std() == pytest.approx(1, abs=0.02)
    for lag in range(1, 8):
        assert abs(np.mean(D[:, lag:] * D[:, :-lag])) < 0.02
        assert abs(np.mean(D[lag:] * D[:-lag])) < 0.02
        assert abs(np.mean(D[lag:, lag:] * D[:-lag, :-lag])) < 0.02


def test_noise_in_measured_psfs_does_not_smear_the_difference():
    rng = np.random.default_rng(5)
    shape, box = (256, 256), 63
    Pn, Pr = (moffat(f, box) + rng.normal(0, 5e-5, (box, box)) for f in (5.0, 4.0))
    plan = plan_subtraction(Pn, Pr, 20, 10, 1.0, shape=shape)
    hit = np.zeros(shape, np.float32)
    hit[128, 128] = 1e5  # a cosmic ray
    flat = np.full(shape, 400, np.float32)
    energy = subtract(hit, np.zeros_like(hit), flat, flat, plan).difference.astype(float) ** 2
    rows, columns = np.indices(shape) - 128
    assert energy[np.hypot(rows, columns) > 16].sum() < 0.01 * energy.sum()
    new, ref = (rng.normal(0, s, shape).astype(np.float32) for s in (20, 10))
    D = subtract(new, ref, flat, flat / 4, plan).difference.astype(float)
    assert abs(np.mean(D[:, 1:] * D[:, :-1])) < 0.02 * D.var()


def test_recovers_fluxes_and_nearly_the_ideal_signal_to_noise():
    shape, ratio, flux = (420, 420), 0.7, 900.0
    Pn, Pr, grid = gaussian(3.2), gaussian(2.4), np.arange(30, 400, 40)
    rows, columns = (part.ravel() for part in np.meshgrid(grid, grid))
    clean = scene(shape, 3.2, (rows, columns, np.full(len(rows), flux)), ratio)
    new, var_new = noisy(clean, 20, 1)
    ref, var_ref = noisy(np.zeros(shape), 10, 2)
    plan = plan_subtraction(Pn, Pr, 20, 10, ratio, shape=shape)
    result = subtract(new, ref, var_new, var_ref, plan)
    fluxes = (result.score * result.sigma_flux)[rows, columns]
    assert np.mean(fluxes) / flux == pytest.approx(1, abs=0.02)
    assert np.std(fluxes / result.sigma_flux[rows, columns]) == pytest.approx(1, abs=0.25)
    # Ideal: PSF fit of the new image above an error-free knowledge of what the reference allows (F_D, P_D).
    ideal = flux * plan.F_D * np.sqrt(np.sum(plan.psf_d.astype(float) ** 2))
    own_noise = np.mean(result.sigma_flux[rows, columns]) / np.median(result.sigma_flux)
    assert np.mean(result.score[rows, columns]) * own_noise / ideal >= 0.97


@pytest.mark.parametrize("ratio", [0.5, 1.0, 4.0])
def test_the_limiting_flux_is_five_sigma_on_empty_sky(ratio):
    shape = (128, 128)
    plan = plan_subtraction(moffat(3.2), moffat(2.4), 20, 10, ratio, shape=shape)
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    new = np.zeros(shape, np.float32)
    new[64 - BOX // 2 : 65 + BOX // 2, 64 - BOX // 2 : 65 + BOX // 2] = (
        ratio * plan.limiting_flux * moffat(3.2)
    )
    result = subtract(new, np.zeros(shape, np.float32), *flat, plan)
    assert result.score[64, 64] == pytest.approx(5, rel=1e-4)
    assert result.limiting_flux == plan.limiting_flux
    # Standard deviation of D / F_D over the root of the sum of P_D^2, the matched filter's.
    assert plan.limiting_flux == pytest.approx(
        5 / plan.F_D / np.sqrt(np.square(plan.psf_d).sum(dtype=float)), rel=1e-3
    )


def test_swapping_the_images_flips_the_score():
    shape, ratio = (200, 190), 0.6
    new, ref, var_new, var_ref = pair(shape, 3, ratio=ratio)
    forward = plan_subtraction(gaussian(2.6), gaussian(2.2), 20, 10, ratio, shape=shape)
    backward = plan_subtraction(gaussian(2.2), gaussian(2.6), 10, 20, 1.0, ratio, shape=shape)
    one = subtract(new, ref, var_new, var_ref, forward, astrometric_sigma=(0.1, 0.1))
    two = subtract(ref, new, var_ref, var_new, backward, astrometric_sigma=(0.1, 0.1))
    np.testing.assert_allclose(one.score, -two.score, atol=2e-3)
    np.testing.assert_allclose(one.difference, -two.difference, atol=2e-3 * one.difference[:20].std())


@pytest.mark.parametrize("psfs", [(gaussian(2.6), gaussian(2.2)), (moffat(3.2), moffat(2.4))])
def test_a_tile_with_its_halo_equals_the_untiled_image(psfs):
    shape, halo = (300, 320), halo_px(BOX)
    planes = pair(shape, 7)
    whole = subtract(*planes, plan_subtraction(*psfs, 20, 10, 1.0, shape=shape), astrometric_sigma=(0.1, 0.1))
    inner = np.s_[90:218, 100:228]
    outer = np.s_[90 - halo : 218 + halo, 100 - halo : 228 + halo]
    cut = [np.ascontiguousarray(plane[outer]) for plane in planes]
    plan = plan_subtraction(*psfs, 20, 10, 1.0, shape=cut[0].shape)
    tile = subtract(*cut, plan, astrometric_sigma=(0.1, 0.1))
    back = np.s_[halo : halo + 128, halo : halo + 128]
    assert np.abs(tile.score[back] - whole.score[inner]).max() < 1e-4
    assert np.abs(tile.difference[back] - whole.difference[inner]).max() < 1e-4 * whole.difference[:20].std()
    np.testing.assert_allclose(tile.sigma_flux[back], whole.sigma_flux[inner], rtol=1e-4)


def test_a_shifted_science_image_is_moved_back():
    shape, move = (220, 231), (0.37, -0.22)
    catalogue = stars(shape, 9, faintest=2e4, margin=20)
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    ref = scene(shape, 2.6, catalogue).astype(np.float32)
    new = scene(shape, 3.0, catalogue, dx=move[0], dy=move[1]).astype(np.float32)
    still = scene(shape, 3.0, catalogue).astype(np.float32)
    plan = plan_subtraction(gaussian(3.0), gaussian(2.6), 20, 10, 1.0, shape=shape)
    ignored = subtract(new, ref, *flat, plan)
    corrected = subtract(new, ref, *flat, plan, shift=move)
    ideal = subtract(still, ref, *flat, plan)
    assert np.abs(corrected.score - ideal.score).max() < 0.01 * np.abs(ignored.score).max()
    # The astrometric term absorbs what is left uncorrected.
    excused = subtract(new, ref, *flat, plan, astrometric_sigma=(abs(move[0]), abs(move[1])))
    assert np.abs(excused.score).max() < 3 < np.abs(ignored.score).max()


def test_a_wrong_flux_ratio_is_excused_by_its_error():
    shape = (200, 200)
    catalogue = stars(shape, 2, faintest=3e4, margin=20)
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    ref, new = (scene(shape, 2.6, catalogue, scale).astype(np.float32) for scale in (1.0, 1.05))
    plan = plan_subtraction(gaussian(2.6), gaussian(2.6), 20, 10, 1.0, shape=shape)
    assert np.abs(subtract(new, ref, *flat, plan).score).max() > 10
    assert np.abs(subtract(new, ref, *flat, plan, flux_ratio_err=0.05).score).max() < 1.1


def test_refusals_name_what_is_wrong():
    plane = np.zeros((64, 64), np.float32)
    good = gaussian(2.6)
    plan = plan_subtraction(good, good, 1, 1, 1.0, shape=(64, 64))
    with pytest.raises(InputError, match=r"\(64, 63\).*\(64, 64\)"):
        subtract(plane[:, :63], plane, plane, plane, plan)
    with pytest.raises(InputError, match="resample"):
        subtract(plane, plane, plane, plane, plan, shift=(40.0, 0.0))
    with pytest.raises(InputError, match="odd box"):
        plan_subtraction(good[:-1, :-1], good, 1, 1, 1.0, shape=(64, 64))
    with pytest.raises(InputError, match="sigma_r is nan"):
        plan_subtraction(good, good, 1, np.nan, 1.0, shape=(64, 64))
    with pytest.raises(InputError, match="reference PSF sums to 0"):
        plan_subtraction(good, 0 * good, 1, 1, 1.0, shape=(64, 64))


@pytest.mark.slow
def test_tails_of_the_score_are_gaussian_over_a_large_frame():
    shape = (4096, 4096)
    new, var_new = empty_sky(shape, 20, 1)
    ref, var_ref = empty_sky(shape, 10, 2)
    plan = plan_subtraction(moffat(3.2), moffat(2.4), 20, 10, 1.0, shape=shape)
    score = subtract(new, ref, var_new, var_ref, plan).score.astype(float)
    assert abs(score.mean()) < 0.005
    assert abs(score.std() - 1) < 0.005
    assert abs(np.mean(score**4) / np.mean(score**2) ** 2 - 3) < 0.02
    # 5.7e-7 of Gaussian pixels exceed 5: 9.6 here; neighbours are alike, so the count scatters more than
    # Poisson's.
    assert np.count_nonzero(np.abs(score) > 5) < 40
