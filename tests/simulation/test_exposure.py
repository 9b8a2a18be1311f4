import numpy as np
import pytest

from astrid_dist.simulation.exposure import bleed, cosmic_rays, hot_pixels, read_out
from astrid_dist.simulation.randomness import generator

CAMERA = {"gain": 1.6, "read_noise": 7.0, "saturation_dn": 55000.0}


def test_noise_is_that_of_photons_and_read_out():
    counts = read_out(generator(1, "noise"), np.full((400, 400), 800.0), **CAMERA)
    assert counts.dtype == np.uint16
    electrons = counts * 1.6
    assert electrons.mean() == pytest.approx(800, abs=0.5)
    # photons, read-out, and the rounding to whole DN
    assert electrons.var() == pytest.approx(800 + 49 + 1.6**2 / 12, rel=0.02)


def test_charge_above_the_full_well_runs_along_the_column_and_is_kept():
    mean = np.zeros((41, 9))
    mean[20, 4] = 1000.0
    out = bleed(mean, 100.0)
    assert out.max() == 100.0
    assert out.sum() == pytest.approx(1000.0)
    assert np.flatnonzero(out.any(axis=0)).tolist() == [4]
    rows = np.flatnonzero(out[:, 4])
    assert rows.min() + rows.max() == 40


def test_nothing_is_brighter_than_a_full_well():
    mean = np.full((30, 30), 500.0)
    mean[10, 10] = 1e6
    assert read_out(generator(2, "noise"), mean, **CAMERA).max() == 55000


def test_cosmic_rays_are_sharper_than_a_psf_and_carry_the_charge_they_say():
    rays = cosmic_rays(generator(3, "cosmic rays"), (200, 200), 40)
    inside = (np.minimum(rays.x, rays.y) > 15) & (np.maximum(rays.x, rays.y) < 185)
    assert inside.sum() > 25
    assert rays.image.sum() <= rays.charge.sum() * (1 + 1e-9)
    assert rays.image.sum() > rays.charge[inside].sum()
    assert (rays.charge > 3000).all()
    assert (rays.image > 0).mean() < 0.02
    for x, y in zip(rays.x[inside], rays.y[inside], strict=True):
        near = rays.image[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
        assert near.sum() > 300


def test_hot_pixels_are_the_same_detector_every_time():
    first, again = (hot_pixels(generator(4, "detector"), (64, 64), 5) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    rows, columns = first.y.astype(int), first.x.astype(int)
    np.testing.assert_array_equal(first.image[rows, columns], first.charge)
    assert np.count_nonzero(first.image) == 5
