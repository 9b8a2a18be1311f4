"""How an epoch compares with the reference, and what is said when stars are few."""

import numpy as np
import pytest

from astrid_dist.errors import InputError
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
