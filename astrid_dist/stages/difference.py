"""Difference a survey against a reference: ZOGY on haloed tiles, one task per shard of an epoch."""

from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import ConfigError, InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import zogy
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.masks import noise_moments, source_free
from astrid_dist.imaging.psf import evaluate as psf_at
from astrid_dist.stages.blocks import (
    WORKER_BASE_BYTES,
    Planes,
    Window,
    field_shape,
    put_requests,
    read_planes,
    read_stars,
    shard_window,
)
from astrid_dist.stages.pairing import Pair, pair
from astrid_dist.stages.selection import choose_epochs, epoch_row, epochs_digest, groups_of
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

#: Source-free pixels below which the noise of a tile is not judged.
ENOUGH_PIXELS = 5000
#: Per-tile measurements, in the order of the layout.
TILE_MAPS = (
    "sigma_n", "sigma_r", "flux_ratio", "flux_ratio_err", "F_S", "dx", "dy", "dx_err", "dy_err",
    "offset_scatter", "renormalisation", "kernel_radius_px", "score_mean", "score_std",
)  # fmt: skip


class Settings(BaseModel):
    """What a difference job file holds."""

    model_config = ConfigDict(extra="forbid")

    survey: str = Field(description="URL of the survey to difference")
    reference: str = Field(description="URL of the reference product")
    output: str = Field(description="URL of the difference product to write")
    epochs: str | list[str] | dict[str, list[int]] = Field(
        default="all", description="'all', 'best:N', or source names or epoch ids"
    )
    fields: list[str] = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
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
    resolved = settings.model_copy(update={"epochs": chosen})
    inputs = {
        "survey": str(survey),
        "epochs": digests,
        "reference": str(reference),
        "reference_digest": product_header(reference)["digest"],
    }
    job = Job(
        "difference", "astrid_dist.stages.difference:task", settings.output, resolved.model_dump(), inputs
    )
    return Plan(job, keys, _estimate(len(keys), pixels, largest), warnings)


def _estimate(tasks: int, pixels: int, largest: int) -> Estimate:
    # Read: image, variance (f4) and mask (u2) of epoch and reference. Written: three f4 planes and the mask.
    plane = pixels // max(tasks, 1)
    per_task = 6 * 2 + 3 * put_requests(4 * plane) + put_requests(2 * plane) + len(TILE_MAPS) + 2 + 1
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
    for group, indices in _chosen(settings).items():
        reader = ProductReader(survey, group)
        height, width = field_shape(reader, "image")
        box = reader.sizes("psf")["u"]
        kept = ("wcs", "survey", "pixel_scale_arcsec", "oversampling")
        attributes = {name: reader.attributes[name] for name in kept if name in reader.attributes}
        create_group(
            output, "difference", group, {"epoch": 0, "y": height, "x": width, "v": box, "u": box}, attributes
        )
        grow(output, "difference", group, len(indices))


def _chosen(settings: Settings) -> dict[str, list[int]]:
    if not isinstance(settings.epochs, dict):
        raise ConfigError("a resolved difference job names its epochs by group: plan it first")
    return settings.epochs


class _Epoch(NamedTuple):
    """One epoch and its reference, opened."""

    survey: ProductReader
    reference: ProductReader
    index: int
    row: Mapping[str, Any]
    shape: tuple[int, int]
    pair: Pair
    share: float
    """Weight of this epoch in its own reference; 0 where it is no part of it."""


def _open_epoch(settings: Settings, key: ShardKey) -> _Epoch:
    survey = ProductReader(Location.parse(settings.survey), key.group)
    reference = ProductReader(Location.parse(settings.reference), key.group)
    index = _chosen(settings)[key.group][key.epoch]
    row = epoch_row(survey, index)
    made = reference.attributes["reference"]
    stars = read_stars(survey, row["fwhm"], epoch=index), read_stars(reference, made["fwhm"])
    zeropoints = (
        float(row["zeropoint"]),
        float(made["zeropoint"] if made["zeropoint"] is not None else np.nan),
    )
    where = f"{key.group} epoch {row['source']}"
    compared = pair(*stars, zeropoints, settings.match_radius_px, where)
    weights = dict(zip(made["epoch_ids"], made["weights"], strict=True))
    share = weights.get(row["epoch_id"], 0.0)
    return _Epoch(survey, reference, index, row, field_shape(survey, "image"), compared, share)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Subtract the reference from one shard of one epoch and write difference, score and tile maps."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    epoch = _open_epoch(options, key)
    core = shard_window(key.row, key.column, *epoch.shape)
    box = epoch.survey.sizes("psf")["u"]
    outer = core.widened(zogy.halo_px(box), *epoch.shape)
    science = read_planes(epoch.survey, outer, epoch=epoch.index)
    template = read_planes(epoch.reference, outer)
    read = perf_counter()
    planes, maps, psf_d, peaks = _subtract_tiles(epoch, options, core, outer, science, template, box)
    computed = perf_counter()
    writer = ProductWriter(Location.parse(options.output), key.group)
    slot = slice(key.epoch, key.epoch + 1)
    shards = {
        f"{key.group}/{name}": writer.write(name, {"epoch": slot, **core.slices}, values[None])
        for name, values in planes.items()
    }
    tiles = {
        "epoch": slot,
        "tile_y": slice(core.y0 // TILE, -(-core.y1 // TILE)),
        "tile_x": slice(core.x0 // TILE, -(-core.x1 // TILE)),
    }
    for name, values in {**maps, "n_peaks": peaks, "psf_d": psf_d}.items():
        shards[f"{key.group}/{name}"] = writer.write(name, tiles, values[None])
    return TaskOutcome(
        shards=shards,
        scalars=_scalars(epoch, maps),
        counts={"pixels": int(np.isfinite(planes["score"]).sum()), "peaks": int(peaks[peaks > 0].sum())},
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def _subtract_tiles(
    epoch: _Epoch, options: Settings, core: Window, outer: Window, science: Planes, template: Planes, box: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]], NDArray[np.float32], NDArray[np.int32]]:
    shape = core.shape
    planes: dict[str, NDArray[Any]] = {
        name: np.full(shape, np.nan, np.float32) for name in ("difference", "score", "sigma_flux")
    }
    planes["mask"] = (science.mask | template.mask)[core.within(outer)]
    grid = (-(-shape[0] // TILE), -(-shape[1] // TILE))
    maps = {name: np.full(grid, np.nan, np.float32) for name in TILE_MAPS}
    psf_d = np.full((*grid, box, box), np.nan, np.float32)
    peaks = np.full(grid, -1, np.int32)
    for tile_y, tile_x, tile in core.tiles(TILE):
        at = tile_y - core.y0 // TILE, tile_x - core.x0 // TILE
        window = tile.widened(zogy.halo_px(box), *epoch.shape)
        inside = window.within(outer)
        new = Planes(
            *(plane[inside] for plane in (science.image, science.variance, science.mask, science.rms))
        )
        ref = Planes(
            *(plane[inside] for plane in (template.image, template.variance, template.mask, template.rms))
        )
        if not (np.isfinite(new.image).any() and np.isfinite(ref.image).any()):
            continue
        result = _subtract(epoch, options, tile, new, ref)
        crop = tile.within(window)
        score, sigma_flux = result.score[crop], result.sigma_flux[crop]
        fwhm = max(float(epoch.row["fwhm"]), 2.0)
        quiet = source_free(new.image, new.sigma, fwhm)[crop] & source_free(ref.image, ref.sigma, fwhm)[crop]
        mean, std, n_quiet = noise_moments(score, quiet)
        renormalisation = std if options.renormalise and n_quiet >= ENOUGH_PIXELS and std > 0 else 1.0
        if (
            epoch.share
        ):  # the noise it shares with its reference cancels; that must not sharpen its detections
            renormalisation = max(renormalisation, 1.0)
        place = tile.within(core)
        planes["difference"][place] = result.difference[crop]
        planes["score"][place] = score / np.float32(renormalisation)
        planes["sigma_flux"][place] = sigma_flux * np.float32(renormalisation)
        psf_d[at] = result.psf_d
        peaks[at] = len(find_peaks(planes["score"][place])[0])
        found = epoch.pair
        measured = (
            new.sigma, ref.sigma, found.flux_ratio, found.flux_ratio_err, result.F_S, found.dx, found.dy,
            found.dx_err, found.dy_err, found.scatter, renormalisation, result.kernel_radius_px, mean, std,
        )  # fmt: skip
        for name, value in zip(TILE_MAPS, measured, strict=True):
            maps[name][at] = value
    planes["mask"] |= np.where(np.isfinite(planes["score"]), 0, int(Flag.NO_DATA)).astype(np.uint16)
    return planes, maps, psf_d, peaks


def _subtract(epoch: _Epoch, options: Settings, tile: Window, new: Planes, ref: Planes) -> zogy.Subtraction:
    x, y = tile.centre
    orders = [int(reader.attributes["psf_order"]) for reader in (epoch.survey, epoch.reference)]
    psf_n = psf_at(epoch.survey.read("psf", epoch=epoch.index), orders[0], x, y, epoch.shape)
    psf_r = psf_at(epoch.reference.read("psf"), orders[1], x, y, epoch.shape)
    if not (np.isfinite(psf_n).all() and np.isfinite(psf_r).all()):
        raise InputError(f"{epoch.row['source']}: the stored PSF holds NaN; ingest the epoch again")
    filters = zogy.plan_subtraction(
        psf_n,
        psf_r,
        new.sigma,
        ref.sigma,
        epoch.pair.flux_ratio,
        shape=(new.image.shape[0], new.image.shape[1]),
    )
    return zogy.subtract(
        new.image,
        ref.image,
        new.variance,
        ref.variance,
        filters,
        shift=epoch.pair.shift,
        astrometric_sigma=epoch.pair.astrometric_sigma(options.astrometric_sigma_px),
        flux_ratio_err=epoch.pair.flux_ratio_err,
    )


def _scalars(epoch: _Epoch, maps: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    copied = ("epoch_id", "source", "time", "mjd", "exptime", "fwhm")
    made = epoch.reference.attributes["reference"]
    std = maps["score_std"][np.isfinite(maps["score_std"])]
    verdict, reason = epoch.pair.verdict, epoch.pair.reason
    if epoch.share and verdict == "good":
        verdict = "in reference"
        reason = f"it is {100 * epoch.share:.0f} % of its own reference: what it shares with it is damped"
    # Green range of the BlackBOX quality control for std(S_corr): facts of a ZOGY survey in production.
    if std.size and not 0.7 <= float(np.median(std)) <= 1.3 and verdict == "good":
        verdict = "noise off"
        reason = f"S_corr has std {float(np.median(std)):.2f} on source-free pixels before renormalisation"
    return {
        **{name: epoch.row[name] for name in copied},
        "survey_epoch": epoch.index,
        "zeropoint": made["zeropoint"],
        "n_matched": epoch.pair.n_matched,
        "verdict": verdict,
        "reason": reason,
        "valid": True,
    }


def finalise(plan: Plan) -> None:
    """Write the scalars of every epoch from its first shard's marker, then the counts."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for marker in Ledger(output).markers(plan.job.stage):
        key = ShardKey.parse(marker["key"])
        if (key.row, key.column) == (0, 0):
            rows.setdefault(key.group, {})[key.epoch] = marker["scalars"]
    for group, indices in _chosen(settings).items():
        ordered = [rows[group][index] for index in range(len(indices))]
        columns = {name: [row[name] for row in ordered] for name in ordered[0]}
        ProductWriter(output, group).write_scalars(columns, 0)
        commit_epochs(output, group, len(indices))
