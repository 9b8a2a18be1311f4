"""The ``.astrid`` accessor: what a scientist asks of an opened product, in the words of the field."""

from typing import Any, SupportsFloat

import pandas as pd
import xarray as xr
from astropy.wcs import WCS

from astrid_dist.errors import ConfigError
from astrid_dist.query import cutouts, light_curves, quality, samples, tables
from astrid_dist.query.cutouts import Degrees


@xr.register_dataset_accessor("astrid")  # type: ignore[no-untyped-call]
class AstridAccessor:
    """Questions to a survey, reference, difference, samples, candidates or truth dataset.

    Registered when `astrid_dist.query` is imported, which every ``astrid_dist.open_*`` does.
    Nothing is read before a result is computed, except the small values per epoch.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset
        self._wcs: WCS | None = None

    @property
    def wcs(self) -> WCS:
        """Celestial WCS of the grid; pixels are 0-based with centres at integers.

        Raises
        ------
        ConfigError
            The product has no WCS.
        """
        if self._wcs is None:
            self._wcs = cutouts.grid_wcs(self._dataset)
        return self._wcs

    def cutout(
        self,
        ra: Degrees = None,
        dec: Degrees = None,
        size: int = 63,
        *,
        x: SupportsFloat | None = None,
        y: SupportsFloat | None = None,
    ) -> xr.Dataset:
        """Image planes around a sky position (degrees, or a SkyCoord as `ra`) or pixel, `size` x `size`.

        Lazy; see `astrid_dist.query.cutouts.cutout`. Beyond the border of the grid planes are NaN and
        ``mask`` is NO_DATA. Coordinates ``x`` and ``y`` stay those of the parent grid, so does ``wcs``.

        Raises
        ------
        ConfigError
            The position is not given, outside the grid, or needs a WCS that is not there.
        """
        return cutouts.cutout(self._dataset, *cutouts.pixel_position(self._dataset, ra, dec, x=x, y=y), size)

    def light_curve(
        self,
        ra: Degrees = None,
        dec: Degrees = None,
        *,
        x: SupportsFloat | None = None,
        y: SupportsFloat | None = None,
        object: int | None = None,
    ) -> xr.Dataset:
        """Forced photometry at a position of a cube, or the detections of one `object` of a table.

        The position is in degrees, or a SkyCoord as `ra`, or in pixels. Lazy for cubes; see
        `astrid_dist.query.light_curves.light_curve` for what is measured.
        """
        if object is not None:
            return tables.object_history(self._dataset, object)
        if any(name in self._dataset.dims for name in tables.ROWS):
            raise ConfigError("a light curve from a table is that of one object: light_curve(object=ID)")
        position = cutouts.pixel_position(self._dataset, ra, dec, x=x, y=y)
        return light_curves.light_curve(self._dataset, *position)

    def cone(self, ra: Degrees, dec: Degrees = None, radius_arcsec: float | None = None) -> xr.Dataset:
        """Rows of a table within `radius_arcsec` of a position (degrees, or a SkyCoord), nearest first."""
        return tables.cone(self._dataset, ra, dec, radius_arcsec)

    def names(self, variable: str) -> xr.DataArray:
        """Words for codes of samples: class, kind, origin, environment, reason, labeller or band.

        See `astrid_dist.query.samples.names`.
        """
        return samples.names(self._dataset, variable)

    def to_dataframe(self) -> pd.DataFrame:
        """A table in memory as pandas, one line per row; of a cube one line per epoch, quality included."""
        if "epoch" in self._dataset.dims and not set(tables.ROWS) & set(self._dataset.dims):
            return quality.epoch_table(self._dataset)
        return tables.to_dataframe(self._dataset)

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw an ``epoch``, ``triplet``, ``light_curve`` or quality ``trend``; returns a matplotlib Figure.

        See `astrid_dist.query.plots.plot` for the options of each kind.
        """
        from astrid_dist.query.plots import plot

        return plot(self._dataset, kind, **options)
