"""Opening products as xarray Datasets: nothing is read but metadata and one value per epoch, at any size.

A reader takes the committed count of a group first and slices everything to it. Epochs are committed after
their data and scalars are written, and arrays only grow, so no half-written epoch is ever seen, nor arrays of
different length.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.store import layouts
from astrid_dist.store.layouts import Variable
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import checked_attributes, field_names, group_names
from astrid_dist.store.sample_layout import LATER
from astrid_dist.store.shards import StoredArray, stored_arrays
from astrid_dist.store.templates import METADATA, decode_document, root_attributes

Url = str | os.PathLike[str] | Location

#: Small requests in flight at once.
_THREADS = 16


class MissingGroupError(ConfigError, KeyError):
    """A product has no such group."""

    def __str__(self) -> str:
        return str(self.args[0])


class Product(Mapping[str, xr.Dataset]):
    """The ``<field>/<band>`` groups of a product, or ``<survey>/<split>`` of samples.

    Each is opened when asked for, and anew each time.

    Parameters
    ----------
    location : Location
        Root of the product.
    attributes : mapping
        Attributes of its root.
    """

    def __init__(self, location: Location, attributes: Mapping[str, Any]) -> None:
        self.location = location
        self.attrs: dict[str, Any] = dict(attributes)
        self.product: str = self.attrs["astrid"]["product"]

    @property
    def url(self) -> str:
        """Where it lies."""
        return str(self.location)

    @property
    def state(self) -> str:
        """``building`` or ``complete``, as it was when opened."""
        return str(self.attrs["astrid"]["state"])

    def fields(self) -> tuple[str, ...]:
        """Names of the fields: one listing, without looking into any."""
        return field_names(self.location)

    def __getitem__(self, group: str) -> xr.Dataset:
        body = self.location.objects().get(f"{group}/{METADATA}") if group.strip("/") else None
        if body is None:
            raise MissingGroupError(
                f"{self.url} has no group {group!r}{layouts.close(group, self._near(group))}"
            )
        document = decode_document(body, f"{self.url}/{group}")
        samples = self.product == "samples"
        mark = "planes" if samples else "tile"
        if document.get("node_type") != "group" or mark not in document["attributes"]:
            what = "<survey>/<split>" if samples else "<field>/<band>"
            raise MissingGroupError(
                f"{self.url}/{group} is not a {what} group{layouts.close(group, self._near(group))}"
            )
        opened = _open_samples_group if samples else _open_group
        return opened(self.location, self.product, group, document["attributes"])

    def __contains__(self, group: object) -> bool:
        return (
            isinstance(group, str) and "/" in group and self.location.objects().exists(f"{group}/{METADATA}")
        )

    def __iter__(self) -> Iterator[str]:
        """Names of all groups, sorted: one listing per field."""
        return group_names(self.location)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{self.product} {self.url} ({self.state})>"

    def to_datatree(self, groups: Iterable[str] | None = None) -> xr.DataTree:
        """Some groups, or all, as one lazy tree."""
        names = list(self if groups is None else groups)
        tree: xr.DataTree = xr.DataTree.from_dict({f"/{name}": self[name] for name in names})
        tree.attrs = {**self.attrs, "url": self.url}
        return tree

    def _near(self, group: str) -> list[str]:
        """Groups worth naming in an error: the field's own bands, else the names of fields."""
        field = group.strip("/").partition("/")[0]
        bands = self.location.objects().folders(field) if field in (fields := self.fields()) else ()
        return [f"{field}/{band}" for band in bands] or list(fields)


def open_product(url: Url, product: str, allow_partial: bool = False) -> Product:
    """Open a product made of ``<field>/<band>`` groups, or of samples.

    Parameters
    ----------
    url : str, path or Location
        Where it lies.
    product : str
        The layout it must have: survey, reference, difference or samples.
    allow_partial : bool
        Open it although its job has not finished. A survey grows and can always be opened.

    Raises
    ------
    ConfigError
        If there is no such product, it is of another kind, or made by a later version.
    IncompleteProductError
        If it is not finished.
    StorageError
        If the location does not answer.
    """
    location = Location.parse(url)
    return Product(location, checked_attributes(location, product, allow_partial))


def open_survey(url: Url) -> Product:
    """Open a survey: a mapping of ``<field>/<band>`` to Datasets of (epoch, y, x); see `open_product`."""
    return open_product(url, "survey")


def open_reference(url: Url, allow_partial: bool = False) -> Product:
    """Open a reference product: Datasets of (y, x); see `open_product`."""
    return open_product(url, "reference", allow_partial)


def open_difference(url: Url, allow_partial: bool = False) -> Product:
    """Open a difference product: Datasets of (epoch, y, x); see `open_product`."""
    return open_product(url, "difference", allow_partial)


def open_samples(url: Url, allow_partial: bool = False) -> Product:
    """Open samples: a mapping of ``<survey>/<split>`` to Datasets along ``sample``; see `open_product`."""
    return open_product(url, "samples", allow_partial)


def open_candidates(url: Url | Iterable[Url], allow_partial: bool = False) -> xr.Dataset:
    """Open candidates as one lazy table along ``candidate``; of several products, one after the other.

    Raises
    ------
    ConfigError, IncompleteProductError
        As `open_product`.
    """
    urls: list[Url] = [url] if isinstance(url, str | os.PathLike | Location) else list(url)
    if not urls:
        raise ConfigError("open_candidates needs at least one URL")
    tables = [_open_table(Location.parse(one), "candidates", allow_partial) for one in urls]
    if len(tables) == 1:
        return tables[0]
    columns = {name: table[name] for table in tables for name in table.data_vars}
    # xarray would cut the columns it makes up as finely as it finds them elsewhere: a task for every few rows
    whole = [table.assign({name: _unknown(columns[name], table) for name in columns}) for table in tables]
    joined: xr.Dataset = xr.concat(
        whole, "candidate", data_vars="all", join="exact", combine_attrs="override"
    )
    return joined.assign_attrs(url=" ".join(table.attrs["url"] for table in tables))


def open_truth(url: Url) -> xr.Dataset:
    """Open the truth of a mock or injected survey: a table along ``object``.

    Parameters
    ----------
    url : str, path or Location
        A truth product, or a product with a ``truth`` table in it.
    """
    location = Location.parse(url)
    header = root_attributes(location)["astrid"]
    if header["product"] != "truth" and location.objects().exists(f"truth/{METADATA}"):
        location = location / "truth"
    return _open_table(location, "truth", False)


def _unknown(column: xr.DataArray, table: xr.Dataset) -> xr.Variable:
    """The column as a table has it, or as long as the table and unknown (an older table may lack some)."""
    if column.name in table:
        return table[column.name].variable
    rows = table.sizes.get("candidate", 0)
    unknown = layouts.variable("candidates", str(column.name)).fill_value
    values = da.full(rows, unknown, column.dtype, chunks=layouts.ROWS_PER_CHUNK)
    return xr.Variable(("candidate",), values, column.attrs)


def _open_group(location: Location, product: str, group: str, attributes: Mapping[str, Any]) -> xr.Dataset:
    """A Dataset of one group, whose attributes (and so the count) were read before its arrays."""
    stored = stored_arrays(location, group, layouts.variables(product).values(), attributes.get("epochs"))
    with ThreadPoolExecutor(_THREADS) as pool:
        scalars = {one.name: pool.submit(array.read) for one, array in stored if one.is_scalar}
    coords: dict[str, Any] = {
        one.name: _xarray_variable(one, scalars[one.name].result()) for one, _ in stored if one.is_scalar
    }
    planes = {
        one.name: _xarray_variable(one, _dask_array(array)) for one, array in stored if not one.is_scalar
    }
    sizes = {dim: size for plane in planes.values() for dim, size in plane.sizes.items()}
    coords |= {
        axis: xr.Variable(axis, np.arange(sizes[axis]), {"units": "pixel", "long_name": name})
        for axis, name in (("y", "row"), ("x", "column"))
    }
    kept = {name: value for name, value in attributes.items() if name not in ("coordinates", "epochs")}
    return xr.Dataset(planes, coords, {"url": str(location), "group": group, "product": product, **kept})


def _open_samples_group(
    location: Location, product: str, group: str, attributes: Mapping[str, Any]
) -> xr.Dataset:
    """A Dataset of one group of samples; every variable a Dask array with one chunk per shard."""
    stored = stored_arrays(location, group, layouts.variables(product).values(), may_lack=LATER)
    data = {one.name: _xarray_variable(one, _times(one, _dask_array(array))) for one, array in stored}
    plane = xr.Variable("plane", list(attributes["planes"]), {"long_name": "plane of a stamp"})
    named = {"url": str(location), "group": group, "product": product}
    return xr.Dataset(data, {"plane": plane}, {**named, **attributes})


def _open_table(location: Location, product: str, allow_partial: bool) -> xr.Dataset:
    attributes = checked_attributes(location, product, allow_partial)
    columns = [layouts.variable(product, name) for name in attributes.get("columns", ())]
    stored = stored_arrays(location, "", columns, None)
    data = {one.name: _xarray_variable(one, _times(one, _dask_array(array))) for one, array in stored}
    kept = {name: value for name, value in attributes.items() if name not in ("columns", "sha256")}
    return xr.Dataset(data, attrs={"url": str(location), "product": product, **kept})


def _dask_array(stored: StoredArray) -> da.Array:
    """A Dask array with one chunk per shard; its graph stays symbolic until something is computed."""
    meta = np.empty((0,) * len(stored.shape), stored.dtype)
    name = f"{stored.path.rpartition('/')[2]}-{tokenize(stored)}"
    chunks = tuple(min(unit, size) or 1 for unit, size in zip(stored.units, stored.shape, strict=True))
    # Dask fuses a slice into the read only where the array takes fancy indices too: a cutout reads one chunk.
    return da.from_array(stored, chunks=chunks, name=name, meta=meta)  # type: ignore[no-any-return]


def _times(one: Variable, values: Any) -> Any:
    """Microseconds since 1970 as datetime64, missing ones as NaT; other variables as they are."""
    if one.name != "time":
        return values
    if isinstance(values, np.ndarray):
        return _decode_times(values)
    meta = np.empty((0,) * values.ndim, "datetime64[us]")
    return values.map_blocks(_decode_times, dtype="datetime64[us]", meta=meta)


def _decode_times(values: NDArray[np.int64]) -> NDArray[np.datetime64]:
    return np.where(values == -1, np.datetime64("NaT", "us"), values.astype("datetime64[us]"))


def _xarray_variable(one: Variable, values: Any) -> xr.Variable:
    attributes, encoding = dict(one.attributes), {}
    if one.name == "time":  # decoded: what says how goes where xarray looks for it
        encoding = {name: attributes.pop(name) for name in ("units", "calendar")}
        values = _times(one, values) if isinstance(values, np.ndarray) else values
    return xr.Variable(one.dims, values, attributes, encoding)
