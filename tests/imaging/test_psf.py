import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import psf
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars


@pytest.mark.parametrize(("fwhm", "beta"), [(2.2, 3.0), (4.0, 2.5), (4.0, 4.5), (8.5, 3.0)])
def test_measured_psf_is_the_one_that_was_painted(paint, fwhm, beta):
    field = paint(fwhm, beta=beta, spacing=55, n=8, faint=2e4, bright=4e5)
    stars = measure_stars(field.image, field.variance, field.mask, fwhm)
    measured = measure_psf(field.image, field.variance, field.mask, stars, 63, fwhm)
    truth = psf.moffat(fwhm, 63, beta).astype(float)
    stamp = measured.terms[0].astype(float)

    assert not measured.fallback
    assert measured.n_stars >= 30
    assert measured.fwhm_px == pytest.approx(fwhm, rel=0.015)
    assert np.abs(stamp - truth).max() < 0.025 * truth.max()
    assert stamp.sum() == pytest.approx(1, abs=1e-5)
    assert np.hypot(*psf.centroid(stamp, fwhm)) < 0.02
    assert 0.5 < measured.chi2 < 1.5


def test_below_eight_stars_it_is_a_moffat_and_says_so(paint):
    field = paint(3.0, n=2)
    stars = measure_stars(field.image, field.variance, field.mask, 3.0)
    measured = measure_psf(field.image, field.variance, field.mask, stars, 31, 3.0)
    assert measured.fallback
    assert measured.n_stars <= 4
    assert "4 usable stars, 8 needed" in measured.reason
    truth = psf.moffat(3.0, 31, 3.0)
    assert np.abs(measured.terms[0] - truth).max() < 0.02 * truth.max()


def test_galaxies_cosmic_rays_and_masked_pixels_do_not_enter(paint):
    field = paint(3.5, faint=2e4)
    clean = measure_psf(
        field.image,
        field.variance,
        field.mask,
        measure_stars(field.image, field.variance, field.mask, 3.5),
        63,
        3.5,
    ).terms[0]
    rng = np.random.default_rng(0)
    image, mask = field.image.copy(), field.mask.copy()
    hit = tuple(rng.integers(0, image.shape[0], (2, 150)))
    image[hit] += 20000
    known = tuple(axis[:75] for axis in hit)
    mask[known] = Flag.COSMIC_RAY
    image[known] = np.nan
    stars = measure_stars(image, field.variance, mask, 3.5)
    soiled = measure_psf(image, field.variance, mask, stars, 63, 3.5).terms[0]
    assert np.abs(soiled - clean).max() < 0.01 * clean.max()


@settings(max_examples=20, deadline=None)
@given(dx=st.floats(-0.9, 0.9), dy=st.floats(-0.9, 0.9), fwhm=st.floats(2.8, 8.0))
def test_a_shift_moves_the_centroid_keeps_the_sum_and_can_be_undone(dx, dy, fwhm):
    stamp = psf.moffat(fwhm, 63).astype(float)
    moved = psf.shift(stamp, dx, dy)[0]
    assert psf.centroid(moved, fwhm) == pytest.approx((dx, dy), abs=0.01)
    assert moved.sum() == pytest.approx(1, abs=1e-6)
    assert np.abs(psf.shift(moved, -dx, -dy)[0] - stamp).max() < 0.03 * stamp.max()


@pytest.mark.parametrize("fwhm", [2.0, 3.7, 9.0])
def test_fwhm_of_a_moffat_is_its_fwhm(fwhm):
    assert psf.fwhm_of(psf.moffat(fwhm, 63)) == pytest.approx(fwhm, rel=0.01)


def test_terms_are_legendre_products_sorted_by_total_order_then_x():
    terms = np.zeros((6, 3, 3), dtype=np.float32)
    terms[:, 1, 1] = 10.0 ** np.arange(6)
    x, y, shape = 30.0, 80.0, (101, 61)  # scaled: x 0, y 0.6
    y1, y2, x2 = 0.6, 0.5 * (3 * 0.36 - 1), -0.5
    expected = 1 + 10 * y1 + 100 * 0.0 + 1e3 * y2 + 1e4 * 0.0 + 1e5 * x2
    assert psf.evaluate(terms, 2, x, y, shape)[1, 1] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="order 1 needs"):
        psf.evaluate(terms, 1, x, y, shape)


@pytest.mark.realdata
def test_properimage_pair_gives_two_like_psfs_and_like_fluxes(realdata):
    widths, ratios = [], []
    for path in sorted((realdata / "properimage_eso085").glob("*.fit.gz")):
        image = fits.getdata(path).astype(np.float32)
        mask = np.zeros(image.shape, dtype=np.uint16)
        mesh, rms = measure_background(image, mask)
        sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
        noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(sub, 0)
        fwhm = estimate_fwhm(sub, noise, mask, 3.0)
        stars = measure_stars(sub, noise, mask, fwhm)
        measured = measure_psf(sub, noise, mask, stars, 63, fwhm)
        assert measured.n_stars > 80
        assert measured.fwhm_px == pytest.approx(2.8, rel=0.1)
        widths.append(measured.fwhm_px)
        fitted = fit_star_fluxes(sub, noise, mask, measured.terms[0], stars)
        ratios.append(fitted.flux[:100].sum() / stars.flux[:100].sum())
    assert widths[0] == pytest.approx(widths[1], rel=0.02)
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


@pytest.mark.realdata
def test_a_crowded_bulge_field_gives_its_sky_its_stars_and_its_psf(realdata):
    path = realdata / "saao_iband_series" / "images" / "AKB13475I0008.fits.gz"
    image = 1.9 * fits.getdata(path).astype(np.float32)
    mask = np.where(image > 1.9 * 60000, int(Flag.SATURATED), 0).astype(np.uint16)
    mesh, rms = measure_background(image, mask)
    assert np.median(rms) == pytest.approx(
        np.sqrt(np.median(mesh) + 25), rel=0.15
    )  # sky photons and 5 e read noise
    sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
    noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(sub, 0)
    fwhm = estimate_fwhm(sub, noise, mask, 3.0)
    stars = measure_stars(sub, noise, mask, fwhm)
    measured = measure_psf(sub, noise, mask, stars, 63, fwhm)
    assert len(stars) > 600
    assert measured.n_stars > 50
    assert measured.fwhm_px == pytest.approx(fwhm, rel=0.03)
    clean = stars.flags == 0
    fitted = fit_star_fluxes(sub, noise, mask, measured.terms[0], stars)
    assert np.median(np.sort(fitted.flux)[-50:] / np.sort(stars.flux)[-50:]) == pytest.approx(1, abs=0.1)
    assert clean.sum() > 200
