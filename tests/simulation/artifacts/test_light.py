"""What is left of the sky, and ghosts."""

import math

import numpy as np
import pytest

from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.light import Ghost, SkyResidual
from astrid_dist.simulation.canvas import Canvas, Star
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(17)
HALF = np.full(12, 0.5)


def test_a_gradient_of_the_sky_is_a_share_of_it_over_its_length():
    view = make_view((101, 301), stars=(), sky=2000.0)
    only = SkyResidual(fringe_share=0.0, curvature=0.0)
    canvas = Canvas.empty(*view.shape)
    draws = np.array([1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    put = only(canvas, view, Site(150, 50, draws, KEY, 1))
    assert put.parameters["slope_per_px"] == pytest.approx(0.05 * 2000 / 1000)
    np.testing.assert_allclose(canvas.science[50], 0.1 * (np.arange(301) - 150), atol=1e-4)


def test_fringes_have_their_amplitude_and_wavelength():
    view = make_view((301, 301), stars=(), sky=2000.0)
    only = SkyResidual(gradient=0.0, curvature=0.0, fringe_share=1.0)
    canvas = Canvas.empty(*view.shape)
    put = only(canvas, view, Site(150, 150, HALF * 0.5, KEY, 1))
    ripple, wave = put.parameters["fringe_electrons"], put.parameters["fringe_px"]
    assert 0.003 * 2000 < ripple < 0.03 * 2000
    assert canvas.science.std() == pytest.approx(ripple / math.sqrt(2), rel=0.1)
    power = np.abs(np.fft.fft2(canvas.science)) ** 2
    ky, kx = np.meshgrid(np.fft.fftfreq(301), np.fft.fftfreq(301), indexing="ij")
    mean = (power * np.hypot(kx, ky)).sum() / power.sum()
    assert 0.7 / wave < mean < 1.7 / wave


def test_a_ghost_has_its_share_of_the_star_and_its_rim_at_the_place():
    view = make_view((601, 601), stars=())
    canvas = Canvas.empty(*view.shape)
    only = Ghost(smallest_px=100, largest_px=100)
    star = Star(-500.0, -500.0, 1e9)
    put = only(canvas, view, Site(400.0, 300.0, np.array([0.5, 0.5, 1e-9]), KEY, 1, star))
    assert put.flux == pytest.approx(1e-4 * 1e9, rel=1e-6)
    assert canvas.science.sum() == pytest.approx(put.flux, rel=0.02)
    assert (put.parameters["middle_x"], put.parameters["middle_y"]) == pytest.approx((300, 300), abs=1e-3)
    level = put.parameters["level_electrons"]
    assert canvas.science[280:321, 365:390].mean() == pytest.approx(level, rel=0.1)
    assert not canvas.science[295:306, 295:306].any()
    assert not canvas.science[:, 420:].any()
    rim = canvas.science[290:311].mean(axis=0)
    assert rim[400] == pytest.approx(0.5 * level, rel=0.3)
