"""One epoch against its reference: opened, compared by stars, subtracted tile by tile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import zogy
from astrid_dist.imaging.background import evaluate
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.masks import noise_moments, source_free
from astrid_dist.imaging.psf import evaluate as psf_at
from astrid_dist.stages.blocks import Planes, Window, field_shape, read_stars
from astrid_dist.stages.pairing import Comparison, compare
from astrid_dist.stages.selection import epoch_row
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader

#: Source-free pixels below which the noise of a tile is not judged.
ENOUGH_PIXELS = 5000
#: Green range of std(S_corr) in the quality control of BlackBOX, a ZOGY survey in production.
GREEN_STD = (0.7, 1.3)
#: Scalars of an epoch that its difference keeps.
COPIED = ("epoch_id", "source", "time", "mjd", "exptime", "fwhm")
#: Box in which the residual sky is measured, pixels: so large that its noise is small beside the score's.
SKY_BOX = 128
#: Per-tile measurements, in the order of the layout.
TILE_MAPS = (
    "sigma_n", "sigma_r", "flux_ratio", "flux_ratio_err", "F_S", "dx", "dy", "dx_err", "dy_err",
    "offset_scatter", "residual_sky", "renormalisation", "kernel_radius_px", "score_mean", "score_std",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """An epoch of a survey and the reference of its field, opened."""

    survey: ProductReader
    reference: ProductReader
    index: int
    """Of the epoch in the survey."""
    row: Mapping[str, Any]
    """Scalars of the epoch."""
    shape: tuple[int, int]
    """Height and width of the field, pixels."""
    comparison: Comparison
    share: float
    """Weight of the epoch in its own reference; 0 where it is no part of it."""
    psfs: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Terms of the epoch's and the reference's PSF."""

    @property
    def box(self) -> int:
        """Side of the PSF stamps, pixels."""
        return int(self.psfs[0].shape[-1])

    @property
    def halo(self) -> int:
        """What a tile needs around it, pixels."""
        return zogy.halo_px(self.box)

    def psfs_at(self, x: float, y: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """PSFs of epoch and reference at a place."""
        science, reference = (
            psf_at(terms, int(reader.attributes["psf_order"]), x, y, self.shape)
            for terms, reader in zip(self.psfs, (self.survey, self.reference), strict=True)
        )
        return science, reference

    def scalars(self, score_std: NDArray[np.float32]) -> dict[str, Any]:
        """What the difference keeps of the epoch, with a verdict on the subtraction."""
        verdict, reason = self.comparison.verdict, self.comparison.reason
        if self.share:
            verdict = "in reference" if verdict == "good" else verdict
            part = f"it is {100 * self.share:.0f} % of its own reference: what it shares with it is damped"
            reason = "; ".join(one for one in (reason, part) if one)
        std = float(np.nanmedian(score_std)) if np.isfinite(score_std).any() else float("nan")
        if verdict == "good" and np.isfinite(std) and not GREEN_STD[0] <= std <= GREEN_STD[1]:
            verdict = "noise off"
            reason = f"S_corr has std {std:.2f} on source-free pixels before renormalisation"
        return {
            **{name: self.row[name] for name in COPIED},
            "survey_epoch": self.index,
            "zeropoint": self.reference.attributes["reference"]["zeropoint"],
            "n_matched": self.comparison.n_matched,
            "verdict": verdict,
            "reason": reason,
            "valid": True,
        }


def scalars_set_aside(survey: Location, group: str, index: int, reason: str) -> dict[str, Any]:
    """What a difference keeps of an epoch that could not be subtracted."""
    row = epoch_row(ProductReader(survey, group), index)
    kept = {name: row[name] for name in COPIED}
    return {**kept, "survey_epoch": index, "verdict": "quarantined", "reason": reason, "valid": False}


def open_pair(survey: Location, reference: Location, group: str, index: int, match_radius_px: float) -> Pair:
    """Open an epoch and the reference of its field, and compare their stars.

    Raises
    ------
    InputError
        There is no flux scale between them, or a stored PSF holds NaN.
    """
    science, template = ProductReader(survey, group), ProductReader(reference, group)
    row = epoch_row(science, index)
    made = template.attributes["reference"]
    where = f"{group} epoch {row['source']}"
    psfs = science.read("psf", epoch=index), template.read("psf")
    if not all(np.isfinite(terms).all() for terms in psfs):
        raise InputError(f"{where}: the stored PSF holds NaN; ingest the epoch again into a new survey")
    known = made["zeropoint"] if made["zeropoint"] is not None else np.nan
    comparison = compare(
        read_stars(science, row["fwhm"], epoch=index),
        read_stars(template, made["fwhm"]),
        (float(row["zeropoint"]), float(known)),
        match_radius_px,
        where,
    )
    share = dict(zip(made["epoch_ids"], made["weights"], strict=True)).get(row["epoch_id"], 0.0)
    shape = field_shape(science, "image")
    return Pair(science, template, index, row, shape, comparison, float(share), psfs)


@dataclass(frozen=True)
class Result:
    """What the subtraction of a window leaves, tile by tile."""

    planes: dict[str, NDArray[Any]]
    """difference, score, sigma_flux and mask, (y, x)."""
    maps: dict[str, NDArray[np.float32]]
    """`TILE_MAPS`, (tile_y, tile_x)."""
    psf_d: NDArray[np.float32]
    """(tile_y, tile_x, v, u)."""
    peaks: NDArray[np.int32]
    """Peaks of |S_corr| of 5 and more, (tile_y, tile_x); -1 where there is no data."""


def subtract_tiles(
    pair: Pair,
    core: Window,
    outer: Window,
    science: Planes,
    template: Planes,
    astrometric_sigma_px: float,
    renormalise: bool,
) -> Result:
    """Subtract one shard, given the planes of the shard and its halo.

    Parameters
    ----------
    pair : Pair
        Epoch and reference.
    core, outer : Window
        The shard, and the shard with its halo, which the planes cover.
    science, template : Planes
        Of epoch and reference.
    astrometric_sigma_px : float
        Misregistration per axis assumed where stars are too few to measure it.
    renormalise : bool
        Divide S_corr of a tile by its source-free standard deviation. In an epoch that is part of its own
        reference the common noise cancels; there a deviation below 1 is left, lest it sharpen detections.
    """
    shape = core.shape
    names = ("difference", "score", "sigma_flux")
    planes: dict[str, NDArray[Any]] = {name: np.full(shape, np.nan, np.float32) for name in names}
    planes["mask"] = (science.mask | template.mask)[core.within(outer)]
    grid = (-(-shape[0] // TILE), -(-shape[1] // TILE))
    made = Result(
        planes,
        {name: np.full(grid, np.nan, np.float32) for name in TILE_MAPS},
        np.full((*grid, pair.box, pair.box), np.nan, np.float32),
        np.full(grid, -1, np.int32),
    )
    quiet = np.zeros(shape, bool)
    fwhm = max(float(pair.row["fwhm"]), 2.0)
    tiles = [
        ((row - core.y0 // TILE, column - core.x0 // TILE), tile) for row, column, tile in core.tiles(TILE)
    ]
    for at, tile in tiles:
        window = tile.widened(pair.halo, *pair.shape)
        new, ref = science.cut(window.within(outer)), template.cut(window.within(outer))
        if np.isfinite(new.image).any() and np.isfinite(ref.image).any():
            _subtract_tile(pair, made, at, tile, window, core, new, ref, astrometric_sigma_px)
            free = source_free(new.image, new.sigma, fwhm) & source_free(ref.image, ref.sigma, fwhm)
            quiet[tile.within(core)] = free[tile.within(window)]
    sky = _residual_sky(planes["difference"], quiet)
    planes["difference"] -= sky
    for at, tile in tiles:
        _normalise_tile(made, at, tile.within(core), sky, quiet, renormalise, pair.share > 0)
    planes["mask"] |= np.where(np.isfinite(planes["score"]), 0, int(Flag.NO_DATA)).astype(np.uint16)
    if np.isfinite(made.maps["kernel_radius_px"]).any():
        border = _border(core, pair.shape, float(np.nanmax(made.maps["kernel_radius_px"])))
        planes["mask"] |= np.where(border, int(Flag.EDGE), 0).astype(np.uint16)
    return made


def _subtract_tile(
    pair: Pair,
    made: Result,
    at: tuple[int, int],
    tile: Window,
    window: Window,
    core: Window,
    new: Planes,
    ref: Planes,
    astrometric_sigma_px: float,
) -> None:
    """ZOGY of one tile, into the result."""
    compared = pair.comparison
    psf_n, psf_r = pair.psfs_at(*tile.centre)
    filters = zogy.plan_subtraction(
        psf_n, psf_r, new.sigma, ref.sigma, compared.flux_ratio, shape=window.shape
    )
    result = zogy.subtract(
        new.image,
        ref.image,
        new.variance,
        ref.variance,
        filters,
        shift=compared.shift,
        astrometric_sigma=compared.astrometric_sigma(astrometric_sigma_px),
        flux_ratio_err=compared.flux_sigma,
    )
    crop, place = tile.within(window), tile.within(core)
    for name in ("difference", "score", "sigma_flux"):
        made.planes[name][place] = getattr(result, name)[crop]
    made.psf_d[at] = result.psf_d
    measured = {
        "sigma_n": new.sigma,
        "sigma_r": ref.sigma,
        "flux_ratio": compared.flux_ratio,
        "flux_ratio_err": compared.flux_ratio_err,
        "F_S": result.F_S,
        "dx": compared.dx,
        "dy": compared.dy,
        "dx_err": compared.dx_err,
        "dy_err": compared.dy_err,
        "offset_scatter": compared.scatter,
        "kernel_radius_px": result.kernel_radius_px,
    }
    for name, value in measured.items():
        made.maps[name][at] = value


def _residual_sky(difference: NDArray[np.float32], quiet: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What the two skies leave in a difference, smooth over `SKY_BOX` pixels; zero where it cannot be told.

    The clipped mean of source-free pixels, box by box: D is white, so every pixel counts the same.
    """
    height, width = difference.shape
    mesh = np.full((-(-height // SKY_BOX), -(-width // SKY_BOX)), np.nan, np.float32)
    for row, column in np.ndindex(*mesh.shape):
        box = (
            slice(row * SKY_BOX, (row + 1) * SKY_BOX),
            slice(column * SKY_BOX, (column + 1) * SKY_BOX),
        )
        mean, _, count = noise_moments(difference[box], quiet[box])
        if count >= ENOUGH_PIXELS // 5:
            mesh[row, column] = mean
    if not np.isfinite(mesh).any():
        return np.zeros_like(difference)
    mesh[~np.isfinite(mesh)] = np.nanmedian(mesh)
    return evaluate(mesh, SKY_BOX, 0, 0, height, width)


def _normalise_tile(
    made: Result,
    at: tuple[int, int],
    place: tuple[slice, slice],
    sky: NDArray[np.float32],
    quiet: NDArray[np.bool_],
    renormalise: bool,
    shares_noise: bool,
) -> None:
    """Take the residual sky out of a tile's score, judge its noise, renormalise, count its peaks."""
    if not np.isfinite(made.psf_d[at]).all():
        return
    score, sigma_flux = made.planes["score"][place], made.planes["sigma_flux"][place]
    # A level b of D / F_D is a PSF flux of b / sum(P_D^2): S = F_D^2 b and F_S = F_D^2 sum(P_D^2).
    score -= sky[place] / np.float32(np.square(made.psf_d[at]).sum()) / sigma_flux
    mean, std, n_quiet = noise_moments(score, quiet[place])
    factor = std if renormalise and n_quiet >= ENOUGH_PIXELS and std > 0 else 1.0
    if shares_noise:
        factor = max(factor, 1.0)
    score /= np.float32(factor)
    sigma_flux *= np.float32(factor)
    made.peaks[at] = len(find_peaks(score)[0])
    measured = {"residual_sky": float(np.median(sky[place])), "renormalisation": factor}
    for name, value in {**measured, "score_mean": mean, "score_std": std}.items():
        made.maps[name][at] = value


def _border(core: Window, shape: tuple[int, int], radius_px: float) -> NDArray[np.bool_]:
    """Pixels nearer to the field's border than the kernel reaches: part of a source there is missing."""
    y, x = np.arange(core.y0, core.y1), np.arange(core.x0, core.x1)
    rows = np.minimum(y, shape[0] - 1 - y) < radius_px
    columns = np.minimum(x, shape[1] - 1 - x) < radius_px
    return np.asarray(rows[:, None] | columns[None, :])
