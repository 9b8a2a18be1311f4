import numpy as np
import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.bands import band_of
from astrid_dist.simulation.populations import POPULATIONS, events_per_year
from astrid_dist.taxonomy import ENVIRONMENTS, KINDS, REAL

REAL_KINDS = {kind for kind, name in KINDS.items() if name in REAL} - {"template contamination"}


def test_every_kind_of_real_change_has_its_population():
    assert set(POPULATIONS) == REAL_KINDS
    assert all(population.kind == kind for kind, population in POPULATIONS.items())


@pytest.mark.parametrize("kind", sorted(REAL_KINDS))
def test_it_says_where_it_lies_and_how_often_and_shines_within_its_span(kind):
    population = POPULATIONS[kind]
    assert set(population.environments) <= set(ENVIRONMENTS)
    assert sum(population.environments.values()) == pytest.approx(1)
    assert population.rate.value > 0
    assert population.rate.unit
    assert population.rate.source
    uniform = np.random.default_rng(1).random((400, population.n_draws))
    events = population.draw(uniform, 20.5)
    first, last = population.span_days
    light = events.magnitudes(band_of("ztf", "r"), np.linspace(first, last, 61))
    assert light.shape == (400, 61)
    assert not np.isnan(light).any()
    # a random visit in the span of most events finds light that is not hopelessly faint
    assert (light < 20.5 + 7).mean() > 0.2
    assert len(events) == 400
    east, north = events.motion()
    assert (np.hypot(east, north) > 0).all() == (KINDS[kind] == "moving")


@pytest.mark.parametrize("kind", sorted(REAL_KINDS))
def test_events_are_counted_where_they_are_events(kind):
    population = POPULATIONS[kind]
    if population.expected is None:
        with pytest.raises(ConfigError, match="say how many of them there shall be"):
            events_per_year(population, 20.0)
    else:
        assert 0 < events_per_year(population, 19.0) < events_per_year(population, 21.0)


def test_all_that_explodes_can_be_mixed_by_rate():
    counted = {kind for kind, population in POPULATIONS.items() if population.expected}
    assert counted >= {kind for kind in REAL_KINDS if kind.startswith("SN ")} | {"SLSN", "TDE", "kilonova"}
