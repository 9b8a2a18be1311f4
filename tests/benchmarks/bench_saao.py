"""A crowded real field, pair by pair: what each step of the subtraction does to the width of S_corr, to false
peaks, and to faint sources put in beside bright stars."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging import background, leftover, matching, psf, psf_fit, registration, zogy
from astrid_dist.imaging.alignment import align_stars
from astrid_dist.imaging.detection import find_peaks, measure_peaks
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.resampling import Grid, to_grid
from astrid_dist.imaging.stars import StarList, estimate_fwhm, measure_stars

Result = dict[str, Any]
Image = NDArray[Any]
REALDATA = Path(
    os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
)
GAIN, READ_NOISE, FULL = 1.9, 5.0, 60_000
BOX, MESH, NEAR_PX, BORDER_PX = 41, 64, 18, 22
GRID, NULLS, EARLIER = "0172", ("0169", "0171", "0172", "0173"), ("0001", "0008")
CHANGED = 272, 225  # where a source faded by a factor of two between 2013-06 and 2013-08, pixels of the grid
INJECTED, ROUNDS = 10, 3  # so few at a time that they change no measurement of the field


@dataclass(frozen=True)
class Epoch:
    """A frame on the grid, sky-subtracted, NaN where unusable, with its stars and the PSF of its middle."""

    image: Image
    variance: Image
    sigma: float
    fwhm_px: float
    stars: StarList
    psf: Image

    @classmethod
    def measured(cls, image: Image, variance: Image, mask: NDArray[np.uint16]) -> "Epoch":
        """Sky, stars and PSF."""
        mesh, _ = background.measure_background(image, mask, MESH)
        sky = background.evaluate(mesh, MESH, 0, 0, *image.shape)
        signal = image - sky
        fwhm = estimate_fwhm(signal, variance, mask, 4.0)
        stars = measure_stars(signal, variance, mask, fwhm)
        model = psf_fit.measure_psf(signal, variance, mask, stars, BOX, fwhm, order=2)
        stars = fit_star_fluxes(signal, variance, mask, model.terms, stars, order=2)
        bad = (mask & int(UNUSABLE)) != 0
        usable, spread = (np.where(bad, np.float32(np.nan), plane) for plane in (signal, variance))
        sigma = float(np.sqrt(np.median(sky[~bad]) + READ_NOISE**2))
        middle = psf.evaluate(model.terms, 2, image.shape[1] / 2, image.shape[0] / 2, image.shape)
        return cls(usable, spread, sigma, model.fwhm_px, stars, middle)


def read(name: str, grid: Epoch | None, *, trails: bool = False) -> Epoch:
    """A raw frame, on the grid of another. Rows in which a saturated star bleeds are no data, or kept."""
    path = REALDATA / "saao_iband_series" / "images" / f"AKB13475I{name}.fits.gz"
    counts = fits.getdata(path).astype(np.float32)
    full = counts >= FULL
    mask = np.where(ndimage.binary_dilation(full), int(Flag.SATURATED), 0).astype(np.uint16)
    labels, _ = ndimage.label(ndimage.binary_opening(full, np.ones((3, 3))))
    for star, (rows, _) in enumerate(ndimage.find_objects(labels), start=1):
        if np.count_nonzero(labels == star) >= 20 and not trails:
            mask[max(rows.start - 2, 0) : rows.stop + 2] |= int(Flag.BLEED)
    level = np.median(counts, axis=1)
    odd = np.abs(level - ndimage.median_filter(level, 15))
    if not trails:
        mask[ndimage.binary_dilation(odd > 9 * np.median(odd))] |= int(Flag.BLEED)
    image = counts * np.float32(GAIN)
    variance = np.maximum(ndimage.uniform_filter(image, 3), 1) + np.float32(READ_NOISE**2)
    epoch = Epoch.measured(image, variance, mask)
    # Sharper than the PSF can be: a cosmic ray.
    middle = BOX // 2
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    beside = float(np.median(epoch.psf[middle - 1 : middle + 2, middle - 1 : middle + 2][ring]))
    around = ndimage.median_filter(image, footprint=ring)
    floor = np.maximum(around - np.nanmedian(image), 0) * (epoch.psf.max() / beside - 1)
    sharp = (image - around > 6 * np.sqrt(variance)) & (image - around > 2.5 * floor)
    mask[ndimage.binary_dilation(sharp, np.ones((3, 3)))] |= int(Flag.COSMIC_RAY)
    if grid is not None:
        place = align_stars(clean(epoch.stars), clean(grid.stars), image.shape).map
        image, variance, mask = to_grid(image, variance, mask, place, Grid("", *image.shape))
    return Epoch.measured(image, variance, mask)


def clean(stars: StarList) -> StarList:
    """Those that nothing is wrong with."""
    columns = ("x", "y", "flux", "flux_err", "flags")
    return replace(stars, **{name: getattr(stars, name)[stars.flags == 0] for name in columns})


@dataclass(frozen=True)
class Steps:
    """Scores after each step, and the last subtraction with its sky taken out."""

    scores: dict[str, Image]
    result: zogy.Subtraction
    ratio: float
    seconds: float


def subtract(new: Epoch, ref: Epoch) -> Steps:
    """Plain; with the PSF matched; the sky that is left taken out; the model's error in the variance."""
    ia, ib = registration.match_stars(new.stars, ref.stars, 1.5)
    offset = registration.measure_offset(new.stars, ref.stars, ia, ib)
    ratio = registration.measure_flux_ratio(new.stars, ref.stars, ia, ib).ratio
    planes = new.image, ref.image, new.variance, ref.variance
    sigmas, shape = (new.sigma, ref.sigma), new.image.shape
    start = time.perf_counter()
    given = zogy.plan_subtraction(new.psf, ref.psf, *sigmas, ratio, shape=shape)
    found = matching.match_psf(*planes, new.psf, ref.psf, given, shift=(offset.dx, offset.dy))
    plan = zogy.plan_subtraction(found.psf_n, found.psf_r, *sigmas, found.flux_ratio, shape=shape)
    matched = zogy.subtract(*planes, plan, shift=found.shift)
    per_score = matched.sigma_flux * np.square(plan.psf_d).sum()
    fwhm = max(new.fwhm_px, ref.fwhm_px)
    sky = leftover.sky_left(matched.difference, matched.score, per_score, fwhm)
    level = matched.score - sky / per_score
    error = matching.model_error(level, matched.sigma_flux, ref.image, plan) * plan.flux_ratio
    told = zogy.subtract(*planes, plan, shift=found.shift, flux_ratio_err=error)
    score = told.score - sky / (told.sigma_flux * np.square(plan.psf_d).sum())
    seconds = time.perf_counter() - start
    plain = zogy.subtract(*planes, given, shift=(offset.dx, offset.dy))
    scores = {"plain": plain.score, "matched": matched.score, "sky": level, "error": score}
    return Steps(
        scores, replace(told, difference=told.difference - sky, score=score), found.flux_ratio, seconds
    )


def outside(new: Epoch, ref: Epoch) -> NDArray[np.bool_]:
    """Pixels away from saturated stars and the borders of both frames."""
    bad = ~(np.isfinite(new.image) & np.isfinite(ref.image))
    good = ~ndimage.binary_dilation(bad, iterations=NEAR_PX)
    inner = np.zeros_like(good)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    return np.asarray(good & inner)


def judge(score: Image, good: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Width of all pixels; peaks per Mpix raw and renormalised; the score that 50 peaks per Mpix exceed."""
    seen = np.where(good, score, np.float32(np.nan))
    width, area = float(np.nanstd(seen)), np.count_nonzero(np.isfinite(seen)) / 1e6
    heights = np.sort(np.abs(find_peaks(seen, 3.0)[2]))[::-1]
    raw, divided = (float(np.count_nonzero(heights >= 5 * by)) / area for by in (1.0, width))
    return width, raw, divided, max(5.0, float(heights[int(50 * area)]))


def recovered(
    new: Epoch, ref: Epoch, quiet: Steps, limits: dict[str, float], beside: bool, seed: int
) -> dict[str, list[float]]:
    """Whether sources of SNR 8 to 30 put in are seen above the limits, and how far off their places are."""
    rng = np.random.default_rng([int(beside), seed])
    bright = ref.stars.flux > np.percentile(ref.stars.flux, 85)
    places: list[tuple[float, float]] = []
    while len(places) < INJECTED:
        x, y = rng.uniform(2 * BORDER_PX, new.image.shape[0] - 2 * BORDER_PX, 2)
        if beside:
            star, turn = rng.choice(np.flatnonzero(bright)), rng.uniform(0, 2 * np.pi)
            reach = rng.uniform(1, 2) * ref.fwhm_px
            x, y = ref.stars.x[star] + reach * np.cos(turn), ref.stars.y[star] + reach * np.sin(turn)
        row, column = round(y), round(x)
        window = quiet.result.score[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        if min(window.shape) == 9 and np.isfinite(window).all() and min(x, y) > BOX and max(x, y) < 470:
            places.append((x, y))
    image, half = new.image.copy(), BOX // 2
    for x, y in places:
        row, column = round(y), round(x)
        flux = rng.uniform(8, 30) * quiet.result.sigma_flux[row, column] * quiet.ratio
        light = flux * psf.shift(new.psf, x - column, y - row)[0]
        image[row - half : row + half + 1, column - half : column + half + 1] += rng.poisson(
            np.maximum(light, 0)
        )
    loud = subtract(replace(new, image=image), ref)
    found: dict[str, list[float]] = {}
    for step, score in loud.scores.items():
        rows, columns, height = find_peaks(score.astype(np.float32), limits[step])
        for x, y in places:
            near = np.hypot(columns - x, rows - y) < 2.5
            found.setdefault(step, []).append(float((near & (height > 0)).any()))
    last = loud.result
    unmasked = np.zeros(image.shape, np.uint16)
    peaks = find_peaks(last.score)
    table = measure_peaks(last.difference, last.score, last.sigma_flux, last.psf_d, unmasked, peaks)
    away = [float(np.hypot(table["x"] - x, table["y"] - y).min()) for x, y in places]
    found["place"] = [one for one in away if one < 1.5]
    return found


def crowded_field() -> list[Result]:
    """Medians over null pairs, and where the one source that changed ranks."""
    if not (REALDATA / "saao_iband_series").is_dir():
        print(f"crowded_field: no real data at {REALDATA}; set ASTRID_REALDATA")
        return []
    grid = read(GRID, None)
    epochs = {name: grid if name == GRID else read(name, grid) for name in NULLS}
    table: dict[str, list[tuple[float, ...]]] = {}
    seen: dict[str, list[float]] = {}
    seconds = []
    for late, early in itertools.combinations(NULLS, 2):
        new, ref = epochs[early], epochs[late]
        steps, good = subtract(new, ref), outside(new, ref)
        seconds.append(steps.seconds)
        judged = {step: judge(score, good) for step, score in steps.scores.items()}
        for step, one in judged.items():
            table.setdefault(step, []).append(one)
        text = "; ".join(f"{step} {w:.2f} {raw:.0f} ({div:.0f})" for step, (w, raw, div, _) in judged.items())
        print(f"  {early} - {late}: std, peaks/Mpix (renormalised): {text}")
        limits = {step: one[3] for step, one in judged.items()}
        for beside, seed in itertools.product((False, True), range(ROUNDS)):
            for step, hits in recovered(new, ref, steps, limits, beside, seed).items():
                seen.setdefault(f"{step}_{'beside' if beside else 'anywhere'}", []).extend(hits)
    rows = []
    for step, figures in table.items():
        width, raw, divided, _ = np.median(figures, axis=0)
        rows += [
            _row(f"saao_{step}_std", width, "1", "white noise", width),
            _row(f"saao_{step}_peaks", raw, "1/Mpix", "50 at most", raw / 50),
            _row(f"saao_{step}_renormalised", divided, "1/Mpix", "50 at most", divided / 50),
        ]
        for where in ("anywhere", "beside"):
            part = 100 * float(np.mean(seen[f"{step}_{where}"]))
            rows.append(_row(f"saao_{step}_{where}", part, "%", "SNR 8-30, at 50 peaks/Mpix", part / 100))
    off = float(np.median(seen["place_anywhere"]))
    rows.append(_row("saao_place", off, "px", "0.1 px", off / 0.1))
    rows.append(_row("saao_seconds", float(np.median(seconds)), "s/frame", "1 s", float(np.median(seconds))))
    # The one source that changed lies in such a row.
    ref = read("0169", grid, trails=True)
    for name in EARLIER:
        new = read(name, grid, trails=True)
        score = subtract(new, ref).result.score[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
        y, x, height = find_peaks(score)
        order = np.argsort(-np.abs(height))
        away = np.hypot(x + BORDER_PX - CHANGED[0], y + BORDER_PX - CHANGED[1])[order]
        rank = 1.0 + int(np.flatnonzero(away < 3)[0]) if (away < 3).any() else float("inf")
        rows.append(_row(f"saao_changed_{name}", rank, "rank", "1, the strongest", rank))
    return rows


def _row(name: str, value: float, unit: str, against: str, ratio: float) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"crowded_field": crowded_field}
