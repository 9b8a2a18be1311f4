"""Labels of candidates from the truth of what was put in: real, bogus, or neither."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.stages.comparison import REAL, Comparison

if TYPE_CHECKING:
    import pandas as pd

#: A candidate this near to something real that is not its match may be part of it, pixels.
BESIDE_PX = 5.0
REAL_LABEL, BOGUS_LABEL, IGNORED = 1, 0, -1


def labels(found: Comparison, least_snr: float, known: "pd.DataFrame | None" = None) -> NDArray[np.int8]:
    """1 for real candidates, 0 for bogus ones, -1 for those that teach nothing, (candidates,).

    Real is what matches something real that was put in, on good pixels, with a true SNR of at least
    `least_snr`. Ignored are matches of what is fainter or could not be put in, whatever else lies within
    `BESIDE_PX` of something real, and what lies so near to an object of `known` (truth rows of what changed
    before anything was put in).
    """
    candidates, truth = found.candidates, found.truth
    result = np.full(len(candidates), BOGUS_LABEL, np.int8)
    of_image = dict(tuple(truth[truth["class"].isin(REAL)].groupby(["group", "difference_epoch"])))
    for image, rows in candidates.groupby(["group", "epoch"]):
        if image in of_image:
            result[rows.index[_near(rows, of_image[image])]] = IGNORED
    if known is not None:
        changing = known[known["class"].isin(REAL)]
        of_group = dict(tuple(changing.groupby(changing["field"] + "/" + changing["band"])))
        for group, rows in candidates.groupby("group"):
            if group in of_group:
                result[rows.index[_near(rows, of_group[group])]] = IGNORED
    matched = np.flatnonzero(candidates["truth"] >= 0)
    own = truth.loc[candidates["truth"].iloc[matched]]
    clear = (own["countable"] & (own["true_snr"].abs() >= least_snr)).to_numpy()
    result[matched] = np.where(clear, REAL_LABEL, IGNORED)
    return result


def _near(rows: "pd.DataFrame", places: "pd.DataFrame") -> NDArray[np.bool_]:
    at = places[["x", "y"]].to_numpy()
    at = at[np.isfinite(at).all(axis=1)]
    if not len(at):
        return np.zeros(len(rows), bool)
    distance, _ = cKDTree(at).query(rows[["x", "y"]].to_numpy())
    return np.asarray(distance < BESIDE_PX)


def sky_cells(candidates: "pd.DataFrame", cell_arcsec: float) -> NDArray[np.int64]:
    """Number of the cell of the sky that each candidate lies in, about square; pixels of 1 arcsec where the
    sky is not known, (candidates,).
    """
    size = cell_arcsec / 3600
    sky = np.isfinite(candidates["ra"]) & np.isfinite(candidates["dec"])
    row = np.where(sky, np.floor(candidates["dec"] / size), np.floor(candidates["y"] / cell_arcsec))
    middle = np.clip((row + 0.5) * size, -90, 90)
    along = np.where(sky, candidates["ra"] * np.cos(np.deg2rad(middle)) / size, candidates["x"] / cell_arcsec)
    field = np.where(sky, "", candidates["field"].astype(str))
    keys = np.array([f"{f} {r:.0f} {c:.0f}" for f, r, c in zip(field, row, np.floor(along), strict=True)])
    _, number = np.unique(keys, return_inverse=True)
    return np.asarray(number, np.int64)
