"""Figures of an ensemble show what they are given."""

import numpy as np

from astrid_dist.figures.canvas import png
from astrid_dist.figures.ensemble import importances, passing


def test_curves_end_where_everything_passes_and_a_perfect_score_lets_nothing_pass() -> None:
    real = np.arange(100) < 40
    figure = passing(real, {"perfect": real.astype(float), "useless": np.zeros(100)})
    perfect, useless = (line.get_xydata() for line in figure.axes[0].lines[:2])
    assert (perfect[perfect[:, 0] < 1][:, 1] == 0).all()
    for curve in (perfect, useless):
        np.testing.assert_allclose(curve[-1], [1, 1])
    assert png(figure).startswith(b"\x89PNG")


def test_the_most_important_features_are_on_top() -> None:
    names = [f"f{i}" for i in range(20)]
    figure = importances(names, np.arange(20) / 100, np.full(20, 0.001), most=5)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["f15", "f16", "f17", "f18", "f19"]
    assert figure.axes[0].patches[-1].get_width() == 0.19
