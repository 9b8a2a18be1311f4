"""A pattern through the filters of a pair is what the subtraction of the changed pair would have said."""

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.imaging import psf
from astrid_dist.imaging.response import respond
from astrid_dist.imaging.zogy import plan_subtraction, subtract

SHIFT, SCATTER, RATIO_ERR = (0.3, -0.2), (0.1, 0.05), 0.01
PSF_N, PSF_R = psf.moffat(3.2, 29), psf.moffat(2.8, 29)
SIGMAS = 10.0, 5.0, 1.1


def planes(shape):
    rng = np.random.default_rng(5)
    noise = [rng.normal(0, sigma, shape).astype(np.float32) for sigma in SIGMAS[:2]]
    return [*noise, *(np.full(shape, sigma**2, np.float32) for sigma in SIGMAS[:2])]


def patterns(shape):
    science, reference = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    science[60:89, 70:99] = 3000 * PSF_N
    science[75, 80] += 500  # a cosmic ray on it
    reference[20:49, 30:59] = 800 * PSF_R
    return science, reference


def slopes(S, scatter):
    found = np.zeros_like(S)
    across, along = S[1:-1, 2:] - S[1:-1, :-2], S[2:, 1:-1] - S[:-2, 1:-1]
    found[1:-1, 1:-1] = (scatter[0] * across) ** 2 / 8 + (scatter[1] * along) ** 2 / 8
    return found


def test_adding_a_response_equals_subtracting_what_was_added():
    shape = (140, 128)
    plan = plan_subtraction(PSF_N, PSF_R, *SIGMAS, shape=shape)
    new, ref, var_new, var_ref = planes(shape)
    q, r = patterns(shape)
    full = subtract(
        new + q, ref + r, var_new + abs(q), var_ref + abs(r), plan,
        shift=SHIFT, astrometric_sigma=SCATTER, flux_ratio_err=RATIO_ERR,
    )  # fmt: skip
    null = subtract(new, ref, var_new, var_ref, plan, shift=SHIFT, keep_scores=True)
    added = respond(plan, q[None], abs(q)[None], r[None], abs(r)[None], shift=SHIFT)
    np.testing.assert_allclose(null.difference + added.difference[0], full.difference, atol=2e-4)
    S_n = null.scores[0] + added.science_score[0]
    S_r = null.scores[1] + added.reference_score[0]
    variance = null.sigma_flux**2 + added.variance[0] + slopes(S_n, SCATTER) + slopes(S_r, SCATTER)
    score = (S_n - S_r) / np.sqrt(variance + (RATIO_ERR / SIGMAS[2] * S_r) ** 2)
    inner = (slice(2, -2),) * 2
    assert np.abs(full.score).max() > 20
    np.testing.assert_allclose(score[inner], full.score[inner], atol=5e-5)


def test_a_small_window_says_what_the_whole_tile_says():
    whole, small = (400, 400), (75, 75)
    science = np.zeros(whole, np.float32)
    science[186:215, 186:215] = 5000 * PSF_N
    plan = plan_subtraction(PSF_N, PSF_R, *SIGMAS, shape=whole)
    window = plan_subtraction(PSF_N, PSF_R, *SIGMAS, shape=small)
    wide = respond(plan, science[None], science[None], shift=SHIFT)
    place = (slice(163, 238),) * 2
    cut = np.ascontiguousarray(science[place])[None]
    near = respond(window, cut, cut, shift=SHIFT, margin=6)
    inner = (slice(169, 232),) * 2
    sigma = window.limiting_flux / 5
    for name in ("difference", "science_score"):
        apart = getattr(near, name)[0] - getattr(wide, name)[0][inner]
        assert np.abs(apart).max() < 2e-3 * sigma
    assert np.abs(near.variance[0] - wide.variance[0][inner]).max() < 1e-3 * sigma**2


def test_windows_are_independent_of_each_other_and_of_their_number():
    plan = plan_subtraction(PSF_N, PSF_R, *SIGMAS, shape=(61, 61))
    stack = np.random.default_rng(2).normal(0, 10, (23, 61, 61)).astype(np.float32)
    together = respond(plan, stack, abs(stack))
    alone = respond(plan, stack[17:18], abs(stack[17:18]))
    np.testing.assert_array_equal(together.difference[17], alone.difference[0])
    np.testing.assert_array_equal(together.variance[17], alone.variance[0])


@pytest.mark.parametrize(("shape", "margin"), [((2, 60, 61), 0), ((61, 61), 0), ((2, 61, 61), 31)])
def test_windows_that_do_not_fit_are_refused(shape, margin):
    plan = plan_subtraction(PSF_N, PSF_R, *SIGMAS, shape=(61, 61))
    windows = np.zeros(shape, np.float32)
    with pytest.raises(InputError, match=r"patterns are|leaves nothing"):
        respond(plan, windows, windows, margin=margin)
