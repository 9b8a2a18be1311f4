"""Cosmic rays, bleeding stars and spoiled lines are found in single frames; stars and moving objects stay."""

import numpy as np
import pytest
from scipy import ndimage

from astrid_dist.imaging.blemishes import bleeds, cosmic_rays, spoiled_lines
from astrid_dist.simulation.exposure import cosmic_rays as tracks

SIDE, SKY, READ_NOISE = 300, 500.0, 5.0


def moffat(x, y, flux, fwhm_x, fwhm_y, shape=(SIDE, SIDE)):
    """A star of beta 3, sampled at nine points to a pixel."""
    image = np.zeros(shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    thirds = (-1 / 3, 0, 1 / 3)
    for dx in thirds:
        for dy in thirds:
            square = np.square((columns + dx - x) / fwhm_x) + np.square((rows + dy - y) / fwhm_y)
            image += (1 + 4 * (2 ** (1 / 3) - 1) * square) ** -3
    return flux * image / image.sum()


def field(rng, fwhm_x, fwhm_y, n=120):
    """Stars of 300 to 300 000 electrons anywhere, blended where they happen to be."""
    image = np.zeros((SIDE + 40, SIDE + 40))
    for x, y in rng.uniform(20, SIDE + 20, (n, 2)):
        row, column = int(y), int(x)
        stamp = moffat(20 + x - column, 20 + y - row, 10 ** rng.uniform(2.5, 5.5), fwhm_x, fwhm_y, (41, 41))
        image[row - 20 : row + 21, column - 20 : column + 21] += stamp
    return image[20:-20, 20:-20]


def exposed(rng, light):
    """Sky-subtracted electrons and their variance."""
    counts = rng.poisson(light + SKY) + rng.normal(0, READ_NOISE, light.shape)
    variance = np.maximum(counts, 1) + READ_NOISE**2
    return (counts - SKY).astype(np.float32), variance.astype(np.float32)


def nothing(image):
    return np.zeros(image.shape, bool)


@pytest.mark.parametrize(("fwhm_x", "fwhm_y"), [(4, 4), (2.5, 2.5), (2, 2), (1.8, 1.8), (1.6, 1.6), (5, 2.4)])
def test_no_star_is_a_cosmic_ray_and_most_muons_are_found(fwhm_x, fwhm_y):
    rng = np.random.default_rng([int(10 * fwhm_x), int(10 * fwhm_y)])
    light, fwhm = field(rng, fwhm_x, fwhm_y), np.sqrt(fwhm_x * fwhm_y)
    signal, variance = exposed(rng, light)
    assert not cosmic_rays(signal, variance, nothing(signal), fwhm).any()
    hits = tracks(rng, light.shape, 40)
    signal, variance = exposed(rng, light + hits.image)
    found = cosmic_rays(signal, variance, nothing(signal), fwhm)
    strong = hits.image > 12 * np.sqrt(light + SKY)
    labels, n = ndimage.label(ndimage.binary_dilation(strong, np.ones((3, 3))))
    seen = sum(found[labels == k].any() for k in range(1, n + 1))
    assert n > 25
    assert seen > 0.75 * n
    # A star under the muon may be hit; what is far from muons never is.
    assert not found[~ndimage.binary_dilation(hits.image > 0, np.ones((7, 7)))].any()


def test_the_bright_neighbours_of_a_hit_join_it_and_the_faint_do_not():
    rng = np.random.default_rng(4)
    charge = np.zeros((60, 60))
    charge[30, 30], charge[30, 31], charge[31, 31] = 3000, 900, 200
    signal, variance = exposed(rng, charge)
    assert np.argwhere(cosmic_rays(signal, variance, nothing(signal), 3.0)).tolist() == [
        [30, 30],
        [30, 31],
        [31, 31],
    ]


def test_an_asteroids_trail_and_a_satellites_stay():
    rng = np.random.default_rng(5)
    light = sum(moffat(100 + 0.5 * step, 80, 400, 2.5, 2.5) for step in range(24))
    light = light + sum(
        moffat(step, 200 + 0.3 * step, 800, 2.5, 2.5, light.shape) for step in range(0, 300, 2)
    )
    signal, variance = exposed(rng, light)
    assert not cosmic_rays(signal, variance, nothing(signal), 2.5).any()


def test_what_is_not_sampled_or_noisier_than_told_is_left_alone():
    rng = np.random.default_rng(6)
    signal, variance = exposed(rng, np.zeros((200, 200)))
    signal[50, 50] = 5000
    assert cosmic_rays(signal, variance, nothing(signal), 2.0).sum() == 1
    assert not cosmic_rays(signal, variance, nothing(signal), 1.2).any()
    assert not cosmic_rays(signal, variance / 1000, nothing(signal), 2.0).any()
    assert not cosmic_rays(signal, variance, nothing(signal), float("nan")).any()


def test_unusable_pixels_and_their_neighbours_are_no_hits():
    rng = np.random.default_rng(7)
    signal, variance = exposed(rng, np.zeros((100, 100)))
    signal[40, 40] = np.nan
    signal[40, 41] = signal[70, 70] = 5000
    found = cosmic_rays(signal, variance, np.isnan(signal), 3.0)
    assert np.argwhere(found).tolist() == [[70, 70]]


@pytest.mark.parametrize("transposed", [False, True])
def test_lines_that_the_read_out_lifted_or_lowered_are_found_among_stars(transposed):
    rng = np.random.default_rng(8)
    signal, _ = exposed(rng, field(rng, 3, 3))
    assert not spoiled_lines(signal).any()
    signal[100:103] -= 60
    signal[210, :200] += 60
    found = spoiled_lines(signal.T).T if transposed else spoiled_lines(signal)
    assert np.flatnonzero(found.all(axis=1)).tolist() == [100, 101, 102, 210]
    assert found.sum() == 4 * SIDE


def test_a_galaxy_edge_on_and_along_the_rows_is_no_spoiled_line():
    rng = np.random.default_rng(9)
    light = moffat(150, 150, 1e6, 40, 6)
    signal, _ = exposed(rng, light)
    assert not spoiled_lines(signal).any()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_trail_of_a_saturated_star_is_found_and_its_light_is_not(transposed):
    rng = np.random.default_rng(10)
    light = field(rng, 3, 3) + moffat(80, 120, 3e6, 4, 4)
    signal, _ = exposed(rng, light)
    full = light > 4e4
    signal[119:122, 86:250] += 90
    signal[119:122, 10:60] -= 90
    found = bleeds(signal.T, full.T).T if transposed else bleeds(signal, full)
    trail = np.zeros_like(found)
    trail[119:122, 96:250] = trail[119:122, 10:60] = True
    assert found[trail].mean() > 0.85
    elsewhere = ~ndimage.binary_dilation(trail, np.ones((5, 41))) & ~ndimage.binary_dilation(
        full, iterations=30
    )
    assert found[elsewhere].mean() < 0.002
    assert not found[full].any()


def test_frames_without_saturated_stars_bleed_nowhere():
    rng = np.random.default_rng(11)
    signal, _ = exposed(rng, field(rng, 3, 3))
    assert not bleeds(signal, nothing(signal)).any()
