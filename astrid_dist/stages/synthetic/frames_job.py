"""``mode=frames``: an injected survey with its truth, one task per epoch; or the reference that goes with it.

Slots of a group are its chosen epochs, once for every realisation: all first realisations, then all second.
An injected reference says what was put into it (`injected` in its groups), and the epochs that are injected
against it hold the same sources.
"""

import hashlib
from collections.abc import Mapping
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import ConfigError, InputError
from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.stages.blocks import WORKER_BASE_BYTES, field_shape, put_requests
from astrid_dist.stages.comparison import file_of
from astrid_dist.stages.parts import put_part, read_parts
from astrid_dist.stages.publishing import forget, publish
from astrid_dist.stages.selection import epochs_digest
from astrid_dist.stages.synthetic import frame_truth as truth
from astrid_dist.stages.synthetic.frame import Frame, open_frame
from astrid_dist.stages.synthetic.frame_artifacts import LEFT_OUT, artifact_kinds, put_artifacts
from astrid_dist.stages.synthetic.frame_sources import (
    digest_of_light,
    field_sources,
    groups_of_field,
    source_strata,
)
from astrid_dist.stages.synthetic.instrument import band_of_group
from astrid_dist.stages.synthetic.sets import resolve
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.layouts import variables
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_group, create_product, grow
from astrid_dist.store.writing import ProductWriter

#: Bytes of memory per pixel of a frame: planes of epoch and reference, canvas, what is found in a field; and
#: what libraries of light curves and compiled painters take. Measured at 512 and 2048 px: 164, and 120 MB.
BYTES_PER_PIXEL, _LIBRARIES = 170, 128 * 2**20
_CHANGED = ("image", "variance", "mask")


def plan(settings: Settings) -> Plan:
    """One task per epoch and realisation, or per reference."""
    found, inputs = resolve(settings)
    found = settings.resolved or found
    chosen: dict[str, list[int]] = found["epochs"][0]
    survey, reference = Location.parse(settings.survey[0]), Location.parse(settings.reference[0])
    before = {group: ProductReader(reference, group).attributes.get("injected") for group in chosen}
    origins = {str(one["source"]) if one else str(reference) for one in before.values()}
    if len(origins) != 1 or (any(before.values()) and settings.into == "reference"):
        raise ConfigError(
            f"{reference} is an injected reference itself, in part or whole: give the one it was made from"
        )
    in_reference = settings.into == "reference" or all(before.values())
    resolved = {**found, "origin": origins.pop(), "in_reference": in_reference}
    planned = settings.model_copy(update={"resolved": resolved})
    _check(planned, survey, reference, before)
    into_epochs = settings.into == "epochs"
    keys = KeyGrid(
        [
            KeyBlock(group, range(len(indices) * settings.realisations) if into_epochs else (-1,))
            for group, indices in chosen.items()
        ]
    )
    sizes = [prod(field_shape(ProductReader(survey, group), "image")) for group in chosen]
    pixels = sum(
        size * (len(indices) * settings.realisations if into_epochs else 1)
        for size, indices in zip(sizes, chosen.values(), strict=True)
    )
    layouts = len(variables("survey" if into_epochs else "reference"))
    largest = max(sizes)
    estimate = Estimate(
        tasks=len(keys),
        bytes_read=20 * pixels,
        bytes_written=6 * pixels,
        requests=len(keys) * (2 * layouts + 4 * put_requests(4 * largest) + 6),
        peak_memory_bytes=WORKER_BASE_BYTES + _LIBRARIES + BYTES_PER_PIXEL * largest,
    )
    # A survey may have grown since a job was planned: its own epochs are what counts.
    digests = {group: epochs_digest(ProductReader(survey, group), one) for group, one in chosen.items()}
    inputs = {**inputs["surveys"][0], "epochs": digests}
    job = Job(
        "inject", "astrid_dist.stages.inject:task", settings.output, planned.model_dump(mode="json"), inputs
    )
    return Plan(job, keys, estimate, _warnings(planned, survey))


def _check(settings: Settings, survey: Location, reference: Location, before: Mapping[str, Any]) -> None:
    """Refuse what cannot be made, before anything is."""
    has_sources = bool(source_strata(settings, True, True)) and settings.sources_per_mpix > 0
    if settings.into == "reference" and settings.realisations > 1:
        raise ConfigError("into=reference makes one reference for all realisations: leave realisations out")
    for group, one in before.items():
        if one and one["light"] != digest_of_light(settings, group.rpartition("/")[0]):
            raise ConfigError(
                f"{reference}/{group} holds sources drawn otherwise (seed {one['seed']}): inject epochs with"
                " the seed, epochs, kinds, mix, environments, snr, negative, draw and sources_per_mpix of it"
            )
        if not has_sources:
            continue
        band_of_group(ProductReader(survey, group))
        zeropoint = ProductReader(reference, group).attributes["reference"]["zeropoint"]
        if settings.draw == "physical" and zeropoint is None:
            raise ConfigError(
                f"{reference}/{group} has no zero point, so magnitudes are no electrons: say draw=uniform,"
                " which needs none, or ingest with a survey profile that tells it"
            )


def _warnings(settings: Settings, survey: Location) -> list[str]:
    said = []
    if left := [kind for kind in settings.kinds if kind in LEFT_OUT or kind == "null detection"]:
        said.append(f"{', '.join(left)}: not put into frames, which have their own")
    if settings.negative > 0 and not settings.resolved["in_reference"]:
        said.append(
            "nothing fades but variables: for sources that the reference holds make one with into=reference,"
            " and give it as reference="
        )
    said += [
        f"{group}: nothing moves, for it is not known how many arcseconds a pixel has"
        for group in settings.resolved["epochs"][0]
        if not ProductReader(survey, group).attributes.get("pixel_scale_arcsec")
    ]
    return said


def prepare(plan: Plan) -> None:
    """Create the product, its groups like those it is made from, and a slot for every epoch."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    into_epochs = settings.into == "epochs"
    product = "survey" if into_epochs else "reference"
    source = Location.parse(settings.survey[0] if into_epochs else settings.reference[0])
    create_product(output, product, job=plan.job.id, inputs=dict(plan.job.inputs), digest=plan.job.digest)
    for group, indices in settings.resolved["epochs"][0].items():
        reader = ProductReader(source, group)
        attributes = {
            name: value for name, value in reader.attributes.items() if name not in ("epochs", "coordinates")
        }
        attributes["injected"] = {
            "seed": settings.seed,
            "realisations": settings.realisations,
            "source": str(source),
            "light": digest_of_light(settings, group.rpartition("/")[0]),
        }
        sizes = {"epoch": 0, **reader.sizes("image"), **reader.sizes("psf")}
        create_group(output, product, group, {**sizes, "epoch": 0}, attributes)
        if into_epochs:
            grow(output, product, group, len(indices) * settings.realisations)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Inject one epoch, whole; one that has no flux scale to its reference is set aside."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    if options.into == "reference":
        return _inject_reference(options, key, started)
    survey, reference = Location.parse(options.survey[0]), Location.parse(options.reference[0])
    realisation, index = _slot(options, key)
    reader = ProductReader(survey, key.group)
    scalars = {
        name: _plain(reader.read(name, epoch=index))
        for name, one in variables("survey").items()
        if one.is_scalar
    }
    tag = hashlib.sha256(f"{options.seed}/{realisation}".encode()).hexdigest()[:8]
    scalars["epoch_id"] = f"{scalars['epoch_id']}-{tag}"
    scalars["source"] = f"{str(scalars['source']).replace('[', '-').rstrip(']')}-{tag}"
    field = key.group.rpartition("/")[0]
    sources = field_sources(options, field)
    ids = truth.source_ids(_field_number(options, field), len(sources))
    parts = []
    if key.epoch == 0 and not options.resolved["in_reference"]:
        held = truth.held_rows(reader, ProductReader(reference, key.group), sources, ids)
        parts.append(held)
    opened = perf_counter()
    try:
        frame = open_frame(options, reference, key.group, index)
    except InputError as error:
        _keep(options, key, reader, parts)
        lost = {"valid": False, "verdict": "quarantined", "reason": str(error)}
        return TaskOutcome({}, {**scalars, **lost}, quarantined=str(error))
    read = perf_counter()
    what = f"{key.group} {index} {realisation}"
    artifacts = put_artifacts(frame, options, artifact_kinds(options, "epochs"), what)
    rows = truth.source_rows(frame, sources, options, ids, what)
    planes = dict(frame.finished)
    own = [rows, truth.artifact_rows(artifacts, _slot_number(options, key))]
    if options.resolved["in_reference"]:
        own.append(truth.left_rows(frame, reference, planes["variance"]))
    every = truth.joined(own)
    name = file_of(str(scalars["source"]))
    parts.append(every | truth.shared(reader, len(every["id"]), name, key.epoch, float(scalars["mjd"])))
    computed = perf_counter()
    unchanged = [
        one.name for one in variables("survey").values() if not one.is_scalar and one.name not in _CHANGED
    ]
    planes |= {one: reader.read(one, epoch=index) for one in unchanged}
    writer = ProductWriter(Location.parse(options.output), key.group)
    written = writer.write_all({one: ({"epoch": key.epoch}, values) for one, values in planes.items()})
    _keep(options, key, reader, parts)
    put = int(rows["injectable"].sum())
    return TaskOutcome(
        shards={f"{key.group}/{one}": digest for one, digest in written.items()},
        scalars=scalars,
        counts={"sources": put, "not injectable": len(rows["id"]) - put, "artifacts": len(artifacts["kind"])},
        timings={
            "draw": opened - started,
            "read": read - opened,
            "compute": computed - read,
            "write": perf_counter() - computed,
        },
    )


def _inject_reference(options: Settings, key: ShardKey, started: float) -> TaskOutcome:
    """Put into a reference what its epochs would have had, mean by weight, and what has left since."""
    reference, survey = Location.parse(options.reference[0]), Location.parse(options.survey[0])
    frame = _first_frame(options, reference, key.group)
    reader = frame.pair.reference
    field = key.group.rpartition("/")[0]
    sources = field_sources(options, field)
    ids = truth.source_ids(_field_number(options, field), len(sources))
    artifacts = put_artifacts(frame, options, artifact_kinds(options, "reference"), f"{key.group} reference")
    depth = 1 / float(np.square(sources.bands[key.group].weights).sum())
    light = sources.template(key.group)
    put = np.array([not one for one in sources.reason], bool) & (light > 0) & np.isfinite(sources.x)
    image, variance = (np.zeros(frame.shape, np.float32) for _ in range(2))
    # A reference of n epochs has the shot noise of n times the light.
    shot = stream(options.seed, f"shot noise of {key.group} reference")
    paint_points(
        image, variance, sources.x[put], sources.y[put], light[put] * depth, frame.banks[1],
        key=shot, items=np.flatnonzero(put),
    )  # fmt: skip
    frame.canvas.template[...] += image / np.float32(depth)
    frame.canvas.template_variance[...] += variance / np.float32(depth**2)
    rows = [truth.held_rows(ProductReader(survey, key.group), reader, sources, ids)]
    rows += _left_behind(options, frame, artifacts, key)
    planes = frame.finished_reference()
    computed = perf_counter()
    planes |= {one: reader.read(one) for one in variables("reference") if one not in _CHANGED}
    writer = ProductWriter(Location.parse(options.output), key.group)
    written = writer.write_all({one: ({}, values) for one, values in planes.items()})
    _keep(options, key, frame.pair.survey, rows)
    return TaskOutcome(
        shards={f"{key.group}/{one}": digest for one, digest in written.items()},
        counts={"sources": int(put.sum()), "artifacts": len(artifacts["kind"])},
        timings={"compute": computed - started, "write": perf_counter() - computed},
    )


def _left_behind(
    options: Settings, frame: Frame, artifacts: truth.Columns, key: ShardKey
) -> list[truth.Columns]:
    """Rows of template contamination: there in every epoch of the reference; `flux` in its own electrons."""
    made, n = frame.pair.made, len(artifacts["kind"])
    ratio = np.array(
        [frame.view(x, y).flux_ratio for x, y in zip(artifacts["x"], artifacts["y"], strict=True)]
    )
    held = -artifacts["flux"] / ratio if n else np.zeros(0)
    number = list(options.resolved["epochs"][0]).index(key.group)
    zeropoint = frame.pair.zeropoint
    rows = truth.artifact_rows(artifacts, -1 - number) | {
        "flux": held,
        "mag": truth.magnitudes(held, zeropoint),
    }
    mjds = field_sources(options, key.group.rpartition("/")[0]).bands[key.group].member_mjd
    return [
        rows | truth.shared(frame.pair.survey, n, file_of(source), -1, mjd)
        for source, mjd in zip(made["sources"], mjds, strict=True)
    ]


def _first_frame(options: Settings, reference: Location, group: str) -> Frame:
    """The first epoch of a group that can be compared with its reference."""
    said = ""
    for index in groups_of_field(options, group.rpartition("/")[0])[group]:
        try:
            return open_frame(options, reference, group, index)
        except InputError as error:
            said = said or str(error)
    raise InputError(f"{group}: no epoch can be compared with its reference: {said}")


def _slot(options: Settings, key: ShardKey) -> tuple[int, int]:
    """Realisation, and index of the epoch in the survey."""
    indices = options.resolved["epochs"][0][key.group]
    realisation, place = divmod(key.epoch, len(indices))
    return realisation, int(indices[place])


def _slot_number(options: Settings, key: ShardKey) -> int:
    """Place of a slot among all slots of the job."""
    before = 0
    for group, indices in options.resolved["epochs"][0].items():
        if group == key.group:
            break
        before += len(indices) * options.realisations
    return before + key.epoch


def _field_number(options: Settings, field: str) -> int:
    fields = dict.fromkeys(group.rpartition("/")[0] for group in options.resolved["epochs"][0])
    return list(fields).index(field)


def _keep(options: Settings, key: ShardKey, survey: ProductReader, parts: list[truth.Columns]) -> None:
    """Keep the rows of a task for the truth."""
    rows = truth.joined(parts)
    if rows:
        put_part(
            Location.parse(options.output), key, truth.on_sky(rows, survey, field_shape(survey, "image"))
        )


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def finalise(plan: Plan) -> None:
    """Commit the epochs with their scalars, and write the truth into the product."""
    settings = Settings.model_validate(plan.job.settings)
    output = Location.parse(settings.output)
    if settings.into == "epochs":
        forget(plan)
        publish(plan, list(Ledger(output).markers(plan.job.stage)))
        forget(plan)
    parts = [rows for _, rows in read_parts(output, plan.job.stage)]
    if settings.into == "epochs" and settings.resolved["in_reference"]:
        table = open_truth(settings.reference[0])
        parts.append({str(name): table[name].values for name in table.data_vars})
    columns = truth.joined(parts)
    said = {name: getattr(settings, name) for name in ("seed", "draw", "into")}
    write_table(output / "truth", "truth", columns, said, job=plan.job.id, digest=plan.job.digest)
