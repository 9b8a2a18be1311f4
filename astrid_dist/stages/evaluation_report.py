"""The page of an evaluation: figures, tables by stratum, and pictures of the worst errors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.errors import AstridError
from astrid_dist.evaluation.metrics import PRIORS, ranking
from astrid_dist.figures import evaluation as drawn
from astrid_dist.figures import page
from astrid_dist.figures.training import confusion
from astrid_dist.stages.galleries import picture
from astrid_dist.stages.judged import Judged
from astrid_dist.stages.judging import Figures
from astrid_dist.stages.labels import BOGUS_LABEL
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_difference, open_reference, open_survey
from astrid_dist.store.templates import product_header

if TYPE_CHECKING:
    import pandas as pd


def evaluation_report(judged: Judged, found: Figures, inputs: Mapping[str, Any], examples: int) -> str:
    """The page as one HTML document; `found` is what `figures` gave, `inputs` those of the candidates."""
    model = inputs.get("model", "no model")
    lead = (
        f"{found['candidates']:,} candidates in {found['images']:,} images, scored by {model}; "
        f"{found['sources']:,} true sources are to be found. Intervals hold 95 % of resampled images."
    )
    return page.page(
        "How far it can be trusted",
        lead,
        [
            page.cards(_cards(found)),
            _ends(found),
            _ranking(judged, found),
            _strata(found),
            _limit(found),
            _calibration(found),
            _artifacts(found),
            _places(found),
            _errors(judged, inputs, examples),
        ],
    )


def _cards(found: Figures) -> list[tuple[str, str]]:
    best, ends = found["score"], found["end_to_end"][found["score"]]
    ranks, worst = found["ranking"][best], min(found["strata"], key=lambda row: row["recall"][0])
    return [
        (_with(ends["false_per_image"]), "false positives per image"),
        (_with(ends["recall"], percent=True), "of the sources found and accepted"),
        (f"{ranks['precision']:.3f}", f"precision among candidates at p ≥ {found['threshold']:.3g}"),
        (f"{ranks['auc']:.4f}", "AUC of real against bogus candidates"),
        (_with(worst["recall"], percent=True), f"worst stratum: {worst['stratum']} {worst['value']}"),
    ]


def _ends(found: Figures) -> str:
    rows = [
        [
            name,
            _with(ends["false_per_image"]),
            f"{ends['false_per_megapixel']:.2f}",
            f"{100 * ends['images_without']:.0f} %",
            _with(ends["recall"], percent=True),
            _with(ends["recall_at_6"], percent=True),
        ]
        for name, ends in found["end_to_end"].items()
    ]
    header = [
        "score",
        "false per image",
        "per megapixel",
        "images without",
        "found",
        "found at SNR 5.5 to 6.5",
    ]
    text = (
        f"What is accepted (p ≥ {found['threshold']:.3g}; of S_corr alone, all that it found) in "
        f"{found['megapixels']:.1f} megapixels."
    )
    return page.section("End to end", text, page.table(header, rows))


def _ranking(judged: Judged, found: Figures) -> str:
    header = ["score", "real", "bogus", "AUC", "precision", "recall", "F1", "bogus kept at 99 % of the real"]
    header += [f"complete at purity .95, {prior}" for prior in PRIORS]
    parts = []
    for key, title in (("ranking", "all"), ("near_limit", "measured |SNR| 5.5 to 6.5")):
        rows = [
            [f"{name}, {title}", f"{one['real']:,}", f"{one['bogus']:,}"]
            + [f"{one[figure]:.4f}" for figure in ("auc", "precision", "recall", "f1", "fpr_at_99")]
            + [f"{one['at_purity'][prior]['completeness']:.3f}" for prior in PRIORS]
            for name, one in found[key].items()
            if "auc" in one
        ]
        if rows:
            parts.append(page.table(header, rows))
    sure = judged.sure
    lines = {name: ranking(score[sure], judged.real[sure]) for name, score in judged.scores.items()}
    parts.append(
        page.row(
            page.figure(drawn.purity_completeness(lines, PRIORS["1:1"]), "As many real as bogus.", "purity"),
            page.figure(drawn.purity_completeness(lines, PRIORS["1:100"]), "One in 101 real.", "purity"),
            page.figure(drawn.roc(lines), "At any prior.", "receiver operating characteristic"),
        )
    )
    rows = [
        [str(one["fold"]), f"{one['real']:,}", f"{one['bogus']:,}", f"{one['auc']:.4f}"]
        for one in found["folds"]
    ]
    parts.append(page.table(["fold of the sky", "real", "bogus", "AUC"], rows))
    return page.section("Real against bogus", "", *parts)


def _strata(found: Figures) -> str:
    rows = [row for row in found["strata"] if row["stratum"] != "kind"]
    kinds = [row for row in found["strata"] if row["stratum"] == "kind"]
    parts = [page.figure(drawn.strata(rows), "", "recall by stratum")]
    if kinds:
        parts.append(page.figure(drawn.strata(kinds), "", "recall by kind"))
    text = "Sources that are detected and accepted, the worst first; the bar: detected at all by S_corr."
    return page.section("Strata", text, page.row(*parts))


def _limit(found: Figures) -> str:
    whole = found["completeness"]
    drawing = drawn.limits(whole[found["score"]], whole["S_corr cut"])
    text = (
        f"Dotted: the share that passes S_corr {whole['threshold_of_limit']:.2f} in white noise. Peaks are "
        "sought among pixels, so that what is fainter is found a little more often than that."
    )
    if points := whole.get("points"):
        said = [f"{100 * float(level):.0f} % at SNR {_with(point)}" for level, point in points.items()]
        text = f"Accepted: {', '.join(said)}. {text}"
    return page.section("Completeness", text, page.figure(drawing, "", "share found by true SNR"))


def _calibration(found: Figures) -> str:
    parts = found["calibration"]
    if not parts:
        return ""
    header = ["", "examples", "ECE", "by chance", "with equal bins", "Brier"]
    named = {name: one for name, one in parts.items() if name != "by_snr"}
    rows = [
        [
            name.replace("_", " "),
            f"{one['examples']:,}",
            f"{one['ece']:.4f}",
            f"{one['ece_by_chance'][0]:.4f}",
            f"{one['adaptive_ece']:.4f}",
            f"{one['brier']:.4f}",
        ]
        for name, one in [*named.items(), *((f"|SNR| {name}", one) for name, one in parts["by_snr"].items())]
    ]
    by_prior = {name: named[name]["bins"] for name in PRIORS if name in named}
    snr = list(parts["by_snr"])
    chosen = {f"|SNR| {name}": parts["by_snr"][name]["bins"] for name in snr[:: max(1, -(-len(snr) // 4))]}
    figures = [page.figure(drawn.reliabilities(by_prior), "At three priors.", "reliability by prior")]
    if chosen:
        figures.append(
            page.figure(drawn.reliabilities(chosen), "As they come, by |SNR|.", "reliability by SNR")
        )
    text = "By chance: what a perfectly calibrated model would show on as many examples."
    return page.section("Calibration", text, page.row(*figures), page.table(header, rows))


def _artifacts(found: Figures) -> str:
    rows = [
        [cause.replace("_", " "), f"{one['bogus']:,}", f"{100 * one['rejected']:.1f} %"]
        for cause, one in found["rejection"].items()
    ]
    parts = [page.table(["bogus candidates by cause", "number", "rejected"], rows)]
    if found["confusion"]:
        drawing = confusion(found["confusion"]["counts"], found["confusion"]["classes"])
        parts.append(page.figure(drawing, "Classes, where the truth is known.", "confusion of classes"))
    return page.section("Artifacts and classes", "The worst rejected first.", page.row(*parts))


def _places(found: Figures) -> str:
    rows = [
        [
            name,
            f"{one['sources']:,}",
            f"{one['median_px']:.3f}",
            f"{one['percentile_95_px']:.3f}",
            f"{100 * one['within_1_px']:.1f} %",
            f"{one['pull']:.2f}",
        ]
        for name, one in found["localisation"].items()
    ]
    header = ["place by", "sources of SNR 10 or more", "median (px)", "95 % (px)", "within 1 px", "pull"]
    text = "Pull: error over FWHM / (2.355 SNR) along an axis; 1.41 is the least that white noise allows."
    return page.section("Places", text, page.table(header, rows))


def _errors(judged: Judged, inputs: Mapping[str, Any], most: int) -> str:
    """Bogus candidates that are accepted with most, and bright sources rejected with least probability."""
    accepted = judged.accepted(judged.best)
    score = judged.scores[judged.best]
    rows = judged.candidates.assign(score=score)
    wrong = rows[np.asarray(rows["label"] == BOGUS_LABEL) & accepted]
    lost = rows[judged.real & ~accepted]
    try:
        survey = product_header(Location.parse(inputs["difference"]))["inputs"]["survey"]
        products = {
            "survey": open_survey(survey),
            "reference": open_reference(inputs["reference"]),
            "difference": open_difference(inputs["difference"]),
        }
    except AstridError as error:
        return page.section("The worst errors", f"No pictures: {error}")
    parts = []
    for title, chosen in (
        ("Accepted, and bogus", _spread(wrong, "cause", most, -1)),
        ("Real, and rejected", _spread(lost, "cause", most, 1)),
    ):
        items = []
        for _, row in chosen.iterrows():
            image, epoch = picture(row, products)
            caption = f"p {row['score']:.3f}, S_corr {row['snr']:+.1f}; x {row['x']:.0f}, y {row['y']:.0f}"
            items.append((image, f"{str(row['cause']).replace('_', ' ')}, epoch {epoch}", caption))
        parts.append(
            page.section(
                title, f"{len(wrong) if 'bogus' in title else len(lost):,} in all.", page.gallery(items)
            )
        )
    return "\n".join(parts)


def _spread(rows: "pd.DataFrame", by: str, most: int, sign: int) -> "pd.DataFrame":
    """The worst of every value of a column in turn, so that none fills the page."""
    ordered = rows.iloc[np.argsort(sign * rows["score"].to_numpy(), kind="stable")]
    turn = ordered.groupby(by, sort=False).cumcount().to_numpy()
    return ordered.iloc[np.argsort(turn, kind="stable")[:most]]


def _with(interval: Sequence[float], percent: bool = False) -> str:
    value, low, high = (100 * one if percent else one for one in interval)
    if not np.isfinite(value):
        return "–"
    form = ".1f" if percent or value >= 10 else ".3f"
    return f"{value:{form}}{' %' if percent else ''} ({low:{form}} to {high:{form}})"
