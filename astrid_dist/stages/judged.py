"""Candidates with labels and scores, and the true sources that they are judged by."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from astrid_dist.stages.comparison import Comparison
from astrid_dist.stages.labels import IGNORED, REAL_LABEL, labels, sky_cells

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Least true |SNR| at which anything is said of a source.
FAINTEST = 2.0
#: Column of each score; they are judged where a column is there and says something.
SCORES = {"S_corr cut": "snr", "trees": "p_trees", "U-Net": "p_unet", "model": "p_real"}
#: Edges of bins of |SNR|.
SNR_EDGES = (2.0, 3.0, 4.0, 5.0, 5.5, 6.5, 8.0, 10.0, 15.0, 30.0, 1e9)


@dataclass(frozen=True)
class Judged:
    """Candidates with labels and scores, and the truth."""

    comparison: Comparison
    candidates: "pd.DataFrame"
    """As the comparison's, with ``label``, ``image`` and ``cell``; ignored ones too."""
    sources: "pd.DataFrame"
    """All countable ones, with ``image``, ``sign``, ``environment`` and ``SNR``, the name of a bin."""
    least_snr: float
    """Fainter sources are neither found nor missed, but in completeness by SNR."""
    threshold: float
    """Of the probability, from which a candidate is accepted."""
    seed: int = 0

    @classmethod
    def of(
        cls,
        found: Comparison,
        threshold: float,
        least_snr: float,
        known: "pd.DataFrame | None" = None,
        cell_arcsec: float = 60.0,
        seed: int = 0,
    ) -> "Judged":
        """Label and group what was compared.

        `known`: truth of what changed before anything was put in, which is left out.
        """
        candidates = found.candidates.copy()
        candidates["label"] = labels(found, least_snr, known)
        candidates["image"] = _codes(candidates["group"], candidates["epoch"])
        candidates["cell"] = sky_cells(candidates, cell_arcsec)
        truth = found.countable[found.countable["true_snr"].abs() >= FAINTEST].copy()
        truth["image"] = _codes(truth["group"], truth["difference_epoch"])
        truth["sign"] = np.where(truth["true_snr"] > 0, "brighter", "fainter")
        truth["environment"] = np.where(truth["host"] == "", "no host", "in a galaxy")
        truth["SNR"] = snr_bins(truth["true_snr"].abs())
        return cls(found, candidates, truth, least_snr, threshold, seed)

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """(candidates,) of each score that there is; what says nothing of a candidate rejects it."""
        result = {}
        for name, column in SCORES.items():
            values = np.abs(self.candidates[column].to_numpy(float)) if column in self.candidates else None
            if values is not None and np.isfinite(values).any():
                result[name] = np.where(np.isnan(values), -1.0, values)
        if "model" in result and len(result) == 3 and "U-Net" in result:
            del result["U-Net"]  # the model is the U-Net alone
        return result

    @cached_property
    def best(self) -> str:
        """Name of the score that decides."""
        return list(self.scores)[-1]

    @cached_property
    def sure(self) -> Bools:
        """(candidates,) what is real or bogus for sure."""
        return np.asarray(self.candidates["label"] != IGNORED)

    @cached_property
    def real(self) -> Bools:
        """(candidates,)"""
        return np.asarray(self.candidates["label"] == REAL_LABEL)

    def accepted(self, name: str) -> Bools:
        """(candidates,) what passes a score at the threshold; S_corr alone takes all that it found."""
        if name == "S_corr cut":
            return np.asarray(self.candidates["found_by"] == "score")
        return self.scores[name] >= self.threshold

    @cached_property
    def truth(self) -> "pd.DataFrame":
        """Sources bright enough to be found or missed."""
        return self.sources[self.sources["true_snr"].abs() >= self.least_snr]

    def found(self, name: str, sources: "pd.DataFrame | None" = None) -> Bools:
        """(truth,), or of other sources, what has a candidate that passes."""
        place = (self.truth if sources is None else sources)["candidate"].to_numpy()
        return np.asarray((place >= 0) & self.accepted(name)[place.clip(0)])


def _codes(*columns: "pd.Series") -> NDArray[np.int64]:
    """One number for each combination; the same for both tables."""
    import pandas as pd

    keys = columns[0].astype(str)
    for column in columns[1:]:
        keys = keys + " " + column.astype(str)
    return np.asarray(pd.util.hash_array(keys.to_numpy(object)).view(np.int64))


def snr_bins(snr: "pd.Series") -> NDArray[np.str_]:
    """Name of the bin of `SNR_EDGES`; what is below the first is below it."""
    place = np.searchsorted(SNR_EDGES, snr.to_numpy(float), side="right") - 1
    names = [f"below {SNR_EDGES[0]:g}"] + [
        f"{low:g} to {high:g}" if high < 1e8 else f"{low:g} and more" for low, high in pairwise(SNR_EDGES)
    ]
    return np.asarray(np.array(names)[place.clip(-1, len(SNR_EDGES) - 2) + 1])
