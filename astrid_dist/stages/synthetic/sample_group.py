"""A group of samples: drawn, put into the pairs of its hosts, and all that is known about them."""

from dataclasses import replace
from functools import lru_cache
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from astrid_dist.errors import InputError
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.stages.synthetic.augmented import augment
from astrid_dist.stages.synthetic.draw import Samples, codes_of, draw_samples
from astrid_dist.stages.synthetic.full import full_stamps
from astrid_dist.stages.synthetic.host import Host, open_host
from astrid_dist.stages.synthetic.linear import linear_stamps
from astrid_dist.stages.synthetic.put import Put, put_samples
from astrid_dist.stages.synthetic.sets import SampleSet
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.stages.tiles import Options
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.quantise import quantise
from astrid_dist.store.sample_layout import PLANES, SAMPLE_GROUP, STAMP
from astrid_dist.taxonomy import BOGUS, CLASSES, LABELLERS, REAL, REASONS, class_bit

#: Classes of artifacts that are kept only where they change S_corr by so much.
_MUST_SHOW, _LEAST = frozenset(BOGUS) - {"noise"}, 3.0


def band_names(one: SampleSet) -> list[str]:
    """Bands that a set's `band` counts."""
    return sorted({name.rpartition("/")[2] for name in one.hosts.groups})


def make_group(
    settings: Settings, one: SampleSet, which: NDArray[np.int64], strata: tuple[Stratum, ...],
    items: NDArray[np.int64],
) -> tuple[dict[str, NDArray[Any]], float]:  # fmt: skip
    """Every variable of a group of samples, and the seconds that opening its hosts took."""
    started = perf_counter()
    row = one.host_of(int(items[0]) // SAMPLE_GROUP)
    wanted = [strata[k] for k in which]
    base = _base(one, row, which, wanted, items, settings.visits)
    try:
        hosts = _open(settings, one, row)
    except InputError:
        base["reason"][:] = REASONS.index("no subtraction")
        return base, perf_counter() - started
    opened = perf_counter()
    known = _known(settings, one, hosts[0])
    drawn = draw_samples(
        hosts[0], wanted, settings.seed, one.name, items, settings.visits, settings.jitter_px, known
    )
    base |= codes_of(drawn)
    bits = np.array([class_bit(stratum.classification) for stratum in wanted], np.uint16)
    reason = drawn.reason.copy()
    strength = np.zeros(len(items), np.float32)
    for visit, host in enumerate(hosts):
        seen_here = _seen_by(host, hosts[0], drawn, visit)
        put = put_samples(hosts, visit, seen_here)
        made = (
            linear_stamps(host, seen_here, put)
            if settings.way == "fast"
            else full_stamps(host, seen_here, put, settings.tiles)
        )
        reason = np.maximum(reason, put.reason)
        strength = np.maximum(strength, made.strength)
        base["pixels"][:, visit] = quantise(made.pixels)
        base["target"][:, visit] = np.where(made.target, bits[:, None, None], 0)
        columns = _visit_columns(host, drawn, put, made.peak, band_names(one))
        for name, values in columns.items():
            base[name][:, visit] = values
    # What cannot be seen is no example of its kind; noise is what it is.
    seen = np.array([one.classification not in _MUST_SHOW for one in wanted]) | (strength >= _LEAST)
    reason[(reason == 0) & ~seen] = REASONS.index("no flux")
    failed = reason != 0
    base["reason"], base["injectable"] = reason.astype(np.int8), ~failed
    base["target"][failed] = 0
    base["weight"] = np.where(failed, 0, 1).astype(np.float32)
    if settings.augment:
        augment(base, Compose.read(settings.augment), settings.seed)
    return base, opened - started


def _base(
    one: SampleSet, row: int, which: NDArray[np.int64], wanted: list[Stratum], items: NDArray[np.int64],
    visits: int,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Every variable with what is known before anything is put in; what is not, with its fill value."""
    n = len(items)
    sizes = {"sample": n, "visit": visits, "plane": len(PLANES), "v": STAMP, "u": STAMP}
    base = {
        name: np.full(layout.shape(sizes), layout.fill_value, layout.dtype)
        for name, layout in variables("samples").items()
        if layout.is_sample
    }
    classes = [stratum.classification for stratum in wanted]
    base["class"] = np.array([CLASSES.index(name) for name in classes], np.int8)
    base["label"] = np.array([name in REAL for name in classes], np.float32)
    base["weight"] = np.zeros(n, np.float32)
    base["host_row"] = np.full(n, row, np.int32)
    base["stratum"] = which.astype(np.int16)
    base["item"] = items.astype(np.int64)
    base["labeller"] = np.full(n, LABELLERS.index("maker"), np.int8)
    return base


def _visit_columns(
    host: Host, drawn: Samples, put: Put, peak: NDArray[np.float32], bands: list[str]
) -> dict[str, Any]:
    x0, y0 = host.origin
    zeropoint = host.pair.zeropoint
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = zeropoint - 2.5 * np.log10(np.abs(put.flux))
    return {
        "x": put.x + x0,
        "y": put.y + y0,
        "offset_x": put.x - drawn.column,
        "offset_y": put.y - drawn.row,
        "flux": put.flux,
        "snr": put.snr,
        "peak": peak,
        "band": bands.index(host.pair.survey.group.rpartition("/")[2]),
        "mjd": float(host.pair.row["mjd"]),
        "time": int(host.pair.row["time"]),
        "sigma_n": host.recipe.sigma_n,
        "sigma_r": host.recipe.sigma_r,
        "sigma_d": host.sigma_d,
        "fwhm_n": host.view.fwhm_n,
        "fwhm_r": host.view.fwhm_r,
        "flux_ratio": host.recipe.flux_ratio,
        "mag": np.where(np.isfinite(mag), mag, nan),
    }


def _open(settings: Settings, one: SampleSet, row: int) -> tuple[Host, ...]:
    hosts = one.hosts
    return _opened(
        Location.parse(settings.survey[one.survey]),
        Location.parse(settings.reference[one.survey]),
        tuple((hosts.groups[g], int(e)) for g, e in zip(hosts.group[row], hosts.epoch[row], strict=True)),
        int(hosts.row[row]),
        int(hosts.column[row]),
        settings.tiles,
    )


@lru_cache(1)
def _opened(
    survey: Location, reference: Location, visits: tuple[tuple[str, int], ...], row: int, column: int,
    options: Options,
) -> tuple[Host, ...]:  # fmt: skip
    """Hosts of every visit; kept, since the next group of samples is nearly always made from them too."""
    return tuple(open_host(survey, reference, group, epoch, row, column, options) for group, epoch in visits)


def _seen_by(host: Host, first: Host, drawn: Samples, visit: int) -> Samples:
    """Samples with the stars they lie on as another visit's host counts them: each band has its own.

    A star that its reference does not show is none there; what is made of it cannot be put in.
    """
    on_star = np.flatnonzero(drawn.star >= 0)
    if host is first or not on_star.size:
        return drawn
    star, reason = np.full_like(drawn.star, -1), drawn.reason.copy()
    if host.stars:
        apart, which = KDTree(host.star_places).query(first.star_places[drawn.star[on_star]])
        star[on_star] = np.where(apart < host.view.fwhm_n, which, -1)
    made_of = [i for i in on_star.tolist() if drawn.strata[i].kind in ARTIFACTS and drawn.visit[i] == visit]
    gone = [i for i in made_of if star[i] < 0 and reason[i] == 0]
    reason[gone] = REASONS.index("no site")
    return replace(drawn, star=star, reason=reason)


def _known(settings: Settings, one: SampleSet, host: Host) -> NDArray[np.float64] | None:
    """Places of what is known to change in a host's epoch, pixels of the padded tile."""
    if not settings.known:
        return None
    field, _, band = host.pair.survey.group.rpartition("/")
    places = _truth(settings.known[one.survey]).get((field, band))
    return None if places is None else places - np.array(host.origin, np.float64)


@lru_cache(2)
def _truth(url: str) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Places of real sources of a truth product by field and band, whatever the epoch."""
    table = open_truth(url)
    real = np.isin(table["class"].values.astype(str), REAL)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    columns = (table[name].values[real].tolist() for name in ("field", "band", "x", "y"))
    for field, band, x, y in zip(*columns, strict=True):
        found.setdefault((field, band), []).append((x, y))
    return {name: np.array(places) for name, places in found.items()}
