"""Rows of a table whose number is known only at the end: one Parquet part per task, kept in the ledger."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astrid_dist.engine.keys import ShardKey
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location

Columns = dict[str, NDArray[Any]]


def put_part(output: Location, key: ShardKey, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Keep the rows of one task beside its product; what a marker says of them, by name."""
    table = pa.table(dict(columns))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    name = _name(key)
    output.sibling(".ledger").objects().put(name, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return {f"ledger:{name}": {"region": [[0, table.num_rows]], "sha256": digest}}


def read_parts(output: Location, stage: str) -> Iterator[tuple[ShardKey, Columns]]:
    """Rows of every finished task that left some, in the order of their keys."""
    objects = output.sibling(".ledger").objects()
    for key in sorted(ShardKey.parse(marker["key"]) for marker in Ledger(output).markers(stage)):
        content = objects.get(_name(key))
        if content is None:
            continue
        table = pq.read_table(io.BytesIO(content))
        if table.num_rows:
            yield key, {name: table[name].to_numpy() for name in table.column_names}


def _name(key: ShardKey) -> str:
    return f"parts/{key}.parquet"
