import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.phase_offset import phase_offset
from astrid_dist.imaging.registration import match_stars, measure_offset
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars

SIZE = 256


def galaxies(seed, shift=(0.0, 0.0), *, fwhm=3.0, gain=1.0, sky=300.0, noise_seed=0, n=20):
    """A sky-subtracted frame of stars and round and flat galaxies of one seed, all moved by the shift."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    truth = np.zeros((SIZE, SIZE))
    for _ in range(n):
        x, y = rng.uniform(0, SIZE, 2) + shift
        flux, size = gain * np.exp(rng.uniform(np.log(300), np.log(2e4))), rng.uniform(0, 3)
        major, minor = np.hypot([size, size * rng.uniform(0.5, 1)], fwhm / 2.3548)
        angle = rng.uniform(0, np.pi)
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        shape = np.exp(-0.5 * (along**2 / major**2 + across**2 / minor**2))
        truth += flux * shape / (2 * np.pi * major * minor)
    noise = np.random.default_rng(noise_seed).normal(size=truth.shape)
    return truth + np.sqrt(truth + sky) * noise


def test_offsets_of_painted_galaxies_are_found_within_their_errors():
    pulls = []
    for seed in range(8):
        shift = np.random.default_rng(seed).uniform(-1.5, 1.5, 2)
        new = galaxies(seed, shift, fwhm=4.0, gain=1.4, noise_seed=seed + 100)
        ref = galaxies(seed, fwhm=2.8, sky=100.0, noise_seed=seed + 200)
        found = phase_offset(new, ref, (4.0, 2.8))
        assert found.n >= 3
        assert max(found.dx_err, found.dy_err) < 0.15
        pulls += [(found.dx - shift[0]) / found.dx_err, (found.dy - shift[1]) / found.dy_err]
    assert 0.5 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.8


def test_holes_fixed_to_the_pixels_do_not_pull_the_offset_to_zero():
    left = []
    for seed in range(4):
        new = galaxies(seed, (1.2, -0.8), noise_seed=seed + 100, n=40)
        ref = galaxies(seed, noise_seed=seed + 200, n=40)
        for image in (new, ref):
            image[:, 225:] = np.nan
            image[60:90, 40:170] = np.nan
        found = phase_offset(new, ref, (3.0, 3.0))
        left += [found.dx - 1.2, found.dy + 0.8]
    assert abs(np.mean(left[::2])) < 0.04
    assert abs(np.mean(left[1::2])) < 0.04


def test_one_bright_star_that_moved_does_not_speak_for_all():
    new, ref = galaxies(3, noise_seed=1, n=40), galaxies(3, noise_seed=2, n=40)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, x in ((new, 100.9), (ref, 100.0)):
        image += 3e4 * np.exp(-0.5 * ((columns - x) ** 2 + (rows - 128) ** 2) / 1.3**2)
    found = phase_offset(new, ref, (3.0, 3.0))
    assert abs(found.dx) < min(3 * found.dx_err, 0.3)


@pytest.mark.parametrize("correlated_px", [0.0, 1.0])
def test_noise_has_no_offset(correlated_px):
    rng = np.random.default_rng(5)
    for _ in range(10):
        new, ref = (ndimage.gaussian_filter(one, correlated_px) for one in rng.normal(size=(2, SIZE, SIZE)))
        assert np.isnan(phase_offset(new, ref, (3.0, 3.0)).dx)


def test_fields_that_share_nothing_have_no_offset():
    frames = [galaxies(seed, noise_seed=seed) for seed in range(6)]
    for i, new in enumerate(frames):
        for ref in frames[:i]:
            assert np.isnan(phase_offset(new, ref, (3.0, 3.0)).dx)
    assert phase_offset(frames[0], frames[0], (3.0, 3.0)).dx == pytest.approx(0, abs=0.03)


def test_an_offset_beyond_the_radius_and_empty_frames_have_none():
    new, ref = galaxies(1, (2.0, 0.0), noise_seed=1), galaxies(1, noise_seed=2)
    assert phase_offset(new, ref, (3.0, 3.0)).dx == pytest.approx(2.0, abs=0.2)
    assert np.isnan(phase_offset(new, ref, (3.0, 3.0), radius_px=1.0).dx)
    assert np.isnan(phase_offset(np.full_like(ref, np.nan), ref, (3.0, 3.0)).dx)
    assert np.isnan(phase_offset(np.zeros_like(ref), ref, (3.0, 3.0)).dx)


@pytest.mark.realdata
def test_decam_frames_agree_with_their_stars(realdata):
    frames = {}
    for path in sorted((realdata / "sfft_decam_obs04_obs18/input_data").glob("*mini*")):
        image = fits.getdata(path).astype(np.float32)
        mask = np.zeros(image.shape, np.uint16)
        mesh, rms = measure_background(image, mask)
        image -= evaluate(mesh, 64, 0, 0, *image.shape)
        noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(image, 0) / 3
        fwhm = estimate_fwhm(image, noise, mask, 4.0)
        frames[path.name] = image, measure_stars(image, noise, mask, fwhm), fwhm
    (ref, stars_r, fwhm_r), *others = (
        frames[f"DEC-OBS{name}.mini.fits.gz"] for name in ("18a", "18c", "04a")
    )
    for new, stars_n, fwhm_n in others:
        found = phase_offset(new, ref, (fwhm_n, fwhm_r))
        stars = measure_offset(stars_n, stars_r, *match_stars(stars_n, stars_r, 3.0))
        assert abs(found.dx - stars.dx) < 3 * np.hypot(found.dx_err, stars.dx_err)
        assert abs(found.dy - stars.dy) < 3 * np.hypot(found.dy_err, stars.dy_err)
        assert max(found.dx_err, found.dy_err) < 0.12
