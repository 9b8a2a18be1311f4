"""The page of a night: how good its subtractions are, why not, and where on the detector."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid_dist.errors import ConfigError
from astrid_dist.figures import page
from astrid_dist.figures import quality as drawn
from astrid_dist.query import quality
from astrid_dist.store.layouts import PRODUCTS
from astrid_dist.store.opening import Product, open_difference

if TYPE_CHECKING:
    import pandas as pd

    from astrid_dist.surveys.thresholds import Thresholds

#: Epochs whose tiles are drawn, worst first, and of those the ones drawn large.
MOST_MAPS, LARGE = 60, 3
#: Epochs drawn in the trend over all nights, the latest.
MOST_POINTS = 3000
#: Columns of the table of epochs: metric, heading, format.
_COLUMNS = (
    ("seeing", "seeing (arcsec)", ".2f"),
    ("limiting_mag", "5σ depth (AB mag)", ".2f"),
    ("sky", "sky (electron)", ".0f"),
    ("transparency", "transparency", ".2f"),
    ("n_matched", "stars matched", ".0f"),
    ("score_std", "std of S_corr", ".3f"),
    ("peaks", "peaks per Mpix", ".0f"),
    ("displacement", "displaced (px)", ".3f"),
    ("residual_ratio", "light left", ".3f"),
    ("bad_fraction", "no data", ".3f"),
)
_TILE_MAPS = {
    name: one for name, one in PRODUCTS["difference"].items() if one.dims == ("epoch", "tile_y", "tile_x")
}


def night_page(url: Any, night: str | float | None = None, fields: Sequence[str] = ("*",)) -> str:
    """The page of one night of a difference product, as one HTML document.

    Parameters
    ----------
    url : URL or path
        The difference.
    night : str or float, optional
        Date of its evening (2026-01-31) or any MJD in it; left out, the last night there is.
    fields : sequence of str
        Shell patterns of ``<field>/<band>`` groups.

    Raises
    ------
    ConfigError
        No such night or group, or no epoch at all.
    """
    product = open_difference(url)
    every = quality.quality_table(product, fields)
    if every.empty:
        raise ConfigError(f"{product.url} has no epoch yet")
    chosen = quality.choose_night(every, night)
    table = every[every["night"] == chosen].reset_index(drop=True)
    thresholds = quality.thresholds_of(product[str(table["group"].iloc[0])])
    groups = sorted(set(table["group"]))
    judged = table[table["valid"].astype(bool)]
    worst = judged.loc[judged["quality"].fillna(-1.0).sort_values(kind="stable").index[:MOST_MAPS]]
    where = groups[0] if len(groups) == 1 else f"{len(groups)} fields and bands"
    return page.page(
        f"Night of {chosen}",
        f"{len(table)} epochs of {where}, differenced in {product.url}.",
        [
            page.cards(_headline(table)),
            _wrong(table, set(worst.index)),
            _epochs(table, thresholds, set(worst.index)),
            page.section("Through the night", "", _trend(table, thresholds, "metrics through the night")),
            _maps(product, worst, len(judged) - len(worst)),
            _nights(every, chosen, thresholds),
        ],
    )


def _headline(table: "pd.DataFrame") -> list[tuple[str, str]]:
    verdicts = table["verdict"].tolist()
    counts = [(str(verdicts.count(colour)), f"epochs are {colour}") for colour in drawn.VERDICTS]
    other = sum(one not in drawn.VERDICTS for one in verdicts)
    counts += [(str(other), "epochs could not be judged")] if other else []
    bands = ", ".join(sorted(set(table["band"])))
    return [
        *counts,
        (_median(table, "seeing", ".2f", " arcsec"), "median seeing"),
        (_median(table, "limiting_mag", ".2f", " mag"), "median 5σ depth of the differences, AB"),
        (bands, f"bands; {_clock(table['mjd'].min())} to {_clock(table['mjd'].max())} UTC"),
    ]


def _median(table: "pd.DataFrame", metric: str, form: str, unit: str) -> str:
    value = table[quality.PREFIX + metric].median()
    return f"{value:{form}}{unit}" if np.isfinite(value) else "–"


def _wrong(table: "pd.DataFrame", with_maps: set[Any]) -> str:
    """What an observer reads first: every epoch that is not green, and why, in order of time."""
    rows = [
        [_name(row, index in with_maps), _clock(row["mjd"]), _verdict(row), page.words(str(row["reason"]))]
        for index, row in table.iterrows()
        if row["verdict"] != "green"
    ]
    text = "" if rows else "Every epoch is green."
    return page.section(
        "What is wrong",
        text,
        page.table(["epoch", "UTC", "verdict", page.words("why")], rows) if rows else "",
    )


def _name(row: "pd.Series[Any]", with_maps: bool) -> str:
    """Group and index of an epoch, a link to its maps where there are some."""
    name = f"{row['group']} {row['epoch']}"
    return page.anchor(_place(row), name, str(row["source"])) if with_maps else name


def _epochs(table: "pd.DataFrame", thresholds: "Thresholds", with_maps: set[Any]) -> str:
    columns = [one for one in _COLUMNS if table[quality.PREFIX + one[0]].notna().any()]
    rows = []
    for index, row in table.iterrows():
        colours = {}
        for metric, _, _ in columns:
            bounds, value = thresholds.of(metric), float(row[quality.PREFIX + metric])
            colours[metric] = bounds.colour(value) if bounds and np.isfinite(value) else ""
        rows.append(
            [
                _name(row, index in with_maps),
                _clock(row["mjd"]),
                _verdict(row),
                f"{row['quality']:.2f}" if np.isfinite(row["quality"]) else "–",
                *(_value(row[quality.PREFIX + one], form, colours[one]) for one, _, form in columns),
            ]
        )
    text = (
        "In order of time. The score is 0 to 1, the verdict its worst part; a figure on coloured ground is "
        "what is not green. S_corr is that of source-free pixels before renormalisation, and should have a "
        "std of 1. Displaced and light left are what stars show in the difference."
    )
    header = ["epoch", "UTC", "verdict", "score", *(heading for _, heading, _ in columns)]
    return page.section("Epochs", text, page.table(header, rows))


def _value(value: float, form: str, colour: str) -> str:
    if not np.isfinite(value):
        return "–"
    shown = f"{value:{form}}"
    return shown if colour in ("", "green") else page.chip(shown, colour)


def _verdict(row: "pd.Series[Any]") -> str:
    return page.chip(str(row["verdict"]), str(row["verdict"]) if row["verdict"] in drawn.VERDICTS else "")


def _trend(table: "pd.DataFrame", thresholds: "Thresholds", alt: str) -> str:
    """The main metrics of epochs against time."""
    if not table[[quality.PREFIX + name for name in quality.TREND]].notna().any(axis=None):
        return '<p class="note">None of the main metrics was measured.</p>'
    panels = quality.trend_panels(table, thresholds)
    figure = drawn.trend(table["mjd"].to_numpy(), panels, table["verdict"].tolist(), width_in=10.5)
    return page.figure(figure, "Each point is an epoch with its verdict. Dotted: limits of green.", alt)


def _maps(product: Product, worst: "pd.DataFrame", left: int) -> str:
    """Tile maps of the worst epochs, those first that need looking at; `left` others are not drawn."""
    if worst.empty:
        return page.section("Tiles", "No epoch of this night was subtracted.")
    maps = {index: one for _, rows in worst.groupby("group") for index, one in _tiles_of(product, rows)}
    ranges = _ranges(list(maps.values()))
    parts = []
    for rank, (index, row) in enumerate(worst.iterrows()):
        heading = page.Markup(
            f"{page.plain(str(row['group']))} epoch {row['epoch']}, {_clock(row['mjd'])} {_verdict(row)}"
        )
        size = 132 if rank < LARGE and row["verdict"] != "green" else 56
        parts.append(
            page.maps(_place(row), heading, str(row["reason"]), _pictures(maps[index], ranges), size)
        )
    text = (
        "Each measurement tile by tile, worst epochs first, the first rows at the bottom as in the image. A "
        "quantity has one scale on the whole page, dark for low and bright for high, from the 2nd to the "
        "98th percentile of these epochs; grey is no data. Under each map: its lowest and highest tile. What "
        "is the same in all tiles is left out." + (f" The {left} best epochs are not drawn." if left else "")
    )
    return page.section("Tiles", text, *parts)


def _tiles_of(product: Product, rows: "pd.DataFrame") -> Iterator[tuple[Any, dict[str, Any]]]:
    """Index of each row of one group, and every map of its epoch that holds a value, by name."""
    cube = product[str(rows["group"].iloc[0])]
    names = [name for name, one in _TILE_MAPS.items() if name in cube]
    loaded = cube[names].isel(epoch=rows["epoch"].tolist()).compute()
    for turn, index in enumerate(rows.index):
        found = {name: np.asarray(loaded[name][turn].to_numpy(), dtype=np.float64) for name in names}
        for name, values in found.items():
            if _TILE_MAPS[name].dtype[0] == "i":
                values[values < 0] = np.nan
        yield index, {name: values for name, values in found.items() if np.isfinite(values).any()}


def _ranges(maps: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Scale of each quantity, common to all epochs."""
    ranges = {}
    for name in {name for one in maps for name in one}:
        values = np.concatenate([one[name].ravel() for one in maps if name in one])
        low, high = np.percentile(values[np.isfinite(values)], [2, 98])
        ranges[name] = (float(low), float(high))
    return ranges


def _pictures(maps: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> list[tuple[bytes, str]]:
    """(PNG, caption) of the verdict and of every quantity that differs between tiles."""
    pictures = []
    if "tile_verdict" in maps:
        codes = np.nan_to_num(maps["tile_verdict"], nan=-1).astype(int)
        pictures.append((drawn.verdict_map_png(codes), "verdict"))
    for name, one in _TILE_MAPS.items():
        if name not in maps or name == "tile_verdict":
            continue
        low, high = float(np.nanmin(maps[name])), float(np.nanmax(maps[name]))
        if np.isclose(low, high, rtol=1e-5, atol=0) and np.isfinite(maps[name]).all():
            continue  # one value for the whole epoch
        unit = one.unit
        caption = f"{name.replace('_', ' ')} {low:.3g} to {high:.3g}{'' if unit in ('', '1') else ' ' + unit}"
        pictures.append((drawn.tile_map_png(maps[name], *ranges[name]), caption))
    return pictures


def _nights(every: "pd.DataFrame", chosen: str, thresholds: "Thresholds") -> str:
    """All nights of the product: verdicts and medians of each, where there is more than one."""
    nights = [str(name) for name in sorted(set(every["night"])) if name]
    if len(nights) < 2:
        return ""
    grouped = {name: every[every["night"] == name] for name in nights}
    counts = [
        [int((one["verdict"] == colour).sum()) for colour in drawn.VERDICTS] for one in grouped.values()
    ]
    columns = [one for one in _COLUMNS if every[quality.PREFIX + one[0]].notna().any()]
    rows = []
    for name, count in zip(nights, counts, strict=True):
        medians = ((grouped[name][quality.PREFIX + metric].median(), form) for metric, _, form in columns)
        rows.append(
            [
                page.Markup(f"<b>{name}</b>") if name == chosen else name,
                str(len(grouped[name])),
                *(str(number) for number in count),
                *(f"{value:{form}}" if np.isfinite(value) else "–" for value, form in medians),
            ]
        )
    header = ["night", "epochs", *drawn.VERDICTS, *(heading for _, heading, _ in columns)]
    figure = drawn.verdict_counts(nights, counts, width_in=10.5)
    return page.section(
        "Nights",
        "Every night of this product: how many epochs of each verdict, and the medians of their metrics.",
        page.figure(figure, "", "epochs per night by verdict"),
        _trend(every.tail(MOST_POINTS), thresholds, "metrics of all nights against time"),
        page.table(header, rows),
    )


def _place(row: "pd.Series[Any]") -> str:
    """Anchor of an epoch."""
    return f"{row['group']}-{row['epoch']}".replace("/", "-")


def _clock(mjd: float) -> str:
    """Time of day, hours and minutes UTC."""
    if not np.isfinite(mjd):
        return "–"
    moment = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=float(mjd), seconds=30)
    return f"{moment:%H:%M}"
