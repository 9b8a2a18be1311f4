"""Detections of a difference: peaks of the score, what is measured of them, seams between tiles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import features
from astrid_dist.imaging.measure import (
    Columns,
    Fit,
    PointSource,
    noise_ratio,
    pixel_variance,
    reduced_chi2,
    windows,
)
from astrid_dist.imaging.separation import BLOCK, Peaks, Sources, separate_peaks
from astrid_dist.imaging.streaks import BEAD_FWHM, Streak, streak_flux
from astrid_dist.imaging.trails import collapse_trails

#: Radius in pixels within which mask bits count as touching a detection.
MASK_RADIUS_PX = 2
#: What is said of trails.
STREAK_COLUMNS = ("streak_length", "streak_angle", "streak_flux")
_SEPARATION_PX = 2


def find_peaks(score: NDArray[np.float32], threshold: float = 5.0) -> Peaks:
    """Local extremes of a score image that reach the threshold, of both signs.

    A peak is the largest of its sign within 5×5 pixels; of equal neighbours the first in raster order stays.

    Parameters
    ----------
    score : (y, x) float32
        Signed S_corr; NaN is never a peak.
    threshold : float
        Least absolute score.

    Returns
    -------
    y, x : (n,) int64
    score : (n,) float32
        In raster order.
    """
    found = []
    width = score.shape[1]
    border = np.pad(score, _SEPARATION_PX, constant_values=np.nan)
    stride = border.shape[1]
    flat = border.reshape(-1)
    for sign in (1, -1):
        index = np.flatnonzero(score * sign >= threshold)
        rows, columns = np.divmod(index, width)
        places = (rows + _SEPARATION_PX) * stride + columns + _SEPARATION_PX
        for dy in range(-_SEPARATION_PX, _SEPARATION_PX + 1):
            for dx in range(-_SEPARATION_PX, _SEPARATION_PX + 1):
                if dy == dx == 0:
                    continue
                own, other = flat[places] * sign, flat[places + dy * stride + dx] * sign
                first = (dy, dx) < (0, 0)
                places = places[~(other >= own)] if first else places[~(other > own)]
        found.append(places)
    places = np.sort(np.concatenate(found))
    rows, columns = np.divmod(places, stride)
    return rows - _SEPARATION_PX, columns - _SEPARATION_PX, flat[places]


def detect(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    mask: NDArray[np.uint16],
    peaks: Peaks,
    streaks: Sequence[Streak] = (),
    threshold: float = 5.0,
) -> tuple[Peaks, Columns]:
    """Sources of a tile: side lobes dropped, blends separated, trails and streaks made one, all measured.

    Parameters
    ----------
    difference, score, sigma_flux, psf_d, mask
        As for `measure_peaks`.
    peaks : tuple
        As `find_peaks` returns them, without the beads of streaks (`streaks.beads`).
    streaks : sequence of Streak
        Long trails, in the pixels of these images.
    threshold : float
        Least absolute score.

    Returns
    -------
    peaks : tuple
        Pixel and score of each source.
    columns : dict of (n,) arrays
        As `measure_peaks`, and streak_length (pixels), streak_angle (degrees from +x to +y) and streak_flux
        (electrons of the reference), NaN where there is no trail. Sources on a streak are flagged TRAIL, one
        of them lies in its middle; a short trail has its own middle and `dchi2_hit`, and no flag.
    """
    fwhm = PointSource(psf_d).fwhm
    given = _places(peaks)
    images = difference, score, sigma_flux, psf_d
    peaks = separate_peaks(*images, peaks, threshold)
    on = np.full(len(peaks[0]), -1)
    for index, streak in enumerate(streaks):
        on[streak.distance(peaks[0], peaks[1]) <= BEAD_FWHM * fwhm] = index
    # What is left beside a streak's peak is the rest of the streak, no hidden source.
    known = set(given)
    kept = (on < 0) | np.array([place in known for place in _places(peaks)], dtype=bool)
    peaks, on = _chosen(peaks, kept), on[kept]
    free, trails = collapse_trails(*images, _chosen(peaks, on < 0), threshold)
    alone = set(_places(free))
    kept = (on >= 0) | np.array([place in alone for place in _places(peaks)], dtype=bool)
    peaks, on = _chosen(peaks, kept), on[kept]
    columns = measure_peaks(*images, mask, peaks)
    columns |= {name: np.full(len(on), np.nan, np.float32) for name in STREAK_COLUMNS}
    for row, place in enumerate(_places(peaks)):
        if place in trails:
            trail = trails[place]
            _set_streak(columns, row, trail, trail.flux, middle=True)
            columns["dchi2_hit"][row] = trail.dchi2_hit
    for index, streak in enumerate(streaks):
        rows = np.flatnonzero((on == index) & (np.sign(peaks[2]) == streak.sign))
        if len(rows):
            gaps = np.hypot(columns["y"][rows] - streak.y, columns["x"][rows] - streak.x)
            flux = streak_flux(difference, streak, fwhm)
            middle = int(rows[gaps.argmin()])
            for one in rows.tolist():
                _set_streak(columns, one, streak, flux, middle=one == middle)
    columns["mask"][on >= 0] |= int(Flag.TRAIL)
    return peaks, columns


def _places(peaks: Peaks) -> list[tuple[int, int]]:
    return list(zip(peaks[0].tolist(), peaks[1].tolist(), strict=True))


def _chosen(peaks: Peaks, rows: NDArray[np.bool_]) -> Peaks:
    return peaks[0][rows], peaks[1][rows], peaks[2][rows]


def _set_streak(columns: Columns, row: int, streak: Streak, flux: float, middle: bool) -> None:
    values = (streak.length, np.rad2deg(streak.angle), flux)
    for name, value in zip(STREAK_COLUMNS, values, strict=True):
        columns[name][row] = value
    if middle:
        columns["y"][row], columns["x"][row] = streak.y, streak.x


def measure_peaks(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    mask: NDArray[np.uint16],
    peaks: Peaks,
) -> Columns:
    """Positions, fluxes, shapes and other features of peaks, by least squares of P_D on the difference.

    D is white, so the fit is unweighted; neighbours of the same sign are fitted together and taken away.

    Parameters
    ----------
    difference, score, sigma_flux : (y, x) float32
        Of a `Subtraction`; NaN is no data.
    psf_d : (v, u) float32
        PSF of the difference, centred on its middle pixel.
    mask : (y, x) uint16
        Bits of `astrid_dist.flags`.
    peaks : tuple
        As `find_peaks` or `separate_peaks` return them.

    Returns
    -------
    dict of (n,) arrays
        x, y float64 and x_err, y_err float32 in pixels; flux, flux_err float32 in electrons of the reference;
        snr float32, the signed score of the peak; chi2 float32 per degree of freedom; mask uint16, bits
        within 2 px; and the features of `astrid_dist.imaging.features`.

    Raises
    ------
    InputError
        Images of different shapes.
    """
    shape = difference.shape
    if not shape == score.shape == sigma_flux.shape == mask.shape:
        raise InputError(
            f"detection: difference {shape}, score {score.shape}, sigma_flux {sigma_flux.shape} and "
            f"mask {mask.shape} must share one shape"
        )
    model = PointSource(psf_d)
    sources = Sources(difference, score, model, peaks)
    ratio = noise_ratio(difference, score, sigma_flux, model)
    parts = [
        _measure(sources, slice(i, i + BLOCK), sigma_flux, mask, ratio)
        for i in range(0, max(len(peaks[0]), 1), BLOCK)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    others = features.opposites(columns["y"], columns["x"], columns["snr"])
    columns |= {name: values.astype(np.float32) for name, values in others.items()}
    return columns


def merge(columns: Mapping[str, NDArray[Any]], radius_px: float = 1.5) -> Columns:
    """One row per source where tiles that overlap saw it twice; the same whatever the order of rows.

    Rows of one sign within the radius are one source; the one of highest absolute snr stays.

    Parameters
    ----------
    columns : mapping of (n,) arrays
        With x, y (pixels of one common frame, one epoch) and snr.
    radius_px : float
        Rows farther apart are different sources.

    Returns
    -------
    dict of arrays
        The rows that stay, sorted by y, then x.
    """
    rows = {name: np.asarray(values) for name, values in columns.items()}
    if not len(rows["x"]):
        return rows
    x, y, snr = rows["x"], rows["y"], rows["snr"]
    # Every column takes part, so that rows equal in place and strength are still ordered by content.
    others = [rows[name] for name in sorted(rows, reverse=True) if name not in ("x", "y", "snr")]
    order = np.lexsort([*others, x, y, -np.abs(snr)])
    places = np.column_stack([x, y])
    near = cKDTree(places).query_ball_point(places, radius_px)
    dropped = np.zeros(len(order), dtype=bool)
    kept = []
    for row in order:
        if dropped[row]:
            continue
        kept.append(row)
        same = np.asarray(near[row])
        dropped[same[np.signbit(snr[same]) == np.signbit(snr[row])]] = True
    chosen = np.asarray(kept)
    chosen = chosen[np.lexsort([snr[chosen], x[chosen], y[chosen]])]
    return {name: values[chosen] for name, values in rows.items()}


def _measure(
    sources: Sources, part: slice, sigma_flux: NDArray[np.float32], mask: NDArray[np.uint16], ratio: float
) -> Columns:
    """All columns of some sources."""
    model = sources.model
    rows, columns, snr = sources.rows[part], sources.columns[part], sources.snr[part]
    data, usable = sources.data(part)
    sign = np.sign(snr).astype(np.float64)
    found = sources.fitted(part, data, usable)
    data *= sign[:, None, None]
    found = Fit(found.offset, found.flux * sign, found.psf, found.slopes, found.energy)
    variance, sky = pixel_variance(sigma_flux, rows, columns, found, model, ratio)
    flux, noise = found.flux, np.sqrt(sky)
    with np.errstate(divide="ignore", invalid="ignore"):
        y_err, x_err = (
            np.sqrt(np.sum(slope**2 * variance, axis=(1, 2))) / (np.abs(flux) * np.sum(slope**2, axis=(1, 2)))
            for slope in found.slopes
        )
        # Lost pixels of the window cost signal.
        flux_err = sigma_flux[rows, columns] * np.sqrt(np.maximum(1.0, model.norm / found.energy))
        ssnrms = flux * np.sqrt(found.energy) / noise
    shape = features.shapes(data, usable, variance, found, model)
    shape["aperture_flux"] = shape["aperture_flux"] * sign
    bits = windows(mask, rows, columns, MASK_RADIUS_PX, 0)
    near = np.arange(-MASK_RADIUS_PX, MASK_RADIUS_PX + 1)
    disk = near[:, None] ** 2 + near**2 <= MASK_RADIUS_PX**2
    single = {
        "x_err": x_err,
        "y_err": y_err,
        "flux": flux * sign,
        "flux_err": flux_err,
        "snr": snr,
        "chi2": reduced_chi2(data, usable, variance, found),
        "ssnrms": ssnrms,
        **shape,
        **features.dipoles(data, usable, variance, found, model),
        "translient": features.motion(data, sky, model),
        "bad_distance": features.bad_distance(mask, rows, columns),
    }
    pixel_counts = features.counts(data, usable, noise)
    single["sumrat"], single["dsnrms"] = pixel_counts.pop("sumrat"), pixel_counts.pop("dsnrms")
    return {
        "x": columns + found.offset[1],
        "y": rows + found.offset[0],
        **{name: values.astype(np.float32) for name, values in single.items()},
        **pixel_counts,
        "mask": np.bitwise_or.reduce(bits[:, disk], axis=1).astype(np.uint16),
    }
