"""A crowded real field through the pipeline, pair by pair: what each ingredient of a subtraction does to the
width of S_corr, to false peaks, and to faint sources put in anywhere and beside bright stars."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.flags import Flag
from astrid_dist.imaging import matching, psf, zogy
from astrid_dist.imaging.detection import find_peaks, measure_peaks
from astrid_dist.imaging.leftover import measure_leftover
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import Pair, Template, open_pair
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.subtraction import subtract_tiles
from astrid_dist.stages.tiles import Options, subtract_tile
from astrid_dist.store.locations import Location

Result = dict[str, Any]
Image = NDArray[Any]
REALDATA = Path(
    os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
)
PROFILE = """\
name: saao
extends: generic
pixel_scale_arcsec: 0.31
saturation: 60000
seeing_arcsec: {typical: 1.5, worst: 2.2}
keywords: {band: [FILTERS]}
bands: [{match: "58", band: I}]
"""
NULLS, EARLIER = ("0169", "0171", "0172", "0173"), ("0001", "0008")
CHANGED = 252.7, 251.9  # where a source faded by a factor of two between 2013-06 and 2013-08, pixels
NEAR_PX, MATCH_PX = 18, 3.0
INJECTED, ROUNDS = 10, 3  # so few at a time that they change no measurement of the field
ALWAYS = Options(astrometric_sigma_px=0.1, renormalise=True, refine="always")


@dataclass(frozen=True)
class Opened:
    """A pair on its one tile."""

    pair: Pair
    window: Window
    new: Planes
    template: Template

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pixels away from saturated stars, their trails, and the borders of both frames."""
        mask = self.new.mask | self.template.planes.mask
        bad = (mask & int(Flag.SATURATED | Flag.BLEED | Flag.NO_DATA)) != 0
        bad = np.pad(bad, 1, constant_values=True)
        return np.asarray(~ndimage.binary_dilation(bad, iterations=NEAR_PX)[1:-1, 1:-1])


@dataclass(frozen=True)
class Steps:
    """Scores after each ingredient; the difference that the pipeline publishes, before renormalisation."""

    scores: dict[str, Image]
    difference: Image
    sigma_flux: Image
    psf_d: Image


class Field:
    """The frames ingested, and a reference of each."""

    def __init__(self, folder: Path, references: tuple[str, ...] = NULLS) -> None:
        paths = sorted((REALDATA / "saao_iband_series" / "images").glob("*.fits.gz"))
        profile = folder / "saao.yaml"
        profile.write_text(PROFILE)
        self.folder, self.seconds = folder, {}
        job = {"paths": [str(one) for one in paths], "survey": str(profile), "field": "F"}
        self._run("ingest", {**job, "output": self.survey}, len(paths))
        sources = astrid.open_survey(self.survey)["F/I"].source.values
        self.index = {str(one).rpartition("/")[2][9:13]: i for i, one in enumerate(sources)}
        for name in references:
            epochs = [f"AKB13475I{name}.fits.gz"]
            self._run("reference", {"survey": self.survey, "output": self.reference(name), "epochs": epochs})

    @property
    def survey(self) -> str:
        return str(self.folder / "survey.zarr")

    def reference(self, name: str) -> str:
        return str(self.folder / f"reference_{name}.zarr")

    def _run(self, stage: str, job: dict[str, Any], frames: int = 1) -> None:
        start = time.process_time()
        run_stage(stage, job, SerialEngine())
        self.seconds[stage] = (time.process_time() - start) / frames

    def open(self, new: str, ref: str) -> Opened:
        """A pair, as the difference stage opens it."""
        survey, reference = Location.parse(self.survey), Location.parse(self.reference(ref))
        pair = open_pair(survey, reference, "F/I", self.index[new], MATCH_PX)
        window = Window(0, pair.shape[0], 0, pair.shape[1])
        science, template = pair.science(window), pair.template(window)
        return Opened(pair.registered(science, template), window, science, template)


def subtract(one: Opened) -> Steps:
    """Ingredient by ingredient; the last but one is what `subtract_tile` makes, the last is published."""
    new, ref = one.new, one.template.planes
    planes = new.image, ref.image, new.variance, ref.variance
    local = one.pair.comparison.at(*one.window.centre, max(one.window.shape) / 2)
    psfs = one.pair.psfs_at(*one.window.centre)
    sigmas, shape = (new.sigma, ref.sigma), one.window.shape
    plan = zogy.plan_subtraction(*psfs, *sigmas, local.flux_ratio, shape=shape)
    terms: dict[str, dict[str, Any]] = {"plain": {}, "registration": {"shift": local.shift}}
    spread = local.astrometric_sigma(ALWAYS.astrometric_sigma_px)
    terms["v_ast"] = terms["registration"] | {"astrometric_sigma": spread}
    terms["flux_ratio"] = terms["v_ast"] | {"flux_ratio_err": local.flux_sigma}
    scores = {name: zogy.subtract(*planes, plan, **given).score for name, given in terms.items()}
    found = matching.match_psf(*planes, *psfs, plan, shift=local.shift)
    plan = zogy.plan_subtraction(found.psf_n, found.psf_r, *sigmas, found.flux_ratio, shape=shape)
    matched = zogy.subtract(*planes, plan, shift=found.shift)
    left = measure_leftover(
        matched.difference,
        matched.score,
        matched.sigma_flux,
        plan.psf_d,
        max(one.pair.fwhms_at(found.psf_n, found.psf_r)),
    )
    scores |= {"matched": matched.score}
    scores |= {
        "sky": matched.score - replace(left, lines=0 * left.lines).in_score(plan.psf_d, matched.sigma_flux)
    }
    scores |= {"lines": matched.score - left.in_score(plan.psf_d, matched.sigma_flux)}
    tile = subtract_tile(one.pair, one.window, new, ref, ALWAYS)
    scores |= {"error": tile.score}
    made = subtract_tiles(one.pair, one.window, new, one.template, ALWAYS)
    scores |= {"published": made.planes["score"]}
    return Steps(scores, tile.difference, tile.sigma_flux, tile.psf_d)


def judge(score: Image, good: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Width of all pixels and of the middle two thirds; peaks per Mpix; the score that 50 per Mpix exceed."""
    seen = np.where(good, score, np.float32(np.nan))
    low, high = np.nanpercentile(seen, [15.87, 84.13])
    area = np.count_nonzero(np.isfinite(seen)) / 1e6
    heights = np.sort(np.abs(find_peaks(seen, 3.0)[2]))[::-1]
    raw = np.count_nonzero(heights >= 5) / area
    return float(np.nanstd(seen)), float(high - low) / 2, raw, max(5.0, float(heights[int(50 * area)]))


def recovered(
    one: Opened, quiet: Steps, limits: dict[str, float], beside: bool, seed: int
) -> dict[str, list[float]]:
    """Whether sources of SNR 8 to 30 put in are seen above the limits; how far off they are, and must be."""
    rng = np.random.default_rng([int(beside), seed])
    stars, good = one.pair.stars, one.good
    bright = np.flatnonzero(stars.flux > np.percentile(stars.flux, 85))
    box, fwhm = one.pair.box, one.pair.fwhm_px
    half = box // 2
    places: list[tuple[float, float]] = []
    while len(places) < INJECTED:
        x, y = rng.uniform(box, one.window.shape[0] - box, 2)
        if beside:
            star, turn, reach = rng.choice(bright), rng.uniform(0, 2 * np.pi), rng.uniform(1, 2) * fwhm
            x, y = stars.x[star] + reach * np.cos(turn), stars.y[star] + reach * np.sin(turn)
        inside = min(x, y) > box and max(x, y) < one.window.shape[0] - box
        if inside and good[round(y), round(x)] and np.isfinite(quiet.difference[round(y), round(x)]):
            places.append((x, y))
    image, stamp = one.new.image.copy(), one.pair.psfs_at(*one.window.centre)[0]
    ratio = one.pair.comparison.flux_ratio
    snrs = rng.uniform(8, 30, INJECTED)
    for (x, y), snr in zip(places, snrs, strict=True):
        row, column = round(y), round(x)
        light = snr * quiet.sigma_flux[row, column] * ratio * psf.shift(stamp, x - column, y - row)[0]
        light = rng.poisson(np.maximum(light, 0))
        image[row - half : row + half + 1, column - half : column + half + 1] += light
    loud = subtract(replace(one, new=replace(one.new, image=image)))
    found: dict[str, list[float]] = {}
    for step, score in loud.scores.items():
        rows, columns, height = find_peaks(score.astype(np.float32), limits[step])
        for x, y in places:
            near = np.hypot(columns - x, rows - y) < 2.5
            found.setdefault(step, []).append(float((near & (height > 0)).any()))
    peaks = find_peaks(loud.scores["error"])
    unmasked = np.zeros(image.shape, np.uint16)
    table = measure_peaks(loud.difference, loud.scores["error"], loud.sigma_flux, loud.psf_d, unmasked, peaks)
    slope = np.gradient(loud.psf_d.astype(np.float64), axis=1)
    per_snr = float(np.sqrt(np.square(loud.psf_d).sum() / np.square(slope).sum()))
    for (x, y), snr in zip(places, snrs, strict=True):
        away = float(np.hypot(table["x"] - x, table["y"] - y).min())
        if away < 1.5:
            found.setdefault("place", []).append(away)
            # Median of a Rayleigh distribution of the least scatter per axis (Cramer-Rao, white noise).
            found.setdefault("limit", []).append(np.sqrt(2 * np.log(2)) * per_snr / snr)
    return found


def crowded_field() -> list[Result]:
    """Medians over null pairs, and where the one source that changed ranks."""
    if not (REALDATA / "saao_iband_series").is_dir():
        print(f"crowded_field: no real data at {REALDATA}; set ASTRID_REALDATA")
        return []
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Field(Path(folder)))


def _measure(field: Field) -> list[Result]:
    table: dict[str, list[tuple[float, ...]]] = {}
    seen: dict[str, list[float]] = {}
    seconds = []
    for ref, new in itertools.combinations(NULLS, 2):
        one = field.open(new, ref)
        start = time.process_time()
        subtract_tile(one.pair, one.window, one.new, one.template.planes, ALWAYS)
        seconds.append(time.process_time() - start)
        steps, good = subtract(one), one.good
        judged = {step: judge(score, good) for step, score in steps.scores.items()}
        for step, figures in judged.items():
            table.setdefault(step, []).append(figures)
        text = "; ".join(
            f"{step} {w:.2f} ({core:.2f}) {raw:.0f}" for step, (w, core, raw, _) in judged.items()
        )
        print(f"  {new} - {ref}: std (of the middle), peaks/Mpix: {text}")
        limits = {step: figures[3] for step, figures in judged.items()}
        for beside, seed in itertools.product((False, True), range(ROUNDS)):
            for step, hits in recovered(one, steps, limits, beside, seed).items():
                seen.setdefault(f"{step}_{'beside' if beside else 'anywhere'}", []).extend(hits)
    rows = []
    for step, all_figures in table.items():
        width, core, raw, _ = np.median(all_figures, axis=0)
        rows += [
            _row(f"saao_{step}_std", width, "1", "white noise", width),
            _row(f"saao_{step}_core", core, "1", "white noise", core),
            _row(f"saao_{step}_peaks", raw, "1/Mpix", "50 at most", raw / 50),
        ]
        for where in ("anywhere", "beside"):
            part = 100 * float(np.mean(seen[f"{step}_{where}"]))
            rows.append(_row(f"saao_{step}_{where}", part, "%", "SNR 8-30, at 50 peaks/Mpix", part / 100))
    for where in ("anywhere", "beside"):
        off, least = (float(np.median(seen[f"{name}_{where}"])) for name in ("place", "limit"))
        rows.append(_row(f"saao_place_{where}", off, "px", f"least possible {least:.3f} px", off / least))
    for stage, taken in (*field.seconds.items(), ("difference", float(np.median(seconds)))):
        rows.append(_row(f"saao_{stage}_seconds", taken, "s/frame", "CPU of one core", taken))
    for name in EARLIER:
        one = field.open(name, "0169")
        score = subtract(one).scores["published"]
        y, x, height = find_peaks(np.where(one.good, score, np.float32(np.nan)))
        order = np.argsort(-np.abs(height))
        away = np.hypot(x - CHANGED[0], y - CHANGED[1])[order]
        at = np.flatnonzero(away < 3)
        rank = 1.0 + int(at[0]) if at.size else float("inf")
        rows.append(_row(f"saao_changed_{name}", rank, "rank", "1, the strongest", rank))
        if at.size:
            rows.append(_row(f"saao_changed_{name}_S", float(height[order][at[0]]), "1", "S_corr", None))
    return rows


def _row(name: str, value: float, unit: str, against: str, ratio: float | None) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"crowded_field": crowded_field}
