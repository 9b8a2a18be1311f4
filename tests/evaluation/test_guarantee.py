import numpy as np
import pytest
from scipy.stats import binom

from astrid_dist.errors import InputError
from astrid_dist.evaluation.guarantee import betting, certify, hoeffding_bentkus

IMAGES, CAP = 120, 20


def poisson(rng, shape):
    return rng.poisson(2.5, shape)


def heavy_tailed(rng, shape):
    """Most frames are clean, a few have a badly subtracted field."""
    return np.where(rng.random(shape) < 0.06, rng.integers(10, 60, shape), rng.poisson(0.6, shape))


def point_masses(rng, shape):
    return np.where(rng.random(shape) < 0.12, 20, 0)


def true_risk(draw, shares):
    """Mean of min(false positives, 20) when each false positive passes with each of these chances."""
    values, number = np.unique(draw(np.random.default_rng(99), 400_000), return_counts=True)
    # E min(N, 20) = sum of P(N > k)
    each = binom.sf(np.arange(CAP), values[:, None, None], shares[:, None]).sum(axis=-1)
    return number @ each / number.sum()


@pytest.mark.parametrize("draw", [poisson, heavy_tailed, point_masses])
@pytest.mark.parametrize("sets", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_true_risk_is_above_the_limit_in_no_more_than_5_percent_of_calibration_sets(draw, sets):
    rng = np.random.default_rng(11)
    share = np.linspace(0, 1, 201)
    risk = true_risk(draw, share)
    assert risk[-1] > 1.2
    certified, broken = 0, 0
    grid = 1 - np.linspace(0.05, 1, 20)
    for _ in range(sets):
        counts = draw(rng, IMAGES)
        image = np.repeat(np.arange(IMAGES), counts)
        # a uniform score: a threshold t keeps a share 1 - t of the false positives
        found = certify(rng.random(len(image)), image, IMAGES, thresholds=grid)
        certified += bool(found)
        broken += bool(found) and np.interp(1 - found.threshold, share, risk) > 1.0
    assert broken <= binom.ppf(0.999, sets, 0.05)
    assert certified > sets / 4, (certified, broken)


def test_at_a_risk_of_exactly_the_limit_a_bet_is_seldom_won():
    rng = np.random.default_rng(4)
    for losses in (
        np.minimum(rng.poisson(1.0, (4000, 200)), 20) / 20,
        (rng.random((4000, 200)) < 0.05).astype(float),
        rng.beta(0.1, 1.9, (4000, 200)),
    ):
        for p_value in (betting, hoeffding_bentkus):
            assert (p_value(losses, 0.05, 0.95) <= 0.05).sum() <= binom.ppf(0.999, 4000, 0.05)


def test_betting_certifies_lower_thresholds_than_hoeffding_and_bentkus():
    rng = np.random.default_rng(8)
    lower = 0
    for _ in range(40):
        image = np.repeat(np.arange(300), rng.poisson(3, 300))
        score = rng.random(len(image))
        bet, peer = (certify(score, image, 300, p_value=by) for by in (betting, hoeffding_bentkus))
        lower += bet.threshold < peer.threshold
        assert bet.mean <= bet.bound <= bet.limit
    assert lower == 40


def test_a_threshold_is_the_last_of_an_unbroken_row():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 200, 2000)
    score = np.round(rng.random(2000), 2)
    found = certify(score, image, 200)

    def p_at(threshold):
        counts = np.bincount(image[score >= threshold], minlength=200)
        return betting(np.minimum(counts, CAP) / CAP, 1 / CAP)

    tested = np.unique(score)[::-1]
    kept = tested >= found.threshold
    assert all(p_at(t) <= 0.05 for t in tested[kept])
    assert p_at(tested[~kept][0]) > 0.05
    counts = np.bincount(image[score >= found.threshold], minlength=200)
    assert found.mean == pytest.approx(np.minimum(counts, CAP).mean())
    assert betting(np.minimum(counts, CAP) / CAP, found.bound / CAP) == pytest.approx(0.05, rel=1e-3)


def test_too_few_images_are_told_how_many_would_do():
    found = certify([0.9, 0.8], [0, 3], 40)
    assert not found
    assert found.threshold == np.inf
    assert certify([0.9, 0.8], [0, 3], found.images_needed)
    assert not certify([0.9, 0.8], [0, 3], found.images_needed - 10)
    assert "40 images, about" in str(found)
    hopeless = certify([0.9] * 200, np.arange(200) % 100, 100)
    assert hopeless.images_needed is None
    assert "no number would do" in str(hopeless)


def test_where_all_may_pass_there_is_no_threshold():
    found = certify([], [], 300)
    assert found
    assert (found.threshold, found.mean) == (-np.inf, 0.0)
    assert certify([0.3] * 30, np.arange(30), 300).threshold == -np.inf


def test_no_image_counts_more_than_the_cap():
    crowded = np.repeat(np.arange(3), 500)
    found = certify(np.full(1500, 0.5), crowded, 500)
    assert found.mean == pytest.approx(3 * 20 / 500)


def test_what_is_no_calibration_set_is_refused():
    with pytest.raises(InputError, match="outside 0 to 9"):
        certify([0.1], [10], 10)
    with pytest.raises(InputError, match="NaN"):
        certify([np.nan], [0], 10)
    with pytest.raises(InputError, match="limit 30"):
        certify([0.1], [0], 10, limit=30)
    with pytest.raises(InputError, match=r"\(n,\)"):
        certify([0.1], [0, 1], 10)
