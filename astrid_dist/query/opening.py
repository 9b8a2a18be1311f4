"""Tables for people: each column is read when it is first touched, and is an ordinary array from then on."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    MemoryCachedArray,
    explicit_indexing_adapter,
)

from astrid_dist.store import opening
from astrid_dist.store.locations import Location

Url = str | os.PathLike[str] | Location


def open_candidates(url: Url | Iterable[Url], allow_partial: bool = False) -> xr.Dataset:
    """Open candidates, of one product or of several one after the other, as one table along ``candidate``.

    A column is read when it is first touched, so that ``table.where(table.snr > 8, drop=True)`` works, which
    xarray refuses for Dask arrays; ``table.chunk()`` makes Dask arrays of what does not fit in memory.
    Only ``flux_unit`` is looked through at once: when all rows share one, it is the ``units`` of ``flux`` and
    ``flux_err``.

    Raises
    ------
    ConfigError, IncompleteProductError, StorageError
        As `astrid_dist.store.opening.open_product`.
    """
    return read_when_touched(with_flux_units(opening.open_candidates(url, allow_partial)))


def open_truth(url: Url) -> xr.Dataset:
    """Open the truth of a mock or injected survey as a table along ``object``, as `open_candidates` does."""
    return read_when_touched(opening.open_truth(url))


def with_flux_units(table: xr.Dataset) -> xr.Dataset:
    """The same table; its fluxes have ``units`` if all rows agree on ``flux_unit``, and none otherwise."""
    if "flux_unit" not in table:
        return table
    column = table["flux_unit"]
    # block by block, so that no more of a large table is held than one block of each thread
    parts = [column.to_numpy()] if column.chunks is None else column.data.to_delayed().ravel()
    found = compute(*[delayed(_distinct)(part) for part in parts])
    units: set[str] = set().union(*found)
    known = {"units": units.pop()} if len(units) == 1 and "" not in units else {}
    fluxes = {}
    for name in ("flux", "flux_err", "aperture_flux", "streak_flux"):
        if name in table:
            others = {key: value for key, value in table[name].attrs.items() if key != "units"}
            fluxes[name] = table[name].variable.copy(deep=False)
            fluxes[name].attrs = others | known
    return table.assign(fluxes)


def _distinct(values: NDArray[Any]) -> set[str]:
    return set(values.tolist())


def read_when_touched(table: xr.Dataset) -> xr.Dataset:
    """The same table, its Dask columns replaced by ones that read themselves once, when they are needed."""
    columns = {}
    for name, column in table.data_vars.items():
        if column.chunks is not None:
            stored: Any = _Column(column.data)
            data: Any = MemoryCachedArray(LazilyIndexedArray(stored))  # type: ignore[no-untyped-call]
            columns[name] = column.variable.copy(deep=False, data=data)
    return table.assign(columns)


class _Column(BackendArray):
    """A Dask array that xarray reads parts of."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        return np.asarray(self.array[key].compute())
