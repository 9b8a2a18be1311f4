"""Figures of an evaluation: what purity costs, which strata are lost, how far probabilities hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, PURPLE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (INK, GREEN, ORANGE, BLUE)
_SNR_TICKS = (2, 3, 5, 10, 20, 50)


def purity_completeness(rankings: Mapping[str, Any], prior: float) -> "Figure":
    """Purity against completeness at a prior, for up to four of `astrid_dist.evaluation.metrics.Ranking`."""
    figure, axes = new_figure(4.6, 3.4)
    for (name, one), colour in zip(rankings.items(), _COLOURS, strict=False):
        axes.plot(one.completeness, one.purity(prior), color=colour, label=name, linewidth=1.4)
    axes.axhline(0.95, color=PURPLE, linewidth=0.8, linestyle="--")
    axes.set(xlabel="completeness", ylabel="purity", xlim=(0, 1.01), ylim=(0, 1.03))
    legend(axes, loc="lower left")
    return figure


def roc(rankings: Mapping[str, Any]) -> "Figure":
    """Share of the real against the share of the bogus that pass, the latter on a logarithmic axis."""
    figure, axes = new_figure(4.6, 3.4)
    for (name, one), colour in zip(rankings.items(), _COLOURS, strict=False):
        axes.plot(np.maximum(one.fpr, 1e-5), one.completeness, color=colour, label=name, linewidth=1.4)
    axes.set_xscale("log")
    axes.set(xlabel="share of the bogus that pass", ylabel="share of the real that pass", ylim=(0, 1.03))
    legend(axes, loc="lower right")
    return figure


def reliabilities(parts: Mapping[str, Sequence[Sequence[float]]]) -> "Figure":
    """Share that is real against the probability told: bins (told, real, number) of up to four parts."""
    figure, axes = new_figure(4.2, 3.6)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for (name, bins), colour in zip(parts.items(), (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        told, real, number = np.array(bins, float).T
        error = np.sqrt(np.clip(real * (1 - real), 0.25 / number, None) / number)
        axes.errorbar(
            told, real, np.minimum(error, 1), fmt="o-", color=colour, label=name, markersize=4, linewidth=1
        )
    axes.set(xlabel="probability told", ylabel="share that is real", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    legend(axes, loc="upper left")
    return figure


def strata(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Recall of each stratum with its interval, the worst on top."""
    figure, axes = new_figure(6.0, 0.9 + 0.24 * len(rows))
    places = np.arange(len(rows))[::-1]
    value, low, high = np.array([row["recall"] for row in rows], float).reshape(-1, 3).T
    errors = np.nan_to_num([value - low, high - value]).clip(0)
    axes.errorbar(value, places, xerr=errors, fmt="o", color=BLUE, markersize=5, linewidth=1.2)
    axes.plot([row["detected"] for row in rows], places, "|", color=ORANGE, markersize=9, label="detected")
    axes.set_yticks(places, [f"{row['stratum']}: {row['value']} ({row['sources']:,})" for row in rows])
    axes.set(xlabel="share that passes", xlim=(-0.02, 1.02))
    legend(axes, loc="lower left")
    return figure


def limits(bins: Sequence[Mapping[str, Any]], detected: Sequence[Mapping[str, Any]]) -> "Figure":
    """Share found by true SNR: accepted, detected, and what a matched filter in white noise passes."""
    figure, axes = new_figure(4.8, 3.4)
    middle = np.array([np.sqrt(one["low"] * min(one["high"], 3 * one["low"])) for one in bins])
    value = np.array([one["found"] for one in bins])
    ends = np.array([one["interval"] for one in bins])
    errors = np.clip([value - ends[:, 0], ends[:, 1] - value], 0, None)
    axes.plot(middle, [one["limit"] for one in bins], color=INK, linestyle=":", label="matched filter")
    axes.plot(middle, [one["found"] for one in detected], color=ORANGE, label="detected", linewidth=1.2)
    axes.errorbar(middle, value, errors, fmt="o", color=BLUE, markersize=5, linewidth=1.2, label="accepted")
    axes.set_xscale("log")
    axes.set_xticks(_SNR_TICKS, [str(one) for one in _SNR_TICKS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="true |SNR|", ylabel="share found", ylim=(-0.02, 1.04))
    legend(axes, loc="lower right")
    return figure
