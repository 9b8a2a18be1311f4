import numpy as np
import pytest
from scipy.ndimage import label

from astrid_dist.errors import InputError
from astrid_dist.evaluation.localisation import (
    PULL_LIMIT,
    localisation,
    mask_iou,
    object_iou,
    position_unit,
)


def test_statistics_are_those_of_a_round_gaussian():
    rng = np.random.default_rng(0)
    dx, dy = 0.3 * rng.normal(size=(2, 40_000))
    found = localisation(dx + 0.1, dy, np.full(40_000, -10.0), 0.3 * 23.548)
    assert localisation(dx, dy, np.full(40_000, 10.0), 0.3 * 23.548).pull == pytest.approx(1.0, abs=0.02)
    assert found.offset_px == (pytest.approx(0.1, abs=0.01), pytest.approx(0.0, abs=0.01))
    centred = localisation(dx, dy)
    assert centred.median_px == pytest.approx(0.3 * np.sqrt(2 * np.log(2)), rel=0.02)
    assert centred.p95_px == pytest.approx(0.3 * np.sqrt(2 * np.log(20)), rel=0.02)
    assert centred.within_1px == pytest.approx(1 - np.exp(-1 / (2 * 0.09)), abs=0.002)
    assert np.isnan(centred.pull)


def test_the_best_fit_of_a_gaussian_psf_in_white_noise_has_the_least_pull():
    fwhm, snr, n, sigma = 3.2, 15.0, 4000, 3.2 / 2.3548
    y, x = np.mgrid[-8:9, -8:9]
    psf = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    psf /= np.sqrt((psf**2).sum())
    noise = np.random.default_rng(1).normal(size=(n, 17, 17))
    # one step of the likeliest position from the true one: slope over information
    slope = np.stack([psf * x, psf * y]) / sigma**2
    step = np.einsum("kyx,nyx->kn", slope, noise) / (snr * (slope[0] ** 2).sum())
    found = localisation(step[0], step[1], np.full(n, snr), fwhm)
    assert found.pull == pytest.approx(PULL_LIMIT, rel=0.04)
    assert step.std() == pytest.approx(PULL_LIMIT * float(position_unit(snr, fwhm)), rel=0.03)


def test_positions_without_a_partner_are_refused():
    assert localisation([], []).number == 0
    with pytest.raises(InputError, match="not found"):
        localisation([np.nan], [0.0])
    with pytest.raises(InputError, match="both SNR and FWHM"):
        localisation([0.1], [0.0], snr=[5.0])


def test_iou_of_stamps_is_that_of_scikit_learn_and_symmetric():
    judge = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the judge")
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 12, 9, 9)) < 0.3
    found = mask_iou(a, b)
    assert found == pytest.approx(
        [judge.jaccard_score(t.ravel(), s.ravel()) for s, t in zip(a, b, strict=True)]
    )
    np.testing.assert_array_equal(found, mask_iou(b, a))
    valid = np.zeros(a.shape, bool)
    valid[:, :4] = True
    np.testing.assert_array_equal(mask_iou(a, b, valid), mask_iou(a[:, :4], b[:, :4]))
    assert np.isnan(mask_iou(a & False, b & False)).all()
    with pytest.raises(InputError, match="masks"):
        mask_iou(a[0], b[0])


def test_each_true_object_is_compared_with_the_one_that_covers_most_of_it():
    truth, told = np.zeros((2, 30, 30), bool)
    truth[2:6, 2:6] = truth[10:14, 10:14] = truth[20:22, 20:22] = True
    told[2:6, 2:6] = told[10:13, 10:14] = told[25, 25] = True
    told[15, 10:14] = True
    labels, number = label(truth)
    assert object_iou(label(told)[0], labels, number) == pytest.approx([1.0, 0.75, 0.0])
    split = label(truth)[0].copy()
    split[10:11, 10:14] = 7  # a quarter of the second object is told to be another
    assert object_iou(split, labels, number) == pytest.approx([1.0, 0.75, 1.0])
    assert np.isnan(object_iou(labels * 0, labels, 4)[3])
    with pytest.raises(InputError, match="0 to 2 are known"):
        object_iou(labels, labels, 2)
