"""Questions to a table of candidates (or of truth): around a position, of one object."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from astrid_dist.errors import ConfigError
from astrid_dist.query.cutouts import Degrees, name_of, sky_position

ROWS = ("candidate", "object")


def row_dimension(table: xr.Dataset) -> str:
    """The dimension that counts rows: ``candidate``, or ``object`` in a truth table.

    Raises
    ------
    ConfigError
        The dataset is no table.
    """
    for name in ROWS:
        if name in table.dims:
            return name
    raise ConfigError(
        f"{name_of(table)} is a cube, not a table of candidates: its dimensions are {tuple(table.dims)}"
    )


def cone(
    table: xr.Dataset, ra: Degrees, dec: Degrees = None, radius_arcsec: float | None = None
) -> xr.Dataset:
    """Rows within an angular distance of a sky position, nearest first, with ``separation`` in arcsec.

    Parameters
    ----------
    table : Dataset
        Candidates or truth.
    ra, dec : float or angle
        Degrees, ICRS; or a SkyCoord as `ra` alone.
    radius_arcsec : float
        Largest separation, included.

    Raises
    ------
    ConfigError
        It is no position, there is no radius, or the table has no sky positions.
    """
    ra, dec = sky_position(ra, dec)
    if radius_arcsec is None or not radius_arcsec >= 0:
        raise ConfigError(f"a cone needs radius_arcsec=, a number of arcsec from 0 on, not {radius_arcsec}")
    rows = row_dimension(table)
    if "ra" not in table or (not np.isfinite(table["ra"].to_numpy()).any() and table.sizes[rows]):
        raise ConfigError(f"{name_of(table)} has no sky positions: select by its x and y, in pixels")
    separation = angular_separation_arcsec(
        ra, dec, table["ra"].to_numpy().astype("f8"), table["dec"].to_numpy().astype("f8")
    )
    chosen = np.flatnonzero(separation <= radius_arcsec)
    chosen = chosen[np.argsort(separation[chosen], kind="stable")]
    attributes = {"units": "arcsec", "long_name": "distance from the centre of the cone"}
    return table.isel({rows: chosen}).assign(separation=(rows, separation[chosen], attributes))


def angular_separation_arcsec(
    ra: float, dec: float, other_ra: npt.NDArray[Any], other_dec: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Great-circle distance in arcsec by the haversine formula, which is exact for small angles."""
    lon, lat = np.radians(np.asarray(other_ra) - ra), np.radians(other_dec)
    lat0 = np.radians(dec)
    half = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin(lon / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1.0)))) * 3600.0)


def object_history(table: xr.Dataset, number: int) -> xr.Dataset:
    """Detections of one object, in order of time.

    Raises
    ------
    ConfigError
        No row carries that number.
    """
    rows = row_dimension(table)
    identity = "object" if rows == "candidate" else "id"
    chosen = np.flatnonzero(table[identity].to_numpy() == number)
    if not len(chosen):
        raise ConfigError(f"{name_of(table)} has no object {number} among its {table.sizes[rows]} rows")
    order = np.argsort(table["mjd"].to_numpy()[chosen], kind="stable")
    history = table.isel({rows: chosen[order]})
    return history.assign_attrs(product="light_curve", of="candidates")


def to_dataframe(table: xr.Dataset) -> pd.DataFrame:
    """All columns in memory as pandas, one line per row; the index is the row number."""
    rows = row_dimension(table)
    loaded = table.compute()
    names = [
        str(name) for name, variable in loaded.variables.items() if variable.dims == (rows,) and name != rows
    ]
    frame = pd.DataFrame({name: loaded[name].to_numpy() for name in names})
    frame.index.name = rows
    return frame
