"""Which detections are one object: the same place on a field's grid, at any epoch and in any band."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    import xarray as xr


def link_objects(
    columns: Mapping[str, NDArray[Any]], radius_px: float, earlier: "xr.Dataset | None" = None
) -> NDArray[np.int64]:
    """Object ids of detections by position.

    Detections are taken in order of time, the stronger first; each joins the nearest object within the
    radius (an object lies where it was first seen) or founds a new one. Ids of ``earlier`` candidates
    continue. The result does not depend on the order of the rows.

    Parameters
    ----------
    columns : mapping
        ``field``, ``epoch_id``, ``mjd``, ``x``, ``y`` (pixels), ``snr``, each (candidate,).
    radius_px : float
        How far a detection may lie from its object, pixels.
    earlier : Dataset, optional
        Candidates of earlier jobs on the same grids, with ``field``, ``x``, ``y`` and ``object``.

    Returns
    -------
    (candidate,) int64
        From 0 on, or from one above the largest earlier id.
    """
    fields = np.asarray(columns["field"], dtype=str)
    ids = np.full(fields.shape, -1, np.int64)
    following = 0
    if earlier is not None and earlier.sizes["candidate"]:
        following = int(earlier["object"].max()) + 1
    for field in np.unique(fields):
        rows = np.flatnonzero(fields == field)
        # Epochs are told apart by id: real frames can share one wrong time.
        exposures = np.asarray(columns["epoch_id"], dtype=str)
        keys = (columns["x"], columns["y"], -np.abs(columns["snr"]), exposures, columns["mjd"])
        rows = rows[np.lexsort([key[rows] for key in keys])]
        places = np.column_stack([columns["x"][rows], columns["y"][rows]])
        known = np.zeros((0, 2))
        names = np.zeros(0, np.int64)
        if earlier is not None:
            mine = np.asarray(earlier["field"].values, dtype=str) == field
            names, first = np.unique(earlier["object"].values[mine], return_index=True)
            known = np.column_stack([earlier[axis].values[mine][first] for axis in ("x", "y")])
        # Detections of one epoch are never joined to each other, only to objects of epochs before.
        exposures = exposures[rows]
        starts = [i for i in range(len(rows)) if i == 0 or exposures[i] != exposures[i - 1]] + [len(rows)]
        for start, stop in itertools.pairwise(starts):
            batch = places[start:stop]
            assigned = np.full(len(batch), -1, np.int64)
            if len(known):
                distance, nearest = cKDTree(known).query(batch, distance_upper_bound=radius_px)
                close = np.isfinite(distance)
                assigned[close] = names[nearest[close]]
            new = np.flatnonzero(assigned < 0)
            assigned[new] = np.arange(following, following + len(new))
            following += len(new)
            names, known = np.append(names, assigned[new]), np.vstack([known, batch[new]])
            ids[rows[start:stop]] = assigned
    return ids
