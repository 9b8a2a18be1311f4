"""What scored candidates are worth, against the truth: every figure of an evaluation, and nothing drawn.

A score is judged in two ways. *Of candidates*: how well it tells those that are real from those that are not.
*End to end*: what passes it in an image, and which true sources are lost, be it that nothing was detected.
What could not be put in, is too faint or lies on bad pixels is neither found nor missed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from astrid_dist.evaluation.bootstrap import Interval, ratio_interval
from astrid_dist.evaluation.calibration import calibration, reliability
from astrid_dist.evaluation.classes import confusion, recalls, rejected
from astrid_dist.evaluation.completeness import curve_points
from astrid_dist.evaluation.limits import matched_filter_recall
from astrid_dist.evaluation.localisation import localisation
from astrid_dist.evaluation.matching import completeness
from astrid_dist.evaluation.metrics import PRIORS, Ranking, at_threshold, prior_weights, ranking
from astrid_dist.evaluation.scaling import shift_prior
from astrid_dist.stages.judged import SNR_EDGES, Bools, Floats, Judged, snr_bins
from astrid_dist.stages.labels import BOGUS_LABEL
from astrid_dist.taxonomy import CLASSES

Figures = dict[str, Any]
#: The SNR at which requirements are stated (Rubin's OSS-REQ-0353: 6).
NEAR_LIMIT = (5.5, 6.5)
#: Share of the real that models are trained to tell probabilities for.
EVEN = 0.5
#: Purity that is asked for.
PURITY = 0.95
#: Shares found whose SNR is told.
LEVELS = (0.5, 0.9)
#: Bright enough for places to be judged, SNR.
BRIGHT = 10.0


def figures(judged: Judged, megapixels: float) -> Figures:
    """Everything, as plain numbers that JSON takes; NaN where nothing was there to measure.

    `megapixels` of good pixels were searched in all images together.
    """
    names = list(judged.scores)
    return {
        "images": judged.comparison.epochs,
        "megapixels": megapixels,
        "candidates": len(judged.candidates),
        "real": int(judged.real.sum()),
        "bogus": int((judged.candidates["label"] == BOGUS_LABEL).sum()),
        "ignored": int((~judged.sure).sum()),
        "sources": len(judged.truth),
        "threshold": judged.threshold,
        "score": judged.best,
        "ranking": {name: ranked(judged, name) for name in names},
        "near_limit": {name: ranked(judged, name, NEAR_LIMIT) for name in names},
        "end_to_end": {name: end_to_end(judged, name, megapixels) for name in names},
        "calibration": calibrated(judged),
        "strata": list(strata(judged)),
        "completeness": complete(judged),
        "rejection": {
            cause: {"bogus": one.trials, "rejected": one.fraction, "interval": one.interval}
            for cause, one in _rejected(judged).items()
        },
        "confusion": confused(judged),
        "localisation": localised(judged),
        "folds": list(folds(judged)),
    }


def ranked(judged: Judged, name: str, snr: tuple[float, float] | None = None) -> Figures:
    """How well a score ranks candidates, all or those of a measured |SNR|."""
    keep = judged.sure.copy()
    if snr is not None:
        size = judged.candidates["snr"].abs()
        keep &= np.asarray((size >= snr[0]) & (size < snr[1]))
    real = judged.real[keep]
    counts = {"real": int(real.sum()), "bogus": int((~real).sum())}
    if not all(counts.values()):
        return counts
    one = ranking(judged.scores[name][keep], real)
    passed = at_threshold(judged.accepted(name)[keep].astype(float), real, 0.5)
    return {
        **counts,
        "auc": one.auc,
        "average_precision": one.average_precision(),
        "precision": passed.precision,
        "recall": passed.recall,
        "f1": passed.f1,
        "false_positive_rate": passed.fpr,
        "equal_error": one.equal_error,
        "fpr_at_99": one.fpr_at_fnr(0.01),
        "break_even": {prior: one.break_even(share).purity for prior, share in PRIORS.items()},
        "at_purity": {prior: _at_purity(one, share) for prior, share in PRIORS.items()},
    }


def _at_purity(one: Ranking, prior: float) -> Figures:
    point = one.at_purity(PURITY, prior)
    return {"threshold": point.threshold, "completeness": point.completeness, "purity": point.purity}


def end_to_end(judged: Judged, name: str, megapixels: float) -> Figures:
    """What passes in an image, and which sources have a candidate that passes, with 95 % of images."""
    images = judged.comparison.epochs
    false = np.asarray(judged.candidates["label"] == BOGUS_LABEL) & judged.accepted(name)
    per_image = _of_images(judged, false)
    found = judged.found(name)
    return {
        "false_per_image": _said(
            ratio_interval(per_image, np.ones(images), np.arange(images), seed=judged.seed)
        ),
        "false_per_megapixel": float(false.sum() / megapixels),
        "images_without": float((per_image == 0).mean()),
        "recall": _said(_share(judged, found)),
        "recall_at_6": _said(
            _share(judged, found, np.asarray(judged.truth["true_snr"].abs().between(*NEAR_LIMIT)))
        ),
    }


def _of_images(judged: Judged, chosen: Bools) -> Floats:
    """Candidates chosen in each image, those without candidates included, (images,)."""
    counts = judged.candidates[chosen].groupby("image").size().to_numpy(float)
    return np.concatenate([counts, np.zeros(judged.comparison.epochs - len(counts))])


def _share(judged: Judged, found: Bools, of: Bools | None = None) -> Interval:
    keep = np.ones(len(found), bool) if of is None else of
    if not keep.any():
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    image = judged.truth["image"].to_numpy()[keep]
    return ratio_interval(found[keep], np.ones(keep.sum()), image, seed=judged.seed)


def calibrated(judged: Judged) -> Figures:
    """How far probabilities are from frequencies: at each prior, and at even odds by |SNR|."""
    if judged.best == "S_corr cut":
        return {}
    keep = judged.sure & (judged.scores[judged.best] >= 0)
    p, real = judged.scores[judged.best][keep], judged.real[keep]
    if not real.any() or real.all():
        return {}
    result: Figures = {"as_they_come": _calibration(p, real, None)}
    for prior, share in PRIORS.items():
        result[prior] = _calibration(shift_prior(p, EVEN, share), real, share)
    of = snr_bins(judged.candidates["snr"].abs())[keep]
    result["by_snr"] = {
        str(name): _calibration(p[of == name], real[of == name], None)
        for name in dict.fromkeys(sorted(of, key=_low))
        if 0 < real[of == name].sum() < (of == name).sum()
    }
    return result


def _calibration(p: Floats, real: Bools, prior: float | None) -> Figures:
    one = calibration(p, real, prior=prior)
    bins = reliability(p, real, None if prior is None else prior_weights(real, prior))
    return {
        "examples": one.examples,
        "ece": one.ece,
        "ece_by_chance": one.ece_by_chance,
        "adaptive_ece": one.adaptive_ece,
        "brier": one.brier.score,
        "bins": [[b.told, b.real, b.number] for b in bins],
    }


def strata(judged: Judged) -> Iterator[Figures]:
    """Share of true sources that pass, by what they are and where; the worst first within each kind."""
    found = judged.found(judged.best)
    detected = judged.found("S_corr cut")
    for column in ("class", "kind", "SNR", "sign", "environment", "group"):
        rows: list[Figures] = []
        for value, of in judged.truth.groupby(column, observed=True).indices.items():
            mask = np.isin(np.arange(len(judged.truth)), of)
            recall = _share(judged, found, mask)
            rows.append(
                {
                    "stratum": column,
                    "value": str(value),
                    "sources": int(mask.sum()),
                    "recall": _said(recall),
                    "detected": float(detected[mask].mean()),
                }
            )
        yield from sorted(rows, key=lambda row: row["recall"][0])


def complete(judged: Judged) -> Figures:
    """Share found by true |SNR|, where half and nine tenths are, and what a matched filter would pass."""
    sources, threshold = judged.sources, _scorr_threshold(judged)
    snr = sources["true_snr"].abs().to_numpy()
    result: Figures = {"threshold_of_limit": threshold}
    for name in dict.fromkeys(["S_corr cut", judged.best]):
        found = judged.found(name, sources)
        result[name] = [
            {
                "low": one.low,
                "high": one.high,
                "sources": one.trials,
                "found": one.fraction,
                "interval": one.interval,
                "limit": _limit(snr, one.low, one.high, threshold),
            }
            for one in completeness(snr, found, SNR_EDGES)
            if one.trials
        ]
    if 0 < found.sum() < len(found):
        image = sources["image"].to_numpy()
        points = curve_points(np.log(snr), found, image, LEVELS, draws=200, seed=judged.seed)
        result["points"] = {
            f"{level:g}": [float(np.exp(v)) for v in (one.value, one.low, one.high)]
            for level, one in zip(LEVELS, points, strict=True)
        }
    return result


def _scorr_threshold(judged: Judged) -> float:
    """Least |S_corr| of what S_corr found."""
    by_score = judged.candidates["found_by"] == "score"
    return float(judged.candidates.loc[by_score, "snr"].abs().min())


def _limit(snr: Floats, low: float, high: float, threshold: float) -> float:
    return float(matched_filter_recall(snr[(snr >= low) & (snr < high)], threshold).mean())


def _rejected(judged: Judged) -> Mapping[str, Any]:
    bogus = np.asarray(judged.candidates["label"] == BOGUS_LABEL)
    kinds = judged.candidates.loc[bogus, "cause"].astype(str).to_numpy()
    return rejected(judged.accepted(judged.best)[bogus].astype(float), kinds, 0.5)


def confused(judged: Judged) -> Figures:
    """Which class the model tells of candidates whose class is known: (truth, told)."""
    names = [name for name in CLASSES if f"p_{name}" in judged.candidates]
    told = judged.candidates[[f"p_{name}" for name in names]].to_numpy(float)
    true = judged.candidates["cause"].astype(str).to_numpy()
    known = np.isin(true, names) & np.isfinite(told).all(1) & judged.sure if names else np.zeros(0, bool)
    if not known.any():
        return {}
    codes = np.array([names.index(name) for name in true[known]])
    matrix = confusion(codes, told[known].argmax(1), len(names))
    return {"classes": names, "counts": matrix.tolist(), "recall": recalls(matrix).tolist()}


def localised(judged: Judged) -> Figures:
    """How far from the truth bright sources are placed, pixels: by detection, and by the model."""
    matched = judged.candidates[judged.real & np.asarray(judged.candidates["truth"] >= 0)]
    true = judged.comparison.truth.loc[matched["truth"]]
    bright = np.asarray(true["true_snr"].abs() >= BRIGHT)
    result = {}
    for name, x, y in (("detection", "x", "y"), ("model", "model_x", "model_y")):
        if x not in matched or not np.isfinite(matched[x]).any():
            continue
        good = bright & np.isfinite(matched[x].to_numpy(float))
        dx, dy = (matched[told].to_numpy(float) - true[own].to_numpy() for told, own in ((x, "x"), (y, "y")))
        snr, fwhm = true["true_snr"].to_numpy(), matched["fwhm"].to_numpy(float)
        one = localisation(dx[good], dy[good], snr[good], fwhm[good])
        result[name] = {
            "sources": one.number,
            "median_px": one.median_px,
            "percentile_95_px": one.p95_px,
            "within_1_px": one.within_1px,
            "pull": one.pull,
        }
    return result


def folds(judged: Judged, number: int = 5) -> Iterator[Figures]:
    """The same in parts of the sky that have no cell in common."""
    of = np.random.default_rng(judged.seed).integers(0, number, judged.candidates["cell"].max() + 1)
    fold = of[judged.candidates["cell"].to_numpy()]
    for one in range(number):
        keep = judged.sure & (fold == one)
        real = judged.real[keep]
        if real.any() and not real.all():
            ranks = ranking(judged.scores[judged.best][keep], real)
            yield {
                "fold": one,
                "real": int(real.sum()),
                "bogus": int((~real).sum()),
                "auc": ranks.auc,
                "average_precision": ranks.average_precision(),
            }


def _low(name: str) -> float:
    return -1.0 if name.startswith("below") else float(name.split()[0])


def _said(one: Interval) -> tuple[float, float, float]:
    return one.value, one.low, one.high
