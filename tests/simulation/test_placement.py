"""Places of sources: each environment's own distribution, and every place that cannot be is told."""

import numpy as np
import pytest
from scipy import stats

from astrid_dist.errors import InputError
from astrid_dist.imaging.galaxies import Galaxies
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.simulation.placement import DRAWS, Sites, place
from astrid_dist.taxonomy import ENVIRONMENTS, REASONS

SIDE, FWHM, N = 400, 3.0, 20_000
CODE = {name: code for code, name in enumerate(ENVIRONMENTS)}
NUMBERS = uniforms(stream(3, "places"), np.arange(N), DRAWS)


def sites(galaxies=1, **changes):
    """One inclined galaxy in the middle, some stars, a strip without data and a masked column."""
    data = np.ones((SIDE, SIDE), bool)
    data[:, :30] = False
    usable = data.copy()
    usable[:, 350] = False
    one = (200.3, 180.7, 1e5, 6.0, 3.0, 0.5, 8.0)
    known = {
        "galaxies": Galaxies(*(np.full(galaxies, value) for value in one)),
        "star_x": np.array([100.2, 300.4, 60.6]),
        "star_y": np.array([100.9, 300.1, 330.5]),
        "bright": np.array([False, True, False]),
        "usable": usable,
        "data": data,
        "saturated": np.zeros((SIDE, SIDE), bool),
        "fwhm_px": FWHM,
    }
    return Sites(**{**known, **changes})


def placed(name, chosen=None, numbers=NUMBERS):
    return place(np.full(len(numbers), CODE[name]), numbers, chosen or sites())


def test_hosted_sources_follow_their_galaxys_light():
    found = placed("host")
    assert found.ok.all()
    assert (found.host == 0).all()
    dx, dy = found.x - 200.3, found.y - 180.7
    along = dx * np.cos(0.5) + dy * np.sin(0.5)
    across = -dx * np.sin(0.5) + dy * np.cos(0.5)
    assert along.std() / across.std() == pytest.approx(2.0, rel=0.03)
    # circle of the same area: half of the sources within the half-light radius
    radius = np.hypot(along / np.sqrt(2), across * np.sqrt(2))
    assert np.mean(radius < 8.0) == pytest.approx(0.5, abs=0.02)
    light = stats.gamma(2, scale=8.0 / 1.6783)  # of an exponential disc by radius
    assert stats.kstest(radius, lambda r: light.cdf(r) / 0.99).pvalue > 0.01


def test_nuclear_sources_lie_within_a_twentieth_of_the_fwhm():
    found = placed("nucleus")
    offset = np.hypot(found.x - 200.3, found.y - 180.7)
    assert found.ok.all()
    assert offset.max() <= 0.05 * FWHM
    assert np.mean(offset < 0.05 * FWHM / np.sqrt(2)) == pytest.approx(0.5, abs=0.02)


def test_sources_on_stars_and_near_bright_ones():
    chosen = sites()
    on = placed("star", chosen)
    assert np.hypot(on.x - chosen.star_x[on.host], on.y - chosen.star_y[on.host]).max() <= 0.05 * FWHM
    np.testing.assert_allclose(np.bincount(on.host) / N, 1 / 3, atol=0.015)
    near = placed("near star", chosen)
    assert (near.host == 1).all()
    offset = np.hypot(near.x - 300.4, near.y - 300.1) / FWHM
    assert (offset.min(), offset.max()) == pytest.approx((1.5, 6.0), abs=0.01)
    assert stats.kstest(offset**2, stats.uniform(1.5**2, 6**2 - 1.5**2).cdf).pvalue > 0.01


def test_edges_are_those_of_the_data():
    found = placed("edge")
    assert found.ok.all()
    left, others = found.x - 29.5, np.min([SIDE - 0.5 - found.x, found.y + 0.5, SIDE - 0.5 - found.y], axis=0)
    assert np.minimum(left, others).max() <= 10.0
    assert found.x.min() > 29.5
    for border in (left, SIDE - 0.5 - found.x, found.y + 0.5, SIDE - 0.5 - found.y):
        assert (border < 10).mean() > 0.2


def test_empty_sky_is_away_from_everything_and_evenly_filled():
    chosen = sites()
    found = placed("empty", chosen)
    assert found.ok.all()
    assert (found.host == -1).all()
    assert np.hypot(found.x - 200.3, found.y - 180.7).min() > 24
    assert np.hypot(found.x - 300.4, found.y - 300.1).min() > 6 * FWHM - 0.8
    assert np.hypot(found.x - 100.2, found.y - 100.9).min() > 3 * FWHM - 0.8
    assert found.x.min() > 39
    assert not (np.rint(found.x) == 350).any()
    for pixels in (found.x, found.y):
        assert stats.kstest((pixels + 0.5) % 1, "uniform").pvalue > 0.01
    assert ((found.y < 100) & (found.x > 150)).mean() == pytest.approx(
        90 * 240 / len(chosen.empty_pixels), rel=0.05
    )


def test_what_cannot_be_placed_is_told_and_not_moved():
    nothing = sites(galaxies=0, bright=np.zeros(3, bool), usable=np.zeros((SIDE, SIDE), bool))
    for name in ("host", "nucleus", "near star", "edge", "empty"):
        found = placed(name, nothing, NUMBERS[:50])
        assert {REASONS[code] for code in found.reason} == {"no site"}
        assert np.isnan(found.x).all()
        assert not found.ok.any()
    # the same numbers give the same places, whatever is masked
    where = placed("host")
    saturated = np.zeros((SIDE, SIDE), bool)
    saturated[:, 195:206] = True
    usable = np.ones((SIDE, SIDE), bool)
    usable[:180] = False
    lost = placed("host", sites(usable=usable, saturated=saturated))
    np.testing.assert_array_equal(lost.x, where.x)
    column, row = np.rint(lost.x).astype(int), np.rint(lost.y).astype(int)
    expected = np.where(saturated[row, column], "saturated", np.where(usable[row, column], "", "masked"))
    np.testing.assert_array_equal(np.array(REASONS)[lost.reason], expected)
    np.testing.assert_array_equal(lost.ok, expected == "")


def test_a_star_beyond_the_tile_has_sources_outside():
    found = placed("star", sites(star_x=np.array([-3.0]), star_y=np.array([50.0]), bright=np.array([False])))
    assert {REASONS[code] for code in found.reason} == {"outside"}


def test_places_of_many_environments_are_those_of_each_alone():
    codes = np.arange(N) % len(ENVIRONMENTS)
    mixed = place(codes, NUMBERS, sites())
    for name, code in CODE.items():
        alone = placed(name, numbers=NUMBERS[codes == code])
        np.testing.assert_array_equal(mixed.x[codes == code], alone.x)
        np.testing.assert_array_equal(mixed.host[codes == code], alone.host)


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="environments are 0 to 5, not 0 to 9"):
        place([0, 9], NUMBERS[:2], sites())
    with pytest.raises(InputError, match=r"3 places take \(3, 3\) numbers"):
        place([0, 1, 2], NUMBERS[:3, :2], sites())
