"""How good a subtraction is: metrics, their thresholds, a score, a verdict, and the reason in words.

Thresholds come from the survey's profile (`astrid_dist.surveys.thresholds`); what measures the metrics is in
`astrid_dist.imaging.quality_metrics` and `astrid_dist.imaging.noise`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, nan
from typing import Literal

import numpy as np

from astrid_dist.surveys.thresholds import COLOURS, Bounds, Colour, Thresholds

#: Score at the inner and outer edge of yellow and of orange, and in red.
_YELLOW, _ORANGE, _RED = (0.8, 0.5), (0.5, 0.1), 0.0
#: Soft metrics are multiplied, so one of them at zero must not be the whole answer.
_SOFT_FLOOR = 0.05
#: Metrics of a reason that are said in full.
_SAID = 4
#: Share of an epoch in its own reference from which on it is all of it.
_WHOLE = 0.99
#: Correlation of neighbours that widens S_corr by a tenth or more.
_CORRELATED = 0.1


@dataclass(frozen=True)
class Metric:
    """One figure of a subtraction."""

    name: str
    unit: str
    long_name: str
    hard: bool
    """Whether it alone can make an epoch red; soft ones lower the score, and the verdict by one step."""
    combine: Literal["median", "mean", "max"]
    """How tiles become an epoch: median and mean weighted by pixels, or the largest in size."""
    said: str
    """What is wrong, with ``{}`` for the value, where it is not green."""


def _metrics(rows: str) -> dict[str, Metric]:
    found = {}
    for line in rows.strip().splitlines():
        name, unit, weight, combine, long_name, said = (part.strip() for part in line.split("|"))
        found[name] = Metric(name, unit, long_name, weight == "hard", combine, said)  # type: ignore[arg-type]
    return found


#: name | unit | hard or soft | tiles to epoch | what it is | what is said of it
METRICS: dict[str, Metric] = _metrics("""
    score_std | 1 | hard | median | standard deviation of the raw score away from sources | S_corr has std {} on source-free pixels before renormalisation
    score_mean | 1 | soft | median | mean of the raw score away from sources | S_corr has mean {} on source-free pixels
    peaks | Mpix-1 | hard | mean | peaks of S_corr above 5 per megapixel | {} peaks of S_corr per megapixel
    peaks_raw | Mpix-1 | soft | mean | the same before renormalisation | {} peaks of S_corr per megapixel before renormalisation
    displacement | pixel | hard | median | displacement that stars still have in the difference | stars are displaced by {} px in the difference
    residual_ratio | 1 | hard | mean | light that stars leave in the difference, of their own | stars leave {} of their light in the difference
    bad_fraction | 1 | hard | mean | pixels without usable data, of all | {} of the pixels are without data
    depth_lost | mag | hard | median | nominal depth minus the difference's | {} mag shallower than nominal
    transparency | 1 | hard | median | flux ratio per ratio of exposure times | stars have {} of their light in the reference per second
    matched_fraction | 1 | hard | median | matched stars, of those that could be | {} of the stars are in the reference
    residual_ratio_std | 1 | soft | mean | standard deviation of residual_ratio over stars | residuals of stars scatter by {} of their light
    match_chi2 | 1 | soft | median | chi squared of star pixels in the difference | residuals of stars have a chi squared of {}
    psf_width_error | 1 | soft | median | error of the PSF's width that stars show in the difference | the width of the PSF is off by {} of itself
    flux_left | 1 | soft | median | flux that stars still have in the difference, of their own | fluxes of stars are off by {} of themselves
    dx | pixel | soft | median | science minus reference, columns, before correction | stars were offset by {} px in x, corrected
    dy | pixel | soft | median | science minus reference, rows, before correction | stars were offset by {} px in y, corrected
    offset_scatter | pixel | soft | median | scatter of single stars in excess of centroid noise | offsets of single stars scatter by {} px
    flux_ratio | 1 | soft | median | flux scale of science over reference | flux ratio {}
    flux_ratio_scatter | 1 | soft | median | scatter of flux_ratio between stars beyond their noise, a fraction | flux ratios of stars scatter by {}
    saturated_fraction | 1 | soft | mean | saturated and bleeding pixels, of all | {} of the pixels are saturated
    limiting_mag | mag | soft | median | AB magnitude of a point source of SNR 5 in the difference | 5 sigma depth {} mag
    seeing | arcsec | soft | median | full width at half maximum of the science PSF | seeing is {} arcsec
    fwhm_n | pixel | soft | median | full width at half maximum of the science PSF | FWHM is {} px
    elongation | 1 | soft | median | major over minor axis of the science PSF | stars are elongated by {}
    psf_chi2 | 1 | soft | median | chi squared per degree of freedom of the PSF stars | the PSF fits its stars with a chi squared of {}
    n_matched | 1 | soft | max | stars matched between science and reference | {} matched stars
    sky | electron | soft | median | sky level of the science image | sky is {} electrons
    sky_ratio | 1 | soft | median | sky per second over the field's median | sky is {} times the field's usual one
    sky_gradient | 1 | soft | max | range of the sky over the image, in its noise per pixel | sky varies by {} times its noise
    renormalisation | 1 | soft | median | empirical factor applied to the score | renormalised by {}
    correlation_n | 1 | soft | median | correlation of the noise of neighbouring pixels, science | noise of neighbouring pixels correlates by {}
    correlation_r | 1 | soft | median | correlation of the noise of neighbouring pixels, reference | noise of neighbouring pixels of the reference correlates by {}
""")  # noqa: E501


@dataclass(frozen=True)
class Judgement:
    """What the metrics of a tile or epoch come to."""

    score: float
    """0 to 1: the worst hard metric times the geometric mean of the soft ones."""
    verdict: Colour
    reason: str
    """For an observer: the likely cause, then what is not green, worst first; empty where all is well."""
    colours: dict[str, Colour]
    """Of every metric that was measured and has thresholds."""


def judge(
    values: Mapping[str, float | None], thresholds: Thresholds, *, reference_share: float = 0.0
) -> Judgement:
    """Score, verdict and reason of a subtraction.

    Parameters
    ----------
    values : mapping
        Metrics by name; NaN or None is not measured and does not count. Others than `METRICS` are ignored.
    thresholds : Thresholds
        Ranges of the survey; a metric without one is not judged.
    reference_share : float
        Weight of the epoch in its own reference, 0 to 1. What it shares cancels, noise too: then a narrow
        S_corr is not held against it. One that is all of its reference shows nothing, and is red.

    Returns
    -------
    Judgement
        The verdict is the worst hard metric's colour, one step lower where a soft one is orange or red and
        worse than that. A soft yellow is said in the reason and lowers the score alone. Where no hard metric
        was measured nothing is known: score 0 and red.
    """
    bounds = {name: found for name in METRICS if (found := thresholds.of(name)) is not None}
    measured = {name: float(v) for name in METRICS if (v := values.get(name)) is not None and isfinite(v)}
    known = {name: measured[name] for name in bounds if name in measured}
    if reference_share > 0 and known.get("score_std", 1.0) < 1:
        del known["score_std"]
    if reference_share >= _WHOLE:
        return Judgement(0.0, "red", "it is its own reference: nothing is left to be seen", {})
    colours = {name: bounds[name].colour(value) for name, value in known.items()}
    scores = {name: _score(value, bounds[name]) for name, value in known.items()}
    hard = [name for name in known if METRICS[name].hard]
    soft = [name for name in known if not METRICS[name].hard]
    missing = [name for name in bounds if METRICS[name].hard and name not in measured]
    unmeasured = f"not measured: {', '.join(missing)}" if missing else ""
    if not hard:
        return Judgement(0.0, "red", unmeasured or "no threshold is set", colours)
    product = [log(max(scores[name], _SOFT_FLOOR)) for name in soft]
    score = min(scores[name] for name in hard) * exp(sum(product) / max(len(product), 1))
    worst = min(COLOURS.index(colours[name]) for name in hard)
    worst_soft = min((COLOURS.index(colours[name]) for name in soft), default=worst)
    if worst_soft <= COLOURS.index("orange") and worst_soft < worst:
        worst -= 1
    causes = likely_causes(measured, colours, bounds)
    shows_it = next(iter(causes.values()), ())
    # What shows the first cause, then worst first, hard before soft, in the order of the table.
    wrong = sorted(
        (name for name in known if colours[name] != "green"),
        key=lambda name: (name not in shows_it, COLOURS.index(colours[name]), not METRICS[name].hard),
    )
    parts = [_sentence(name, known[name], bounds[name]) for name in wrong[:_SAID]]
    if wrong:
        parts[0] = (", ".join(causes) + ": " if causes else "") + parts[0]
    if len(wrong) > _SAID:
        parts.append(f"also {', '.join(wrong[_SAID:])}")
    return Judgement(score, COLOURS[worst], "; ".join([*parts, *filter(None, [unmeasured])]), colours)


def _score(value: float, bounds: Bounds) -> float:
    """1 in green, .8 to .5 through yellow, .5 to .1 through orange, 0 in red."""
    colour = bounds.colour(value)
    if colour in ("green", "red"):
        return 1.0 if colour == "green" else _RED
    side, _ = bounds.limit(value)
    green, yellow, orange = bounds.limits(side)
    inner, outer, (first, last) = (
        (green, yellow, _YELLOW) if colour == "yellow" else (yellow, orange, _ORANGE)
    )
    if inner is None or outer is None or inner == outer:
        return first
    return first + (last - first) * (value - inner) / (outer - inner)


def _sentence(name: str, value: float, bounds: Bounds) -> str:
    """One metric in words, with the limit that it crosses."""
    side, _ = bounds.limit(value)
    colour = bounds.colour(value)
    step = 2 - COLOURS.index(colour)  # yellow: limit of green; red: limit of orange
    limit = _shown(bounds.limits(side)[step] or 0.0)
    shown = _shown(value) if _shown(value) != limit else _shown(value, 4)
    return f"{METRICS[name].said.format(shown)} ({colour} {side} {limit})"


def _shown(value: float, digits: int = 2) -> str:
    """About two digits, and never a power of ten."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.{digits}g}"


def likely_causes(
    values: Mapping[str, float], colours: Mapping[str, Colour], bounds: Mapping[str, Bounds]
) -> dict[str, tuple[str, ...]]:
    """What an observer would suspect, most telling first, and the metrics that show it.

    Causes in the image (trailed, clouded, moonlit) are named beside each other; what only the subtraction
    shows (wrong PSF, wrong flux scale, wrong noise) is named where the image does not explain it.
    """

    def off(*names: str, side: str = "") -> tuple[str, ...]:
        """Those that are not green, on a side of it if one is named."""
        return tuple(
            name
            for name in names
            if colours.get(name, "green") != "green"
            and (not side or bounds[name].limit(values[name])[0] == side)
        )

    def badly(name: str) -> bool:
        return colours.get(name) in ("orange", "red")

    if badly("matched_fraction") and (off("residual_ratio") or "residual_ratio" not in colours):
        return {"wrong reference or field": off("matched_fraction", "residual_ratio")}
    rules = {
        "trailed": off("elongation"),
        "clouded": off("transparency", side="below"),
        "moonlit or bright sky": off("sky_ratio", side="above"),
        "saturated": off("saturated_fraction"),
        "bad pixels or little overlap": off("bad_fraction"),
        "poor seeing": off("seeing"),
        "shifted": off("displacement"),
        "poor astrometry": off("dx", "dy") if badly("dx") or badly("dy") else (),
    }
    causes = {cause: shown for cause, shown in rules.items() if shown}
    left = off("residual_ratio", "psf_width_error", "psf_chi2", "flux_left")
    if not off("score_std"):
        left += off("match_chi2")
    if left and not causes:
        scale = "flux_left" in left and "psf_width_error" not in left
        return {"wrong flux scale" if scale else "wrong PSF": left}
    if "psf_width_error" in left and badly("residual_ratio") and "trailed" not in causes:
        causes["wrong PSF"] = left
    if off("sky_gradient") and "moonlit or bright sky" not in causes:
        causes["uneven sky"] = off("sky_gradient")
    if causes:
        return causes
    if off("score_std", "peaks"):
        correlated = max(values.get("correlation_n", 0.0), values.get("correlation_r", 0.0)) > _CORRELATED
        noise = "correlated noise" if correlated and off("score_std", side="above") else "wrong noise"
        return {noise: off("score_std", "peaks")}
    if off("dx", "dy", "offset_scatter"):
        return {"poor astrometry": off("dx", "dy", "offset_scatter")}
    return {"few stars": off("n_matched")} if badly("n_matched") else {}


def combine(parts: Sequence[tuple[Mapping[str, float | None], float]]) -> dict[str, float]:
    """Metrics of an epoch from those of its parts, as `METRICS` says for each.

    Parameters
    ----------
    parts : sequence of (metrics, weight)
        Of tiles or shards; the weight is the number of pixels, those without data included: a tile with none
        at all must count in bad_fraction, and in nothing else since the rest is NaN. NaN and None do not
        count. Parts of parts combine too; a median of medians is near the median where parts are alike.

    Returns
    -------
    dict
        Every metric that any part names; NaN where none measured it.
    """
    names = [name for name in METRICS if any(name in values for values, _ in parts)]
    return {name: _combined(METRICS[name].combine, name, parts) for name in names}


def _combined(how: str, name: str, parts: Sequence[tuple[Mapping[str, float | None], float]]) -> float:
    pairs = [
        (float(value), float(weight))
        for values, weight in parts
        if weight > 0 and (value := values.get(name)) is not None and isfinite(value)
    ]
    if not pairs:
        return nan
    value, weight = np.array(pairs).T
    if how == "max":
        return float(value[np.argmax(np.abs(value))])
    if how == "mean":
        return float((value * weight).sum() / weight.sum())
    order = np.argsort(value)
    value, passed = value[order], np.cumsum(weight[order])
    # The value at half the weight; midway between two where half falls on their border.
    half = passed[-1] / 2
    low = int(np.searchsorted(passed, half * (1 - 1e-12)))
    high = int(np.searchsorted(passed, half * (1 + 1e-12)))
    return float((value[low] + value[min(high, len(value) - 1)]) / 2)


def depth_lost(limiting_mag: float, nominal: float | None, others: Sequence[float] = ()) -> float:
    """By how many magnitudes a difference is shallower than it should be.

    Parameters
    ----------
    limiting_mag : float
        Of the difference, SNR 5.
    nominal : float or None
        The profile's depth of one exposure in the band; where unknown the median of `others` is taken.
    others : sequence of float
        Limiting magnitudes of the field's other epochs.
    """
    known = [one for one in others if isfinite(one)]
    expected = nominal if nominal is not None else float(np.median(known)) if known else nan
    return expected - limiting_mag
