import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from astrid_dist.flags import Flag, StarFlag
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars


def matched(field, stars, radius=1.0):
    distance, index = cKDTree(np.column_stack([field.x, field.y])).query(np.column_stack([stars.x, stars.y]))
    found = distance < radius
    return np.flatnonzero(found), index[found]


@pytest.mark.parametrize("fwhm", [2.0, 3.2, 5.5, 9.0])
@pytest.mark.parametrize("beta", [2.5, 4.5])
def test_fwhm_is_found_from_the_image_alone_whatever_the_guess(paint, fwhm, beta):
    field = paint(fwhm, beta=beta, spacing=55, n=7, faint=2e4, bright=4e5)
    for guess in (2.5, float("nan")):
        assert estimate_fwhm(field.image, field.variance, field.mask, guess) == pytest.approx(fwhm, rel=0.03)


def test_positions_and_errors_are_those_of_the_truth(paint):
    field = paint(3.5)
    stars = measure_stars(field.image, field.variance, field.mask, 3.5)
    i, j = matched(field, stars)
    assert len(i) > 90
    assert np.all(np.diff(stars.flux) <= 0)

    dx = np.concatenate([stars.x[i] - field.x[j], stars.y[i] - field.y[j]])
    bright = np.tile(stars.flux[i] > 200 * stars.flux_err[i], 2)
    assert np.sqrt(np.mean(dx[bright] ** 2)) < 0.02
    assert 0.7 < np.std(dx / np.tile(stars.position_err[i], 2)) < 1.3

    pull = (stars.flux[i] - field.flux[j]) / stars.flux_err[i]
    faint = stars.flux[i] < 50 * stars.flux_err[i]
    assert 0.7 < np.std(pull[faint]) < 1.3


@pytest.mark.parametrize("beta", [2.5, 3.5])
def test_flux_ratios_of_epochs_of_different_seeing_are_unbiased(paint, beta):
    sharp, blurred = (paint(f, beta=beta, spacing=55, n=8, faint=3e4, noise_seed=int(f)) for f in (2.2, 5.0))
    lists = [measure_stars(f.image, f.variance, f.mask, w) for f, w in ((sharp, 2.2), (blurred, 5.0))]
    ratios = []
    for field, stars in zip((sharp, blurred), lists, strict=True):
        i, j = matched(field, stars)
        ratios.append(np.median(stars.flux[i] / field.flux[j]))
    assert ratios[0] / ratios[1] == pytest.approx(1, abs=0.01)
    assert ratios[0] == pytest.approx(1, abs=0.05)  # what lies beyond three FWHM


def test_saturated_edge_blended_extended_and_sharp_are_told_apart(paint):
    field = paint(3.5, faint=5e4)
    image, mask, variance = field.image.copy(), field.mask.copy(), field.variance.copy()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]

    def middle(i):  # far from any painted star: the corner between four lattice cells
        return 45.0 * (i % 9 + 1), 45.0 * (i // 9 + 1)

    galaxy_x, galaxy_y = middle(0)
    galaxy = 600 * np.exp(-np.hypot(columns - galaxy_x, rows - galaxy_y) / 3.5)
    hit_x, hit_y = (int(p) for p in middle(4))
    image = (image + galaxy).astype(np.float32)
    image[hit_y : hit_y + 3, hit_x] += 15000
    variance = (variance + galaxy).astype(np.float32)
    brightest, other, edge_star = 12, 37, 55
    core = np.hypot(columns - field.x[brightest], rows - field.y[brightest]) < 2
    mask[core] = Flag.SATURATED
    cut = field.x[edge_star] - 2.0
    near = (columns < cut) & (columns > cut - 8) & (np.abs(rows - field.y[edge_star]) < 8)
    image[near] = np.nan
    neighbour = (
        5e4 * np.exp(-0.5 * np.hypot(columns - field.x[other] - 5, rows - field.y[other]) ** 2 / 1.5**2) / 14
    )
    image = (image + neighbour).astype(np.float32)

    stars = measure_stars(image, variance, mask, 3.5)

    def flags_at(x, y):
        distance = np.hypot(stars.x - x, stars.y - y)
        assert distance.min() < 3
        return StarFlag(int(stars.flags[distance.argmin()]))

    assert StarFlag.EXTENDED in flags_at(galaxy_x, galaxy_y)
    assert StarFlag.SHARP in flags_at(hit_x, hit_y + 1)
    assert StarFlag.SATURATED in flags_at(field.x[brightest], field.y[brightest])
    assert StarFlag.BLENDED in flags_at(field.x[other], field.y[other])
    assert StarFlag.MASKED in flags_at(field.x[edge_star], field.y[edge_star])
    assert (stars.flags == 0).sum() > 85


def test_a_level_flags_what_reaches_it_and_the_limit_keeps_the_brightest(paint):
    field = paint(3.0)
    whole = measure_stars(field.image, field.variance, field.mask, 3.0, saturation=5000.0)
    peak = field.flux * 0.78 / 3.0**2
    i, j = matched(field, whole)
    saturated = (whole.flags[i] & StarFlag.SATURATED) != 0
    assert saturated[peak[j] > 6500].all()
    assert not saturated[peak[j] < 3500].any()
    few = measure_stars(field.image, field.variance, field.mask, 3.0, saturation=5000.0, limit=10)
    assert np.array_equal(few.flux, whole.flux[:10])


def test_big_endian_frames_and_frames_without_stars_are_measured():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 10, (200, 200)).astype(">f4")
    variance, mask = np.full(image.shape, 100, ">f4"), np.zeros(image.shape, ">u2")
    assert len(measure_stars(image, variance, mask, 3.0)) == 0
    assert estimate_fwhm(image, 100.0, mask, 3.3) == 3.3


@pytest.mark.realdata
def test_decam_fwhm_is_near_the_header_s(realdata):
    frames = sorted((realdata / "decam_epochs").rglob("*_ooi_*.N*.fits.gz"))
    assert len(frames) == 5
    for path in frames:
        image, header = fits.getdata(path, 1).astype(np.float32), fits.getheader(path, 1)
        quality = fits.getdata(path.with_name(path.name.replace("ooi", "ood")), 1)
        mask = np.where(quality != 0, int(Flag.BAD), 0).astype(np.uint16)
        mesh, rms = measure_background(image, mask)
        sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
        noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2
        assert estimate_fwhm(sub, noise, mask, 3.0) == pytest.approx(header["FWHM"], rel=0.1)
