"""Writing whole shards of a product, with a digest of what they hold."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from astrid_dist.errors import StorageError
from astrid_dist.store import layouts
from astrid_dist.store.failures import storage_errors
from astrid_dist.store.layouts import Variable
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import product_header
from astrid_dist.store.whole_shards import encode_shard, is_row_shard

#: Variables of one task that are written at the same time.
_REQUESTS = 4

Region = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ShardDigest:
    """What was written where."""

    region: Region
    """Start and stop along each dimension."""
    sha256: str
    """Digest of the decoded values: see `digest_values`."""


def digest_values(values: NDArray[Any]) -> str:
    """Return the sha256 over type, shape and little-endian bytes of an array; of strings over their JSON.

    Examples
    --------
    >>> digest_values(np.zeros(2, ">f4")) == digest_values(np.zeros(2, "<f4"))
    True
    """
    if values.dtype.kind in "OTU":
        said = json.dumps(
            ["string", values.shape, values.astype(object).ravel().tolist()], separators=(",", ":")
        )
        return hashlib.sha256(said.encode()).hexdigest()
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str}{list(values.shape)}".encode())
    digest.update(little.data.cast("B") if little.size else b"")
    return digest.hexdigest()


class _UnreadShards(WrapperStore[Any]):
    """A store whose data look absent, for writing whole shards.

    Zarr reads a shard before it writes it, to merge the two: a request more on a bucket, and a shard that was
    damaged could never be written again.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Metadata as they are, nothing of the data."""
        return await super().get(key, prototype, byte_range) if key.endswith("zarr.json") else None


@lru_cache(64)
def _opened(location: str, group: str, created: str) -> "dict[str, zarr.Array[Any]]":
    """Arrays that this process has opened for writing, kept from task to task of one and the same product."""
    return {}


class ProductWriter:
    """Writes one ``<field>/<band>`` group of a product; a task's, or the driver's for scalars.

    Parameters
    ----------
    location : Location
        Root of the product.
    group : str
        ``"<field>/<band>"``, made by `create_group`.
    """

    def __init__(self, location: Location, group: str) -> None:
        self.location = location
        self.group = group
        header = product_header(location)
        self.product = str(header["product"])
        self._arrays = _opened(str(location), group, str(header["created"]))

    def write(self, variable: str, region: Mapping[str, slice | int], values: ArrayLike) -> ShardDigest:
        """Write whole shards of one variable.

        Parameters
        ----------
        variable : str
            Name in the product's layout.
        region : mapping of str to slice or int
            Where along each dimension; dimensions not named are written whole, an integer drops its dimension
            from `values`.
        values : array
            Shape of the region; cast to the layout's type if that keeps its kind.

        Raises
        ------
        StorageError
            If the region is not made of whole shards (two writers of one shard lose data silently), lies
            outside the array (Zarr would drop it without a word), or the values do not fit; on a full disk.
        """
        layout = layouts.variable(self.product, variable)
        if layout.is_scalar:
            raise StorageError(f"{self._name(variable)} is the committer's: hand its values over as scalars")
        array = self._array(variable)
        bounds = self._bounds(layout, array, region)
        if any(stop > size for (_, stop), size in zip(bounds, array.shape, strict=True)):
            array = self._array(variable, again=True)  # it may have grown since it was opened
            bounds = self._bounds(layout, array, region)
        self._check(layout, array, bounds)
        data = self._cast(layout, values, tuple(stop - start for start, stop in bounds), region)
        self._store(array, variable, bounds, data)
        return ShardDigest(bounds, digest_values(data))

    def write_all(
        self, parts: Mapping[str, tuple[Mapping[str, slice | int], ArrayLike]]
    ) -> dict[str, ShardDigest]:
        """Write several variables, small ones at once: on a bucket a request takes longer than its bytes.

        Parameters
        ----------
        parts : mapping of str to (region, array)
            By variable, as for `write`.
        """
        with ThreadPoolExecutor(_REQUESTS) as pool:
            made = pool.map(lambda part: self.write(part[0], *part[1]), parts.items())
            return dict(zip(parts, made, strict=True))

    def write_scalars(self, rows: Mapping[str, ArrayLike], start: int) -> None:
        """Write values of consecutive epochs, for the one committer of a group.

        Each array's chunk is replaced as a whole object, so a reader sees it before or after, never between.

        Parameters
        ----------
        rows : mapping of str to (epoch,) array
            Values by variable, all of one length.
        start : int
            Index of the first epoch.

        Raises
        ------
        StorageError
            If the arrays are shorter than that, the lengths differ, or the disk is full.
        """
        lengths = {name: len(np.atleast_1d(np.asarray(values))) for name, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise StorageError(f"{self.location}/{self.group}: scalars of different lengths: {lengths}")
        for name, values in rows.items():
            layout = layouts.variable(self.product, name)
            if not layout.is_scalar:
                raise StorageError(
                    f"{self._name(name)} has dimensions {layout.dims}: tasks write it, by shard"
                )
            stop = start + lengths[name]
            array = self._array(name)
            if stop > array.shape[0]:
                array = self._array(name, again=True)
            if start < 0 or stop > array.shape[0]:
                raise StorageError(
                    f"{self._name(name)} has {array.shape[0]} epochs, not {start}..{stop}: grow it"
                )
            data = self._cast(layout, np.atleast_1d(np.asarray(values)), (stop - start,), {})
            per_chunk = layouts.EPOCHS_PER_CHUNK
            for chunk in range(start // per_chunk, -(-stop // per_chunk)):
                self.location.pace(f"{self.group}/{name}/c/{chunk}")
            if len(data):
                self._store(array, name, ((start, stop),), data)

    def _store(self, array: "zarr.Array[Any]", variable: str, bounds: Region, data: NDArray[Any]) -> None:
        where = f"writing {self._name(variable)}{[list(bound) for bound in bounds]}"
        with storage_errors(where, need_bytes=data.nbytes):
            try:
                if array.shards and is_row_shard(metadata := array.metadata.to_dict()):
                    self._store_rows(f"{self.group}/{variable}/c", bounds[0][0], data, metadata)
                    return
                array[tuple(slice(start, stop) for start, stop in bounds)] = data
            except (ValueError, RuntimeError) as error:
                raise StorageError(
                    f"{where}: what is there cannot be decoded: {error}; `astrid verify {self.location}`"
                    " names all that is damaged"
                ) from error

    def _store_rows(self, folder: str, first: int, data: NDArray[Any], metadata: dict[str, Any]) -> None:
        """Write shards that are cut along the first axis alone, each at once."""
        unit = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        for start in range(0, len(data), unit):
            place = [folder, str((first + start) // unit), *["0"] * (data.ndim - 1)]
            body = encode_shard(data[start : start + unit], metadata)
            self.location.objects().put("/".join(place), body)

    def _array(self, variable: str, again: bool = False) -> "zarr.Array[Any]":
        if again or variable not in self._arrays:
            store: Store = self.location.zarr_store()
            if not layouts.variable(self.product, variable).is_scalar:
                store = _UnreadShards(store)
            with storage_errors(f"opening {self._name(variable)}"):
                try:
                    self._arrays[variable] = zarr.open_array(
                        store,
                        path=f"{self.group}/{variable}",
                        mode="r+",
                        zarr_format=3,
                    ).with_config({"write_empty_chunks": True})  # a missing object means: not written
                except FileNotFoundError as error:
                    raise StorageError(
                        f"{self._name(variable)} does not exist: create the group first"
                    ) from error
        return self._arrays[variable]

    def _bounds(
        self, layout: Variable, array: "zarr.Array[Any]", region: Mapping[str, slice | int]
    ) -> Region:
        if unknown := set(region) - set(layout.dims):
            raise StorageError(
                f"{self._name(layout.name)} has dimensions {layout.dims}, not {sorted(unknown)}"
            )
        bounds = []
        for dim, size in zip(layout.dims, array.shape, strict=True):
            part = region.get(dim, slice(0, size))
            if isinstance(part, slice):
                if part.step not in (None, 1):
                    raise StorageError(f"{self._name(layout.name)}: a region has no step, {dim} has {part}")
                bounds.append((int(part.start or 0), int(size if part.stop is None else part.stop)))
            else:
                bounds.append((int(part), int(part) + 1))
        return tuple(bounds)

    def _check(self, layout: Variable, array: "zarr.Array[Any]", bounds: Region) -> None:
        units = array.shards or array.chunks
        for dim, (start, stop), size, unit in zip(layout.dims, bounds, array.shape, units, strict=True):
            what = f"{self._name(layout.name)}: {dim} {start}..{stop}"
            if not 0 <= start < stop <= size:
                raise StorageError(
                    f"{what} lies outside the array, whose {dim} is {size} long; grow it first"
                )
            if start % unit or (stop % unit and stop != size):
                raise StorageError(
                    f"{what} is not made of whole shards of {unit} (the last ends at {size}):"
                    " writers that share a shard lose data silently"
                )

    def _cast(
        self, layout: Variable, values: ArrayLike, shape: tuple[int, ...], region: Mapping[str, slice | int]
    ) -> NDArray[Any]:
        """Values in the layout's type, in the shape of the region."""
        data = np.asarray(values)
        kept = tuple(
            length
            for dim, length in zip(layout.dims, shape, strict=True)
            if isinstance(region.get(dim, slice(None)), slice)
        )
        if data.shape != kept:
            raise StorageError(
                f"{self._name(layout.name)}: the region has shape {kept}, the values {data.shape}"
            )
        return cast_values(data, layout, self._name(layout.name)).reshape(shape)

    def _name(self, variable: str) -> str:
        return f"{self.location}/{self.group}/{variable}"


def cast_values(data: NDArray[Any], layout: Variable, where: str) -> NDArray[Any]:
    """Values in the type of a layout's variable; times may be datetime64, missing strings None.

    Raises
    ------
    StorageError
        If the values are of another kind, say floats for a mask.
    """
    if layout.dtype == "string":
        texts = ["" if text is None else str(text) for text in data.ravel().tolist()]
        return np.array(texts, dtype=np.dtypes.StringDType()).reshape(data.shape)
    if data.dtype.kind == "M":
        micros = data.astype("datetime64[us]")
        return np.where(np.isnat(micros), layout.fill_value, micros.astype(np.int64)).astype(np.int64)
    wanted = np.dtype(layout.dtype).newbyteorder("<")
    if data.dtype.kind == "O":
        data = np.array([layout.fill_value if one is None else one for one in data.ravel()]).reshape(
            data.shape
        )
    if data.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if data.size and not (int(data.min()) >= limits.min and int(data.max()) <= limits.max):
            raise StorageError(f"{where} is {wanted}: values {data.min()}..{data.max()} do not fit")
    elif not np.can_cast(data.dtype, wanted, "same_kind"):
        raise StorageError(f"{where} is {wanted}, the values are {data.dtype}")
    return np.ascontiguousarray(data.astype(wanted, copy=False))
