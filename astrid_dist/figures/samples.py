"""Samples side by side, and how they are spread over what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, PURPLE, RED, legend, new_figure
from astrid_dist.figures.triplets import robust_level, stretch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]

#: What a strip shows, from left to right.
PARTS = ("science", "template", "difference", "S_corr", "target")
#: Colours of curves, in order; more than these are told apart by their dashes.
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
#: Difference and score saturate their colours here, standard deviations.
_SPAN = 8.0
#: Shades of grey, and of blue to red; then single colours.
_SHADES = 112
_NO_DATA, _GAP, _NO_TARGET, _TARGET = 2 * _SHADES, 2 * _SHADES + 1, 2 * _SHADES + 2, 2 * _SHADES + 3
_BETWEEN = 4  # pixels between the strips of a row


def in_sigmas(plane: ArrayLike) -> NDArray[np.float64]:
    """A plane above its level in units of its noise, where nobody knows them: both robust, of its own."""
    values = np.asarray(plane, dtype=np.float64)
    level, noise = robust_level(values)
    return (values - level) / noise


def strip(planes: ArrayLike, target: ArrayLike | None = None) -> Picture:
    """The planes of one sample side by side, one pixel for one, as numbers of colours of `palette`.

    Parameters
    ----------
    planes : (p, v, u) array_like
        In units of their noise: science and template in grey (asinh), what follows from blue to red
        (±8). NaN is ochre.
    target : (v, u) array_like of bool, optional
        Pixels of what was put in.

    Returns
    -------
    (v, w) uint8
        The first row of the stamps below.
    """
    parts = [
        _grey(plane) if number < 2 else _signed(plane)
        for number, plane in enumerate(np.asarray(planes, dtype=np.float64))
    ]
    if target is not None:
        parts.append(np.where(np.asarray(target) != 0, _TARGET, _NO_TARGET).astype(np.uint8))
    return wall([[part[::-1] for part in parts]])


def sequence(planes: ArrayLike) -> Picture:
    """Science of every visit in a row, and below it the difference, as numbers of colours of `palette`.

    Parameters
    ----------
    planes : (visit, p, v, u) array_like
        As in `strip`; the third plane is the difference.
    """
    stamps = np.asarray(planes, dtype=np.float64)
    return wall([[_grey(one[0])[::-1] for one in stamps], [_signed(one[2])[::-1] for one in stamps]])


def wall(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Pictures of one size in rows, a thin line between them; a short row ends in the lines' colour."""
    height, width = rows[0][0].shape
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + 1) - 1, columns * (width + 1) - 1)
    whole = np.full(size, _GAP, np.uint8)
    for i, row in enumerate(rows):
        for j, part in enumerate(row):
            y, x = i * (height + 1), j * (width + 1)
            whole[y : y + height, x : x + width] = part
    return whole


def _grey(plane: NDArray[np.float64]) -> Picture:
    return _shaded(stretch(plane, robust_level(plane)[0], 1.0), 0)


def _signed(plane: NDArray[np.float64]) -> Picture:
    return _shaded(np.clip(0.5 + 0.5 * plane / _SPAN, 0, 1), _SHADES)


def _shaded(shade: NDArray[np.float64], first: int) -> Picture:
    """Numbers of the shades 0..1 that begin at `first`."""
    known = np.isfinite(shade)
    picture = np.full(shade.shape, _NO_DATA, np.uint8)
    picture[known] = first + np.rint(shade[known] * (_SHADES - 1)).astype(np.uint8)
    return picture


@lru_cache(1)
def palette() -> NDArray[np.uint8]:
    """(256, 3) colours of the numbers in a strip."""
    from matplotlib import colormaps

    steps = np.linspace(0, 1, _SHADES)
    colours = np.zeros((256, 3))
    colours[:_SHADES] = steps[:, None]
    colours[_SHADES : 2 * _SHADES] = colormaps["RdBu_r"](steps)[:, :3]
    colours[_NO_DATA] = (0.55, 0.47, 0.30)
    colours[_GAP] = 0.5
    colours[_NO_TARGET], colours[_TARGET] = (0.15, 0.16, 0.18), (0.18, 0.63, 0.49)
    return np.rint(255 * colours).astype(np.uint8)


def strip_png(picture: Picture) -> bytes:
    """A strip as a small PNG of one byte per pixel; show it with ``image-rendering: pixelated``."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.putpalette(palette().tobytes())
    out = BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


@dataclass(frozen=True)
class Row:
    """Samples of one kind in a contact sheet."""

    name: str
    planes: NDArray[Any]
    """(n, p, v, u) in units of their noise; two rows may have stamps of different size and planes."""
    target: NDArray[Any] | None = None
    """(n, v, u)"""
    captions: Sequence[str] = ()


def contact_sheet(rows: Sequence[Row], columns: int = 6, width_in: float = 12.0) -> "Figure":
    """Named rows of samples, each a strip of its planes with its caption above.

    Parameters
    ----------
    rows : sequence of Row
        A row without samples stays empty.
    columns : int
        Samples shown of each row, at most.
    width_in : float
        Of the figure, inches.
    """
    strips = [[strip(row.planes[k], _of(row.target, k)) for k in range(_shown(row, columns))] for row in rows]
    width = max((sum(one.shape[1] + _BETWEEN for one in parts) for parts in strips), default=0)
    lines = [_line(parts, max(width, 1)) for parts in strips]
    heights = [width_in * line.shape[0] / line.shape[1] + 0.34 for line in lines]
    figure, axes = new_figure(width_in, sum(heights) + 0.1, len(rows), 1, heights)
    for one, row, parts, line in zip(np.atleast_1d(axes), rows, strips, lines, strict=True):
        one.imshow(line, interpolation="nearest")
        one.set_title(row.name, fontsize=9, color=INK, loc="left", pad=11)
        one.set_axis_off()
        place = 0
        for part, caption in zip(parts, row.captions, strict=False):
            one.annotate(caption, (place, -2), fontsize=6.5, color=INK, annotation_clip=False)
            place += part.shape[1] + _BETWEEN
    return figure


def _shown(row: Row, columns: int) -> int:
    return min(columns, len(row.planes))


def _of(target: NDArray[Any] | None, k: int) -> NDArray[Any] | None:
    return None if target is None else target[k]


def _line(parts: Sequence[Picture], width: int) -> Picture:
    """(v, width, 4) strips beside one another, then nothing: a pixel is as large in every row."""
    line = np.zeros((max((part.shape[0] for part in parts), default=1), width, 4), np.uint8)
    first = 0
    for part in parts:
        last = first + part.shape[1]
        line[:, first:last, :3], line[:, first:last, 3] = palette()[part], 255
        first = last + _BETWEEN
    return line


def balance(names: Sequence[str], asked: ArrayLike, got: ArrayLike, width_in: float = 5.2) -> "Figure":
    """Bars of how many samples of each name were asked for (outline) and could be put in (filled)."""
    wanted, made = np.asarray(asked, dtype=np.float64), np.asarray(got, dtype=np.float64)
    figure, axes = new_figure(width_in, 0.95 + 0.21 * max(len(names), 2))
    places = np.arange(len(names))
    axes.barh(places, made, 0.72, color=BLUE, alpha=0.55, label="put in")
    axes.barh(places, wanted, 0.72, fill=False, edgecolor=INK, linewidth=0.9, label="asked for")
    axes.set_yticks(places, list(names), fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    axes.set_xlabel("samples", fontsize=9)
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def spread(
    parts: Mapping[str, ArrayLike],
    edges: ArrayLike,
    label: str,
    *,
    width_in: float = 4.8,
    marked: float = 0.0,
) -> "Figure":
    """Histograms of one quantity over each other, a curve for each name.

    Parameters
    ----------
    parts : mapping of str to array_like
        Values by name; what is not finite is left out, what lies beyond is in the last bin.
    edges : (n + 1,) array_like
        Bin edges; the axis is logarithmic where their ratios are equal.
    label : str
        Name and unit of the quantity.
    width_in : float
        Of the figure, inches.
    marked : float
        A value to mark; 0 for none.
    """
    e = np.asarray(edges, dtype=np.float64)
    figure, axes = new_figure(width_in, 3.0)
    for number, (name, given) in enumerate(parts.items()):
        values = np.asarray(given, dtype=np.float64)
        values = np.clip(values[np.isfinite(values)], e[0], e[-1])
        style = ("-", "--", ":")[number // len(_COLOURS) % 3]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.stairs(np.histogram(values, e)[0], e, color=colour, linestyle=style, linewidth=1.4, label=name)
    if marked:
        axes.axvline(marked, color=INK, linewidth=0.8, linestyle=":")
    if e[0] > 0 and np.allclose(np.diff(np.log(e)), np.log(e[1] / e[0])):
        axes.set_xscale("log")
    axes.set_xlim(e[0], e[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("samples per bin")
    if len(parts) > 1:
        legend(axes)
    return figure


def against(x: ArrayLike, y: ArrayLike, x_label: str, y_label: str) -> "Figure":
    """Median and central 68 % of y in logarithmic bins of x, with the line of equals; both positive."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    good = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    a, b = a[good], b[good]
    figure, axes = new_figure(4.8, 3.0)
    if len(a):
        edges = np.geomspace(a.min(), a.max() * 1.001, 17)
        where = np.digitize(a, edges) - 1
        found = [k for k in range(16) if np.count_nonzero(where == k) >= 3]
        middle = np.sqrt(edges[found] * edges[np.add(found, 1)]) if found else np.zeros(0)
        ends = np.array([np.percentile(b[where == k], [16, 50, 84]) for k in found]).reshape(-1, 3)
        axes.plot(edges[[0, -1]], edges[[0, -1]], color=INK, linewidth=0.8, linestyle=":")
        axes.errorbar(
            middle, ends[:, 1], [ends[:, 1] - ends[:, 0], ends[:, 2] - ends[:, 1]],
            fmt="o", color=BLUE, markersize=4.5, linewidth=1.1,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure
