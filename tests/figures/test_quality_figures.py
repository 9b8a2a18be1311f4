"""Trends and tile maps show what they were given."""

from io import BytesIO

import numpy as np
from PIL import Image

from astrid_dist.figures.canvas import png
from astrid_dist.figures.quality import VERDICTS, Panel, tile_map_png, trend, verdict_counts, verdict_map_png


def pixels(picture):
    return np.asarray(Image.open(BytesIO(picture)).convert("RGBA"))


def test_a_trend_puts_every_point_under_its_verdict_and_leaves_out_nan():
    mjd = 58850 + np.array([0.1, 0.2, 0.3, 0.35])
    figure = trend(mjd, [Panel("a", [1.0, 2.0, np.nan, 3.0], (0.5, None))], ["green", "red", "green", "odd"])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert {name: len(lines[name].get_xdata()) for name in ("green", "red", "other")} == {
        "green": 1, "red": 1, "other": 1
    }  # fmt: skip
    assert figure.axes[0].get_xlabel().startswith("hours since MJD 58850.10000")
    assert png(figure).startswith(b"\x89PNG")


def test_a_limit_far_from_all_points_is_not_drawn():
    def lines(limit):
        figure = trend([1.0, 2.0], [Panel("a", [1.0, 1.1], (None, limit))], ["green", "green"])
        return len(figure.axes[0].lines)

    assert (lines(1.2), lines(100.0)) == (2, 1)


def test_nothing_measured_is_still_a_figure():
    assert png(trend([np.nan], [Panel("a", [np.nan])], ["red"])).startswith(b"\x89PNG")


def test_a_tile_map_has_a_pixel_per_tile_with_the_first_row_below():
    picture = pixels(tile_map_png([[0.0, 1.0, 2.0], [3.0, 4.0, np.nan]], 0.0, 4.0))
    assert picture.shape == (2, 3, 4)
    dark, bright = picture[1, 0, :3].astype(int).sum(), picture[0, 1, :3].astype(int).sum()
    assert dark < bright
    assert picture[0, 2, 3] < 255  # no data


def test_a_verdict_map_uses_the_colours_of_the_words():
    picture = pixels(verdict_map_png([[0, 1], [2, 3], [-1, 3]]))
    red, green = (
        tuple(int(VERDICTS[name][0][i : i + 2], 16) for i in (1, 3, 5)) for name in ("red", "green")
    )
    assert tuple(picture[2, 0, :3]) == red
    assert tuple(picture[1, 1, :3]) == tuple(picture[0, 1, :3]) == green
    assert picture[0, 0, 3] < 255


def test_bars_of_a_night_add_up_to_its_epochs():
    figure = verdict_counts(["a", "b"], [[3, 1, 0, 1], [0, 0, 0, 2]])
    tops = [max(bar.get_y() + bar.get_height() for bar in group) for group in figure.axes[0].containers]
    assert max(tops) == 5
    assert len(figure.axes[0].containers) == len(VERDICTS)
