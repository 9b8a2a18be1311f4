"""One epoch against its reference: opened, compared by stars, subtracted tile by tile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import zogy
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.masks import noise_moments, source_free
from astrid_dist.imaging.psf import evaluate
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
#: Per-tile measurements, in the order of the layout.
TILE_MAPS = (
    "sigma_n", "sigma_r", "flux_ratio", "flux_ratio_err", "F_S", "dx", "dy", "dx_err", "dy_err",
    "offset_scatter", "renormalisation", "kernel_radius_px", "score_mean", "score_std",
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
            evaluate(terms, int(reader.attributes["psf_order"]), x, y, self.shape)
            for terms, reader in zip(self.psfs, (self.survey, self.reference), strict=True)
        )
        return science, reference

    def scalars(self, score_std: NDArray[np.float32]) -> dict[str, Any]:
        """What the difference keeps of the epoch, with a verdict on the subtraction."""
        verdict, reason = self.comparison.verdict, self.comparison.reason
        if self.share and verdict == "good":
            verdict = "in reference"
            reason = f"it is {100 * self.share:.0f} % of its own reference: what it shares with it is damped"
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
    maps = {name: np.full(grid, np.nan, np.float32) for name in TILE_MAPS}
    psf_d = np.full((*grid, pair.box, pair.box), np.nan, np.float32)
    peaks = np.full(grid, -1, np.int32)
    compared = pair.comparison
    for tile_y, tile_x, tile in core.tiles(TILE):
        at = tile_y - core.y0 // TILE, tile_x - core.x0 // TILE
        window = tile.widened(pair.halo, *pair.shape)
        new, ref = science.cut(window.within(outer)), template.cut(window.within(outer))
        if not (np.isfinite(new.image).any() and np.isfinite(ref.image).any()):
            continue
        psf_n, psf_r = pair.psfs_at(*tile.centre)
        filters = zogy.plan_subtraction(
            psf_n, psf_r, new.sigma, ref.sigma, compared.flux_ratio, shape=window.shape
        )
        made = zogy.subtract(
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
        fwhm = max(float(pair.row["fwhm"]), 2.0)
        quiet = source_free(new.image, new.sigma, fwhm)[crop] & source_free(ref.image, ref.sigma, fwhm)[crop]
        mean, std, n_quiet = noise_moments(made.score[crop], quiet)
        factor = std if renormalise and n_quiet >= ENOUGH_PIXELS and std > 0 else 1.0
        if pair.share:
            factor = max(factor, 1.0)
        planes["difference"][place] = made.difference[crop]
        planes["score"][place] = made.score[crop] / np.float32(factor)
        planes["sigma_flux"][place] = made.sigma_flux[crop] * np.float32(factor)
        psf_d[at] = made.psf_d
        peaks[at] = len(find_peaks(planes["score"][place])[0])
        measured = (
            new.sigma, ref.sigma, compared.flux_ratio, compared.flux_ratio_err, made.F_S, compared.dx,
            compared.dy, compared.dx_err, compared.dy_err, compared.scatter, factor, made.kernel_radius_px,
            mean, std,
        )  # fmt: skip
        for name, value in zip(TILE_MAPS, measured, strict=True):
            maps[name][at] = value
    planes["mask"] |= np.where(np.isfinite(planes["score"]), 0, int(Flag.NO_DATA)).astype(np.uint16)
    if np.isfinite(maps["kernel_radius_px"]).any():
        border = _border(core, pair.shape, float(np.nanmax(maps["kernel_radius_px"])))
        planes["mask"] |= np.where(border, int(Flag.EDGE), 0).astype(np.uint16)
    return Result(planes, maps, psf_d, peaks)


def _border(core: Window, shape: tuple[int, int], radius_px: float) -> NDArray[np.bool_]:
    """Pixels nearer to the field's border than the kernel reaches: part of a source there is missing."""
    y, x = np.arange(core.y0, core.y1), np.arange(core.x0, core.x1)
    rows = np.minimum(y, shape[0] - 1 - y) < radius_px
    columns = np.minimum(x, shape[1] - 1 - x) < radius_px
    return np.asarray(rows[:, None] | columns[None, :])
