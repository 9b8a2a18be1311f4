"""The smallest stage that writes samples: noise, keyed by group, through the real ledger and writer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import InputError
from astrid_dist.store.layouts import complete_sizes, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.quantise import quantise
from astrid_dist.store.sample_layout import PLANES, SAMPLE_GROUP
from astrid_dist.store.templates import create_group, create_product
from astrid_dist.store.writing import ProductWriter, ShardDigest
from astrid_dist.taxonomy import CLASSES, CODES, KINDS

STAGE, GROUP = "made", "ztf/train"
BANDS = ["g", "r"]


class Settings(BaseModel):
    """What a job file would hold."""

    model_config = ConfigDict(extra="forbid")
    output: str
    samples: int = 600
    visits: int = 1
    side: int = 63
    shard: int = 256
    chunk: int = 32
    fail: int = -1
    """Shard whose input is bad."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the one group."""
        given = {"sample": self.samples, "visit": self.visits, "plane": len(PLANES), "v": self.side}
        cuts = {"sample_shard": self.shard, "sample_chunk": self.chunk}
        return complete_sizes({**given, **cuts, "u": self.side, "host": -(-self.samples // SAMPLE_GROUP)})


def plan(settings: Settings) -> Plan:
    """A key for every shard."""
    shards = -(-settings.samples // settings.shard)
    job = Job(STAGE, "tests.made_samples:task", settings.output, settings.model_dump(mode="json"))
    return Plan(job, KeyGrid([KeyBlock(GROUP, range(shards))]), Estimate(shards))


def prepare(plan: Plan) -> None:
    """The empty product."""
    settings = Settings.model_validate(plan.job.settings)
    location = Location.parse(settings.output)
    create_product(location, "samples", job=plan.job.id, digest=plan.job.digest)
    attributes = {"survey": "ztf", "split": "train", "bands": BANDS, "planes": list(PLANES)}
    create_group(location, "samples", GROUP, settings.sizes, attributes)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """One shard of every variable."""
    asked = Settings.model_validate(settings)
    if key.epoch == asked.fail:
        raise InputError(f"the host of {key} is a NaN plane")
    start = key.epoch * asked.shard
    stop = min(start + asked.shard, asked.samples)
    groups = [rows(asked, group) for group in range(start // SAMPLE_GROUP, -(-stop // SAMPLE_GROUP))]
    where = {"sample": slice(start, stop)}
    parts = {name: (where, np.concatenate([one[name] for one in groups])) for name in groups[0]}
    written = ProductWriter(Location.parse(asked.output), key.group).write_all(parts)
    return TaskOutcome({f"{key.group}/{name}": digest for name, digest in written.items()})


def rows(settings: Settings, group: int) -> dict[str, np.ndarray]:
    """Values of one group of samples, by variable."""
    count = min(SAMPLE_GROUP, settings.samples - group * SAMPLE_GROUP)
    rng = np.random.default_rng([7, group])
    sizes = settings.sizes | {"sample": SAMPLE_GROUP}
    found: dict[str, np.ndarray] = {}
    for one in (one for one in variables("samples").values() if one.is_sample):
        shape = one.shape(sizes)
        if one.dtype[0] == "f":
            values = rng.normal(size=shape).astype("f4")
        elif one.dtype == "bool":
            values = rng.random(shape) < 0.9
        else:
            values = rng.integers(0, len(CODES.get(one.name, BANDS)), shape)
        found[one.name] = values.astype(one.dtype)
    kind_classes = np.array([CLASSES.index(name) for name in KINDS.values()])
    found["class"] = kind_classes[found["kind"]]
    found["label"] = np.clip(found["label"], 0, 1)
    pixels = rng.normal(size=variables("samples")["pixels"].shape(sizes)).astype("f4")
    pixels[..., 0, 0] = np.nan
    found["pixels"] = quantise(pixels)
    found["host_row"] = np.full(SAMPLE_GROUP, group)
    found["item"] = np.arange(SAMPLE_GROUP) + group * SAMPLE_GROUP
    return {name: values[:count] for name, values in found.items()}


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """The host table, the driver's."""
    settings = Settings.model_validate(plan.job.settings)
    hosts, visits = settings.sizes["host"], settings.visits
    parts: dict[str, Any] = {}
    for one in variables("samples").values():
        if "host" in one.dims:
            shape = (hosts, visits)[: len(one.dims)]
            texts = np.array([f"id{i}" for i in range(int(np.prod(shape)))], dtype=object).reshape(shape)
            values = np.arange(np.prod(shape)).reshape(shape)
            parts[one.name] = ({}, texts if one.dtype == "string" else values.astype(one.dtype))
    written = ProductWriter(Location.parse(settings.output), GROUP).write_all(parts)
    return {f"{GROUP}/{name}": digest for name, digest in written.items()}
