"""The epochs of a reference on one flux scale and in register, cleaned and combined tile by tile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.flags import Flag
from astrid_dist.imaging import coadd, psf, rejection
from astrid_dist.imaging.coadd import Stack, Transforms
from astrid_dist.imaging.proper_coadd import proper_filters
from astrid_dist.stages.blocks import Planes, Window, field_shape, psf_box, read_planes, read_stars
from astrid_dist.stages.pairing import Comparison, compare
from astrid_dist.stages.selection import epoch_row
from astrid_dist.store.layouts import TILE
from astrid_dist.store.reading import ProductReader

#: Least error of flux (a fraction) and place (pixels) allowed to a star: PSFs are no better known.
LEAST_FLUX_ERROR, LEAST_OFFSET_ERROR = 0.003, 0.02
#: What is assumed where stars are too few to measure it, pixels.
UNKNOWN_OFFSET_ERROR = 0.1


@dataclass(frozen=True)
class Place:
    """How the epochs compare with the first at one place of the field, one value per epoch."""

    scales: NDArray[np.float64]
    """Electrons of the first per electron of the epoch."""
    offsets: NDArray[np.float64]
    """(k, 2): stars of the epoch minus stars of the first, pixels."""
    flux_sigma: NDArray[np.float64]
    """By how much the flux of a single star may be off, a fraction."""
    offset_sigma: NDArray[np.float64]
    """By how much its place may be off, pixels per axis."""


@dataclass(frozen=True)
class Members:
    """The epochs that a reference is made of."""

    reader: ProductReader
    indices: Sequence[int]
    """In the survey; the first sets flux scale and pixel grid."""
    rows: list[dict[str, Any]]
    """Scalars of each."""
    comparisons: list[Comparison]
    """Of each but the first, with the first."""
    psfs: list[NDArray[np.float32]]
    """PSF terms of each."""
    order: int
    """Of the PSF terms."""
    oversampling: int
    """Samples of the PSF terms to a pixel."""
    shape: tuple[int, int]
    """Height and width of the field, pixels."""
    noise: NDArray[np.float64]
    """Background noise of each on the scale of the first, electrons."""
    proper: bool
    """Whether to co-add properly, else by a weighted mean."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of each epoch in the result, by inverse variance."""
        shares = 1 / self.noise**2
        return np.asarray(shares / shares.sum())

    @property
    def box(self) -> int:
        """Side of the PSF in pixels."""
        return psf_box(self.reader)

    def place(self, x: float, y: float, half_px: float) -> Place:
        """The epochs against the first in a square of the field."""
        local = [one.at(x, y, half_px) for one in self.comparisons]
        flux = [max(one.flux_sigma / one.flux_ratio, LEAST_FLUX_ERROR) for one in local]
        offset = [
            max(float(np.mean(one.astrometric_sigma(UNKNOWN_OFFSET_ERROR))), LEAST_OFFSET_ERROR)
            for one in local
        ]
        # What the first itself is off by is in what the others are off from it.
        return Place(
            np.array([1.0, *(1 / one.flux_ratio for one in local)]),
            np.array([(0.0, 0.0), *(one.shift for one in local)]),
            np.array([np.median(flux) if flux else LEAST_FLUX_ERROR, *flux]),
            np.array([np.median(offset) if offset else LEAST_OFFSET_ERROR, *offset]),
        )

    def stamps(self, x: float, y: float) -> NDArray[np.float32]:
        """PSF of each epoch at a place, (k, v, u)."""
        return np.stack(
            [psf.evaluate(one, self.order, x, y, self.shape, self.oversampling) for one in self.psfs]
        )

    def filters(self, stack: Stack) -> Transforms:
        """Of the chosen method."""
        return proper_filters(stack) if self.proper else coadd.mean_filters(stack)

    def psf_terms(self) -> NDArray[np.float32]:
        """PSF of the result: Legendre terms of the survey's order, a sample to a pixel."""
        order, (height, width) = self.order, self.shape
        # Two more places per axis than the order needs.
        ys, xs = ((np.arange(order + 2) + 0.5) / (order + 2) * side for side in (height, width))
        places = [(x, y) for y in ys for x in xs]
        stamps = []
        for x, y in places:
            each = self.stamps(x, y)
            offsets = self.place(x, y, TILE / 2).offsets
            stack = coadd.plan_stack(each, self.noise, shape=(self.box, self.box), offsets=offsets)
            stamps.append(coadd.stacked_psf(stack, self.filters(stack), each))
        x_all, y_all = np.transpose(places)
        return coadd.fit_psf_terms(np.stack(stamps), x_all, y_all, order, self.shape)


def open_members(reader: ProductReader, indices: Sequence[int], radius_px: float, proper: bool) -> Members:
    """Open the epochs of a reference and compare each with the first.

    Raises
    ------
    InputError
        There is no flux scale between an epoch and the first, or they are not on one grid.
    """
    rows = [epoch_row(reader, index) | {"index": index} for index in indices]
    stars = [read_stars(reader, row["fwhm"], epoch=row["index"]) for row in rows]
    shape = field_shape(reader, "image")
    comparisons = []
    for row, found in zip(rows[1:], stars[1:], strict=True):
        where = f"{reader.group} epoch {row['source']}"
        zeropoints = (row["zeropoint"], rows[0]["zeropoint"])
        comparisons.append(compare(found, stars[0], zeropoints, radius_px, where, shape))
    scales = np.array([1.0, *(1 / one.flux_ratio for one in comparisons)])
    noise = np.array([float(np.nanmedian(reader.read("background_rms", epoch=index))) for index in indices])
    psfs = [reader.read("psf", epoch=index) for index in indices]
    order, oversampling = (int(reader.attributes[name]) for name in ("psf_order", "oversampling"))
    return Members(
        reader, indices, rows, comparisons, psfs, order, oversampling, shape, noise * scales, proper
    )


def combine_window(members: Members, window: Window, clip_sigma: float) -> dict[str, NDArray[Any]]:
    """image, variance, mask and n_epochs of a window of the field; a row of tiles is read at a time."""
    made: dict[str, NDArray[Any]] = {
        "image": np.full(window.shape, np.nan, np.float32),
        "variance": np.full(window.shape, np.nan, np.float32),
        "mask": np.zeros(window.shape, np.uint16),
        "n_epochs": np.zeros(window.shape, np.uint16),
    }
    halo = coadd.halo_px(members.box)
    for top in range(window.y0, window.y1, TILE):
        row = Window(top, min(top + TILE, window.y1), window.x0, window.x1)
        outer = row.widened(halo, *members.shape)
        epochs = [read_planes(members.reader, outer, epoch=index) for index in members.indices]
        for _, _, tile in row.tiles(TILE):
            around = tile.widened(halo, *members.shape)
            planes = _combine_tile(members, epochs, tile, around, around.within(outer), clip_sigma)
            for name, values in planes.items():
                made[name][tile.within(window)] = values[tile.within(around)]
    return made


def _combine_tile(
    members: Members,
    epochs: Sequence[Planes],
    tile: Window,
    around: Window,
    cut: tuple[slice, slice],
    clip_sigma: float,
) -> dict[str, NDArray[Any]]:
    """The planes of a tile and its halo."""
    place = members.place(*tile.centre, max(tile.shape) / 2)
    scales = place.scales[:, None, None].astype(np.float32)
    images = np.stack([one.image[cut] for one in epochs]) * scales
    variances = np.stack([one.variance[cut] for one in epochs]) * np.square(scales)
    masks = np.stack([one.mask[cut] for one in epochs])
    good = np.isfinite(images) & (variances >= 0)
    image, variance = (np.full(around.shape, np.nan, np.float32) for _ in range(2))
    used = good
    if good.any():
        stack = coadd.plan_stack(
            members.stamps(*tile.centre), members.noise, shape=around.shape, offsets=place.offsets
        )
        cleaned = rejection.clean(
            stack,
            images,
            variances,
            good,
            clip_sigma=clip_sigma,
            flux_sigma=place.flux_sigma,
            offset_sigma=place.offset_sigma,
        )
        image, variance = coadd.combine(stack, members.filters(stack), cleaned.images, cleaned.variances)
        used = cleaned.used
    used, masks = (_registered(cube, place.offsets) for cube in (used, masks))
    n_epochs = used.sum(axis=0, dtype=np.uint16)
    entered = np.bitwise_or.reduce(np.where(used, masks, np.uint16(0)), axis=0)
    every = np.bitwise_or.reduce(masks, axis=0) | np.uint16(Flag.NO_DATA)
    image[n_epochs == 0] = np.nan
    variance[n_epochs == 0] = np.nan
    mask = np.where(n_epochs > 0, entered, every).astype(np.uint16)
    return {"image": image, "variance": variance, "mask": mask, "n_epochs": n_epochs}


def _registered(cube: NDArray[Any], offsets: NDArray[np.float64]) -> NDArray[Any]:
    """Bits of the epochs moved by whole pixels to where their values lie in the result."""
    whole = np.rint(offsets).astype(int)
    if not whole.any():
        return cube
    return np.stack(
        [
            ndimage.shift(plane, (-dy, -dx), order=0, mode="nearest")
            for plane, (dx, dy) in zip(cube, whole, strict=True)
        ]
    )
