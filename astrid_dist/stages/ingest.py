"""Read FITS epochs into a survey cube: calibrate, resample, measure; one task per epoch."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from math import isnan, nan
from time import perf_counter
from traceback import walk_tb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.keys import ShardKey, check_group
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import AstridError, InputError, StorageError
from astrid_dist.formats.files import is_transient
from astrid_dist.formats.fits import Frame, FrameProbe, read_frame
from astrid_dist.imaging.resampling import Grid
from astrid_dist.stages.blocks import WORKER_BASE_BYTES, psf_box, put_requests
from astrid_dist.stages.exposure import PsfModel, measure_exposure, microseconds
from astrid_dist.stages.founding import FieldStars, kept_stars, settle_stars
from astrid_dist.stages.frames import (
    FieldChooser,
    Refused,
    band_of,
    expand,
    given_grid,
    probe_all,
    read_stored,
    without_duplicates,
)
from astrid_dist.stages.publishing import forget, publish
from astrid_dist.store.ledger import Ledger, Marker
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import create_group, create_product, grow, set_state
from astrid_dist.store.writing import ProductWriter
from astrid_dist.surveys.profile import Profile, load_profile

#: Bytes of memory per pixel of a frame; 95 measured at 2048x2048 with resampling, and a margin.
BYTES_PER_PIXEL = 120


class Epoch(BaseModel):
    """One frame of a planned job."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="path or URL of the file")
    hdu: int = Field(description="index of the extension; -1 where the file could not be read")
    alone: bool = Field(default=True, description="whether it is the only image of its file")
    epoch_id: str = Field(default="", description="sha256 of the pixels as stored")
    mjd: float | None = Field(default=None, description="mid-exposure, UTC")
    wcs: bool = Field(default=True, description="whether its header has a WCS")
    problem: str = Field(default="", description="why it cannot become a valid epoch, where planning knew")


class FieldGrid(BaseModel):
    """Pixel grid of a field that a job makes."""

    model_config = ConfigDict(extra="forbid")

    header: str = Field(description="FITS header of its WCS; empty without sky coordinates")
    height: int = Field(gt=0, description="rows")
    width: int = Field(gt=0, description="columns")
    source: str = Field(default="", description="frame whose grid it is")
    path: str = Field(default="", description="path or URL of that frame's file")
    hdu: int = Field(default=0, description="index of its extension")


class Settings(BaseModel):
    """What an ingest job file holds."""

    model_config = ConfigDict(extra="forbid")

    paths: list[str] = Field(min_length=1, description="FITS files, folders, patterns or URLs")
    output: str = Field(description="URL of the survey; made or appended to")
    survey: str = Field(default="generic", description="survey profile: generic, decam, ztf, or a YAML file")
    field: str | None = Field(default=None, description="put every epoch into this field")
    band: str | None = Field(default=None, description="take only this band, or name it where headers do not")
    grid: str | None = Field(default=None, description="FITS file whose pixel grid a new field takes")
    retry: bool = Field(default=False, description="try frames again whose pixels were quarantined before")
    profile: dict[str, Any] | None = Field(default=None, description="the profile as planned; leave out")
    epochs: dict[str, Epoch] | None = Field(default=None, description="frames by key, as planned; leave out")
    grids: dict[str, FieldGrid] = Field(default={}, description="grids of new fields, as planned; leave out")

    def request(self) -> dict[str, Any]:
        """What the user asked for, without what planning found."""
        return self.model_dump(include={"paths", "survey", "field", "band", "grid", "retry"})


def plan(settings: Settings) -> Plan:
    """Probe the frames, leave out duplicates, and give each new epoch its group and index."""
    if settings.epochs is not None:
        return _planned(settings, [])
    location = Location.parse(settings.output)
    for job in Ledger(location).jobs():
        if job["stage"] == "ingest" and not job["finished"]:
            began = Settings.model_validate({**job["settings"], "output": settings.output})
            if began.request() == settings.request():
                return _planned(began, [f"goes on with {job['id']}, which was stopped"])
    profile = load_profile(settings.survey)
    stored = read_stored(location)
    frames, refused = probe_all(expand(settings.paths, profile), profile)
    images = Counter([one.source for one in frames] + [one.source for one in refused])
    frames, duplicates = without_duplicates(frames, stored.known(settings.retry))
    given = given_grid(settings.grid, profile)
    chooser = FieldChooser(stored.grids, settings.field, given)
    chosen: dict[str, list[FrameProbe]] = defaultdict(list)
    banded: list[tuple[FrameProbe, str]] = []
    for frame in frames:
        try:
            banded.append((frame, band_of(frame, settings.band, profile)))
        except InputError as error:
            refused.append(Refused(frame.source, frame.hdu, str(error)))
    # A frame without sky must not set a field's grid, so it chooses last.
    banded.sort(key=lambda one: one[0].blank)
    chooser.look_over(frame for frame, _ in banded if not frame.blank)
    for frame, band in banded:
        group = f"{chooser.choose(frame)}/{band}"
        check_group(group)
        chosen[group].append(frame)
    epochs: dict[str, Epoch] = {}
    for group, members in sorted(chosen.items()):
        first = stored.epochs.get(group, 0)
        for index, frame in enumerate(sorted(members, key=_order), first):
            mjd = frame.facts.mjd if frame.facts is not None else None
            epochs[str(ShardKey(group, index))] = Epoch(
                source=frame.source,
                hdu=frame.hdu,
                alone=images[frame.source] == 1,
                epoch_id=frame.epoch_id,
                mjd=mjd,
                wcs=bool(frame.wcs_header),
            )
    refusals = {str(ShardKey(one.group, -1)): one for one in refused}
    known = Ledger(location).finished("ingest") if refusals else set()
    for name in sorted(set(refusals) - known):
        one = refusals[name]
        alone = images[one.source] == 1
        epochs[name] = Epoch(source=one.source, hdu=one.hdu, alone=alone, problem=one.reason)
    grids = {}
    for name, grid in chooser.new.items():
        founder = chooser.founders[name]
        source = settings.grid or _named(founder.source, founder.hdu, images[founder.source] == 1)
        grids[name] = FieldGrid(
            header=grid.header,
            height=grid.height,
            width=grid.width,
            source=source,
            path=founder.source,
            hdu=founder.hdu,
        )
    resolved = settings.model_copy(
        update={"profile": profile.model_dump(mode="json"), "epochs": epochs, "grids": grids}
    )
    warnings = _told(epochs, duplicates, refusals, known)
    if given is not None and chosen and not grids:
        warnings.append(f"grid {settings.grid} is not taken: the field has had its own since it was made")
    return _planned(resolved, warnings)


def _told(
    epochs: Mapping[str, Epoch], duplicates: list[str], refusals: Mapping[str, Refused], known: set[str]
) -> list[str]:
    """What the user should know of the frames that do not become epochs."""
    warnings = []
    if not epochs:
        warnings.append("nothing new: every frame is in the survey already, or was refused before")
    if duplicates:
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        warnings.append(f"{len(duplicates)} duplicates left out: {'; '.join(duplicates[:5])}{more}")
    for name, one in sorted(refusals.items())[:20]:
        before = " (refused before)" if name in known else ""
        warnings.append(f"refused{before}: {one.reason}")
    if len(refusals) > 20:
        warnings.append(f"and {len(refusals) - 20} more frames refused; their reasons are in the ledger")
    return warnings


def _planned(settings: Settings, warnings: list[str]) -> Plan:
    """The plan of resolved settings: one key per frame, groups in order."""
    keys = sorted(ShardKey.parse(name) for name in settings.epochs or {})
    shapes = {name: (grid.height, grid.width) for name, grid in settings.grids.items()}
    location = Location.parse(settings.output)
    pixels = peak = requests = 0
    for group, count in Counter(key.group for key in keys if key.epoch >= 0).items():
        name = group.split("/")[0]
        if name not in shapes:
            sizes = ProductReader(location, group).sizes("image") if _exists(location, group) else {}
            shapes[name] = (sizes["y"], sizes["x"]) if sizes else _shape_of_field(location, name)
        size = shapes[name][0] * shapes[name][1]
        pixels += count * size
        requests += count * (2 * put_requests(4 * size) + put_requests(2 * size) + 10)
        peak = max(peak, WORKER_BASE_BYTES + BYTES_PER_PIXEL * size)
    estimate = Estimate(len(keys), 4 * pixels, 7 * pixels, requests, peak)
    ids = sorted(one.epoch_id for one in (settings.epochs or {}).values())
    job = Job(
        "ingest",
        "astrid_dist.stages.ingest:task",
        settings.output,
        settings.model_dump(mode="json"),
        {"epoch_ids": ids},
    )
    return Plan(job, keys, estimate, warnings)


def _exists(location: Location, group: str) -> bool:
    return bool(location.objects().exists(f"{group}/zarr.json"))


def _shape_of_field(location: Location, name: str) -> tuple[int, int]:
    grid = read_stored(location).grids[name]
    return grid.height, grid.width


def _order(frame: FrameProbe) -> tuple[float, str, int]:
    return (frame.facts.mjd if frame.facts is not None else nan, frame.source, frame.hdu)


def prepare(plan: Plan) -> None:
    """Create or open the survey and its groups, and grow their arrays once."""
    settings = Settings.model_validate(plan.job.settings)
    location, profile = Location.parse(settings.output), _profile(settings)
    forget(plan)
    create_product(location, "survey")
    ends: dict[str, int] = {}
    for key in plan.keys:
        if key.epoch >= 0:
            ends[key.group] = max(ends.get(key.group, 0), key.epoch + 1)
    if ends:
        set_state(location, "building")
    stored = None
    for group, end in ends.items():
        name, band = group.split("/")
        if not _exists(location, group):
            if name in settings.grids:
                given = settings.grids[name]
                grid = Grid(given.header, given.height, given.width)
            else:
                stored = stored or read_stored(location)
                grid = stored.grids[name]
            model = PsfModel.of(profile, grid)
            sizes = {"epoch": 0, "y": grid.height, "x": grid.width, **model.sizes}
            scale = grid.pixel_scale_arcsec
            attributes = {
                "wcs": grid.header,
                "psf_order": model.order,
                "oversampling": model.oversampling,
                "pixel_scale_arcsec": profile.pixel_scale_arcsec if isnan(scale) else scale,
            }
            attributes |= {"survey": profile.name, "field": name, "band": band}
            # What a difference is judged by: a profile of the user's own is not there to be asked later.
            attributes |= {
                "thresholds": profile.quality.model_dump(mode="json"),
                "depth": profile.depth.get(band),
            }
            create_group(location, "survey", group, sizes, attributes)
        grow(location, "survey", group, end)
    fields: dict[str, list[tuple[str, Epoch]]] = defaultdict(list)
    for key in plan.keys:
        if key.epoch >= 0:
            fields[key.group.split("/")[0]].append((key.group, (settings.epochs or {})[str(key)]))
    for name, members in fields.items():
        _settle(location, name, members, settings, profile)


def _settle(
    location: Location, name: str, members: list[tuple[str, Epoch]], settings: Settings, profile: Profile
) -> None:
    """See that a field has the stars by which the job's frames without a WCS are aligned."""
    given, all_placed = settings.grids.get(name), all(one.wcs for _, one in members)
    if all_placed and given and given.header:
        return
    grid = _grid_of(ProductReader(location, members[0][0]))
    if all_placed and grid.header:
        return
    places = [(given.path, given.hdu)] if given else []
    if not (grid.header or (given and settings.grid)):
        lost = [(one.source, one.hdu) for _, one in members if not one.wcs]
        places += [one for one in lost if one not in places]
    settle_stars(location, name, grid.shape, places, profile)


def _profile(settings: Settings) -> Profile:
    return Profile.model_validate(settings.profile) if settings.profile else load_profile(settings.survey)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Read one frame, bring it onto the field's grid, measure it, and write its epoch.

    A frame that cannot be used leaves its slot without data, and says why.
    """
    entry, scalars = _entry(settings, key)
    if entry.problem:
        return _set_aside(scalars, entry, entry.problem)
    founder = settings["grids"].get(key.group.split("/")[0], {}).get("source", "")
    options = Settings.model_validate({**settings, "epochs": None, "grids": {}})
    profile, location = _profile(options), Location.parse(options.output)
    reader = ProductReader(location, key.group)
    started = perf_counter()
    try:
        frame = _read(entry, profile)
        read = perf_counter()
        planes, measured = _measure(frame, reader, profile, founder)
    except InputError as error:
        return _set_aside(scalars, entry, str(error))
    computed = perf_counter()
    writer = ProductWriter(location, key.group)
    shards = {
        f"{key.group}/{name}": writer.write(name, {"epoch": key.epoch}, values)
        for name, values in planes.items()
    }
    masked = int(np.count_nonzero(planes["mask"]))
    return TaskOutcome(
        shards=shards,
        scalars=scalars | measured,
        counts={"pixels": int(planes["mask"].size), "masked": masked, "stars": measured["n_stars"]},
        timings={"read": read - started, "compute": computed - read, "write": perf_counter() - computed},
    )


def _source(entry: Epoch) -> str:
    return _named(entry.source, entry.hdu, entry.alone)


def _named(source: str, hdu: int, alone: bool) -> str:
    return source if alone else f"{source}[{hdu}]"


def _entry(settings: Mapping[str, Any], key: ShardKey) -> tuple[Epoch, dict[str, Any]]:
    """A planned frame, and the scalars that are known before it is read."""
    entry = Epoch.model_validate(settings["epochs"][str(key)])
    scalars: dict[str, Any] = {"epoch_id": entry.epoch_id, "source": _source(entry)}
    if entry.mjd is not None:
        scalars |= {"mjd": entry.mjd, "time": microseconds(entry.mjd)}
    return entry, scalars


def give_up(settings: Mapping[str, Any], key: ShardKey, reason: str) -> TaskOutcome:
    """What stands for a frame that killed its workers: a slot without data, and why."""
    entry, scalars = _entry(settings, key)
    return _set_aside(scalars, entry, reason)


def _set_aside(scalars: Mapping[str, Any], entry: Epoch, reason: str) -> TaskOutcome:
    # The file is recorded beside the reason, which need not begin with it again.
    short = re.sub(rf"^{re.escape(entry.source)}(\[\d+\])?:? ", "", reason)
    more = {"valid": False, "verdict": "quarantined", "reason": short}
    return TaskOutcome(shards={}, scalars={**scalars, **more}, quarantined=f"{_source(entry)}: {short}")


def _grid_of(reader: ProductReader) -> Grid:
    sizes = reader.sizes("image")
    return Grid(str(reader.attributes["wcs"]), sizes["y"], sizes["x"])


def _measure(
    frame: Frame, reader: ProductReader, profile: Profile, founder: str
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """`measure_exposure`, whose own failure is taken as the frame's: one frame must not hold up a survey."""
    grid, has = _grid_of(reader), reader.attributes
    model = PsfModel(psf_box(reader), has["psf_order"], has["oversampling"])
    field: FieldStars | None = None
    if frame.wcs is None or grid.wcs is None:
        field = kept_stars(reader.location, reader.group.split("/")[0])
    try:
        return measure_exposure(frame, grid, profile, model, field, founder)
    except (AstridError, MemoryError):
        raise
    except Exception as error:
        frames = [one for one, _ in walk_tb(error.__traceback__)]
        ours = [one for one in frames if one.f_globals.get("__name__", "").startswith("astrid_dist.")]
        raise InputError(
            f"could not be measured: {type(error).__name__}: {error} in {ours[-1].f_code.co_name}; "
            "the frame is left out, please report it"
        ) from error


def _read(entry: Epoch, profile: Profile) -> Frame:
    try:
        frame = read_frame(entry.source, entry.hdu, profile)
    except InputError as error:
        if is_transient(error):  # it could be read when the job was planned: try again before giving it up
            raise StorageError(str(error)) from error
        raise
    if frame.epoch_id != entry.epoch_id:
        raise InputError(
            f"{_source(entry)} changed since the job was planned: its pixels had the id "
            f"{entry.epoch_id[:12]}, now {frame.epoch_id[:12]}; ingest it again"
        )
    return frame


def commit(plan: Plan, markers: list[Marker]) -> None:
    """Publish finished epochs up to the first that is not."""
    publish(plan, markers)


def finalise(plan: Plan) -> None:
    """Forget what waited; every epoch is committed as it finishes."""
    forget(plan)
