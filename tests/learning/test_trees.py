"""Trees on features: what they may see, scikit-learn's answers from plain arrays, files that run no code."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.learning import trees as module
from astrid_dist.learning.out_of_fold import auc, folds_of, grow_folds, importances, predicted, scores
from astrid_dist.learning.trees import (
    FEATURES,
    PLAIN,
    RATIOS,
    STAR,
    STAR_REACH_PX,
    Trees,
    TreesConfig,
    class_weights,
    features,
    grow,
    read_trees,
    trees_bytes,
)
from astrid_dist.store.layouts import variables
from tests.learning.made_candidates import made_candidates

FEW = TreesConfig(trees=20, leaves=6, least=10)


def grown(n: int = 600, seed: int = 0) -> tuple[Trees, Any, Any]:
    table, real = made_candidates(n, seed)
    matrix = features(table)
    return grow(matrix, real, class_weights(real), FEW), matrix, real


def test_features_are_columns_of_candidates_and_the_answer_is_none_of_them() -> None:
    needed = {*PLAIN, *STAR, *(name for top, under, _ in RATIOS.values() for name in (top, under))}
    assert needed <= set(variables("candidates"))
    table, _ = made_candidates(50)
    unmarked = {**table, "mask": table["mask"] & ~np.uint16(Flag.INJECTED)}
    np.testing.assert_array_equal(features(table), features(unmarked))


def test_neither_sign_nor_units_nor_brightness_alone_are_seen() -> None:
    table, _ = made_candidates(50)
    other = {**table}
    for name in ("snr", "flux", "aperture_flux", "ssnrms", "dsnrms"):
        other[name] = table[name] * np.float32(-4)
    other["dchi2_hit"] = table["dchi2_hit"] * np.float32(16)
    np.testing.assert_array_equal(features(table), features(other))


def test_a_star_far_away_tells_nothing_of_brightness() -> None:
    table, _ = made_candidates(6)
    table["star_distance"] = np.array([3, 3, 40, 80, np.nan, 3], np.float32)
    table["star_ratio"] = np.array([5, 50, 5, 50, np.nan, np.nan], np.float32)
    found = features(table)[:, [FEATURES.index(name) for name in STAR]]
    np.testing.assert_array_equal(found[:2], [[3, 5], [3, 50]])
    np.testing.assert_array_equal(found[2:4], [[STAR_REACH_PX, np.nan]] * 2)
    assert np.isnan(found[4]).all()
    np.testing.assert_array_equal(found[5], [3, np.nan])


def test_what_is_missing_or_infinite_is_nan() -> None:
    table, _ = made_candidates(5)
    lacking = {name: values for name, values in table.items() if name != "chi2"}
    assert np.isnan(features(lacking)[:, FEATURES.index("chi2")]).all()
    table["elongation"][2] = np.inf
    table["snr"][3] = 0
    found = features(table)
    assert np.isnan(found[2, FEATURES.index("elongation")])
    assert np.isnan(found[3, FEATURES.index("hit_gain")])
    assert not np.isinf(found).any()
    with pytest.raises(InputError, match="none of the columns"):
        features({"ra": np.zeros(3)})


def test_plain_arrays_answer_as_scikit_learn_does() -> None:
    trees, matrix, real = grown()
    known = ~np.isnan(matrix).all(axis=0)
    theirs = HistGradientBoostingClassifier(
        max_iter=20, learning_rate=0.05, max_leaf_nodes=6, min_samples_leaf=10, l2_regularization=1.0,
        early_stopping=False, random_state=1,
    ).fit(matrix[:, known], real, sample_weight=class_weights(real))  # fmt: skip
    unseen = features(made_candidates(5000, seed=9)[0])
    unseen[np.random.default_rng(3).random(unseen.shape) < 0.1] = np.nan  # also where training had none
    expected = theirs.decision_function(unseen[:, known])
    np.testing.assert_allclose(trees.logit(unseen), expected, rtol=0, atol=1e-9)
    assert auc(made_candidates(5000, seed=9)[1], trees.logit(unseen)) > 0.8


def test_nothing_known_is_nothing_told() -> None:
    trees, matrix, _ = grown()
    rows = matrix[:3].copy()
    rows[1] = np.nan
    assert np.isnan(trees.logit(rows)).tolist() == [False, True, False]
    with pytest.raises(InputError, match="trees look at"):
        trees.logit(rows[:, :4])


def test_the_same_data_grow_the_same_trees_and_come_back_from_a_file() -> None:
    trees, matrix, _ = grown()
    content = trees_bytes(trees)
    assert content == trees_bytes(grown()[0])
    back = read_trees(content, "trees.npz")
    np.testing.assert_array_equal(back.logit(matrix), trees.logit(matrix))
    assert trees_bytes(back) == content


class Trap:
    """Pickles as a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").mkdir, (str(self.trace),))


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "ran")], dtype=object)
    file = io.BytesIO()
    np.savez(file, format=trap, base=trap)
    for content in (file.getvalue(), pickle.dumps(Trap(tmp_path / "ran"))):
        with pytest.raises(InputError, match=r"refused, .* would run code"):
            read_trees(content, "trap.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no trees", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_trees(content: bytes) -> None:
    with pytest.raises(InputError, match=r"trees\.npz: (these are no trees|refused)"):
        read_trees(content, "trees.npz")


def test_damaged_trees_are_told() -> None:
    trees = grown()[0]
    with pytest.raises(InputError, match="no trees, or damaged"):
        read_trees(trees_bytes(trees)[:-200], "trees.npz")
    for change, problem in (
        ({"left": trees.left + 10_000}, "left leads nowhere"),
        ({"feature": trees.feature - 1}, "feature leads nowhere"),
        ({"value": trees.value[:-1]}, "different lengths"),
        ({"names": FEATURES[::-1]}, "another version"),
    ):
        with pytest.raises(InputError, match=problem):
            read_trees(trees_bytes(replace(trees, **change)), "trees.npz")


def test_both_classes_weigh_what_the_prior_says() -> None:
    _, real = made_candidates(500)
    weight = class_weights(real, 0.2)
    assert weight[real].sum() / weight.sum() == pytest.approx(0.2)
    assert weight.mean() == pytest.approx(1)
    with pytest.raises(InputError, match=r"0 real and 3 bogus"):
        grow(np.zeros((3, len(FEATURES))), np.zeros(3, bool), np.ones(3), FEW)


def test_folds_keep_places_together_and_have_both_classes() -> None:
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 40, 2000)
    real = rng.random(2000) < np.where(groups < 10, 0.3, 0.01)
    fold = folds_of(groups, real, 5, seed=1)
    assert all(len(np.unique(fold[groups == one])) == 1 for one in range(40))
    for one in range(5):
        assert real[fold == one].sum() == pytest.approx(real.sum() / 5, rel=0.5)
        assert (fold == one).sum() == pytest.approx(400, rel=0.3)
    np.testing.assert_array_equal(fold, folds_of(groups, real, 5, seed=1))
    with pytest.raises(InputError, match="5 folds need as many"):
        folds_of(groups % 4, real, 5, seed=1)
    with pytest.raises(InputError, match="real examples lie in 2 places"):
        folds_of(groups, groups < 2, 5, seed=1)


def test_what_names_the_place_does_not_help() -> None:
    """A feature that tells only where an example lies, and places that are real or bogus as a whole."""
    rng = np.random.default_rng(8)
    groups = rng.integers(0, 60, 3000)
    real = (rng.permutation(60) < 30)[groups]
    matrix = np.full((3000, len(FEATURES)), np.nan)
    matrix[:, 0] = groups
    matrix[:, 1] = rng.normal(size=3000)
    by_place = predicted(grow_folds(matrix, real, folds_of(groups, real, 5, 1), FEW, 0.5), matrix)
    by_row = predicted(grow_folds(matrix, real, np.arange(3000) % 5, FEW, 0.5), matrix)
    assert auc(real, by_row) > 0.85  # what rows dealt out at random would make one believe
    assert auc(real, by_place) < 0.65


def test_importance_is_what_is_lost_without_a_feature() -> None:
    rng = np.random.default_rng(2)
    real = rng.random(2000) < 0.5
    matrix = np.full((2000, len(FEATURES)), np.nan)
    matrix[:, 0] = np.where(real, 2, -2) + rng.normal(size=2000)
    matrix[:, 1] = np.where(real, 0.3, -0.3) + rng.normal(size=2000)
    matrix[:, 2] = rng.normal(size=2000)
    fitted = grow_folds(matrix, real, np.arange(2000) % 4, FEW, 0.5)
    mean, error = importances(fitted, matrix, real, 3, seed=1)
    assert mean[0] > 0.3 > mean[1]
    assert abs(mean[2]) < 0.01
    assert (mean[3:] == 0).all()
    assert (error[:1] > 0).all()


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    real = rng.random(700) < 0.2
    score = np.round(np.where(real, 1, 0) + rng.normal(size=700), 1)  # with ties
    found = scores(real, score)
    false, true, _ = roc_curve(real, score, drop_intermediate=False)
    assert found["auc"] == pytest.approx(roc_auc_score(real, score))
    assert found["average_precision"] == pytest.approx(average_precision_score(real, score))
    assert found["fpr_at_95"] == pytest.approx(false[np.flatnonzero(true >= 0.95 - 1e-9)[0]])


def test_without_scikit_learn_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    table, real = made_candidates(50)
    with pytest.raises(module.ConfigError, match="pip install"):
        grow(features(table), real, np.ones(50), FEW)
