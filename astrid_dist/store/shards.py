"""Stored arrays as Dask sees them: a place, a shape and a type, opened where they are read."""

from collections.abc import Collection, Iterable
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
from astrid_dist.store.whole_shards import decode_shard, is_row_shard

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
        return self.values(key)

    def values(self, key: Any, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Values of a selection; a whole shard of samples is decoded into `out`, if that is given."""
        with storage_errors(f"reading {self.location}/{self.path}"):
            try:
                values = self._whole_shard(key, out)
                if values is None:
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

    def _whole_shard(self, key: Any, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """What `key` asks for, if that is one whole shard that can be decoded at once."""
        if not self._in_rows or not isinstance(key, tuple) or len(key) != self.ndim:
            return None
        if not all(isinstance(part, slice) and part.step in (None, 1) for part in key):
            return None
        (start, stop), *others = [part.indices(size)[:2] for part, size in zip(key, self.shape, strict=True)]
        unit = self.units[0]
        whole = others == [(0, size) for size in self.shape[1:]]
        if start % unit or stop != min(start + unit, self.shape[0]) or not whole or start >= stop:
            return None
        place = "/".join([self.path, "c", str(start // unit), *["0"] * (self.ndim - 1)])
        body = self._object(place)
        return None if body is None else decode_shard(body, self.metadata, stop - start, out)

    def _object(self, place: str) -> bytes | NDArray[np.uint8] | None:
        """A whole shard's object; of a local one NumPy fills huge pages, in half the time of `read_bytes`."""
        folder = self.location.path
        if folder is None:
            return self.location.objects().get(place)
        try:
            return np.fromfile(folder / place, np.uint8)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @cached_property
    def _in_rows(self) -> bool:
        return is_row_shard(self.metadata)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_array", "_in_rows")}

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (str(self.location), self.path, self.shape, repr(self.metadata))

    @cached_property
    def _array(self) -> "zarr.Array[Any]":
        store = StorePath(self.location.zarr_store(read_only=True), self.path)
        return zarr.Array(AsyncArray.from_dict(store, self.metadata))


def stored_arrays(
    location: Location,
    group: str,
    variables: Iterable[Variable],
    epochs: int | None = None,
    may_lack: Collection[str] = (),
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
    may_lack : collection of str
        Variables that older products do not have.

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
        if body is None and one.name in may_lack:
            continue
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
