"""Intervals by resampling images: candidates of one image share its seeing, stars and faults.

Whole groups are drawn with replacement (the cluster bootstrap, Davison & Hinkley 1997, section 3.8), as many
as there are, and the interval lies between percentiles. Intervals from single candidates are too narrow by
the square root of 1 + (candidates per image - 1) x their correlation. Below about ten groups percentiles are
too narrow as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A statistic of all examples, with its interval; NaN where it is not defined or from one group alone."""

    value: float
    low: float
    high: float
    groups: int

    def __str__(self) -> str:
        """Value and interval."""
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def bootstrap(
    statistic: Callable[[Ints], float],
    groups: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of any statistic.

    Parameters
    ----------
    statistic : callable
        Takes indices into the examples, with repetitions; NaN where it is not defined, and such draws are
        left out. An InputError counts as NaN.
    groups : (n,) array_like
        Image, or any code, of each example.
    draws : int
    level : float
        Chance that the interval holds the truth.
    seed : int
        The same seed and groups draw the same.

    Raises
    ------
    InputError
        No examples, or settings that make no interval.

    Examples
    --------
    >>> found = bootstrap(lambda rows: np.array([1.0, 2, 3, 4])[rows].mean(), [0, 0, 1, 1])
    >>> found.value, found.groups
    (2.5, 2)
    """
    code = _coded(groups, draws, level)
    number = int(code.max()) + 1
    order = np.argsort(code, kind="stable")
    start = np.searchsorted(code[order], np.arange(number + 1))
    members = np.split(order, start[1:-1])
    rng = _generator(seed)

    def value(rows: Ints) -> float:
        try:
            return float(statistic(rows))
        except InputError:
            return float("nan")

    drawn = [
        value(np.concatenate([members[g] for g in rng.integers(0, number, number)])) for _ in range(draws)
    ]
    whole = value(np.arange(len(code)))
    low, high = _percentiles(np.array(drawn)[:, None], number, level)
    return Interval(whole, float(low[0]), float(high[0]), number)


def ratio_interval(
    part: ArrayLike,
    whole: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of sum(part) / sum(whole), from sums per group: precision, recall, false positives per image.

    Parameters
    ----------
    part, whole : (n,) array_like
        What is summed: for recall, weights of the real examples that pass, and of the real ones.
    groups : (n,) array_like
        Image of each. An image without candidates has no row here: for rates per image give one row for each.
    draws, level, seed
        As for `bootstrap`, which gives the same interval, more slowly.

    Raises
    ------
    InputError
        No examples, arrays that do not fit, or settings that make no interval.
    """
    return ratio_intervals(
        np.asarray(part, float)[:, None],
        np.asarray(whole, float)[:, None],
        groups,
        draws=draws,
        level=level,
        seed=seed,
    )[0]


def ratio_intervals(
    part: ArrayLike,
    whole: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Ratios of the same examples, one for each stratum or threshold: as above, `part` and `whole` (n, k)."""
    a, b = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"parts {a.shape}, wholes {b.shape}: both must be (n, k)")

    def ratio(sums: Floats) -> Floats:
        top, bottom = np.split(sums, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(bottom != 0, top / bottom, np.nan)

    each = np.concatenate([a, b], axis=1)
    return bootstrap_sums(ratio, each, groups, draws=draws, level=level, seed=seed)


def bootstrap_sums(
    statistic: Callable[[Floats], Floats],
    values: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Intervals of statistics which need sums over examples alone: each group is summed up once.

    Parameters
    ----------
    statistic : callable
        Takes the (m,) sums of `values`, returns (k,) statistics, NaN where one is not defined.
    values : (n, m) array_like
    groups, draws, level, seed
        As for `bootstrap`.

    Raises
    ------
    InputError
        As for `bootstrap`.
    """
    code = _coded(groups, draws, level)
    v = np.asarray(values, np.float64)
    if len(v) != len(code):
        raise InputError(f"{len(v)} rows of values, {len(code)} groups: one for each example is needed")
    number = int(code.max()) + 1
    sums = np.zeros((number, v.shape[1]))
    np.add.at(sums, code, v)
    rng = _generator(seed)
    times = (np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(draws))
    low, high = _percentiles(np.array([statistic(one @ sums) for one in times]), number, level)
    value = np.asarray(statistic(sums.sum(axis=0)))
    ends = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*one, groups=number) for one in ends]


def _coded(groups: ArrayLike, draws: int, level: float) -> Ints:
    g = np.asarray(groups)
    if g.ndim != 1 or not len(g):
        raise InputError(
            f"groups of shape {g.shape}: one for each example is needed, and one example at least"
        )
    if draws < 2 or not 0 < level < 1:
        raise InputError(f"{draws} draws, level {level}: 2 draws at least, and a level between 0 and 1")
    return np.unique(g, return_inverse=True)[1].astype(np.int64)


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def _percentiles(drawn: Floats, groups: int, level: float) -> tuple[Floats, Floats]:
    """Ends of the interval of each column; NaN where no two draws are defined."""
    known = np.isfinite(drawn)
    ends = np.full((2, drawn.shape[1]), np.nan)
    for column in np.flatnonzero(known.sum(axis=0) >= 2) if groups > 1 else []:
        ends[:, column] = np.quantile(drawn[known[:, column], column], [(1 - level) / 2, (1 + level) / 2])
    return ends[0], ends[1]
