"""Datasets, measured figures and pictures of the catalogue pages; ``python docs/catalogue.py`` makes them.

They lie in build/catalogue. `make docs` makes them where they are missing, or older than the code they show.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from catalogue_pictures import artifact_picture, light_curves_picture, sequence_picture

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.query.samples import open_samples
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.stages.run import run_stage

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "catalogue"
#: What the datasets depend on.
SOURCES = ("simulation", "imaging", "stages/synthetic", "figures", "surveys")
#: A mock of one field: a season of templates, and one of two sequences.
SKY = {
    "bands": ("g", "r"), "epochs": 20, "template_epochs": 4, "cadence_days": 6.0, "visits_per_night": 1,
    "size_px": 640, "star_density": 1200.0, "galaxy_density": 500.0, "supernovae": 0, "hostless": 0,
    "variables": 0, "asteroids": 0, "cosmic_rays": 0.0, "seed": 11,
}  # fmt: skip
SAMPLES, SEQUENCES, VISITS, SHOWN = 3072, 512, 8, 6
DETECTED = 5.0
#: A sequence that is shown lies within one season, days.
SEASON = 100.0


def up_to_date():
    """Whether the figures are there, and newer than all code that they depend on."""
    made = FOLDER / "measured.json"
    if not made.is_file():
        return False
    code = [path for part in SOURCES for path in (ROOT / "astrid_dist" / part).rglob("*.py")]
    newest = max(path.stat().st_mtime for path in [*code, *Path(__file__).parent.glob("catalogue*.py")])
    return made.stat().st_mtime > newest


def measured():
    """Figures of all kinds, made first where they are missing or old."""
    if not up_to_date():
        make()
    return json.loads((FOLDER / "measured.json").read_text())


def make():
    """Make the mock survey, the datasets, the figures and the pictures."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    survey, reference = make_survey(FOLDER / "mock")
    common = {"survey": survey, "reference": reference, "way": "fast", "splits": {"all": 1.0}, "seed": 2}
    artifacts = str(FOLDER / "artifacts.zarr")
    even = {
        name: 1.0 * list(class_of(ARTIFACTS).values()).count(name) for name in class_of(ARTIFACTS).values()
    }
    run("inject", common | {"output": artifacts, "samples": SAMPLES, "kinds": list(ARTIFACTS), "mix": even})
    populations = str(FOLDER / "populations.zarr")
    even = {
        name: 1.0 * list(class_of(POPULATIONS).values()).count(name)
        for name in class_of(POPULATIONS).values()
    }
    kinds = {"kinds": list(POPULATIONS), "mix": even, "snr": [10, 100], "visits": VISITS, "negative": 0.0}
    run("inject", common | {"output": populations, "samples": SEQUENCES, **kinds})
    found = {"artifacts": look_at_artifacts(artifacts), "populations": look_at_populations(populations)}
    (FOLDER / "measured.json").write_text(json.dumps(found, indent=1))


def class_of(kinds):
    """Class of every kind."""
    from astrid_dist.taxonomy import KINDS

    return {kind: KINDS[kind] for kind in kinds}


def run(stage, settings):
    """Run a stage in this process."""
    run_stage(stage, settings, SerialEngine())


def make_survey(folder):
    """URLs of a mock survey in which nothing changes, and of its reference."""
    survey, reference, files = (str(folder / name) for name in ("survey.zarr", "reference.zarr", "fits"))
    run("mock", {"output": str(folder / "truth.zarr"), "files": files, **SKY})
    run("ingest", {"paths": [f"{files}/*.fits.fz"], "output": survey, "survey": "generic"})
    run("reference", {"survey": survey, "output": reference, "epochs": "best:4"})
    return survey, reference


def look_at_artifacts(url):
    """How often each kind passes which cut, and its picture."""
    data = open_samples(url)["generic/all"]
    kinds, reasons = (data.astrid.names(name).to_numpy() for name in ("kind", "reason"))
    put, peak = data["injectable"].to_numpy(), data["peak"].to_numpy()[:, 0]
    pixels = data["pixels"].to_numpy()[:, 0]
    seen = put & (np.abs(peak) >= DETECTED)
    kept = seen & simple_cut(pixels)
    found = {}
    for kind in ARTIFACTS:
        drawn = (kinds == kind) & (put | (reasons == "no flux"))
        rows = np.flatnonzero((kinds == kind) & put)
        rows = rows[np.argsort(np.nan_to_num(np.abs(peak[rows])), kind="stable")]
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int))]
        if rows.size:
            (FOLDER / f"artifact-{slug(kind)}.png").write_bytes(artifact_picture(pixels[rows]))
        found[kind] = {
            "drawn": int(drawn.sum()),
            "seen": int((seen & drawn).sum()),
            "kept": int((kept & drawn).sum()),
            "peaks": [float(value) if np.isfinite(value) else None for value in peak[rows]],
        }
    return found


def look_at_populations(url):
    """How often detected samples of each kind pass the simple cut, and its pictures."""
    data = open_samples(url)["generic/all"]
    kinds, put = data.astrid.names("kind").to_numpy(), data["injectable"].to_numpy()
    snr, peak, mjd = (data[name].to_numpy() for name in ("snr", "peak", "mjd"))
    found = {}
    for kind, population in POPULATIONS.items():
        rows = np.flatnonzero((kinds == kind) & put)
        pixels = data["pixels"].isel(sample=rows).to_numpy()
        seen = np.abs(peak[rows]) >= DETECTED
        kept = seen & simple_cut(pixels.reshape(-1, *pixels.shape[2:])).reshape(seen.shape)
        change = np.where(np.ptp(mjd[rows], axis=1) < SEASON, np.ptp(snr[rows], axis=1), -1.0)
        best = int(np.nan_to_num(change, nan=-2.0).argmax())
        order = np.argsort(mjd[rows[best]])
        (FOLDER / f"sequence-{slug(kind)}.png").write_bytes(sequence_picture(pixels[best][order]))
        drawing, colours = light_curves_picture(kind, population)
        (FOLDER / f"curves-{slug(kind)}.png").write_bytes(drawing)
        when = mjd[rows[best]][order]
        found[kind] = {
            "seen": int(seen.sum()),
            "kept": int(kept.sum()),
            "days": [round(float(day - when[0]), 2) for day in when],
            "snr": [round(float(value), 1) for value in snr[rows[best]][order]],
            "band": str(data.astrid.names("band").to_numpy()[rows[best], 0]),
            "colours": colours,
        }
    return found


def simple_cut(pixels):
    """Whether the difference looks like one point source: (n,) bool.

    5 × 5 pixels of data around the middle, 3 of 4 parts of their light of one sign, no more than a quarter
    of it in one pixel.
    """
    middle = pixels.shape[-1] // 2
    core = pixels[:, 2, middle - 2 : middle + 3, middle - 2 : middle + 3].reshape(len(pixels), -1)
    core = core.astype(np.float64)
    there = np.isfinite(core).all(axis=1)
    core = np.nan_to_num(core)
    light, whole = np.abs(core.sum(axis=1)), np.abs(core).sum(axis=1)
    return there & (light > 0.5 * whole) & (np.abs(core).max(axis=1) < 0.25 * light)


def slug(kind):
    """Name of a kind in file names and addresses."""
    return kind.lower().replace(" ", "-")


if __name__ == "__main__":
    make()
