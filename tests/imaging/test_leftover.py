"""Sky and lines that a pair leaves are taken out, and sources in and beside them keep their flux."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from astrid_dist.imaging.leftover import lines_left, measure_leftover, sky_left
from astrid_dist.imaging.psf import moffat

BOX, BETA = 31, 3.0


def test_sky_is_taken_out_and_sources_are_not() -> None:
    rng = np.random.default_rng(4)
    psf = moffat(4.0, BOX, BETA).astype(np.float64)
    y, x = np.mgrid[:384, :384]
    sky = 3 * np.sin(x / 40) + 0.01 * y
    noise = rng.normal(0, 10, sky.shape)
    planted = np.zeros(sky.shape)
    places = [(64, 64), (64, 208), (208, 64), (208, 208), (320, 320)]
    sigma_flux = np.full(sky.shape, 10 / np.sqrt(np.square(psf).sum()), np.float32)
    for row, column in places:
        planted[row - 15 : row + 16, column - 15 : column + 16] += 15 * sigma_flux[0, 0] * psf
    per_score = sigma_flux * np.float32(np.square(psf).sum())

    def left(image: NDArray[Any]) -> NDArray[np.float32]:
        spectrum = np.fft.rfft2(image) * np.conj(
            np.fft.rfft2(np.roll(_padded(psf, sky.shape), (-15, -15), (0, 1)))
        )
        score = np.fft.irfft2(spectrum, sky.shape) / (np.square(psf).sum() * sigma_flux)
        return sky_left(image.astype(np.float32), score.astype(np.float32), per_score, 4.0)

    quiet = left(noise + sky)
    assert np.std((quiet - sky)[16:-16, 16:-16]) < 0.6
    # A level b is a PSF flux of b / sum(P^2): what the sources lose to the sky.
    lost = (left(noise + sky + planted) - quiet) / np.square(psf).sum()
    for row, column in places:
        assert abs(lost[row, column]) < 0.02 * 15 * sigma_flux[0, 0]


def _padded(stamp: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    out = np.zeros(shape)
    out[: len(stamp), : len(stamp)] = stamp
    return out


def scored(image: NDArray[Any], psf: NDArray[Any], sigma_flux: NDArray[Any]) -> NDArray[np.float32]:
    """Matched filter of white noise, in its own standard deviations."""
    kernel = np.roll(_padded(psf, image.shape), (-(BOX // 2), -(BOX // 2)), (0, 1))
    flux = np.fft.irfft2(np.fft.rfft2(image) * np.conj(np.fft.rfft2(kernel)), image.shape)
    return (flux / np.square(psf).sum() / sigma_flux).astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
def test_trails_along_lines_go_and_a_source_in_one_keeps_its_flux(transposed: bool) -> None:
    rng = np.random.default_rng(5)
    psf = moffat(4.0, BOX, BETA)
    image = rng.normal(0, 10, (320, 320))
    sigma_flux = np.full(image.shape, 10 / np.sqrt(np.square(psf).sum()), np.float32)
    quiet = scored(image, psf, sigma_flux)
    flux = 12 * float(sigma_flux[0, 0])
    image[145:176, 185:216] += flux * psf
    image[159:162, 64:] += 15
    image[80, :] -= 12
    image = image.T if transposed else image
    score = scored(image, psf, sigma_flux)
    left = measure_leftover(image.astype(np.float32), score, sigma_flux, psf, 4.0)
    found = score - left.in_score(psf, sigma_flux)
    found = found.T if transposed else found
    assert np.std((found - quiet)[80, 40:280]) < 0.35
    # Levels run from part to part, so that the abrupt end of a trail is not followed.
    assert np.std((found - quiet)[160, 110:170]) < 0.35
    assert found[160, 200] == pytest.approx(12 + quiet[160, 200], abs=1.2)
    assert np.std((found - quiet)[200:280]) < 0.3
    again = scored(image - left.level, psf, sigma_flux)
    assert np.std(((again.T if transposed else again) - found)[20:-20, 20:-20]) < 0.1


def test_noise_and_sources_have_no_lines() -> None:
    rng = np.random.default_rng(6)
    image = rng.normal(0, 10, (320, 320)).astype(np.float32)
    image[100:131, 100:131] += 5e4 * moffat(4.0, BOX, BETA)
    image[200:240, 50:] = np.nan
    assert not lines_left(image).any()
    assert not lines_left(np.full((80, 90), np.nan, np.float32)).any()
