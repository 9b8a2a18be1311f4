import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.flags import Flag, StarFlag
from astrid_dist.imaging import psf
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.stars import StarList, estimate_fwhm, measure_stars
from tests.starfield import Optics
from tests.starfield import paint as paint_field


def measured(field, fwhm, box=63, **more):
    stars = measure_stars(field.image, field.variance, field.mask, fwhm)
    return measure_psf(field.image, field.variance, field.mask, stars, box, fwhm, **more)


def shape_errors(found, optics, shape, moves=((0.0, 0.0),)):
    """Rms error in the core, parts of the peak, at nine places of the field and some sub-pixel moves."""
    box = (found.terms.shape[1] - 1) // found.oversampling + 1
    core = psf.radius_of(box) < optics.fwhm
    errors = []
    for y in np.linspace(0, shape[0] - 1, 3).round():
        for x in np.linspace(0, shape[1] - 1, 3).round():
            for dx, dy in moves:
                model = psf.profiles(found.terms, found.order, found.oversampling, [x + dx], [y + dy], shape)[
                    0, 0
                ].astype(float)
                truth = optics.stamp(x, y, shape, dx, dy, box // 2)
                # Light beyond the taper is not in the model, whose sum is 1.
                model *= (model * truth)[core].sum() / (model**2)[core].sum()
                errors.append(np.sqrt(np.mean((model - truth)[core] ** 2)) / truth.max())
    return np.array(errors)


def test_a_psf_that_grows_and_turns_over_the_field_is_recovered_to_a_percent():
    optics, shape = Optics(3.5, growth=0.2, axis_ratio=1.12, turn=np.pi / 3), (900, 900)
    field = paint_field(optics, shape, flux=(2e4, 4e5))
    found = measured(field, 3.5, order=2)
    assert not found.fallback
    assert found.reason == ""
    assert found.n_stars > 100
    assert found.chi2 == pytest.approx(1, abs=0.1)
    assert found.fwhm_px == pytest.approx(3.5, rel=0.01)
    assert found.elongation == pytest.approx(1.12, abs=0.02)
    assert shape_errors(found, optics, shape).max() < 0.01
    for x, y in ((0, 0), (899, 0), (450, 450), (0, 899), (899, 899)):
        stamp = psf.evaluate(found.terms, 2, x, y, shape)
        assert stamp.sum() == pytest.approx(1, abs=1e-5)
        assert np.hypot(*psf.centroid(stamp, 3.5)) < 0.01
    constant = measured(field, 3.5)
    assert shape_errors(constant, optics, shape).max() > 0.02
    assert constant.chi2 > 2 * found.chi2
    tiles = found.chi2_map(shape, 300)
    assert np.nanmedian(tiles) == pytest.approx(1, abs=0.2)
    assert np.abs(found.residual).max() < 0.001


def test_the_order_is_lowered_where_stars_do_not_support_it_and_says_why():
    shape = (600, 600)
    steady = measured(paint_field(Optics(3.0), shape, 150), 3.0, order=2)
    assert "held-out stars" in steady.reason
    assert steady.terms.shape[0] == psf.n_terms(2)
    assert not steady.terms[1:].any()
    changing = Optics(3.0, growth=0.3)
    few = measured(paint_field(changing, shape, 32, (3e4, 2e5)), 3.0, order=2)
    assert "order 2 needs 36" in few.reason
    assert few.terms[1:3].any()
    assert not few.terms[3:].any()
    half = measured(paint_field(changing, shape, 90, (3e4, 2e5), extent=(0.0, 0.4)), 3.0, order=2)
    assert "parts of the field" in half.reason
    assert not half.terms[3:].any()


def test_an_undersampled_psf_is_rendered_to_a_percent_at_any_sub_pixel_place():
    optics, shape = Optics(1.4, pixel=5), (700, 700)  # 1.6 px as the pixels see it
    field = paint_field(optics, shape, 300, (2e4, 3e5), half=15)
    moves = [(0, 0), (0.49, 0.49), (-0.3, 0.2), (0.25, -0.25), (0.1, 0.45)]
    fine = measured(field, 1.65, 31, oversampling=2)
    assert fine.terms.shape == (1, 61, 61)
    assert fine.fwhm_px == pytest.approx(1.62, rel=0.03)
    assert shape_errors(fine, optics, shape, moves).max() < 0.005
    coarse = measured(field, 1.65, 31)
    assert shape_errors(coarse, optics, shape, moves).max() > 0.01
    for dx, dy in moves:
        made = psf.profiles(fine.terms, 0, 2, [100 + dx], [100 + dy], shape)[0, 0]
        truth = optics.stamp(100, 100, shape, dx, dy, 15)
        assert np.abs(made / made.sum() - truth / truth.sum()).max() < 0.01 * truth.max()
        assert made.sum() == pytest.approx(1, abs=0.005)


def test_neighbours_do_not_enter_the_psf_of_a_crowded_field():
    optics, shape = Optics(4.0, axis_ratio=1.1), (400, 400)
    field = paint_field(optics, shape, 500, (2e3, 3e5))
    found = measured(field, 4.0)
    assert found.n_stars > 30
    assert found.chi2 < 1.5
    assert shape_errors(found, optics, shape).max() < 0.01


def test_trailed_stars_keep_their_shape():
    optics, shape = Optics(4.0, axis_ratio=2.0), (600, 600)
    found = measured(paint_field(optics, shape, 120, (3e4, 3e5)), 4.0)
    assert found.elongation == pytest.approx(2.0, rel=0.03)
    assert found.chi2 == pytest.approx(1, abs=0.2)
    assert shape_errors(found, optics, shape).max() < 0.005


def test_three_stars_give_an_elliptical_moffat_and_none_a_round_one():
    optics, shape = Optics(3.5, axis_ratio=1.3), (150, 150)
    field = paint_field(optics, shape, 3, (1e5, 2e5), seed=3)
    found = measured(field, 3.5, order=1)
    assert found.fallback
    assert "usable stars, 8 needed: a Moffat fitted to them" in found.reason
    assert found.elongation == pytest.approx(1.3, abs=0.03)
    assert not found.terms[1:].any()
    assert shape_errors(found, optics, shape).max() < 0.01
    assert found.chi2 == pytest.approx(1, abs=0.5)
    empty = np.zeros(0)
    none = StarList(empty, empty, *np.zeros((2, 0), np.float32), np.zeros(0, np.uint16), 3.5)
    blind = measure_psf(field.image, field.variance, field.mask, none, 63, 3.5, order=1, oversampling=2)
    assert blind.fallback
    assert "no usable star" in blind.reason
    assert shape_errors(blind, Optics(3.5), shape).max() < 0.02
    assert np.isnan(blind.chi2_map(shape, 50)).all()


def test_hot_pixels_listed_as_stars_do_not_make_a_psf():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 10, (300, 300)).astype(np.float32)
    y, x = np.mgrid[20:300:40, 20:300:40].reshape(2, -1)
    image[y, x] += rng.uniform(1e4, 2e4, len(x))
    flux, flags = np.full(len(x), 1.5e4, np.float32), np.zeros(len(x), np.uint16)
    hot = StarList(x.astype(float), y.astype(float), flux, flux / 100, flags, 4.0)
    found = measure_psf(image, np.full_like(image, 100), np.zeros(image.shape, np.uint16), hot, 63, 4.0)
    assert found.fallback
    assert "no profile in common: a round Moffat" in found.reason
    assert np.array_equal(found.terms[0], psf.moffat(4.0, 63))


def test_flagged_stars_are_left_out():
    field = paint_field(Optics(3.5), (500, 500), 60, (2e4, 2e5))
    stars = measure_stars(field.image, field.variance, field.mask, 3.5)
    stars.flags[5:] |= StarFlag.EXTENDED.value
    found = measure_psf(field.image, field.variance, field.mask, stars, 63, 3.5)
    assert found.fallback
    assert found.n_stars <= 5


@pytest.mark.parametrize(("fwhm", "beta"), [(2.2, 3.0), (4.0, 2.5), (4.0, 4.5), (8.5, 3.0)])
def test_measured_psf_is_the_one_that_was_painted(paint, fwhm, beta):
    field = paint(fwhm, beta=beta, spacing=55, n=8, faint=2e4, bright=4e5)
    stars = measure_stars(field.image, field.variance, field.mask, fwhm)
    found = measure_psf(field.image, field.variance, field.mask, stars, 63, fwhm)
    truth = psf.moffat(fwhm, 63, beta).astype(float)
    stamp = found.terms[0].astype(float)

    assert not found.fallback
    assert found.n_stars >= 30
    assert found.fwhm_px == pytest.approx(fwhm, rel=0.015)
    assert np.abs(stamp - truth).max() < 0.025 * truth.max()
    assert stamp.sum() == pytest.approx(1, abs=1e-5)
    assert np.hypot(*psf.centroid(stamp, fwhm)) < 0.02
    assert 0.5 < found.chi2 < 1.5


def test_below_eight_stars_it_is_a_moffat_and_says_so(paint):
    field = paint(3.0, n=2)
    stars = measure_stars(field.image, field.variance, field.mask, 3.0)
    found = measure_psf(field.image, field.variance, field.mask, stars, 31, 3.0)
    assert found.fallback
    assert found.n_stars <= 4
    assert "4 usable stars, 8 needed" in found.reason
    truth = psf.moffat(3.0, 31, 3.0)
    assert np.abs(found.terms[0] - truth).max() < 0.02 * truth.max()


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
        found = measure_psf(sub, noise, mask, stars, 63, fwhm)
        assert found.n_stars > 80
        assert found.fwhm_px == pytest.approx(2.8, rel=0.1)
        widths.append(found.fwhm_px)
        fitted = fit_star_fluxes(sub, noise, mask, found.terms[0], stars)
        ratios.append(fitted.flux[:100].sum() / stars.flux[:100].sum())
    assert widths[0] == pytest.approx(widths[1], rel=0.02)
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


def saao(path):
    """Frame less its sky, variance and mask of a frame of the SAAO series."""
    image = 1.9 * fits.getdata(path).astype(np.float32)
    mask = np.where(image > 1.9 * 60000, int(Flag.SATURATED), 0).astype(np.uint16)
    mesh, rms = measure_background(image, mask)
    # sky photons and 5 e read noise
    assert np.median(rms) == pytest.approx(np.sqrt(np.median(mesh) + 25), rel=1.0)
    sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
    return sub, evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(sub, 0), mask


@pytest.mark.realdata
def test_a_crowded_bulge_field_gives_its_stars_and_its_psf(realdata):
    sub, noise, mask = saao(realdata / "saao_iband_series" / "images" / "AKB13475I0171.fits.gz")
    fwhm = estimate_fwhm(sub, noise, mask, 3.0)
    stars = measure_stars(sub, noise, mask, fwhm)
    found = measure_psf(sub, noise, mask, stars, 63, fwhm)
    assert len(stars) > 600
    assert (stars.flags == 0).sum() > 200
    assert found.n_stars > 50
    assert found.fwhm_px == pytest.approx(fwhm, rel=0.05)
    assert found.chi2 < 1.5
    assert np.abs(found.residual).max() < 5e-4
    fitted = fit_star_fluxes(sub, noise, mask, found.terms, stars)
    assert np.median(np.sort(fitted.flux)[-50:] / np.sort(stars.flux)[-50:]) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.realdata
def test_every_frame_of_the_bulge_series_has_a_psf_that_fits_its_stars(realdata):
    frames = sorted((realdata / "saao_iband_series" / "images").glob("*.fits.gz"))
    assert len(frames) == 6
    elongations = []
    for path in frames:
        sub, noise, mask = saao(path)
        fwhm = estimate_fwhm(sub, noise, mask, 3.0)
        stars = measure_stars(sub, noise, mask, fwhm)
        found = measure_psf(sub, noise, mask, stars, 63, fwhm, order=2)
        assert not found.fallback
        assert found.n_stars > 80
        assert 0.7 < found.chi2 < 1.6
        assert np.abs(found.residual).max() < 5e-4
        elongations.append(found.elongation)
    assert elongations[4] == pytest.approx(2.05, abs=0.1)  # the telescope moved
    assert max(elongations[:4]) < 1.4


@pytest.mark.realdata
def test_decam_cut_outs_of_few_stars_give_moffats_that_fit_them(realdata):
    frames = sorted((realdata / "decam_epochs").rglob("*_ooi_*.N*.fits.gz"))
    assert len(frames) == 5
    for path in frames:
        image, header = 3.9 * fits.getdata(path, 1).astype(np.float32), fits.getheader(path, 1)
        quality = fits.getdata(path.with_name(path.name.replace("ooi", "ood")), 1)
        mask = np.where(quality != 0, int(Flag.BAD), 0).astype(np.uint16)
        mesh, rms = measure_background(image, mask)
        sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
        noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(sub, 0)
        stars = measure_stars(sub, noise, mask, header["FWHM"])
        found = measure_psf(sub, noise, mask, stars, 63, header["FWHM"], order=1)
        assert found.fallback
        assert "usable stars, 8 needed" in found.reason
        assert found.fwhm_px == pytest.approx(header["FWHM"], rel=0.12)
        assert found.elongation < 1.25
        assert found.chi2 < 2.5
        assert np.abs(found.residual).max() < 0.004
