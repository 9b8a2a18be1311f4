"""Trails long and short: one detection each, of the right length; crowds and stars are none."""

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.imaging.measure import PointSource
from astrid_dist.imaging.streaks import find_streaks, join
from tests.imaging.detection_scenes import Scene, rows_at


def test_a_satellite_is_one_flagged_row_and_sources_on_and_off_it_stay():
    scene = Scene(shape=(400, 400))
    scene.line(200, 200, 300, 0.7, 900)
    scene.add(80, 320, 30)
    scene.add(200 + 60 * np.sin(0.7), 200 + 60 * np.cos(0.7), 150)
    found = scene.detected()
    flagged = (found["mask"] & int(Flag.TRAIL)) != 0
    assert len(found["x"]) == 3
    assert np.count_nonzero(flagged) == 2
    middle = rows_at(found, np.array([[200.0, 200]]), 1.5)
    assert flagged[middle].tolist() == [True]
    assert found["streak_length"][middle] == pytest.approx(300, abs=5)
    assert found["streak_angle"][middle] == pytest.approx(np.rad2deg(0.7), abs=0.3)
    assert found["streak_flux"][middle] / scene.unit == pytest.approx(900 + 150, rel=0.1)
    off = rows_at(found, np.array([[80.0, 320]]), 1)
    assert not flagged[off][0]
    assert np.isnan(found["streak_length"][off][0])


@pytest.mark.parametrize(("length", "strength"), [(5, 40), (12, 40), (20, 60)])
def test_a_short_trail_is_one_source_with_its_length_angle_and_flux(length, strength):
    scene = Scene()
    places = scene.grid(48)
    for y, x in places:
        scene.line(y, x, length, 2.0, strength)
    found = scene.detected()
    rows = rows_at(found, places, 1.0)
    assert len(rows) == len(found["x"]) == len(places)
    assert np.median(found["streak_length"][rows]) == pytest.approx(length, abs=0.5)
    assert np.all(np.abs(found["streak_length"][rows] - length) < 0.25 * length + 1)
    assert np.median(found["streak_angle"][rows]) == pytest.approx(np.rad2deg(2.0), abs=3)
    assert np.median(found["streak_flux"][rows]) / scene.unit == pytest.approx(strength, rel=0.05)
    assert np.all(found["dchi2_hit"][rows] < 0), "no particle's track"
    assert np.median(found["minor_ratio"][rows]) > 0.8
    assert not np.any(found["mask"] & int(Flag.TRAIL)), "an asteroid is a source"


def test_two_sources_are_no_trail_and_a_crowd_is_no_streak():
    scene = Scene(seed=2)
    places = scene.grid(48)
    for y, x in places:
        scene.add(y, x - 2.1, 40)
        scene.add(y, x + 2.1, 40)
    assert np.all(np.isnan(scene.detected()["streak_length"]))
    crowd = Scene(shape=(400, 400), seed=3)
    for y, x, strength in crowd.rng.uniform([20, 20, 6], [380, 380, 40], (150, 3)):
        crowd.add(y, x, strength)
    made = crowd.subtraction()
    assert find_streaks(made.score, PointSource(made.psf_d).fwhm) == []


def test_a_halo_and_noise_are_no_streaks():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(300, 300)).astype(np.float32)
    assert find_streaks(noise, 3.0) == []
    y, x = np.mgrid[:300, :300]
    radius = np.hypot(y - 150, x - 150)
    assert find_streaks(noise + np.where(radius < 60, 8, 0).astype(np.float32), 3.0) == []
    assert find_streaks(np.full((50, 50), np.nan, np.float32), 3.0) == []


def piece(x, y, length, angle, snr):
    row = {"x": x, "y": y, "snr": snr, "streak_length": length, "streak_angle": angle}
    return row | {"streak_flux": 10 * length, "mask": int(Flag.TRAIL)}


def test_pieces_of_a_streak_across_shards_become_one_row_and_others_stay():
    rows = [
        piece(100.0, 100.0, 282.8, 45.0, 9.0),
        piece(300.5, 300.0, 282.8, 45.3, 12.0),
        piece(500.0, 499.5, 282.8, 44.8, 8.0),
        piece(300.0, 600.0, 282.8, 45.0, 8.0),
        piece(300.0, 310.0, 200.0, 120.0, 8.0),
    ]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    whole = join(columns)
    assert len(whole["x"]) == 3
    longest = whole["streak_length"].argmax()
    assert whole["streak_length"][longest] == pytest.approx(848, abs=3)
    assert (whole["x"][longest], whole["y"][longest]) == pytest.approx((300, 300), abs=1.5)
    assert whole["streak_flux"][longest] == pytest.approx(8484, rel=0.01)
    assert whole["snr"][longest] == 12
