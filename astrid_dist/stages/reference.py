"""Build a reference from chosen epochs: clipped weighted mean, one task per shard of a field."""

from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.imaging import coadd
from astrid_dist.imaging.background import measure_background
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf import fwhm_of
from astrid_dist.imaging.stars import StarList, measure_stars
from astrid_dist.stages.blocks import (
    WORKER_BASE_BYTES,
    field_shape,
    put_requests,
    read_planes,
    read_stars,
    shard_window,
)
from astrid_dist.stages.pairing import compare
from astrid_dist.stages.selection import (
    Epochs,
    Groups,
    choose_epochs,
    epoch_row,
    epochs_digest,
    groups_of,
    resolved,
)
from astrid_dist.store.layouts import MESH_BOX, STARS
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import create_group, create_product, shard_grid
from astrid_dist.store.writing import ProductWriter, ShardDigest

STAR_COLUMNS = ("x", "y", "flux", "flux_err", "flags")
#: Rows of a shard that are combined at a time, so that memory does not grow with the shard.
STRIP = 256


class Settings(BaseModel):
    """What a reference job file holds."""

    model_config = ConfigDict(extra="forbid")

    survey: str = Field(description="URL of the survey")
    output: str = Field(description="URL of the reference product to write")
    epochs: Epochs = Field(
        default="best:5", description="'best:N' (the N deepest), 'all', or source names or epoch ids"
    )
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    clip_sigma: float = Field(
        default=4.0, gt=0, description="outliers beyond this many sigma of the median are left out"
    )
    match_radius_px: float = Field(
        default=3.0, gt=0, description="how far a star may be from its match, pixels"
    )


def plan(settings: Settings) -> Plan:
    """Every shard of every field; the epochs are chosen here and their ids digested."""
    survey = Location.parse(settings.survey)
    chosen: dict[str, list[int]] = {}
    digests: dict[str, str] = {}
    blocks: list[KeyBlock] = []
    warnings: list[str] = []
    read = pixels = peak = 0
    for group in groups_of(survey, "survey", settings.fields):
        reader = ProductReader(survey, group)
        if isinstance(settings.epochs, dict) and group not in settings.epochs:
            continue
        chosen[group] = choose_epochs(reader, settings.epochs, group)
        digests[group] = epochs_digest(reader, chosen[group])
        if len(chosen[group]) < 3:
            count = len(chosen[group])
            warnings.append(f"{group}: made of {count}; it takes three epochs to outvote a cosmic ray")
        height, width = field_shape(reader, "image")
        rows, columns = shard_grid({"y": height, "x": width}, "reference")
        blocks.append(KeyBlock(group, (-1,), rows, columns))
        pixels += height * width
        read += 10 * height * width * len(chosen[group])
        window = shard_window(0, 0, height, width)
        strip = min(STRIP, window.shape[0]) * window.shape[1] * len(chosen[group])
        peak = max(peak, WORKER_BASE_BYTES + 60 * prod(window.shape) + 60 * strip)
    keys = KeyGrid(blocks)
    plane = pixels // max(len(keys), 1)
    per_task = 2 * put_requests(4 * plane) + 2 * put_requests(2 * plane) + 3 + 6 * len(STAR_COLUMNS)
    estimate = Estimate(len(keys), read, 12 * pixels, per_task * len(keys), peak)
    planned = settings.model_copy(update={"epochs": chosen}).model_dump()
    inputs = {"survey": str(survey), "epochs": digests}
    job = Job("reference", "astrid_dist.stages.reference:task", settings.output, planned, inputs)
    return Plan(job, keys, estimate, warnings)


def prepare(plan: Plan) -> None:
    """Create the product and one group per field; what each was made of goes into its attributes."""
    settings = Settings.model_validate(plan.job.settings)
    output, survey = Location.parse(settings.output), Location.parse(settings.survey)
    create_product(output, "reference", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest)
    for group, indices in resolved(settings.epochs).items():
        reader = ProductReader(survey, group)
        height, width = field_shape(reader, "image")
        psf = reader.sizes("psf")
        kept = ("wcs", "survey", "pixel_scale_arcsec", "oversampling", "psf_order")
        attributes = {name: reader.attributes[name] for name in kept if name in reader.attributes}
        attributes["reference"] = _provenance(reader, indices, settings.match_radius_px)
        sizes = {"y": height, "x": width, "psf_term": psf["psf_term"], "v": psf["v"], "u": psf["u"]}
        create_group(output, "reference", group, sizes, attributes)


def _provenance(reader: ProductReader, indices: list[int], radius_px: float) -> dict[str, Any]:
    """What goes into a reference: flux scales to its first epoch, weights, zero point, seeing."""
    rows = [epoch_row(reader, index) | {"index": index} for index in indices]
    stars = [read_stars(reader, row["fwhm"], epoch=row["index"]) for row in rows]
    noise = [float(np.nanmedian(reader.read("background_rms", epoch=index))) for index in indices]
    first, verdicts = rows[0], []
    scales = [1.0]
    for row, found in zip(rows[1:], stars[1:], strict=True):
        where = f"{reader.group} epoch {row['source']}"
        compared = compare(found, stars[0], (row["zeropoint"], first["zeropoint"]), radius_px, where)
        # An epoch that gathered F electrons per electron of the first is divided by F.
        scales.append(1 / compared.flux_ratio)
        verdicts.append(compared.verdict)
    weights = np.array([1 / (sigma * scale) ** 2 for sigma, scale in zip(noise, scales, strict=True)])
    weights /= weights.sum()
    psf = sum(w * reader.read("psf", epoch=i)[0] for w, i in zip(weights, indices, strict=True))
    return {
        "epochs": indices,
        "epoch_ids": [row["epoch_id"] for row in rows],
        "sources": [row["source"] for row in rows],
        "scales": scales,
        "weights": [float(weight) for weight in weights],
        "zeropoint": float(first["zeropoint"]) if np.isfinite(first["zeropoint"]) else None,
        "exptime": float(sum(row["exptime"] for row in rows)),
        "mjd": float(np.mean([row["mjd"] for row in rows])),
        "fwhm": float(fwhm_of(np.asarray(psf, np.float32))),
        "verdict": "few stars" if "few stars" in verdicts else "good",
    }


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Combine one shard of all chosen epochs; measure its noise; the first shard also writes the PSF."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    survey = ProductReader(Location.parse(options.survey), key.group)
    output = Location.parse(options.output)
    made = ProductReader(output, key.group).attributes["reference"]
    indices, scales, weights = made["epochs"], np.array(made["scales"]), np.array(made["weights"])
    window = shard_window(key.row, key.column, *field_shape(survey, "image"))
    planes = _combine(survey, indices, scales, weights, window, options.clip_sigma)
    read = perf_counter()
    _, rms = measure_background(planes["image"], planes["mask"], MESH_BOX)
    computed = perf_counter()
    writer = ProductWriter(output, key.group)
    shards = {
        f"{key.group}/{name}": writer.write(name, window.slices, values) for name, values in planes.items()
    }
    mesh = {
        "mesh_y": slice(window.y0 // MESH_BOX, -(-window.y1 // MESH_BOX)),
        "mesh_x": slice(window.x0 // MESH_BOX, -(-window.x1 // MESH_BOX)),
    }
    # The epochs' own skies are gone, so the reference's is zero by construction.
    for name, values in (("background", np.zeros_like(rms)), ("background_rms", rms)):
        shards[f"{key.group}/{name}"] = writer.write(name, mesh, values)
    if (key.row, key.column) == (0, 0):
        psf = sum(w * survey.read("psf", epoch=i) for w, i in zip(weights, indices, strict=True))
        shards[f"{key.group}/psf"] = writer.write("psf", {}, np.asarray(psf, np.float32))
    return TaskOutcome(
        shards=shards,
        counts={"pixels": int(np.isfinite(planes["image"]).sum())},
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def _combine(
    survey: ProductReader,
    indices: list[int],
    scales: NDArray[np.float64],
    weights: NDArray[np.float64],
    window: Any,
    clip_sigma: float,
) -> dict[str, NDArray[Any]]:
    names = ("image", "variance", "mask", "n_epochs")
    strips: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for y in range(window.y0, window.y1, STRIP):
        strip = type(window)(y, min(y + STRIP, window.y1), window.x0, window.x1)
        planes = [read_planes(survey, strip, epoch=index) for index in indices]
        combined: tuple[NDArray[Any], ...] = coadd.clipped_mean(
            np.stack([plane.image for plane in planes]),
            np.stack([plane.variance for plane in planes]),
            np.stack([plane.mask for plane in planes]),
            scales,
            weights=weights,
            clip_sigma=clip_sigma,
        )
        for part, combination in zip(strips.values(), combined, strict=True):
            part.append(combination)
    return {name: np.concatenate(parts) for name, parts in strips.items()}


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Measure the reference's star list on the finished image; what was written."""
    written = {}
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    for group in resolved(settings.epochs):
        reader = ProductReader(output, group)
        stars = _stars(reader, float(reader.attributes["reference"]["fwhm"]))
        writer = ProductWriter(output, group)
        for name in STAR_COLUMNS:
            values = getattr(stars, name)
            padded = np.zeros(STARS, np.uint16) if name == "flags" else np.full(STARS, np.nan, values.dtype)
            padded[: len(values)] = values
            written[f"{group}/star_{name}"] = writer.write(f"star_{name}", {}, padded)
    return written


def _stars(reader: ProductReader, fwhm_px: float) -> StarList:
    """The brightest stars of a field, shard by shard with a halo, each kept by the shard it lies in."""
    height, width = field_shape(reader, "image")
    rows, columns = shard_grid({"y": height, "x": width}, "reference")
    stamp = reader.read("psf")[0]
    found = []
    for row in range(rows):
        for column in range(columns):
            core = shard_window(row, column, height, width)
            outer = core.widened(64, height, width)
            planes = read_planes(reader, outer)
            stars = measure_stars(planes.image, planes.variance, planes.mask, fwhm_px)
            stars = fit_star_fluxes(planes.image, planes.variance, planes.mask, stamp, stars)
            x, y = stars.x + outer.x0, stars.y + outer.y0
            mine = (x >= core.x0 - 0.5) & (x < core.x1 - 0.5) & (y >= core.y0 - 0.5) & (y < core.y1 - 0.5)
            found.append(
                StarList(x[mine], y[mine], stars.flux[mine], stars.flux_err[mine], stars.flags[mine], fwhm_px)
            )
    joined = {name: np.concatenate([getattr(part, name) for part in found]) for name in STAR_COLUMNS}
    order = np.argsort(-joined["flux"], kind="stable")[:STARS]
    return StarList(**{name: values[order] for name, values in joined.items()}, fwhm_px=fwhm_px)
