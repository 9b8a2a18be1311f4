"""Flat fields and clouds."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.response import Cloud, FlatFieldResidual
from astrid_dist.simulation.canvas import Canvas
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(17)
HALF = np.full(12, 0.5)


def test_a_wrong_flat_changes_sky_and_stars_alike():
    view = make_view((201, 201), stars=((100.0, 100.0, 1e6),), sky=1000.0)
    flat = FlatFieldResidual(least_unevenness=0, most_unevenness=0, ring_share=0.0)
    canvas = Canvas.empty(*view.shape)
    put = flat(canvas, view, Site(100, 100, HALF, KEY, 1))
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
    put = flat(canvas, view, Site(100, 100, np.array([0.5, 0.5, 0.999, 0.9, 0.5]), KEY, 1))
    middle = canvas.science[90:111, 90:111] / view.sky
    assert middle.std() == pytest.approx(put.parameters["unevenness"], rel=0.1)
    assert abs(middle.mean()) < 5 * middle.std() / 21


def test_a_cloud_takes_its_share_of_every_source_and_leaves_the_noise_of_the_sky():
    view = make_view((201, 201), stars=((60.0, 60.0, 3e5), (140.0, 150.0, 2e5)), noise=True)
    canvas = Canvas.empty(*view.shape)
    put = Cloud(structure=0.0)(canvas, view, Site(100, 100, HALF, KEY, 1))
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
    put = Cloud(shortest_px=100, longest_px=200)(
        canvas, view, Site(100, 100, np.linspace(0.3, 0.9, 11), KEY, 1)
    )
    through = 1 + canvas.science.astype(float) / 1e5
    assert through.std() / through.mean() == pytest.approx(put.parameters["structure"], rel=0.5)
