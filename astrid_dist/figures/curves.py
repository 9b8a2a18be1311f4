"""Completeness against a property, and brightness against time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    true_t = np.asarray([] if true_mjd is None else true_mjd, dtype=np.float64)
    start, per_day, label, limits = time_axis(np.concatenate([t, true_t]))
    t, true_t = (t - start) * per_day, (true_t - start) * per_day
    shown = side_by_side(t, limits[1] - limits[0])
    if not np.array_equal(shown, t, equal_nan=True):
        label += "\nequal times side by side"
    figure, axes = new_figure(4.8, 3.0)
    axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
    if true_mjd is not None and true_flux is not None:
        axes.plot(true_t, np.asarray(true_flux), color=ORANGE, linewidth=1.4, label="truth")
    for chosen, fill, name in ((hit, BLUE, "detected"), (~hit, "none", "below threshold")):
        if chosen.any():
            axes.errorbar(
                shown[chosen],
                f[chosen],
                error[chosen],
                fmt="o",
                color=BLUE if name == "detected" else GREEN,
                markerfacecolor=fill,
                markersize=5,
                linewidth=1.0,
                label=name,
            )
    axes.set_xlabel(label)
    axes.set_xlim(*limits)
    axes.set_ylabel(f"difference flux ({unit})")
    axes.ticklabel_format(useOffset=False, axis="x")
    legend(axes)
    return figure


def time_axis(mjd: NDArray[np.float64]) -> tuple[float, float, str, tuple[float, float]]:
    """Zero point (MJD), units in a day, label and limits of an axis on which all times can be told apart."""
    known = mjd[np.isfinite(mjd)]
    first, last = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    start, per_day, label = 0.0, 1, "MJD (days, UTC)"
    if known.size and last - first < 1:
        per_day, unit = (24, "hours") if last - first > 0.1 else (1440, "minutes")
        start = round(first, 5)
        label = f"{unit} since MJD {start:.5f} (UTC)"
    low, high = (first - start) * per_day, (last - start) * per_day
    margin = 0.05 * (high - low) or 1.0
    return start, per_day, label, (low - margin, high + margin)


def side_by_side(t: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Points of exactly one time set a little apart, in their order, so that each is seen."""
    shown = t.copy()
    times, counts = np.unique(t[np.isfinite(t)], return_counts=True)
    for time, count in zip(times[counts > 1], counts[counts > 1], strict=True):
        step = min(0.02, 0.2 / count) * width
        shown[t == time] += step * (np.arange(count) - (count - 1) / 2)
    return shown
