"""Hot pixels, bad columns, dark current and edges."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.pixels import BadColumn
from astrid_dist.simulation.canvas import Canvas
from astrid_dist.simulation.philox import stream, uniforms
from tests.simulation.artifacts.views import difference, make_view

KEY = stream(5, "pixels")
HALF = np.full(8, 0.5)


def test_a_hot_pixel_is_positive_here_and_negative_where_the_dithered_template_has_it():
    view = make_view(stars=(), flux_ratio=2.0, sigma_r=5.0)
    canvas = Canvas.empty(*view.shape)
    draws = np.array([0.99, 1e-9, 0.8, 0.3, 0.5, 0.9])
    put = ARTIFACTS["hot pixel"].put(canvas, view, Site(40.2, 39.9, draws, KEY, 1))
    dx, dy = put.parameters["dx_px"], put.parameters["dy_px"]
    assert min(abs(dx), abs(dy)) >= 3
    assert np.count_nonzero(canvas.science) == 1
    assert canvas.science[40, 40] == pytest.approx(put.flux, abs=5 * math.sqrt(put.flux))
    # one epoch's template: as much charge, between four pixels
    assert np.count_nonzero(canvas.template) == 4
    assert canvas.template.sum() * 2 == pytest.approx(put.flux, abs=8 * math.sqrt(put.flux))
    score = difference(view, canvas).score
    assert score[40, 40] > 10
    assert np.unravel_index(score.argmin(), score.shape) == pytest.approx((40 + dy, 40 + dx), abs=2)
    assert score.min() < -10


def test_more_epochs_in_the_template_dilute_it():
    view = make_view(stars=())
    shares = []
    for u in (0.1, 0.5, 0.99):
        canvas = Canvas.empty(*view.shape)
        draws = np.array([0.9, u, 0.8, 0.3, 0.5, 0.9])
        put = ARTIFACTS["hot pixel"].put(canvas, view, Site(40, 40, draws, KEY, 1))
        shares.append(canvas.template.sum() / canvas.science.sum())
        assert shares[-1] == pytest.approx(put.parameters["template_share"], rel=0.2)
    assert shares[0] > shares[1] > shares[2] > 0.05


def test_columns_are_lost_shifted_or_faint_as_often_as_set():
    view = make_view()
    lost = faint = shifted = rows = 0
    draws = uniforms(KEY, np.arange(400), 6)
    for item in range(400):
        canvas = Canvas.empty(*view.shape)
        put = ARTIFACTS["bad column"].put(canvas, view, Site(40, 30, draws[item], KEY, item))
        changed = (canvas.science != 0) | np.isnan(canvas.science)
        if np.isnan(canvas.science).any():
            lost += 1
            assert ((canvas.mask & Flag.NO_DATA) > 0).sum() == changed.sum()
            rows += changed[:, 0].any()
        elif "response" in put.parameters:
            faint += 1
            whole = view.science + canvas.science + view.sky
            np.testing.assert_allclose(
                whole[changed], put.parameters["response"] * (view.science + view.sky)[changed], rtol=1e-4
            )
        else:
            shifted += 1
            assert canvas.science.sum() == pytest.approx(put.flux, rel=1e-4)
        if not changed[:, 0].any():
            assert np.ptp(np.nonzero(changed)[1]) + 1 == put.parameters["columns"]
            assert np.nonzero(changed)[0].min() in (0, 30)
    assert (lost, faint, shifted) == pytest.approx((120, 120, 160), abs=35)
    assert 5 < rows < 50


def test_what_is_lost_spoils_the_difference_as_far_as_the_kernel_reaches():
    view = make_view()
    canvas = Canvas.empty(*view.shape)
    BadColumn(lost_share=1.0, row_share=0.0, from_trap_share=0.0)(canvas, view, Site(40, 30, HALF, KEY, 1))
    made = difference(view, canvas)
    lost = np.flatnonzero(np.isnan(made.difference[5]))
    assert lost.min() < 40 - 2
    assert len(lost) <= 2 * made.kernel_radius_px + 9


@pytest.mark.parametrize(("x", "y"), [(75.0, 41.0), (4.0, 40.0), (42.0, 77.0), (39.0, 3.0)])
@pytest.mark.parametrize("oblique", [0.2, 0.9])
def test_data_end_on_the_outer_side(x, y, oblique):
    view = make_view()
    canvas = Canvas.empty(*view.shape)
    draws = np.array([oblique, 0.7, 0.9, 0.3, 0.8, 0.5])
    ARTIFACTS["edge"].put(canvas, view, Site(x, y, draws, KEY, 1))
    lost = np.isnan(canvas.science)
    assert 0 < lost.mean() < 0.4
    assert not lost[40, 40]
    outside = np.array([x, y]) - 40
    assert lost[round(40 + 1.05 * outside[1]), round(40 + 1.05 * outside[0])]
    assert not np.isnan(canvas.template).any()
    np.testing.assert_array_equal(lost, (canvas.mask & Flag.NO_DATA) > 0)
    # a step beside it, and no data farther in the difference
    assert np.isnan(difference(view, canvas).score).sum() > lost.sum()
    assert np.nanmax(canvas.science) > 2 * view.sigma_n


def test_data_of_the_template_end_too():
    view = make_view()
    canvas = Canvas.empty(*view.shape)
    draws = np.array([0.9, 0.7, 0.1, 0.3, 0.8, 0.5])
    ARTIFACTS["edge"].put(canvas, view, Site(75, 41, draws, KEY, 1))
    assert np.isnan(canvas.template[:, 77]).all()
    assert not np.isnan(canvas.science).any()
    assert (canvas.template_mask & Flag.EDGE).any()


def test_dark_current_is_poisson_noise_and_uneven():
    view = replace(make_view((401, 401), stars=()), exptime_s=100.0)
    sums, peak = [], 0.0
    for item in range(6):
        canvas = Canvas.empty(*view.shape)
        put = ARTIFACTS["dark current"].put(canvas, view, Site(200, 200, np.array([0.9, 0.8]), KEY, item))
        peak = put.parameters["peak_electrons"]
        sums.append(canvas.science.sum() / put.flux)
    assert np.mean(sums) == pytest.approx(1, abs=0.03)
    assert 100 < peak < 1000
    radius = np.hypot(*(np.mgrid[:401, :401] - 200))
    values = (canvas.science * np.exp(radius / put.parameters["scale_px"]))[radius < 8]
    assert values.std() / values.mean() == pytest.approx(math.sqrt(math.exp(0.09) - 1 + 1.3 / peak), rel=0.25)
