"""Strips, contact sheets and balances show what they were given."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from astrid_dist.figures.canvas import png
from astrid_dist.figures.samples import (
    Row,
    against,
    balance,
    contact_sheet,
    in_sigmas,
    palette,
    sequence,
    spread,
    strip,
    strip_png,
    wall,
)


def planes(side=9):
    stamps = np.random.default_rng(1).normal(size=(4, side, side))
    stamps[2:, 0, :] = 0.0
    return stamps


def colours(picture):
    return np.asarray(Image.open(BytesIO(strip_png(picture))).convert("RGB"))


def test_a_strip_shows_every_plane_with_the_first_row_below():
    stamps = planes()
    stamps[2, 0, 0], stamps[3, 8, 8], stamps[0, 4, 4] = 50.0, -50.0, np.nan
    drawn = colours(strip(stamps, np.eye(9, dtype=int)))
    assert drawn.shape == (9, 5 * 9 + 4, 3)
    difference, score, target = drawn[:, 20:29], drawn[:, 30:39], drawn[:, 40:]
    assert difference[8, 0, 0] > 2 * difference[8, 0, 2]  # red, below at the left
    assert score[0, 8, 2] > 2 * score[0, 8, 0]  # blue, above at the right
    assert tuple(drawn[4, 4]) == tuple(palette()[224])  # no data
    assert len(np.unique(target[::-1][np.eye(9, dtype=bool)], axis=0)) == 1
    assert (target[0, 8] == target[8, 0]).all()
    assert (target[0, 0] != target[8, 0]).any()


def test_a_sequence_has_science_above_difference_for_every_visit():
    visits = np.stack([planes()] * 3)
    visits[1, 2] = 50.0
    picture = sequence(visits)
    assert picture.shape == (2 * 9 + 1, 3 * 9 + 2)
    drawn = colours(picture)
    assert (drawn[:9, 10:19].std(axis=2) == 0).all()  # grey
    assert (drawn[10:, 10:19, 0] > 2 * drawn[10:, 10:19, 2]).all()  # red
    np.testing.assert_array_equal(picture[:9, :9], picture[:9, 20:])


def test_a_short_row_of_a_wall_ends_in_the_colour_of_its_lines():
    one = np.full((2, 3), 7, np.uint8)
    picture = wall([[one, one], [one]])
    assert picture.shape == (5, 7)
    assert (picture == 7).sum() == 3 * 6
    assert len(np.unique(picture)) == 2


def test_a_strip_does_not_depend_on_the_level_of_science_and_template():
    stamps = planes()
    raised = stamps + np.array([100.0, -30.0, 0.0, 0.0])[:, None, None]
    assert np.abs(strip(stamps).astype(int) - strip(raised).astype(int)).max() <= 1


def test_planes_in_their_own_noise_have_level_zero_and_noise_one():
    plane = np.random.default_rng(2).normal(400.0, 7.0, (63, 63))
    plane[:3] = np.nan
    values = in_sigmas(plane)
    assert np.nanmedian(values) == pytest.approx(0, abs=0.01)
    assert np.nanstd(values) == pytest.approx(1, abs=0.05)
    assert np.isnan(values[:3]).all()


def test_a_contact_sheet_has_a_row_of_samples_for_every_name():
    stamps = np.stack([planes(), planes(), planes()])
    rows = [
        Row("real", stamps[:, :3], captions=["a", "b", "c"]),
        Row("made", np.stack([planes(21)] * 3), np.ones((3, 21, 21), int), ["d"]),
        Row("nothing", stamps[:0]),
    ]
    figure = contact_sheet(rows, columns=2)
    titles = [one.get_title(loc="left") for one in figure.axes]
    assert titles == ["real", "made", "nothing"]
    first, second, third = (one.images[0].get_array() for one in figure.axes)
    assert (first.shape[0], second.shape[0]) == (9, 21)
    assert first.shape[1] == second.shape[1] == third.shape[1]  # a pixel is as large in every row
    assert [int(one[0, :, 3].sum()) // 255 for one in (first, second, third)] == [
        2 * (3 * 9 + 2), 2 * (5 * 21 + 4), 0
    ]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b"]
    assert png(figure).startswith(b"\x89PNG")


def test_bars_are_as_long_as_what_was_asked_for_and_got():
    figure = balance(["dipole", "trail"], [10, 4], [7, 4])
    got, asked = ([bar.get_width() for bar in group] for group in figure.axes[0].containers)
    assert (asked, got) == ([10, 4], [7, 4])


def test_histograms_count_every_finite_value():
    figure = spread({"a": [1.0, 3.0, 1e9, np.nan], "b": []}, np.geomspace(0.1, 100, 4), "x")
    assert [patch.get_data().values.sum() for patch in figure.axes[0].patches] == [3, 0]
    assert figure.axes[0].get_xscale() == "log"
    assert spread({"a": [1.0]}, np.linspace(0, 5, 6), "x").axes[0].get_xscale() == "linear"


def test_equal_quantities_lie_on_the_line_of_equals():
    x = np.geomspace(3, 300, 400)
    figure = against(x, 1.0 * x, "x", "y")
    middle, median = figure.axes[0].containers[0].lines[0].get_data()
    assert np.allclose(median / middle, 1, atol=0.05)
    assert png(against([np.nan], [1.0], "x", "y")).startswith(b"\x89PNG")
