"""Galaxies of a template: found where they are, as large as they are, and no star among them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.galaxies import find_galaxies
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars
from astrid_dist.simulation.mock import build_scene, mean_image
from astrid_dist.simulation.render import MoffatPsf, convolve, paint_galaxy, paint_points
from astrid_dist.simulation.survey import DEMO, conditions

SIDE, FWHM, SIGMA = 512, 3.5, 10.0
RNG = np.random.default_rng(11)


def on_grid(n, jitter):
    """Places well apart from each other."""
    step = SIDE / np.ceil(np.sqrt(n))
    cells = np.stack(np.meshgrid(*2 * [np.arange(step / 2, SIDE, step)]), -1).reshape(-1, 2)
    return cells[RNG.permutation(len(cells))[:n]] + RNG.uniform(-jitter, jitter, (n, 2))


@pytest.fixture(scope="module")
def scene():
    """60 galaxies and 60 stars, none on another, with noise."""
    places = on_grid(120, 5.0)
    galaxies, stars = places[:60], places[60:]
    flux, radius = 10 ** RNG.uniform(4.3, 5.3, 60), RNG.uniform(2.5, 6.0, 60)
    ratio, angle = RNG.uniform(0.4, 1.0, 60), RNG.uniform(0, np.pi, 60)
    image = np.zeros((SIDE, SIDE))
    for k, (x, y) in enumerate(galaxies):
        paint_galaxy(image, x, y, flux[k], radius[k], ratio[k], angle[k], 1.0)
    psf = MoffatPsf(FWHM)
    image = convolve(image, psf)
    paint_points(image, *stars.T, 10 ** RNG.uniform(3.5, 6.0, 60), psf)
    image += RNG.normal(0, SIGMA, image.shape)
    return image.astype(np.float32), galaxies, stars, flux, radius, ratio, angle


def found_in(image, **kwargs):
    return find_galaxies(image, SIGMA, np.zeros(image.shape, np.uint16), FWHM, **kwargs)


@pytest.mark.parametrize("told", [True, False])
def test_galaxies_are_found_and_stars_are_not(scene, told):
    image, galaxies, stars, *_ = scene
    found = found_in(image, stars_xy=stars if told else None)
    places = np.column_stack([found.x, found.y])
    distance, _ = cKDTree(places).query(galaxies)
    assert (distance < 1.0).mean() > 0.9
    to_star, _ = cKDTree(stars).query(places)
    assert (to_star < 2 * FWHM).sum() <= (0 if told else 2)
    assert len(found) < 66
    assert (np.diff(found.flux) <= 0).all()


def test_their_light_and_shape_are_measured_without_the_psf(scene):
    image, galaxies, stars, flux, radius, ratio, angle = scene
    found = found_in(image, stars_xy=stars)
    distance, k = cKDTree(galaxies).query(np.column_stack([found.x, found.y]))
    same = distance < 1
    k = k[same]
    assert np.median(found.flux[same] / flux[k]) == pytest.approx(1, abs=0.06)
    # a circle with half the light of an ellipse of half-light axis a and ratio q has about a sqrt(q)
    assert np.median(found.r50[same] / (radius[k] * np.sqrt(ratio[k]))) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(found.r50[same], radius[k] * np.sqrt(ratio[k]))[0, 1] > 0.9
    elongated = ratio[k] < 0.7
    assert np.median(np.abs(found.b[same] / found.a[same] - ratio[k])) < 0.12
    turned = np.abs((found.theta[same] - angle[k] + np.pi / 2) % np.pi - np.pi / 2)
    assert np.median(turned[elongated]) < 0.1


def test_pairs_of_stars_are_seldom_taken_for_galaxies():
    """A field as dense as 450 stars with r < 21.5 per megapixel, to magnitude 24."""
    survey = replace(DEMO, seed=2)
    sky = build_scene(survey, 0)
    state = conditions(survey, 0, "r", 0)
    image = mean_image(survey, sky, 0, "r", 0) - state.sky
    sigma = np.sqrt(state.sky + survey.read_noise**2) / 2  # four epochs
    image += RNG.normal(0, 1, image.shape) * np.sqrt(np.maximum(image, 0) / 4 + sigma**2)
    image, mask = image.astype(np.float32), np.zeros(image.shape, np.uint16)
    stars = measure_stars(image, np.full_like(image, sigma**2), mask, state.psf.fwhm_px)
    point = np.column_stack([stars.x, stars.y])[stars.flags == 0]
    found = find_galaxies(image, float(sigma), mask, state.psf.fwhm_px, point)
    true = cKDTree(np.column_stack([sky.galaxies.x, sky.galaxies.y]))
    distance, _ = true.query(np.column_stack([found.x, found.y]))
    assert len(found) > 8
    assert np.mean(distance < 1.5) > 0.75


def test_masked_and_missing_pixels_hold_no_galaxy(scene):
    image, _, stars, *_ = scene
    mask = np.zeros(image.shape, np.uint16)
    mask[:, :256] = int(Flag.SATURATED)
    image = image.copy()
    image[256:] = np.nan
    found = find_galaxies(image, np.full(image.shape, SIGMA, np.float32), mask, FWHM, stars)
    assert len(found) > 5
    assert (found.x > 256).all()
    assert (found.y < 256).all()


def test_pieces_of_a_bright_star_are_no_galaxies():
    image = np.zeros((256, 256))
    paint_points(image, [128.3], [127.8], [3e7], MoffatPsf(FWHM))
    y, x = np.indices(image.shape)
    image *= 1 + 0.3 * np.cos(5 * np.arctan2(y - 128, x - 128))  # spikes that no PSF describes
    image += RNG.normal(0, SIGMA, image.shape)
    found = found_in(image.astype(np.float32), stars_xy=[[128.3, 127.8]])
    assert len(found) <= 2


def test_nothing_is_found_in_noise_and_nonsense_is_refused():
    noise = RNG.normal(0, SIGMA, (200, 200)).astype(np.float32)
    assert len(found_in(noise)) == 0
    with pytest.raises(InputError, match="FWHM 0"):
        find_galaxies(noise, SIGMA, np.zeros(noise.shape, np.uint16), 0.0)


def test_a_real_frame_has_galaxies_that_are_broader_than_its_stars(realdata):
    from astropy.io import fits

    path = realdata / "sfft_decam_obs04_obs18/input_data/DEC-OBS04b.mini.fits.gz"
    if not path.is_file():
        pytest.skip(f"no frame {path}")
    image = fits.getdata(path).astype(np.float32) * np.float32(4)
    mask = np.zeros(image.shape, np.uint16)
    mesh, rms = measure_background(image, mask)
    image -= evaluate(mesh, 64, 0, 0, *image.shape)
    sigma = float(np.median(rms))
    variance = np.full_like(image, sigma**2)
    fwhm = estimate_fwhm(image, variance, mask, 4.0)
    stars = measure_stars(image, variance, mask, fwhm)
    point = np.column_stack([stars.x, stars.y])[stars.flags == 0]
    found = find_galaxies(image, sigma, mask, fwhm, point)
    assert 1 <= len(found) < 100
    y, x = np.indices(image.shape)

    def spread(u, v):
        """An independent measure: light at 1.2 to 2 FWHM over that within 0.5."""
        r = np.hypot(x - u, y - v) / fwhm
        return image[(r > 1.2) & (r < 2)].mean() / image[r < 0.5].mean()

    stellar = np.median([spread(*place) for place in point])
    assert np.mean([spread(u, v) > stellar for u, v in zip(found.x, found.y, strict=True)]) > 0.8
