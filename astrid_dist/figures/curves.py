"""Completeness against a property, and brightness against time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Fraction:
    """One bin of a completeness curve."""

    low: float
    high: float
    fraction: float
    interval: tuple[float, float]
    trials: int


def completeness(bins: Sequence[Any], label: str, *, log: bool = False) -> "Figure":
    """Draw the fraction found per bin with its binomial interval.

    Parameters
    ----------
    bins : sequence
        Objects with ``low, high, fraction, interval, trials``: `Fraction`, or what
        `astrid_dist.evaluation.matching.completeness` gives.
    label : str
        Name and unit of the property.
    log : bool
        Logarithmic axis.
    """
    figure, axes = new_figure(4.8, 3.2)
    used = [one for one in bins if one.trials]
    if used:
        low, high = np.array([one.low for one in used]), np.array([one.high for one in used])
        middle = np.sqrt(low * high) if log else 0.5 * (low + high)
        value = np.array([one.fraction for one in used])
        ends = np.array([one.interval for one in used])
        errors = np.clip([value - ends[:, 0], ends[:, 1] - value], 0, None)
        axes.errorbar(
            middle,
            value,
            errors,
            [middle - low, high - middle],
            fmt="o",
            color=BLUE,
            markersize=5,
            linewidth=1.2,
        )
        for x, one in zip(middle, used, strict=True):
            axes.annotate(str(one.trials), (x, -0.085), fontsize=7.5, color=INK, ha="center", va="center")
    if log:
        axes.set_xscale("log")
    axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.14, 1.06)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlabel(label)
    axes.set_ylabel("fraction found")
    return figure


def light_curve(
    mjd: ArrayLike,
    flux: ArrayLike,
    flux_err: ArrayLike,
    *,
    detected: ArrayLike | None = None,
    true_mjd: ArrayLike | None = None,
    true_flux: ArrayLike | None = None,
    unit: str = "µJy",
) -> "Figure":
    """Draw flux against time, detections filled, with the truth where it is known.

    Parameters
    ----------
    mjd, flux, flux_err : (n,) array_like
        Measurements: days, and flux with its error in `unit`.
    detected : (n,) array_like of bool, optional
        Which are above the detection threshold; all, if left out.
    true_mjd, true_flux : (m,) array_like, optional
        The true light curve.
    unit : str
        Unit of the fluxes.
    """
    t, f, error = (np.asarray(v, dtype=np.float64) for v in (mjd, flux, flux_err))
    hit = np.ones(t.shape, bool) if detected is None else np.asarray(detected, bool)
    figure, axes = new_figure(4.8, 3.0)
    axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
    if true_mjd is not None and true_flux is not None:
        axes.plot(np.asarray(true_mjd), np.asarray(true_flux), color=ORANGE, linewidth=1.4, label="truth")
    for chosen, fill, label in ((hit, BLUE, "detected"), (~hit, "none", "below threshold")):
        if chosen.any():
            axes.errorbar(
                t[chosen],
                f[chosen],
                error[chosen],
                fmt="o",
                color=BLUE if label == "detected" else GREEN,
                markerfacecolor=fill,
                markersize=5,
                linewidth=1.0,
                label=label,
            )
    axes.set_xlabel("MJD (days, UTC)")
    axes.set_ylabel(f"difference flux ({unit})")
    axes.ticklabel_format(useOffset=False, axis="x")
    legend(axes)
    return figure
