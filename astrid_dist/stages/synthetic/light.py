"""How bright a source is in each visit beside the visit it was drawn for, and where it is then."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.populations.base import Events, Population
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import Host
from astrid_dist.stages.synthetic.instrument import band_of_group
from astrid_dist.taxonomy import KINDS

Array = NDArray[np.float64]

#: Phases that are tried until a variable is as bright or faint as its stratum wants.
_TRIES = 8
#: Depth where nobody knows it, AB magnitude.
_DEPTH = 21.0
#: Faintest peak, in magnitudes below the depth of an exposure, that a population is drawn to.
_BELOW = 1.0


def events_of(population: Population, host: Host, draws: Array) -> Events:
    """One event for each row of uniform numbers."""
    if population.n_draws > draws.shape[1]:
        raise ConfigError(
            f"{population.kind} takes {population.n_draws} draws, samples have {draws.shape[1]}"
        )
    depth = host.pair.survey.attributes.get("depth") or float(host.pair.row["limiting_mag"])
    limit = (float(depth) if np.isfinite(depth) else _DEPTH) + _BELOW
    return population.draw(draws[:, : population.n_draws], limit)


def changes(
    population: Population, hosts: Sequence[Host], visit: int, drawn: Samples, chosen: NDArray[np.int64],
) -> tuple[Events | None, Array]:  # fmt: skip
    """Events of samples, and their change of flux in a visit in units of that in the visit of their stratum.

    Returns
    -------
    Events
        n of them; None in a single visit of what neither moves nor spreads: nothing is to be known of them.
    (n,) float64
        Signed: the visit of the stratum has 1 or, where it is `negative`, -1.
    """
    sign = drawn.sign[chosen]
    moves = KINDS[population.kind] == "moving"
    if len(hosts) == 1 and not moves:
        return None, sign
    events = events_of(population, hosts[0], drawn.of_kind[chosen])
    if len(hosts) == 1:
        return events, sign
    mjd = np.array([float(host.pair.row["mjd"]) for host in hosts])
    own = drawn.visit[chosen]
    since = mjd[None, :] - mjd[own][:, None]
    first, last = population.span_days
    best = np.zeros((len(chosen), len(hosts)))
    met = np.zeros(len(chosen), bool)
    for attempt in range(_TRIES):
        place = np.mod(drawn.own[chosen, 4] + attempt / _TRIES, 1.0)
        days = (first + (last - first) * place)[:, None] + since
        light = np.stack(
            [
                10 ** (-0.4 * events.magnitudes(band_of_group(host.pair.survey), days[:, k : k + 1])[:, 0])
                for k, host in enumerate(hosts)
            ],
            axis=1,
        )
        if population.always_there:
            light = light - np.mean(light, axis=1, keepdims=True)
        there = np.take_along_axis(light, own[:, None], 1)[:, 0]
        wanted = sign if population.always_there else np.ones(len(chosen))
        good = ~met & (there * wanted > 0.1 * np.abs(light).max(axis=1)) & (there != 0)
        best[good] = light[good] / np.abs(there[good])[:, None]
        met |= good
    # A light curve that never does what the stratum asks for is one visit's: a change that lasts that long.
    best[~met] = 0.0
    best[~met, own[~met]] = sign[~met] if population.always_there else 1.0
    here = best[:, visit]
    return events, here if population.always_there else here * sign


def motions(
    events: Events | None, hosts: Sequence[Host], visit: int, drawn: Samples, chosen: NDArray[np.int64]
) -> tuple[Array, Array]:
    """How far sources have moved since the visit of their stratum, pixels along x and y."""
    still = np.zeros(len(chosen))
    if events is None or len(hosts) == 1:
        return still, still
    east, north = events.motion()
    mjd = np.array([float(host.pair.row["mjd"]) for host in hosts])
    hours = 24 * (mjd[visit] - mjd[drawn.visit[chosen]])
    scale = hosts[visit].pair.pixel_scale_arcsec
    return -east * hours / scale, north * hours / scale
