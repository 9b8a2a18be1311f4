"""``mode=stamps``: sets of samples, one task per shard."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import InputError
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.stages.blocks import WORKER_BASE_BYTES
from astrid_dist.stages.selection import epochs_of_quality
from astrid_dist.stages.synthetic.augmented import augment
from astrid_dist.stages.synthetic.draw import Samples, codes_of, draw_samples
from astrid_dist.stages.synthetic.full import full_stamps
from astrid_dist.stages.synthetic.host import Host, open_host
from astrid_dist.stages.synthetic.linear import linear_stamps
from astrid_dist.stages.synthetic.put import put_samples
from astrid_dist.stages.synthetic.sets import SampleSet, assignment_of, resolve, sample_sets, strata_of
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.stages.tiles import Options
from astrid_dist.store.layouts import TILE, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.quantise import quantise
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import PLANES, SAMPLE_GROUP, STAMP, cuts
from astrid_dist.store.templates import create_group, create_product
from astrid_dist.store.writing import ProductWriter, ShardDigest
from astrid_dist.taxonomy import BOGUS, CLASSES, REAL, REASONS, class_bit

#: Encoded bytes of a sample-visit, measured: pixels, target and truth.
_BYTES = 13_500
#: Classes of artifacts that are kept only where they change S_corr by so much.
_MUST_SHOW, _LEAST = frozenset(BOGUS) - {"noise"}, 3.0
#: Samples that one tile gives before its noise repeats itself much: 64 stamps cover it once.
_OFTEN = 40 * 64


def plan(settings: Settings) -> Plan:
    """One task per shard of every set."""
    resolved = settings.resolved
    inputs: dict[str, Any] = {}
    found, inputs = resolve(settings)
    planned = settings.model_copy(update={"resolved": resolved or found})
    sets = sample_sets(planned)
    strata_of(planned)
    Compose.read(settings.augment)  # refuses what it cannot do, before anything runs
    shard = shard_samples(planned)
    keys = KeyGrid([KeyBlock(one.name, range(-(-one.number // shard))) for one in sets])
    job = Job(
        "inject", "astrid_dist.stages.inject:task", settings.output, planned.model_dump(mode="json"), inputs
    )
    samples = sum(one.number for one in sets)
    visits = samples * settings.visits
    # A host's samples follow each other; where a shard ends, the next task opens it again.
    opened = (sum(len(one.hosts) for one in sets) + len(keys)) * settings.visits
    layouts = len(variables("samples"))
    estimate = Estimate(
        tasks=len(keys),
        bytes_read=opened * 20 * TILE**2,
        bytes_written=visits * _BYTES,
        requests=opened * 30 + len(keys) * (layouts + 20),
        peak_memory_bytes=WORKER_BASE_BYTES
        + shard * settings.visits * (len(PLANES) + 1) * STAMP**2 * 2 * 2
        + 500 * 2**20,
    )
    return Plan(job, keys, estimate, _warnings(sets))


def _warnings(sets: list[SampleSet]) -> list[str]:
    said = [f"split by {sets[0].split_by}"]
    for one in sets:
        most = int(one.groups.max()) * SAMPLE_GROUP
        if most > _OFTEN:
            said.append(
                f"{one.name}: {most} samples from one tile of {len(one.hosts)}; its noise is seen"
                f" {most / 64:.0f} times: give more epochs, or fewer samples"
            )
    return said


def shard_samples(settings: Settings) -> int:
    """Samples of a shard."""
    return settings.shard_samples or cuts({"visit": settings.visits})["sample_shard"]


def prepare(plan: Plan) -> None:
    """Create the product, its groups and their host tables."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    create_product(output, "samples", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest)
    strata = strata_of(settings)
    for one in sample_sets(settings):
        quotas = assignment_of(settings, one.name, one.number).quotas.tolist()
        survey, split = one.name.split("/")
        attributes = {
            "survey": survey,
            "split": split,
            "split_by": one.split_by,
            "bands": band_names(one),
            "planes": list(PLANES),
            "way": settings.way,
            "strata": [
                {
                    "kind": stratum.kind, "class": stratum.classification,
                    "environment": stratum.environment, "negative": stratum.negative,
                    "snr": list(stratum.snr), "asked": quota,
                }
                for stratum, quota in zip(strata, quotas, strict=True)
            ],
        }  # fmt: skip
        sizes = {
            "sample": one.number, "visit": settings.visits, "plane": len(PLANES), "v": STAMP, "u": STAMP,
            "host": len(one.hosts), "sample_shard": shard_samples(settings),
            "sample_chunk": cuts({"visit": settings.visits})["sample_chunk"],
        }  # fmt: skip
        create_group(output, "samples", one.name, sizes, attributes)
        _write_hosts(output, settings, one)


def band_names(one: SampleSet) -> list[str]:
    """Bands that a set's `band` counts."""
    return sorted({name.rpartition("/")[2] for name in one.hosts.groups})


def _write_hosts(output: Location, settings: Settings, one: SampleSet) -> dict[str, ShardDigest]:
    hosts, names = one.hosts, np.array(one.hosts.groups, object)
    survey = Location.parse(settings.survey[one.survey])
    ids = {group: ProductReader(survey, group).read("epoch_id") for group in set(names[hosts.group].ravel())}
    epoch_id = np.array(
        [
            [ids[names[g]][e] for g, e in zip(*pair, strict=True)]
            for pair in zip(hosts.group, hosts.epoch, strict=True)
        ],
        object,
    )
    columns = {
        "host_epoch_id": epoch_id,
        "host_epoch": hosts.epoch.astype(np.int32),
        "host_mjd": hosts.mjd,
        "host_field": np.array([names[g].rpartition("/")[0] for g in hosts.group[:, 0]], object),
        "host_x": (hosts.column * TILE + (TILE - 1) / 2).astype(np.float32),
        "host_y": (hosts.row * TILE + (TILE - 1) / 2).astype(np.float32),
        "host_cell": hosts.cell,
        "host_night": hosts.night.astype(np.int32),
        "host_quality": _quality(settings, one),
        "host_groups": one.groups.astype(np.int32),
    }
    writer = ProductWriter(output, one.name)
    return {f"{one.name}/{name}": writer.write(name, {}, values) for name, values in columns.items()}


def _quality(settings: Settings, one: SampleSet) -> NDArray[np.float32]:
    """Quality of the subtraction of each host's first visit; NaN where nobody judged it."""
    found = np.full(len(one.hosts), nan, np.float32)
    if not settings.difference:
        return found
    location = Location.parse(settings.difference[one.survey])
    for number, group in enumerate(one.hosts.groups):
        reader = ProductReader(location, group)
        indices = epochs_of_quality(reader, "all")
        source = reader.read("survey_epoch", epoch=slice(0, reader.epochs))
        quality = reader.read("quality", epoch=slice(0, reader.epochs))
        known = {int(source[k]): float(quality[k]) for k in indices}
        here = one.hosts.group[:, 0] == number
        found[here] = [known.get(int(epoch), nan) for epoch in one.hosts.epoch[here, 0]]
    return found


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Make one shard of samples."""
    started = perf_counter()
    options = _validated(settings)
    one = next(found for found in sample_sets(options) if found.name == key.group)
    shard = shard_samples(options)
    first, last = key.epoch * shard, min((key.epoch + 1) * shard, one.number)
    strata, where = strata_of(options), assignment_of(options, one.name, one.number)
    columns: dict[str, NDArray[Any]] = {}
    read = 0.0
    for start in range(first, last, SAMPLE_GROUP):
        items = np.arange(start, min(start + SAMPLE_GROUP, last))
        made, spent = make_group(options, one, where.of(items), strata, items)
        read += spent
        for name, values in made.items():
            if name not in columns:
                columns[name] = np.empty((last - first, *values.shape[1:]), values.dtype)
            columns[name][start - first : start - first + len(items)] = values
    computed = perf_counter()
    region = {"sample": slice(first, last)}
    writer = ProductWriter(Location.parse(options.output), key.group)
    written = writer.write_all({name: (region, values) for name, values in columns.items()})
    placed = int(columns["injectable"].sum())
    return TaskOutcome(
        shards={f"{key.group}/{name}": digest for name, digest in written.items()},
        counts={"samples": last - first, "injected": placed, "not placed": last - first - placed},
        timings={
            "read": read,
            "compute": computed - started - read,
            "write": perf_counter() - computed,
        },
    )


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
    return base


def _visit_columns(
    host: Host, drawn: Any, put: Any, peak: NDArray[np.float32], bands: list[str]
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


@lru_cache(2)
def _settings_of(said: str) -> Settings:
    return Settings.model_validate_json(said)


def _validated(settings: Mapping[str, Any]) -> Settings:
    import json

    return _settings_of(json.dumps(dict(settings)))


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Say what the host tables hold, for `verify`; what was asked and got is told by the product itself."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    written: dict[str, ShardDigest] = {}
    for one in sample_sets(settings):
        written |= _write_hosts(output, settings, one)
    return written
