import io

import numpy as np
import pytest
from PIL import Image

from astrid_dist.figures.canvas import new_figure, png
from astrid_dist.figures.curves import Fraction, completeness, light_curve
from astrid_dist.figures.histograms import SCORE_EDGES, residuals, score_histogram
from astrid_dist.figures.triplets import robust_level, stretch, triplet, triplet_png


@pytest.fixture
def planes():
    rng = np.random.default_rng(1)
    y, x = np.indices((31, 31))
    star = np.exp(-0.5 * ((x - 15) ** 2 + (y - 20) ** 2) / 2)
    science = rng.normal(0, 20, (31, 31)) + 900 * star
    reference = rng.normal(0, 10, (31, 31))
    return science, reference, science - reference, rng.normal(0, 1, (31, 31)) + 30 * star


def test_a_triplet_strip_shows_four_planes_north_up_with_missing_data_in_its_own_colour(planes):
    science = planes[0].copy()
    science[0, :5] = np.nan
    strip = np.asarray(Image.open(io.BytesIO(triplet_png(science, *planes[1:]))))
    assert strip.shape == (31, 4 * 31 + 3, 4)
    assert strip[10, 15, 0] > 200  # the star at y=20 counted from below
    assert strip[10, 32 + 15, 0] < 150  # is not in the reference
    red, _, blue = strip[10, 3 * 32 + 15, :3]
    assert red > blue  # brighter than the reference is red
    assert len(np.unique(strip[30, :5, :3], axis=0)) == 1
    assert strip[30, 0, 0] != strip[30, 0, 2]


def test_a_triplet_figure_has_four_named_panels(planes):
    figure = triplet(*planes, title="f0/r")
    assert [axes.get_title() for axes in figure.axes] == ["science", "reference", "difference", "S_corr"]
    assert figure.get_suptitle() == "f0/r"
    noise = robust_level(planes[2])[1]
    assert f"difference: ±{8 * noise:.0f} electron; S_corr: ±8" in figure.get_supxlabel()


def test_planes_without_any_data_are_drawn(planes):
    nothing = np.full((31, 31), np.nan)
    assert triplet_png(nothing, nothing, nothing, nothing)[:4] == b"\x89PNG"


def test_the_stretch_ignores_sources_keeps_order_and_keeps_nan():
    rng = np.random.default_rng(2)
    sky = rng.normal(100, 5, 4000)
    sky[:200] += 1e5
    level, noise = robust_level(sky)
    assert (level, noise) == (pytest.approx(100, abs=1), pytest.approx(5, rel=0.1))
    shown = stretch(np.array([90.0, 100.0, 110.0, 1e5, np.nan]), level, noise)
    assert np.isnan(shown[4])
    assert (np.diff(shown[:4]) > 0).all()


def test_the_score_histogram_lays_a_unit_gaussian_of_equal_area_over_the_pixels():
    counts, _ = np.histogram(np.random.default_rng(3).normal(size=100_000), SCORE_EDGES)
    axes = score_histogram(counts).axes[0]
    line = axes.lines[0].get_xydata()
    assert line[:, 1].sum() == pytest.approx(100_000, rel=1e-3)
    near = np.abs(line[:, 0]) < 2
    measured = np.interp(line[near, 0], 0.5 * (SCORE_EDGES[1:] + SCORE_EDGES[:-1]), counts)
    np.testing.assert_allclose(line[near, 1], measured, rtol=0.15)
    assert "standard deviations" in axes.get_xlabel()


def test_residuals_write_their_median_and_scatter_on_the_figure():
    values = np.random.default_rng(4).normal(0.5, 0.1, 4000)
    title = residuals(np.append(values, np.nan), "pixel", "x").axes[0].get_title()
    assert "+0.5" in title
    assert "scatter 0.1" in title
    assert residuals([], "pixel", "x").axes[0].get_xlabel() == "x (pixel)"


def test_completeness_leaves_empty_bins_out_and_counts_the_others():
    bins = [
        Fraction(1, 3, 0.5, (0.3, 0.7), 6),
        Fraction(3, 9, float("nan"), (0, 1), 0),
        Fraction(9, 27, 1, (0.8, 1), 4),
    ]
    axes = completeness(bins, "true SNR", log=True).axes[0]
    assert [text.get_text() for text in axes.texts] == ["6", "4"]
    assert axes.get_xscale() == "log"


def test_a_light_curve_tells_detections_from_the_rest_and_shows_the_truth():
    figure = light_curve(
        [1.0, 2.0, 3.0],
        [0.5, 9.0, 8.0],
        [1.0, 1.0, 1.0],
        detected=[False, True, True],
        true_mjd=[1, 3],
        true_flux=[0, 9],
    )
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["truth", "detected", "below threshold"]
    assert "µJy" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("days", "unit", "shown"),
    [
        ([0.0], "minutes", [0.0]),
        ([0.0, 2 / 1440, 5 / 1440], "minutes", [0, 2, 5]),
        ([0.0, 0.25, 0.5], "hours", [0, 6, 12]),
        ([0.0, 1.0, 30.0], "MJD", [58849, 58850, 58879]),
    ],
)
def test_times_are_told_apart_on_an_axis_no_longer_than_they_need(days, unit, shown):
    axes = light_curve(58849 + np.array(days), np.ones(len(days)), np.ones(len(days))).axes[0]
    assert axes.get_xlabel().startswith(unit)
    assert ("since MJD 58849.00000" in axes.get_xlabel()) == (unit != "MJD")
    np.testing.assert_allclose(axes.containers[0].lines[0].get_xdata(), shown, atol=1e-4)
    low, high = axes.get_xlim()
    assert low < shown[0]
    assert shown[-1] < high
    assert high - low <= max(2, 1.2 * (shown[-1] - shown[0]))


def test_points_of_one_time_lie_side_by_side_and_the_axis_says_so():
    axes = light_curve([5.0, 5.0, 5.5, np.nan], [1.0, 2, 3, 4], np.ones(4)).axes[0]
    x = axes.containers[0].lines[0].get_xdata()
    assert 0.1 < x[1] - x[0] < 0.5  # of 12 hours
    assert x[2] == 12
    assert "side by side" in axes.get_xlabel()


def test_a_figure_is_transparent_and_renders_to_the_same_bytes_twice():
    pictures = []
    for _ in range(2):
        figure, axes = new_figure(2, 1)
        axes.plot([0, 1], [1, 0])
        pictures.append(png(figure))
    assert pictures[0] == pictures[1]
    assert np.asarray(Image.open(io.BytesIO(pictures[0])))[0, 0, 3] == 0
