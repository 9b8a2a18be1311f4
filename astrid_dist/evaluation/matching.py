"""Detections matched one to one with the truth, and fractions with their binomial intervals."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

Indices = NDArray[np.int64]


def match_one_to_one(
    x: ArrayLike, y: ArrayLike, true_x: ArrayLike, true_y: ArrayLike, radius_px: float = 2.0
) -> tuple[Indices, Indices]:
    """Pair detections with true positions, the closest pair first; nothing is used twice.

    Parameters
    ----------
    x, y : (n,) array_like
        Detections of one image, pixels.
    true_x, true_y : (m,) array_like
        True positions in the same image, pixels.
    radius_px : float
        Farthest a pair may be apart.

    Returns
    -------
    detection, truth : (k,) int arrays
        Indices of the pairs, in the order of `detection`.

    Examples
    --------
    >>> match_one_to_one([0.0, 1.0], [0.0, 0.0], [0.4], [0.0])
    (array([0]), array([0]))
    """
    detections = np.column_stack([np.asarray(x, float), np.asarray(y, float)]).reshape(-1, 2)
    truths = np.column_stack([np.asarray(true_x, float), np.asarray(true_y, float)]).reshape(-1, 2)
    if not len(detections) or not len(truths):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(detections).sparse_distance_matrix(cKDTree(truths), radius_px, output_type="ndarray")
    taken_d, taken_t = np.zeros(len(detections), bool), np.zeros(len(truths), bool)
    pairs = []
    for pair in np.lexsort((near["j"], near["i"], near["v"])):
        d, t = near["i"][pair], near["j"][pair]
        if not taken_d[d] and not taken_t[t]:
            taken_d[d] = taken_t[t] = True
            pairs.append((d, t))
    matched = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def wilson_interval(successes: float, trials: float, sigmas: float = 1.0) -> tuple[float, float]:
    """Interval of a binomial fraction by Wilson (1927), sound for few trials and at 0 and 1.

    Parameters
    ----------
    successes, trials : float
        Counts, or effective ones of weighted examples; no trials give (0, 1).
    sigmas : float
        Half width in Gaussian standard deviations: 1 covers 68%.
    """
    if trials == 0:
        return 0.0, 1.0
    fraction, z2 = successes / trials, sigmas**2
    middle = (fraction + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = fraction * (1 - fraction) / trials + z2 / (4 * trials**2)
    half = sigmas / (1 + z2 / trials) * float(np.sqrt(spread))
    # at 0 of n and n of n the closed form meets the ends exactly but for rounding
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


@dataclass(frozen=True)
class CountedFraction:
    """A share that was counted, with its uncertainty."""

    trials: int
    found: int

    @property
    def fraction(self) -> float:
        """Found over all, NaN where there are none."""
        return self.found / self.trials if self.trials else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """68% interval of the fraction."""
        return wilson_interval(self.found, self.trials)

    @property
    def interval95(self) -> tuple[float, float]:
        """95% interval of the fraction."""
        return wilson_interval(self.found, self.trials, 1.96)


@dataclass(frozen=True)
class CompletenessBin(CountedFraction):
    """Fraction of true objects found in a bin of magnitude or SNR; or of detections that are true."""

    low: float
    high: float


def completeness(values: ArrayLike, found: ArrayLike, edges: ArrayLike) -> list[CompletenessBin]:
    """Fraction found in bins of a property of the true objects; or of detections, how many are true: purity.

    Parameters
    ----------
    values : (n,) array_like
        Magnitude or SNR of each injectable true object (true SNR), or of each detection (measured SNR).
    found : (n,) array_like of bool
        Whether it was detected, or is true.
    edges : (bins + 1,) array_like
        Ascending; a bin holds its lower edge.
    """
    v, hit, e = np.asarray(values, float), np.asarray(found, bool), np.asarray(edges, float)
    return [
        CompletenessBin(int(inside.sum()), int((inside & hit).sum()), float(low), float(high))
        for low, high in pairwise(e)
        for inside in [(v >= low) & (v < high)]
    ]
