"""A calibration as arithmetic and as a file: temperatures, another prior, and what is damaged."""

import json

import numpy as np
import pytest

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.calibration import Calibration, Guarantee, calibration_bytes, read_calibration
from astrid_dist.learning.unet import MODEL_CLASSES
from astrid_dist.taxonomy import REAL

SHOWN = Guarantee(0.8, 1.0, 0.95, 20, 0.7, 250, {"threshold": 5.0, "surveys": ["ztf"]})


def test_another_prior_is_bayes_rule() -> None:
    """Candidates of known densities: at every prior the shifted probability is the posterior itself."""
    x = np.linspace(-3, 3, 50)
    real, bogus = np.exp(-0.5 * (x - 1) ** 2), np.exp(-0.5 * (x + 1) ** 2)
    calibration = Calibration(1.0, 0.0, 1.0, prior=0.3)
    logit = np.log(0.3 * real / (0.7 * bogus))
    for prior in (0.001, 0.3, 0.9):
        posterior = prior * real / (prior * real + (1 - prior) * bogus)
        told = 1 / (1 + np.exp(-(logit + calibration.shift(prior))))
        np.testing.assert_allclose(told, posterior, rtol=1e-12)
    assert calibration.shift(None) == calibration.shift(0.3) == 0
    with pytest.raises(ConfigError, match="prior is 1"):
        calibration.shift(1)


def test_classes_are_softened_and_shifted_between_real_and_bogus_alone() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40, len(MODEL_CLASSES)))
    told = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    soft = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    calibration = Calibration(1.0, 0.0, 2.0, prior=0.5)
    np.testing.assert_allclose(calibration.classes(told), soft, rtol=1e-9)
    rare = calibration.classes(told, prior=0.1)
    np.testing.assert_allclose(rare.sum(1), 1)
    is_real = np.isin(MODEL_CLASSES, REAL)
    odds, before = (p[:, is_real].sum(1) / p[:, ~is_real].sum(1) for p in (rare, soft))
    np.testing.assert_allclose(odds, before / 9)
    np.testing.assert_allclose(rare[:, 0] / rare[:, 1], soft[:, 0] / soft[:, 1])
    told[3] = np.nan
    assert np.isnan(calibration.classes(told)).any(1).nonzero()[0].tolist() == [3]
    certain = np.zeros((1, len(MODEL_CLASSES)))
    certain[0, 2] = 1
    np.testing.assert_allclose(calibration.classes(certain), certain, atol=1e-12)
    assert calibration.classes(told[:0]).shape == (0, len(MODEL_CLASSES))


@pytest.mark.parametrize("guarantee", [None, SHOWN])
def test_it_comes_back_from_its_file(guarantee: Guarantee | None) -> None:
    calibration = Calibration(1.7, -0.2, 1.1, 0.5, guarantee)
    assert read_calibration(calibration_bytes(calibration), "calibration.json") == calibration


def test_what_is_damaged_is_told() -> None:
    said = json.loads(calibration_bytes(Calibration(1.7, -0.2, 1.1, 0.5, SHOWN)))
    for changes in (
        {"temperature": 0},
        {"temperature": "hot"},
        {"temperature": None},
        {"offset": float("nan")},
        {"prior": 2},
        {"more": 1},
        {"guarantee": {}},
        {"guarantee": {**said["guarantee"], "p_threshold": float("nan")}},
        {"guarantee": {**said["guarantee"], "p_threshold": None}},
        {"guarantee": {**said["guarantee"], "images": 0}},
    ):
        with pytest.raises(InputError, match=r"x\.json: the calibration is damaged"):
            read_calibration(json.dumps({**said, **changes}).encode(), "x.json")
    for content in (b"", b"{", b"[]", b"{}", b"\xff"):
        with pytest.raises(InputError, match=r"x\.json: the calibration is damaged"):
            read_calibration(content, "x.json")
    with pytest.raises(InputError, match="not written by this version"):
        read_calibration(json.dumps({**said, "format": "other"}).encode(), "x.json")
