"""Galleries of a report: stamps of what was found, and of what was found wrongly."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.figures.triplets import triplet_png
from astrid_dist.imaging.background import evaluate
from astrid_dist.stages.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    Products = Mapping[str, Mapping[str, xr.Dataset]]

#: Half side of a stamp, pixels.
_HALF = 20


def detections(
    comparison: Comparison, name: str, products: "Products", most: int = 6
) -> list[tuple[bytes, str, str]]:
    """Strongest detections of objects of a class, each once per sign, spread from strong to faint.

    Parameters
    ----------
    comparison : Comparison
        What was found.
    name : str
        Class of the truth.
    products : mapping
        Opened ``survey, reference, difference``.
    most : int
        At most so many.

    Returns
    -------
    list of (PNG, title, caption)
    """
    matched = comparison.real
    true = comparison.truth.loc[matched["truth"]].reset_index(drop=True)
    rows = matched.reset_index(drop=True)
    rows = rows.join(true[["id", "class", "kind", "host", "flux_ujy", "true_snr"]])[true["class"] == name]
    rows = rows.loc[rows["snr"].abs().sort_values(ascending=False, kind="stable").index]
    rows = rows[~rows.assign(sign=rows["snr"] > 0).duplicated(["id", "sign"])]
    spread = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    items = []
    for _, row in rows.iloc[spread].iterrows():
        host = f", in galaxy {row['host']}" if row["host"] else ""
        caption = (
            f"S_corr {row['snr']:+.1f} (true SNR {row['true_snr']:+.1f}); "
            f"{row['flux']:.1f} ± {row['flux_err']:.1f} µJy (true {row['flux_ujy']:.1f}){host}"
        )
        image, epoch = picture(row, products)
        items.append((image, f"{row['kind']}, epoch {epoch}", caption))
    return items


def false_alarms(comparison: Comparison, products: "Products", most: int = 3) -> list[tuple[bytes, str, str]]:
    """Strongest false alarms of every cause; parameters and result as of `detections`."""
    items = []
    for _, row in comparison.false.groupby("cause", sort=False).head(most).iterrows():
        cause = "no known cause" if row["cause"] == "unknown" else str(row["cause"]).replace("_", " ")
        place = f"x {row['x']:.1f}, y {row['y']:.1f}"
        caption = f"S_corr {row['snr']:+.1f}, χ² per degree of freedom {row['chi2']:.1f}; {place}"
        image, epoch = picture(row, products)
        items.append((image, f"{cause}, epoch {epoch}", caption))
    return items


def scored(
    rows: "pd.DataFrame", real: bool, comparison: Comparison, products: "Products"
) -> list[tuple[bytes, str, str]]:
    """Candidates with what a model says of them; parameters and result as of `detections`."""
    items = []
    for _, row in rows.iterrows():
        name = str(comparison.truth.loc[row["truth"], "kind"]) if real else str(row["cause"])
        what = {"unknown": "no known cause"}.get(name, name).replace("_", " ")
        caption = f"p_real {row['p_real']:.2f}, S_corr {row['snr']:+.1f}; x {row['x']:.1f}, y {row['y']:.1f}"
        image, epoch = picture(row, products)
        items.append((image, f"{'real' if real else 'false'}: {what}, epoch {epoch}", caption))
    return items


def picture(row: "pd.Series[Any]", products: "Products") -> tuple[bytes, int]:
    """The four planes around a candidate, and its epoch in the survey."""
    difference = products["difference"][row["group"]].isel(epoch=int(row["epoch"]))
    epoch = int(difference["survey_epoch"])
    science = products["survey"][row["group"]].isel(epoch=epoch)
    planes = (
        stamp_around(science, "image", row["x"], row["y"]),
        stamp_around(products["reference"][row["group"]], "image", row["x"], row["y"]),
        stamp_around(difference, "difference", row["x"], row["y"]),
        stamp_around(difference, "score", row["x"], row["y"]),
    )
    return triplet_png(*planes), epoch


def stamp_around(dataset: "xr.Dataset", name: str, x: float, y: float) -> np.ndarray[Any, Any]:
    """A square around a position, its sky taken away; NaN beyond the edge."""
    side = 2 * _HALF + 1
    stamp = np.full((side, side), np.nan, np.float32)
    height, width = dataset[name].shape
    row, column = round(y) - _HALF, round(x) - _HALF
    y0, y1, x0, x1 = max(row, 0), min(row + side, height), max(column, 0), min(column + side, width)
    piece = dataset[name].isel(y=slice(y0, y1), x=slice(x0, x1)).to_numpy()
    if name == "image":
        mesh = dataset["background"].to_numpy()
        piece = piece - evaluate(mesh, int(dataset.attrs["mesh_box"]), y0, x0, y1 - y0, x1 - x0)
    stamp[y0 - row : y1 - row, x0 - column : x1 - column] = piece
    return stamp
