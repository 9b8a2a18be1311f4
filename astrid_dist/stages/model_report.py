"""The part of a report that says what a network learned, and what it makes of the candidates."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.figures import page
from astrid_dist.figures.training import probabilities, training_curves
from astrid_dist.stages.comparison import Comparison
from astrid_dist.stages.galleries import scored
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: From this probability on a candidate is called real.
CALLED_REAL = 0.5


def model_sections(
    comparison: Comparison, run: str, products: "Mapping[str, Mapping[str, xr.Dataset]]"
) -> list[str]:
    """Sections about the network of a run, and what it says of the candidates.

    Parameters
    ----------
    comparison : Comparison
        Candidates that a model has scored, against the truth.
    run : str
        URL of the training's output.
    products : mapping
        Opened ``survey, reference, difference``.
    """
    record = json.loads(Location.parse(run).objects().get("run.json") or b"{}")
    history = record["history"]
    curves = [
        [epoch[name] for epoch in history]
        for name in ("epoch", "train_loss", "val_loss", "val_auc", "val_iou")
    ]
    real, false = comparison.real["p_real"].to_numpy(), comparison.false["p_real"].to_numpy()
    return [
        page.section(
            "Real or bogus",
            "A U-Net, trained here within minutes on transients and artifacts that were put into this survey "
            "(at other places and of other brightness than what is searched for, in the same sky), scores "
            "every candidate. Nothing is thrown away: p_real is a column to cut by.",
            page.cards(_headline(comparison)),
            page.row(
                page.figure(
                    training_curves(*curves),
                    "Loss of training and validation samples, and how well real and bogus validation samples "
                    "are told apart; tiles of one part of the sky are in one of the two only.",
                    "loss, AUC and IoU by epoch",
                ),
                page.figure(
                    probabilities(real, false),
                    "What the network says of the candidates of the search, which are of a later time.",
                    "histogram of p_real of real and false candidates",
                ),
            ),
            page.table(*_at_thresholds(comparison)),
        ),
        page.section(
            "What the network got wrong",
            "False alarms that it takes for real, then real objects that it takes for bogus, surest first.",
            page.gallery(_wrong(comparison, products)),
        ),
    ]


def _headline(comparison: Comparison) -> list[tuple[str, str]]:
    real, false = comparison.real["p_real"], comparison.false["p_real"]
    kept, passed = int((real >= CALLED_REAL).sum()), int((false >= CALLED_REAL).sum())
    images = max(comparison.epochs, 1)
    return [
        (_share(kept, kept + passed), f"precision at p_real of {CALLED_REAL:g} or more"),
        (_share(len(real), len(real) + len(false)), "precision of all candidates"),
        (_share(kept, len(real)), "of the real candidates are kept"),
        (f"{passed / images:.2f}", f"false alarms per image; {len(false) / images:.2f} of all candidates"),
    ]


def _at_thresholds(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Table of what different cuts in p_real keep."""
    real, false = comparison.real["p_real"].to_numpy(), comparison.false["p_real"].to_numpy()
    rows = []
    for cut in (0.0, 0.1, 0.5, 0.9, 0.99):
        kept, passed = int((real >= cut).sum()), int((false >= cut).sum())
        per_image = f"{passed / max(comparison.epochs, 1):.2f}"
        rows.append([f"{cut:g}", str(kept), str(passed), _share(kept, kept + passed), per_image])
    return ["p_real at least", "real kept", "false kept", "precision", "false per image"], rows


def _wrong(
    comparison: Comparison, products: "Mapping[str, Mapping[str, xr.Dataset]]", most: int = 4
) -> list[tuple[bytes, str, str]]:
    real, false = comparison.real, comparison.false
    surest: list[tuple[pd.DataFrame, bool]] = [
        (false[false["p_real"] >= CALLED_REAL].nlargest(most, "p_real"), False),
        (real[real["p_real"] < CALLED_REAL].nsmallest(most, "p_real"), True),
    ]
    items: list[tuple[bytes, str, str]] = []
    for rows, is_real in surest:
        items += scored(rows, is_real, comparison, products)
    return items


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def scored_by_model(candidates: Any) -> bool:
    """Whether a table of candidates has probabilities."""
    return bool(len(candidates)) and bool(np.isfinite(candidates["p_real"]).any())
