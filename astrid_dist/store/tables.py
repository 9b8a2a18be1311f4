"""Tables at the root of a product: candidates and truth, written whole by one process."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.storage import MemoryStore

from astrid_dist.errors import ConfigError, ResumeConflictError
from astrid_dist.store import layouts
from astrid_dist.store.failures import storage_errors
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import METADATA, create_array, create_product, encode_document, read_document
from astrid_dist.store.writing import cast_values, digest_values


def write_table(
    location: Location,
    product: str,
    columns: Mapping[str, ArrayLike],
    attributes: Mapping[str, Any] | None = None,
    *,
    job: str = "",
    inputs: Mapping[str, Any] | None = None,
    digest: str = "",
) -> None:
    """Write a whole table, then declare it complete; for one process.

    Parameters
    ----------
    location : Location
        Root of the table; it may have been claimed by `create_product` before.
    product : str
        Its layout: candidates or truth.
    columns : mapping of str to (row,) array
        Values by name, all of one length. A column of the layout that is not given holds its fill value.
    attributes : mapping, optional
        Attributes of the root.
    job, inputs, digest
        As for `create_product`.

    Raises
    ------
    ConfigError
        If a column is unknown, or their lengths differ.
    ResumeConflictError
        If a finished table of another job is there.
    StorageError
        If values are of the wrong kind, or the disk is full.
    """
    if product not in layouts.TABLES:
        raise ConfigError(f"{product} is no table: it is one of {', '.join(sorted(layouts.TABLES))}")
    data = {name: np.atleast_1d(np.asarray(values)) for name, values in columns.items()}
    lengths = {name: values.shape for name, values in data.items()}
    if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
        raise ConfigError(f"{location}: columns of different shapes: {lengths}")
    rows = next(iter(lengths.values()), (0,))[0]
    kinds = {name: layouts.variable(product, name) for name in (*layouts.variables(product), *data)}
    cast = {
        name: cast_values(
            data[name] if name in data else np.full(rows, kind.fill_value), kind, f"{location}/{name}"
        )
        for name, kind in kinds.items()
    }
    create_product(location, product, job=job, inputs=inputs, digest=digest)
    root = read_document(location, METADATA)
    header = root["attributes"]["astrid"]
    if header["state"] == "complete" and header["digest"] != digest:
        raise ResumeConflictError(f"{location} is a finished table of another job: choose another output")
    sizes = {kind.dims[0]: rows for kind in kinds.values()}
    for name, values in cast.items():
        _write_column(location, kinds[name], sizes, values)
    root["attributes"] = {
        **root["attributes"],
        **(attributes or {}),
        "columns": list(kinds),
        "sha256": {name: digest_values(values) for name, values in cast.items()},
        "astrid": {**header, "state": "complete"},
    }
    location.objects().put(METADATA, encode_document(root))


def _write_column(
    location: Location, kind: layouts.Variable, sizes: layouts.Sizes, values: NDArray[Any]
) -> None:
    """Metadata as one object, then the values."""
    stage = MemoryStore()
    create_array(stage, kind.name, kind, sizes)
    name = f"{kind.name}/{METADATA}"
    location.objects().put(name, stage._store_dict[name].to_bytes())
    if values.size:
        with storage_errors(f"writing {location}/{kind.name}", need_bytes=values.nbytes):
            for chunk in range(-(-len(values) // layouts.ROWS_PER_CHUNK)):
                location.pace(f"{kind.name}/c/{chunk}")
            array = zarr.open_array(location.zarr_store(), path=kind.name, mode="r+", zarr_format=3)
            array.with_config({"write_empty_chunks": True})[:] = values
