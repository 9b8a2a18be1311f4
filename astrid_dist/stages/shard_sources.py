"""Sources of one shard of one epoch of a difference, measured: peaks of S_corr, or places given by others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astrid_dist.engine.keys import ShardKey
from astrid_dist.imaging import detection, streaks
from astrid_dist.imaging.measure import Columns, PointSource
from astrid_dist.imaging.separation import Peaks
from astrid_dist.stages.blocks import Window, field_shape, shard_window
from astrid_dist.store.layouts import TILE
from astrid_dist.store.reading import ProductReader

_IMAGES = ("difference", "score", "sigma_flux", "mask")
_Float32 = NDArray[np.float32]


class _Tile(NamedTuple):
    """A tile with what is around it, as detection takes it."""

    difference: _Float32
    score: _Float32
    sigma_flux: _Float32
    psf_d: _Float32
    mask: NDArray[np.uint16]


#: From a tile, the peaks in it and where it begins in `outer` (row, column) to sources and their columns.
_Find = Callable[[_Tile, Peaks, tuple[int, int]], tuple[Peaks, Columns]]


@dataclass(frozen=True)
class Shard:
    """One shard of one epoch, read with what is around it."""

    reader: ProductReader
    epoch: int
    core: Window
    """What it owns."""
    outer: Window
    """What was read."""
    planes: Mapping[str, NDArray[Any]]
    psf: NDArray[np.float32]
    """(tile_y, tile_x, v, u) PSF of the difference."""
    seeing: NDArray[np.float32]
    """(tile_y, tile_x) FWHM of the science PSF, pixels."""

    @classmethod
    def read(cls, reader: ProductReader, key: ShardKey, halo: int = 0) -> "Shard":
        """Read it with a halo of so many pixels, or of a PSF where that is more."""
        shape = field_shape(reader, "score")
        core = shard_window(key.row, key.column, *shape)
        outer = core.widened(max(halo, reader.sizes("psf_d")["u"]), *shape)
        planes = {name: reader.read(name, epoch=key.epoch, **outer.slices) for name in _IMAGES}
        tiles: dict[str, int | slice] = {
            "epoch": key.epoch,
            "tile_y": slice(core.y0 // TILE, -(-core.y1 // TILE)),
            "tile_x": slice(core.x0 // TILE, -(-core.x1 // TILE)),
        }
        psf, seeing = (reader.read(name, **tiles) for name in ("psf_d", "fwhm_n"))
        return cls(reader, key.epoch, core, outer, planes, psf, seeing)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Tiles that hold data."""
        return np.asarray(np.isfinite(self.psf).all(axis=(2, 3)))

    def sources(self, threshold: float) -> Columns:
        """Columns of what stands out of the score, in the field's pixels."""
        peaks = detection.find_peaks(self.planes["score"], threshold)
        lines: list[streaks.Streak] = []
        if self.usable.any():
            fwhm = float(np.median([PointSource(stamp).fwhm for stamp in self.psf[self.usable]]))
            lines = streaks.find_streaks(self.planes["score"], fwhm, threshold)
            kept, _ = streaks.beads(lines, peaks, fwhm)
            peaks = peaks[0][kept], peaks[1][kept], peaks[2][kept]

        def found(tile: _Tile, near: Peaks, corner: tuple[int, int]) -> tuple[Peaks, Columns]:
            moved = [replace(line, y=line.y - corner[0], x=line.x - corner[1]) for line in lines]
            return detection.detect(*tile, near, moved, threshold)

        return self._each_tile(peaks, found)

    def measured(self, peaks: Peaks) -> Columns:
        """Columns of peaks in the pixels of `outer`, taken as they are: each is one point source."""

        def found(tile: _Tile, near: Peaks, _: tuple[int, int]) -> tuple[Peaks, Columns]:
            empty = np.full(len(near[0]), np.nan, np.float32)
            streakless = {name: empty.copy() for name in detection.STREAK_COLUMNS}
            return near, detection.measure_peaks(*tile, near) | streakless

        return self._each_tile(peaks, found)

    def _each_tile(self, peaks: Peaks, find: _Find) -> Columns:
        """Columns of the sources whose pixel lies in the core, each tile with its own PSF."""
        height, width = field_shape(self.reader, "score")
        parts = []
        for tile_y, tile_x, tile in self.core.tiles(TILE):
            at = tile_y - self.core.y0 // TILE, tile_x - self.core.x0 // TILE
            if not self.usable[at]:
                continue
            # Neighbours across the tile's border are fitted along.
            around = tile.widened(self.psf.shape[-1], height, width)
            cut, (top, left) = (
                around.within(self.outer),
                (around.y0 - self.outer.y0, around.x0 - self.outer.x0),
            )
            rows, columns = peaks[0] - top, peaks[1] - left
            near = (rows >= 0) & (rows < around.shape[0]) & (columns >= 0) & (columns < around.shape[1])
            difference, score, sigma_flux, mask = (self.planes[name][cut] for name in _IMAGES)
            chosen, measured = find(
                _Tile(difference, score, sigma_flux, self.psf[at], mask),
                (rows[near], columns[near], peaks[2][near]),
                (top, left),
            )
            y, x = chosen[0] + around.y0, chosen[1] + around.x0
            own = (y >= tile.y0) & (y < tile.y1) & (x >= tile.x0) & (x < tile.x1)
            measured["x"], measured["y"] = measured["x"] + around.x0, measured["y"] + around.y0
            parts.append({name: values[own] for name, values in measured.items()})
            parts[-1]["seeratio"] = (parts[-1]["fwhm"] / self.seeing[at]).astype(np.float32)
        if not parts:
            return {}
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        # A fit that ran off the image has found no source.
        y, x = found["y"], found["x"]
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        return {name: values[inside] for name, values in found.items()}
