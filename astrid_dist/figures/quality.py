"""Quality over time, and over the tiles of an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.figures.canvas import INK, legend, new_figure
from astrid_dist.figures.curves import side_by_side, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colour and symbol of each verdict, best first; the symbol tells them apart without the colour.
VERDICTS = {
    "green": ("#2fa07c", "o"),
    "yellow": ("#d9b52c", "s"),
    "orange": ("#dd7f2b", "^"),
    "red": ("#c2362f", "X"),
}
#: What is none of these (quarantined, in its own reference).
_OTHER = (INK, ".")
_NO_DATA = (0.55, 0.55, 0.55, 0.35)


@dataclass(frozen=True)
class Panel:
    """One quantity against time."""

    label: str
    """Name and unit."""
    values: Sequence[float]
    limits: tuple[float | None, float | None] = (None, None)
    """Lowest and highest green value, drawn as lines."""


def trend(
    mjd: ArrayLike, panels: Sequence[Panel], verdicts: Sequence[str], *, width_in: float = 7.4
) -> "Figure":
    """Draw quantities against time, one below the other; each point has its epoch's verdict.

    Parameters
    ----------
    mjd : (n,) array_like
        Days.
    panels : sequence of Panel
        With n values each; NaN is left out.
    verdicts : (n,) sequence of str
        One of `VERDICTS`; anything else is a grey dot.
    width_in : float
        Inches.
    """
    times, names = np.asarray(mjd, dtype=np.float64), np.asarray(verdicts, dtype=object)
    start, per_day, label, limits = time_axis(times)
    shown = side_by_side((times - start) * per_day, limits[1] - limits[0])
    figure, axes = new_figure(width_in, 0.55 + 1.15 * len(panels), len(panels), 1)
    kinds = [*VERDICTS, ""]
    every = np.atleast_1d(axes)
    for one, panel in zip(every, panels, strict=True):
        values = np.asarray(panel.values, dtype=np.float64)
        for kind in kinds:
            colour, symbol = VERDICTS.get(kind, _OTHER)
            chosen = (names == kind) if kind else ~np.isin(names, list(VERDICTS))
            chosen = chosen & np.isfinite(values)
            if chosen.any():
                one.plot(
                    shown[chosen], values[chosen], symbol, color=colour, markersize=4.5, label=kind or "other"
                )
        for limit in panel.limits:
            if limit is not None and np.isfinite(values).any():
                _line_if_near(one, limit, values)
        one.set_ylabel(panel.label, fontsize=8)
        one.set_xlim(*limits)
        one.ticklabel_format(useOffset=False)
        if one is not every[-1]:
            one.tick_params(labelbottom=False)
    every[-1].set_xlabel(label)
    drawn = {
        name: handle for one in every for handle, name in zip(*one.get_legend_handles_labels(), strict=True)
    }
    if len(drawn) > 1:
        legend(every[0], handles=list(drawn.values()), ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def _line_if_near(axes: "Axes", limit: float, values: NDArray[np.float64]) -> None:
    """A dotted line at a limit, unless it would squeeze the points together."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = max(high - low, 0.05 * abs(limit), 1e-9)
    if low - 2 * span <= limit <= high + 2 * span:
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=":")


def verdict_counts(
    labels: Sequence[str], counts: Sequence[Sequence[int]], *, width_in: float = 7.4
) -> "Figure":
    """Draw how many epochs of each night (or field) have each verdict, as stacked bars.

    Parameters
    ----------
    labels : (n,) sequence of str
        Names of the nights.
    counts : (n, 4) sequence
        Epochs that are green, yellow, orange, red.
    """
    numbers = np.asarray(counts, dtype=np.int64).reshape(len(labels), len(VERDICTS))
    figure, axes = new_figure(width_in, 2.2)
    below = np.zeros(len(labels), np.int64)
    places = np.arange(len(labels))
    for (name, (colour, _)), column in zip(VERDICTS.items(), numbers.T, strict=True):
        axes.bar(places, column, bottom=below, color=colour, width=0.8, label=name)
        below += column
    step = max(1, len(labels) // 12)
    axes.set_xticks(places[::step], list(labels)[::step], rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("epochs")
    axes.yaxis.get_major_locator().set_params(integer=True)
    legend(axes, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return figure


def tile_map_png(values: ArrayLike, low: float, high: float) -> bytes:
    """A map of tiles as a picture with one pixel per tile, north as stored: row 0 at the bottom.

    Show it enlarged with ``image-rendering: pixelated``. Colours run from `low` (dark) to `high` (bright);
    NaN is grey.
    """
    from matplotlib import colormaps

    plane = np.asarray(values, dtype=np.float64)
    scaled = np.clip((plane - low) / max(high - low, 1e-12), 0, 1)
    colours = np.asarray(colormaps["viridis"](np.nan_to_num(scaled)))
    colours[~np.isfinite(plane)] = _NO_DATA
    return _picture(colours)


def verdict_map_png(codes: ArrayLike) -> bytes:
    """A map of verdicts by tile, -1 no data, 0 red to 3 green; as `tile_map_png`."""
    from matplotlib.colors import to_rgba

    table = np.array([*(to_rgba(colour) for colour, _ in reversed(VERDICTS.values())), _NO_DATA])
    return _picture(table[np.asarray(codes, dtype=np.int64)])


def _picture(colours: NDArray[np.float64]) -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.rint(255 * colours[::-1]).astype(np.uint8)).save(out, "PNG", optimize=True)
    return out.getvalue()
