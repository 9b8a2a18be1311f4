"""Which classes are taken for which, and which kinds of artifacts pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError
from astrid_dist.evaluation.matching import CountedFraction

Floats = NDArray[np.float64]


def confusion(truth: ArrayLike, told: ArrayLike, classes: int, weight: ArrayLike | None = None) -> Floats:
    """(classes, classes) weight of examples of each true class (row) that were told to be each (column).

    Parameters
    ----------
    truth, told : (n,) array_like of int
        Codes from 0; leave out examples of unknown class.
    classes : int
    weight : (n,) array_like, optional

    Raises
    ------
    InputError
        A code outside 0 to `classes` - 1, or arrays of different lengths.
    """
    t, p = np.asarray(truth, np.int64), np.asarray(told, np.int64)
    w = np.ones(t.shape) if weight is None else np.asarray(weight, np.float64)
    if t.ndim != 1 or t.shape != p.shape or t.shape != w.shape:
        raise InputError(f"truths {t.shape}, told {p.shape}, weights {w.shape}: all must be (n,)")
    for name, code in (("truth", t), ("told", p)):
        if len(code) and not (code.min() >= 0 and code.max() < classes):
            raise InputError(
                f"{name} has class codes {code.min()} to {code.max()}, there are {classes} classes from 0: "
                "leave out what is of no class"
            )
    return np.bincount(t * classes + p, w, classes**2).reshape(classes, classes).astype(np.float64)


def recalls(matrix: ArrayLike) -> Floats:
    """(classes,) share of each true class that was told as it is; NaN for a class without examples."""
    m = np.asarray(matrix, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diagonal(m) / m.sum(axis=1))


def purities(matrix: ArrayLike) -> Floats:
    """(classes,) share of what was told to be of each class that is; NaN for a class never told."""
    return recalls(np.asarray(matrix).T)


def passing(
    score: ArrayLike, kind: Sequence[str] | NDArray[np.str_], threshold: float
) -> dict[str, CountedFraction]:
    """Share of each kind that passes a threshold, the largest first.

    Parameters
    ----------
    score : (n,) array_like
        NaN passes nothing.
    kind : (n,) sequence of str
        Kind or class of each example.
    """
    s, k = np.asarray(score, np.float64), np.asarray(kind, str)
    if s.shape != k.shape:
        raise InputError(f"scores {s.shape}, kinds {k.shape}: one kind for each score is needed")
    names, code = np.unique(k, return_inverse=True)
    trials = np.bincount(code, minlength=len(names))
    passed = np.bincount(code, s >= threshold, minlength=len(names)).astype(int)
    parts = {str(n): CountedFraction(int(t), int(p)) for n, t, p in zip(names, trials, passed, strict=True)}
    return dict(sorted(parts.items(), key=lambda item: -item[1].fraction))


def rejected(
    score: ArrayLike, kind: Sequence[str] | NDArray[np.str_], threshold: float
) -> dict[str, CountedFraction]:
    """Share of each kind of artifact that a threshold rejects, the worst first; see `passing`."""
    return {
        name: CountedFraction(one.trials, one.trials - one.found)
        for name, one in passing(score, kind, threshold).items()
    }
