"""Science, reference, difference and score of one detection, side by side."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.figures.canvas import INK, new_figure, tone_down

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: What each plane is called, in the order they are drawn.
PLANES = ("science", "reference", "difference", "S_corr")
#: Colour of pixels without data.
_NO_DATA = (0.55, 0.47, 0.30, 1.0)
#: Score and difference saturate their colours here, standard deviations.
_SPAN = 8.0
#: Where the asinh stretch is black and white, standard deviations from the level.
_ENDS = (-2 * np.sinh(1.0), 200.0)


def triplet(
    science: ArrayLike,
    reference: ArrayLike,
    difference: ArrayLike,
    score: ArrayLike,
    *,
    title: str = "",
) -> "Figure":
    """Draw the four planes of one detection.

    Parameters
    ----------
    science, reference, difference : (y, x) array_like
        Stamps in electrons, background subtracted; science and reference share one stretch.
    score : (y, x) array_like
        Stamp of S_corr.
    title : str
        What is drawn, above the panels.

    Returns
    -------
    Figure
        Four panels, their scale below them; NaN is ochre.
    """
    figure, axes = new_figure(7.2, 2.6 if title else 2.3, 1, 4)
    for one, picture, name in zip(
        axes, _pictures(science, reference, difference, score), PLANES, strict=True
    ):
        one.imshow(picture, origin="lower", interpolation="nearest")
        one.set_title(name, fontsize=9, color=INK)
        one.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=9, color=INK)
    noise = _both_level(science, reference)[1]
    reach = _SPAN * robust_level(np.asarray(difference, dtype=np.float64))[1]
    low, high = _ENDS
    figure.supxlabel(
        f"science and reference: asinh scale, {_digits(low * noise)} to {_digits(high * noise)} electron "
        f"around the median;\ndifference: ±{_digits(reach)} electron; S_corr: ±{_SPAN:g}",
        fontsize=8,
        color=INK,
    )
    return figure


def _digits(value: float) -> str:
    """About three digits, and never a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def stretch_bar(picture: "AxesImage", level: float, noise: float, label: str) -> None:
    """A colour bar beside a stretched image, with the values that its greys stand for."""
    figure, axes = picture.figure, picture.axes
    values = level + noise * np.array([-2.0, 0.0, 5.0, 20.0, 100.0])
    decimals = max(0, 1 - int(np.floor(np.log10(noise))))
    bar = figure.colorbar(picture, ax=axes, ticks=stretch(values, level, noise).tolist())
    bar.ax.set_yticklabels([f"{value:.{decimals}f}" for value in np.round(values, decimals) + 0.0])
    bar.set_label(label)
    bar.outline.set_visible(False)
    tone_down(bar.ax)


def triplet_png(science: ArrayLike, reference: ArrayLike, difference: ArrayLike, score: ArrayLike) -> bytes:
    """The same four planes as one strip, one image pixel per stamp pixel, for pages with many of them.

    Show it enlarged with ``image-rendering: pixelated``.
    """
    from PIL import Image

    pictures = [picture[::-1] for picture in _pictures(science, reference, difference, score)]
    gap = np.full((pictures[0].shape[0], 1, 4), (0.5, 0.5, 0.5, 1.0))
    strip = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
    out = BytesIO()
    Image.fromarray(np.rint(255 * strip).astype(np.uint8)).save(out, "PNG", optimize=True)
    return out.getvalue()


def _pictures(
    science: ArrayLike, reference: ArrayLike, difference: ArrayLike, score: ArrayLike
) -> list[NDArray[np.float64]]:
    new, ref, diff, scores = (
        np.asarray(plane, dtype=np.float64) for plane in (science, reference, difference, score)
    )
    level, noise = _both_level(new, ref)
    return [
        _coloured(stretch(new, level, noise), "gray"),
        _coloured(stretch(ref, level, noise), "gray"),
        _coloured(0.5 + 0.5 * diff / (_SPAN * robust_level(diff)[1]), "RdBu_r"),
        _coloured(0.5 + 0.5 * scores / _SPAN, "RdBu_r"),
    ]


def _both_level(science: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
    planes = [np.asarray(plane, dtype=np.float64).ravel() for plane in (science, reference)]
    return robust_level(np.concatenate(planes))


def robust_level(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and standard deviation from the lower half (which sources leave alone); (0, 1) without data."""
    good = values[np.isfinite(values)]
    if good.size == 0:
        return 0.0, 1.0
    level = float(np.median(good))
    below = level - float(np.percentile(good, 16))
    return level, below if below > 0 else 1.0


def stretch(values: ArrayLike, level: float, noise: float) -> NDArray[np.float64]:
    """Asinh stretch (Lupton et al. 1999) to 0..1: linear in the noise, logarithmic above; NaN stays."""
    sigmas = (np.asarray(values, dtype=np.float64) - level) / noise
    return np.asarray(np.clip((np.arcsinh(sigmas / 2) + 1.0) / (np.arcsinh(100.0) + 1.0), 0, 1))


def _coloured(values: NDArray[np.float64], colormap: str) -> NDArray[np.float64]:
    from matplotlib import colormaps

    return np.asarray(colormaps[colormap].with_extremes(bad=_NO_DATA)(np.ma.masked_invalid(values)))
