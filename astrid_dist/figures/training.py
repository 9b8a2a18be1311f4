"""Figures of a training run: how metrics went, whether probabilities are true, what is taken for what."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from astrid_dist.figures.canvas import BLUE, INK, ORANGE, legend, new_figure
from astrid_dist.figures.samples import palette, strip

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(
    epochs: ArrayLike, train_loss: ArrayLike, val_loss: ArrayLike, auc: ArrayLike, iou: ArrayLike
) -> "Figure":
    """Losses, and AUC and IoU of validation, by epoch; each on a scale of its own."""
    figure, panels = new_figure(9.6, 2.9, columns=3)
    for axes, title, curves in zip(
        panels,
        ("loss", "AUC, real against bogus", "mean IoU of the classes' pixels"),
        (
            ((train_loss, "training", BLUE), (val_loss, "validation", ORANGE)),
            ((auc, "", ORANGE),),
            ((iou, "", ORANGE),),
        ),
        strict=True,
    ):
        for values, label, colour in curves:
            axes.plot(epochs, values, "o-", color=colour, label=label, markersize=3, linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    legend(panels[0])
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


def probabilities(real: ArrayLike, bogus: ArrayLike) -> "Figure":
    """How many real and bogus candidates got which probability; the counts' axis is logarithmic."""
    figure, axes = new_figure(4.8, 3.2)
    edges = np.linspace(0, 1, 21)
    for values, label, colour in ((real, "real", BLUE), (bogus, "bogus", ORANGE)):
        told = np.asarray(values, float)
        counts = np.histogram(told[np.isfinite(told)], edges)[0]
        axes.stairs(counts, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(counts, edges, color=colour, linewidth=1.3, label=f"{label} ({counts.sum()})")
    axes.set_yscale("log")
    axes.set(xlabel="p_real", ylabel="candidates", xlim=(0, 1), ylim=(0.5, None))
    legend(axes, loc="upper center")
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
    words = [name.replace("_", " ") for name in names]
    axes.set_xticks(range(len(names)), words, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [f"{words[int(r)]} ({found[r].sum():.0f})" for r in rows])
    axes.set(xlabel="told", ylabel="truth")
    return figure


def gallery(stamps: Sequence[ArrayLike], captions: Sequence[str], columns: int = 3) -> "Figure":
    """Science, template and difference of samples, each with its caption.

    Parameters
    ----------
    stamps : sequence of (plane, y, x) array_like
        In units of the noise, as `astrid_dist.figures.samples.strip` draws them.
    captions : sequence of str
        One each.
    columns : int
        Samples in a row.
    """
    rows = -(-len(stamps) // columns)
    figure, axes = new_figure(3.4 * columns, 0.4 + 1.4 * rows, rows=rows, columns=columns)
    for axis in figure.axes:
        axis.set_axis_off()
    for axis, planes, caption in zip(np.ravel(axes), stamps, captions, strict=False):
        axis.imshow(palette()[strip(np.asarray(planes)[:3])], interpolation="nearest")
        axis.set_title(caption, fontsize=8)
    figure.supxlabel("science, template, difference (blue negative, red positive)", fontsize=8, color=INK)
    return figure
