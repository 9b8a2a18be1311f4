"""``mode=stamps``: sets of samples, one task per shard."""

import json
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.stages.blocks import WORKER_BASE_BYTES
from astrid_dist.stages.synthetic.host_columns import write_hosts
from astrid_dist.stages.synthetic.sample_group import band_names, make_group
from astrid_dist.stages.synthetic.sets import SampleSet, assignment_of, resolve, sample_sets, strata_of
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.layouts import TILE, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.sample_layout import PLANES, SAMPLE_GROUP, STAMP, cuts
from astrid_dist.store.templates import create_group, create_product
from astrid_dist.store.writing import ProductWriter, ShardDigest

#: Encoded bytes of a sample-visit, measured: pixels, target and truth.
_BYTES = 13_500
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
        write_hosts(output, settings, one)


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


@lru_cache(2)
def _settings_of(said: str) -> Settings:
    return Settings.model_validate_json(said)


def _validated(settings: Mapping[str, Any]) -> Settings:
    return _settings_of(json.dumps(dict(settings)))


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Say what the host tables hold, for `verify`; what was asked and got is told by the product itself."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    written: dict[str, ShardDigest] = {}
    for one in sample_sets(settings):
        written |= write_hosts(output, settings, one)
    return written
