"""How an epoch compares with the reference, and what is said when stars are few."""

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.imaging.registration import Offset
from astrid_dist.imaging.stars import StarList
from astrid_dist.stages.pairing import compare


def stars(n: int, scale: float = 1.0, dx: float = 0.0, seed: int = 3) -> StarList:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 480, (2, n))
    flux = np.sort(rng.uniform(1e4, 1e5, n))[::-1] * scale
    order = np.arange(n)
    return StarList(
        x[order] + dx,
        y[order],
        flux.astype(np.float32),
        np.sqrt(flux).astype(np.float32),
        np.zeros(n, np.uint16),
        3.0,
    )


def test_flux_ratio_and_offset_come_from_matched_stars() -> None:
    found = compare(stars(60, 1.7, 0.4), stars(60), (25.0, 26.0), 3.0, "here")
    assert found.flux_ratio == pytest.approx(1.7, rel=0.005)
    assert found.dx == pytest.approx(0.4, abs=0.02)
    assert found.shift[0] == pytest.approx(0.4, abs=0.02)
    assert found.shift[1] == 0.0
    assert (found.verdict, found.reason) == ("good", "")


def test_few_stars_take_the_zero_points_and_say_so() -> None:
    found = compare(stars(5, 1.7, 0.4), stars(5), (25.5, 25.0), 3.0, "here")
    assert found.flux_ratio == pytest.approx(10**0.2)
    assert found.shift[0] == pytest.approx(0.4, abs=0.05)
    assert found.verdict == "few stars"
    assert "5 matched stars" in found.reason


def test_three_stars_are_too_few_for_an_offset() -> None:
    found = compare(stars(3, 1.7, 0.4), stars(3), (25.5, 25.0), 3.0, "here")
    assert found.shift == (0.0, 0.0)
    assert found.astrometric_sigma(0.1) == (0.1, 0.1)
    assert "offset not measured" in found.reason


def test_few_stars_without_zero_points_take_the_median_ratio() -> None:
    found = compare(stars(5, 1.7), stars(5), (np.nan, 25.0), 3.0, "here")
    assert found.flux_ratio == pytest.approx(1.7, rel=0.01)
    assert "median flux ratio" in found.reason


def test_no_star_and_no_zero_point_is_an_error_that_names_the_epoch() -> None:
    with pytest.raises(InputError, match=r"f1/g epoch night7.fits.*zero point"):
        compare(stars(20), stars(0), (np.nan, np.nan), 3.0, "f1/g epoch night7.fits")


def test_frames_that_are_not_on_one_grid_are_refused() -> None:
    with pytest.raises(InputError, match=r"of 200 stars.*not on one pixel grid"):
        compare(stars(200, seed=3), stars(200, seed=4), (25.0, 25.0), 3.0, "here")


def tilted(n: int) -> tuple[StarList, StarList]:
    """Two lists whose offset and flux ratio grow along x."""
    reference, epoch = stars(n), stars(n, 1.7, 0.4)
    across = reference.x / 250 - 1
    epoch.x[:] += 0.2 * across
    epoch.flux[:] *= np.exp(0.05 * across).astype(np.float32)
    return epoch, reference


def test_a_tile_gets_its_own_offset_and_flux_ratio() -> None:
    found = compare(*tilted(400), (25.0, 25.0), 3.0, "here", (500, 500))
    for x in (50.0, 450.0):
        local = found.at(x, 250.0, 50.0)
        across = x / 250 - 1
        assert local.dx == pytest.approx(0.4 + 0.2 * across, abs=0.01)
        assert local.flux_ratio == pytest.approx(1.7 * np.exp(0.05 * across), rel=0.005)
        assert local.shift == (local.dx, 0.0)
        # The tile has one offset, and a fifth of the slope is left within it
        assert local.scatter_x == pytest.approx(0.2 * 0.2 / np.sqrt(3), rel=0.1)
        assert local.scatter_x < found.scatter_x / 4
        assert local.astrometric_sigma(9.0) == pytest.approx((local.scatter_x, local.scatter_y), abs=0.003)
        inside = (np.abs(stars(400).x - x) <= 50) & (np.abs(stars(400).y - 250) <= 50)
        assert local.n_stars == inside.sum() > 0


def test_without_a_shape_every_tile_has_the_values_of_the_field() -> None:
    found = compare(*tilted(400), (25.0, 25.0), 3.0, "here")
    local = found.at(50.0, 250.0, 50.0)
    assert (local.dx, local.flux_ratio, local.scatter_x) == (found.dx, found.flux_ratio, found.scatter_x)


def test_tiles_of_few_stars_and_of_none() -> None:
    few = compare(stars(5, 1.7, 0.4), stars(5), (25.5, 25.0), 3.0, "here", (500, 500))
    assert few.at(250.0, 250.0, 256.0).dx == few.dx
    assert few.at(250.0, 250.0, 256.0).flux_ratio == few.flux_ratio
    none = compare(stars(0), stars(0), (25.5, 25.0), 3.0, "here", (500, 500)).at(250.0, 250.0, 256.0)
    assert none.n_stars == 0
    assert none.flux_ratio == pytest.approx(10**0.2)
    assert none.shift == (0.0, 0.0)
    assert none.astrometric_sigma(0.1) == (0.1, 0.1)


def test_an_offset_left_uncorrected_is_in_the_astrometric_noise() -> None:
    found = compare(stars(400, 1.0, 0.008), stars(400), (25.0, 25.0), 3.0, "here", (500, 500))
    local = found.at(250.0, 250.0, 256.0)
    assert local.dx == pytest.approx(0.008, abs=0.001)
    assert local.shift == (0.0, 0.0)
    assert local.astrometric_sigma(0.1)[0] == pytest.approx(0.008, abs=0.002)


def test_an_offset_measured_otherwise_takes_the_place_of_the_stars() -> None:
    few = compare(stars(2), stars(2), (25.0, 25.0), 3.0, "here", (500, 500))
    given = few.with_offset(Offset(0.4, -0.3, 0.05, 0.2, 0.0, 0.0, 12))
    for one in (given, given.at(100.0, 100.0, 256.0)):
        assert one.shift == (0.4, 0.0)
        assert one.astrometric_sigma(9.0) == pytest.approx((0.05, 0.3))
        assert one.flux_ratio == few.flux_ratio
    assert given.n_matched == 2
