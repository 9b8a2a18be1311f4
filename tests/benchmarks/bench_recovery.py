"""How much of a transient comes back: its flux, its S/N beside the best possible, its place; and how far each
figure of quality moves when an input is wrong by a known amount."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.imaging import quality
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from astrid_dist.stages.comparison import Comparison, compare
from astrid_dist.stages.run import run_stage
from astrid_dist.surveys.profile import resolve_thresholds
from tests.bad_subtractions import GOOD, Case, measure
from tests.imaging.zogy_scenes import BOX, gaussian, moffat, noisy

Result = dict[str, Any]
Float64 = NDArray[np.float64]

#: Four templates, four epochs of the search; many times more supernovae than in any real sky.
MOCK = {
    "size_px": 1024,
    "epochs": 8,
    "template_epochs": 4,
    "supernovae": 30,
    "hostless": 30,
    "season_days": 10,
}
BRIGHT, COMPLETE = 20.0, 8.0
#: S/N of the painted sources, electrons of background noise, and the flux ratio.
SNR, SIGMAS, RATIO = 20.0, (20.0, 10.0), 0.8


def sim_recovery() -> list[Result]:
    """Through `imaging.zogy` on painted pairs, and through the whole pipeline on a mock survey."""
    rows = _painted()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _mock_survey(folder)
        for refine in ("never", "auto"):
            rows += _pipeline(folder, refine)
    return rows


def _painted(side: int = 512, rounds: int = 4) -> list[Result]:
    """Sources on a grid, every other one upon a steady star that is ten times as bright."""
    psfs, half = (moffat(3.2), gaussian(2.4)), BOX // 2
    plan = plan_subtraction(*psfs, *SIGMAS, RATIO, shape=(side, side))
    best = _least_sigma(psfs)
    places = [(y, x) for y in range(40, side - 40, 36) for x in range(40, side - 40, 36)]
    hosted = np.arange(len(places)) % 2 == 1
    found, blank = [], []
    for seed in range(rounds):
        light = np.zeros((2, side, side))
        empty = [
            noisy(one, sigma, 10 * seed + k) for k, (one, sigma) in enumerate(zip(light, SIGMAS, strict=True))
        ]
        quiet = subtract(empty[0][0], empty[1][0], empty[0][1], empty[1][1], plan)
        blank.append(quiet.score * quiet.sigma_flux)
        for (y, x), host in zip(places, hosted, strict=True):
            stamp = np.s_[y - half : y + half + 1, x - half : x + half + 1]
            light[0][stamp] += RATIO * SNR * best * (1 + 10 * host) * psfs[0]
            light[1][stamp] += SNR * best * 10 * host * psfs[1]
        planes = [
            noisy(one, sigma, 10 * seed + 5 + k)
            for k, (one, sigma) in enumerate(zip(light, SIGMAS, strict=True))
        ]
        made = subtract(planes[0][0], planes[1][0], planes[0][1], planes[1][1], plan)
        rows, columns = np.array(places).T
        found.append((made.score * made.sigma_flux)[rows, columns] / (SNR * best))
    flux = np.array(found)
    inner = np.s_[:, half:-half, half:-half]
    return [
        _row(
            "sim_flux", float(flux[:, ~hosted].mean()), f"true flux, {flux[:, ~hosted].size} of S/N {SNR:g}"
        ),
        _row("sim_flux_on_stars", float(flux[:, hosted].mean()), "true flux, on stars ten times as bright"),
        _row(
            "sim_snr", best / float(np.std(np.array(blank)[inner])), "a perfect filter, by the power spectra"
        ),
    ]


def _least_sigma(psfs: tuple[Float64, Float64]) -> float:
    """Least error of a PSF flux on the reference's scale: the Fisher information of both images together."""
    size = (256, 256)
    Pn, Pr = (np.abs(np.fft.fft2(psf / psf.sum(), size)) ** 2 for psf in psfs)
    information = np.mean(RATIO**2 * Pn * Pr / (SIGMAS[0] ** 2 * Pr + (RATIO * SIGMAS[1]) ** 2 * Pn))
    # np.mean: a sum over frequencies divided by their number, Parseval.
    return float(1 / np.sqrt(information))


def _mock_survey(folder: Path) -> None:
    """Mock frames, ingested, with a reference of the template season."""
    engine, survey = SerialEngine(), str(folder / "survey.zarr")
    run_stage("mock", {**MOCK, "output": str(folder / "truth.zarr"), "files": str(folder / "fits")}, engine)
    ingest = {"paths": [str(folder / "fits")], "survey": "generic", "output": survey, "field": "f0000"}
    run_stage("ingest", ingest, engine)
    templates = [f"f0000_r_e{i:04d}.fits.fz" for i in range(4)]
    reference = {"survey": survey, "output": str(folder / "reference.zarr"), "epochs": templates}
    run_stage("reference", reference, engine)


def _pipeline(folder: Path, refine: str) -> list[Result]:
    engine = SerialEngine()
    survey, reference, difference, candidates, truth = (
        str(folder / f"{name}.zarr")
        for name in ("survey", "reference", f"difference_{refine}", f"candidates_{refine}", "truth")
    )
    job = {"survey": survey, "reference": reference, "output": difference, "refine": refine}
    run_stage("difference", job, engine)
    run_stage("detect", {"difference": difference, "output": candidates, "quality": "all"}, engine)
    compared = compare(truth, reference, difference, candidates)
    name = f"sim_pipeline_{refine}"
    seen = compared.countable
    seen = seen[(seen["class"] == "transient") & (seen["epoch"] >= 4)]
    counted = seen[seen["true_snr"] >= COMPLETE]
    complete = float((counted["candidate"] >= 0).mean())
    bright = seen[(seen["true_snr"] > BRIGHT) & (seen["candidate"] >= 0)]
    own = compared.candidates.loc[bright["candidate"]]
    flux = own["flux"].to_numpy() / bright["flux_ujy"].to_numpy()
    groups = ", ".join(
        f"{kind} {np.median(flux[where]):.3f}"
        for kind, where in (("hosted", bright["host"] != ""), ("hostless", bright["host"] == ""))
    )
    per_epoch = [f"{np.median(flux[bright['epoch'] == epoch]):.3f}" for epoch in range(4, 8)]
    print(f"  {name}: flux by epoch {' '.join(per_epoch)}; {groups}; {_quality(difference)}")
    off = _places(compared, difference)
    return [
        _row(
            f"{name}_flux", float(np.median(flux)), f"true flux, median of {len(flux)} with SNR > {BRIGHT:g}"
        ),
        _row(f"{name}_complete", complete, f"all {len(counted)} with SNR >= {COMPLETE:g}"),
        _row(f"{name}_place", off, "noise limit of the place, SNR 8 and more"),
    ]


def _quality(difference: str) -> str:
    cube = astrid.open_difference(difference)["f0000/r"].isel(epoch=slice(4, None))
    return f"refined tiles {int(cube['refined'].sum())}, verdicts {' '.join(cube['verdict'].values.tolist())}"


def _places(compared: Comparison, difference: str) -> float:
    """Robust scatter of place errors per axis, in units of the least possible one, 1 / (S/N · |P'| / |P|)."""
    seen = compared.countable
    seen = seen[(seen["class"] == "transient") & (seen["candidate"] >= 0) & (seen["true_snr"] >= COMPLETE)]
    seen = seen[seen["epoch"] >= 4]
    own = compared.candidates.loc[seen["candidate"]]
    psf = astrid.open_difference(difference)["f0000/r"]["psf_d"].mean(("tile_y", "tile_x")).values
    power = np.square(np.abs(np.fft.fft2(psf.astype(np.float64))))
    frequency = 2 * np.pi * np.fft.fftfreq(psf.shape[-1])
    pulls = []
    for axis, along in (("y", frequency[:, None]), ("x", frequency)):
        # |P'| over |P| by Parseval: differences of pixels would miss part of the slope.
        sharpness = np.sqrt((power * along**2).sum((1, 2)) / power.sum((1, 2)))
        limit = 1 / (seen["true_snr"].to_numpy() * sharpness[seen["difference_epoch"]])
        pulls.append((own[axis].to_numpy() - seen[axis].to_numpy()) / limit)
    return 1.4826 * float(np.median(np.abs(pulls)))


#: What is wrong, nobody being told: misregistration in pixels, the others as fractions.
WRONG: dict[str, Case] = {
    "nothing": GOOD,
    **{f"shift {by} px": replace(GOOD, shift=by) for by in (0.05, 0.1, 0.2, 0.3)},
    **{f"FWHM {by:.0%}": replace(GOOD, believed_fwhm=3.2 * (1 - by)) for by in (0.01, 0.02, 0.05, 0.1)},
    **{f"flux ratio {by:.0%}": replace(GOOD, believed_ratio=1 + by) for by in (0.01, 0.03, 0.05)},
}
SHOWN = ("score_std", "peaks", "displacement", "residual_ratio", "psf_width_error", "flux_left", "match_chi2")


def quality_response() -> list[Result]:
    """A table of figures of quality with one input wrong; medians of three fields of 60 stars."""
    thresholds = resolve_thresholds("generic", {})
    print(f"  | wrong | {' | '.join(SHOWN)} | score | verdict |")
    print("  |---" * (len(SHOWN) + 3) + "|")
    rows = []
    for name, case in WRONG.items():
        fields = [measure(replace(case, seed=seed)) for seed in (1, 2, 3)]
        metrics = {key: float(np.median([one[key] for one in fields])) for key in fields[0]}
        judged = quality.judge(metrics, thresholds)
        figures = " | ".join(f"{metrics[key]:.3g}" for key in SHOWN)
        print(f"  | {name} | {figures} | {judged.score:.2f} | {judged.verdict} |")
        rows.append(_row(f"quality {name}", judged.score, f"1 is best; {judged.verdict}"))
    return rows


def _row(name: str, value: float, against: str) -> Result:
    return {"name": name, "value": value, "unit": "1", "against": against, "ratio": value}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "sim_recovery": sim_recovery,
    "quality_response": quality_response,
}
