"""Completeness, or purity, as a curve over SNR or magnitude, and where it passes 50 and 90 per cent.

Counts in bins with their intervals are `matching.completeness`. Sources that could not be put in count
nowhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from astrid_dist.errors import InputError
from astrid_dist.evaluation.bootstrap import Interval, bootstrap_sums
from astrid_dist.evaluation.matching import CompletenessBin

Floats = NDArray[np.float64]

#: Bins that examples are counted in before a curve is fitted; finer than any curve.
_FINE = 64


@dataclass(frozen=True)
class Curve:
    """top / (1 + exp(-(x - middle) / width)), with a negative width where it falls, as over magnitude."""

    middle: float
    width: float
    top: float

    def __call__(self, x: ArrayLike) -> Floats:
        """Fraction at `x`, of any shape."""
        return np.asarray(self.top * expit((np.asarray(x, np.float64) - self.middle) / self.width))

    def point(self, level: float) -> float:
        """Where the curve passes a level; NaN if it never gets there."""
        if not 0 < level < self.top:
            return float("nan")
        return float(self.middle - self.width * np.log(self.top / level - 1))


def crossing(bins: list[CompletenessBin], level: float) -> float:
    """Where counted fractions pass a level for good, by lines between the middles of bins.

    Which side is faint is told by the fractions: they rise with SNR and fall with magnitude. Empty bins are
    passed over. NaN where fewer than two bins have examples, or the level is not passed.
    """
    full = [b for b in bins if b.trials]
    if len(full) < 2:
        return float("nan")
    x = np.array([(b.low + b.high) / 2 for b in full])
    y = np.array([b.fraction for b in full])
    if y[-1] < y[0]:
        x, y = x[::-1], y[::-1]
    below = np.flatnonzero(y < level)
    if not len(below) or below[-1] == len(y) - 1:
        return float("nan")
    k = int(below[-1])
    return float(x[k] + (level - y[k]) / (y[k + 1] - y[k]) * (x[k + 1] - x[k]))


def fit_curve(values: ArrayLike, found: ArrayLike, weight: ArrayLike | None = None) -> Curve:
    """The likeliest logistic curve with a top of 1 or less.

    Parameters
    ----------
    values : (n,) array_like
        SNR or magnitude; logarithms of SNR fit wide ranges better.
    found : (n,) array_like of bool
    weight : (n,) array_like, optional

    Raises
    ------
    InputError
        Arrays that do not fit, fewer than ten examples, all values equal, or all or none found.
    """
    x, hit, w = _checked(values, found, weight)
    middle, at = _fine(x)
    trials, hits = (np.bincount(at, of, len(middle)).astype(np.float64) for of in (w, w * hit))
    return _fit(middle, trials, hits)


def curve_points(
    values: ArrayLike,
    found: ArrayLike,
    groups: ArrayLike,
    levels: tuple[float, ...] = (0.5, 0.9),
    *,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Where the fitted curve passes each level, with intervals from resampled images.

    Parameters
    ----------
    values, found : (n,) array_like
        As for `fit_curve`.
    groups : (n,) array_like
        Image of each example.
    levels : tuple of float
        Fractions, such as 0.5 and 0.9.
    draws, level, seed
        As for `bootstrap.bootstrap`.

    Returns
    -------
    list of Interval
        One for each level, in the unit of `values`; NaN where the curve never gets there.

    Raises
    ------
    InputError
        As for `fit_curve`.
    """
    x, hit, w = _checked(values, found, None)
    middle, at = _fine(x)
    image = np.asarray(groups)
    if image.shape != x.shape:
        raise InputError(f"values {x.shape}, groups {image.shape}: one group for each value is needed")
    images, image = np.unique(image, return_inverse=True)
    cell, shape = image * len(middle) + at, (len(images), len(middle))
    counts = [np.bincount(cell, of, len(images) * len(middle)).reshape(shape) for of in (w, hit)]

    def points(sums: Floats) -> Floats:
        trials, hits = np.split(sums, 2)
        if not 0 < hits.sum() < trials.sum():
            return np.full(len(levels), np.nan)
        curve = _fit(middle, trials, hits)
        return np.array([curve.point(one) for one in levels])

    return bootstrap_sums(
        points, np.concatenate(counts, axis=1), np.arange(len(images)), draws=draws, level=level, seed=seed
    )


def _checked(values: ArrayLike, found: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    x, hit = np.asarray(values, np.float64), np.asarray(found, bool).astype(np.float64)
    w = np.ones(x.shape) if weight is None else np.asarray(weight, np.float64)
    if x.ndim != 1 or x.shape != hit.shape or x.shape != w.shape:
        raise InputError(f"values {x.shape}, found {hit.shape}, weights {w.shape}: all must be (n,)")
    if not np.isfinite(x).all():
        raise InputError(f"{int((~np.isfinite(x)).sum())} values are not finite: leave out what has no SNR")
    if len(x) < 10 or x.min() == x.max() or not 0 < w @ hit < w.sum():
        raise InputError(
            f"{len(x)} examples, {int(hit.sum())} found: a curve needs ten at least, at different values, "
            "some found and some not"
        )
    return x, hit, w


def _fine(x: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Mean value of each fine bin of about equal number, and the bin of each example."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _FINE + 1)[1:-1]))
    _, at = np.unique(np.searchsorted(edges, x, side="right"), return_inverse=True)
    return np.bincount(at, x) / np.bincount(at), at


def _fit(x: Floats, trials: Floats, hits: Floats) -> Curve:
    """Maximum likelihood from counts; the scale is that of `x`, the top between 0 and 1 by a logit."""
    whole = trials.sum()
    centre = float(trials @ x / whole)
    scale = float(np.sqrt(trials @ (x - centre) ** 2 / whole))
    z = (x - centre) / scale
    missed = trials - hits

    def loss(at: Floats) -> tuple[float, Floats]:
        rise, top = expit(at[0] + at[1] * z), expit(at[2])
        p = np.clip(top * rise, 1e-12, 1 - 1e-12)
        value = -(hits @ np.log(p) + missed @ np.log1p(-p)) / whole
        slope = (missed / (1 - p) - hits / p) / whole
        along = slope * p * (1 - rise)
        return float(value), np.array([along.sum(), along @ z, (slope * p).sum() * (1 - top)])

    sign = 1.0 if np.cov(z, hits / np.maximum(trials, 1e-12), aweights=trials)[0, 1] >= 0 else -1.0
    box = [(-50, 50), (0.05, 200) if sign > 0 else (-200, -0.05), (-3, 12)]
    best = min(
        (
            minimize(loss, [0.0, sign * steep, 3.0], jac=True, method="L-BFGS-B", bounds=box)
            for steep in (1.5, 6.0)
        ),
        key=lambda found: float(found.fun),
    ).x
    return Curve(centre - scale * float(best[0] / best[1]), scale / float(best[1]), float(expit(best[2])))
