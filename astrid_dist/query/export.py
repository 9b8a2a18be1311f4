"""Candidates as files that other tools read: CSV, ECSV (CSV with units), Parquet."""

import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from pyarrow import csv, parquet

from astrid_dist.errors import ConfigError
from astrid_dist.query.opening import with_flux_units
from astrid_dist.query.tables import row_dimension
from astrid_dist.store.locations import Location

#: Rows held in memory at a time, beside the encoded file.
BATCH_ROWS = 250_000


def export_candidates(source: str | os.PathLike[str] | xr.Dataset, to: str | os.PathLike[str]) -> int:
    """Write a table of candidates (or truth) to one file, whose suffix chooses the format.

    ``.csv`` has one line of names, then rows, nothing else; ``.ecsv`` is the same with units and
    descriptions in front, as `astropy.table` writes and reads it; ``.parquet`` keeps types and carries
    ``unit`` and ``description`` in the metadata of each column. Fluxes have a unit where all
    rows share one ``flux_unit``. Times are UTC, ISO 8601 in text. NaN is
    an empty field in CSV. The file appears complete or not at all.

    Parameters
    ----------
    source : str, path or Dataset
        URL of a candidates product, or an opened (and perhaps filtered) one.
    to : str or path
        Path or ``file://``, ``s3://``, ``r2://`` URL of the file to write; an old one is replaced.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    ConfigError
        The suffix names no known format, or the source is no table.
    """
    target = Location.parse(os.fspath(to))
    folder, _, name = target.key.rpartition("/")
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in WRITERS:
        raise ConfigError(f"cannot export to {to}: its name must end in one of {', '.join(WRITERS)}")
    table = with_flux_units(source if isinstance(source, xr.Dataset) else _open(source))
    rows = table.sizes[row_dimension(table)]
    buffer = io.BytesIO()
    WRITERS[suffix](table, buffer)
    Location(target.scheme, target.bucket, folder or "/").objects().put(name, buffer.getvalue())
    return rows


def _open(url: str | os.PathLike[str]) -> xr.Dataset:
    from astrid_dist.store.opening import open_candidates

    return open_candidates(url)


def _columns(table: xr.Dataset) -> list[str]:
    rows = row_dimension(table)
    return [str(name) for name, column in table.variables.items() if column.dims == (rows,) and name != rows]


def _batches(table: xr.Dataset, *, text: bool, nan_is_null: bool) -> Iterator[pa.Table]:
    """Arrow tables of at most `BATCH_ROWS` rows; at least one, so that an empty table has its columns."""
    rows, names = row_dimension(table), _columns(table)
    schema = _schema(table, text=text)
    for start in range(0, max(table.sizes[rows], 1), BATCH_ROWS):
        part = table[names].isel({rows: slice(start, start + BATCH_ROWS)}).compute()
        yield pa.table(
            [
                pa.array(_values(part[name], text), schema.field(name).type, from_pandas=nan_is_null)
                for name in names
            ],
            schema=schema,
        )


def _schema(table: xr.Dataset, *, text: bool) -> pa.Schema:
    fields = []
    for name in _columns(table):
        column = table[name]
        kind: pa.DataType
        if column.dtype.kind in "OUT":
            kind = pa.string()
        elif column.dtype.kind == "M":
            kind = pa.string() if text else pa.timestamp("us", tz="UTC")
        else:
            kind = pa.from_numpy_dtype(column.dtype)
        described = {
            key: str(column.attrs[attribute])
            for key, attribute in (("unit", "units"), ("description", "long_name"))
            if column.attrs.get(attribute)
        }
        fields.append(pa.field(name, kind, metadata=described or None))
    origin = {key: table.attrs[key] for key in ("product", "url") if key in table.attrs}
    return pa.schema(fields, metadata={"astrid": json.dumps(origin)})


def _values(column: xr.DataArray, text: bool) -> Any:
    values = column.to_numpy()
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")
        return np.datetime_as_string(values).astype(object) if text else values
    return values.astype(object) if values.dtype.kind in "UT" else values


def _write_rows(table: xr.Dataset, buffer: io.BytesIO, *, header: bool, nan_is_null: bool) -> None:
    options = csv.WriteOptions(include_header=header, quoting_style="needed", quoting_header="none")
    with csv.CSVWriter(buffer, _schema(table, text=True), write_options=options) as writer:
        for batch in _batches(table, text=True, nan_is_null=nan_is_null):
            writer.write_table(batch)


def _write_csv(table: xr.Dataset, buffer: io.BytesIO) -> None:
    _write_rows(table, buffer, header=True, nan_is_null=True)


def _write_ecsv(table: xr.Dataset, buffer: io.BytesIO) -> None:
    from astropy.table import Column, Table
    from astropy.units import Unit

    empty = Table()
    for name in _columns(table):
        column = table[name]
        text = column.dtype.kind in "OUTM"
        unit = (
            None
            if text or not column.attrs.get("units")
            else Unit(column.attrs["units"], parse_strict="silent")
        )
        dtype = np.str_ if text else column.dtype
        empty[name] = Column([], dtype=dtype, unit=unit, description=column.attrs.get("long_name"))
    header = io.StringIO()
    empty.write(header, format="ascii.ecsv", delimiter=",")
    buffer.write(header.getvalue().encode())
    _write_rows(table, buffer, header=False, nan_is_null=False)


def _write_parquet(table: xr.Dataset, buffer: io.BytesIO) -> None:
    with parquet.ParquetWriter(buffer, _schema(table, text=False), compression="zstd") as writer:
        for batch in _batches(table, text=False, nan_is_null=False):
            writer.write_table(batch)


WRITERS: dict[str, Callable[[xr.Dataset, io.BytesIO], None]] = {
    ".csv": _write_csv,
    ".ecsv": _write_ecsv,
    ".parquet": _write_parquet,
}
