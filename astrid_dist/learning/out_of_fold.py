"""What classifiers are worth on examples they did not learn from: folds of the sky, scores, importances."""

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.learning.trees import Floats, Trees, TreesConfig, class_weights, grow

Labels = NDArray[np.bool_]
#: Folds of trees: trained on all others, and told nothing of their own.
Fitted = list[tuple[Trees, NDArray[np.bool_]]]
#: Examples of a fold on which features are shuffled.
_MOST = 2000


def folds_of(groups: NDArray[np.int64], real: Labels, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of every example, (n,): all examples of a group are in one fold, and each fold has both classes.

    Parameters
    ----------
    groups : (n,) int
        Places in the sky: what is seen twice at one place is no independent example.

    Raises
    ------
    InputError
        Too few groups have real examples, or bogus ones.
    """
    rng = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(place, weights=kind, minlength=len(names)) for kind in (real, ~real)])
    for kind, count in zip(("real", "bogus"), counts, strict=True):
        if (count > 0).sum() < folds:
            raise InputError(
                f"{kind} examples lie in {(count > 0).sum()} places of the sky, {folds} folds need as many: "
                "use more candidates, or fewer folds"
            )
    total = np.maximum(counts.sum(axis=1), 1)
    held, found = np.zeros((2, folds)), np.zeros(len(names), np.int64)
    # The largest groups first, each to the fold that has least of what it brings; ties by lot.
    order = np.lexsort([rng.random(len(names)), -(counts / total[:, None]).max(axis=0)])
    for group in order:
        need = (counts[:, group] / total) @ (held / total[:, None])
        fold = int(np.lexsort([held.sum(axis=0), need])[0])
        found[group] = fold
        held[:, fold] += counts[:, group]
    if not (held > 0).all():
        raise InputError(
            f"places of the sky do not share out to {folds} folds that have both real and bogus examples: "
            "use more candidates, or fewer folds"
        )
    return found[place]


def grow_folds(
    matrix: Floats, real: Labels, fold: NDArray[np.int64], config: TreesConfig, prior: float
) -> Fitted:
    """Trees of every fold, and which examples they did not see."""
    found = []
    for one in np.unique(fold):
        out = fold == one
        weight = class_weights(real[~out], prior)
        found.append((grow(matrix[~out], real[~out], weight, config), out))
    return found


def predicted(fitted: Fitted, matrix: Floats) -> Floats:
    """Log odds of every example by the trees that did not see it, (n,)."""
    logit = np.full(len(matrix), np.nan)
    for trees, out in fitted:
        logit[out] = trees.logit(matrix[out])
    return logit


def importances(
    fitted: Fitted, matrix: Floats, real: Labels, repeats: int, seed: int
) -> tuple[Floats, Floats]:
    """How far AUC on what trees did not see falls when a feature's values are shuffled (Breiman 2001).

    Of each fold at most `_MOST` examples are used.

    Returns
    -------
    mean, error : (features,) float64
        Over folds and repeats; standard error of the mean.
    """
    rng = np.random.default_rng(seed)
    drops = np.zeros((matrix.shape[1], len(fitted) * repeats))
    for number, (trees, out) in enumerate(fitted):
        chosen = rng.permutation(np.flatnonzero(out))[:_MOST]
        rows, truth = matrix[chosen], real[chosen]
        if truth.all() or not truth.any():
            chosen = np.flatnonzero(out)
            rows, truth = matrix[chosen], real[chosen]
        whole = auc(truth, trees.logit(rows))
        used = np.unique(trees.feature)
        for feature in used:
            kept = rows[:, feature].copy()
            for repeat in range(repeats):
                rows[:, feature] = rng.permutation(kept)
                drops[feature, number * repeats + repeat] = whole - auc(truth, trees.logit(rows))
            rows[:, feature] = kept
    return drops.mean(axis=1), drops.std(axis=1) / np.sqrt(drops.shape[1])


def auc(real: Labels, score: Floats) -> float:
    """Chance that a real example scores above a bogus one; ties count half."""
    from scipy.stats import rankdata

    positive, n = int(real.sum()), len(real)
    ranks = rankdata(score)
    return float((ranks[real].sum() - positive * (positive + 1) / 2) / (positive * (n - positive)))


def scores(real: Labels, score: Floats, completeness: float = 0.95) -> dict[str, float]:
    """``auc``, ``average_precision``, and ``fpr_at_95``: share of bogus examples that pass a cut which 95 %
    of the real ones pass.
    """
    order = np.argsort(-score, kind="stable")
    hits, last = np.cumsum(real[order]), np.append(np.diff(score[order]) != 0, True)
    number = np.arange(1, len(real) + 1)[last]
    hits = hits[last]
    gained = np.diff(hits, prepend=0)
    enough = int(np.searchsorted(hits, completeness * hits[-1] - 1e-9))
    return {
        "auc": auc(real, score),
        "average_precision": float((gained * hits / number).sum() / hits[-1]),
        "fpr_at_95": float((number[enough] - hits[enough]) / (~real).sum()),
    }
