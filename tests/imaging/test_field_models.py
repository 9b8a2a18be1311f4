"""Surfaces over a field: values, errors, order and scatter against what was planted."""

import numpy as np
import pytest
from numpy.polynomial import legendre

from astrid_dist.imaging.field_models import fit_surface

SHAPE = (1000, 2000)
FLAT = np.array([[0.3]])
SLOPE = np.array([[0.3, -0.08], [0.05, 0]])
BOWL = np.array([[0.3, -0.08, 0.06], [0.05, 0.04, 0], [-0.07, 0, 0]])


def truth(coefficients, x, y):
    """Legendre series of NumPy: coefficients[i, j] of L_i(x) L_j(y)."""
    u, v = (2 * np.asarray(p) / (size - 1) - 1 for p, size in ((x, SHAPE[1]), (y, SHAPE[0])))
    return legendre.legval2d(u, v, coefficients)


def stars(coefficients, n, scatter, seed, *, outliers=0.0):
    """Places, values and noise of stars of SNR 10 to 1000; some values are off by up to one."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    noise = np.hypot(2 / np.exp(rng.uniform(np.log(10), np.log(1000), n)), 0.004)
    values = truth(coefficients, x, y) + rng.normal(0, np.hypot(noise, scatter))
    wrong = rng.random(n) < outliers
    values[wrong] += rng.uniform(-1, 1, wrong.sum())
    return x, y, values, noise


@pytest.mark.parametrize(("planted", "order"), [(FLAT, 0), (SLOPE, 1), (BOWL, 2)])
@pytest.mark.parametrize(("scatter", "outliers"), [(0.0, 0.0), (0.02, 0.15)])
def test_planted_surfaces_come_back_within_their_errors(planted, order, scatter, outliers):
    pulls, orders, scatters = [], [], []
    for seed in range(40):
        surface = fit_surface(*stars(planted, 120, scatter, seed, outliers=outliers), SHAPE)
        for place in ((300, 200), (1000, 500), (1800, 900)):
            value, error = surface.at(*place)
            pulls.append((value - truth(planted, *place)) / error)
        orders.append(surface.order)
        scatters.append(surface.scatter)
    assert 0.75 < np.mean(np.square(pulls)) ** 0.5 < 1.25
    assert np.mean(np.array(orders) == order) >= 0.9
    assert np.sqrt(np.mean(np.square(scatters))) == pytest.approx(scatter, abs=0.004)


def test_a_slope_that_cannot_be_told_from_none_is_in_the_error():
    weak = np.array([[0.3, -0.012], [0.008, 0]])
    pulls = []
    for seed in range(60):
        surface = fit_surface(*stars(weak, 60, 0.02, seed), SHAPE)
        value, error = surface.at(1800, 100)
        pulls.append((value - truth(weak, 1800, 100)) / error)
    assert np.std(pulls) < 1.7


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_few_stars_give_one_value_with_an_error_that_holds(n):
    pulls = []
    for seed in range(60):
        surface = fit_surface(*stars(FLAT, n, 0.0, seed), SHAPE)
        assert surface.order == 0 or n >= 9
        value, error = surface.at(1000, 500)
        pulls.append((value - 0.3) / error)
    assert np.std(pulls) < 1.3


def test_the_scatter_is_that_of_bright_stars_also_where_faint_ones_are_many():
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noise = np.where(np.arange(400) < 40, 0.005, 0.2)
        x, y = rng.uniform(0, 1000, (2, 400))
        values = rng.normal(0, np.hypot(noise, 0.01))
        found.append(fit_surface(x, y, values, noise, SHAPE).scatter)
    assert np.mean(found) == pytest.approx(0.01, rel=0.1)


def test_a_rough_corner_is_found_and_a_smooth_one_stays_smooth():
    rough, smooth, few = [], [], []
    for seed in range(20):
        x, y, values, noise = stars(FLAT, 800, 0.02, seed, outliers=0.05)
        corner = (x < 500) & (y < 250)
        values[corner] += np.random.default_rng(seed + 100).normal(0, 0.06, corner.sum())
        surface = fit_surface(x, y, values, noise, SHAPE)
        rough.append(surface.scatter_near(250, 125, 250))
        smooth.append(surface.scatter_near(1500, 700, 200))
        few.append(surface.scatter_near(1500, 700, 20) - surface.scatter)
    # 0.063 are planted; fifty stars are drawn somewhat towards the field's 0.02
    assert 0.045 < np.mean(rough) < 0.07
    assert np.mean(smooth) == pytest.approx(0.02, rel=0.1)
    assert few == [0.0] * 20


def test_one_value_for_the_whole_field_where_no_shape_is_given():
    surface = fit_surface(*stars(SLOPE, 300, 0.0, 1))
    assert surface.order == 0
    assert surface.at(0, 0) == surface.at(1999, 999)
    assert surface.scatter > 0.03


def test_what_a_surface_changes_within_a_box():
    surface = fit_surface(*stars(BOWL, 500, 0.0, 2), SHAPE)
    x, y = np.meshgrid(np.linspace(200, 600, 201), np.linspace(300, 700, 201))
    expected = np.sqrt(np.mean((truth(BOWL, x, y) - truth(BOWL, 400, 500)) ** 2))
    assert surface.spread(400, 500, 200) == pytest.approx(expected, rel=0.1)
