"""Figures of a training run: how metrics went, whether probabilities are true, what is taken for what."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(
    epochs: ArrayLike, train_loss: ArrayLike, val_loss: ArrayLike, auc: ArrayLike, iou: ArrayLike
) -> "Figure":
    """Losses, and AUC and IoU of validation, by epoch."""
    figure, (left, right) = new_figure(8.0, 3.2, columns=2)
    for axes, curves in (
        (left, ((train_loss, "training", BLUE), (val_loss, "validation", ORANGE))),
        (right, ((auc, "AUC, real against bogus", BLUE), (iou, "mean IoU of classes", GREEN))),
    ):
        for values, label, colour in curves:
            axes.plot(epochs, values, "o-", color=colour, label=label, markersize=3, linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend(axes)
    left.set_ylabel("loss")
    right.set_ylim(0, 1.02)
    return figure


def reliability(told: ArrayLike, share: ArrayLike, counts: ArrayLike) -> "Figure":
    """Share of real samples against the probability told; points are as large as samples are many."""
    figure, axes = new_figure(4.0, 3.6)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    many = np.asarray(counts, float)
    axes.scatter(told, share, s=10 + 90 * many / max(many.max(initial=0), 1), color=BLUE, alpha=0.8)
    axes.plot(told, share, color=BLUE, linewidth=1.0)
    axes.set(xlabel="probability told", ylabel="share that is real", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def confusion(counts: ArrayLike, names: Sequence[str]) -> "Figure":
    """Of each class that there is, which share is told as what; (truth, told) counts."""
    found = np.asarray(counts, float)
    rows = np.flatnonzero(found.sum(1) > 0)
    shares = found[rows] / found[rows].sum(1, keepdims=True)
    figure, axes = new_figure(1.8 + 0.5 * len(names), 1.8 + 0.36 * max(len(rows), 1))
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            dark: Any = "white" if share > 0.6 else "#303540"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=dark, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), [f"{names[int(r)]} ({found[r].sum():.0f})" for r in rows])
    axes.set(xlabel="told", ylabel="truth")
    return figure
