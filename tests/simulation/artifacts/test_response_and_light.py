"""Flat fields, sky, ghosts, clouds, and charge that moves."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.light import Ghost, SkyResidual
from astrid_dist.simulation.artifacts.response import Cloud, FlatFieldResidual
from astrid_dist.simulation.artifacts.transport import ChargeTransport, trail_charge
from astrid_dist.simulation.canvas import Canvas, Star
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(17)
HALF = np.full(12, 0.5)


def test_a_wrong_flat_changes_sky_and_stars_alike():
    view = make_view((201, 201), stars=((100.0, 100.0, 1e6),), sky=1000.0)
    flat = FlatFieldResidual(least_unevenness=0, most_unevenness=0, ring_share=0.0)
    canvas = Canvas.empty(*view.shape)
    put = flat(canvas, view, 100, 100, HALF, KEY, 1)
    share = canvas.science / (view.science + view.sky)
    v, u = np.mgrid[:201, :201] - 100
    expected = put.parameters["depth"] * np.exp(-0.5 * (u**2 + v**2) / put.parameters["radius_px"] ** 2)
    near = np.hypot(u, v) < 3.9 * put.parameters["radius_px"]
    np.testing.assert_allclose(share[near], expected[near], rtol=1e-3, atol=1e-6)
    assert abs(put.parameters["depth"]) == pytest.approx(math.sqrt(0.003 * 0.03))


def test_pixels_of_a_flat_are_uneven_by_a_share_of_the_light():
    view = make_view((201, 201), stars=(), sky=1000.0)
    canvas = Canvas.empty(*view.shape)
    flat = replace(FlatFieldResidual(), least_depth=1e-9, most_depth=2e-9)
    put = flat(canvas, view, 100, 100, np.array([0.5, 0.5, 0.999, 0.9, 0.5]), KEY, 1)
    middle = canvas.science[90:111, 90:111] / view.sky
    assert middle.std() == pytest.approx(put.parameters["unevenness"], rel=0.1)
    assert abs(middle.mean()) < 5 * middle.std() / 21


def test_a_gradient_of_the_sky_is_a_share_of_it_over_its_length():
    view = make_view((101, 301), stars=(), sky=2000.0)
    only = SkyResidual(fringe_share=0.0, curvature=0.0)
    canvas = Canvas.empty(*view.shape)
    draws = np.array([1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    put = only(canvas, view, 150, 50, draws, KEY, 1)
    assert put.parameters["slope_per_px"] == pytest.approx(0.05 * 2000 / 1000)
    np.testing.assert_allclose(canvas.science[50], 0.1 * (np.arange(301) - 150), atol=1e-4)


def test_fringes_have_their_amplitude_and_wavelength():
    view = make_view((301, 301), stars=(), sky=2000.0)
    only = SkyResidual(gradient=0.0, curvature=0.0, fringe_share=1.0)
    canvas = Canvas.empty(*view.shape)
    put = only(canvas, view, 150, 150, HALF * 0.5, KEY, 1)
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
    put = only(canvas, view, 400.0, 300.0, np.array([0.5, 0.5, 1e-9]), KEY, 1, star)
    assert put.flux == pytest.approx(1e-4 * 1e9, rel=1e-6)
    assert canvas.science.sum() == pytest.approx(put.flux, rel=0.02)
    assert (put.parameters["middle_x"], put.parameters["middle_y"]) == pytest.approx((300, 300), abs=1e-3)
    level = put.parameters["level_electrons"]
    assert canvas.science[280:321, 365:390].mean() == pytest.approx(level, rel=0.1)
    assert not canvas.science[295:306, 295:306].any()
    assert not canvas.science[:, 420:].any()
    rim = canvas.science[290:311].mean(axis=0)
    assert rim[400] == pytest.approx(0.5 * level, rel=0.3)


def test_a_cloud_takes_its_share_of_every_source_and_leaves_the_noise_of_the_sky():
    view = make_view((201, 201), stars=((60.0, 60.0, 3e5), (140.0, 150.0, 2e5)), noise=True)
    canvas = Canvas.empty(*view.shape)
    put = Cloud(structure=0.0)(canvas, view, 100, 100, HALF, KEY, 1)
    left = view.science + canvas.science
    for x, y in ((60, 60), (140, 150)):
        box = slice(y - 8, y + 9), slice(x - 8, x + 9)
        through = left[box].sum() / view.science[box].sum()
        assert through == pytest.approx(put.parameters["transparency"], abs=0.01)
    dark = left[:40, 100:]
    assert dark.std() == pytest.approx(view.sigma_n, rel=0.03)


def test_a_cloud_has_structure():
    view = make_view((301, 301), stars=())
    view = replace(view, science=np.full(view.shape, 1e5, np.float32))
    canvas = Canvas.empty(*view.shape)
    put = Cloud(shortest_px=100, longest_px=200)(canvas, view, 100, 100, np.linspace(0.3, 0.9, 11), KEY, 1)
    through = 1 + canvas.science.astype(float) / 1e5
    assert through.std() / through.mean() == pytest.approx(put.parameters["structure"], rel=0.5)


def test_deferred_charge_trails_and_is_kept():
    view = make_view((121, 81), stars=((40.0, 60.0, 1e5),))
    for direction in (1, -1):
        canvas = Canvas.empty(*view.shape)
        trail_charge(canvas, view, view.stars[0], 0.01, 4.0, direction)
        v = np.arange(121)[:, None] - 60
        assert abs(canvas.science.sum()) < 1e-3 * 1e3
        # what is deferred lies one e-fold behind, in the mean
        moved = (canvas.science * v).sum() / (0.01 * 1e5)
        assert moved == pytest.approx(direction / (1 - math.exp(-1 / 4)), rel=0.03)
        assert -canvas.science.min() == pytest.approx(0.01 * view.science.max(), rel=0.5)


def test_bright_stars_are_wider_and_faint_ones_are_not():
    view = make_view(stars=((40.0, 40.0, 1e6), (20.0, 20.0, 1e3)))
    draws = np.array([0.1, 0.5, 0.5, 0.5, 0.5])
    growth = [
        ChargeTransport()(Canvas.empty(81, 81), view, s.x, s.y, draws, KEY, 1, s).parameters["growth"]
        for s in view.stars
    ]
    assert 0.005 < growth[0] < 0.03
    assert growth[1] == pytest.approx(growth[0] * 1e-3, rel=0.01)


def test_the_catalogue_describes_charge_transport_by_its_three_causes():
    view = make_view()
    names = set()
    for u in (0.1, 0.6, 0.9):
        draws = np.array([u, 0.7, 0.5, 0.5, 0.5])
        canvas = Canvas.empty(*view.shape)
        put = ARTIFACTS["charge transport"].put(canvas, view, 40, 40, draws, KEY, 1, view.stars[0])
        names |= set(put.parameters)
    assert {"growth", "deferred", "shift_px"} <= names
