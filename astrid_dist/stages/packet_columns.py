"""Columns of samples of alert packets: all that is known of them but what their pixels tell."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.stages.exposure import microseconds
from astrid_dist.stages.packet_table import Columns
from astrid_dist.store.layouts import variables
from astrid_dist.store.sample_layout import STAMP
from astrid_dist.taxonomy import ORIGINS


def by_group(table: Columns) -> Iterator[tuple[str, Columns]]:
    """Rows of each `<survey>/<split>`, in order."""
    for group in np.unique(table["group"].astype(str)).tolist():
        own = np.flatnonzero(table["group"] == group)
        yield group, {name: values[own] for name, values in table.items()}


def bands_of(own: Columns) -> list[str]:
    """Bands of a group, as its attribute has them."""
    return sorted({str(one) for one in own["band"]})


def exposures(own: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row of each exposure, and the exposure of each row."""
    _, first, which = np.unique(own["exposure"].astype(str), return_index=True, return_inverse=True)
    return first.astype(np.int64), which.astype(np.int64)


def sample_columns(own: Columns, rows: NDArray[np.int64], planes: int) -> dict[str, NDArray[Any]]:
    """Every variable of a shard but what the packets' pixels tell."""
    sizes = {"sample": len(rows), "visit": 1, "plane": planes, "v": STAMP, "u": STAMP}
    layouts = {name: one for name, one in variables("samples").items() if one.is_sample}
    base = {name: np.full(one.shape(sizes), one.fill_value, one.dtype) for name, one in layouts.items()}
    for name in ("label", "weight", "class", "kind", "labeller", "fold", "survey_score"):
        base[name][:] = own[name][rows]
    for name in ("mjd", "peak", "mag"):
        base[name][:, 0] = own[name][rows]
    base["time"][:, 0] = [microseconds(float(mjd)) for mjd in own["mjd"][rows]]
    base["fwhm_n"][:, 0] = own["fwhm"][rows]
    base["band"][:, 0] = np.searchsorted(bands_of(own), own["band"][rows].astype(str))
    base["alert"][:], base["item"][:] = own["candid"][rows], rows
    base["host_row"][:] = exposures(own)[1][rows]
    base["origin"][:] = ORIGINS.index("mined")
    base["reason"][:], base["injectable"][:] = 0, True
    return base


def host_columns(own: Columns) -> dict[str, NDArray[Any]]:
    """The host table of a group: an exposure is a host."""
    first, _ = exposures(own)
    sizes = {"host": len(first), "visit": 1}
    rows = {name: one for name, one in variables("samples").items() if one.dims[0] == "host"}
    columns: dict[str, NDArray[Any]] = {
        name: np.full(one.shape(sizes), one.fill_value, object if one.dtype == "string" else one.dtype)
        for name, one in rows.items()
    }
    columns["host_epoch_id"][:, 0] = own["exposure"][first]
    columns["host_mjd"][:, 0] = own["mjd"][first]
    columns["host_field"][:] = own["field"][first]
    columns["host_cell"][:] = [_cell(one) for one in own["field"][first]]
    columns["host_night"][:] = own["night"][first]
    return columns


def _cell(field: str) -> int:
    return int.from_bytes(hashlib.sha256(str(field).encode()).digest()[:4], "big")
