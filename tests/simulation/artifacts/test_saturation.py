"""Bleeding, spikes, halos and crosstalk."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.saturation import SaturatedStar, bleed, crosstalk_places
from astrid_dist.simulation.canvas import Canvas, Star
from astrid_dist.simulation.exposure import bleed as slow_bleed
from astrid_dist.surveys.profile import Camera
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(11)
HALF = np.full(8, 0.5)


def test_charge_bleeds_along_its_column_and_none_is_lost():
    image = np.random.default_rng(1).uniform(0, 50, (201, 9)).astype(np.float32)
    image[95:105, 4] += 400
    image[100, 5] += 1500
    before = image.sum(axis=0, dtype=float)
    bleed(image, 100.0)
    assert image.max() == 100
    np.testing.assert_allclose(image.sum(axis=0, dtype=float), before, rtol=1e-5)
    full = np.flatnonzero(image[:, 5] >= 100)
    assert np.all(np.diff(full) == 1)
    assert abs(full.mean() - 100) < 5


def test_it_is_the_bleeding_of_the_mock_survey():
    image = np.random.default_rng(2).uniform(0, 90, (60, 20)).astype(np.float32)
    image[20:24, 6:9] += 700
    image[50, 8] += 900
    expected = slow_bleed(image.astype(float), 100.0)
    bleed(image, 100.0)
    np.testing.assert_allclose(image, expected, rtol=1e-4)


def test_pixels_without_data_let_charge_pass():
    image = np.zeros((41, 3), np.float32)
    image[20, 1], image[22, 1] = 1000.0, np.nan
    bleed(image, 100.0)
    assert np.nansum(image) == pytest.approx(1000)
    assert np.isnan(image[22, 1])
    assert image[24, 1] > 0


def test_a_saturated_star_is_clipped_and_flagged_in_both_images():
    view = make_view((401, 101), stars=((50.0, 200.0, 2e5),), flux_ratio=2.0)
    canvas = Canvas.empty(*view.shape)
    star = view.stars[0]
    put = ARTIFACTS["saturated star"].put(canvas, view, Site(50, 200, HALF, KEY, 1, star))
    well = view.camera.full_well
    assert put.parameters["star_flux"] == pytest.approx(10 * well / view.psf_n.max(), rel=1e-5)
    for seen, added, mask, unit in (
        (view.science, canvas.science, canvas.mask, 1.0),
        (view.template, canvas.template, canvas.template_mask, 0.5),
    ):
        total = seen + added + view.sky * unit
        full = (mask & Flag.SATURATED) > 0
        assert total.max() == pytest.approx(well * unit, rel=1e-4)
        assert full[200, 50]
        assert full.sum() > 100
        bled = (mask & Flag.BLEED) > 0
        # along the column, not along the row
        assert np.ptp(np.nonzero(bled)[0]) > 2 * np.ptp(np.nonzero(bled)[1])
        assert (mask & Flag.SPIKE).any()
    # all of the light is there: what does not fit has run along the columns
    outside = put.parameters["spikes"] + put.parameters["halo"]
    assert canvas.science.sum() == pytest.approx(put.flux, abs=outside + 1e-3 * put.flux)
    assert canvas.science.sum() > put.flux - outside


def test_spikes_lie_at_their_angle_and_carry_their_share():
    view = make_view((1201, 1201), stars=(), sky=1e6)
    well = view.camera.full_well * 1e9
    view = replace(view, camera=view.camera.model_copy(update={"full_well": well}))
    star = Star(600.0, 600.0, 1e10)
    only = SaturatedStar(least_excess=1e-9, most_excess=1e-9, least_halo=0, most_halo=0, turned_share=1.0)
    canvas = Canvas.empty(*view.shape)
    draws = np.array([0.5, 0.5, 0.5, 1 / 3, 1e-9])
    put = only(canvas, view, Site(600, 600, draws, KEY, 1, star))
    v, u = np.mgrid[:1201, :1201] - 600
    ring = np.abs(np.hypot(v, u) - 60) < 3
    angle = np.degrees(np.arctan2(v, u))[ring] % 90
    bright = canvas.science[ring] > 0.5 * canvas.science[ring].max()
    assert np.abs(angle[bright] - 30).max() < 4
    assert canvas.science.sum() == pytest.approx(put.flux, rel=0.1)
    assert put.flux == pytest.approx(math.sqrt(0.002 * 0.02) * 1e10)
    radius = np.array([60, 120, 240])
    x = np.rint(600 + radius * math.cos(math.pi / 6)).astype(int)
    y = np.rint(600 + radius * math.sin(math.pi / 6)).astype(int)
    sums = [canvas.science[b - 6 : b + 7, a - 6 : a + 7].sum() for a, b in zip(x, y, strict=True)]
    assert sums[0] / sums[1] == pytest.approx(4, rel=0.15)
    assert sums[1] / sums[2] == pytest.approx(4, rel=0.2)


def test_crosstalk_lies_mirrored_in_every_other_amplifier():
    camera = Camera(amplifiers=(4, 2), detector_px=(400, 200))
    places = crosstalk_places(camera, 110.0, 20.0)
    assert len(places) == 7
    # own amplifier: 100 to 199, 10 from its left; neighbours read from the other side
    assert (89.0, 20.0) in places
    assert (289.0, 20.0) in places
    assert (310.0, 20.0) in places
    assert (110.0, 179.0) in places
    # and back
    for x, y in places:
        assert (110.0, 20.0) in crosstalk_places(camera, x, y)


@pytest.mark.parametrize(("u", "sign"), [(0.1, -1), (0.9, 1)])
def test_crosstalk_is_its_coefficient_times_what_was_read(u, sign):
    view = make_view(stars=())
    put_copy = ARTIFACTS["crosstalk"].put
    canvas = Canvas.empty(*view.shape)
    put = put_copy(canvas, view, Site(30.4, 44.7, np.array([0.5, u, 0.5, 0.9]), KEY, 1, Star(0, 0, 5e5)))
    coefficient = put.parameters["coefficient"]
    assert np.sign(coefficient) == sign
    assert canvas.science.sum() == pytest.approx(coefficient * 5e5, rel=2e-3)
    weight = canvas.science / canvas.science.sum()
    v, u = np.mgrid[:81, :81]
    assert ((weight * u).sum(), (weight * v).sum()) == pytest.approx((30.4, 44.7), abs=0.05)
    # beyond the full well there is nothing to read
    canvas = Canvas.empty(*view.shape)
    put = put_copy(canvas, view, Site(40, 40, np.array([0.5, u_of(sign), 0.5, 0.9]), KEY, 1, Star(0, 0, 1e8)))
    assert np.abs(canvas.science).max() == pytest.approx(abs(coefficient) * view.camera.full_well, rel=1e-3)


def u_of(sign):
    return 0.1 if sign < 0 else 0.9
