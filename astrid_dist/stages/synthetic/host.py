"""One tile of one epoch and its reference, subtracted, with everything that samples are made from."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging.galaxies import Galaxies, find_galaxies
from astrid_dist.imaging.response import respond
from astrid_dist.simulation.canvas import Star, View
from astrid_dist.simulation.placement import Sites
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import Pair, Template, open_pair
from astrid_dist.stages.subtraction import Result, subtract_tiles
from astrid_dist.stages.synthetic.instrument import camera_of
from astrid_dist.stages.tiles import Options, Recipe
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.sample_layout import STAMP
from astrid_dist.surveys.profile import Camera

Image = NDArray[np.float32]
T = TypeVar("T", np.float32, np.uint16)

#: Pixels beyond a stamp that are painted too, so that what reaches in from there is right at its border.
MARGIN = 6
#: Side of the window that a sample is painted in.
WINDOW = STAMP + 2 * MARGIN
#: No data around a host, so that stamps at the border of a field are cut like any other.
PAD = WINDOW // 2 + 2
#: SNR in the epoch from which a star is bright: it may leave residuals.
BRIGHT_SNR = 20.0
#: Pairs (star lists and PSFs) and tiles that a worker keeps: epochs of one tile follow each other.
_PAIRS_KEPT, _HOSTS_KEPT = 64, 2


@dataclass(frozen=True)
class Host:
    """A subtracted tile; images cover it and `PAD` pixels around it, NaN where there is no data."""

    pair: Pair
    tile: Window
    science_planes: Planes
    template_full: Template
    recipe: Recipe
    camera: Camera
    renormalisation: float
    sigma_d: float
    """Robust noise of the difference, electrons of the reference."""
    science: Image
    template: Image
    difference: Image
    S_n: Image
    """What the epoch gives to the score, electrons of the reference (flux)."""
    S_r: Image
    level: Image
    """Flux that was taken out of the score as residual sky."""
    variance: Image
    """Of the flux, without terms for what may be wrong, electron²."""
    score: Image
    mask: NDArray[np.uint16]
    """Why a pixel of either image cannot be trusted."""

    @cached_property
    def view(self) -> View:
        """The whole padded tile as artifacts see it."""
        pair, recipe = self.pair, self.recipe
        fwhm_n, fwhm_r = pair.fwhms_at(*pair.psfs_at(*self.tile.centre))
        sky = float(pair.row["sky"])
        return View(
            self.science, self.template, recipe.sigma_n, recipe.sigma_r, recipe.flux_ratio, sky, recipe.psf_n,
            recipe.psf_r, fwhm_n, fwhm_r, self.camera, float(pair.row["exptime"]),
            float(pair.row["zeropoint"]), self.stars, pair.pixel_scale_arcsec,
        )  # fmt: skip

    @cached_property
    def stars(self) -> tuple[Star, ...]:
        """Clean stars of the reference in pixels of the padded tile, brightest first; epoch's electrons."""
        stars, (x0, y0) = self.pair.stars, self.origin
        near = (np.abs(stars.x - self.tile.centre[0]) < TILE / 2 + PAD) & (
            np.abs(stars.y - self.tile.centre[1]) < TILE / 2 + PAD
        )
        found = [
            Star(float(x - x0), float(y - y0), float(flux * self.recipe.flux_ratio))
            for x, y, flux in zip(stars.x[near], stars.y[near], stars.flux[near], strict=True)
        ]
        return tuple(sorted(found, key=lambda star: -star.flux))

    @cached_property
    def star_places(self) -> NDArray[np.float64]:
        """(n, 2) x and y of `stars`."""
        return np.array([(star.x, star.y) for star in self.stars], np.float64).reshape(-1, 2)

    @cached_property
    def star_snr(self) -> NDArray[np.float64]:
        """(n,) SNR of `stars` in the epoch, above its sky and their own shot noise."""
        flux = np.array([star.flux for star in self.stars], np.float64)
        sky = self.recipe.sigma_n**2 / float(np.square(self.recipe.psf_n).sum())
        return np.asarray(flux / np.sqrt(sky + np.maximum(flux, 0)))

    @cached_property
    def galaxies(self) -> Galaxies:
        """Of the reference, in pixels of the padded tile; found once for all its epochs."""
        kept, name = self.template_full.kept, ("galaxies", self.tile)
        if name not in kept:
            kept[name] = find_galaxies(
                self.template, self.recipe.sigma_r, self.template_mask, self.view.fwhm_r, self.star_places
            )
        found: Galaxies = kept[name]
        return found

    @cached_property
    def variances(self) -> tuple[Image, Image]:
        """Variance of epoch and reference on the padded tile, electron² of each."""
        science, template = self.science_planes, self.template_full.planes
        return (
            on_padded(science.variance, science.window, self.tile),
            on_padded(template.variance, template.window, self.tile),
        )

    def variances_at(self, part: tuple[slice, slice]) -> tuple[Image, Image]:
        """Variance of epoch and reference in a window."""
        return self.variances[0][part], self.variances[1][part]

    @cached_property
    def field(self) -> NDArray[np.bool_]:
        """Pixels of the padded tile that lie in the field."""
        (height, width), (x0, y0) = self.pair.shape, self.origin
        inside = np.zeros(self.science.shape, bool)
        inside[max(-y0, 0) : height - y0, max(-x0, 0) : width - x0] = True
        return inside

    @cached_property
    def holes(self) -> NDArray[np.bool_]:
        """Pixels of the padded tile without data in either image, those beyond the field among them."""
        return np.isnan(self.science) | np.isnan(self.template)

    @cached_property
    def hole_rims(self) -> NDArray[np.bool_]:
        """`holes` and the pixels beside them."""
        return np.asarray(ndimage.binary_dilation(self.holes, np.ones((3, 3))))

    @property
    def template_mask(self) -> NDArray[np.uint16]:
        """Mask of the reference on the padded tile."""
        planes = self.template_full.planes
        return on_padded(planes.mask, planes.window, self.tile, int(Flag.NO_DATA))

    @property
    def limits(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last (column, row) that a stamp's middle may have.

        At the border of a tile that is not the field's, a stamp must not reach out of it.
        """
        half, tile, (height, width) = STAMP // 2 + 1, self.tile, self.pair.shape
        low = [PAD + (half if start > 0 else 0) for start in (tile.x0, tile.y0)]
        high = [
            PAD + stop - start - 1 - (half if stop < size else 0)
            for start, stop, size in ((tile.x0, tile.x1, width), (tile.y0, tile.y1, height))
        ]
        return (low[0], low[1]), (high[0], high[1])

    @cached_property
    def sites(self) -> Sites:
        """Galaxies, stars and sky that sources can be put on, in pixels of the padded tile."""
        found = np.isfinite(self.score)
        (left, top), (right, bottom) = self.limits
        inner = np.zeros(found.shape, bool)
        inner[top : bottom + 1, left : right + 1] = True
        beyond = np.ones(found.shape, bool)
        beyond[PAD:-PAD, PAD:-PAD] = False
        return Sites(
            galaxies=self.galaxies,
            star_x=self.star_places[:, 0],
            star_y=self.star_places[:, 1],
            bright=self.star_snr > BRIGHT_SNR,
            usable=found & inner,
            data=found | (beyond & self.field),
            saturated=(self.mask & int(Flag.SATURATED)) != 0,
            fwhm_px=self.view.fwhm_n,
        )

    @property
    def origin(self) -> tuple[int, int]:
        """Column and row of the field where the padded tile begins."""
        return self.tile.x0 - PAD, self.tile.y0 - PAD

    @cached_property
    def banks(self) -> tuple[PsfBank, PsfBank]:
        """What a source looks like in epoch and reference."""
        half = min(len(self.recipe.psf_n) // 2, WINDOW // 2)
        return tuple(PsfBank.of_stamp(psf, half) for psf in (self.recipe.psf_n, self.recipe.psf_r))  # type: ignore[return-value]

    @cached_property
    def window_plan(self) -> Any:
        """Filters of this pair for the windows of samples."""
        return self.recipe.plan((WINDOW, WINDOW))

    @cached_property
    def noise_per_flux(self) -> float:
        """Variance of the score's flux that a source's own light adds, electron² per electron (reference)."""
        light = np.zeros((1, WINDOW, WINDOW), np.float32)
        psf = self.banks[0].stamp() * self.recipe.flux_ratio
        half, middle = len(psf) // 2, WINDOW // 2
        light[0, middle - half : middle + half + 1, middle - half : middle + half + 1] = psf
        made = respond(self.window_plan, light, light, shift=(0.0, 0.0))
        return float(made.variance[0, middle, middle])

    def flux_of_snr(self, snr: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux (electrons of the reference) that stands at an SNR above a variance and its own shot noise."""
        own = np.square(snr) * self.noise_per_flux
        flux: NDArray[np.float64] = 0.5 * (own + np.sqrt(own**2 + 4 * np.square(snr) * variance))
        return flux


def open_host(
    survey: Location, reference: Location, group: str, index: int, row: int, column: int, options: Options
) -> Host:
    """Read and subtract one tile; kept for the samples that follow.

    Raises
    ------
    InputError
        The pair cannot be subtracted, or the tile holds no data.
    """
    return _host(survey, reference, group, index, row, column, options)


@lru_cache(_PAIRS_KEPT)
def _pair(survey: Location, reference: Location, group: str, index: int) -> Pair:
    return open_pair(survey, reference, group, index, 3.0)


@lru_cache(_HOSTS_KEPT)
def _host(
    survey: Location, reference: Location, group: str, index: int, row: int, column: int, options: Options
) -> Host:
    pair = _pair(survey, reference, group, index)
    height, width = pair.shape
    tile = Window(row * TILE, min((row + 1) * TILE, height), column * TILE, min((column + 1) * TILE, width))
    outer = tile.widened(pair.halo, height, width)
    science, template = pair.science(outer), pair.template(outer)
    pair = pair.registered(science, template)
    made = subtract_tiles(pair, tile, science, template, options)
    if not made.recipes:
        raise InputError(f"{group} epoch {pair.row['source']}: tile ({row}, {column}) holds no data")
    recipe = made.recipes[0, 0]
    return _made(pair, tile, science, template, recipe, made)


def _made(
    pair: Pair, tile: Window, science: Planes, template: Template, recipe: Recipe, made: Result
) -> Host:
    inner = tile.within(science.window)
    plan = recipe.plan(science.window.shape)
    plain = recipe.subtract(science, template.planes, plan, terms=False, keep_scores=True)
    assert plain.scores is not None
    S_n, S_r = (part[inner] for part in plain.scores)
    score, difference = made.planes["score"], made.planes["difference"]
    sound = difference[made.quiet & np.isfinite(difference)]
    if not sound.size:
        sound = difference[np.isfinite(difference)]
    sigma_d = 1.4826 * float(np.median(np.abs(sound[::2] - np.median(sound[::2]))))
    flux = score * made.planes["sigma_flux"]
    return Host(
        pair=pair,
        tile=tile,
        science_planes=science,
        template_full=template,
        recipe=recipe,
        camera=camera_of(pair.survey),
        renormalisation=float(made.maps["renormalisation"][0, 0]),
        sigma_d=sigma_d,
        # Beyond the tile the images of a pair are known, what they leave is not.
        science=on_padded(science.image, science.window, tile),
        template=on_padded(template.planes.image, template.planes.window, tile),
        difference=_framed(difference),
        S_n=_framed(S_n),
        S_r=_framed(S_r),
        level=_framed(S_n - S_r - flux),
        variance=_framed(np.square(plain.sigma_flux[inner])),
        score=_framed(score),
        mask=np.pad(made.planes["mask"], PAD, constant_values=int(Flag.NO_DATA)),
    )


def _framed(image: Image) -> Image:
    return np.pad(np.asarray(image, np.float32), PAD, constant_values=np.nan)


def on_padded(image: NDArray[T], window: Window, tile: Window, unknown: float = np.nan) -> NDArray[T]:
    """An image on a tile and `PAD` pixels around it."""
    padded = Window(tile.y0 - PAD, tile.y1 + PAD, tile.x0 - PAD, tile.x1 + PAD)
    out = np.full(padded.shape, unknown, image.dtype)
    seen = overlap(padded, window)
    out[seen.within(padded)] = image[seen.within(window)]
    return out


def overlap(one: Window, other: Window) -> Window:
    """What two windows share."""
    return Window(max(one.y0, other.y0), min(one.y1, other.y1), max(one.x0, other.x0), min(one.x1, other.x1))
