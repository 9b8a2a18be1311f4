"""Laws of what a star leaves that is displaced, of another width, or of another flux."""

import math
from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.artifacts.stars import TemplateContamination, displace, reshape
from astrid_dist.simulation.canvas import Canvas, Star
from tests.simulation.artifacts.views import GAUSSIAN, difference, make_view, star_image

KEY = np.uint64(7)
HALF = np.full(12, 0.5)


def significance(view, flux):
    """S/N of a source of so many electrons of the epoch, by the score that it has."""
    source = Canvas.empty(*view.shape)
    half = len(view.psf_n) // 2
    source.science[40 - half : 41 + half, 40 - half : 41 + half] = flux * view.psf_n
    return float(difference(view, source, source_noise=False).score[40, 40])


@pytest.mark.parametrize(("dx", "dy"), [(0.1, 0.0), (0.0, -0.2), (0.06, 0.08)])
def test_a_star_is_displaced_to_a_thousandth_of_itself(dx, dy):
    view = make_view(stars=((40.3, 39.8, 1e5),))
    canvas = Canvas.empty(*view.shape)
    displace(canvas, view, view.stars[0], dx, dy)
    expected = 1e5 * (
        star_image(view.shape, 40.3 + dx, 39.8 + dy, 3.0) - star_image(view.shape, 40.3, 39.8, 3.0)
    )
    # the stamp ends in a taper, which the star itself does not have
    near = np.hypot(*(np.mgrid[:81, :81] - 40)) < 7
    wrong = np.abs(canvas.science - expected)[near].max()
    assert wrong < 5e-4 * view.science.max()
    assert wrong < 0.01 * np.abs(expected).max()
    assert abs(canvas.science.sum()) < 1e-4 * np.abs(canvas.science).sum()


@pytest.mark.parametrize("fwhm", [2.5, 3.0, 4.0])
@pytest.mark.parametrize("shift", [0.05, 0.1])
def test_a_displaced_star_scores_as_shift_over_fwhm(fwhm, shift):
    # the positive peak, √2 standard deviations from the star, falls on a pixel
    x = 42 - math.sqrt(2) * fwhm / 2.3548
    view = make_view(stars=((x, 40.0, 2e5),), fwhm_n=fwhm, fwhm_r=fwhm, beta=GAUSSIAN)
    canvas = Canvas.empty(*view.shape)
    displace(canvas, view, view.stars[0], shift, 0.0)
    score = difference(view, canvas, source_noise=False).score
    law = 1.01 * shift / fwhm * significance(view, view.stars[0].flux)
    assert score.max() == pytest.approx(law, rel=0.04)
    assert score.argmax() == np.ravel_multi_index((40, 42), view.shape)
    assert score.min() == pytest.approx(-law, rel=0.12)


def test_at_three_pixels_a_dipole_is_within_two_percent_of_its_law():
    view = make_view(beta=GAUSSIAN)
    canvas = Canvas.empty(*view.shape)
    displace(canvas, view, view.stars[0], 0.1, 0.0)
    score = difference(view, canvas, source_noise=False).score
    assert score.max() == pytest.approx(1.01 * 0.1 / 3 * significance(view, 2e5), rel=0.02)
    assert np.abs(canvas.science).sum() == pytest.approx(0.6 * 0.1 * 2e5, rel=0.05)


@pytest.mark.parametrize("error", [-0.02, 0.02, 0.05])
def test_a_star_of_another_width_leaves_a_spot_in_a_ring(error):
    view = make_view(beta=GAUSSIAN)
    canvas = Canvas.empty(*view.shape)
    reshape(canvas, view, view.stars[0], 1 + error, 0.0, 0.0)
    snr = significance(view, view.stars[0].flux)
    score = difference(view, canvas, source_noise=False).score / np.float32(error * snr)
    assert score[40, 40] == pytest.approx(-1, rel=0.05 + abs(error))
    assert score.max() == pytest.approx(0.13, abs=0.03)
    assert abs(canvas.science.sum()) < 2e-3 * abs(error) * 2e5 + 40


def test_an_elongated_star_is_as_long_as_it_says():
    view = make_view(stars=((40.2, 40.4, 1e6),))
    canvas = Canvas.empty(*view.shape)
    reshape(canvas, view, view.stars[0], 1.0, math.log(1.2), math.pi / 6)
    whole = (view.science + canvas.science).astype(float)
    v, u = np.mgrid[:81, :81]
    along = (u - 40.2) * math.cos(math.pi / 6) + (v - 40.4) * math.sin(math.pi / 6)
    across = (v - 40.4) * math.cos(math.pi / 6) - (u - 40.2) * math.sin(math.pi / 6)
    # moments in a window that stretches with the star, as its own axes do
    window = np.exp(-0.5 * (along**2 / 1.2 + across**2 * 1.2) / 1.3**2)
    ratio = (whole * window * along**2).sum() / (whole * window * across**2).sum()
    assert math.sqrt(ratio) == pytest.approx(1.2, rel=0.01)


def test_every_star_of_a_window_is_elongated():
    view = make_view(stars=((20.0, 20.0, 1e5), (60.0, 55.0, 5e4)))
    canvas = Canvas.empty(*view.shape)
    put = ARTIFACTS["elongated PSF"].put(canvas, view, Site(20.0, 20.0, HALF * 1.6, KEY, 1, view.stars[0]))
    assert put.parameters["stars"] == 2
    assert put.parameters["shear"] > 0.02
    assert abs(canvas.science[20, 20]) > abs(canvas.science[55, 60]) > 10


@pytest.mark.parametrize("u", [0.1, 0.9])
def test_a_wrong_flux_scale_leaves_its_share_of_the_star(u):
    view = make_view(flux_ratio=1.7)
    canvas = Canvas.empty(*view.shape)
    draws = np.array([0.5, u])
    put = ARTIFACTS["flux-scale error"].put(canvas, view, Site(40, 40, draws, KEY, 1, view.stars[0]))
    error = put.parameters["flux_error"]
    assert error * (u - 0.5) > 0
    score = difference(view, canvas, source_noise=False).score
    assert score[40, 40] == pytest.approx(error * significance(view, 2e5), rel=0.01)
    assert canvas.science.sum() == pytest.approx(put.flux, rel=1e-3)


def test_a_source_in_the_template_is_negative_and_as_significant_as_asked():
    view = make_view(stars=(), flux_ratio=2.0, sigma_r=6.0)
    scores = []
    for item in range(40):
        canvas = Canvas.empty(*view.shape)
        put = TemplateContamination(20.0, 20.0)(canvas, view, Site(40.0, 40.0, HALF, KEY, item))
        assert put.flux < 0
        assert not canvas.science.any()
        scores.append(difference(view, canvas, source_noise=False).score[40, 40])
    assert np.mean(scores) == pytest.approx(-20, rel=0.1)
    assert np.std(scores) > 0.1


def test_shifts_and_errors_are_drawn_as_surveys_measure_them():
    view = make_view()
    shifts, errors = [], []
    for u, v in np.random.default_rng(2).random((2000, 2)):
        canvas = Canvas.empty(1, 1)
        draws = np.array([u, v, 0.3])
        put = ARTIFACTS["misregistration"].put(canvas, view, Site(40, 40, draws, KEY, 1, view.stars[0]))
        shifts.append(put.parameters["shift_px"])
        put = ARTIFACTS["flux-scale error"].put(canvas, view, Site(40, 40, draws, KEY, 1, view.stars[0]))
        errors.append(put.parameters["flux_error"])
    # Rayleigh of a scale between 0.04 and 0.15 px
    assert 0.04 < np.sqrt(np.mean(np.square(shifts)) / 2) < 0.15
    assert 0.01 < np.std(errors) < 0.03


def test_amplitudes_can_be_set():
    view = make_view()
    large = replace(ARTIFACTS["misregistration"].put, smallest_px=0.5, largest_px=0.5)
    canvas = Canvas.empty(*view.shape)
    put = large(canvas, view, Site(40, 40, HALF, KEY, 1, view.stars[0]))
    assert put.parameters["shift_px"] == pytest.approx(0.5 * math.sqrt(2 * math.log(2)))


@pytest.mark.parametrize("kind", [kind for kind, a in ARTIFACTS.items() if a.where == "star"])
def test_what_is_made_of_a_star_asks_for_one(kind):
    view = make_view()
    with pytest.raises(InputError, match="star="):
        ARTIFACTS[kind].put(Canvas.empty(81, 81), view, Site(40, 40, HALF, KEY, 1))


def test_a_star_outside_the_window_reaches_in_only_with_its_wings():
    view = make_view(stars=())
    canvas = Canvas.empty(*view.shape)
    for kind in ("misregistration", "PSF mismatch", "flux-scale error"):
        ARTIFACTS[kind].put(canvas, view, Site(-200.0, 40.0, HALF * 0.8, KEY, 1, Star(-200.0, 40.0, 1e6)))
    assert not canvas.science.any()
