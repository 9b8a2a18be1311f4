"""Difference a survey against a reference: ZOGY on haloed tiles, one task per shard of an epoch."""

from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import ConfigError, InputError
from astrid_dist.stages import grading
from astrid_dist.stages.blocks import (
    WORKER_BASE_BYTES,
    field_shape,
    psf_box,
    put_requests,
    shard_window,
)
from astrid_dist.stages.pair import open_pair, scalars_set_aside
from astrid_dist.stages.selection import Epochs, Groups, choose_epochs, epochs_digest, groups_of, resolved
from astrid_dist.stages.subtraction import TILE_MAPS, subtract_tiles
from astrid_dist.stages.tiles import Options, Refine
from astrid_dist.store.layouts import TILE
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import (
    commit_epochs,
    create_group,
    create_product,
    grow,
    product_header,
    shard_grid,
)
from astrid_dist.store.writing import ProductWriter
from astrid_dist.surveys.profile import resolve_thresholds
from astrid_dist.surveys.thresholds import Thresholds


class Settings(BaseModel):
    """What a difference job file holds."""

    model_config = ConfigDict(extra="forbid")

    survey: str = Field(description="URL of the survey to difference")
    reference: str = Field(description="URL of the reference product")
    output: str = Field(description="URL of the difference product to write")
    epochs: Epochs = Field(default="all", description="'all', 'best:N', or source names or epoch ids")
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    match_radius_px: float = Field(
        default=3.0, gt=0, description="how far a star may be from its match, pixels"
    )
    astrometric_sigma_px: float = Field(
        default=0.1,
        ge=0,
        description="misregistration assumed per axis where stars are too few to measure it, pixels",
    )
    renormalise: bool = Field(
        default=True, description="divide S_corr of each tile by its measured source-free standard deviation"
    )
    refine: Refine = Field(
        default="auto",
        description="refine the PSF of a pair by what its stars leave: auto (where they leave too much), "
        "always, never",
    )
    thresholds: dict[str, dict[str, list[float | None]] | None] = Field(
        default={},
        description="quality thresholds other than the survey's: metric -> colour -> [lowest, highest]",
    )

    @property
    def tiles(self) -> Options:
        """How tiles are subtracted."""
        return Options(self.astrometric_sigma_px, self.renormalise, self.refine)

    @property
    def resolved_thresholds(self) -> Thresholds:
        """Thresholds of a planned job, which holds them all."""
        return Thresholds.model_validate(self.thresholds)


def plan(settings: Settings) -> Plan:
    """Every shard of every chosen epoch that has a reference; reads headers and scalars only."""
    survey, reference = Location.parse(settings.survey), Location.parse(settings.reference)
    groups = groups_of(survey, "survey", settings.fields)
    there = set(groups_of(reference, "reference", ["*"]))
    chosen: dict[str, list[int]] = {}
    digests: dict[str, str] = {}
    blocks: list[KeyBlock] = []
    warnings: list[str] = []
    pixels = largest = 0
    for group in groups:
        if group not in there:
            warnings.append(f"{group} has no reference in {reference}: left out")
            continue
        reader = ProductReader(survey, group)
        shape, other = field_shape(reader, "image"), field_shape(ProductReader(reference, group), "image")
        if shape != other:
            raise ConfigError(
                f"{group}: the survey's grid is {shape}, the reference's {other} (rows, columns)"
            )
        chosen[group] = choose_epochs(reader, settings.epochs, group)
        digests[group] = epochs_digest(reader, chosen[group])
        rows, columns = shard_grid({"y": shape[0], "x": shape[1]}, "difference")
        blocks.append(KeyBlock(group, range(len(chosen[group])), rows, columns))
        pixels += len(chosen[group]) * shape[0] * shape[1]
        largest = max(largest, prod(shard_window(0, 0, *shape).shape))
    keys = KeyGrid(blocks)
    if not keys:
        raise ConfigError(f"nothing to difference: no epoch of {survey} has a reference in {reference}")
    said = ProductReader(survey, next(iter(chosen))).attributes.get("thresholds")
    own = Thresholds.model_validate(said) if said else "generic"
    thresholds = resolve_thresholds(own, settings.thresholds).model_dump(mode="json")
    planned = settings.model_copy(update={"epochs": chosen, "thresholds": thresholds})
    inputs = {
        "survey": str(survey),
        "epochs": digests,
        "reference": str(reference),
        "reference_digest": product_header(reference)["digest"],
    }
    job = Job(
        "difference", "astrid_dist.stages.difference:task", settings.output, planned.model_dump(), inputs
    )
    return Plan(job, keys, _estimate(len(keys), pixels, largest), warnings)


def _estimate(tasks: int, pixels: int, largest: int) -> Estimate:
    # Read: image, variance (f4) and mask (u2) of epoch and reference. Written: three f4 planes and the mask.
    plane = pixels // max(tasks, 1)
    per_task = 6 * 2 + 3 * put_requests(4 * plane) + put_requests(2 * plane) + len(TILE_MAPS) + 1 + 1
    return Estimate(
        tasks=tasks,
        bytes_read=20 * pixels,
        bytes_written=14 * pixels,
        requests=per_task * tasks,
        peak_memory_bytes=WORKER_BASE_BYTES + 90 * largest,
    )


def prepare(plan: Plan) -> None:
    """Create the product and one group per field, with a slot for every chosen epoch."""
    settings = Settings.model_validate(plan.job.settings)
    output, survey = Location.parse(settings.output), Location.parse(settings.survey)
    create_product(
        output, "difference", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest
    )
    for group, indices in resolved(settings.epochs).items():
        reader = ProductReader(survey, group)
        height, width = field_shape(reader, "image")
        box = psf_box(reader)
        kept = ("wcs", "survey", "pixel_scale_arcsec")
        attributes = {name: reader.attributes[name] for name in kept if name in reader.attributes}
        attributes["thresholds"] = settings.thresholds
        create_group(
            output, "difference", group, {"epoch": 0, "y": height, "x": width, "v": box, "u": box}, attributes
        )
        grow(output, "difference", group, len(indices))


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Subtract the reference from one shard of one epoch and write difference, score and tile maps.

    An epoch that cannot be compared with the reference is quarantined: its slot stays without data.
    """
    started = perf_counter()
    options = Settings.model_validate(settings)
    survey, index = Location.parse(options.survey), resolved(options.epochs)[key.group][key.epoch]
    try:
        pair = open_pair(survey, Location.parse(options.reference), key.group, index, options.match_radius_px)
    except InputError as error:
        return give_up(settings, key, str(error))
    core = shard_window(key.row, key.column, *pair.shape)
    outer = core.widened(pair.halo, *pair.shape)
    science, template = pair.science(outer), pair.template(outer)
    read = perf_counter()
    pair = pair.registered(science, template)
    made = subtract_tiles(pair, core, science, template, options.tiles)
    grading.measure_tiles(pair, made, science, template)
    metrics, pixels = grading.grade_tiles(pair, made, options.resolved_thresholds)
    computed = perf_counter()
    writer = ProductWriter(Location.parse(options.output), key.group)
    slot = slice(key.epoch, key.epoch + 1)
    tiles = {
        "epoch": slot,
        "tile_y": slice(core.y0 // TILE, -(-core.y1 // TILE)),
        "tile_x": slice(core.x0 // TILE, -(-core.x1 // TILE)),
    }
    written = writer.write_all(
        {name: ({"epoch": slot, **core.slices}, values[None]) for name, values in made.planes.items()}
        | {name: (tiles, values[None]) for name, values in {**made.maps, "psf_d": made.psf_d}.items()}
    )
    shards = {f"{key.group}/{name}": digest for name, digest in written.items()}
    return TaskOutcome(
        shards=shards,
        scalars=grading.epoch_scalars(pair, metrics, pixels),
        counts={
            "pixels": int(np.isfinite(made.planes["score"]).sum()),
            "peaks": int(made.maps["n_peaks"].clip(0).sum()),
        },
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def give_up(settings: Mapping[str, Any], key: ShardKey, reason: str) -> TaskOutcome:
    """What stands for a shard that cannot be subtracted: a slot without data, and why."""
    options = Settings.model_validate(settings)
    survey, index = Location.parse(options.survey), resolved(options.epochs)[key.group][key.epoch]
    scalars = scalars_set_aside(survey, key.group, index, reason)
    return TaskOutcome(shards={}, scalars=scalars, quarantined=reason)


def finalise(plan: Plan) -> None:
    """Judge every epoch by what the markers of its shards say, write its scalars, then the counts."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for marker in Ledger(output).markers(plan.job.stage):
        key = ShardKey.parse(marker["key"])
        parts.setdefault((key.group, key.epoch), []).append(marker["scalars"])
    survey = Location.parse(settings.survey)
    for group, indices in resolved(settings.epochs).items():
        epochs = [parts[group, index] for index in range(len(indices))]
        depth = ProductReader(survey, group).attributes.get("depth")
        columns = grading.grade_epochs(epochs, settings.resolved_thresholds, depth)
        ProductWriter(output, group).write_scalars(columns, 0)
        commit_epochs(output, group, len(indices))
