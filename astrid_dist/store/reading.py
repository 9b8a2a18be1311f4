"""Reading regions of a product by dimension name, without Dask: what tasks use."""

from types import EllipsisType
from typing import Any

import numpy as np
import zarr
from zarr.errors import GroupNotFoundError

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.store.locations import Location


class ProductReader:
    """One ``<field>/<band>`` group of a product, opened for reading.

    Parameters
    ----------
    location : Location
        Root of the product.
    group : str
        ``"<field>/<band>"``.

    Raises
    ------
    ConfigError
        The group does not exist.
    """

    def __init__(self, location: Location, group: str) -> None:
        self.location = location
        self.group = group
        try:
            self._group = zarr.open_group(
                location.zarr_store(read_only=True), path=group, mode="r", zarr_format=3
            )
        except (GroupNotFoundError, FileNotFoundError) as error:
            raise ConfigError(f"{location} has no group {group!r}") from error
        self._arrays: dict[str, zarr.Array[Any]] = {}

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return dict(self._group.attrs)

    @property
    def epochs(self) -> int:
        """Committed epochs; slots beyond are still being written."""
        return int(self._group.attrs.get("epochs", 0))  # type: ignore[arg-type]

    def array(self, variable: str) -> "zarr.Array[Any]":
        """The Zarr array of a variable."""
        if variable not in self._arrays:
            array = self._group[variable]
            if not isinstance(array, zarr.Array):
                raise ConfigError(f"{self.location}/{self.group}/{variable} is not an array")
            self._arrays[variable] = array
        return self._arrays[variable]

    def sizes(self, variable: str) -> dict[str, int]:
        """Length of each dimension of a variable."""
        array = self.array(variable)
        return dict(zip(array.metadata.dimension_names or (), array.shape, strict=True))  # type: ignore[union-attr,arg-type]

    def read(self, variable: str, **selection: int | slice) -> np.ndarray[Any, Any]:
        """Values of a variable; dimensions that are not named are read whole.

        Raises
        ------
        StorageError
            A shard is damaged or the store does not answer; names the variable and the region.
        """
        array = self.array(variable)
        names = array.metadata.dimension_names or ()  # type: ignore[union-attr]
        unknown = set(selection) - set(names)
        if unknown:
            raise ConfigError(f"{variable} has dimensions {names}, not {sorted(unknown)}")
        index: tuple[int | slice | EllipsisType, ...] = tuple(
            selection.get(str(name), slice(None)) for name in names
        )
        try:
            return np.asarray(array[index])
        except (OSError, ValueError, RuntimeError) as error:
            where = f"{self.location}/{self.group}/{variable}{list(map(str, index))}"
            raise StorageError(
                f"cannot read {where}: {error}; `astrid verify` names damaged shards"
            ) from error
