"""Proper subtraction against an independent textbook, and the promises of the design page."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.imaging import background, psf, psf_fit, registration
from astrid_dist.imaging import stars as stars_of
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.zogy import halo_px, plan_subtraction, subtract

BOX = 31


def gaussian(fwhm, box=BOX, dy=0.0, dx=0.0):
    axis = np.arange(box) - box // 2
    sigma = fwhm / 2.3548
    stamp = np.exp(-0.5 * ((axis[:, None] - dy) ** 2 + (axis - dx) ** 2) / sigma**2)
    return stamp / (2 * np.pi * sigma**2)


def moffat(fwhm, box=BOX, beta=3.5):
    axis = np.arange(box) - box // 2
    width = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    stamp = (1 + (axis[:, None] ** 2 + axis**2) / width**2) ** -beta
    return stamp / stamp.sum()


def stars(shape, seed, count=40, faintest=2e3, margin=0):
    rng = np.random.default_rng(seed)
    flux = faintest * rng.uniform(0.02, 1, count) ** -1.0
    return (
        rng.uniform(margin, shape[0] - 1 - margin, count),
        rng.uniform(margin, shape[1] - 1 - margin, count),
        flux,
    )


def scene(shape, fwhm, catalogue, scale=1.0, dy=0.0, dx=0.0):
    """Noise-free stars; what falls off the frame is lost, as on a detector."""
    big = np.zeros((shape[0] + 2 * BOX, shape[1] + 2 * BOX))
    for y, x, flux in zip(*catalogue, strict=True):
        y, x = y + dy, x + dx
        row, column = round(y), round(x)
        cut = big[row + BOX // 2 + 1 :, column + BOX // 2 + 1 :][:BOX, :BOX]
        cut += scale * flux * gaussian(fwhm, dy=y - row, dx=x - column)
    return big[BOX:-BOX, BOX:-BOX]


def noisy(clean, sky_sigma, seed):
    variance = np.maximum(clean, 0) + sky_sigma**2
    image = clean + np.random.default_rng(seed).normal(size=clean.shape) * np.sqrt(variance)
    return image.astype(np.float32), variance.astype(np.float32)


def textbook(N, R, Vn, Vr, Pn, Pr, sn, sr, fn, ast=(0.0, 0.0), ratio_err=0.0, pad=64):
    """Eq. 12-17, 25-33 and 42, symbol by symbol in complex128, on a frame padded with zeros."""
    shape = (N.shape[0] + pad, N.shape[1] + pad)

    def place(image):
        out = np.zeros(shape)
        out[: image.shape[0], : image.shape[1]] = image
        return np.fft.fft2(out)

    def place_psf(psf):
        out = np.zeros(shape)
        half = psf.shape[0] // 2
        for (row, column), value in np.ndenumerate(psf / psf.sum()):
            out[(row - half) % shape[0], (column - half) % shape[1]] += value
        return np.fft.fft2(out)

    def back(transform):
        return np.fft.ifft2(transform).real

    n, r, vn, vr = (place(np.asarray(image, dtype=float)) for image in (N, R, Vn, Vr))
    pn, pr = place_psf(Pn), place_psf(Pr)
    den = sn**2 * np.abs(pr) ** 2 + sr**2 * fn**2 * np.abs(pn) ** 2
    D = back((pr * n - fn * pn * r) / np.sqrt(den))
    F_D = fn / np.sqrt(sn**2 + sr**2 * fn**2)
    P_D = back(fn * pn * pr / (F_D * np.sqrt(den)))
    k_n = fn * np.conj(pn) * np.abs(pr) ** 2 / den
    k_r = fn**2 * np.conj(pr) * np.abs(pn) ** 2 / den
    V = back(vn * np.fft.fft2(back(k_n) ** 2) + vr * np.fft.fft2(back(k_r) ** 2))
    S_n, S_r = back(k_n * n), back(k_r * r)
    for S in (S_n, S_r):
        for axis, sigma in ((1, ast[0]), (0, ast[1])):
            V += 0.5 * sigma**2 * ((np.roll(S, -1, axis) - np.roll(S, 1, axis)) / 2) ** 2
    V += (ratio_err / fn * S_r) ** 2
    F_S = np.sum(fn**2 * np.abs(pn) ** 2 * np.abs(pr) ** 2 / den) / den.size
    inside = np.s_[: N.shape[0], : N.shape[1]]
    V = V[inside]
    score = (S_n - S_r)[inside] / np.sqrt(V)
    return {
        "difference": D[inside] / F_D,
        "score": score,
        "sigma_flux": np.sqrt(V) / F_S,
        "psf_d": np.roll(P_D, (BOX // 2, BOX // 2), (0, 1))[:BOX, :BOX],
        "F_S": F_S,
    }


def pair(shape, seed, fwhm=(2.6, 2.2), sigma=(20.0, 10.0), ratio=1.0):
    catalogue = stars(shape, seed)
    new, var_new = noisy(scene(shape, fwhm[0], catalogue, ratio), sigma[0], seed + 1)
    ref, var_ref = noisy(scene(shape, fwhm[1], catalogue), sigma[1], seed + 2)
    return new, ref, var_new, var_ref


@pytest.mark.parametrize("shape", [(160, 160), (161, 175), (150, 203)])
@pytest.mark.parametrize(("ratio", "ast", "error"), [(1.0, (0.0, 0.0), 0.0), (0.4, (0.1, 0.2), 0.02)])
def test_agrees_with_the_textbook_in_double_precision(shape, ratio, ast, error):
    planes = pair(shape, 11, ratio=ratio)
    Pn, Pr = gaussian(2.6), gaussian(2.2)
    plan = plan_subtraction(Pn, Pr, 20, 10, ratio, shape=shape)
    ours = subtract(*planes, plan, astrometric_sigma=ast, flux_ratio_err=error)
    book = textbook(*planes, Pn, Pr, 20, 10, ratio, ast, error)
    noise = np.std(book["difference"][:20])
    off = ours.score - book["score"]
    assert np.sqrt(np.mean(off**2)) < 2e-5
    assert np.abs(off).max() < 1e-3
    assert np.abs(ours.difference - book["difference"]).max() < 1e-3 * noise
    np.testing.assert_allclose(ours.sigma_flux, book["sigma_flux"], rtol=1e-4)
    np.testing.assert_allclose(ours.psf_d, book["psf_d"], atol=1e-6)
    np.testing.assert_allclose(ours.F_S, book["F_S"], rtol=1e-5)


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


def source_free(shape, sigma, seed, gradient):
    rng = np.random.default_rng(seed)
    slope = 1 + gradient * (np.linspace(-1, 1, shape[0])[:, None] + np.zeros(shape[1]))
    variance = (sigma**2 * slope).astype(np.float32)
    return (rng.normal(size=shape) * np.sqrt(variance)).astype(np.float32), variance


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
    new, var_new = source_free(shape, sigma[0], 1, gradient)
    ref, var_ref = source_free(shape, sigma[1], 2, gradient)
    plan = plan_subtraction(*psfs, *sigma, ratio, shape=shape)
    result = subtract(new, ref, var_new, var_ref, plan)
    score = result.score.astype(float)
    assert abs(score.mean()) < 0.02
    assert abs(score.std() - 1) < 0.02
    # Right up to the border, where half of every kernel lies on nothing.
    border = np.concatenate(
        [score[:6].ravel(), score[-6:].ravel(), score[:, :6].ravel(), score[:, -6:].ravel()]
    )
    assert abs(border.std() - 1) < 0.1
    D = result.difference.astype(float) * plan.F_D
    assert D.std() == pytest.approx(1, abs=0.02)
    for lag in (1, 2, 3):
        assert abs(np.mean(D[:, lag:] * D[:, :-lag])) < 0.02
        assert abs(np.mean(D[lag:] * D[:-lag])) < 0.02


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


def test_a_wrong_flux_ratio_is_excused_by_its_error():
    shape = (200, 200)
    catalogue = stars(shape, 2, faintest=3e4, margin=20)
    flat = np.full(shape, 400, np.float32), np.full(shape, 100, np.float32)
    ref, new = (scene(shape, 2.6, catalogue, scale).astype(np.float32) for scale in (1.0, 1.05))
    plan = plan_subtraction(gaussian(2.6), gaussian(2.6), 20, 10, 1.0, shape=shape)
    assert np.abs(subtract(new, ref, *flat, plan).score).max() > 10
    assert np.abs(subtract(new, ref, *flat, plan, flux_ratio_err=0.05).score).max() < 1.1


def test_a_plan_serves_many_tiles_and_gives_the_same_bits():
    shape = (128, 128)
    plan = plan_subtraction(gaussian(2.6), gaussian(2.2), 20, 10, 1.0, shape=shape)
    tiles = [pair(shape, seed) for seed in (1, 2)]
    first = [subtract(*tile, plan).score for tile in tiles]
    again = [subtract(*tile, plan).score for tile in reversed(tiles)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])


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


@pytest.mark.realdata
def test_a_real_pair_in_which_nothing_changed_gives_unit_scores_and_few_peaks():
    root = Path(
        os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
    )
    folder = root / "properimage_eso085"
    if not folder.is_dir():
        pytest.skip(f"no null pair at {folder}; set ASTRID_REALDATA")
    frames = []
    for number in (4, 5):
        image = fits.getdata(folder / f"aligned_eso085-030-00{number}.fit.gz").astype(np.float32)
        mask = np.zeros(image.shape, np.uint16)
        mesh, rms = background.measure_background(image, mask)
        sky, sigma = (background.evaluate(plane, 64, 0, 0, *image.shape) for plane in (mesh, rms))
        image -= sky
        gain = np.median(sky) / np.median(sigma) ** 2  # the sky is bright: its noise is Poisson's
        variance = (sigma**2 + np.maximum(image, 0) / gain).astype(np.float32)
        fwhm = stars_of.estimate_fwhm(image, variance, mask, 3.0)
        found = stars_of.measure_stars(image, variance, mask, fwhm, saturation=4e4)
        model = measure_psf(image, variance, mask, found, BOX, fwhm)
        image[image > 4e4] = np.nan
        frames.append(
            (
                image,
                variance,
                found,
                psf.evaluate(model.terms, model.order, 0, 0, image.shape),
                np.median(sigma),
            )
        )
    (new, var_new, stars_n, psf_n, sigma_n), (ref, var_ref, stars_r, psf_r, sigma_r) = frames
    matched = registration.match_stars(stars_n, stars_r, 2.0)
    offset = registration.measure_offset(stars_n, stars_r, *matched)
    ratio = registration.measure_flux_ratio(stars_n, stars_r, *matched)
    plan = plan_subtraction(psf_n, psf_r, sigma_n, sigma_r, ratio.ratio, shape=new.shape)
    result = subtract(
        new,
        ref,
        var_new,
        var_ref,
        plan,
        shift=(offset.dx, offset.dy),
        astrometric_sigma=(offset.scatter, offset.scatter),
        flux_ratio_err=ratio.ratio * ratio.scatter,
    )
    score = result.score[24:-24, 24:-24]
    assert 1.4826 * np.nanmedian(np.abs(score)) == pytest.approx(1, abs=0.05)
    assert np.nanstd(score) == pytest.approx(1, abs=0.05)
    # 386 stars; what is left are a handful of cosmic rays and the like in 0.62 Mpix.
    assert len(find_peaks(score, 5.0)[0]) <= 15


@pytest.mark.slow
def test_tails_of_the_score_are_gaussian_over_a_large_frame():
    shape = (4096, 4096)
    new, var_new = source_free(shape, 20, 1, 0.0)
    ref, var_ref = source_free(shape, 10, 2, 0.0)
    plan = plan_subtraction(moffat(3.2), moffat(2.4), 20, 10, 1.0, shape=shape)
    score = subtract(new, ref, var_new, var_ref, plan).score.astype(float)
    assert abs(score.mean()) < 0.005
    assert abs(score.std() - 1) < 0.005
    assert abs(np.mean(score**4) / np.mean(score**2) ** 2 - 3) < 0.02
    # 5.7e-7 of Gaussian pixels exceed 5; neighbours are alike, so the count scatters more than Poisson's.
    assert np.count_nonzero(np.abs(score) > 5) < 60
