"""Charge that moves."""

import math

import numpy as np
import pytest

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.transport import ChargeTransport, trail_charge
from astrid_dist.simulation.canvas import Canvas
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(17)
HALF = np.full(12, 0.5)


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
        ChargeTransport()(Canvas.empty(81, 81), view, Site(s.x, s.y, draws, KEY, 1, s)).parameters["growth"]
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
        put = ARTIFACTS["charge transport"].put(canvas, view, Site(40, 40, draws, KEY, 1, view.stars[0]))
        names |= set(put.parameters)
    assert {"growth", "deferred", "shift_px"} <= names
