"""Refining the science PSF of a pair: stars cancel, transients stay, and too few stars change nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from astrid_dist.imaging import matching, zogy
from astrid_dist.imaging.psf import moffat
from tests.imaging.conftest import Field, moffat_on

SKY, BOX, BETA = 200.0, 31, 3.0
FWHM_N, FWHM_R = 4.0, 3.4
TOO_NARROW = 0.9
BLANK, STAR = (180.0, 225.0), 40


@dataclass(frozen=True)
class Pair:
    """Two frames of one sky, and PSFs of which the science image's is 10 % too narrow."""

    new: Field
    ref: Field
    psf_n: NDArray[np.float32]
    psf_r: NDArray[np.float32]

    def plan(self, psf_n: NDArray[Any], ratio: float) -> zogy.SubtractionPlan:
        sigma = np.sqrt(SKY)
        return zogy.plan_subtraction(psf_n, self.psf_r, sigma, sigma, ratio, shape=self.new.image.shape)

    def match(
        self, new: NDArray[Any] | None = None, ratio: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
    ) -> matching.Match:
        image = self.new.image if new is None else new
        planes = image, self.ref.image, self.new.variance, self.ref.variance
        return matching.match_psf(*planes, self.psf_n, self.psf_r, self.plan(self.psf_n, ratio), shift=shift)

    def subtract(self, found: matching.Match, new: NDArray[Any] | None = None) -> zogy.Subtraction:
        image = self.new.image if new is None else new
        plan = self.plan(found.psf_n, found.flux_ratio)
        planes = image, self.ref.image, self.new.variance, self.ref.variance
        return zogy.subtract(*planes, plan, shift=found.shift)


def make(paint: Callable[..., Field], narrow: float = TOO_NARROW, **options: Any) -> Pair:
    new = paint(FWHM_N, noise_seed=2, sky=SKY, beta=BETA, **options)
    ref = paint(FWHM_R, noise_seed=3, sky=SKY, beta=BETA, **options)
    return Pair(new, ref, moffat(narrow * FWHM_N, BOX, BETA), moffat(FWHM_R, BOX, BETA))


@pytest.fixture(scope="module")
def pair(paint: Callable[..., Field]) -> Pair:
    return make(paint)


def inner_std(score: NDArray[np.float32]) -> float:
    return float(np.nanstd(score[20:-20, 20:-20]))


def test_stars_cancel_once_a_wrong_psf_ratio_and_shift_are_refined(pair: Pair) -> None:
    found = pair.match(ratio=1.03, shift=(0.1, -0.06))
    given = matching.Match(pair.psf_n, pair.psf_r, 1.03, (0.1, -0.06), np.ones((1, 1)), 0, 0, 0, False)
    assert inner_std(pair.subtract(given).score) > 1.8
    assert found.accepted
    assert found.chi2_after < 0.6 * found.chi2_before
    assert found.shift == pytest.approx((0, 0), abs=0.01)
    assert found.psf_n.sum() == pytest.approx(1, abs=1e-5)
    assert inner_std(pair.subtract(found).score) == pytest.approx(1, abs=0.1)


def test_what_no_psf_can_be_is_no_refinement(pair: Pair) -> None:
    found = pair.match(shift=(1.6, 0.0))
    assert not found.accepted or np.hypot(found.shift[0], found.shift[1]) < 0.7
    np.testing.assert_array_equal(found.psf_r, pair.psf_r)


def test_the_psf_of_a_wider_reference_is_the_one_refined(pair: Pair) -> None:
    planes = pair.ref.image, pair.new.image, pair.ref.variance, pair.new.variance
    sigma = np.sqrt(SKY)
    given = zogy.plan_subtraction(pair.psf_r, pair.psf_n, sigma, sigma, 1.03, shape=pair.ref.image.shape)
    found = matching.match_psf(*planes, pair.psf_r, pair.psf_n, given, shift=(0.1, -0.06))
    assert found.accepted
    assert np.array_equal(found.psf_n, pair.psf_r)
    assert found.shift == pytest.approx((0, 0), abs=0.01)
    psfs = found.psf_n, found.psf_r
    plan = zogy.plan_subtraction(*psfs, sigma, sigma, found.flux_ratio, shape=pair.ref.image.shape)
    assert inner_std(zogy.subtract(*planes, plan, shift=found.shift).score) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("place", ["blank", "star"])
@pytest.mark.parametrize("snr", [20, 60, 200])
def test_a_transient_is_not_absorbed(pair: Pair, snr: float, place: str) -> None:
    x, y = BLANK if place == "blank" else (pair.ref.x[STAR], pair.ref.y[STAR])
    before = pair.match()
    quiet = pair.subtract(before)
    row, column = round(y), round(x)
    flux = snr * float(quiet.sigma_flux[row, column])
    # Centred on the pixel, where `score * sigma_flux` is its flux.
    new = pair.new.image + flux * moffat_on(pair.new.image.shape, column, row, FWHM_N, BETA)
    after = pair.match(new.astype(np.float32))
    loud = pair.subtract(after, new.astype(np.float32))
    found = (loud.score * loud.sigma_flux - quiet.score * quiet.sigma_flux)[row, column]
    assert found * after.flux_ratio == pytest.approx(flux, rel=0.02)


def test_variable_stars_do_not_pull_the_psf(pair: Pair) -> None:
    new = pair.new.image.astype(np.float64)
    for star in range(0, 100, 20):
        light = moffat_on(pair.new.image.shape, pair.new.x[star], pair.new.y[star], FWHM_N, BETA)
        new += 0.3 * pair.new.flux[star] * light
    steady, moved = pair.match(), pair.match(new.astype(np.float32))
    assert moved.flux_ratio == pytest.approx(steady.flux_ratio, rel=0.005)
    assert np.abs(moved.psf_n - steady.psf_n).max() < 0.01 * steady.psf_n.max()


def test_a_psf_that_is_right_stays_so(paint: Callable[..., Field]) -> None:
    right = make(paint, narrow=1.0, faint=500, bright=5e3)
    found = right.match()
    assert found.chi2_after <= found.chi2_before or not found.accepted
    assert inner_std(right.subtract(found).score) == pytest.approx(1, abs=0.04)
    assert np.abs(found.psf_n - right.psf_n).max() < 0.04 * right.psf_n.max()


def test_few_stars_change_nothing(paint: Callable[..., Field]) -> None:
    few = make(paint, n=2, spacing=60.0)
    found = few.match(ratio=1.02, shift=(0.2, 0.1))
    assert not found.accepted
    assert found.n_stars < 8
    assert np.array_equal(found.psf_n, few.psf_n)
    assert (found.flux_ratio, found.shift) == (1.02, (0.2, 0.1))
    assert np.array_equal(found.kernel, [[1.0]])


def test_holes_do_not_count(pair: Pair) -> None:
    new = pair.new.image.copy()
    brightest = int(np.argmax(pair.new.flux))
    row, column = round(pair.new.y[brightest]), round(pair.new.x[brightest])
    new[row - 2 : row + 3, column - 2 : column + 3] = np.nan
    found = pair.match(new)
    assert found.accepted
    assert inner_std(pair.subtract(found, new).score) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("flux_error", "place_error_px"), [(0.02, 0.0), (0.01, 0.04)])
def test_what_stars_leave_becomes_their_error(
    paint: Callable[..., Field], flux_error: float, place_error_px: float
) -> None:
    rng = np.random.default_rng(7)
    ref = paint(FWHM_R, noise_seed=3, sky=SKY, beta=BETA, faint=5e4, bright=2e5)
    truth = np.full(ref.image.shape, SKY)
    for x, y, flux in zip(ref.x, ref.y, ref.flux, strict=True):
        dx, dy = place_error_px * rng.normal(size=2)
        truth += flux * rng.normal(1, flux_error) * moffat_on(ref.image.shape, x + dx, y + dy, FWHM_R, BETA)
    new = (rng.poisson(truth) - SKY).astype(np.float32)
    psf = moffat(FWHM_R, BOX, BETA)
    plan = zogy.plan_subtraction(psf, psf, np.sqrt(SKY), np.sqrt(SKY), 1.0, shape=new.shape)
    planes = new, ref.image, truth.astype(np.float32), ref.variance
    plain = zogy.subtract(*planes, plan)
    found = matching.model_error(plain.score, plain.sigma_flux, ref.image, plan)
    if not place_error_px:
        assert found == pytest.approx(flux_error, rel=0.25)
    told = zogy.subtract(*planes, plan, flux_ratio_err=found)
    assert inner_std(plain.score) > 1.1
    assert inner_std(told.score) == pytest.approx(1, abs=0.06)


def test_few_stars_give_no_error(paint: Callable[..., Field]) -> None:
    few = make(paint, n=2, spacing=60.0)
    given = matching.Match(few.psf_n, few.psf_r, 1.5, (0.0, 0.0), np.ones((1, 1)), 0, 0, 0, False)
    wrong = few.subtract(given)
    plan = few.plan(few.psf_n, 1.5)
    assert inner_std(wrong.score) > 5
    assert matching.model_error(wrong.score, wrong.sigma_flux, few.ref.image, plan) == 0


def test_stars_that_cancel_have_no_error(paint: Callable[..., Field]) -> None:
    new, ref = (paint(FWHM_R, noise_seed=seed, sky=SKY, beta=BETA) for seed in (2, 3))
    psf = moffat(FWHM_R, BOX, BETA)
    plan = zogy.plan_subtraction(psf, psf, np.sqrt(SKY), np.sqrt(SKY), 1.0, shape=new.image.shape)
    plain = zogy.subtract(new.image, ref.image, new.variance, ref.variance, plan)
    assert matching.model_error(plain.score, plain.sigma_flux, ref.image, plan) < 0.005


@pytest.mark.parametrize("sharp", [2.8, 4.0])
def test_noise_of_a_sparse_field_is_not_taken_for_a_wrong_psf(
    paint: Callable[..., Field], sharp: float
) -> None:
    options: dict[str, Any] = {"beta": BETA, "faint": 800, "bright": 2e4}
    new = paint(sharp, noise_seed=2, sky=4 * SKY, **options)
    ref = paint(FWHM_R, noise_seed=3, sky=SKY, **options)
    psf_n, psf_r = moffat(sharp, BOX, BETA), moffat(FWHM_R, BOX, BETA)
    plan = zogy.plan_subtraction(psf_n, psf_r, 2 * np.sqrt(SKY), np.sqrt(SKY), 1.0, shape=new.image.shape)
    found = matching.match_psf(new.image, ref.image, new.variance, ref.variance, psf_n, psf_r, plan)
    assert found.flux_ratio == pytest.approx(1, abs=0.02)
    for given, made in ((psf_n, found.psf_n), (psf_r, found.psf_r)):
        width = np.sqrt(np.square(given).sum() / np.square(made).sum())
        assert width == pytest.approx(1, abs=0.03)
