"""Build a reference from chosen epochs: cleaned and co-added, one task per shard of a field."""

from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.imaging.background import measure_background
from astrid_dist.imaging.coadd import fit_psf_terms, halo_px
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf import fwhm_of, stamps_at
from astrid_dist.imaging.stars import StarList, measure_stars
from astrid_dist.stages.best_epochs import depth
from astrid_dist.stages.blocks import (
    STAR_COLUMNS,
    WORKER_BASE_BYTES,
    Window,
    field_shape,
    put_requests,
    read_planes,
    shard_window,
    star_planes,
)
from astrid_dist.stages.selection import (
    Epochs,
    Groups,
    best_of,
    choose_epochs,
    epoch_row,
    epochs_digest,
    groups_of,
    resolved,
)
from astrid_dist.stages.stacking import Members, combine_window, open_members
from astrid_dist.store.layouts import MESH_BOX, STARS, TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import create_group, create_product, shard_grid
from astrid_dist.store.writing import ProductWriter, ShardDigest

#: Reasons kept of epochs that best:N left out.
MOST_LEFT_OUT = 50
#: What a reference of few epochs cannot do.
_FEW = {
    1: "made of one epoch: whatever is in it, transients and cosmic rays too, is in the reference",
    2: "made of two epochs: where they differ the fainter is believed; of three the majority",
}


class Settings(BaseModel):
    """What a reference job file holds."""

    model_config = ConfigDict(extra="forbid")

    survey: str = Field(description="URL of the survey")
    output: str = Field(description="URL of the reference product to write")
    epochs: Epochs = Field(
        default="best:5", description="'best:N' (the N deepest fit ones), 'all', or source names or epoch ids"
    )
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    method: Literal["proper", "mean"] = Field(
        default="proper",
        description="proper co-addition (Zackay & Ofek 2017), or the mean weighted by inverse variance",
    )
    clip_sigma: float = Field(
        default=4.0, gt=0, description="what differs from the other epochs by more sigma is left out"
    )
    match_radius_px: float = Field(
        default=3.0, gt=0, description="how far a star may be from its match, pixels"
    )
    left_out: dict[str, dict[str, str]] = Field(
        default={}, description="why epochs were left out, as planned; leave out"
    )


def plan(settings: Settings) -> Plan:
    """Every shard of every field; the epochs are chosen here and their ids digested."""
    survey = Location.parse(settings.survey)
    chosen: dict[str, list[int]] = {}
    digests: dict[str, str] = {}
    blocks: list[KeyBlock] = []
    left_out = dict(settings.left_out)
    warnings: list[str] = []
    read = pixels = peak = 0
    for group in groups_of(survey, "survey", settings.fields):
        reader = ProductReader(survey, group)
        if isinstance(settings.epochs, dict) and group not in settings.epochs:
            continue
        if isinstance(settings.epochs, str) and settings.epochs.startswith("best:"):
            chosen[group], reasons = best_of(reader, settings.epochs)
            left_out[group] = _table(reader, reasons)
        else:
            chosen[group] = choose_epochs(reader, settings.epochs, group)
        digests[group] = epochs_digest(reader, chosen[group])
        if len(chosen[group]) in _FEW:
            warnings.append(f"{group}: {_FEW[len(chosen[group])]}")
        height, width = field_shape(reader, "image")
        rows, columns = shard_grid({"y": height, "x": width}, "reference")
        blocks.append(KeyBlock(group, (-1,), rows, columns))
        pixels += height * width
        read += 10 * height * width * len(chosen[group])
        peak = max(peak, WORKER_BASE_BYTES + _task_bytes(reader, (height, width), len(chosen[group])))
    keys = KeyGrid(blocks)
    plane = pixels // max(len(keys), 1)
    per_task = 2 * put_requests(4 * plane) + 2 * put_requests(2 * plane) + 3 + 6 * len(STAR_COLUMNS)
    estimate = Estimate(len(keys), read, 12 * pixels, per_task * len(keys), peak)
    planned = settings.model_copy(update={"epochs": chosen, "left_out": left_out}).model_dump()
    inputs = {"survey": str(survey), "epochs": digests}
    job = Job("reference", "astrid_dist.stages.reference:task", settings.output, planned, inputs)
    return Plan(job, keys, estimate, warnings)


def _table(reader: ProductReader, reasons: Mapping[int, str]) -> dict[str, str]:
    """Reasons by source instead of index; of very many the first, and how many there are."""
    shown = sorted(reasons)[:MOST_LEFT_OUT]
    table = {str(epoch_row(reader, index)["source"]): reasons[index] for index in shown}
    if len(reasons) > len(shown):
        table["and more"] = f"{len(reasons) - len(shown)} other epochs"
    return table


def _task_bytes(reader: ProductReader, shape: tuple[int, int], count: int) -> int:
    """Memory of a task: planes of a shard, a row of tiles of every epoch, and one tile at work."""
    window = shard_window(0, 0, *shape)
    halo = 2 * halo_px(reader.sizes("psf")["v"])
    rows, columns = (min(side, TILE + halo) for side in window.shape)
    strip = rows * (window.shape[1] + halo)
    return 40 * prod(window.shape) + count * (20 * strip + 60 * rows * columns)


def prepare(plan: Plan) -> None:
    """Create the product and one group per field; what each was made of goes into its attributes."""
    settings = Settings.model_validate(plan.job.settings)
    output, survey = Location.parse(settings.output), Location.parse(settings.survey)
    create_product(output, "reference", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest)
    for group, indices in resolved(settings.epochs).items():
        reader = ProductReader(survey, group)
        members = open_members(reader, indices, settings.match_radius_px, settings.method == "proper")
        kept = ("wcs", "survey", "pixel_scale_arcsec", "psf_order")
        attributes = {name: reader.attributes[name] for name in kept if name in reader.attributes}
        # The filters leave a PSF as the pixels see it, however finely those of the epochs are sampled.
        attributes["oversampling"] = 1
        attributes["reference"] = _provenance(members, settings.left_out.get(group, {}), settings.method)
        height, width = members.shape
        terms = reader.sizes("psf")["psf_term"]
        sizes = {"y": height, "x": width, "psf_term": terms, "v": members.box, "u": members.box}
        create_group(output, "reference", group, sizes, attributes)


def _provenance(members: Members, left_out: Mapping[str, str], method: str) -> dict[str, Any]:
    """What a reference is made of: epochs, flux scales to the first, weights, zero point, seeing."""
    rows, zeropoint = members.rows, members.rows[0]["zeropoint"]
    scales = [1.0, *(1 / one.flux_ratio for one in members.comparisons)]
    few = any(one.verdict == "few stars" for one in members.comparisons)
    return {
        "method": method,
        "epochs": list(members.indices),
        "epoch_ids": [row["epoch_id"] for row in rows],
        "sources": [row["source"] for row in rows],
        "scales": scales,
        "weights": [float(weight) for weight in members.weights],
        "depths": [
            depth(row, noise / scale) for row, noise, scale in zip(rows, members.noise, scales, strict=True)
        ],
        "offsets": [[0.0, 0.0], *(list(one.shift) for one in members.comparisons)],
        "left_out": dict(left_out),
        "zeropoint": float(zeropoint) if np.isfinite(zeropoint) else None,
        "exptime": float(sum(row["exptime"] for row in rows)),
        "scale_exptime": float(rows[0]["exptime"]),
        "mjd": float(np.mean([row["mjd"] for row in rows])),
        "fwhm": float(fwhm_of(members.psf_terms()[0])),
        "verdict": "few stars" if few else "good",
    }


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Combine one shard of all chosen epochs; measure its noise; the first shard also writes the PSF."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    survey = ProductReader(Location.parse(options.survey), key.group)
    output = Location.parse(options.output)
    indices = resolved(options.epochs)[key.group]
    members = open_members(survey, indices, options.match_radius_px, options.method == "proper")
    window = shard_window(key.row, key.column, *members.shape)
    opened = perf_counter()
    planes = combine_window(members, window, options.clip_sigma)
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
        shards[f"{key.group}/psf"] = writer.write("psf", {}, members.psf_terms())
    return TaskOutcome(
        shards=shards,
        counts={"pixels": int(np.isfinite(planes["image"]).sum())},
        timings={"read": opened - started, "compute": computed - opened, "write": perf_counter() - computed},
    )


def finalise(plan: Plan) -> dict[str, ShardDigest]:
    """Measure the reference's star list on the finished image; what was written."""
    written = {}
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    for group in resolved(settings.epochs):
        reader = ProductReader(output, group)
        stars = _stars(reader, float(reader.attributes["reference"]["fwhm"]))
        writer = ProductWriter(output, group)
        for name, values in star_planes(stars).items():
            written[f"{group}/{name}"] = writer.write(name, {}, values)
    return written


def _stars(reader: ProductReader, fwhm_px: float) -> StarList:
    """The brightest stars of a field, shard by shard with a halo, each kept by the shard it lies in."""
    height, width = field_shape(reader, "image")
    rows, columns = shard_grid({"y": height, "x": width}, "reference")
    terms, psf_order = reader.read("psf"), int(reader.attributes["psf_order"])
    found = []
    for row in range(rows):
        for column in range(columns):
            core = shard_window(row, column, height, width)
            outer = core.widened(64, height, width)
            planes = read_planes(reader, outer)
            stars = measure_stars(planes.image, planes.variance, planes.mask, fwhm_px)
            here = _terms_in(terms, psf_order, outer, (height, width))
            stars = fit_star_fluxes(planes.image, planes.variance, planes.mask, here, stars, order=psf_order)
            x, y = stars.x + outer.x0, stars.y + outer.y0
            mine = (x >= core.x0 - 0.5) & (x < core.x1 - 0.5) & (y >= core.y0 - 0.5) & (y < core.y1 - 0.5)
            found.append(
                StarList(x[mine], y[mine], stars.flux[mine], stars.flux_err[mine], stars.flags[mine], fwhm_px)
            )
    joined = {name: np.concatenate([getattr(part, name) for part in found]) for name in STAR_COLUMNS}
    order = np.argsort(-joined["flux"], kind="stable")[:STARS]
    return StarList(**{name: values[order] for name, values in joined.items()}, fwhm_px=fwhm_px)


def _terms_in(
    terms: NDArray[np.float32], order: int, window: Window, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """The same PSF as Legendre terms over a window of the field: a polynomial stays one of its order."""
    ys, xs = (np.linspace(0, side - 1, order + 2) for side in window.shape)
    x, y = (axis.ravel() for axis in np.meshgrid(xs, ys))
    stamps = stamps_at(terms, order, x + window.x0, y + window.y0, shape)
    return fit_psf_terms(stamps, x, y, order, window.shape)
