"""Figures of a training show what they were given."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from astrid_dist.figures.canvas import png
from astrid_dist.figures.samples import palette, strip
from astrid_dist.figures.training import confusion, gallery, reliability, training_curves


@pytest.mark.parametrize("many", [1, 3, 5])
def test_a_gallery_has_every_stamp_with_its_caption_and_nothing_else(many):
    stamps = np.random.default_rng(0).normal(size=(many, 4, 9, 9)) * 5
    figure = gallery(list(stamps), [f"stamp {i}" for i in range(many)])
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [f"stamp {i}" for i in range(many)]
    for axes, planes in zip(drawn, stamps, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), palette()[strip(planes[:3])])
    assert not any(axes.axison for axes in figure.axes)


def test_stamps_without_data_are_drawn():
    figure = gallery([np.full((4, 9, 9), np.nan)], ["nothing"])
    assert Image.open(BytesIO(png(figure))).size[0] > 100


def test_curves_hold_every_epoch_and_leave_out_what_is_no_number():
    figure = training_curves([1, 2, 3], [3, 2, 1], [3, 2, 2.5], [np.nan, 0.8, 0.9], [np.nan] * 3)
    left, right, last = figure.axes
    assert [line.get_xdata().tolist() for line in left.get_lines()[:2]] == [[1, 2, 3]] * 2
    assert right.get_lines()[0].get_ydata()[1:].tolist() == [0.8, 0.9]
    assert len(last.get_lines()) == 1
    png(figure)


def test_reliability_and_confusion_of_next_to_nothing():
    png(reliability([0.7], [1.0], [1]))
    counts = np.zeros((3, 3))
    counts[1, 2] = 4
    figure = confusion(counts, ["a", "b", "c"])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b (4)"]
    assert [text.get_text() for text in axes.texts] == ["1.00"]
    png(figure)
