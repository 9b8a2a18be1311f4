"""HTML report of a search whose truth is known: figures, galleries, the table of epochs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.evaluation.matching import completeness
from astrid_dist.figures import curves, histograms, page
from astrid_dist.query.light_curves import light_curve
from astrid_dist.query.magnitudes import AB_OF_ONE_MICROJANSKY
from astrid_dist.stages.comparison import Comparison
from astrid_dist.stages.galleries import detections, false_alarms
from astrid_dist.stages.model_report import model_sections, scored_by_model
from astrid_dist.store.opening import open_difference, open_reference, open_survey

if TYPE_CHECKING:
    import xarray as xr

_SNR_EDGES = (2, 3, 4, 5, 6, 8, 11, 16, 25, 50, 100, 300)
_HEADINGS = {
    "transient": ("Supernovae", "The strongest detection of some supernovae, from bright to faint."),
    "variable": ("Variable stars", "RR Lyrae, brighter (red) or fainter (blue) than the reference."),
    "moving": (
        "Asteroids",
        "Each is seen in one night. A fast one leaves a trail, of which a PSF holds only a part: its S_corr "
        "and flux fall short of the truth's, which are the whole trail's.",
    ),
}


def write_report(
    comparison: Comparison,
    urls: Mapping[str, str],
    seconds: Mapping[str, float],
    run: str | None = None,
) -> str:
    """The whole report as one HTML document.

    Parameters
    ----------
    comparison : Comparison
        Candidates against the truth.
    urls : mapping
        URLs of the products ``survey, reference, difference``.
    seconds : mapping
        Wall time of each stage, for the last table.
    run : str, optional
        URL of the training whose model scored the candidates.
    """
    products = {
        "survey": open_survey(urls["survey"]),
        "reference": open_reference(urls["reference"]),
        "difference": open_difference(urls["difference"]),
    }
    galleries = [
        page.section(heading, text, page.gallery(detections(comparison, name, products)))
        for name, (heading, text) in _HEADINGS.items()
    ]
    false = page.section(
        "Strongest false alarms",
        "Candidates that match no true object within 2 pixels: the three strongest of each cause, where the "
        "truth knows one: what a real/bogus model has to sort out.",
        page.gallery(false_alarms(comparison, products)),
    )
    learned = []
    if run is not None and scored_by_model(comparison.candidates):
        learned = model_sections(comparison, run, products)
    groups = sorted(products["difference"])
    images, fields = comparison.epochs, len(groups)
    return page.page(
        "astrid_dist demo",
        f"A mock survey searched by image differencing: {images} images of {fields} field"
        f"{'s' if fields > 1 else ''}, where everything that changed is known.",
        [
            page.cards(_headline(comparison, products["difference"])),
            _completeness(comparison),
            *galleries,
            false,
            *learned,
            _scores(products["difference"]),
            _residuals(comparison),
            _light_curves(comparison, products["difference"]),
            _epochs(comparison, products),
            page.section(
                "Time",
                "Wall time of each stage, scheduling included.",
                page.table(["stage", "seconds"], [(name, f"{value:.1f}") for name, value in seconds.items()]),
            ),
        ],
    )


def _headline(comparison: Comparison, differences: Mapping[str, "xr.Dataset"]) -> list[tuple[str, str]]:
    candidates, countable = comparison.candidates, comparison.countable
    bright = countable[countable["true_snr"].abs() >= 8]
    unknown = comparison.false[comparison.false["cause"] == "unknown"]
    matched = comparison.real
    expected = comparison.truth.loc[matched["truth"]]
    distance = np.hypot(matched["x"].to_numpy() - expected["x"], matched["y"].to_numpy() - expected["y"])
    new = (expected["class"] == "transient").to_numpy()
    pull = (matched["flux"].to_numpy() - expected["flux_ujy"].to_numpy()) / matched["flux_err"].to_numpy()
    stds = np.concatenate([d["score_std"].to_numpy().ravel() for d in differences.values()])
    return [
        (f"{_ratio((bright['candidate'] >= 0).sum(), len(bright))}", "completeness at true SNR of 8 or more"),
        (f"{_ratio(len(matched), len(candidates))}", "precision before any real/bogus model"),
        (
            f"{len(comparison.false) / max(comparison.epochs, 1):.1f}",
            f"false alarms per image, {len(unknown) / max(comparison.epochs, 1):.1f} without a known cause",
        ),
        (_shown(_median(distance[new]), ".2f", "px"), "median distance of supernovae to the truth"),
        (
            _shown(_scatter(pull[new]), ".2f", "σ"),
            f"scatter of flux errors over their estimates (1 is right); "
            f"median {_shown(_median(pull[new]), '+.2f', 'σ')}",
        ),
        (f"{np.nanmedian(stds):.3f}", "std of raw S_corr on empty sky (1 is right)"),
    ]


def _completeness(comparison: Comparison) -> str:
    countable = comparison.countable
    found = (countable["candidate"] >= 0).to_numpy()
    by_snr = completeness(countable["true_snr"].abs(), found, _SNR_EDGES)
    flux = countable["flux_ujy"].abs().to_numpy()
    with np.errstate(divide="ignore"):
        magnitude = AB_OF_ONE_MICROJANSKY - 2.5 * np.log10(flux)
    by_magnitude = completeness(magnitude, found, np.arange(16.5, 24.1, 0.5))
    return page.section(
        "Completeness",
        "Real objects that are injectable and on good pixels, each epoch counted by itself; the small "
        "figures are how many. Bars are 68% binomial (Wilson) intervals.",
        page.row(
            page.figure(
                curves.completeness(by_snr, "true SNR in the difference (|flux| / σ)", log=True),
                "True SNR is the expected difference flux over the pipeline's own flux error at that pixel; "
                "detection asks for |S_corr| of 5 or more, so half of those at 5 are found by design.",
                "fraction found against true signal to noise",
            ),
            page.figure(
                curves.completeness(by_magnitude, "AB magnitude of the difference flux"),
                "The same against the magnitude of the change: what the object differs from its template by.",
                "fraction found against magnitude",
            ),
        ),
        _missed(comparison),
    )


def _scores(differences: Mapping[str, "xr.Dataset"]) -> str:
    counts = np.zeros(len(histograms.SCORE_EDGES) - 1)
    total = 0
    for dataset in differences.values():
        for epoch in np.flatnonzero(dataset["valid"].to_numpy()):
            score = dataset["score"].isel(epoch=epoch).to_numpy()
            good = score[np.isfinite(score)]
            counts += np.histogram(good, histograms.SCORE_EDGES)[0]
            total += good.size
    return page.section(
        "Significance image",
        "",
        page.row(
            page.figure(
                histograms.score_histogram(counts),
                f"S_corr of all {total / 1e6:.1f} million differenced pixels, sources included: the wings "
                "beyond the Gaussian are real objects, cosmic rays and residuals of bright stars. Dotted: "
                "detection threshold.",
                "histogram of S_corr with a unit Gaussian",
            )
        ),
    )


def _residuals(comparison: Comparison) -> str:
    matched = comparison.real
    expected = comparison.truth.loc[matched["truth"]].reset_index(drop=True)
    matched = matched.reset_index(drop=True)
    new = expected["class"] == "transient"
    matched, expected = matched[new], expected[new]
    pull = (matched["flux"] - expected["flux_ujy"]) / matched["flux_err"]
    relative = matched["flux"] / expected["flux_ujy"] - 1
    bright = expected["true_snr"].abs() > 15
    drawings = [
        (matched["x"] - expected["x"], "pixel", "x, measured − true", False),
        (matched["y"] - expected["y"], "pixel", "y, measured − true", False),
        (pull, "σ", "flux error / its estimate", True),
        (100 * relative[bright], "%", "flux / true − 1", False),
    ]
    return page.section(
        "Measured against true",
        "Detections of supernovae, of which the template holds nothing. (A variable star's own template is "
        "uncertain: exposures in which it was far off its mean are clipped.) Faint ones near the threshold "
        "are found when noise lifts them, which makes their fluxes a little too large (Eddington bias). "
        "Orange is the unit Gaussian; the last panel is of a true SNR above 15. Each exposure's zero point "
        "is off by about 0.01 mag and its WCS by 0.03 pixel, as in a real survey.",
        page.row(
            *(
                page.figure(histograms.residuals(values, unit, what, expect_unit_gaussian=unity), "", what)
                for values, unit, what, unity in drawings
            )
        ),
    )


def _light_curves(comparison: Comparison, differences: Mapping[str, "xr.Dataset"]) -> str:
    truth = comparison.truth
    supernovae = truth[truth["countable"] & (truth["class"] == "transient")]
    # those that rise most while they are watched
    by_object = supernovae.sort_values("mjd").groupby("id")["true_snr"]
    rise = (by_object.max() - by_object.first()).sort_values(ascending=False, kind="stable")
    drawings = []
    for name in rise.index[:2]:
        rows = truth[truth["id"] == name].sort_values("mjd")
        group, x, y = rows["group"].iloc[0], float(rows["x"].iloc[0]), float(rows["y"].iloc[0])
        measured = light_curve(differences[group], x, y).compute()
        flux, error = measured["flux_ujy"].to_numpy(), measured["flux_ujy_err"].to_numpy()
        drawing = curves.light_curve(
            measured["mjd"].to_numpy(),
            flux,
            error,
            detected=np.abs(flux / error) >= 5,
            true_mjd=rows["mjd"],
            true_flux=rows["flux_ujy"],
        )
        host = f"in galaxy {rows['host'].iloc[0]}" if rows["host"].iloc[0] else "without a host"
        kind = rows["kind"].iloc[0]
        caption = f"{kind} {host}, {group}, x {x:.1f}, y {y:.1f}: forced PSF photometry on the differences."
        drawings.append(page.figure(drawing, caption, f"light curve of {kind} {name}"))
    return page.section("Light curves", "", page.row(*drawings) if drawings else "")


def _epochs(comparison: Comparison, products: Mapping[str, Mapping[str, "xr.Dataset"]]) -> str:
    header = [
        "epoch", "MJD (d)", "seeing (arcsec)", "sky (electron)", "zero point (mag)", "stars matched",
        "dx (px)", "dy (px)", "std of S_corr", "candidates", "false", "verdict",
    ]  # fmt: skip
    rows = []
    for group, dataset in products["difference"].items():
        survey = products["survey"][group]
        scale = float(survey.attrs["pixel_scale_arcsec"])
        found = comparison.candidates[comparison.candidates["group"] == group]
        for epoch in range(dataset.sizes["epoch"]):
            image = dataset.isel(epoch=epoch)
            science = survey.isel(epoch=int(image["survey_epoch"]))
            own = found[found["epoch"] == epoch]
            rows.append(
                [
                    f"{group} {int(image['survey_epoch'])}",
                    f"{float(image['mjd']):.3f}",
                    f"{float(image['fwhm']) * scale:.2f}",
                    f"{float(science['sky']):.0f}",
                    f"{float(science['zeropoint']):.2f}",
                    f"{int(image['n_matched'])}",
                    *(f"{np.nanmedian(image[name].to_numpy()):+.3f}" for name in ("dx", "dy")),
                    f"{np.nanmedian(image['score_std'].to_numpy()):.3f}",
                    str(len(own)),
                    str(int((own["truth"] < 0).sum())),
                    str(image["verdict"].item()),
                ]
            )
    text = (
        "dx and dy are the offsets between exposure and reference, measured on stars and corrected. The std "
        "of S_corr is that of source-free pixels before renormalisation."
    )
    return page.section("Epochs", text, page.table(header, rows))


def _missed(comparison: Comparison) -> str:
    """Bright true objects without a candidate, and how near the nearest one is."""
    countable = comparison.countable
    missed = countable[(countable["candidate"] < 0) & (countable["true_snr"].abs() >= 8)]
    rows = []
    for _, row in missed.iterrows():
        found = comparison.candidates
        here = found[(found["group"] == row["group"]) & (found["epoch"] == row["difference_epoch"])]
        distance = np.hypot(here["x"] - row["x"], here["y"] - row["y"])
        nearest = f"{distance.min():.1f}" if len(distance) else "–"
        place = [f"{row['x']:.1f}", f"{row['y']:.1f}", f"{row['true_snr']:+.1f}", nearest]
        rows.append([str(row["kind"]), str(row["epoch"]), *place])
    if not rows:
        return '<p class="note">None with a true SNR of 8 or more was missed.</p>'
    header = [
        "missed, true SNR of 8 or more",
        "epoch",
        "x (px)",
        "y (px)",
        "true SNR",
        "nearest candidate (px)",
    ]
    return page.table(header, rows)


def _ratio(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def _shown(value: float, form: str, unit: str) -> str:
    return f"{value:{form}} {unit}" if np.isfinite(value) else "–"


def _median(values: Any) -> float:
    return float(np.nanmedian(values)) if np.size(values) else float("nan")


def _scatter(values: Any) -> float:
    good = np.asarray(values, float)
    good = good[np.isfinite(good)]
    return float(0.5 * np.diff(np.percentile(good, [15.87, 84.13]))[0]) if good.size else float("nan")
