"""Candidates of a mock or injected survey against its truth: what was found, missed, and false."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.engine.keys import ShardKey
from astrid_dist.errors import ConfigError
from astrid_dist.evaluation.matching import match_one_to_one
from astrid_dist.flags import UNUSABLE
from astrid_dist.query.magnitudes import AB_OF_ONE_MICROJANSKY, microjansky
from astrid_dist.simulation.truth import difference_flux
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_candidates, open_difference, open_reference, open_truth

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Classes that are real; a detection of any other row is a false alarm whose cause is known.
REAL = ("transient", "variable", "moving")
#: A false alarm this close to a star this far above its noise in the reference is that star's residual.
_STAR_RADIUS_PX, _STAR_SNR = 5.0, 100.0
#: A true object fainter than this in the difference owns no detection.
_FAINTEST_SNR = 2.0


@dataclass(frozen=True)
class Comparison:
    """Two tables that point at each other; rows are (object, epoch) and candidates."""

    truth: "pd.DataFrame"
    """Rows of the differenced epochs: the truth's columns, and ``group``, ``difference_epoch``, ``flux_ujy``
    (expected in the difference), ``true_snr``, ``countable`` (real, injectable, on good pixels) and
    ``candidate`` (row in the other table, -1: missed)."""
    candidates: "pd.DataFrame"
    """The candidates' columns, and ``group``, ``truth`` (row in the other table, -1: false), ``cause``."""
    epochs: int
    """Images that were searched."""

    @property
    def real(self) -> "pd.DataFrame":
        """Candidates that are real objects."""
        return self.candidates[self.candidates["truth"] >= 0]

    @property
    def false(self) -> "pd.DataFrame":
        """Candidates that are not, the strongest first."""
        wrong = self.candidates[self.candidates["truth"] < 0]
        return wrong.loc[wrong["snr"].abs().sort_values(ascending=False, kind="stable").index]

    @property
    def countable(self) -> "pd.DataFrame":
        """True objects that a perfect search would find: real, injectable, on good pixels."""
        return self.truth[self.truth["countable"]]


def compare(
    truth: str, reference: str, difference: str, candidates: str, *, radius_px: float = 2.0
) -> Comparison:
    """Match candidates with the truth, one to one within a radius, in every image that was searched.

    Parameters
    ----------
    truth, reference, difference, candidates : str
        URLs of the products. Epochs meet by the names of their files.
    radius_px : float
        Farthest a match may be.

    Raises
    ------
    ConfigError
        As `searched`, and the functions that open products.
    """
    import pandas as pd

    rows = open_truth(truth).to_dataframe().reset_index(drop=True)
    found = open_candidates(candidates).to_dataframe().reset_index(drop=True)
    found["group"] = found["field"].astype(str) + "/" + found["band"].astype(str)
    found["truth"], found["cause"] = -1, "unknown"
    references, differences = open_reference(reference), open_difference(difference)
    looked_at = searched(candidates)
    parts: list[pd.DataFrame] = []
    start = images = 0
    for group in differences:
        dataset, made = differences[group], references[group].attrs["reference"]
        stars = _bright_stars(references[group])
        for epoch in np.flatnonzero(dataset["valid"].to_numpy()):
            if (group, int(epoch)) not in looked_at:
                continue
            images += 1
            image = dataset.isel(epoch=epoch)
            own = rows[rows["source"] == file_of(str(image["source"].item()))].reset_index(drop=True)
            own["group"], own["difference_epoch"] = group, epoch
            own["flux_ujy"] = _expected(own, rows, made)
            own["true_snr"], own["countable"] = _significance(own, image)
            here = found.index[(found["group"] == group) & (found["epoch"] == epoch)]
            own["candidate"], causes = _matched(own, found.loc[here], stars, radius_px)
            matched = own.index[own["candidate"] >= 0]
            found.loc[own.loc[matched, "candidate"], "truth"] = matched + start
            found.loc[here, "cause"] = causes
            parts.append(own)
            start += len(own)
    return Comparison(pd.concat(parts, ignore_index=True), found, images)


def searched(candidates: str) -> set[tuple[str, int]]:
    """Images that were looked at for candidates, as (group, epoch), those without any too.

    Raises
    ------
    ConfigError
        The ledger beside the candidates, which says so, is missing.
    """
    keys = [ShardKey.parse(key) for key in Ledger(Location.parse(candidates)).finished("detect")]
    if not keys:
        raise ConfigError(
            f"{candidates}.ledger does not say which images were searched: copy it along with the candidates"
        )
    return {(key.group, key.epoch) for key in keys}


def file_of(source: str) -> str:
    """Name of the file in an epoch's source, without folder and extension number."""
    return source.rsplit("/", 1)[-1].split("[", 1)[0]


def _expected(own: "pd.DataFrame", rows: "pd.DataFrame", made: dict[str, Any]) -> NDArray[np.float64]:
    """Difference flux in µJy: the epoch's light minus the template's at the same place."""
    stay = own["class"] != "moving"  # what moves is elsewhere in the template
    templates = []
    for source in made["sources"]:
        known = rows[rows["source"] == file_of(source)].drop_duplicates("id").set_index("id")["mag"]
        templates.append(own["id"].map(known).where(stay).to_numpy())
    return difference_flux(own["mag"], np.array(templates), made["weights"], AB_OF_ONE_MICROJANSKY)


def _significance(own: "pd.DataFrame", image: "xr.Dataset") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """True SNR by ``sigma_flux`` at the object's pixel, and whether it counts."""
    sigma = microjansky(image["sigma_flux"].to_numpy(), float(image["zeropoint"]))
    mask = image["mask"].to_numpy()
    height, width = sigma.shape
    column = np.clip(np.rint(own["x"]), 0, width - 1).astype(int)
    row = np.clip(np.rint(own["y"]), 0, height - 1).astype(int)
    snr = own["flux_ujy"].to_numpy() / sigma[row, column]
    good = np.isfinite(snr) & ((mask[row, column] & int(UNUSABLE)) == 0)
    real = own["class"].isin(REAL).to_numpy()
    return np.where(real, snr, np.nan), good & real & own["injectable"].to_numpy(bool)


def _bright_stars(reference: "xr.Dataset") -> NDArray[np.float64]:
    """Positions, (n, 2) pixels, of stars whose residuals rise above the noise."""
    flux, error = reference["star_flux"].to_numpy(), reference["star_flux_err"].to_numpy()
    bright = np.isfinite(flux) & (flux > _STAR_SNR * error)
    return np.column_stack([reference["star_x"].to_numpy()[bright], reference["star_y"].to_numpy()[bright]])


def _matched(
    own: "pd.DataFrame", found: "pd.DataFrame", stars: NDArray[np.float64], radius_px: float
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Candidate of every true row (-1: none), and the cause of every candidate of one image."""
    candidate = np.full(len(own), -1, np.int64)
    causes = np.full(len(found), "unknown", dtype=object)
    real = np.flatnonzero(own["class"].isin(REAL) & (own["true_snr"].abs() > _FAINTEST_SNR))
    i, j = match_one_to_one(found["x"], found["y"], own["x"].iloc[real], own["y"].iloc[real], radius_px)
    candidate[real[j]] = found.index[i]
    causes[i] = own["class"].iloc[real[j]]
    # artifacts take what is left; a track is longer than the radius, so they reach farther
    left, artifact = np.setdiff1d(np.arange(len(found)), i), np.flatnonzero(~own["class"].isin(REAL))
    rest = found.iloc[left]
    k, m = match_one_to_one(
        rest["x"], rest["y"], own["x"].iloc[artifact], own["y"].iloc[artifact], 3 * radius_px
    )
    causes[left[k]] = own["class"].iloc[artifact[m]]
    if len(stars):
        distance, _ = cKDTree(stars).query(found[["x", "y"]].to_numpy())
        causes[(distance < _STAR_RADIUS_PX) & (causes == "unknown")] = "bright star"
    causes[(found["mask"].to_numpy() != 0) & (causes == "unknown")] = "flagged pixels"
    return candidate, causes
