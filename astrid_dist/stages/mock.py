"""Make a mock survey: one FITS file per epoch of a sky that is known, and the truth about it."""

from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.simulation.mock import Exposure, Scene, build_scene, make_exposure
from astrid_dist.simulation.survey import DEMO, MockSurvey
from astrid_dist.simulation.survey_files import as_written_by
from astrid_dist.simulation.truth import truth_rows
from astrid_dist.store.locations import Location
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_product
from astrid_dist.surveys.profile import load_profile


class Settings(BaseModel):
    """What a mock job file holds."""

    model_config = ConfigDict(extra="forbid")

    output: str = Field(description="URL of the truth product: what was put into the sky")
    files: str = Field(description="URL of the folder for the FITS files, one per exposure")
    survey: str = Field(
        default="mock",
        description="whose pixels, seeing, depth, noise, exposure and keywords the frames have: mock, of a "
        "1.2 m telescope, or a survey profile with depths: ztf, lsst, ps1, decam, meerlicht",
    )
    seed: int = Field(default=DEMO.seed, ge=0, description="root of every random draw")
    fields: int = Field(default=DEMO.fields, ge=1, description="fields on the sky")
    bands: tuple[str, ...] = Field(
        default=DEMO.bands, min_length=1, description="bands, of g, r, i, z or the survey's"
    )
    epochs: int = Field(
        default=DEMO.epochs, ge=1, description="epochs per field and band, templates included"
    )
    template_epochs: int = Field(
        default=DEMO.template_epochs, ge=1, description="first epochs, a season before any supernova"
    )
    visits_per_night: int = Field(
        default=DEMO.visits_per_night, ge=1, description="visits a night in the search"
    )
    cadence_days: float = Field(default=DEMO.cadence_days, gt=0, description="nights between visits, days")
    season_days: float = Field(
        default=DEMO.season_days, gt=0, description="supernovae peak within this, days"
    )
    size_px: int = Field(default=DEMO.size_px, ge=128, description="side of a frame, pixels")
    seeing_arcsec: float | None = Field(
        default=None, gt=0, description="median seeing FWHM, arcsec; that of the survey where left out"
    )
    dither_px: float = Field(default=DEMO.dither_px, ge=0, description="scatter of the pointing, pixels")
    star_density: float = Field(default=DEMO.star_density, gt=0, description="stars with r < 21.5 per Mpix")
    galaxy_density: float = Field(
        default=DEMO.galaxy_density, ge=0, description="galaxies with r < 21.5 per Mpix"
    )
    supernovae: int = Field(
        default=DEMO.supernovae, ge=0, lt=300, description="supernovae in galaxies, per field"
    )
    hostless: int = Field(
        default=DEMO.hostless, ge=0, lt=200, description="supernovae without a host, per field"
    )
    variables: int = Field(default=DEMO.variables, ge=0, lt=500, description="RR Lyrae stars per field")
    asteroids: int = Field(default=DEMO.asteroids, ge=0, lt=100, description="asteroids per field and night")
    cosmic_rays: float | None = Field(
        default=None,
        ge=0,
        description="cosmic rays per Mpix and exposure; the survey's where left out",
    )

    @field_validator("survey")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "mock":
            load_profile(value)  # says which there are
        return value

    def mock_survey(self) -> MockSurvey:
        """The survey these settings describe."""
        said = self.model_dump(exclude={"output", "files", "survey"}, exclude_none=True)
        if self.survey == "mock":
            return MockSurvey(**said)
        return MockSurvey.of_profile(load_profile(self.survey), **said)


def plan(settings: Settings) -> Plan:
    """One task per exposure."""
    survey = settings.mock_survey()
    blocks = [
        KeyBlock(f"{survey.field_name(field)}/{band}", range(survey.epochs))
        for field in range(survey.fields)
        for band in survey.bands
    ]
    keys = KeyGrid(blocks)
    pixels = survey.size_px**2
    # Rice compression leaves about 1.1 bytes of a noisy 16-bit pixel
    estimate = Estimate(len(keys), 0, int(1.1 * pixels) * len(keys), 2 * len(keys), 2**28 + 80 * pixels)
    job = Job("mock", "astrid_dist.stages.mock:task", settings.output, settings.model_dump(mode="json"))
    return Plan(job, keys, estimate)


def prepare(plan: Plan) -> None:
    """Create the truth product's root; every FITS file is written whole by its task."""
    create_product(Location.parse(plan.job.output), "truth", job=plan.job.id, digest=plan.job.digest)


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Make one exposure and write its file."""
    started = perf_counter()
    options = Settings.model_validate(settings)
    survey = options.mock_survey()
    field, band = _field_and_band(key.group)
    exposure = make_exposure(survey, _scene(survey, field), field, band, key.epoch)
    if options.survey != "mock":
        exposure = as_written_by(load_profile(options.survey), exposure, band, survey.gain)
    computed = perf_counter()
    name = file_name(key)
    Location.parse(options.files).objects().put(name, fits_bytes(exposure))
    digest = _sha256(exposure)
    return TaskOutcome(
        shards={f"files:{name}": {"region": [[0, n] for n in exposure.counts.shape], "sha256": digest}},
        counts={"pixels": int(exposure.counts.size)},
        timings={"compute": computed - started, "write": perf_counter() - computed},
    )


def finalise(plan: Plan) -> None:
    """Write the truth about every exposure."""
    settings = Settings.model_validate(plan.job.settings)
    table = truth_table(settings.mock_survey())
    job, digest = plan.job.id, plan.job.digest
    write_table(
        Location.parse(settings.output), "truth", table, {"files": settings.files}, job=job, digest=digest
    )


def truth_table(survey: MockSurvey) -> dict[str, Any]:
    """Columns of the truth product of a whole survey, in the order of field, band, epoch, object."""
    parts: list[dict[str, Any]] = []
    for field in range(survey.fields):
        scene = build_scene(survey, field)
        for band in survey.bands:
            for epoch in range(survey.epochs):
                rows = truth_rows(survey, scene, field, band, epoch)
                key = ShardKey(f"{survey.field_name(field)}/{band}", epoch)
                same = {"source": file_name(key), "field": survey.field_name(field), "band": band}
                rows |= {name: np.full(len(rows["id"]), value, object) for name, value in same.items()}
                parts.append(rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def file_name(key: ShardKey) -> str:
    """Name of an exposure's file: ``f0000_r_e0003.fits.fz``."""
    return f"{key.group.replace('/', '_')}_e{key.epoch:04d}.fits.fz"


def fits_bytes(exposure: Exposure) -> bytes:
    """The exposure as a Rice-compressed FITS file, lossless."""
    from astropy.io import fits

    header = fits.Header([(name, *card) for name, card in exposure.header.items()])
    image = fits.CompImageHDU(exposure.counts, header, compression_type="RICE_1")
    out = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(out)
    return out.getvalue()


@lru_cache(maxsize=4)
def _scene(survey: MockSurvey, field: int) -> Scene:
    return build_scene(survey, field)


def _field_and_band(group: str) -> tuple[int, str]:
    name, band = group.split("/")
    return int(name[1:]), band


def _sha256(exposure: Exposure) -> str:
    from hashlib import sha256

    counts = np.ascontiguousarray(exposure.counts, dtype=exposure.counts.dtype.newbyteorder("<"))
    return sha256(f"{counts.dtype.str}{counts.shape}".encode() + counts.tobytes()).hexdigest()
