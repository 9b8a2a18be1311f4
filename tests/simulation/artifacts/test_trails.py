"""Width, brightness and flicker of satellites' trails; glints."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.trails import cross_section
from astrid_dist.simulation.canvas import Canvas
from tests.simulation.artifacts.views import make_view

KEY = np.uint64(13)
STEADY = np.array([0.3, 0.4, 0.17, 0.9, 0.5, 0.9])


def across(view, put, x, y):
    v, u = np.mgrid[: view.shape[0], : view.shape[1]]
    angle = put.parameters["angle_rad"]
    along = (u - x) * math.cos(angle) + (v - y) * math.sin(angle)
    return along, (u - x) * math.sin(angle) - (v - y) * math.cos(angle)


@pytest.mark.parametrize("direction", [0.0, 0.17, 0.5, 0.81])
def test_flux_per_pixel_of_length_is_that_of_a_magnitude_at_its_speed(direction):
    view = replace(make_view((301, 301), stars=(), fwhm_n=3.0), pixel_scale_arcsec=0.5, zeropoint=27.0)
    draws = STEADY.copy()
    draws[2] = direction
    canvas = Canvas.empty(*view.shape)
    put = ARTIFACTS["satellite trail"].put(canvas, view, Site(150.3, 149.6, draws, KEY, 1))
    height_km = put.parameters["height_km"]
    speed = math.sqrt(398600 / (6371 + height_km)) / height_km * 206265
    expected = 10 ** (0.4 * (27.0 - 9.4)) / view.exptime_s * 0.5 / speed
    assert put.parameters["flux_per_px"] == pytest.approx(expected, rel=1e-6)
    along, _ = across(view, put, 150.3, 149.6)
    part = np.abs(along) < 100
    # pixels that the ends cut count by their middles
    assert canvas.science[part].sum() / 200 == pytest.approx(expected, rel=0.02)
    assert 2000 < 206265 * math.sqrt(398600 / 6921) / 550 < 3000  # arcsec/s at 550 km


def test_its_width_is_that_of_the_psf_and_of_the_disk_out_of_focus():
    view = make_view(stars=(), fwhm_n=3.0)
    psf = view.psf_n.astype(float)
    at = np.arange(psf.shape[1]) - psf.shape[1] // 2
    seeing = (psf.sum(axis=0) * at**2).sum()
    for disk in (0.0, 3.0, 8.0):
        profile = cross_section(view.psf_n, disk)
        distance = (np.arange(len(profile)) - len(profile) // 2) / 8
        assert profile.sum() / 8 == pytest.approx(1)
        # a disk seen as a line has a variance of (diameter / 4)²
        assert (profile * distance**2).sum() / 8 == pytest.approx(seeing + disk**2 / 16, rel=0.02)


def test_a_large_telescope_sees_low_satellites_out_of_focus():
    camera = make_view(stars=()).camera.model_copy(update={"aperture_m": 8.4})
    view = replace(make_view(stars=(), camera=camera), pixel_scale_arcsec=0.2)
    draws = STEADY.copy()
    draws[0] = math.log(550 / 350) / math.log(2000 / 350)
    put = ARTIFACTS["satellite trail"].put(Canvas.empty(*view.shape), view, Site(40, 40, draws, KEY, 1))
    assert put.parameters["disk_px"] * 0.2 == pytest.approx(3.1, abs=0.1)


def test_its_light_has_shot_noise_and_the_variance_of_it():
    view = replace(make_view((301, 301), stars=()), zeropoint=29.0)
    draws = STEADY.copy()
    draws[2] = 0.0
    canvas = Canvas.empty(*view.shape)
    ARTIFACTS["satellite trail"].put(canvas, view, Site(150, 150, draws, KEY, 1))
    row = canvas.science[150].astype(float)
    assert row.mean() > 100
    assert row.var() == pytest.approx(row.mean(), rel=0.3)
    assert canvas.science_variance[150].mean() == pytest.approx(row.mean(), rel=1e-3)
    assert abs(np.corrcoef(canvas.science[149], canvas.science[150])[0, 1]) < 0.25


def test_it_crosses_the_whole_window_and_one_in_three_tumbles():
    view = make_view((200, 500), stars=())
    put_trail = ARTIFACTS["satellite trail"].put
    canvas = Canvas.empty(*view.shape)
    draws = STEADY.copy()
    draws[2] = 0.05
    put_trail(canvas, view, Site(100.0, 50.0, draws, KEY, 1))
    assert (canvas.science.max(axis=0) > 0).all()
    draws[3] = 0.25
    draws[4] = 0.1
    tumbling = Canvas.empty(*view.shape)
    put_trail(tumbling, view, Site(100.0, 50.0, draws, KEY, 1))
    light, steady = tumbling.science.sum(axis=0), canvas.science.sum(axis=0)
    assert np.std(light[100:400] / steady[100:400]) > 0.3


def test_without_a_zero_point_it_is_drawn_against_the_noise_and_flagged_if_bright():
    view = replace(make_view(stars=()), zeropoint=math.nan)
    draws = STEADY.copy()
    draws[1], draws[5] = 0.9, 0.1
    canvas = Canvas.empty(*view.shape)
    put = ARTIFACTS["satellite trail"].put(canvas, view, Site(40, 40, draws, KEY, 1))
    flagged = (canvas.mask & Flag.TRAIL) > 0
    _, distance = across(view, put, 40, 40)
    assert flagged[np.abs(distance) < 0.5].all()
    assert np.abs(distance[flagged]).max() < 6
    assert canvas.science.max() / view.sigma_n == pytest.approx(30**0.9, rel=0.3)


def test_glints_lie_evenly_on_a_line_through_the_place():
    view = make_view((301, 301), stars=())
    canvas = Canvas.empty(*view.shape)
    draws = np.array([0.2, 0.5, 0.03, 0.9, 0.5])
    put = ARTIFACTS["glint train"].put(canvas, view, Site(150.0, 150.0, draws, KEY, 1))
    spacing, angle = put.parameters["spacing_px"], put.parameters["angle_rad"]
    assert put.parameters["flashes"] == 8
    found = 0
    for k in range(-5, 6):
        x, y = 150 + k * spacing * math.cos(angle), 150 + k * spacing * math.sin(angle)
        if 5 < x < 295 and 5 < y < 295:
            found += canvas.science[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].max() > 100
    assert found == 8
    assert canvas.science.sum() == pytest.approx(put.flux, rel=0.02)
