"""Figures of an ensemble: what each part lets pass, and what trees look at."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, PURPLE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def passing(real: ArrayLike, tellers: Mapping[str, ArrayLike]) -> "Figure":
    """Share of bogus candidates that pass against the share of real ones, for up to four scores."""
    truth = np.asarray(real, bool)
    figure, axes = new_figure(5.2, 3.6)
    for (name, score), colour in zip(tellers.items(), (INK, GREEN, ORANGE, BLUE), strict=False):
        order = np.argsort(-np.asarray(score), kind="stable")
        passed_real, passed_bogus = (np.cumsum(kind[order]) / max(kind.sum(), 1) for kind in (truth, ~truth))
        axes.plot(passed_real, passed_bogus, color=colour, label=name, linewidth=1.4)
    axes.axvline(0.95, color=PURPLE, linewidth=0.8, linestyle="--")
    axes.set(xlabel="share of the real that pass", ylabel="share of the bogus that pass", xlim=(0.5, 1.005))
    axes.set_yscale("log")
    axes.set_ylim(max(0.5 / max((~truth).sum(), 1), 1e-6), 1.1)
    legend(axes, loc="center left")
    return figure


def importances(names: Sequence[str], mean: ArrayLike, error: ArrayLike, most: int = 15) -> "Figure":
    """Fall of the AUC when a feature is shuffled, the features that matter most on top."""
    fall, spread = np.asarray(mean, float), np.asarray(error, float)
    order = np.argsort(-fall, kind="stable")[:most][::-1]
    figure, axes = new_figure(5.2, 0.8 + 0.24 * len(order))
    axes.barh(range(len(order)), fall[order], xerr=spread[order], color=BLUE, ecolor=INK, height=0.7)
    axes.set_yticks(range(len(order)), [names[int(i)] for i in order])
    axes.set_xlabel("AUC lost when shuffled")
    return figure
