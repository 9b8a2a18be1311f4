"""A pair subtracted tile by tile: difference, score, and what each tile says of itself."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import Flag
from astrid_dist.imaging.background import evaluate
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.masks import noise_moments, source_free
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import Pair, Template
from astrid_dist.stages.tiles import Options, Recipe, subtract_tile
from astrid_dist.store.layouts import TILE, variables

#: Source-free pixels below which the noise of a tile is not judged.
ENOUGH_PIXELS = 5000
#: Box in which the residual sky is measured, pixels: so large that its noise is small beside the score's.
SKY_BOX = 128
#: Peaks of the score that are counted, in its standard deviations.
PEAK = 5.0
IMAGES = ("difference", "score", "sigma_flux")
#: Measurements per tile.
TILE_MAPS = tuple(
    one.name for one in variables("difference").values() if one.dims == ("epoch", "tile_y", "tile_x")
)


@dataclass(frozen=True)
class Result:
    """What the subtraction of a window leaves, tile by tile."""

    planes: dict[str, NDArray[Any]]
    """difference, score, sigma_flux and mask, (y, x)."""
    maps: dict[str, NDArray[Any]]
    """`TILE_MAPS`, (tile_y, tile_x)."""
    psf_d: NDArray[np.float32]
    """(tile_y, tile_x, v, u)."""
    quiet: NDArray[np.bool_]
    """Source-free pixels, (y, x)."""
    core: Window
    """The shard."""
    recipes: dict[tuple[int, int], Recipe] = field(default_factory=dict)
    """What each tile that holds data was subtracted with."""

    @property
    def grid(self) -> list[tuple[tuple[int, int], Window]]:
        """Place in the maps and window of every tile."""
        corner = self.core.y0 // TILE, self.core.x0 // TILE
        return [((row - corner[0], column - corner[1]), tile) for row, column, tile in self.core.tiles(TILE)]

    @property
    def tiles(self) -> list[tuple[tuple[int, int], Window]]:
        """Those of the tiles that hold data."""
        return [(at, tile) for at, tile in self.grid if np.isfinite(self.psf_d[at]).all()]

    @classmethod
    def empty(cls, core: Window, box: int, quiet: NDArray[np.bool_]) -> "Result":
        """Without data yet."""
        shape = core.shape
        planes: dict[str, NDArray[Any]] = {name: np.empty(shape, np.float32) for name in IMAGES}
        grid = (-(-shape[0] // TILE), -(-shape[1] // TILE))
        layout = variables("difference")
        maps = {name: np.full(grid, layout[name].fill_value, layout[name].dtype) for name in TILE_MAPS}
        return cls(planes, maps, np.full((*grid, box, box), np.nan, np.float32), quiet, core)


def subtract_tiles(
    pair: Pair,
    core: Window,
    science: Planes,
    template: Template,
    options: Options,
) -> Result:
    """Subtract one shard, given the planes of the shard and its halo.

    Parameters
    ----------
    pair : Pair
        Epoch and reference.
    core : Window
        The shard.
    science : Planes
        Of the epoch, on the shard and its halo.
    template : Template
        Of the reference, on the same window.
    options : Options
        In an epoch that is part of its own reference the common noise cancels; there a standard deviation
        below 1 is not divided out, lest it sharpen detections.
    """
    inner = core.within(science.window)
    quiet = source_free(science.image[inner], science.sigma, pair.fwhm_px) & template.quiet[inner]
    made = Result.empty(core, pair.box, quiet)
    made.planes["mask"] = science.mask[inner] | template.planes.mask[inner]
    for at, tile in made.grid:
        window = tile.widened(pair.halo, *pair.shape)
        new, ref = science.cut(window), template.planes.cut(window)
        place = tile.within(core)
        if not (np.isfinite(new.image).any() and np.isfinite(ref.image).any()):
            for name in IMAGES:
                made.planes[name][place] = np.nan
            continue
        found = subtract_tile(pair, tile, new, ref, options)
        for name in IMAGES:
            made.planes[name][place] = getattr(found, name)[tile.within(window)]
        made.psf_d[at] = found.psf_d
        made.recipes[at] = found.recipe
        for name, value in found.measured.items():
            made.maps[name][at] = value
    sky = residual_sky(made.planes["difference"], quiet)
    made.planes["difference"] -= sky
    for at, tile in made.tiles:
        _normalise_tile(made, at, tile.within(core), sky, options.renormalise, pair.share > 0)
    made.planes["mask"][np.isnan(made.planes["score"])] |= int(Flag.NO_DATA)
    if np.isfinite(made.maps["kernel_radius_px"]).any():
        border = _border(core, pair.shape, float(np.nanmax(made.maps["kernel_radius_px"])))
        made.planes["mask"][border] |= int(Flag.EDGE)
    return made


def residual_sky(difference: NDArray[np.float32], quiet: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What the two skies leave in a difference, smooth over `SKY_BOX` pixels; zero where it cannot be told.

    The mean of source-free pixels within five standard deviations, box by box: D is white, so every pixel
    counts the same.
    """
    height, width = difference.shape
    sampled = (slice(None, None, 3),) * 2
    mean, std, count = noise_moments(difference[sampled], quiet[sampled])
    if not count or not np.isfinite(std):
        return np.zeros_like(difference)
    used = np.abs(difference - np.float32(mean)) <= np.float32(5 * std)
    used &= quiet
    number = _box_sums(used.astype(np.float32))
    total = _box_sums(np.where(used, difference, np.float32(0)))
    enough = number >= ENOUGH_PIXELS // 5
    if not enough.any():
        return np.zeros_like(difference)
    mesh = np.divide(total, number, out=np.full_like(total, np.nan), where=enough)
    mesh[~enough] = np.median(mesh[enough])
    return evaluate(mesh, SKY_BOX, 0, 0, height, width)


def _box_sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over square boxes of `SKY_BOX`; the last ones may be smaller."""
    rows, columns = (
        (np.arange(size) // SKY_BOX == np.arange(-(-size // SKY_BOX))[:, None]).astype(np.float32)
        for size in values.shape
    )
    return np.asarray(rows @ values @ columns.T)


def _normalise_tile(
    made: Result,
    at: tuple[int, int],
    place: tuple[slice, slice],
    sky: NDArray[np.float32],
    renormalise: bool,
    shares_noise: bool,
) -> None:
    """Take the residual sky out of a tile's score, judge its noise, renormalise, count its peaks."""
    score, sigma_flux = made.planes["score"][place], made.planes["sigma_flux"][place]
    # A level b of D / F_D is a PSF flux of b / sum(P_D^2): S = F_D^2 b and F_S = F_D^2 sum(P_D^2).
    score -= sky[place] / np.float32(np.square(made.psf_d[at]).sum()) / sigma_flux
    # Every other row and column: neighbours in a score say the same.
    sampled = (slice(None, None, 2),) * 2
    mean, std, n_quiet = noise_moments(score[sampled], made.quiet[place][sampled])
    if 4 * n_quiet < ENOUGH_PIXELS:  # so crowded that the stars, which are gone, must say it too
        mean, std, n_quiet = noise_moments(score[sampled], np.isfinite(score[sampled]))
    factor = std if renormalise and 4 * n_quiet >= ENOUGH_PIXELS and std > 0 else 1.0
    if shares_noise:
        factor = max(factor, 1.0)
    heights = np.abs(find_peaks(score, PEAK * min(factor, 1.0))[2])
    score /= np.float32(factor)
    sigma_flux *= np.float32(factor)
    measured = {
        "n_peaks": np.count_nonzero(heights >= PEAK * factor),
        "n_peaks_raw": np.count_nonzero(heights >= PEAK),
        "residual_sky": made.maps["residual_sky"][at] + float(np.median(sky[place][::8, ::8])),
        "renormalisation": factor,
        "score_mean": mean,
        "score_std": std,
    }
    for name, value in measured.items():
        made.maps[name][at] = value


def _border(core: Window, shape: tuple[int, int], radius_px: float) -> NDArray[np.bool_]:
    """Pixels nearer to the field's border than the kernel reaches: part of a source there is missing."""
    y, x = np.arange(core.y0, core.y1), np.arange(core.x0, core.x1)
    rows = np.minimum(y, shape[0] - 1 - y) < radius_px
    columns = np.minimum(x, shape[1] - 1 - x) < radius_px
    return np.asarray(rows[:, None] | columns[None, :])
