"""Uncertainty and its two parts: identities of information theory, and cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from astrid_dist.errors import InputError
from astrid_dist.learning.uncertainty import decompose

SHAPES = st.tuples(st.integers(2, 6), st.integers(1, 5))
UNIT = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, SHAPES, elements=UNIT))
def test_the_parts_add_up_and_are_the_mutual_information(told: np.ndarray) -> None:
    found = decompose(told)
    np.testing.assert_allclose(found.mean, told.mean(0))
    np.testing.assert_allclose(found.aleatoric + found.epistemic, found.total, atol=1e-12)
    assert (found.epistemic >= 0).all()
    assert (found.aleatoric >= 0).all()
    assert (found.total <= np.log(2) + 1e-12).all()
    # Mean Kullback-Leibler divergence of the members from their mean is the same number.
    divergence = np.zeros(told.shape)
    for p, q in ((told, found.mean), (1 - told, 1 - found.mean)):
        divergence += np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), 0)
    np.testing.assert_allclose(found.epistemic, divergence.mean(0), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, SHAPES, elements=UNIT))
def test_two_classes_are_one_probability_and_members_have_no_order(told: np.ndarray) -> None:
    one, two = decompose(told), decompose(np.stack([told, 1 - told], -1))
    for a, b in zip(one[1:], two[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    turned = decompose(told[::-1])
    np.testing.assert_allclose(turned.epistemic, one.epistemic, atol=1e-12)


def test_cases_whose_answer_is_known() -> None:
    sure, open_, torn = [1.0, 1.0], [0.5, 0.5], [0.0, 1.0]
    found = decompose(np.array([sure, open_, torn]).T)
    ln2 = np.log(2)
    np.testing.assert_allclose(found.total, [0, ln2, ln2])
    np.testing.assert_allclose(found.aleatoric, [0, ln2, 0], atol=1e-15)
    np.testing.assert_allclose(found.epistemic, [0, 0, ln2], atol=1e-15)
    eleven = decompose(np.full((3, 4, 11), 1 / 11))
    np.testing.assert_allclose(eleven.total, np.log(11))
    np.testing.assert_allclose(eleven.epistemic, 0, atol=1e-12)


def test_one_member_alone_does_not_know_what_it_does_not_know() -> None:
    found = decompose([[0.2, np.nan]])
    np.testing.assert_allclose(found.aleatoric, [-(0.2 * np.log(0.2) + 0.8 * np.log(0.8)), np.nan])
    assert np.isnan(found.epistemic).all()


@pytest.mark.parametrize("bad", [[0.5], [[1.2]], [[[0.5, 0.2]]], np.zeros((0, 3))])
def test_what_are_no_probabilities_is_refused(bad: object) -> None:
    with pytest.raises(InputError, match="probabilities"):
        decompose(bad)  # type: ignore[arg-type]
