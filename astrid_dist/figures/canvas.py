"""An empty figure that reads on light and on dark pages, and its PNG."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Text and axes: mid grey, 4:1 against white and against near-black alike.
INK = "#767d88"
#: Data, from a palette that colour-blind eyes tell apart (Okabe & Ito 2008), of middle lightness.
BLUE, ORANGE, GREEN, PURPLE, RED = "#3b8fd0", "#dd8a2b", "#2fa07c", "#b877b0", "#d1603d"


def new_figure(
    width_in: float = 6.4,
    height_in: float = 3.6,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
) -> "tuple[Figure, Any]":
    """A transparent figure and its axes (one `Axes`, or an array of them), rows of equal or given heights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(rows, columns, height_ratios=heights)
    for one in figure.axes:
        tone_down(one)
    return figure, axes


def tone_down(axes: "Axes") -> None:
    """Grey, thin axes on a transparent ground."""
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_linewidth(0.8)
        spine.set_visible(side in ("left", "bottom"))
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9, width=0.8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)


def legend(axes: "Axes", **options: Any) -> None:
    """A legend without a frame, in the axes' grey."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, **options)


def png(figure: "Figure", dpi: int = 144) -> bytes:
    """Render a figure with Agg; a figure made the same way gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": ""}, pil_kwargs={"optimize": True})
    return out.getvalue()
