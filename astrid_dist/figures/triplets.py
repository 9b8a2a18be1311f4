"""Science, reference, difference and score of one detection, side by side."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.figures.canvas import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What each plane is called, in the order they are drawn.
PLANES = ("science", "reference", "difference", "S_corr")
#: Colour of pixels without data.
_NO_DATA = (0.55, 0.47, 0.30, 1.0)
#: Score and difference saturate their colours here, standard deviations.
_SPAN = 8.0


def triplet(science: ArrayLike, reference: ArrayLike, difference: ArrayLike, score: ArrayLike) -> "Figure":
    """Draw the four planes of one detection.

    Parameters
    ----------
    science, reference, difference : (y, x) array_like
        Stamps in electrons, background subtracted; science and reference share one stretch.
    score : (y, x) array_like
        Stamp of S_corr.

    Returns
    -------
    Figure
        Four panels; NaN is ochre.
    """
    figure, axes = new_figure(7.2, 2.1, 1, 4)
    for one, picture, name in zip(
        axes, _pictures(science, reference, difference, score), PLANES, strict=True
    ):
        one.imshow(picture, origin="lower", interpolation="nearest")
        one.set_title(name, fontsize=9, color=INK)
        one.set_axis_off()
    return figure


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
    both = np.concatenate([new.ravel(), ref.ravel()])
    level, noise = robust_level(both)
    return [
        _coloured(stretch(new, level, noise), "gray"),
        _coloured(stretch(ref, level, noise), "gray"),
        _coloured(0.5 + 0.5 * diff / (_SPAN * robust_level(diff)[1]), "RdBu_r"),
        _coloured(0.5 + 0.5 * scores / _SPAN, "RdBu_r"),
    ]


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
