"""Density, lengths, charge and widths of cosmic rays, and real ones beside them."""

import math

import numpy as np
import pytest
from astropy.io import fits
from scipy import stats

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.cosmic_rays import Track
from astrid_dist.simulation.canvas import Canvas
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.surveys.profile import Camera
from tests.simulation.artifacts.views import make_view

KEY = stream(3, "cosmic rays")


def test_their_density_is_per_area_and_minute():
    camera = Camera(pixel_um=15.0, cosmic_rays=3.0)
    pixels = 2048.0**2
    area_cm2 = pixels * 0.0015**2
    expected = sum(
        ARTIFACTS[kind].rate(camera, pixels, 30.0, 100) for kind in ("cosmic-ray track", "cosmic-ray worm")
    )
    assert expected == pytest.approx(3.0 * area_cm2 * 0.5)
    # 10 to 24 in a detector of 2048² pixels and 30 s at 2.2 to 5 per cm² and minute
    assert 10 < expected < 24


def tracks(view, number):
    draws = uniforms(KEY, np.arange(number), 5)
    put = ARTIFACTS["cosmic-ray track"].put
    made = []
    for item in range(number):
        canvas = Canvas.empty(*view.shape)
        made.append((put(canvas, view, Site(40.0, 40.0, draws[item], KEY, item)), canvas))
    return made


def test_lengths_follow_the_zenith_angle_and_charge_the_path():
    camera = Camera(pixel_um=15.0, thickness_um=100.0)
    made = tracks(make_view(stars=(), camera=camera), 1500)
    length_um = np.array([put.parameters["length_px"] for put, _ in made]) * 15.0
    cosine = 100.0 / np.hypot(length_um, 100.0)
    # intensity cos², times the projection of a flat detector: cos^4 of the angle is even
    assert stats.kstest(cosine**4, "uniform").pvalue > 0.01
    per_um = np.array([put.flux for put, _ in made]) * cosine / 100.0
    assert 80 < np.median(per_um) < 95
    assert stats.skew(per_um) > 1
    assert np.percentile(per_um, 1) > 65


def test_tracks_keep_their_charge_and_are_sharper_than_the_psf():
    view = make_view(stars=())
    inside = 0
    for put, canvas in tracks(view, 300):
        if put.parameters["length_px"] > 60:
            continue
        inside += 1
        assert canvas.science.sum() == pytest.approx(put.flux, rel=1e-4)
        np.testing.assert_allclose(canvas.science_variance, canvas.science, atol=1)
        if put.parameters["length_px"] < 1:
            assert canvas.science.max() > 2 * put.flux * view.psf_n.max()
        angle = put.parameters["angle_rad"]
        v, u = np.mgrid[:81, :81] - 40
        across = v * math.cos(angle) - u * math.sin(angle)
        width = math.sqrt((canvas.science * across**2).sum() / put.flux)
        # diffusion, and the pixel itself; a star's is 1.3
        assert 0.15 < width < 0.85
        assert not canvas.template.any()
    assert inside > 280


def test_few_of_them_are_flagged_by_default():
    flagged = [bool((canvas.mask & Flag.COSMIC_RAY).any()) for _, canvas in tracks(make_view(stars=()), 400)]
    assert 0.06 < np.mean(flagged) < 0.15


def test_worms_curl_and_spots_do_not():
    view = make_view(stars=())
    put_worm = ARTIFACTS["cosmic-ray worm"].put
    draws = uniforms(KEY, np.arange(300), 4)
    reach = []
    for item in range(300):
        canvas = Canvas.empty(*view.shape)
        put = put_worm(canvas, view, Site(40.0, 40.0, draws[item], KEY, item))
        assert canvas.science.sum() == pytest.approx(put.flux, rel=1e-3)
        v, u = np.nonzero(canvas.science > 0.002 * put.flux)
        if put.parameters["length_px"] > 5:
            reach.append(math.hypot(np.ptp(v), np.ptp(u)) / put.parameters["length_px"])
        else:
            assert max(np.ptp(v), np.ptp(u)) <= 6
    assert len(reach) == pytest.approx(150, abs=40)
    assert np.mean(np.array(reach) < 0.8) > 0.2


def test_real_muons_lose_as_much_charge_and_are_as_wide(realdata):
    """Two tracks that the Community Pipeline flagged in DECam frames (250 µm of silicon, 15 µm pixels)."""
    folder = realdata / "decam_epochs" / "testcase4" / "images"
    camera = Camera(pixel_um=15.0, thickness_um=250.0)
    usual = []
    for put, _ in tracks(make_view(stars=(), camera=camera), 400):
        usual.append(put.flux / math.hypot(put.parameters["length_px"] * 15.0, 250.0))
    lowest, highest = np.percentile(usual, [1, 99])
    found = 0
    for quality in sorted(folder.rglob("*_ood_*.fits.gz")):
        flagged = fits.getdata(quality) == 5
        if flagged.sum() < 20:
            continue
        name = quality.with_name(quality.name.replace("_ood_", "_ooi_"))
        gain = fits.getheader(name, 1)["GAINA"]
        image = fits.getdata(name).astype(float) * gain
        signal = image - np.median(image)
        noise = 1.4826 * np.median(np.abs(signal))
        rows, columns, charge = *np.nonzero(flagged), signal[flagged]
        length_px, angle, width = straight(rows, columns, charge, noise)
        path_um = math.hypot(length_px * 15.0, 250.0)
        assert lowest < charge.sum() / path_um < highest

        # such tracks of ours at the same place, in the same noise
        view = make_view(image.shape, stars=(), camera=camera)
        x, y = (np.average(p, weights=np.maximum(charge, 0)) for p in (columns, rows))
        ours = []
        for item, turn in enumerate((0.0, 0.5) * 20):
            canvas = Canvas.empty(*image.shape)
            draws = np.array([(250.0 / path_um) ** 4, 0.5, angle / (2 * math.pi) % 1, item / 40, 0.9])
            draws[2] = (draws[2] + turn) % 1
            Track()(canvas, view, Site(x, y, draws, KEY, item))
            near = np.roll(signal, 60, axis=1)[flagged]
            ours.append(straight(rows, columns, canvas.science[flagged] + near, noise)[2])
        # two tracks: each within a fifth of the range of ours, where stars are 1.6 to 2.4 px wide
        assert 0.8 * min(ours) < width < 1.2 * max(ours) < 0.8
        found += 1
    if not found:
        pytest.skip(f"no flagged cosmic rays in {folder}")
    assert found == 2


def straight(rows, columns, charge, noise):
    """Length, angle and rms width of a straight track, pixels and radians; knots count as the rest."""
    bright = charge > 4 * noise
    weights = np.minimum(charge, 2 * np.median(charge[bright])) * bright
    x, y = columns - np.average(columns, weights=weights), rows - np.average(rows, weights=weights)
    xx, xy, yy = (np.average(p, weights=weights) for p in (x * x, x * y, y * y))
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    return float(np.ptp(along[bright])), angle, math.sqrt(np.average(across**2, weights=weights))
