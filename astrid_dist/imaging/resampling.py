"""Frames brought onto the pixel grid of their field."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import pixel_to_pixel, proj_plane_pixel_scales
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Mask = NDArray[np.uint16]

_LATTICE_PX = 32  # the sky is smooth: a spline through every 32nd pixel is good to 1e-5 px for TPV and SIP
_SAME_PX = 1e-3
_FILLED = (
    Flag.NO_DATA | Flag.BAD | Flag.COSMIC_RAY
)  # their values mean nothing and would ring through the spline
_BIT_FILLED, _BIT_OUTSIDE, _BIT_NO_DATA, _BIT_MISSING = 1 << 20, 1 << 21, 1 << 22, 1 << 23
_PAD = 4


@dataclass(frozen=True)
class Grid:
    """Pixel grid of a field: a FITS header string (empty: no sky coordinates) and its size."""

    header: str
    height: int
    width: int

    @classmethod
    def from_frame(cls, header: fits.Header | WCS | None, shape: tuple[int, int]) -> "Grid":
        """Grid of a frame, from its header or WCS; without celestial axes it has no sky coordinates."""
        wcs = _read_wcs(header) if isinstance(header, fits.Header) else header
        if wcs is None or not wcs.has_celestial:
            return cls("", int(shape[0]), int(shape[1]))
        return cls(wcs.to_header(relax=True).tostring(), int(shape[0]), int(shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def wcs(self) -> WCS | None:
        """The grid's WCS, parsed once per process; None without sky coordinates."""
        return _wcs_of(self.header) if self.header else None

    @property
    def pixel_scale_arcsec(self) -> float:
        """Side of a pixel, the geometric mean of both axes; NaN without sky coordinates."""
        if self.wcs is None:
            return float("nan")
        return float(np.sqrt(np.prod(proj_plane_pixel_scales(self.wcs.celestial))) * 3600)

    def contains(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Whether pixel positions lie on the grid, the rim of the outermost pixels included."""
        along_x, along_y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        inside = (along_x >= -0.5) & (along_x <= self.width - 0.5)
        return np.asarray(inside & (along_y >= -0.5) & (along_y <= self.height - 0.5))


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Quadratic map from grid to frame pixels, for frames whose WCS is missing.

    Coefficients (2, 6) of x and y on the frame over 1, u, v, u^2, uv, v^2; (u, v) = ((x, y) - centre) / half.
    """

    coefficients: Float64
    centre: tuple[float, float]
    half: float

    @classmethod
    def of(cls, shape: tuple[int, int], dx: float = 0.0, dy: float = 0.0) -> "PixelMap":
        """The map of a grid of this shape that only shifts."""
        centre, half = ((shape[1] - 1) / 2, (shape[0] - 1) / 2), max(shape) / 2
        coefficients = np.zeros((2, 6))
        coefficients[:, 0] = centre[0] + dx, centre[1] + dy
        coefficients[0, 1] = coefficients[1, 2] = half
        return cls(coefficients, centre, half)

    def terms(self, x: Float64, y: Float64) -> Float64:
        """The six terms at flat arrays of places, (6, n)."""
        u, v = (x - self.centre[0]) / self.half, (y - self.centre[1]) / self.half
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])

    def __call__(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Frame pixels (x, y) of grid pixels."""
        frame_x, frame_y = np.tensordot(self.coefficients, self.terms(x, y), axes=1)
        return frame_x, frame_y


def to_grid(
    image: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any], place: WCS | PixelMap, grid: Grid
) -> tuple[Float32, Float32, Mask]:
    """Resample a frame onto a grid with a cubic spline, conserving flux.

    The image is multiplied by the area of a grid pixel in frame pixels. The variance is interpolated linearly
    as a smooth field times that area, *not* with squared weights: interpolation takes noise away at high
    frequency only and correlates what is left, so that the noise power which a matched filter of FWHM >= 3 px
    sees stays that of the frame, and so S_corr of resampled frames keeps unit width. Single resampled
    pixels scatter less than their variance says.

    Pixels that are NaN, BAD or COSMIC_RAY are filled from their neighbours before and masked after, so that
    nothing spreads through the spline. A grid pixel is NaN (NO_DATA) where one of the four nearest frame
    pixels is missing. Mask bits are those of all 4x4 pixels that contribute, with INTERPOLATED where a filled
    one is among them and EDGE where the frame ends within them.

    Parameters
    ----------
    image, variance : (y, x) float32
        Electrons and electrons squared, NaN marks no data.
    mask : (y, x) uint16
        Bits of `Flag`.
    place : WCS or PixelMap
        Of the frame: its WCS where the grid has one too, else the map from the grid that its stars told.
    grid : Grid

    Returns
    -------
    image, variance, mask
        Of the grid's shape. A frame that lies whole pixels off the grid, to 1e-3 px, keeps its pixels as
        they are.

    Raises
    ------
    InputError
        Planes of different shapes, or a WCS and a grid without one.
    """
    if not image.shape == variance.shape == mask.shape:
        raise InputError(
            f"image is {image.shape}, variance {variance.shape}, mask {mask.shape}: one frame, one shape"
        )
    if isinstance(place, WCS) and grid.wcs is None:
        raise InputError("the frame has a WCS and its field's grid none: align it by its stars")
    nodes_y, nodes_x = _nodes(grid.height), _nodes(grid.width)
    at_x, at_y = _frame_pixels(place, grid, nodes_x, nodes_y)
    shift = _whole_shift(at_x, at_y, nodes_x, nodes_y)
    if shift is not None:
        return _shifted(image, variance, mask, shift, grid)
    if not np.isfinite(at_x).all():
        return _empty(grid)
    columns, rows = np.arange(grid.width), np.arange(grid.height)
    area = np.abs(_area(at_x, at_y, nodes_x, nodes_y))
    x, y, scale = (
        RectBivariateSpline(nodes_y, nodes_x, node, s=0)(rows, columns) for node in (at_x, at_y, area)
    )

    finite = np.isfinite(image) & np.isfinite(variance)
    meaningful = finite & ((mask & int(_FILLED)) == 0)
    if not meaningful.any():
        return _empty(grid)
    new_mask, missing = _resample_mask(mask, finite, meaningful, x, y)
    spline = ndimage.spline_filter(_fill(image, meaningful), order=3, mode="mirror", output=np.float64)
    new_image = ndimage.map_coordinates(spline, (y, x), order=3, mode="mirror", prefilter=False) * scale
    new_variance = (
        ndimage.map_coordinates(_fill(variance, meaningful), (y, x), order=1, mode="nearest") * scale
    )
    new_image[missing] = np.nan
    new_variance[missing] = np.nan
    return new_image.astype(np.float32), new_variance.astype(np.float32), new_mask


def overlap(place: WCS | PixelMap | None, shape: tuple[int, int], grid: Grid) -> float:
    """Part of the grid that a frame covers, 0 to 1; where nothing maps them 1 if the shapes agree, else 0.

    Parameters
    ----------
    place : WCS, PixelMap or None
        Of the frame.
    shape : (height, width)
        Of the frame.
    grid : Grid
    """
    if place is None or (isinstance(place, WCS) and grid.wcs is None):
        return float(tuple(shape) == grid.shape)
    x, y = np.linspace(0, grid.width - 1, 65), np.linspace(0, grid.height - 1, 65)
    at_x, at_y = _frame_pixels(place, grid, x, y)
    with np.errstate(invalid="ignore"):
        inside = (at_x > -0.5) & (at_x < shape[1] - 0.5) & (at_y > -0.5) & (at_y < shape[0] - 0.5)
    return float(inside.mean())


def _read_wcs(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        # astropy tells of every old keyword it translates (dates, RADECSYS); none changes a position
        warnings.simplefilter("ignore", AstropyWarning)
        return WCS(header)


@lru_cache(maxsize=64)
def _wcs_of(header: str) -> WCS:
    return _read_wcs(fits.Header.fromstring(header))


def _nodes(size: int) -> Float64:
    """Lattice coordinates from 0 to beyond the last pixel, at least four for a cubic spline."""
    return np.arange(max(-(-(size - 1) // _LATTICE_PX) + 1, 4), dtype=np.float64) * _LATTICE_PX


def _frame_pixels(place: WCS | PixelMap, grid: Grid, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Frame pixels (x, y) of a lattice of grid pixels; all NaN where the frame is elsewhere."""
    grid_x, grid_y = np.meshgrid(x, y)
    if isinstance(place, PixelMap):
        return place(grid_x, grid_y)
    try:
        frame_x, frame_y = pixel_to_pixel(grid.wcs, place, grid_x, grid_y)
    except NoConvergence as failure:  # SIP far outside its frame
        frame_x, frame_y = (p.reshape(grid_x.shape) for p in np.array(failure.best_solution).T)
        for lost in (failure.divergent, failure.slow_conv):
            if lost is not None:
                frame_x.flat[np.ravel(lost)] = np.nan
    frame_x, frame_y = np.array(frame_x, dtype=float), np.array(frame_y, dtype=float)
    known = np.isfinite(frame_x) & np.isfinite(frame_y)
    if known.all():
        return frame_x, frame_y
    if known.sum() < 6:
        return np.full(grid_x.shape, np.nan), np.full(grid_x.shape, np.nan)
    # Nodes too far from the frame to have a solution: anything smooth that keeps them outside.
    terms = np.column_stack([np.ones(grid_x.size), grid_x.ravel(), grid_y.ravel()])
    for frame in (frame_x, frame_y):
        fit, *_ = np.linalg.lstsq(terms[known.ravel()], frame[known], rcond=None)
        frame[~known] = (terms @ fit).reshape(frame.shape)[~known]
    return frame_x, frame_y


def _whole_shift(at_x: Float64, at_y: Float64, x: Float64, y: Float64) -> tuple[int, int] | None:
    """Shift (rows, columns) from grid to frame where it is one of whole pixels everywhere."""
    off_y, off_x = at_y - y[:, None], at_x - x[None, :]
    if not (np.isfinite(off_x).all() and np.isfinite(off_y).all()):
        return None
    rows, columns = round(float(np.median(off_y))), round(float(np.median(off_x)))
    same = np.abs(off_y - rows).max() < _SAME_PX and np.abs(off_x - columns).max() < _SAME_PX
    return (rows, columns) if same else None


def _area(at_x: Float64, at_y: Float64, x: Float64, y: Float64) -> Float64:
    """Area of a grid pixel in frame pixels at the lattice's nodes."""
    xy, xx = np.gradient(at_x, y, x, edge_order=2)
    yy, yx = np.gradient(at_y, y, x, edge_order=2)
    area: Float64 = np.asarray(xx * yy - xy * yx)
    return area


def _fill(plane: NDArray[Any], known: NDArray[np.bool_]) -> Float64:
    """Unknown pixels from their neighbours, near ones first, the median where none is near."""
    filled: Float64 = np.where(known, plane, 0).astype(np.float64)
    if known.all():
        return filled
    todo = ~known
    for sigma in (1.0, 4.0):
        weight = ndimage.gaussian_filter(known.astype(np.float64), sigma, mode="constant")
        mean = ndimage.gaussian_filter(np.where(known, plane, 0).astype(np.float64), sigma, mode="constant")
        reached = todo & (weight > 0.02)
        filled[reached] = mean[reached] / weight[reached]
        todo &= ~reached
    if todo.any():
        filled[todo] = float(np.median(plane[known]))
    return filled


def _resample_mask(
    mask: NDArray[Any], finite: NDArray[np.bool_], meaningful: NDArray[np.bool_], x: Float64, y: Float64
) -> tuple[Mask, NDArray[np.bool_]]:
    """Bits of all contributing pixels, and where the grid has no data."""
    bits = mask.astype(np.uint32)
    bits[~meaningful] |= _BIT_FILLED
    bits[~finite | ((mask & int(Flag.NO_DATA)) != 0)] |= _BIT_NO_DATA
    bits = np.pad(bits, _PAD, constant_values=_BIT_OUTSIDE | _BIT_NO_DATA)
    first, inner, outer = [], bits, bits
    for axis, position in ((0, y), (1, x)):
        pixel = np.floor(position)
        if np.abs(position - np.rint(position)).max() < _SAME_PX:  # whole pixels: one contributes
            pixel = np.rint(position)
        else:
            inner = inner | np.roll(inner, -1, axis)
            outer = np.roll(outer, 1, axis) | outer | np.roll(outer, -1, axis) | np.roll(outer, -2, axis)
        size = mask.shape[axis]
        first.append((np.clip(pixel, -2, size + 1) + _PAD).astype(np.intp))
    joined = outer | np.where((inner & _BIT_NO_DATA) != 0, np.uint32(_BIT_MISSING), np.uint32(0))
    reached: NDArray[np.uint32] = joined.ravel()[first[0] * joined.shape[1] + first[1]]
    missing: NDArray[np.bool_] = (reached & _BIT_MISSING) != 0
    out = (reached & (0xFFFF ^ int(Flag.NO_DATA))).astype(np.uint16)
    out[((reached & (_BIT_FILLED | _BIT_NO_DATA)) != 0) & ~missing] |= int(Flag.INTERPOLATED)
    out[((reached & _BIT_OUTSIDE) != 0) & ~missing] |= int(Flag.EDGE)
    out[missing] |= int(Flag.NO_DATA)
    return out, missing


def _shifted(
    image: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any], shift: tuple[int, int], grid: Grid
) -> tuple[Float32, Float32, Mask]:
    """The frame's own pixels at their places on the grid, nothing elsewhere."""
    new_image, new_variance, new_mask = _empty(grid)
    to, at = [], []
    for off, size, own in zip(shift, grid.shape, image.shape, strict=True):
        first, last = max(0, -off), min(size, own - off)
        to.append(slice(first, max(first, last)))
        at.append(slice(first + off, max(first, last) + off))
    new_image[tuple(to)] = image[tuple(at)]
    new_variance[tuple(to)] = variance[tuple(at)]
    new_mask[tuple(to)] = mask[tuple(at)]
    return new_image, new_variance, new_mask


def _empty(grid: Grid) -> tuple[Float32, Float32, Mask]:
    nothing = np.full(grid.shape, np.nan, dtype=np.float32)
    return nothing, nothing.copy(), np.full(grid.shape, int(Flag.NO_DATA), dtype=np.uint16)
