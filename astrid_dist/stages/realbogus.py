"""Alert packets into samples: real examples for training, and to be judged by; one task per shard.

What becomes of each packet is decided when the job is planned (`packet_table`) and kept beside the output;
a task reads the packets of its shard again and cuts their stamps (`packet_stamps`).
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from astrid_dist.engine.keys import ShardKey, check_group
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import InputError
from astrid_dist.formats.packet_files import PACKED, packet_sources
from astrid_dist.formats.packets import Refused
from astrid_dist.stages.blocks import WORKER_BASE_BYTES
from astrid_dist.stages.packet_columns import bands_of, by_group, exposures, host_columns, sample_columns
from astrid_dist.stages.packet_stamps import ScorePlane, planes_of, stamp_of
from astrid_dist.stages.packet_table import Columns, Labelling, SplitBy, divide, label, read_again, scan
from astrid_dist.stages.synthetic.settings import Urls
from astrid_dist.stages.synthetic.stamps import footprints
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.sample_layout import SAMPLE_GROUP, STAMP, cuts
from astrid_dist.store.templates import create_group, create_product
from astrid_dist.store.writing import ProductWriter, ShardDigest
from astrid_dist.taxonomy import LABELLERS, class_bit, class_code

#: What was decided about packets, and which were refused, in the ledger of the samples.
KEPT, REFUSED = "parts/packets.parquet", "parts/refused.json"
#: An asteroid's own pattern is not known; pixels of the difference beyond so many sigma stand for it.
_FOOTPRINT_SIGMA = 2.0
#: Bytes of a packet as sent, and of a sample as stored, about.
_PACKET_BYTES, _SAMPLE_BYTES = 60_000, 11_000
_REFUSED_GROUP = "refused"


class Settings(BaseModel):
    """What a real/bogus job file holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    input: Urls = Field(min_length=1, description="alert packets: files, folders, patterns or URLs")
    output: str = Field(description="URL of the samples to write")
    survey: str | None = Field(default=None, description="name of the survey; none: ztf or lsst, by schema")
    splits: dict[str, float] = Field(
        default={"train": 0.8, "val": 0.1, "test": 0.1}, description="splits and their shares of the fields"
    )
    split_by: SplitBy = Field(
        default="auto", description="field, both (and night), or auto: both where that leaves enough"
    )
    folds: int = Field(default=5, ge=2, le=100, description="parts of all fields, for scores out of fold")
    score: ScorePlane = Field(
        default="absent",
        description="S_corr, which packets lack: absent, or filtered for the difference's own",
    )
    seed: int = Field(default=1, ge=0, description="root of the draw of splits and folds")
    asteroid_arcsec: float = Field(
        default=5.0, ge=0, description="an alert so near to a known body of the Solar System is real"
    )
    real_above: float = Field(default=0.9, ge=0, le=1, description="score of the survey's model, real from")
    bogus_below: float = Field(
        default=0.1, ge=0, le=1, description="score of the survey's model, bogus below"
    )
    model_weight: float = Field(default=0.5, ge=0, description="weight of what a model labelled")
    between_weight: float = Field(default=0.0, ge=0, description="weight of scores between these two")
    shard_samples: int = Field(
        default=0, ge=0, description=f"samples per shard, a multiple of {SAMPLE_GROUP}; 0: 4096"
    )
    resolved: dict[str, Any] = Field(default={}, description="what a planned job found; leave empty")

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if not self.splits or min(self.splits.values()) < 0 or not sum(self.splits.values()) > 0:
            raise ValueError(f"splits={self.splits}: give shares of 0 or more, one above 0")
        if self.bogus_below > self.real_above:
            raise ValueError(f"bogus_below={self.bogus_below} is above real_above={self.real_above}")
        if self.shard_samples % SAMPLE_GROUP:
            raise ValueError(f"shard_samples={self.shard_samples}: give a multiple of {SAMPLE_GROUP}")
        for name in (*self.splits, *([self.survey] if self.survey else [])):
            check_group(name)
        return self

    @property
    def labelling(self) -> Labelling:
        """What makes an alert real or bogus."""
        return Labelling(
            self.asteroid_arcsec, self.real_above, self.bogus_below, self.model_weight, self.between_weight
        )

    @property
    def shard(self) -> int:
        """Samples of a shard."""
        return self.shard_samples or cuts({"visit": 1})["sample_shard"]


def plan(settings: Settings) -> Plan:
    """Read every packet once; one task per shard of every group, one for each file with refused packets."""
    _found.cache_clear()  # files may have changed
    sources, table, refused, said = _found(_asked(settings))
    content = hashlib.sha256()
    for name in ("candid", "group", "label", "weight", "fold"):
        content.update(repr(table[name].tolist()).encode())
    planned = settings.model_copy(update={"resolved": {"packets": content.hexdigest()}})
    groups = Counter(table["group"].tolist())
    keys = [
        ShardKey(group, shard)
        for group in sorted(groups)
        for shard in range(-(-groups[group] // settings.shard))
    ]
    tasks = len(keys)
    keys += [ShardKey(f"{_REFUSED_GROUP}/{name}", -1) for name in sorted(_by_file(refused))]
    job = Job(
        "realbogus",
        "astrid_dist.stages.realbogus:task",
        settings.output,
        planned.model_dump(mode="json"),
        {"packets": content.hexdigest()},
    )
    samples = len(table["candid"])
    estimate = Estimate(
        tasks=len(keys),
        bytes_read=2 * samples * _PACKET_BYTES,
        bytes_written=samples * _SAMPLE_BYTES,
        requests=len(sources) + tasks * (len(variables("samples")) + 20),
        peak_memory_bytes=WORKER_BASE_BYTES
        + min(settings.shard, samples) * (len(planes_of(settings.score)) + 1) * STAMP**2 * 2 * 3,
    )
    if tasks > 4 and any(one.endswith(PACKED) for one in sources):
        said = [*said, "each task unpacks an archive from its beginning: unpack it once, and name the folder"]
    return Plan(job, keys, estimate, said)


def _asked(settings: Settings) -> str:
    """What decides about packets, as a key of the cache that plan, prepare and finalise share."""
    return settings.model_dump_json(exclude={"output", "resolved"})


@lru_cache(1)
def _found(asked: str) -> tuple[list[str], Columns, list[Refused], list[str]]:
    """Files, the table of samples in order of groups, what was refused, and what to tell of it."""
    settings = Settings.model_validate({**json.loads(asked), "output": "unused"})
    sources = packet_sources(settings.input)
    table, refused = scan(sources, settings.survey)
    if not table:
        first = f": {refused[0].source}: {refused[0].reason}" if refused else ""
        raise InputError(f"none of {len(sources)} files has a packet that can be used{first}")
    shares = {name: share for name, share in settings.splits.items() if share > 0}
    table |= label(table, settings.labelling)
    divided = divide(table, shares, settings.folds, settings.split_by, settings.seed)
    table |= {"fold": divided.fold.astype(np.int8), "night": divided.night}
    names = np.array([*shares, ""], object)[divided.split]
    table["group"] = np.array([f"{s}/{n}" for s, n in zip(table["survey"], names, strict=True)], object)
    table["split_by"] = np.full(len(names), divided.by, object)
    order = np.flatnonzero(divided.split >= 0)
    order = order[np.argsort(table["group"][order].astype(str), kind="stable")]
    chosen = {name: values[order] for name, values in table.items()}
    for group in set(chosen["group"].tolist()):
        check_group(group)
    return sources, chosen, refused, list(_told(chosen, refused, divided.left_out, divided.by, shares))


def _told(
    table: Columns, refused: list[Refused], left_out: int, by: str, shares: Mapping[str, float]
) -> Iterator[str]:
    """What the user should know before samples are made."""
    catalogue = table["labeller"] == LABELLERS.index("catalogue")
    model = (table["labeller"] == LABELLERS.index("model")) & (table["weight"] > 0)
    real = table["label"] >= 0.5
    yield (
        f"{len(real)} alerts: {catalogue.sum()} known asteroids; by a model {(model & real).sum()} real, "
        f"{(model & ~real).sum()} bogus; {(table['weight'] == 0).sum()} without weight"
    )
    yield f"split by {by}" if len(shares) > 1 else "not split"
    if left_out:
        yield f"{left_out} alerts left out: their field, object or night is on two sides of the split"
    there = {group.rpartition("/")[2] for group in table["group"].tolist()}
    if empty := [name for name in shares if name not in there]:
        yield f"no field fell to {', '.join(empty)}: give more fields, another seed, or fewer splits"
    for one in refused[:20]:
        yield f"refused: {one.source}: {one.reason}"
    if len(refused) > 20:
        yield f"and {len(refused) - 20} more refused; astrid why tells their reasons"


def _by_file(refused: list[Refused]) -> dict[str, list[Refused]]:
    """Refused packets by a name for their file."""
    found: dict[str, list[Refused]] = {}
    for one in refused:
        found.setdefault(hashlib.sha256(one.source.encode()).hexdigest()[:16], []).append(one)
    return found


def prepare(plan: Plan) -> None:
    """Create the product, its groups and host tables, and keep what was decided for the tasks."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    sources, table, refused, _ = _found(_asked(settings))
    create_product(output, "samples", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest)
    objects = output.sibling(".ledger").objects()
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(table)), buffer, compression="zstd")
    objects.put(KEPT, buffer.getvalue())
    why = {
        name: [f"{one.source}: {one.reason}" for one in several]
        for name, several in _by_file(refused).items()
    }
    objects.put(REFUSED, json.dumps({"sources": sources, "refused": why}).encode())
    for group, own in by_group(table):
        survey, split = group.split("/")
        sizes = {
            "sample": len(own["candid"]), "visit": 1, "plane": len(planes_of(settings.score)),
            "v": STAMP, "u": STAMP, "host": len(exposures(own)[0]), "sample_shard": settings.shard,
            "sample_chunk": cuts({"visit": 1})["sample_chunk"],
        }  # fmt: skip
        attributes = {
            "survey": survey,
            "split": split,
            "split_by": str(own["split_by"][0]),
            "bands": bands_of(own),
            "planes": list(planes_of(settings.score)),
            "way": "packets",
            "folds": settings.folds,
        }
        create_group(output, "samples", group, sizes, attributes)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Cut the stamps of one shard, or say why packets were refused."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    sources, refused, groups = _kept(options.output, str(options.resolved["packets"]))
    if key.group.startswith(f"{_REFUSED_GROUP}/"):
        return TaskOutcome({}, quarantined="; ".join(refused[key.group.rpartition("/")[2]]))
    own = groups[key.group]
    first, last = key.epoch * options.shard, min((key.epoch + 1) * options.shard, len(own["candid"]))
    rows = np.arange(first, last)
    columns = sample_columns(own, rows, len(planes_of(options.score)))
    for number, packet in read_again(sources, own, rows):
        stamp = stamp_of(packet, options.score)
        place = number - first
        columns["pixels"][place, 0] = stamp.pixels
        for name, sigma in zip(("sigma_n", "sigma_r", "sigma_d"), stamp.sigma, strict=True):
            columns[name][place, 0] = sigma
    moving = np.flatnonzero(columns["class"] == class_code("moving"))
    difference = columns["pixels"][moving, 0, 2].astype(np.float32)
    middle, marked = np.full(len(moving), STAMP // 2, np.int64), np.zeros(difference.shape, bool)
    footprints(difference, _FOOTPRINT_SIGMA, middle, middle, marked)
    columns["target"][moving, 0] = marked * np.uint16(class_bit("moving"))
    computed = perf_counter()
    region = {"sample": slice(first, last)}
    writer = ProductWriter(Location.parse(options.output), key.group)
    written = writer.write_all({name: (region, values) for name, values in columns.items()})
    return TaskOutcome(
        shards={f"{key.group}/{name}": digest for name, digest in written.items()},
        counts={"samples": last - first},
        timings={"compute": computed - started, "write": perf_counter() - computed},
    )


@lru_cache(2)
def _kept(output: str, digest: str) -> tuple[list[str], dict[str, list[str]], dict[str, Columns]]:
    """What `prepare` kept: files, reasons of refused packets by file, tables of groups."""
    objects = Location.parse(output).sibling(".ledger").objects()
    content, why = objects.get(KEPT), objects.get(REFUSED)
    if content is None or why is None:
        raise InputError(f"{output}.ledger/{KEPT} is gone: `astrid resume {output}` puts it there again")
    table = pq.read_table(io.BytesIO(content))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    said = json.loads(why)
    return said["sources"], said["refused"], dict(by_group(columns))


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Write the host tables: an exposure is a host."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    written: dict[str, ShardDigest] = {}
    for group, own in by_group(_found(_asked(settings))[1]):
        columns = host_columns(own)
        writer = ProductWriter(output, group)
        written |= {f"{group}/{name}": writer.write(name, {}, values) for name, values in columns.items()}
    return written
