"""Distribution of S_corr beside the unit Gaussian it should be on empty sky."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from astrid_dist.figures.canvas import BLUE, INK, ORANGE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Bin edges of S_corr used throughout.
SCORE_EDGES = np.linspace(-12, 12, 121)


def score_histogram(counts: ArrayLike, edges: ArrayLike = SCORE_EDGES, *, threshold: float = 5.0) -> "Figure":
    """Draw pixel counts of S_corr with the unit Gaussian of as many pixels over them.

    Parameters
    ----------
    counts : (n,) array_like
        Pixels per bin; add up as many images as you like.
    edges : (n + 1,) array_like
        Bin edges in standard deviations.
    threshold : float
        Detection threshold, marked on both sides.
    """
    from scipy.special import erf

    n, e = np.asarray(counts, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    figure, axes = new_figure()
    axes.stairs(n, e, color=BLUE, fill=True, alpha=0.35)
    axes.stairs(n, e, color=BLUE, linewidth=1.2, label="pixels")
    expected = n.sum() * 0.5 * np.diff(erf(e / np.sqrt(2)))
    middle = 0.5 * (e[1:] + e[:-1])
    seen = expected > 0.3
    axes.plot(middle[seen], expected[seen], color=ORANGE, linewidth=1.6, label="Gaussian, mean 0, std 1")
    for sign in (-1, 1):
        axes.axvline(sign * threshold, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(0.5, max(10.0, 3 * n.max(initial=1)))
    axes.set_xlim(e[0], e[-1])
    axes.set_xlabel("S_corr (standard deviations)")
    axes.set_ylabel(f"pixels per {e[1] - e[0]:.2g} σ")
    legend(axes, loc="upper left")
    return figure


def residuals(values: ArrayLike, unit: str, what: str, *, expect_unit_gaussian: bool = False) -> "Figure":
    """Draw a histogram of measured-minus-true values, with median and robust scatter written on it.

    Parameters
    ----------
    values : array_like
        Residuals; NaN is left out.
    unit, what : str
        Unit in brackets, and the axis' name.
    expect_unit_gaussian : bool
        Draw the unit Gaussian too (for values already divided by their errors).
    """
    v = np.asarray(values, dtype=np.float64)
    v = v[np.isfinite(v)]
    figure, axes = new_figure(2.45, 2.3)
    if v.size:
        median = float(np.median(v))
        scatter = 0.5 * float(np.diff(np.percentile(v, [15.87, 84.13]))[0])
        reach = 5.0 if expect_unit_gaussian else max(4 * scatter, 1e-9)
        edges = np.linspace(-reach, reach, 21)
        axes.stairs(
            np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0], edges, color=BLUE, fill=True, alpha=0.5
        )
        if expect_unit_gaussian:
            x = np.linspace(-reach, reach, 200)
            axes.plot(
                x, v.size * (edges[1] - edges[0]) * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi), color=ORANGE
            )
        axes.set_title(f"median {median:+.3f}, scatter {scatter:.3f}", fontsize=8.5, color=INK)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"{what} ({unit})", fontsize=9)
    axes.set_ylabel("detections", fontsize=9)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return figure
