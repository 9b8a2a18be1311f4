"""Stored arrays as Dask sees them: a place, a shape and a type, opened where they are read."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.array import AsyncArray
from zarr.storage import StorePath

from astrid_dist.errors import StorageError
from astrid_dist.store.failures import storage_errors
from astrid_dist.store.layouts import Variable
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import METADATA, decode_document

#: Small requests in flight at once.
_THREADS = 16


@dataclass(frozen=True)
class StoredArray:
    """An array of a product, sliced to what is committed.

    It travels to workers as this description, without connection or credentials; opening it asks for nothing.
    """

    location: Location
    path: str
    """Path below the root of the product."""
    metadata: dict[str, Any]
    """The array's ``zarr.json``."""
    shape: tuple[int, ...]
    """Shape shown, at most the stored one."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values; text is object."""
        name = self.metadata["data_type"]
        return np.dtype(object if name == "string" else name)

    @property
    def units(self) -> tuple[int, ...]:
        """Length of a shard, or where there is none a chunk, along each dimension."""
        return tuple(self.metadata["chunk_grid"]["configuration"]["chunk_shape"])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        with storage_errors(f"reading {self.location}/{self.path}"):
            try:
                values = np.asarray(self._array[key])
            except (ValueError, RuntimeError) as error:
                raise StorageError(
                    f"{self.location}/{self.path}{_spell(key)} cannot be decoded: {error};"
                    f" `astrid verify {self.location}` names every damaged shard"
                ) from error
        return values.astype(object) if self.dtype.kind == "O" else values

    def read(self) -> NDArray[Any]:
        """All values shown."""
        return self[tuple(slice(0, size) for size in self.shape)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_array"}

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (str(self.location), self.path, self.shape, repr(self.metadata))

    @cached_property
    def _array(self) -> "zarr.Array[Any]":
        store = StorePath(self.location.zarr_store(read_only=True), self.path)
        return zarr.Array(AsyncArray.from_dict(store, self.metadata))


def stored_arrays(
    location: Location, group: str, variables: Iterable[Variable], epochs: int | None = None
) -> list[tuple[Variable, StoredArray]]:
    """The arrays of some variables of a group.

    Parameters
    ----------
    location : Location
        Root of the product.
    group : str
        Group, or empty for a table at the root.
    variables : iterable of Variable
        What to open.
    epochs : int, optional
        Committed epochs, read before this is called; epoch arrays are cut to it.

    Raises
    ------
    StorageError
        If an array is missing, damaged, or shorter than what is committed.
    """
    wanted = list(variables)
    paths = [f"{group}/{one.name}".lstrip("/") for one in wanted]
    with ThreadPoolExecutor(_THREADS) as pool:
        bodies = list(pool.map(location.objects().get, [f"{path}/{METADATA}" for path in paths]))
    found = []
    for one, path, body in zip(wanted, paths, bodies, strict=True):
        if body is None:
            raise StorageError(f"{location}/{path} is missing: `astrid verify {location}` says what else is")
        metadata = decode_document(body, f"{location}/{path}/{METADATA}")
        shape = tuple(metadata["shape"])
        if epochs is not None and "epoch" in one.dims:
            if shape[0] < epochs:
                raise StorageError(
                    f"{location}/{path} has {shape[0]} epochs although {epochs} are committed: it is damaged"
                )
            shape = (epochs, *shape[1:])
        found.append((one, StoredArray(location, path, metadata, shape)))
    return found


def _spell(key: Any) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    return str([f"{part.start}:{part.stop}" if isinstance(part, slice) else part for part in parts])
