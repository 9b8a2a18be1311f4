"""A task's window on a field: the shard it owns, the halo it needs, and sky-subtracted planes of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging import background
from astrid_dist.imaging.stars import StarList
from astrid_dist.store.layouts import SHARD, STARS, variables
from astrid_dist.store.reading import ProductReader

#: Bytes a worker holds before any task: interpreter, libraries, caches (measured on Linux, Python 3.11).
WORKER_BASE_BYTES = 300 * 2**20

#: Columns of a star list.
STAR_COLUMNS = ("x", "y", "flux", "flux_err", "flags")

#: obstore sends larger objects in parts of this size.
PART_BYTES = 5 * 2**20


def put_requests(n_bytes: int) -> int:
    """Requests that writing one object takes: one PUT, or start, equal parts and finish of an upload."""
    return 1 if n_bytes <= PART_BYTES else 2 + -(-n_bytes // PART_BYTES)


@dataclass(frozen=True)
class Window:
    """A rectangle of a field: rows y0..y1, columns x0..x1, ends excluded."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def slices(self) -> dict[str, slice]:
        """Selection by dimension name."""
        return {"y": slice(self.y0, self.y1), "x": slice(self.x0, self.x1)}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the middle, pixels."""
        return (self.x0 + self.x1 - 1) / 2, (self.y0 + self.y1 - 1) / 2

    def widened(self, halo: int, height: int, width: int) -> "Window":
        """Grown by ``halo`` pixels on every side, cut at the field's border."""
        return Window(
            max(self.y0 - halo, 0),
            min(self.y1 + halo, height),
            max(self.x0 - halo, 0),
            min(self.x1 + halo, width),
        )

    def within(self, outer: "Window") -> tuple[slice, slice]:
        """Rows and columns of this window inside an array that covers ``outer``."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def tiles(self, size: int) -> Iterator[tuple[int, int, "Window"]]:
        """Tiles of at most ``size`` pixels: (tile row, tile column) of the whole field, and window."""
        for y in range(self.y0, self.y1, size):
            for x in range(self.x0, self.x1, size):
                yield y // size, x // size, Window(y, min(y + size, self.y1), x, min(x + size, self.x1))


def shard_window(row: int, column: int, height: int, width: int) -> Window:
    """The pixels of shard (row, column) of a field."""
    return Window(
        row * SHARD, min((row + 1) * SHARD, height), column * SHARD, min((column + 1) * SHARD, width)
    )


@dataclass(frozen=True)
class Planes:
    """Sky-subtracted image, variance and mask of one window, float32 electrons; NaN where unusable."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint16]
    window: Window
    rms: NDArray[np.float32]
    """Background noise in each mesh cell of the whole field."""
    box: int
    """Side of a mesh cell, pixels."""

    def cut(self, window: Window) -> "Planes":
        """The same planes of a smaller window."""
        place = window.within(self.window)
        return replace(
            self, image=self.image[place], variance=self.variance[place], mask=self.mask[place], window=window
        )

    @cached_property
    def sigma(self) -> float:
        """Background noise of the window: median of the mesh cells it touches, electrons."""
        window, box = self.window, self.box
        cells = self.rms[window.y0 // box : -(-window.y1 // box), window.x0 // box : -(-window.x1 // box)]
        good = cells[np.isfinite(cells)]
        return float(np.median(good)) if good.size else float("nan")


def read_planes(reader: ProductReader, window: Window, **epoch: int) -> Planes:
    """Read a window of a survey epoch (``epoch=i``) or a reference, minus its sky; unusable becomes NaN."""
    image = reader.read("image", **epoch, **window.slices).astype(np.float32, copy=False)
    variance = reader.read("variance", **epoch, **window.slices).astype(np.float32, copy=False)
    mask = reader.read("mask", **epoch, **window.slices).astype(np.uint16, copy=False)
    box = int(reader.attributes["mesh_box"])
    sky = reader.read("background", **epoch)
    if sky.any():  # that of a reference is zero
        image -= background.evaluate(sky, box, window.y0, window.x0, *window.shape)
    bad = (mask & int(UNUSABLE)) != 0
    bad |= ~np.isfinite(image)
    bad |= ~np.isfinite(variance)
    image[bad] = np.nan
    variance[bad] = np.nan
    mask[bad & ((mask & int(UNUSABLE)) == 0)] |= int(Flag.NO_DATA)
    rms = reader.read("background_rms", **epoch).astype(np.float32)
    return Planes(image, variance, mask, window, rms, box)


def star_planes(stars: StarList) -> dict[str, NDArray[Any]]:
    """A star list as its product holds it: ``star_<column>``, padded to `STARS` with fill values."""
    planes = {}
    for column in STAR_COLUMNS:
        layout = variables("survey")[f"star_{column}"]
        planes[layout.name] = np.full(STARS, layout.fill_value, layout.dtype)
        planes[layout.name][: len(stars)] = getattr(stars, column)
    return planes


def read_stars(reader: ProductReader, fwhm_px: float, **epoch: int) -> StarList:
    """The star list of an epoch or a reference of a given seeing, padding removed."""
    columns = {name: reader.read(f"star_{name}", **epoch) for name in STAR_COLUMNS}
    used = np.isfinite(columns["x"])
    return StarList(**{name: values[used] for name, values in columns.items()}, fwhm_px=fwhm_px)


def psf_box(reader: ProductReader) -> int:
    """Side of a group's PSF at the pixels of its images."""
    return (reader.sizes("psf")["u"] - 1) // int(reader.attributes["oversampling"]) + 1


def field_shape(reader: ProductReader, variable: str) -> tuple[int, int]:
    """Height and width of a field, pixels."""
    sizes = reader.sizes(variable)
    return sizes["y"], sizes["x"]
