import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.evaluation.classes import confusion, passing, purities, recalls, rejected


def test_confusion_agrees_with_scikit_learn():
    judge = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the judge")
    rng = np.random.default_rng(2)
    truth, told, weight = rng.integers(0, 5, 400), rng.integers(0, 5, 400), rng.random(400)
    found = confusion(truth, told, 5, weight)
    np.testing.assert_allclose(found, judge.confusion_matrix(truth, told, sample_weight=weight))
    np.testing.assert_allclose(
        recalls(found), judge.recall_score(truth, told, average=None, sample_weight=weight)
    )
    np.testing.assert_allclose(
        purities(found), judge.precision_score(truth, told, average=None, sample_weight=weight)
    )


def test_a_class_without_examples_has_no_recall():
    assert np.isnan(recalls(confusion([0, 0], [0, 2], 3))[1])
    with pytest.raises(InputError, match="codes 0 to 3, there are 3 classes"):
        confusion([0, 3], [0, 0], 3)


def test_the_artifact_that_passes_most_often_comes_first():
    kind = ["trail"] * 4 + ["dipole"] * 2 + ["ghost"]
    share = rejected([0.9, 0.1, 0.2, 0.3, 0.6, 0.7, np.nan], kind, 0.5)
    assert list(share) == ["dipole", "trail", "ghost"]
    assert [one.fraction for one in share.values()] == [0.0, 0.75, 1.0]
    assert share["trail"].interval95[0] < share["trail"].interval[0] < 0.75
    assert passing([0.9, 0.1], ["a", "a"], 0.5)["a"].found == 1
