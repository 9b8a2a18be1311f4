"""The page of a samples product: what it was made from, how balanced it is, what its samples look like."""

import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.errors import ConfigError
from astrid_dist.figures import page
from astrid_dist.figures import samples as drawn
from astrid_dist.query.samples import Samples, open_samples
from astrid_dist.stages.sample_table import (
    Example,
    Say,
    find_examples,
    hosts_table,
    sample_table,
    stored_bytes,
    strata_table,
)
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.ledger import Ledger
from astrid_dist.taxonomy import CLASSES, ENVIRONMENTS, KINDS, REAL

if TYPE_CHECKING:
    import pandas as pd

#: Examples of each kind.
MOST_EXAMPLES = 3
#: S_corr from which a place is a detection.
DETECTED = 5.0
#: Rows of a table of failures.
_MOST_ROWS = 40


def sample_report(url: Any, say: Say = lambda _: None) -> str:
    """The page of a samples product, as one HTML document.

    Parameters
    ----------
    url : URL or path
        The samples.
    say : callable
        Told, in words, how far it is.

    Raises
    ------
    ConfigError, IncompleteProductError, StorageError
        As `astrid_dist.open_samples`; or the product has no sample.
    """
    product = open_samples(url)
    if not len(product):
        raise ConfigError(f"{product.url} has no group of samples")
    table = sample_table(product, say)
    strata = strata_table(product, table)
    sizes = stored_bytes(product)
    visits = {group: product[group].sizes["visit"] for group in product}
    examples = find_examples(product, table, MOST_EXAMPLES, say)
    stamps = int(table["group"].map(visits).astype(int).sum())
    each = _range(list(visits.values()))
    lead = f"{len(table):,} samples in {_count(len(visits), 'set')}, {each} of each, in {product.url}."
    return page.page(
        "Samples",
        lead,
        [
            page.cards(_headline(table, sizes, stamps)),
            _origin(product),
            _balance(table, strata),
            _kinds(table),
            _failures(table),
            _signal(table),
            _hosts(product, table),
            _storage(sizes, stamps),
            *_sheets(table, examples, visits),
        ],
    )


def _headline(table: "pd.DataFrame", sizes: dict[str, int], stamps: int) -> list[tuple[str, str]]:
    put = table["injectable"]
    real = table["class"].isin(REAL)
    return [
        (f"{len(table):,}", "samples"),
        (_percent(int(put.sum()), len(table)), "could be put in; the others say why not and do not count"),
        (_percent(int((put & real).sum()), int(put.sum())), "of those are real"),
        (f"{table.loc[put, 'kind'].nunique()}", f"kinds of {table.loc[put, 'class'].nunique()} classes"),
        (f"{sum(sizes.values()) / stamps / 1e3:.1f} kB", "on disk per sample and visit"),
    ]


def _origin(product: Samples) -> str:
    """What the samples were made from: products, epochs, way, seed."""
    header = product.attrs["astrid"]
    job = Ledger(product.location).job(header["job"]) or {}
    settings = job.get("settings", {}) if job.get("stage") == "inject" else {}
    facts = [
        (name, settings[name]) for name in ("way", "seed", "visits", "snr", "negative") if name in settings
    ]
    rows = [
        ("made", f"{header['created']} by job {header['job']}"),
        ("digest", header["digest"]),
        *((name, str(value)) for name, value in facts),
    ]
    for one in header.get("inputs", {}).get("surveys", []):
        rows.append(("survey", one["survey"]))
        rows.append(("reference", f"{one['reference']}, digest {one['digest']}"))
        rows += [("epochs", f"{group}: digest {digest}") for group, digest in one["epochs"].items()]
    shown = [[name, page.words(value)] for name, value in rows]
    return page.section(
        "What it was made from", "", page.table(["", page.words("")], shown), page.code(_command(settings))
    )


def _command(settings: dict[str, Any]) -> str:
    """How to make it again: every setting that is not the usual one."""
    if not settings:
        return "the ledger beside the product does not say which injection made it"
    usual = Settings.model_construct(survey=[], reference=[], output="").model_dump()
    words = []
    for name, value in settings.items():
        if name in ("output", "resolved") or value == json.loads(json.dumps(usual[name])):
            continue
        said = value[0] if isinstance(value, list) and len(value) == 1 else json.dumps(value).strip('"')
        words.append(shlex.quote(f"{name}={said}"))
    return "astrid run jobs/inject.yaml " + " \\\n    ".join([*words, "output=..."])


def _balance(table: "pd.DataFrame", strata: "pd.DataFrame") -> str:
    """Asked against got, by everything that can be asked for."""
    if strata.empty:
        return page.section("Balance", "Nobody said what was asked for: the groups have no strata.")
    orders = {
        "class": list(CLASSES),
        "snr": list(dict.fromkeys(strata["snr"])),
        "environment": list(ENVIRONMENTS),
        "sign": ["brightening", "fading"],
        "survey": sorted(set(strata["survey"])),
        "split": list(dict.fromkeys(strata["split"])),
    }
    titles = {"snr": "true SNR, real ones", "sign": "real ones by sign"}
    figures = []
    for name, order in orders.items():
        sums = strata[strata[name] != ""].groupby(name)[["asked", "got"]].sum()
        known = [one for one in order if one in sums.index]
        if not known:
            continue
        asked, got = (sums.loc[known, column].to_numpy() for column in ("asked", "got"))
        worst = f"{100 * float(np.min(got / np.maximum(asked, 1))):.0f} % at worst" if len(known) else ""
        title = titles.get(name, name)
        figures.append(
            page.figure(drawn.balance(known, asked, got), f"By {title}: {worst}.", f"samples by {title}")
        )
    bands = table.groupby(["survey", "band"], observed=True)["injectable"].agg(["size", "sum"]).reset_index()
    names = [f"{row['survey']} {row['band']}" for _, row in bands.iterrows()]
    figures.append(
        page.figure(
            drawn.balance(names, bands["size"], bands["sum"]),
            "By band, of all that were made.",
            "samples by band",
        )
    )
    text = (
        "Outlined: what the job asked for. Filled: what could be put in. A sample that finds no place keeps "
        "its row, its reason and its stratum, so that nothing is silently replaced by what is easier."
    )
    return page.section("Balance", text, page.row(*figures))


def _kinds(table: "pd.DataFrame") -> str:
    rows = []
    for kind, here in _by_kind(table):
        put = here[here["injectable"]]
        peak = put["peak"].abs()
        measured = peak[np.isfinite(peak)]
        real = KINDS[kind] in REAL
        low, middle, high = _percentiles(put["snr"].abs()) if real else (np.nan,) * 3
        rows.append(
            [
                kind,
                KINDS[kind],
                f"{len(here):,}",
                f"{len(put):,}",
                f"{middle:.1f} ({low:.1f} to {high:.1f})" if np.isfinite(middle) else "–",
                f"{_percentiles(measured)[1]:.1f}" if len(measured) else "–",
                _percent(int((measured >= DETECTED).sum()), len(measured)),
                _percent(int(here["environment"].isin(["host", "nucleus"]).sum()), len(here)),
            ]
        )
    header = [
        "kind", "class", "asked for", "put in", "true SNR: median (5 to 95 %)", "median |S_corr|",
        f"|S_corr| ≥ {DETECTED:g}", "on a galaxy",
    ]  # fmt: skip
    text = (
        "S_corr is the largest within two pixels of the object. Artifacts are as strong as nature "
        "makes them: those that stay below the threshold would never become candidates."
    )
    return page.section("Kinds", text, page.table(header, rows))


def _by_kind(table: "pd.DataFrame") -> "list[tuple[str, pd.DataFrame]]":
    """Samples of each kind that there is, in the order of the taxonomy."""
    groups = {str(kind): rows for kind, rows in table.groupby("kind", observed=True)}
    return [(kind, groups[kind]) for kind in KINDS if kind in groups]


def _failures(table: "pd.DataFrame") -> str:
    lost = table[~table["injectable"]]
    if lost.empty:
        return page.section("Could not be put in", "Every sample could be put in.")
    reasons = [str(name) for name in lost["reason"].value_counts().index if (lost["reason"] == name).any()]
    rows = []
    for kind, here in _by_kind(table):
        counts = here.loc[~here["injectable"], "reason"].value_counts()
        if counts.sum():
            share = _percent(int(counts.sum()), len(here))
            cells = [str(int(counts.get(name, 0))) if counts.get(name, 0) else "" for name in reasons]
            rows.append((int(counts.sum()), [kind, *cells, share]))
    rows.sort(key=lambda one: -one[0])
    whole = [str(int((lost["reason"] == name).sum())) for name in reasons]
    text = (
        f"{len(lost):,} of {len(table):,} samples, by reason. They are no misses: nothing was put in, and "
        "they have no weight in training."
    )
    body = [["all", *whole, _percent(len(lost), len(table))], *(cells for _, cells in rows[:_MOST_ROWS])]
    return page.section(
        "Could not be put in",
        text,
        page.table(["kind", *(one or "unknown" for one in reasons), "share"], body),
    )


def _signal(table: "pd.DataFrame") -> str:
    put = table[table["injectable"]]
    real = put[put["class"].isin(REAL)]
    bogus = put[~put["class"].isin(REAL)]
    edges = np.geomspace(0.5, 2000.0, 41)
    by_class = {
        name: real.loc[real["class"] == name, "snr"].abs() for name in REAL if (real["class"] == name).any()
    }
    peaks = {"real": real["peak"].abs(), "bogus": bogus["peak"].abs()}
    figures = [
        page.figure(
            drawn.spread(by_class, edges, "true |SNR| in the difference"),
            "What populations were drawn at.",
            "true signal to noise of real samples by class",
        ),
        page.figure(
            drawn.spread(peaks, edges, "|S_corr| within two pixels", marked=DETECTED),
            f"What the score image shows; dotted: {DETECTED:g}, the threshold of detection.",
            "largest score of real and bogus samples",
        ),
        page.figure(
            drawn.against(real["snr"].abs(), real["peak"].abs(), "true |SNR|", "|S_corr| within two pixels"),
            "Median and central 68 %; dotted: equal. Faint ones are lifted by the largest noise of some "
            "pixels; trails and comae fall short, as a PSF holds only a part of them.",
            "score against true signal to noise",
        ),
    ]
    magnitude = real.loc[np.isfinite(real["mag"]), "mag"]
    if len(magnitude):
        low, high = np.percentile(magnitude, [0.5, 99.5])
        bands = {str(band): real.loc[real["band"] == band, "mag"] for band in real["band"].cat.categories}
        figures.append(
            page.figure(
                drawn.spread(
                    bands, np.linspace(np.floor(low), np.ceil(high), 41), "AB magnitude of the light put in"
                ),
                "By band.",
                "magnitudes of real samples by band",
            )
        )
    flux = real["flux"].abs()
    if (flux > 0).any():
        low, high = np.percentile(flux[flux > 0], [0.5, 99.5])
        signs = {"brightening": flux[real["flux"] > 0], "fading": flux[real["flux"] < 0]}
        figures.append(
            page.figure(
                drawn.spread(signs, np.geomspace(low, max(high, 2 * low), 41), "|flux| put in (electron)"),
                "On the scale of the reference.",
                "fluxes of real samples by sign",
            )
        )
    seeing = {str(name): rows["fwhm_n"] for name, rows in put.groupby("survey", observed=True)}
    wide = put["fwhm_n"].to_numpy()
    if np.isfinite(wide).any():
        limits = np.linspace(0.9 * np.nanmin(wide), 1.1 * np.nanmax(wide), 31)
        figures.append(
            page.figure(
                drawn.spread(seeing, limits, "FWHM of the science PSF (pixel)"), "Seeing.", "seeing by survey"
            )
        )
    return page.section("Signal", "", page.row(*figures))


def _hosts(product: Samples, table: "pd.DataFrame") -> str:
    rows = [
        [
            one["group"], f"{one['hosts']:,}", f"{one['cells']:,}", f"{one['nights']:,}",
            f"{one['least']:,}", f"{one['median']:,.0f}", f"{one['most']:,}", f"{one['median'] / 64:.1f}",
        ]
        for one in hosts_table(product, table)
    ]  # fmt: skip
    header = [
        "set", "hosts", "sky cells", "nights", "samples of a host: fewest", "median", "most",
        "times a pixel is seen",
    ]  # fmt: skip
    text = (
        "A host is a tile of an epoch with its reference: its samples share its noise, stars and galaxies, "
        "and differ in what was put where. A tile of 512 pixels holds about 64 stamps side by side; where a "
        "pixel is seen many times, a model can learn it by heart. No cell and no night is in two splits."
    )
    return page.section("Hosts", text, page.table(header, rows))


def _storage(sizes: dict[str, int], stamps: int) -> str:
    large = {name: size for name, size in sizes.items() if name in ("pixels", "target")}
    rest = sum(sizes.values()) - sum(large.values())
    rows = [
        [name, f"{size / 2**20:,.1f}", f"{size / stamps:,.0f}"]
        for name, size in [*large.items(), ("all others", rest), ("together", sum(sizes.values()))]
    ]
    return page.section(
        "Storage", "", page.table(["variable", "MiB on disk", "bytes per sample and visit"], rows)
    )


def _sheets(table: "pd.DataFrame", examples: dict[str, list[Example]], visits: dict[str, int]) -> list[str]:
    """A gallery for every class, its kinds in order."""
    text = (
        f"From left to right: {', '.join(drawn.PARTS)}. Science and template in grey (asinh), difference and "
        "score from blue to red (±8 σ), each in units of its noise; green: what the pattern put in "
        "covers; ochre: no data. Each kind from weak to strong."
    )
    parts = [page.section("What they look like", text)]
    for name in CLASSES:
        items = [
            (drawn.strip_png(drawn.strip(one.planes, one.target)), kind, _caption(table, one, visits))
            for kind in KINDS
            if KINDS[kind] == name
            for one in examples.get(kind, [])
        ]
        if items:
            parts.append(page.section(name.replace("_", " "), "", page.gallery(items, drawn.PARTS)))
    return parts


def _caption(table: "pd.DataFrame", one: Example, visits: dict[str, int]) -> str:
    row = {name: table[name].iloc[one.index] for name in table.columns}
    said = [f"S_corr {row['peak']:+.1f}"] if np.isfinite(row["peak"]) else []
    if np.isfinite(row["snr"]):
        said.append(f"true SNR {row['snr']:+.1f}")
    if np.isfinite(row["flux"]) and row["flux"]:
        said.append(f"{row['flux']:,.0f} electron")
    if np.isfinite(row["mag"]):
        said.append(f"{row['mag']:.2f} mag")
    place = f"{row['environment']}, {row['survey']} {row['band']}, {row['split']} {row['row']}"
    count = visits[str(row["group"])]
    visit = f", visit {row['visit'] + 1} of {count}" if count > 1 else ""
    return "; ".join([*([", ".join(said)] if said else []), place + visit])


def _percentiles(values: Any) -> tuple[float, float, float]:
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    if not good.size:
        return float("nan"), float("nan"), float("nan")
    low, middle, high = np.percentile(good, [5, 50, 95])
    return float(low), float(middle), float(high)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return _count(low, "visit") if low == high else f"{low} to {high} visits"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
