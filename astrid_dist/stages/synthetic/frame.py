"""One whole epoch and its reference, and what is added to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging import background, zogy
from astrid_dist.imaging.response import respond
from astrid_dist.imaging.stars import StarList
from astrid_dist.simulation.canvas import Canvas, Star, View
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.stages.blocks import Planes, Window, read_stars
from astrid_dist.stages.pair import Pair, Template, open_pair
from astrid_dist.stages.pairing import Local
from astrid_dist.stages.synthetic.instrument import camera_of
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.surveys.profile import Camera

Array = NDArray[np.float64]
Image = NDArray[np.float32]
T = TypeVar("T")

#: Least part of its variance that a pixel keeps where light is taken from it: the sky is still there.
_LEAST_VARIANCE = 0.1


@dataclass(frozen=True)
class Frame:
    """An epoch and its reference, whole."""

    pair: Pair
    raw: dict[str, NDArray[Any]]
    """image, variance and mask of the epoch as they are stored."""
    science: Planes
    """The epoch above its sky."""
    template: Template
    camera: Camera
    canvas: Canvas
    """What is added to them."""
    _locals: dict[Window, Local] = field(default_factory=dict)
    _views: dict[Window, View] = field(default_factory=dict)
    _filters: dict[Window, tuple[Image, Image]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.pair.shape

    @cached_property
    def banks(self) -> tuple[PsfBank, PsfBank]:
        """What a source looks like in epoch and reference, by its place."""
        made = [
            PsfBank.of_terms(
                terms, int(reader.attributes["psf_order"]), int(reader.attributes["oversampling"]), self.shape
            )
            for terms, reader in zip(self.pair.psfs, (self.pair.survey, self.pair.reference), strict=True)
        ]
        return made[0], made[1]

    def tile_of(self, x: float, y: float) -> Window:
        """The tile that a place lies in, or the nearest."""
        height, width = self.shape
        row = min(max(int(y), 0), height - 1) // TILE * TILE
        column = min(max(int(x), 0), width - 1) // TILE * TILE
        return Window(row, min(row + TILE, height), column, min(column + TILE, width))

    def local(self, tile: Window) -> Local:
        """Flux ratio and offset of a tile, as its subtraction takes them."""
        half = max(tile.shape) / 2
        return _kept(self._locals, tile, lambda: self.pair.comparison.at(*tile.centre, half))

    def along(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Flux ratio, and shift from the reference's pixels to the epoch's along x and y, at places."""
        found = [self.local(self.tile_of(*place)) for place in zip(x.tolist(), y.tolist(), strict=True)]
        ratio = np.array([one.flux_ratio for one in found], np.float64)
        shift = np.array([one.shift for one in found], np.float64).reshape(-1, 2)
        return ratio, shift[:, 0], shift[:, 1]

    def view(self, x: float, y: float) -> View:
        """The whole frame as artifacts see it, with PSF and noise of one place."""
        tile = self.tile_of(x, y)
        return _kept(self._views, tile, lambda: self._view(tile))

    def _view(self, tile: Window) -> View:
        pair = self.pair
        psfs = pair.psfs_at(*tile.centre)
        scale = pair.pixel_scale_arcsec
        return View(
            self.science.image, self.template.planes.image, self._sigma(self.science, tile),
            self._sigma(self.template.planes, tile), self.local(tile).flux_ratio, float(pair.row["sky"]),
            *psfs, *pair.fwhms_at(*psfs), self.camera, float(pair.row["exptime"]),
            float(pair.row["zeropoint"]), self.stars, scale if np.isfinite(scale) else 1.0,
        )  # fmt: skip

    @cached_property
    def stars(self) -> tuple[Star, ...]:
        """Clean stars of the reference as the epoch shows them, brightest first."""
        return self._seen(self.pair.stars)

    @cached_property
    def all_stars(self) -> tuple[Star, ...]:
        """Likewise with those that are saturated, blended or cut."""
        return self._seen(read_stars(self.pair.reference, self.pair.reference_fwhm_px))

    def _seen(self, stars: StarList) -> tuple[Star, ...]:
        ratio, dx, dy = self.along(stars.x, stars.y)
        columns = zip(stars.x + dx, stars.y + dy, stars.flux * ratio, strict=True)
        found = (Star(*map(float, values)) for values in columns)
        return tuple(sorted(found, key=lambda star: -star.flux))

    def _sigma(self, planes: Planes, tile: Window) -> float:
        return planes.cut(tile.widened(self.pair.halo, *self.shape)).sigma

    def noise(self, x: Array, y: Array, variance: Image) -> Array:
        """Standard deviation of the flux that the subtraction measures at places, electrons of the reference.

        From the variance planes through the pair's own filters; `variance` is the epoch's, with everything
        that was added.
        """
        other = self.template.planes.variance
        out = np.full(len(x), np.nan)
        for k, (at_x, at_y) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            tile = self.tile_of(at_x, at_y)
            new, ref = _kept(self._filters, tile, partial(self._kernels, tile))
            out[k] = _weighted(variance, new, at_x, at_y) + _weighted(other, ref, at_x, at_y)
        return np.sqrt(np.where(out > 0, out, np.nan))

    def _kernels(self, tile: Window) -> tuple[Image, Image]:
        """What a pixel's variance in epoch and reference adds to that of the flux in the middle."""
        local, psfs = self.local(tile), self.pair.psfs_at(*tile.centre)
        side = 2 * self.pair.box - 1
        plan = zogy.plan_subtraction(
            *psfs, self._sigma(self.science, tile), self._sigma(self.template.planes, tile),
            local.flux_ratio, shape=(side, side),
        )  # fmt: skip
        none, one = np.zeros((2, 1, side, side), np.float32)
        one[0, side // 2, side // 2] = 1.0
        new = respond(plan, none, one).variance[0, ::-1, ::-1]
        ref = respond(plan, none, none, none, one).variance[0, ::-1, ::-1]
        return new, ref

    @cached_property
    def finished(self) -> dict[str, NDArray[Any]]:
        """The epoch with what was added, once everything is: image, variance and mask."""
        added, image = self.canvas.science, self.raw["image"]
        made = image + added
        variance = np.maximum(
            self.raw["variance"] + self.canvas.science_variance,
            np.float32(_LEAST_VARIANCE) * self.raw["variance"],
        )
        mask = self.raw["mask"] | self.canvas.mask
        mask[np.isnan(added)] |= np.uint16(Flag.NO_DATA)
        mask[(added > 0) & (made >= self.camera.full_well)] |= np.uint16(Flag.SATURATED)
        variance[np.isnan(added)] = np.nan
        return {"image": made, "variance": variance, "mask": mask}

    def finished_reference(self) -> dict[str, NDArray[Any]]:
        """The reference with what was added to it, from what is stored."""
        reader, canvas = self.pair.reference, self.canvas
        image, variance, mask = (reader.read(name) for name in ("image", "variance", "mask"))
        more = variance + canvas.template_variance
        return {
            "image": image + canvas.template,
            "variance": np.maximum(more, np.float32(_LEAST_VARIANCE) * variance),
            "mask": mask | canvas.template_mask,
        }


def open_frame(settings: Settings, reference: Location, group: str, index: int) -> Frame:
    """Read an epoch and the reference of its field, whole.

    Raises
    ------
    InputError
        There is no flux scale between them, or a stored PSF holds NaN.
    """
    pair = open_pair(Location.parse(settings.survey[0]), reference, group, index, 3.0)
    reader, (height, width) = pair.survey, pair.shape
    window = Window(0, height, 0, width)
    raw = {name: reader.read(name, epoch=index) for name in ("image", "variance", "mask")}
    sky, rms = pair.sky_mesh()
    box = int(reader.attributes["mesh_box"])
    image = raw["image"] - background.evaluate(sky, box, 0, 0, height, width)
    image[(raw["mask"] & int(UNUSABLE)) != 0] = np.nan
    science = Planes(image, raw["variance"], raw["mask"], window, rms.astype(np.float32), box)
    template = pair.template(window)
    pair = pair.registered(science, template)
    return Frame(pair, raw, science, template, camera_of(reader), Canvas.empty(height, width))


def _kept(kept: dict[Window, T], tile: Window, make: Callable[[], T]) -> T:
    """What is made of a tile once."""
    if tile not in kept:
        kept[tile] = make()
    return kept[tile]


def _weighted(image: Image, kernel: Image, x: float, y: float) -> float:
    """Sum of an image times a kernel about a place; what lies outside or is no data counts nothing."""
    half = len(kernel) // 2
    row, column = int(np.rint(y)), int(np.rint(x))
    top, left = max(row - half, 0), max(column - half, 0)
    part = image[top : max(row + half + 1, 0), left : max(column + half + 1, 0)]
    height, width = part.shape
    down, right = top - (row - half), left - (column - half)
    return float(np.nansum(part * kernel[down : down + height, right : right + width]))
