"""Where a position lies on a cube's grid, and the small cube around it; nothing here reads pixels."""

from typing import Any, SupportsFloat

import numpy as np
import xarray as xr
from astropy.wcs import WCS, NoConvergence

from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag

#: Degrees as a number or an angle; a right ascension may be a whole `astropy.coordinates.SkyCoord`.
Degrees = Any


def grid_wcs(dataset: xr.Dataset) -> WCS:
    """WCS of the grid a product lives on, from the FITS header string in ``attrs["wcs"]``.

    Raises
    ------
    ConfigError
        The product has no WCS: positions can only be given in pixels.
    """
    from astrid_dist.imaging.resampling import Grid

    header = dataset.attrs.get("wcs")
    if not header:
        raise ConfigError(f"{name_of(dataset)} has no WCS: give the position in pixels, as x= and y=")
    wcs = Grid(header, dataset.sizes.get("y", 0), dataset.sizes.get("x", 0)).wcs
    assert wcs is not None  # the header is not empty
    return wcs.celestial


def name_of(dataset: xr.Dataset) -> str:
    """What an error message calls a dataset."""
    where = f"{dataset.attrs.get('url', '')} {dataset.attrs.get('group', '')}".strip()
    return where or f"this {dataset.attrs.get('product', 'dataset')}"


def require_epochs(dataset: xr.Dataset) -> None:
    """Refuse what has no epochs.

    Raises
    ------
    ConfigError
        The dataset is a reference, or one epoch whose axis is gone.
    """
    if "epoch" in dataset.dims:
        return
    if dataset.attrs.get("product") in ("survey", "difference") or "difference" in dataset:
        raise ConfigError(
            f"{name_of(dataset)} has no epochs axis left: choose an epoch as isel(epoch=[3]), "
            f"which keeps the axis that isel(epoch=3) drops"
        )
    raise ConfigError(f"{name_of(dataset)} has no epochs: ask the survey or the difference instead")


def sky_position(ra: Degrees, dec: Degrees) -> tuple[float, float]:
    """Right ascension and declination in degrees (ICRS) of two numbers or angles, or of one SkyCoord.

    Raises
    ------
    ConfigError
        They are no position on the sky.
    """
    if hasattr(ra, "icrs"):
        if dec is not None:
            raise ConfigError(f"a SkyCoord is the whole position: give no dec beside it, not dec={dec}")
        if ra.shape != ():
            raise ConfigError(f"a position is one SkyCoord, not {ra.size} of them: ask for each")
        ra, dec = ra.icrs.ra, ra.icrs.dec
    degrees = _degrees("ra", ra), _degrees("dec", dec)
    if not (-180 <= degrees[0] <= 360 and -90 <= degrees[1] <= 90):
        raise ConfigError(
            f"ra={degrees[0]}, dec={degrees[1]} is no position on the sky: ra is 0..360 (or -180..180) and "
            f"dec -90..90, both in degrees"
        )
    return degrees


def _degrees(name: str, value: Any) -> float:
    try:
        return float(value.to_value("deg") if hasattr(value, "to_value") else value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is a number of degrees, an angle, or (as ra alone) a SkyCoord, not {value!r}"
        ) from error


def pixel_position(
    dataset: xr.Dataset,
    ra: Degrees = None,
    dec: Degrees = None,
    *,
    x: SupportsFloat | None = None,
    y: SupportsFloat | None = None,
) -> tuple[float, float]:
    """Pixel position on the parent grid of a sky position (degrees, ICRS), or of `x` and `y` themselves.

    Raises
    ------
    ConfigError
        Neither or both pairs are given, there is no WCS, or the position is outside the dataset.
    """
    by_sky = ra is not None and (dec is not None or hasattr(ra, "icrs"))
    by_pixel = x is not None and y is not None
    halves = (ra is not None or dec is not None) + (x is not None or y is not None)
    if by_sky == by_pixel or halves != 1:
        raise ConfigError(
            f"a position is either ra and dec in degrees (or one SkyCoord as ra) or x= and y= in pixels, "
            f"not ra={ra}, dec={dec}, x={x}, y={y}"
        )
    where = ""
    if by_sky:
        ra, dec = sky_position(ra, dec)
        where = f"ra={ra}, dec={dec} is "
        try:
            x, y = grid_wcs(dataset).world_to_pixel_values(ra, dec)
        except NoConvergence:
            x = y = np.nan  # so far outside that the distortion has no inverse there
    assert x is not None
    assert y is not None
    x, y = float(x), float(y)
    (x_first, width), (y_first, height) = (_extent(dataset, axis) for axis in ("x", "y"))
    inside_x = x_first - 0.5 <= x < x_first + width - 0.5
    inside_y = y_first - 0.5 <= y < y_first + height - 0.5
    if not (inside_x and inside_y):
        raise ConfigError(
            f"{where}x={x:.1f}, y={y:.1f}, outside {name_of(dataset)}, which covers "
            f"x {x_first}..{x_first + width - 1}, y {y_first}..{y_first + height - 1}"
        )
    return x, y


def _extent(dataset: xr.Dataset, axis: str) -> tuple[int, int]:
    """First pixel number and length of an axis; a slice of a cube keeps its parent's numbers."""
    if axis not in dataset.dims:
        raise ConfigError(f"{name_of(dataset)} has no {axis} axis: dimensions are {tuple(dataset.dims)}")
    first = int(dataset[axis][0]) if axis in dataset.coords else 0
    return first, dataset.sizes[axis]


def window(dataset: xr.Dataset, x: float, y: float, size: int) -> xr.Dataset:
    """Image planes of the `size` x `size` pixels around a position, cut at the border of the grid.

    Coordinates ``x`` and ``y`` are pixel numbers of the parent grid; everything else is dropped
    except the values per epoch.
    """
    selection = {}
    coordinates = {}
    for axis, position in (("y", y), ("x", x)):
        first, length = _extent(dataset, axis)
        start = _first_pixel(position, size) - first
        begin, end = max(start, 0), min(start + size, length)
        selection[axis] = slice(begin, end)
        coordinates[axis] = np.arange(first + begin, first + end)
    kept = [
        name
        for name, variable in dataset.variables.items()
        if {"y", "x"} <= set(variable.dims) or variable.dims in [("epoch",), ()]
    ]
    # The slice comes first and straight on the opened array, so that Dask hands it to Zarr, which then
    # reads only the inner chunks it touches, not the shard.
    return dataset[kept].isel(selection).assign_coords(coordinates)


def _first_pixel(position: float, size: int) -> int:
    return int(np.floor(position + 0.5)) - size // 2


def cutout(dataset: xr.Dataset, x: float, y: float, size: int) -> xr.Dataset:
    """Image planes around a position, exactly `size` x `size`, with the PSF and tile measurements there.

    Parameters
    ----------
    dataset : Dataset
        A survey, reference or difference group.
    x, y : float
        Position in pixels of the parent grid; it falls in the middle pixel when `size` is odd.
    size : int
        Side in pixels.

    Returns
    -------
    Dataset
        Lazy. Beyond the border: NaN, and NO_DATA in ``mask``. ``psf`` (v, u) is evaluated at the position;
        measurements per tile become those of its tile.
    """
    if size < 1:
        raise ConfigError(f"size of a cutout is at least 1 pixel, not {size}")
    planes = window(dataset, x, y, size)
    wanted = {axis: np.arange(size) + _first_pixel(position, size) for axis, position in (("y", y), ("x", x))}
    if any(planes.sizes[axis] != size for axis in ("y", "x")):
        fill: dict[Any, Any] = {
            name: _padding(variable) for name, variable in planes.data_vars.items() if "x" in variable.dims
        }
        planes = planes.reindex(wanted, fill_value=fill)
    if "tile_x" in dataset.dims:
        planes = planes.assign(tile_values(dataset, x, y))
    elif "psf" in dataset and "psf_term" in dataset.dims:
        planes["psf"] = psf_at(dataset, x, y)
    return planes


def _padding(variable: xr.DataArray) -> Any:
    if variable.name == "mask":
        return np.uint16(Flag.NO_DATA)
    return np.array(np.nan if variable.dtype.kind == "f" else 0, variable.dtype)[()]


def tile_values(dataset: xr.Dataset, x: float, y: float) -> dict[str, xr.DataArray]:
    """Variables of a difference per tile (PSF of D, noise, flux ratio, ...) at the tile under a position."""
    tile = int(dataset.attrs["tile"])
    at = {
        f"tile_{axis}": min(int((position + 0.5) // tile), dataset.sizes[f"tile_{axis}"] - 1)
        for axis, position in (("y", y), ("x", x))
    }
    return {
        str(name): variable.isel(at)
        for name, variable in dataset.data_vars.items()
        if {"tile_y", "tile_x"} <= set(variable.dims)
    }


def psf_at(dataset: xr.Dataset, x: float, y: float) -> xr.DataArray:
    """PSF at a position of a survey or reference: (..., v, u), lazy, sums to 1."""
    from astrid_dist.imaging.psf import evaluate

    order, oversampling = (int(dataset.attrs.get(*one)) for one in (("psf_order", 0), ("oversampling", 1)))
    shape = grid_shape(dataset)
    box = (dataset.sizes["u"] - 1) // oversampling + 1

    def stamp(terms: Any) -> Any:
        return evaluate(terms, order, x, y, shape, oversampling)

    at: xr.DataArray = xr.apply_ufunc(
        stamp,
        dataset["psf"].rename(v="fine_v", u="fine_u"),
        input_core_dims=[["psf_term", "fine_v", "fine_u"]],
        output_core_dims=[["v", "u"]],
        vectorize=True,
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"v": box, "u": box}},
        output_dtypes=[np.float32],
    )
    return at.assign_attrs(units="1", long_name="point spread function at the position, sums to 1")


def grid_shape(dataset: xr.Dataset) -> tuple[int, int]:
    """Height and width of the grid; the polynomials of the PSF are scaled to it.

    Raises
    ------
    ConfigError
        The dataset is a slice of a cube: it no longer knows how large the grid was.
    """
    extents = [_extent(dataset, axis) for axis in ("y", "x")]
    if any(first != 0 for first, _ in extents):
        raise ConfigError(
            f"{name_of(dataset)} was sliced along y or x: ask the whole cube, which reads only what it needs"
        )
    return extents[0][1], extents[1][1]
