import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.simulation.render import (
    MoffatPsf,
    convolve,
    paint_galaxy,
    paint_points,
    paint_trail,
    sersic_gaussians,
)

PSF = MoffatPsf(3.0, 3.5, 0.04, -0.03)


def centroid(image):
    y, x = np.indices(image.shape)
    return (image * x).sum() / image.sum(), (image * y).sum() / image.sum()


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(60, 70),
    y=st.floats(60, 70),
    flux=st.sampled_from([50.0, 1e5, 1e7]),
    fwhm=st.floats(2.2, 5.0),
    e1=st.floats(-0.1, 0.1),
    beta=st.floats(3.0, 4.5),
)
def test_a_point_source_keeps_its_flux_and_its_place_at_any_subpixel_phase(x, y, flux, fwhm, e1, beta):
    image = np.zeros((131, 131))
    paint_points(image, x, y, flux, MoffatPsf(fwhm, beta, e1, 0.03))
    assert image.sum() == pytest.approx(flux, rel=3e-3 if beta < 3.2 else 1e-3)
    assert centroid(image) == pytest.approx((x, y), abs=0.02)


def test_the_half_maximum_lies_half_a_fwhm_from_the_centre():
    psf = MoffatPsf(3.4, 3.0)
    assert psf(1.7, 0.0) == pytest.approx(0.5 * psf(0.0, 0.0), rel=1e-12)


def test_positive_e1_stretches_along_x_and_positive_e2_along_the_diagonal():
    assert MoffatPsf(3.0, 3.5, 0.1)(2, 0) > MoffatPsf(3.0, 3.5, 0.1)(0, 2)
    assert MoffatPsf(3.0, 3.5, 0.0, 0.1)(1, 1) > MoffatPsf(3.0, 3.5, 0.0, 0.1)(1, -1)


def test_sources_painted_together_equal_sources_painted_alone_even_across_the_edge():
    x, y, flux = (
        np.array([3.2, 40.7, -4.0, 66.0]),
        np.array([5.1, 20.4, 9.9, 63.3]),
        np.array([1e3, 5e5, 2e4, 1e7]),
    )
    together, alone = np.zeros((64, 70)), np.zeros((64, 70))
    paint_points(together, x, y, flux, PSF)
    for one in zip(x, y, flux, strict=True):
        paint_points(alone, *one, PSF)
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-9)
    assert (together > 0).any()


@given(length=st.floats(0, 25), angle=st.floats(0, 6.28))
@settings(max_examples=15, deadline=None)
def test_a_trail_keeps_its_flux_and_is_as_long_as_it_says(length, angle):
    image = np.zeros((141, 141))
    paint_trail(image, 70.3, 69.8, 1e4, length, angle, PSF)
    assert image.sum() == pytest.approx(1e4, rel=1.5e-3)
    assert centroid(image) == pytest.approx((70.3, 69.8), abs=0.03)
    y, x = np.indices(image.shape)
    along = (x - 70.3) * np.cos(angle) + (y - 69.8) * np.sin(angle)
    point = np.zeros_like(image)
    paint_trail(point, 70.3, 69.8, 1e4, 0.0, angle, PSF)
    core = np.hypot(x - 70.3, y - 69.8) < 40  # a Moffat's second moment grows with the aperture
    extra = ((image - point) * along**2)[core].sum() / 1e4
    assert extra == pytest.approx(length**2 / 12, rel=0.05, abs=0.05)


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_the_sum_of_gaussians_follows_the_sersic_profile_and_holds_half_the_light_at_its_radius(index):
    fractions, sigmas = sersic_gaussians(index)
    radius = np.geomspace(0.1, 4, 50)
    mixture = (fractions * np.exp(-0.5 * (radius[:, None] / sigmas) ** 2) / (2 * np.pi * sigmas**2)).sum(
        axis=1
    )
    b = {1.0: 1.67835, 4.0: 7.66925}[index]
    sersic = np.exp(-b * (radius ** (1 / index) - 1))
    ratio = mixture / sersic
    assert np.ptp(ratio) / ratio.mean() < 0.12
    inside = (fractions * (1 - np.exp(-0.5 / sigmas**2))).sum()
    assert inside == pytest.approx(0.5, abs=0.05)


def test_a_galaxy_keeps_its_flux_through_the_psf_and_moves_by_part_of_a_pixel_without_change():
    images = []
    for shift in (0.0, 0.37):
        image = np.zeros((181, 181))
        paint_galaxy(image, 90 + shift, 90 - shift, 2e4, 2.5, 0.6, 0.7, 1.0)
        images.append(convolve(image, PSF))
        assert images[-1].sum() == pytest.approx(2e4, rel=2e-3)
    # the moved galaxy is the resting one, shifted in Fourier space: no aliasing, so no false dipole
    fy, fx = np.fft.fftfreq(181)[:, None], np.fft.rfftfreq(181)[None]
    phase = np.exp(-2j * np.pi * (fx * 0.37 - fy * 0.37))
    moved = np.fft.irfft2(np.fft.rfft2(images[0]) * phase, s=(181, 181))
    assert np.abs(moved - images[1]).max() < 2e-3 * images[1].max()
