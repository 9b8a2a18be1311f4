"""Reading regions of a product by dimension name, without Dask: what tasks use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import EllipsisType
from typing import Any

import numpy as np
import zarr
from zarr.errors import GroupNotFoundError

from astrid_dist.errors import ConfigError, IncompleteProductError, StorageError
from astrid_dist.store import layouts
from astrid_dist.store.locations import Location
from astrid_dist.store.shards import StoredArray, stored_arrays
from astrid_dist.store.templates import root_attributes

#: Small requests in flight at once.
_THREADS = 16


def checked_attributes(location: Location, product: str, allow_partial: bool = False) -> dict[str, Any]:
    """Attributes of a root, if it is a product of this kind that may be read.

    Raises
    ------
    ConfigError
        If there is no such product, it is of another kind, or made by a later version.
    IncompleteProductError
        If it is not finished and ``allow_partial`` is false; a survey grows and can always be read.
    """
    layouts.variables(product)
    attributes = root_attributes(location)
    header = attributes["astrid"]
    if header["product"] != product:
        raise ConfigError(
            f"{location} is a {header['product']} product, not a {product}: use open_{header['product']}"
        )
    if product != "survey" and header["state"] != "complete" and not allow_partial:
        raise IncompleteProductError(
            f"{location} is {header['state']}: finish it with `astrid resume {location}`, or open it with"
            " allow_partial=True"
        )
    return attributes


def field_names(location: Location) -> tuple[str, ...]:
    """Names of the fields of a product: one listing, without looking into any."""
    return tuple(name for name in location.objects().folders() if name not in layouts.TABLES)


def group_names(location: Location) -> Iterator[str]:
    """Names of the ``<field>/<band>`` groups of a product, sorted: one listing per field."""
    objects, fields = location.objects(), field_names(location)
    with ThreadPoolExecutor(_THREADS) as pool:
        for field, bands in zip(fields, pool.map(objects.folders, fields), strict=True):
            yield from (f"{field}/{band}" for band in bands)


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
        self._stamps: dict[str, StoredArray] = {}

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

    def read(
        self, variable: str, out: np.ndarray[Any, Any] | None = None, /, **selection: int | slice
    ) -> np.ndarray[Any, Any]:
        """Values of a variable; dimensions that are not named are read whole.

        Parameters
        ----------
        variable : str
            Its name.
        out : (shard, ...) array, optional
            Memory that one whole shard of samples is decoded into: of another shard that nobody needs any
            more, as new memory takes longer to get than to fill. Anything else is read as without it.
        **selection : int or slice
            By dimension.

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
        if "sample" in names and array.shards:
            return self._stored(variable).values(index, out)
        try:
            return np.asarray(array[index])
        except (OSError, ValueError, RuntimeError) as error:
            where = f"{self.location}/{self.group}/{variable}{list(map(str, index))}"
            raise StorageError(
                f"cannot read {where}: {error}; `astrid verify` names damaged shards"
            ) from error

    def _stored(self, variable: str) -> StoredArray:
        """Stamps, whose whole shards are decoded at once."""
        if variable not in self._stamps:
            wanted = [layouts.variable("samples", variable)]
            self._stamps[variable] = stored_arrays(self.location, self.group, wanted)[0][1]
        return self._stamps[variable]
