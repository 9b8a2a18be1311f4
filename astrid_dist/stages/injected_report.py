"""The page of the difference of an injected survey: what was put in, how bright it is, how it looks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.errors import ConfigError
from astrid_dist.figures import page
from astrid_dist.figures import samples as drawn
from astrid_dist.figures.triplets import triplet_png
from astrid_dist.stages.galleries import stamp_around
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_difference, open_reference, open_survey, open_truth
from astrid_dist.store.templates import product_header
from astrid_dist.taxonomy import BOGUS, KINDS, REAL

if TYPE_CHECKING:
    import pandas as pd

#: Pictures of each class.
MOST_EXAMPLES = 4
_SNR_EDGES = np.geomspace(1, 1000, 25)


def injected_report(url: Any) -> str:
    """The page of a difference whose survey was injected, as one HTML document.

    Parameters
    ----------
    url : URL or path
        The difference.

    Raises
    ------
    ConfigError, IncompleteProductError, StorageError
        As the functions that open its products; or its survey has no truth.
    """
    inputs = product_header(Location.parse(url))["inputs"]
    difference, survey = open_difference(url), open_survey(inputs["survey"])
    reference = open_reference(inputs["reference"])
    truth = open_truth(inputs["survey"]).to_dataframe()
    truth = truth[truth["epoch"] >= 0]
    if truth.empty:
        raise ConfigError(f"{inputs['survey']} has no truth about any epoch: was it injected?")
    real = truth[truth["class"].isin(REAL)]
    images = sum(difference[group].sizes["epoch"] for group in difference)
    put = real["injectable"]
    cards = [
        (f"{images:,}", f"difference images of {len(list(difference))} fields and bands"),
        (f"{int(put.sum()):,}", "sources in them, each epoch counted"),
        (f"{100 * put.mean():.0f} %", "of the sources could be put in; the others say so and do not count"),
        (f"{int(truth['class'].isin(BOGUS).sum()):,}", "artifacts"),
    ]
    products = {"survey": survey, "reference": reference, "difference": difference}
    return page.page(
        "Injected survey",
        f"{images:,} difference images in {url}, made from {inputs['survey']}.",
        [page.cards(cards), _balance(real, truth), _signal(real[put]), _examples(real[put], products)],
    )


def _balance(real: "pd.DataFrame", truth: "pd.DataFrame") -> str:
    figures = []
    for title, column in (("class", "class"), ("kind", "kind"), ("band", "band")):
        counts = real.groupby(column)["injectable"].agg(["size", "sum"]).sort_values("size", ascending=False)
        drawing = drawn.balance(list(counts.index.astype(str)), counts["size"], counts["sum"])
        figures.append(page.figure(drawing, f"By {title}.", f"sources by {title}"))
    hosted = (real["host"] != "").map({True: "in a galaxy", False: "elsewhere"})
    counts = real.groupby(hosted)["injectable"].agg(["size", "sum"])
    drawing = drawn.balance(list(counts.index), counts["size"], counts["sum"])
    figures.append(page.figure(drawing, "By environment.", "sources by environment"))
    artifacts = truth.loc[truth["class"].isin(BOGUS), "kind"].value_counts()
    rows = [[str(kind), KINDS[str(kind)], f"{number:,}"] for kind, number in artifacts.items()]
    text = "Outlined: sources drawn, in every epoch. Filled: those that could be put in and count."
    return page.section(
        "Balance", text, page.row(*figures), page.table(["artifact", "class", "number in all epochs"], rows)
    )


def _signal(real: "pd.DataFrame") -> str:
    parts = {str(name): rows["snr"].abs().to_numpy() for name, rows in real.groupby("class") if len(rows)}
    drawing = drawn.spread(parts, _SNR_EDGES, "true SNR in the difference", marked=5.0)
    fading = 100 * float((real["flux"] < 0).mean()) if len(real) else 0.0
    text = f"{fading:.0f} % are fainter than in the reference."
    return page.section("Signal", text, page.figure(drawing, "True SNR by class.", "true SNR by class"))


def _examples(real: "pd.DataFrame", products: dict[str, Any]) -> str:
    """Sources of every class from bright to faint."""
    items = []
    for name in REAL:
        rows = real[(real["class"] == name) & (real["snr"].abs() > 3)].copy()
        rows = rows.loc[rows["snr"].abs().sort_values(ascending=False, kind="stable").index]
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(MOST_EXAMPLES, len(rows))).round().astype(int))
        for _, row in rows.iloc[chosen].iterrows():
            group, x, y = f"{row['field']}/{row['band']}", float(row["x"]), float(row["y"])
            if group not in list(products["difference"]):
                continue
            image = products["difference"][group]
            at = np.flatnonzero(image["survey_epoch"].values == row["epoch"])
            if not at.size:
                continue
            one = image.isel(epoch=int(at[0]))
            science = products["survey"][group].isel(epoch=int(row["epoch"]))
            planes = (
                stamp_around(science, "image", x, y),
                stamp_around(products["reference"][group], "image", x, y),
                stamp_around(one, "difference", x, y),
                stamp_around(one, "score", x, y),
            )
            caption = f"true SNR {row['snr']:+.1f}, {row['band']}, epoch {row['epoch']}"
            items.append((triplet_png(*planes), str(row["kind"]), caption))
    return page.section("Examples", "From bright to faint, by class.", page.gallery(items))
