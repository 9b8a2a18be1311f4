"""Sources in hosts: put in before the subtraction, through its filters onto the difference, or into noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.response import respond
from astrid_dist.imaging.zogy import SubtractionPlan, plan_subtraction, subtract
from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.simulation.render import MoffatPsf, convolve, paint_galaxy

Result = dict[str, Any]
Array = NDArray[Any]

SIDE, WINDOW, STEP = 1024, 63, 34
#: Pixels; electrons per pixel of the sky of epoch and reference.
FWHM, SKY = 3.0, (50.0, 25.0)
#: Registration errors that nobody corrects, pixels; pairs of each.
ERRORS, SEEDS = (0.0, 0.1, 0.2), 4
#: Total electrons of hosts; the brightest third by its logarithm is what "bright" means.
HOSTS, BRIGHT = (1e3, 1e5), 3e4
_PSF = MoffatPsf(FWHM)
_BANK = PsfBank.of_stamp(_PSF.stamp(16))


@dataclass(frozen=True)
class Tally:
    """What was measured of n sources, and of their difference without them."""

    snr: Array
    """True, own shot noise and host included."""
    score: Array
    pull: Array
    """Measured minus true flux, in stated errors."""
    host: Array
    """Total electrons."""
    false_pixels: int = 0
    """|S| > 5 where nothing was put."""


def _plan(shape: tuple[int, int]) -> SubtractionPlan:
    stamp = _PSF.stamp(15)
    return plan_subtraction(stamp, stamp, *SKY, 1.0, shape=shape)


def _pair(seed: int, error: float) -> tuple[list[Array], Array, Array, Array]:
    """Images and variances of hosts alone; rows, columns and host fluxes of sources to come."""
    rng = np.random.default_rng(seed)
    number = SIDE // STEP
    grid = np.indices((number, number)).reshape(2, -1) * STEP + STEP / 2
    y, x = grid + rng.uniform(-3, 3, grid.shape)
    flux = np.exp(rng.uniform(*np.log(HOSTS), number**2))
    radius, angle = rng.uniform(1.5, 4, number**2), rng.uniform(0, np.pi, number**2)
    planes = []
    for sky, shift in ((SKY[0], error), (SKY[1], 0.0)):
        clean = np.zeros((SIDE, SIDE))
        for at in zip(x + shift, y, flux, radius, [0.6] * len(x), angle, [1.0] * len(x), strict=True):
            paint_galaxy(clean, *at)
        clean = np.maximum(convolve(clean, _PSF), 0)
        variance = clean + sky**2
        planes += [clean + rng.normal(size=clean.shape) * np.sqrt(variance), variance]
    images = [np.asarray(planes[k], np.float32) for k in (0, 2, 1, 3)]
    row, column = (np.rint(at + rng.uniform(-2, 2, len(at))).astype(int) for at in (y, x))
    return images, row, column, flux


def _measured(seed: int, error: float, known_error: float) -> dict[str, Tally]:
    """Tallies by way; `known_error` is the astrometric noise that the subtraction is told."""
    images, row, column, host = _pair(seed, error)
    terms = {"astrometric_sigma": (known_error, known_error)}
    plan, small = _plan((SIDE, SIDE)), _plan((WINDOW, WINDOW))
    null = subtract(*images, plan, keep_scores=True, **terms)
    plain = subtract(*images, plan)
    half, n = WINDOW // 2, len(row)
    unit = np.zeros((1, WINDOW, WINDOW), np.float32)
    paint_points(unit, None, [half], [half], 1.0, _BANK, window=[0])
    shot = float(respond(small, unit, unit).variance[0, half, half])
    snr = np.exp(np.random.default_rng(seed + 999).uniform(np.log(3), np.log(150), n))
    own = snr**2 * shot
    flux = 0.5 * (own + np.sqrt(own**2 + 4 * snr**2 * plain.sigma_flux[row, column].astype(float) ** 2))
    light, noise = np.zeros((2, n, WINDOW, WINDOW), np.float32)
    paint_points(
        light, noise, np.full(n, half + error), np.full(n, half), flux, _BANK,
        key=stream(seed, "shot noise"), items=np.arange(n), window=np.arange(n),
    )  # fmt: skip
    # Every second source in each of two copies, so that none reaches another.
    full_score, full_sigma = np.empty(n), np.empty(n)
    for chosen in (np.arange(0, n, 2), np.arange(1, n, 2)):
        science, variance = images[0].copy(), images[2].copy()
        for i in chosen:
            part = (slice(row[i] - half, row[i] + half + 1), slice(column[i] - half, column[i] + half + 1))
            cut = tuple(slice(max(0, -one.start), WINDOW - max(0, one.stop - SIDE)) for one in part)
            part = tuple(slice(max(0, one.start), min(SIDE, one.stop)) for one in part)
            science[part] += light[i][cut]
            variance[part] += noise[i][cut]
        made = subtract(science, images[1], variance, images[3], plan, **terms)
        full_score[chosen] = made.score[row, column][chosen]
        full_sigma[chosen] = made.sigma_flux[row, column][chosen]
    added = respond(small, light, noise)
    S = (null.score * null.sigma_flux)[row, column] + added.science_score[:, half, half]
    sigma = np.sqrt(null.sigma_flux[row, column].astype(float) ** 2 + added.variance[:, half, half])
    rng = np.random.default_rng(seed + 5)
    empty = [np.asarray(rng.normal(size=(SIDE, SIDE)) * sky, np.float32) for sky in SKY]
    flat = [np.full((SIDE, SIDE), sky**2, np.float32) for sky in SKY]
    blank = subtract(*empty, *flat, plan)
    alone = snr * blank.sigma_flux[row, column]
    seen = (blank.score * blank.sigma_flux)[row, column] + alone
    return {
        "before": Tally(snr, full_score, (full_score * full_sigma - flux) / full_sigma, host,
                        int(np.sum(np.abs(null.score) > 5))),
        "through the filters": Tally(snr, S / sigma, (S - flux) / sigma, host),
        "into noise": Tally(snr, seen / blank.sigma_flux[row, column],
                            (seen - alone) / blank.sigma_flux[row, column], host,
                            int(np.sum(np.abs(blank.score) > 5))),
    }  # fmt: skip


def before_vs_on_difference() -> list[Result]:
    """Completeness at S > 5 of 4 < SNR < 7, scatter of pulls, false pixels: by registration error and way."""
    found = []
    for error, known in ((0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.1, 0.1), (0.2, 0.2)):
        tallies = [_measured(seed, error, known) for seed in range(SEEDS)]
        for way in tallies[0]:
            snr, score, pull, host = (
                np.concatenate([getattr(one[way], name) for one in tallies])
                for name in ("snr", "score", "pull", "host")
            )
            faint = (snr > 4) & (snr < 7)
            complete = float(np.mean(score[faint] > 5))
            false = np.mean([one[way].false_pixels for one in tallies])
            said = (
                f"±{np.sqrt(complete * (1 - complete) / faint.sum()):.3f}; pull scatter on hosts > 3e4 e-"
                f" {np.std(pull[host > BRIGHT]):.2f}, SNR > 50 {np.std(pull[snr > 50]):.2f};"
                f" |S| > 5: {false:.0f} pixels"
            )
            term = " known" if known else ""
            name = f"{error:g} px{term}, {way}"
            found.append({"name": name, "value": complete, "unit": "found", "against": said, "ratio": None})
    return found


BENCHMARKS = {"before_vs_on_difference": before_vs_on_difference}
