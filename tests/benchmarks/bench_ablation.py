"""What each ingredient of the subtraction does on real pairs: width of S_corr, false peaks, and its price.

A pair is opened as the pipeline opens it; parts of what it knows are taken away before it is subtracted.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.flags import Flag
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.masks import noise_moments
from astrid_dist.stages.blocks import shard_window
from astrid_dist.stages.pair import Pair, open_pair
from astrid_dist.stages.pairing import Comparison, Local
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.subtraction import PEAK, Result, subtract_tiles
from astrid_dist.stages.tiles import Options, Refine
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, group_names
from tests.realsky import SETS, RealSet

Row = dict[str, Any]
REALDATA = Path(
    os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
)
#: Two exposures 74 s apart: nothing in them should vary.
NULL_PAIR = RealSet("eso085", ("properimage_eso085/*.fit.gz",), "best:1")
#: Sources that are new in a set: no false peaks. x, y on its grid.
NEW = {"sfft_decam": (128.2, 127.5)}
_NEW_PX = 5
_STAR_SNR = 5.0


@dataclass(frozen=True)
class Knowledge:
    """What the subtraction is allowed to know."""

    psf_variation: bool = True
    registration: bool = True
    astrometric_noise: bool = True
    flux_ratio_noise: bool = True
    refine: Refine = "never"
    renormalise: bool = False

    def of(self, pair: Pair) -> Pair:
        """The pair without what may not be known."""
        if not self.psf_variation:
            pair = replace(pair, psfs=(_constant(pair.psfs[0]), _constant(pair.psfs[1])))
        return replace(pair, comparison=Ablated(pair.comparison, self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ablated:
    """A comparison that keeps some of what it measured to itself."""

    whole: Comparison
    knowledge: Knowledge

    def at(self, x: float, y: float, half_px: float) -> Local:
        """As `Comparison.at`."""
        local, knowledge = self.whole.at(x, y, half_px), self.knowledge
        if not knowledge.astrometric_noise:
            # What is corrected stays corrected; what is left counts for nothing.
            dx, dy = local.shift if np.isfinite([local.dx, local.dy]).all() else (0.0, 0.0)
            local = replace(local, dx=dx, dy=dy, dx_err=0.0, dy_err=0.0, scatter_x=0.0, scatter_y=0.0)
        if not knowledge.registration:
            # The scatter of stars still is known, the offset is not.
            scatter = np.nan_to_num([local.scatter_x, local.scatter_y])
            local = replace(
                local, dx=0.0, dy=0.0, dx_err=0.0, dy_err=0.0, scatter_x=scatter[0], scatter_y=scatter[1]
            )
        if not knowledge.flux_ratio_noise:
            local = replace(local, flux_ratio_err=0.0, flux_scatter=0.0)
        return local


def _constant(terms: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([terms[:1], np.zeros_like(terms[1:])])


NOTHING = Knowledge(False, False, False, False)
PLAIN = Knowledge()
#: Each line adds one ingredient to the one above it.
CUMULATIVE = {
    "constant PSF, nothing else": NOTHING,
    "+ PSF varies over the field": replace(NOTHING, psf_variation=True),
    "+ registration": replace(NOTHING, psf_variation=True, registration=True),
    "+ V_ast": replace(PLAIN, flux_ratio_noise=False),
    "+ flux-ratio variance": PLAIN,
    "+ refined PSF where in doubt": replace(PLAIN, refine="auto"),
    "+ renormalisation": replace(PLAIN, refine="auto", renormalise=True),
}
#: Each line takes one ingredient from, or puts one to, all four that every tile has.
SINGLE = {
    "all four": PLAIN,
    "without PSF variation": replace(PLAIN, psf_variation=False),
    "without registration": replace(PLAIN, registration=False),
    "without V_ast": replace(PLAIN, astrometric_noise=False),
    "without flux-ratio variance": replace(PLAIN, flux_ratio_noise=False),
    "with the PSF always refined": replace(PLAIN, refine="always"),
    "with renormalisation": replace(PLAIN, renormalise=True),
}


@dataclass(frozen=True)
class Seen:
    """What one subtraction shows."""

    quiet_std: float
    """Of S_corr on source-free pixels."""
    whole_std: float
    """On all pixels."""
    peaks: int
    """|S_corr| >= 5 that are no new source, away from the border."""
    megapixels: float
    """There."""
    star_sigma: float
    """Flux error on star pixels over that of the background alone: the price of V_ast and the like."""


def pairs(folder: Path) -> Iterator[Pair]:
    """Every epoch of a survey that is no part of its reference."""
    survey, reference = (Location.parse(str(folder / f"{name}.zarr")) for name in ("survey", "reference"))
    for group in group_names(reference):
        for index in range(ProductReader(survey, group).epochs):
            pair = open_pair(survey, reference, group, index, 3.0)
            if not pair.share:
                yield pair


def look(pair: Pair, knowledge: Knowledge, new: tuple[float, float] | None) -> Seen:
    """Subtract a pair, of a field of one shard, with some knowledge."""
    core = shard_window(0, 0, *pair.shape)
    science, template = pair.science(core), pair.template(core)
    pair = knowledge.of(pair.registered(science, template))
    made = subtract_tiles(
        pair, core, science, template, Options(0.1, knowledge.renormalise, knowledge.refine)
    )
    score = made.planes["score"]
    inner = (made.planes["mask"] & int(Flag.EDGE)) == 0
    y, x, _ = find_peaks(score, PEAK)
    y, x = y[inner[y, x]], x[inner[y, x]]
    apart = np.hypot(x - new[0], y - new[1]) if new else np.full(len(x), np.inf)
    return Seen(
        noise_moments(score, made.quiet)[1],
        float(np.nanstd(score)),
        int(np.count_nonzero(apart > _NEW_PX)),
        np.count_nonzero(np.isfinite(score) & inner) / 1e6,
        _star_sigma(made, template.planes.image, template.planes.variance),
    )


def _star_sigma(made: Result, image: NDArray[np.float32], variance: NDArray[np.float32]) -> float:
    sigma = made.planes["sigma_flux"]
    seen = np.isfinite(sigma)
    stars = seen & (image > _STAR_SNR * np.sqrt(variance))
    return float(np.median(sigma[stars]) / np.median(sigma[seen & made.quiet]))


def ablation() -> list[Row]:
    """Tables of every set, one ingredient after the other and one at a time."""
    if not REALDATA.is_dir():
        print(f"ablation: no real data at {REALDATA}; set ASTRID_REALDATA")
        return []
    rows: list[Row] = []
    for chosen in (NULL_PAIR, *SETS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_reference(chosen, REALDATA, folder)
            rows += _of_set(chosen, list(pairs(folder)))
    return rows


def make_reference(chosen: RealSet, realdata: Path, folder: Path) -> None:
    """Ingest a set and make its reference, in a folder."""
    survey, engine = str(folder / "survey.zarr"), SerialEngine()
    profile = "generic" if chosen is NULL_PAIR else "decam"
    ingest = {"paths": chosen.paths(realdata), "survey": profile, "output": survey, "field": "F"}
    run_stage("ingest", ingest, engine)
    output = str(folder / "reference.zarr")
    run_stage("reference", {"survey": survey, "output": output, "epochs": chosen.reference}, engine)


def _of_set(chosen: RealSet, opened: list[Pair]) -> list[Row]:
    rows: list[Row] = []
    for title, table in (("one after the other", CUMULATIVE), ("one at a time", SINGLE)):
        print(f"\n  {chosen.name}, {title}; {len(opened)} epochs, medians; peaks of all epochs together\n")
        print("  | knowledge | S_corr std, source-free | all pixels | peaks per Mpix | flux error on stars |")
        print("  |---|---|---|---|---|")
        for name, knowledge in table.items():
            seen = [look(pair, knowledge, NEW.get(chosen.name)) for pair in opened]
            quiet, whole, price = (
                float(np.median([getattr(one, part) for one in seen]))
                for part in ("quiet_std", "whole_std", "star_sigma")
            )
            peaks = sum(one.peaks for one in seen) / sum(one.megapixels for one in seen)
            print(f"  | {name} | {quiet:.3f} | {whole:.3f} | {peaks:.0f} | {price:.2f} |", flush=True)
            if table is CUMULATIVE:
                rows.append(_row(f"{chosen.name}: {name}", peaks, "1/Mpix", f"S_corr std {whole:.3f}", whole))
    return rows


def _row(name: str, value: float, unit: str, against: str, ratio: float) -> Row:
    return {"name": f"ablation {name}", "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {"ablation": ablation}
