"""How well a score tells real from bogus: at a threshold, over all thresholds, and at any prior.

A candidate passes where score >= threshold. A prior is the share of real candidates: purity depends on it,
while completeness (the true positive rate) and the false positive rate do not. `PRIORS` names the usual ones.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Share of real candidates, by real to bogus.
PRIORS = MappingProxyType({"1:1": 1 / 2, "1:10": 1 / 11, "1:100": 1 / 101})


def examples(
    score: ArrayLike, real: ArrayLike, weight: ArrayLike | None = None
) -> tuple[Floats, Bools, Floats]:
    """Score, truth and weight as (n,) arrays; the weight is 1 where none is given.

    Raises
    ------
    InputError
        Other shapes, a score that is NaN, a weight that is negative or not finite, or all weights 0.
    """
    s, r = np.asarray(score, np.float64), np.asarray(real, bool)
    w = np.ones(s.shape) if weight is None else np.asarray(weight, np.float64)
    if s.ndim != 1 or s.shape != r.shape or s.shape != w.shape:
        raise InputError(f"scores {s.shape}, truths {r.shape}, weights {w.shape}: all must be (n,)")
    if lost := int(np.isnan(s).sum()):
        raise InputError(f"{lost} of {len(s)} scores are NaN: leave them out, or give them the lowest score")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise InputError("weights must be finite, 0 or more, and not all 0")
    return s, r, w


def prior_weights(real: ArrayLike, prior: float, weight: ArrayLike | None = None) -> Floats:
    """Weights (n,) under which the share of real examples is `prior`; they sum to the number of examples.

    Raises
    ------
    InputError
        One class has no weight, or the prior does not lie between 0 and 1.
    """
    _, r, w = examples(np.zeros(np.shape(real)), real, weight)
    if not 0 < prior < 1:
        raise InputError(f"a prior of {prior}: it is the share of real candidates, between 0 and 1")
    both = _both(r, w)
    return w * np.where(r, prior / both[0], (1 - prior) / both[1]) * len(w)


def purity_at(completeness: ArrayLike, fpr: ArrayLike, prior: float) -> Floats:
    """Purity of what passes, from the shares of real and bogus examples that pass; NaN where nothing does."""
    real, bogus = prior * np.asarray(completeness, float), (1 - prior) * np.asarray(fpr, float)
    with np.errstate(invalid="ignore"):
        return np.asarray(real / (real + bogus))


@dataclass(frozen=True)
class Counts:
    """Weights of examples by what they are and were told to be."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float

    @property
    def precision(self) -> float:
        """Share of real ones in what passes, the sample's own purity; NaN where nothing passes."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the real that passes, the completeness; NaN without real examples."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def fpr(self) -> float:
        """Share of the bogus that passes; NaN without bogus examples."""
        return _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing real passes."""
        return _ratio(
            2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative
        )

    def purity(self, prior: float) -> float:
        """Share of real ones in what passes if their share before were `prior`."""
        return float(purity_at(self.recall, self.fpr, prior))


def at_threshold(
    score: ArrayLike, real: ArrayLike, threshold: float, weight: ArrayLike | None = None
) -> Counts:
    """What passes a threshold; `score`, `real` and `weight` are (n,)."""
    s, r, w = examples(score, real, weight)
    passes = s >= threshold
    parts = (passes & r, passes & ~r, ~passes & r, ~passes & ~r)
    return Counts(*(float(w[part].sum()) for part in parts))


@dataclass(frozen=True)
class WorkingPoint:
    """A threshold and what it does; infinite where nothing may pass, with completeness 0 and purity NaN."""

    threshold: float
    completeness: float
    fpr: float
    purity: float


@dataclass(frozen=True)
class Ranking:
    """What passes every threshold that makes a difference: the ROC curve.

    Attributes
    ----------
    threshold : (k,)
        Distinct scores, falling, after infinity, which nothing passes.
    completeness, fpr : (k,)
        Shares of the real and of the bogus weight that pass, rising from 0 to 1.
    prior : float
        Share of the real weight in the sample.
    """

    threshold: Floats
    completeness: Floats
    fpr: Floats
    prior: float

    @property
    def auc(self) -> float:
        """Chance that a real example scores above a bogus one; ties count half (Hanley & McNeil 1982)."""
        return float(np.trapezoid(self.completeness, self.fpr))

    def purity(self, prior: float | None = None) -> Floats:
        """(k,) purity at each threshold, at the sample's prior or another; NaN at infinity."""
        return purity_at(self.completeness, self.fpr, self.prior if prior is None else prior)

    def average_precision(self, prior: float | None = None) -> float:
        """Mean purity over completeness, as steps: nothing is interpolated (Davis & Goadrich 2006)."""
        return float((np.diff(self.completeness) * self.purity(prior)[1:]).sum())

    def at(self, threshold: float, prior: float | None = None) -> WorkingPoint:
        """What any threshold does."""
        return self._point(
            int(np.searchsorted(-self.threshold, -threshold, side="right")) - 1, prior, threshold
        )

    def at_purity(self, purity: float, prior: float | None = None) -> WorkingPoint:
        """The most complete threshold of at least this purity."""
        return self._point(_last(self.purity(prior) >= purity - 1e-12), prior)

    def at_fpr(self, fpr: float, prior: float | None = None) -> WorkingPoint:
        """The most complete threshold that lets at most this share of the bogus pass."""
        return self._point(_last(self.fpr <= fpr + 1e-12), prior)

    def at_completeness(self, completeness: float, prior: float | None = None) -> WorkingPoint:
        """The strictest threshold that at least this share of the real passes."""
        return self._point(int(np.argmax(self.completeness >= completeness - 1e-12)), prior)

    def fnr_at_fpr(self, fpr: float) -> float:
        """Least share of the real lost by a threshold that lets at most `fpr` of the bogus pass."""
        return 1 - self.at_fpr(fpr).completeness

    def fpr_at_fnr(self, fnr: float) -> float:
        """Least share of the bogus that passes a threshold which loses at most `fnr` of the real."""
        return self.at_completeness(1 - fnr).fpr

    def break_even(self, prior: float | None = None) -> WorkingPoint:
        """Where purity and completeness come closest to one another, the stricter of two as close."""
        gap = np.abs(self.purity(prior) - self.completeness)
        return self._point(int(np.nanargmin(gap)), prior)

    @property
    def equal_error(self) -> float:
        """Error rate where as large a share of the real is lost as of the bogus passes, interpolated."""
        return float(np.interp(0, self.fpr + self.completeness - 1, self.fpr))

    def _point(self, k: int, prior: float | None, threshold: float | None = None) -> WorkingPoint:
        at = float(self.threshold[k]) if threshold is None else threshold
        return WorkingPoint(at, float(self.completeness[k]), float(self.fpr[k]), float(self.purity(prior)[k]))


def ranking(score: ArrayLike, real: ArrayLike, weight: ArrayLike | None = None) -> Ranking:
    """All thresholds of a score at once.

    Parameters
    ----------
    score : (n,) array_like
        Higher is more real; equal ones pass together.
    real : (n,) array_like of bool
    weight : (n,) array_like, optional

    Raises
    ------
    InputError
        Arrays that do not fit, see `examples`, or one class alone.

    Examples
    --------
    >>> told = ranking([0.9, 0.8, 0.7, 0.2], [True, True, False, False])
    >>> told.auc, told.at_purity(0.95).threshold
    (1.0, 0.8)
    """
    s, r, w = examples(score, real, weight)
    real_weight, bogus_weight = _both(r, w)
    order = np.argsort(-s, kind="stable")
    order = order[w[order] > 0]
    s, r, w = s[order], r[order], w[order]
    last = np.append(s[1:] != s[:-1], True)
    return Ranking(
        np.append(np.inf, s[last]),
        np.append(0, np.cumsum(w * r)[last] / real_weight).clip(max=1),
        np.append(0, np.cumsum(w * ~r)[last] / bogus_weight).clip(max=1),
        real_weight / (real_weight + bogus_weight),
    )


def _both(real: Bools, weight: Floats) -> tuple[float, float]:
    """Weight of the real and of the bogus examples."""
    both = float(weight[real].sum()), float(weight[~real].sum())
    if not min(both) > 0:
        raise InputError(
            f"{int(real.sum())} real and {int((~real).sum())} bogus examples with weights {both[0]:g} and "
            f"{both[1]:g}: this needs both classes"
        )
    return both


def _last(where: Bools) -> int:
    """Last index that holds; 0, which nothing passes, where none does."""
    return int(np.flatnonzero(where)[-1]) if where.any() else 0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
