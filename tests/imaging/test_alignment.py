"""Frames without a WCS: the map that their stars tell, how exact it is, and when there is none."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag, StarFlag
from astrid_dist.imaging.alignment import align_stars
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.stars import StarList, measure_stars

SHAPE = (600, 800)
CORNERS = np.array([[0.0, 799.0, 0.0, 799.0], [0.0, 0.0, 599.0, 599.0]])


def star_list(x, y, flux):
    order = np.argsort(-flux, kind="stable")
    error = np.hypot(0.01 * flux, 30).astype(np.float32)
    flags = np.zeros(len(x), np.uint16)
    return StarList(x[order], y[order], flux[order].astype(np.float32), error[order], flags, 3.0)


def sky(seed, n, size=1100):
    rng = np.random.default_rng(seed)
    return rng.uniform(-250, size, n), rng.uniform(-250, size, n), 10 ** rng.uniform(3.3, 5.5, n)


def inside(x, y, shape=SHAPE):
    return (x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1)


def pair(transform, n=1200, scatter=0.03, shape=SHAPE):
    """Star lists of a frame and of a grid that `transform` maps to it; a tenth of each is in one only."""
    x, y, flux = sky(5, n)
    rng = np.random.default_rng(6)
    at_x, at_y = transform(x, y)
    seen, again = (rng.uniform(size=n) < 0.9 for _ in range(2))
    grid, frame = seen & inside(x, y), again & inside(at_x, at_y, shape)
    noisy = [at + rng.normal(0, scatter, n) for at in (at_x, at_y)]
    dimmed = flux * 0.7 * rng.normal(1, 0.03, n)
    one = star_list(x[grid], y[grid], flux[grid])
    two = star_list(noisy[0][frame], noisy[1][frame], dimmed[frame])
    return two, replace(one, **{k: getattr(one, k)[:300] for k in ("x", "y", "flux", "flux_err", "flags")})


def similarity(angle_deg=0.0, scale=1.0, dx=0.0, dy=0.0, mirror=1.0):
    cosine, sine = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))

    def apply(x, y):
        u, v = mirror * (x - 400), y - 300
        return 400 + dx + cosine * u - sine * v, 300 + dy + sine * u + cosine * v

    return apply


def bent(x, y):
    u, v = (x - 400) / 400, (y - 300) / 400
    return x + 5.3 + 0.4 * u * u - 0.3 * u * v, y - 2.1 + 0.5 * v * v + 0.2 * u


@pytest.mark.parametrize(
    ("transform", "models"),
    [
        (similarity(dx=120.37, dy=-93.61), {"shift"}),
        (similarity(3.0, dx=40.2, dy=-11.3), {"similarity"}),
        (similarity(180.0, 1.01, dx=4.2), {"similarity"}),
        (similarity(12.0, 0.97, dx=15.2, mirror=-1), {"similarity"}),
        (bent, {"quadratic"}),
    ],
    ids=["shift", "rotation", "upside-down", "mirrored", "bent"],
)
def test_the_map_is_found_to_a_twentieth_of_a_pixel_in_every_corner(transform, models):
    frame, grid = pair(transform)
    found = align_stars(frame, grid, SHAPE)
    error = np.hypot(*(np.array(found.map(*CORNERS)) - transform(*CORNERS)))
    assert error.max() < 0.05
    assert found.model in models
    assert found.n > 100
    assert found.rms_px == pytest.approx(0.03, rel=0.3)
    centre = np.array([[399.5], [299.5]])
    np.testing.assert_allclose([found.dx, found.dy], (transform(*centre) - centre)[:, 0], atol=0.02)


def test_whatever_order_the_trials_have_the_answer_is_the_same_to_the_bit():
    frame, grid = pair(similarity(3.0, dx=40.2))
    maps = {align_stars(frame, grid, SHAPE).map.coefficients.tobytes() for _ in range(5)}
    assert len(maps) == 1


def test_a_shift_by_whole_pixels_is_exactly_that_and_a_larger_fraction_is_kept():
    frame, grid = pair(similarity(dx=17.01, dy=-8.99), scatter=0.02)
    found = align_stars(frame, grid, SHAPE)
    x, y = found.map(*CORNERS)
    np.testing.assert_allclose([x - CORNERS[0], y - CORNERS[1]], [[17.0] * 4, [-9.0] * 4], atol=1e-9)
    frame, grid = pair(similarity(dx=17.1, dy=-8.99), scatter=0.02)
    assert align_stars(frame, grid, SHAPE).dx == pytest.approx(17.1, abs=0.02)


def test_a_few_stars_suffice_and_frames_may_differ_in_size():
    frame, grid = pair(similarity(1.0, dx=30.0), n=40, shape=(900, 900))
    assert len(grid) < 20
    found = align_stars(frame, grid, SHAPE)
    assert np.hypot(*(np.array(found.map(*CORNERS)) - similarity(1.0, dx=30.0)(*CORNERS))).max() < 0.1


def test_another_place_or_hardly_a_star_is_refused_with_its_reason():
    frame, grid = pair(similarity())
    elsewhere = star_list(*(values[:300] for values in sky(99, 900, 550)))
    with pytest.raises(InputError, match="another place on the sky"):
        align_stars(elsewhere, grid, SHAPE)
    few = replace(frame, **{k: getattr(frame, k)[:4] for k in ("x", "y", "flux", "flux_err", "flags")})
    with pytest.raises(InputError, match="the frame shows 4 stars, and at least 5"):
        align_stars(few, grid, SHAPE)
    with pytest.raises(InputError, match="the field's grid shows 4 stars"):
        align_stars(frame, few, SHAPE)


def test_blends_that_differ_from_frame_to_frame_do_not_hide_the_stars_that_agree():
    frame, grid = pair(similarity(3.0, 1.0, 31.0, -12.0))
    rng = np.random.default_rng(8)

    def crowded(stars, n):
        """With blends among its brightest that the other list does not know."""
        x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
        flux = rng.uniform(1, 3, n) * np.float32(np.median(stars.flux[:50]))
        blended = np.full(n, int(StarFlag.BLENDED), np.uint16)
        added = {"x": x, "y": y, "flux": flux, "flux_err": 0.01 * flux, "flags": blended}
        order = np.argsort(-np.concatenate([stars.flux, flux]), kind="stable")
        columns = {k: np.concatenate([getattr(stars, k), one])[order] for k, one in added.items()}
        return replace(stars, **columns)

    found = align_stars(crowded(frame, 500), crowded(grid, 500), SHAPE)
    alone = align_stars(frame, grid, SHAPE)
    assert np.abs(np.subtract(found.map(*CORNERS), alone.map(*CORNERS))).max() < 0.05
    assert found.n > 0.8 * alone.n


def test_raw_star_lists_of_a_crowded_field_align(realdata):
    folder = realdata / "saao_iband_series" / "images"
    lists = {}
    for name in ("0001", "0172"):
        counts = fits.getdata(folder / f"AKB13475I{name}.fits.gz").astype(np.float32)
        mask = np.where(counts >= 60_000, int(Flag.SATURATED), 0).astype(np.uint16)
        mesh, _ = measure_background(counts, mask, 64)
        signal = counts - evaluate(mesh, 64, 0, 0, *counts.shape)
        lists[name] = measure_stars(signal, np.maximum(counts, 1) / np.float32(1.9), mask, 4.0)
    found = align_stars(lists["0172"], lists["0001"], (512, 512))
    assert (found.dx, found.dy) == pytest.approx((19.3, -26.9), abs=0.2)
    assert found.n > 150
    assert found.rms_px < 0.1
