"""Find candidates in a difference product: peaks of |S_corr| of both signs, measured and named by object.

With a model every candidate gets a score, and what the model alone sees becomes a candidate too; what S_corr
found stays whatever the model says of it.

A task finds the sources of one shard of one epoch; what needs the whole epoch (seams, streaks that cross
shards, the sky, the reference's stars) is added when all are there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import AstridError, ConfigError
from astrid_dist.imaging import detection, features, streaks
from astrid_dist.imaging.resampling import Grid
from astrid_dist.query.magnitudes import ab_magnitude, microjansky
from astrid_dist.stages import scoring
from astrid_dist.stages.blocks import WORKER_BASE_BYTES, field_shape, shard_window
from astrid_dist.stages.model_planes import open_inputs
from astrid_dist.stages.objects import link_objects
from astrid_dist.stages.parts import put_part, read_parts
from astrid_dist.stages.selection import Groups, Quality, epochs_of_quality, groups_of
from astrid_dist.stages.shard_sources import Shard
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_candidates
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_product, product_header, shard_grid

if TYPE_CHECKING:
    from astrid_dist.learning.ensemble import Ensemble

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
    model: str | None = Field(
        default=None,
        description="model that scores candidates: NAME[@alias] or NAME/version of the registry, or a file "
        "*.pt or *.zip; a plan adds #digest",
    )
    tracking: str | None = Field(
        default=None, description="MLflow: URL of a server, or sqlite:///file; by default beside the output"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the model runs; auto: a GPU where there is one"
    )
    propose: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="probability of a pixel from which the model makes a candidate where S_corr has none",
    )
    propose_snr: float = Field(
        default=4.0, ge=0, description="least |S_corr| of a candidate that the model alone makes"
    )
    mc_samples: int = Field(
        default=0,
        ge=0,
        description="how often each network is asked without some of its channels (Monte Carlo dropout), for "
        "epistemic of a single one; 0: once, whole",
    )
    prior: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of real among candidates that p_real is to hold for; by default that which the "
        "model was calibrated for",
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
    inputs = {
        "difference": str(difference),
        "difference_digest": header["digest"],
        "reference": reference,
    }
    # Per task: four planes, PSFs and seeing read, one table part and one marker written.
    requests, memory = 8, WORKER_BASE_BYTES + 60 * largest
    if settings.model is not None:
        model = scoring.choose_model(settings.model, settings.tracking, Location.parse(settings.output))
        open_inputs(difference, blocks[0].group)
        settings = settings.model_copy(update={"model": model.pinned})
        inputs["model"] = model.pinned
        warnings += [*model.warnings, *_not_covered(settings, model.ensemble)]
        # Science and template too: image, variance, mask, sky and its noise of each.
        read, requests = read + 20 * (read // 14), requests + 20
        memory += 60 * largest + scoring.memory_bytes(model.ensemble)
    estimate = Estimate(len(keys), read, 8192 * len(keys), requests * len(keys), memory)
    job = Job("detect", "astrid_dist.stages.detect:task", settings.output, settings.model_dump(), inputs)
    return Plan(job, keys, estimate, warnings)


def _not_covered(settings: Settings, ensemble: "Ensemble") -> list[str]:
    """What the plan says of a guarantee that does not hold; ConfigError for what the model cannot do."""
    if settings.mc_samples and not ensemble.config.dropout:
        raise ConfigError(
            f"mc_samples={settings.mc_samples}: {settings.model} was trained without dropout; leave it out"
        )
    if settings.prior is not None and ensemble.calibration is None:
        raise ConfigError(
            f"prior={settings.prior:g}: {settings.model} was never calibrated, so that the share that its "
            "p_real holds for is not known: astrid run jobs/calibrate.yaml first, or leave it out"
        )
    calibration = ensemble.calibration
    if calibration is None or calibration.guarantee is None:
        return []
    groups = groups_of(Location.parse(settings.difference), "difference", settings.fields)
    here = scoring.conditions(settings.model_dump(), scoring.surveys_of(settings.difference, groups))
    there = calibration.guarantee.conditions
    if not (other := [name for name in here if here[name] != there.get(name)]):
        return []
    differ = ", ".join(f"{name} is {here[name]}, was {there.get(name)}" for name in other)
    return [f"the model's threshold was certified for another detection ({differ}): no column accepted"]


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
    settings = Settings.model_validate(plan.job.settings)
    if settings.model is not None:
        scoring.keep_model(scoring.choose_model(settings.model, settings.tracking, output), output)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Peaks of one shard, halo included in what they are measured on, as one Parquet part in the ledger."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    reader = ProductReader(Location.parse(options.difference), key.group)
    model = scoring.kept_model(options.output, options.model) if options.model else None
    shard = Shard.read(reader, key, scoring.halo_px(model) if model else 0)
    read = perf_counter()
    columns = shard.sources(options.threshold)
    detected = perf_counter()
    if model is not None:
        columns = scoring.score(
            shard,
            columns,
            model,
            options.device,
            options.threshold,
            options.propose,
            options.propose_snr,
            options.mc_samples,
        )
    computed = perf_counter()
    return TaskOutcome(
        shards=put_part(Location.parse(options.output), key, columns),
        counts={"peaks": len(next(iter(columns.values()), ()))},
        timings={
            "read": read - started,
            "compute": detected - read,
            "score": computed - detected,
            "write": perf_counter() - computed,
        },
    )


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
        if settings.model is not None:
            model = scoring.kept_model(settings.output, settings.model)
            covered = not _not_covered(settings, model)
            columns |= scoring.probabilities(columns, model, settings.prior, accept=covered)
        columns["object"] = link_objects(columns, MERGE_RADIUS_PX, earlier)
    said = {name: getattr(settings, name) for name in ("threshold", "model", "mc_samples", "prior")}
    said = {name: value for name, value in said.items() if value}
    write_table(output, "candidates", columns, said)


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
    by_model = columns.pop("by_model", np.zeros(n, bool))
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
        "found_by": np.where(by_model, "model", "score").astype(object),
    }
