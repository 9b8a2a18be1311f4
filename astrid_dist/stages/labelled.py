"""Candidates that a model scored, with what the truth says of each: to make ensembles and calibrations of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.stages.comparison import compare
from astrid_dist.stages.labels import BOGUS_LABEL, IGNORED, REAL_LABEL, labels
from astrid_dist.stages.scoring import kept_model
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.templates import product_header

if TYPE_CHECKING:
    import pandas as pd

    from astrid_dist.learning.ensemble import Ensemble


@dataclass(frozen=True)
class Labelled:
    """All candidates of a product."""

    table: "pd.DataFrame"
    """Their columns, and ``group``, ``truth`` and ``cause`` as `Comparison` has them."""
    label: NDArray[np.int8]
    """As `labels` gives them."""

    @property
    def known(self) -> "pd.DataFrame":
        """Those that are real or bogus for sure."""
        certain: pd.DataFrame = self.table[self.label != IGNORED]
        return certain

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which of these are real."""
        return np.asarray(self.label[self.label != IGNORED] == REAL_LABEL)

    @property
    def ignored(self) -> int:
        """How many are neither."""
        return int((self.label == IGNORED).sum())


def label_candidates(
    candidates: str,
    truth: str,
    known: str | None,
    model: str,
    networks: "Ensemble",
    least_snr: float,
    at_least: int,
) -> Labelled:
    """Candidates and their labels.

    Parameters
    ----------
    candidates, truth : str
        URLs of candidates that detect found with a model, and of the truth of their survey.
    known : str, optional
        URL of the truth of what changed before injection; what is near is left out.
    model, networks
        Name and content of the model whose networks must have scored them.
    least_snr : float
        True SNR of the faintest real example.
    at_least : int
        Real examples, and bogus ones.

    Raises
    ------
    InputError
        They were not scored by these networks, nothing in them belongs to the truth, or there are too few.
    """
    inputs = product_header(Location.parse(candidates))["inputs"]
    if "model" not in inputs:
        raise InputError(f"{candidates} has no p_unet: run detect with model={model} first")
    if kept_model(candidates, inputs["model"]).networks_digest != networks.networks_digest:
        raise InputError(
            f"{candidates} was made with {inputs['model']}, whose U-Net is another than that of {model}: "
            "name that model, or detect with this one first"
        )
    found = compare(truth, inputs["reference"], inputs["difference"], candidates)
    table = found.candidates
    if not (table["truth"] >= 0).any() and not (table["cause"].isin(found.truth["class"])).any():
        raise InputError(
            f"none of the {len(table)} candidates of {candidates} is where {truth} says that "
            "something is: give the truth of the survey that they were found in"
        )
    before = open_truth(known).to_dataframe() if known else None
    label = labels(found, least_snr, before)
    counts = {kind: int((label == kind).sum()) for kind in (REAL_LABEL, BOGUS_LABEL)}
    if min(counts.values()) < at_least:
        raise InputError(
            f"{candidates}: {counts[REAL_LABEL]} real and {counts[BOGUS_LABEL]} bogus candidates; "
            f"{at_least} of each are needed: inject more sources or epochs, detect "
            "again, or lower `examples`"
        )
    return Labelled(table, label)


def columns_of(table: "pd.DataFrame") -> dict[str, NDArray[Any]]:
    """Columns of a table as arrays."""
    return {str(name): table[name].to_numpy() for name in table.columns}
