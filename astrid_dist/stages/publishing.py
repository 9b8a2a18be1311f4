"""Epochs become visible in their order: the driver writes their scalars, then raises the count.

An epoch that finished before an earlier one waits for it; what waits is kept by the driver, job by job.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.plan import Plan
from astrid_dist.store.layouts import variables
from astrid_dist.store.ledger import Marker
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import commit_epochs
from astrid_dist.store.writing import ProductWriter

_SCALARS = {name: one for name, one in variables("survey").items() if one.is_scalar}
#: Markers of epochs that wait for one before them, by output and digest of the job.
_pending: dict[tuple[str, str], dict[ShardKey, Marker]] = {}


def publish(plan: Plan, markers: list[Marker]) -> None:
    """Publish finished epochs up to the first that is not: their scalars, then the count."""
    waiting = _pending.setdefault(_owner(plan), {})
    groups: set[str] = set()
    for marker in markers:
        key = ShardKey.parse(marker["key"])
        if key.epoch >= 0:
            waiting[key] = marker
            groups.add(key.group)
    location = Location.parse(plan.job.output)
    for group in sorted(groups):
        start = ProductReader(location, group).epochs
        ready: list[Marker] = []
        while (key := ShardKey(group, start + len(ready))) in waiting:
            ready.append(waiting[key])
        if ready:
            rows = {
                name: [marker["scalars"].get(name, layout.fill_value) for marker in ready]
                for name, layout in _SCALARS.items()
            }
            ProductWriter(location, group).write_scalars(_columns(rows), start)
            commit_epochs(location, group, start + len(ready))
        for key in [key for key in waiting if key.group == group and key.epoch < start + len(ready)]:
            del waiting[key]


def _columns(rows: Mapping[str, list[Any]]) -> dict[str, NDArray[Any]]:
    """Lists of scalars as arrays of their layout's type."""
    return {
        name: np.array(values, dtype=object if _SCALARS[name].dtype == "string" else _SCALARS[name].dtype)
        for name, values in rows.items()
    }


def forget(plan: Plan) -> None:
    """Forget what waits for a job, as it begins or ends."""
    _pending.pop(_owner(plan), None)


def _owner(plan: Plan) -> tuple[str, str]:
    return plan.job.output, plan.job.digest
