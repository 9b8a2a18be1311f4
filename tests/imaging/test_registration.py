from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.flags import StarFlag
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.registration import (
    flux_surface,
    match_stars,
    measure_flux_ratio,
    measure_offset,
    offset_surfaces,
)
from astrid_dist.imaging.stars import StarList, estimate_fwhm, measure_stars

FWHM = 3.5


def star_list(x, y, flux, err, flags=None, fwhm=FWHM):
    flags = np.zeros(len(x), np.uint16) if flags is None else flags
    return StarList(
        np.asarray(x), np.asarray(y), np.asarray(flux, np.float32), np.asarray(err, np.float32), flags, fwhm
    )


def pair(n=200, *, dx=0.3, dy=-0.2, ratio=1.7, scatter=0.0, seed=0):
    """Two noisy lists of one field, the first shifted by (dx, dy) and brighter by the ratio."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 2000, (2, n))
    flux = np.exp(rng.uniform(np.log(1e3), np.log(1e5), n))
    lists = []
    for gain, shift in ((ratio, (dx, dy)), (1.0, (0.0, 0.0))):
        err = np.sqrt(gain * flux + 2500)
        noise = star_list(x, y, gain * flux, err).position_err
        lists.append(
            star_list(
                x + shift[0] + rng.normal(0, noise) + rng.normal(0, scatter / np.sqrt(2), n),
                y + shift[1] + rng.normal(0, noise) + rng.normal(0, scatter / np.sqrt(2), n),
                gain * flux + rng.normal(0, err),
                err,
            )
        )
    return lists


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 60), m=st.integers(0, 60), radius=st.floats(0.1, 20.0), seed=st.integers(0, 99))
def test_matching_is_one_to_one_mutual_within_the_radius_and_symmetric(n, m, radius, seed):
    rng = np.random.default_rng(seed)
    a, b = (star_list(*rng.uniform(0, 60, (2, k)), np.ones(k), np.ones(k)) for k in (n, m))
    ia, ib = match_stars(a, b, radius)
    assert len(set(ia.tolist())) == len(set(ib.tolist())) == len(ia)
    assert (np.hypot(a.x[ia] - b.x[ib], a.y[ia] - b.y[ib]) <= radius).all()
    back_b, back_a = match_stars(b, a, radius)
    assert set(zip(ia.tolist(), ib.tolist(), strict=True)) == set(
        zip(back_a.tolist(), back_b.tolist(), strict=True)
    )


def test_what_is_no_star_is_not_matched():
    flags = np.array([0, StarFlag.EXTENDED, StarFlag.SHARP, StarFlag.SATURATED, StarFlag.BLENDED], np.uint16)
    x = np.arange(5.0) * 10
    a = star_list(x, x, np.ones(5), np.ones(5), flags)
    assert match_stars(a, a, 1.0)[0].tolist() == [0, 4]


def test_offset_error_and_scatter_are_right_over_many_fields():
    pulls, scatters = [], []
    for seed in range(40):
        a, b = pair(60, scatter=0.05, seed=seed)
        offset = measure_offset(a, b, *match_stars(a, b, 2.0))
        pulls += [(offset.dx - 0.3) / offset.dx_err, (offset.dy + 0.2) / offset.dy_err]
        scatters.append(offset.scatter)
    assert 0.75 < np.std(pulls) < 1.25
    assert np.mean(scatters) == pytest.approx(0.05, rel=0.15)


def test_without_scatter_none_is_found_and_wrong_pairs_do_not_matter():
    a, b = pair(300)
    ia, ib = match_stars(a, b, 2.0)
    clean = measure_offset(a, b, ia, ib)
    assert clean.scatter < 0.02
    b.x[:20] += np.linspace(-1.5, 1.5, 20)
    soiled = measure_offset(a, b, ia, ib)
    assert abs(soiled.dx - clean.dx) < 0.01
    assert soiled.n < clean.n


def test_flux_ratio_is_deaf_to_variables_and_its_error_is_right():
    pulls = []
    for seed in range(40):
        a, b = pair(80, seed=seed)
        a.flux[:8] *= 2.5
        b.flux[8:12] *= 3.0
        ratio = measure_flux_ratio(a, b, *match_stars(a, b, 2.0))
        pulls.append((ratio.ratio - 1.7) / ratio.error)
        assert ratio.n <= 70
    assert abs(np.mean(pulls)) < 0.5
    assert 0.7 < np.std(pulls) < 1.3


def test_blended_stars_are_left_out_unless_there_are_no_others():
    a, b = pair(100, dx=0.0, dy=0.0)
    a.flags[:50] |= np.uint16(StarFlag.BLENDED)
    a.x[:50] += 0.2
    a.flux[:50] *= 1.3
    matched = match_stars(a, b, 2.0)
    assert abs(measure_offset(a, b, *matched).dx) < 0.02
    assert measure_flux_ratio(a, b, *matched).ratio == pytest.approx(1.7, rel=0.02)
    only = replace(a, flags=np.full(100, int(StarFlag.BLENDED), np.uint16))
    assert measure_offset(only, b, *matched).n >= 40


def test_offset_and_flux_ratio_that_vary_over_the_field_are_followed():
    shape, pulls, scatters = (2000, 2000), [], []
    for seed in range(20):
        a, b = pair(150, scatter=0.03, seed=seed)
        x, y = (2 * p / 1999 - 1 for p in (b.x, b.y))
        a.x[:] += 0.1 * x
        a.y[:] += 0.06 * (1.5 * y**2 - 0.5) - 0.05 * x
        a.flux[:] *= np.exp(0.03 * y)
        a.x[:8] += 1.0
        a.flux[8:20] *= 2.0
        matched = match_stars(a, b, 2.0)
        dx, dy = offset_surfaces(a, b, *matched, shape)
        ratio = flux_surface(a, b, *matched, shape)
        assert ratio is not None
        u, v = -0.5, 0.8
        for surface, true in (
            (dx, 0.3 + 0.1 * u),
            (dy, -0.2 + 0.06 * (1.5 * v**2 - 0.5) - 0.05 * u),
            (ratio, np.log(1.7) + 0.03 * v),
        ):
            value, error = surface.at((u + 1) / 2 * 1999, (v + 1) / 2 * 1999)
            pulls.append((value - true) / error)
        scatters += [dx.scatter, dy.scatter]
        assert ratio.scatter < 0.01
    assert 0.7 < np.std(pulls) < 1.3
    # `pair` splits its scatter between the two lists' shares, so the difference holds all of it
    assert np.mean(scatters) == pytest.approx(0.03, rel=0.1)


def test_too_few_stars_say_so():
    none = star_list([], [], [], [])
    empty = np.array([], dtype=np.intp)
    assert measure_offset(none, none, empty, empty).n == 0
    assert np.isnan(measure_flux_ratio(none, none, empty, empty).ratio)
    one = star_list([5.0], [5.0], [1e4], [100.0])
    offset = measure_offset(one, one, np.array([0]), np.array([0]))
    assert offset.n == 1
    assert offset.dx_err > 0


def test_painted_epochs_of_different_seeing_register_and_compare(paint):
    sharp, blurred = paint(2.5, noise_seed=3), paint(4.5, noise_seed=4)
    a = measure_stars(sharp.image, sharp.variance, sharp.mask, 2.5)
    b = measure_stars(blurred.image, blurred.variance, blurred.mask, 4.5)
    ia, ib = match_stars(a, b, 2.0)
    offset, ratio = measure_offset(a, b, ia, ib), measure_flux_ratio(a, b, ia, ib)
    assert np.hypot(offset.dx, offset.dy) < 4 * np.hypot(offset.dx_err, offset.dy_err)
    assert np.hypot(offset.dx, offset.dy) < 0.01
    assert offset.scatter < 0.006
    assert ratio.ratio == pytest.approx(1, abs=0.01)


@pytest.mark.realdata
def test_the_properimage_pair_registers(realdata):
    lists = []
    for path in sorted((realdata / "properimage_eso085").glob("*.fit.gz")):
        image = fits.getdata(path).astype(np.float32)
        mask = np.zeros(image.shape, dtype=np.uint16)
        mesh, rms = measure_background(image, mask)
        sub = image - evaluate(mesh, 64, 0, 0, *image.shape)
        noise = evaluate(rms, 64, 0, 0, *image.shape) ** 2 + np.maximum(sub, 0)
        lists.append(measure_stars(sub, noise, mask, estimate_fwhm(sub, noise, mask, 3.0)))
    ia, ib = match_stars(*lists, 2.0)
    offset, ratio = measure_offset(*lists, ia, ib), measure_flux_ratio(*lists, ia, ib)
    assert offset.n > 150
    assert np.hypot(offset.dx, offset.dy) < 0.15
    assert max(offset.dx_err, offset.dy_err) < 0.01
    assert ratio.ratio == pytest.approx(1, abs=0.03)
    assert ratio.error < 0.005
    # Two consecutive exposures: what looks like scatter is mostly a slope of some hundredths of a pixel
    dx, dy = offset_surfaces(*lists, ia, ib, image.shape)
    assert max(dx.order, dy.order) >= 1
    assert np.hypot(dx.scatter, dy.scatter) < 0.6 * np.sqrt(2) * offset.scatter
