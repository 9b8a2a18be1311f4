"""Find candidates in a difference product: peaks of |S_corr| of both signs, measured and named by object.

A task finds the sources of one shard of one epoch; what needs the whole epoch (seams, streaks that cross
shards, the sky, the reference's stars) is added when all are there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import AstridError
from astrid_dist.imaging import detection, features, streaks
from astrid_dist.imaging.measure import PointSource
from astrid_dist.imaging.resampling import Grid
from astrid_dist.imaging.separation import Peaks
from astrid_dist.query.magnitudes import ab_magnitude, microjansky
from astrid_dist.stages.blocks import WORKER_BASE_BYTES, Window, field_shape, shard_window
from astrid_dist.stages.objects import link_objects
from astrid_dist.stages.parts import put_part, read_parts
from astrid_dist.stages.selection import Groups, Quality, epochs_of_quality, groups_of
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_candidates
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_product, product_header, shard_grid

#: Detections closer than this are one source.
MERGE_RADIUS_PX = 1.5
#: Fluxes of a candidate, electrons of the reference until the zero point is known.
FLUXES = ("flux", "flux_err", "aperture_flux", "streak_flux")


class Settings(BaseModel):
    """What a detection job file holds."""

    model_config = ConfigDict(extra="forbid")

    difference: str = Field(description="URL of the difference product")
    output: str = Field(description="URL of the candidates product to write")
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    threshold: float = Field(
        default=5.0, gt=0, description="detection threshold in |S_corr|, standard deviations"
    )
    quality: Quality = Field(
        default="min=orange",
        description="least verdict of an epoch: 'min=green', 'min=yellow', 'min=orange', or 'all'",
    )
    objects: str | None = Field(
        default=None, description="URL of earlier candidates whose object ids continue"
    )


def plan(settings: Settings) -> Plan:
    """Every shard of every difference epoch that is good enough."""
    difference = Location.parse(settings.difference)
    header = product_header(difference)
    reference = str(header["inputs"].get("reference", ""))
    blocks, read, largest = [], 0, 0
    warnings: list[str] = []
    for group in groups_of(difference, "difference", settings.fields):
        reader = ProductReader(difference, group)
        height, width = field_shape(reader, "score")
        rows, columns = shard_grid({"y": height, "x": width}, "difference")
        chosen = epochs_of_quality(reader, settings.quality)
        warnings += _left_out(reader, group, chosen, settings.quality)
        if _star_columns(reference, group) is None:
            warnings.append(
                f"{group}: the star list of the reference {reference or '(not recorded)'} cannot be read: "
                "candidates will have no star_distance, star_ratio and star_mag"
            )
        blocks.append(KeyBlock(group, chosen, rows, columns))
        read += 14 * height * width * len(chosen)
        largest = max(largest, prod(shard_window(0, 0, height, width).shape))
    keys = KeyGrid(blocks)
    # Per task: four planes, PSFs and seeing read, one table part and one marker written.
    estimate = Estimate(len(keys), read, 8192 * len(keys), 8 * len(keys), WORKER_BASE_BYTES + 60 * largest)
    inputs = {
        "difference": str(difference),
        "difference_digest": header["digest"],
        "reference": reference,
    }
    job = Job("detect", "astrid_dist.stages.detect:task", settings.output, settings.model_dump(), inputs)
    return Plan(job, keys, estimate, warnings)


def _left_out(reader: ProductReader, group: str, chosen: Sequence[int], quality: str) -> list[str]:
    """What the plan says of epochs that are not good enough."""
    verdicts = reader.read("verdict", epoch=slice(0, reader.epochs)).tolist()
    rest = Counter(verdict for index, verdict in enumerate(verdicts) if index not in set(chosen))
    if not rest:
        return []
    said = ", ".join(f"{count} {verdict or 'without verdict'}" for verdict, count in sorted(rest.items()))
    return [
        f"{group}: {sum(rest.values())} of {len(verdicts)} epochs are left out, quality={quality}: {said}; "
        "the difference's `reason` says why each is so"
    ]


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
    columns = _detect(reader, key, planes, core, outer, options.threshold)
    computed = perf_counter()
    return TaskOutcome(
        shards=put_part(Location.parse(options.output), key, columns),
        counts={"peaks": len(next(iter(columns.values()), ()))},
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def _detect(
    reader: ProductReader,
    key: ShardKey,
    planes: Mapping[str, NDArray[Any]],
    core: Window,
    outer: Window,
    threshold: float,
) -> dict[str, NDArray[Any]]:
    """Columns of the sources whose pixel lies in the core, in the field's pixels."""
    tiles: dict[str, int | slice] = {
        "epoch": key.epoch,
        "tile_y": slice(core.y0 // TILE, -(-core.y1 // TILE)),
        "tile_x": slice(core.x0 // TILE, -(-core.x1 // TILE)),
    }
    psf, seeing = reader.read("psf_d", **tiles), reader.read("fwhm_n", **tiles)
    usable = np.isfinite(psf).all(axis=(2, 3))
    peaks = detection.find_peaks(planes["score"], threshold)
    lines: list[streaks.Streak] = []
    if usable.any():
        fwhm = float(np.median([PointSource(stamp).fwhm for stamp in psf[usable]]))
        lines = streaks.find_streaks(planes["score"], fwhm, threshold)
        kept, _ = streaks.beads(lines, peaks, fwhm)
        peaks = peaks[0][kept], peaks[1][kept], peaks[2][kept]
    found = []
    for tile_y, tile_x, tile in core.tiles(TILE):
        at = tile_y - core.y0 // TILE, tile_x - core.x0 // TILE
        if not usable[at]:
            continue
        # Neighbours across the tile's border are fitted along.
        around = tile.widened(reader.sizes("psf_d")["u"], *field_shape(reader, "score"))
        found.append(_detect_tile(planes, outer, around, tile, psf[at], peaks, lines, threshold))
        found[-1]["seeratio"] = (found[-1]["fwhm"] / seeing[at]).astype(np.float32)
    if not found:
        return {}
    columns = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    # A fit that ran off the image has found no source.
    height, width = field_shape(reader, "score")
    y, x = columns["y"], columns["x"]
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return {name: values[inside] for name, values in columns.items()}


def _detect_tile(
    planes: Mapping[str, NDArray[Any]],
    outer: Window,
    around: Window,
    tile: Window,
    psf: NDArray[np.float32],
    peaks: Peaks,
    lines: Sequence[streaks.Streak],
    threshold: float,
) -> dict[str, NDArray[Any]]:
    """Columns of the sources whose pixel lies in a tile."""
    cut = around.within(outer)
    top, left = around.y0 - outer.y0, around.x0 - outer.x0
    rows, columns = peaks[0] - top, peaks[1] - left
    height, width = around.shape
    near = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    chosen, measured = detection.detect(
        planes["difference"][cut],
        planes["score"][cut],
        planes["sigma_flux"][cut],
        psf,
        planes["mask"][cut],
        (rows[near], columns[near], peaks[2][near]),
        [replace(line, y=line.y - top, x=line.x - left) for line in lines],
        threshold,
    )
    y, x = chosen[0] + around.y0, chosen[1] + around.x0
    own = (y >= tile.y0) & (y < tile.y1) & (x >= tile.x0) & (x < tile.x1)
    measured["x"], measured["y"] = measured["x"] + around.x0, measured["y"] + around.y0
    return {name: values[own] for name, values in measured.items()}


def _star_columns(reference: str, group: str) -> NDArray[np.float64] | None:
    """Rows, columns and fluxes (electrons) of a reference's stars, (3, n); None where it cannot be read."""
    if not reference:
        return None
    try:
        reader = ProductReader(Location.parse(reference), group)
        stars = np.stack([reader.read(f"star_{name}").astype(np.float64) for name in ("y", "x", "flux")])
    except (AstridError, KeyError, OSError):
        return None
    return stars[:, np.isfinite(stars).all(axis=0)]


def finalise(plan: Plan) -> None:
    """Merge across seams, add sky coordinates, units and object ids, sort, write the table."""
    settings = Settings.model_validate(plan.job.settings)
    difference, output = Location.parse(settings.difference), Location.parse(settings.output)
    found: dict[tuple[str, int], list[dict[str, NDArray[Any]]]] = {}
    for key, part in read_parts(output, plan.job.stage):
        found.setdefault((key.group, key.epoch), []).append(part)
    reference = str(plan.job.inputs["reference"])
    stars = {group: _star_columns(reference, group) for group in {group for group, _ in found}}
    epochs = [
        _describe(ProductReader(difference, group), group, epoch, found[group, epoch], stars[group])
        for group, epoch in sorted(found)
    ]
    names = list(epochs[0]) if epochs else []
    columns = {name: np.concatenate([epoch[name] for epoch in epochs]) for name in names}
    if columns:
        earlier = open_candidates(settings.objects) if settings.objects else None
        columns["object"] = link_objects(columns, MERGE_RADIUS_PX, earlier)
    write_table(output, "candidates", columns, {"threshold": settings.threshold})


def _describe(
    reader: ProductReader,
    group: str,
    epoch: int,
    parts: list[dict[str, NDArray[Any]]],
    stars: NDArray[np.float64] | None,
) -> dict[str, NDArray[Any]]:
    """One epoch's candidates, strongest first, with everything that is known of the epoch."""
    merged = detection.merge(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, MERGE_RADIUS_PX
    )
    merged = streaks.join(merged)
    order = np.lexsort((merged["x"], merged["y"], -np.abs(merged["snr"])))
    columns = {name: values[order] for name, values in merged.items()}
    n = len(order)
    zeropoint = float(reader.read("zeropoint", epoch=epoch))
    known = np.isfinite(zeropoint)
    scale = float(microjansky(1.0, zeropoint)) if known else 1.0
    height, width = field_shape(reader, "score")
    columns |= features.star_neighbours(
        columns["y"], columns["x"], columns["flux"], stars if stars is not None else np.zeros((3, 0))
    )
    star_flux = columns.pop("star_flux")
    columns["star_mag"] = ab_magnitude(star_flux, 0 * star_flux, zeropoint)[0]
    for name in FLUXES:
        columns[name] = columns[name] * scale
    columns["edge_distance"] = np.min(
        [columns["x"], columns["y"], width - 1 - columns["x"], height - 1 - columns["y"]],
        axis=0,
    )
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
