"""Find candidates in a difference product: peaks of |S_corr| of both signs, measured and named by object."""

import hashlib
import io
from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.imaging import detection
from astrid_dist.imaging.resampling import Grid
from astrid_dist.query.magnitudes import microjansky
from astrid_dist.stages.blocks import WORKER_BASE_BYTES, field_shape, shard_window
from astrid_dist.stages.objects import link_objects
from astrid_dist.stages.selection import Groups, groups_of
from astrid_dist.store.layouts import TILE
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_candidates
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_product, product_header, shard_grid

#: Detections closer than this are one source.
MERGE_RADIUS_PX = 1.5
MEASURED = ("x", "y", "x_err", "y_err", "flux", "flux_err", "snr", "chi2", "fwhm", "mask")


class Settings(BaseModel):
    """What a detection job file holds."""

    model_config = ConfigDict(extra="forbid")

    difference: str = Field(description="URL of the difference product")
    output: str = Field(description="URL of the candidates product to write")
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    threshold: float = Field(
        default=5.0, gt=0, description="detection threshold in |S_corr|, standard deviations"
    )
    objects: str | None = Field(
        default=None, description="URL of earlier candidates whose object ids continue"
    )


def plan(settings: Settings) -> Plan:
    """Every shard of every difference epoch."""
    difference = Location.parse(settings.difference)
    header = product_header(difference)
    blocks, read, largest = [], 0, 0
    for group in groups_of(difference, "difference", settings.fields):
        reader = ProductReader(difference, group)
        height, width = field_shape(reader, "score")
        rows, columns = shard_grid({"y": height, "x": width}, "difference")
        blocks.append(KeyBlock(group, range(reader.epochs), rows, columns))
        read += 14 * height * width * reader.epochs
        largest = max(largest, prod(shard_window(0, 0, height, width).shape))
    keys = KeyGrid(blocks)
    # Per task: four planes and the PSFs read, one table part and one marker written.
    estimate = Estimate(len(keys), read, 4096 * len(keys), 7 * len(keys), WORKER_BASE_BYTES + 40 * largest)
    inputs = {"difference": str(difference), "difference_digest": header["digest"]}
    job = Job("detect", "astrid_dist.stages.detect:task", settings.output, settings.model_dump(), inputs)
    return Plan(job, keys, estimate)


def prepare(plan: Plan) -> None:
    """Create the product's root; the table is written when all parts are there."""
    output = Location.parse(plan.job.output)
    create_product(
        output, "candidates", job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest
    )


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Peaks of one shard, halo included in what they are measured on, as one Parquet part in the ledger."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    reader = ProductReader(Location.parse(options.difference), key.group)
    shape = field_shape(reader, "score")
    core = shard_window(key.row, key.column, *shape)
    outer = core.widened(reader.sizes("psf_d")["u"], *shape)
    names = ("difference", "score", "sigma_flux", "mask")
    planes = {name: reader.read(name, epoch=key.epoch, **outer.slices) for name in names}
    read = perf_counter()
    columns = _measure(reader, key, planes, core, outer, options.threshold)
    part = pa.table(columns)
    buffer = io.BytesIO()
    pq.write_table(part, buffer, compression="zstd")
    name = f"parts/{key}.parquet"
    computed = perf_counter()
    Location.parse(options.output).sibling(".ledger").objects().put(name, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return TaskOutcome(
        shards={f"ledger:{name}": {"region": [[0, part.num_rows]], "sha256": digest}},
        counts={"peaks": part.num_rows},
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def _measure(
    reader: ProductReader,
    key: ShardKey,
    planes: Mapping[str, NDArray[Any]],
    core: Any,
    outer: Any,
    threshold: float,
) -> dict[str, NDArray[Any]]:
    """Columns of the peaks whose pixel lies in the core, in the field's pixels."""
    rows, cols, heights = detection.find_peaks(planes["score"], threshold)
    psf = reader.read(
        "psf_d",
        epoch=key.epoch,
        tile_y=slice(core.y0 // TILE, -(-core.y1 // TILE)),
        tile_x=slice(core.x0 // TILE, -(-core.x1 // TILE)),
    )
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in MEASURED}
    for tile_y, tile_x, tile in core.tiles(TILE):
        y, x = rows + outer.y0, cols + outer.x0
        own = (y >= tile.y0) & (y < tile.y1) & (x >= tile.x0) & (x < tile.x1)
        stamp = psf[tile_y - core.y0 // TILE, tile_x - core.x0 // TILE]
        if not own.any() or not np.isfinite(stamp).all():
            continue
        measured = detection.measure_peaks(
            planes["difference"],
            planes["score"],
            planes["sigma_flux"],
            stamp,
            planes["mask"],
            (rows[own], cols[own], heights[own]),
        )
        for name in MEASURED:
            columns[name].append(np.asarray(measured[name]))
    joined = {
        name: np.concatenate(parts) if parts else np.zeros(0, np.uint16 if name == "mask" else np.float64)
        for name, parts in columns.items()
    }
    return {**joined, "x": joined["x"] + outer.x0, "y": joined["y"] + outer.y0}


def finalise(plan: Plan) -> None:
    """Merge across seams, add sky coordinates, units and object ids, sort, write the table."""
    settings = Settings.model_validate(plan.job.settings)
    difference, output = Location.parse(settings.difference), Location.parse(settings.output)
    found: dict[tuple[str, int], list[dict[str, NDArray[Any]]]] = {}
    parts = output.sibling(".ledger").objects()
    for marker in Ledger(output).markers(plan.job.stage):
        key = ShardKey.parse(marker["key"])
        content = parts.get(f"parts/{key}.parquet")
        if content and marker["counts"]["peaks"]:
            table = pq.read_table(io.BytesIO(content))
            found.setdefault((key.group, key.epoch), []).append(
                {n: table[n].to_numpy() for n in table.column_names}
            )
    epochs = [
        _describe(ProductReader(difference, group), group, epoch, found[group, epoch])
        for group, epoch in sorted(found)
    ]
    names = list(epochs[0]) if epochs else []
    columns = {name: np.concatenate([epoch[name] for epoch in epochs]) for name in names}
    if columns:
        earlier = open_candidates(settings.objects) if settings.objects else None
        columns["object"] = link_objects(columns, MERGE_RADIUS_PX, earlier)
    write_table(output, "candidates", columns, {"threshold": settings.threshold})


def _describe(
    reader: ProductReader, group: str, epoch: int, parts: list[dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """One epoch's candidates, strongest first, with everything that is known of the epoch."""
    merged = detection.merge(
        {name: np.concatenate([part[name] for part in parts]) for name in MEASURED}, MERGE_RADIUS_PX
    )
    order = np.lexsort((merged["x"], merged["y"], -np.abs(merged["snr"])))
    columns = {name: values[order] for name, values in merged.items()}
    n = len(order)
    zeropoint = float(reader.read("zeropoint", epoch=epoch))
    known = np.isfinite(zeropoint)
    scale = float(microjansky(1.0, zeropoint)) if known else 1.0
    columns["flux"], columns["flux_err"] = columns["flux"] * scale, columns["flux_err"] * scale
    height, width = field_shape(reader, "score")
    wcs = Grid(reader.attributes.get("wcs") or "", height, width).wcs
    sky = np.full((2, n), np.nan)
    if wcs is not None:
        sky = np.array(wcs.all_pix2world(columns["x"], columns["y"], 0))
    field, _, band = group.rpartition("/")
    texts = {
        "field": field,
        "band": band,
        "flux_unit": "uJy" if known else "electron",
        **{name: str(reader.read(name, epoch=epoch)) for name in ("epoch_id", "source")},
    }
    return {
        **columns,
        "ra": sky[0],
        "dec": sky[1],
        "epoch": np.full(n, epoch, np.int32),
        **{name: np.full(n, reader.read(name, epoch=epoch)) for name in ("time", "mjd")},
        **{name: np.full(n, text, dtype=object) for name, text in texts.items()},
        "p_real": np.full(n, np.nan, np.float32),
        "uncertainty": np.full(n, np.nan, np.float32),
    }
