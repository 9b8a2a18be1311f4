"""A small mock survey, ingested, with its reference: what samples and injected frames in tests come from."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage


@dataclass(frozen=True)
class SmallSurvey:
    """URLs of one survey, its reference and difference, and the truth about it."""

    survey: str
    reference: str
    difference: str
    truth: str


@cache
def small_survey(
    size_px: int = 384,
    epochs: int = 6,
    bands: tuple[str, ...] = ("r",),
    seed: int = 5,
    profile: str = "",
    changing: int = 0,
) -> SmallSurvey:
    """Make it once per process; stars, galaxies and noise, cosmic rays, and nothing that changes.

    `changing` supernovae and as many variable stars are there where asked for. `profile` names the survey
    that it is to look like; a generic telescope where left out.
    """
    folder = Path(mkdtemp(prefix="small-survey-"))
    made = SmallSurvey(
        *(str(folder / f"{name}.zarr") for name in ("survey", "reference", "difference", "truth"))
    )
    like = {"survey": profile or "mock"}
    quiet = {"supernovae": changing, "hostless": 0, "variables": changing, "asteroids": 0}
    sky = {"star_density": 1500.0, "galaxy_density": 500.0, "size_px": size_px, "seed": seed}
    night = {"epochs": epochs, "template_epochs": 3, "bands": bands, "season_days": 4.0}
    files, telescope = str(folder / "fits"), profile or "generic"
    for stage, settings in (
        (
            "mock",
            {"output": made.truth, "files": files, **like, **quiet, **sky, **night},
        ),
        ("ingest", {"paths": [f"{files}/*.fits.fz"], "output": made.survey, "survey": telescope}),
        ("reference", {"survey": made.survey, "output": made.reference, "epochs": "best:3"}),
        ("difference", {"survey": made.survey, "reference": made.reference, "output": made.difference}),
    ):
        run_stage(stage, settings, SerialEngine())
    return made
