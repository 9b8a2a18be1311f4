"""Quality over epochs, nights and fields: tables with one row per epoch, and which night an epoch is of."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatch

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from astrid_dist.errors import ConfigError
from astrid_dist.figures.quality import Panel
from astrid_dist.imaging.quality import METRICS
from astrid_dist.query.cutouts import name_of
from astrid_dist.store.opening import Product, Url, open_difference
from astrid_dist.surveys.profile import resolve_thresholds
from astrid_dist.surveys.thresholds import Thresholds

#: Before this the metrics of an epoch are called in a product.
PREFIX = "quality_"
#: What is drawn against time unless asked otherwise.
TREND = (
    "seeing",
    "limiting_mag",
    "sky",
    "transparency",
    "score_std",
    "peaks",
    "residual_ratio",
    "displacement",
)


def epoch_table(cube: xr.Dataset) -> pd.DataFrame:
    """One row per epoch of a survey or difference, with every value there is per epoch; the index is `epoch`.

    Reads nothing that was not read when the product was opened.

    Raises
    ------
    ConfigError
        The dataset has no epochs.
    """
    if "epoch" not in cube.dims:
        raise ConfigError(f"{name_of(cube)} has no epochs: its dimensions are {tuple(cube.dims)}")
    names = [str(n) for n, one in cube.variables.items() if one.dims == ("epoch",) and n != "epoch"]
    frame = pd.DataFrame({name: cube[name].to_numpy() for name in names})
    frame.index = pd.Index(
        cube["epoch"].to_numpy() if "epoch" in cube.coords else np.arange(cube.sizes["epoch"]), name="epoch"
    )
    return frame


def quality_table(difference: Url | Product, fields: Sequence[str] = ("*",)) -> pd.DataFrame:
    """Quality of every epoch of a difference product, all fields together, in order of time.

    Parameters
    ----------
    difference : URL or Product
        What ``open_difference`` opens, or has opened.
    fields : sequence of str
        Shell patterns of ``<field>/<band>`` groups.

    Returns
    -------
    DataFrame
        Columns ``group, field, band, epoch, night`` (see `nights_of`), then those of the product: time,
        verdict, reason, quality, and each metric as ``quality_<metric>``.

    Raises
    ------
    ConfigError
        No group is like a pattern.
    """
    product = difference if isinstance(difference, Product) else open_difference(difference)
    names = list(product)
    for pattern in fields:
        if not any(fnmatch(name, pattern) for name in names):
            close = get_close_matches(pattern, names, 3) or names[:5]
            raise ConfigError(f"{product.url} has no group like {pattern!r}; it has {', '.join(close)}")
    parts = []
    for name in names:
        if any(fnmatch(name, pattern) for pattern in fields):
            field, _, band = name.rpartition("/")
            part = epoch_table(product[name]).reset_index()
            parts.append(part.assign(group=name, field=field, band=band))
    table = pd.concat(parts, ignore_index=True)
    table["night"] = nights_of(table["mjd"].to_numpy())
    first = ["group", "field", "band", "epoch", "night"]
    table = table[first + [name for name in table.columns if name not in first]]
    return table.sort_values(["mjd", "group", "epoch"], kind="stable", ignore_index=True)


def nights_of(mjd: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Date on whose evening the night of each time began, as 2026-01-31; empty where the time is not known.

    Where on Earth the telescope stands is not asked. A day ends in the middle of the longest span of the
    24 hours in which no exposure was taken: near local noon.

    Parameters
    ----------
    mjd : (n,) float
        UTC, days.
    """
    times = np.asarray(mjd, dtype=np.float64)
    known = np.isfinite(times)
    found = np.full(times.shape, "", dtype="<U10")
    if known.any():
        days = np.floor(times[known] - _noon(times[known])).astype(np.int64)
        found[known] = (np.datetime64("1858-11-17") + days).astype("datetime64[D]").astype(str)
    return found


def _noon(times: npt.NDArray[np.float64]) -> float:
    """Middle of the longest span of the day without an exposure, as a fraction of the UTC day."""
    hours = np.unique(np.mod(times, 1.0))
    gaps = np.diff(np.append(hours, hours[0] + 1.0))
    longest = int(np.argmax(gaps))
    return float(np.mod(hours[longest] + gaps[longest] / 2, 1.0))


def choose_night(table: pd.DataFrame, night: str | float | None) -> str:
    """The night that is asked for: by its date, by any MJD in it, or the last one.

    Raises
    ------
    ConfigError
        There is no epoch in that night; names those there are.
    """
    there: list[str] = sorted({str(one) for one in table["night"] if one})
    if not there:
        raise ConfigError("no epoch has a time, so there are no nights")
    if night is None:
        return there[-1]
    wanted = str(night)
    if wanted in there:
        return wanted
    try:
        mjd = float(wanted)
    except ValueError:
        mjd = np.nan
    if np.isfinite(mjd):
        times = table["mjd"].to_numpy()
        nearest = table["night"].iloc[int(np.nanargmin(np.abs(times - mjd)))]
        if float(np.nanmin(np.abs(times - mjd))) < 0.5:
            return str(nearest)
    close = get_close_matches(wanted, there, 3) or there[-5:]
    raise ConfigError(f"there is no epoch in night {wanted!r}; write a date or an MJD of {', '.join(close)}")


def thresholds_of(cube: xr.Dataset) -> Thresholds:
    """Thresholds a difference was judged by: those it was made with, else its survey's."""
    made_with = cube.attrs.get("thresholds")
    if made_with:
        return Thresholds.model_validate(made_with)
    return resolve_thresholds(str(cube.attrs.get("survey", "generic")))


def trend_panels(
    table: pd.DataFrame, thresholds: Thresholds, metrics: Sequence[str] | None = None
) -> list[Panel]:
    """Panels of `figures.quality.trend` of an epoch table.

    Parameters
    ----------
    table : DataFrame
        From `epoch_table` or `quality_table`.
    thresholds : Thresholds
        Their green limits are drawn.
    metrics : sequence of str, optional
        Names of metrics; left out, those of `TREND` that were measured.

    Raises
    ------
    ConfigError
        A metric is none, or was measured in no epoch.
    """
    there = [name for name in METRICS if PREFIX + name in table and table[PREFIX + name].notna().any()]
    if metrics is None:
        metrics = [name for name in TREND if name in there]
    for name in metrics:
        if name not in there:
            close = get_close_matches(name, there, 3) or there
            raise ConfigError(f"{name!r} was measured in no epoch; there are {', '.join(close) or 'none'}")
    if not metrics:
        raise ConfigError("no metric of quality was measured in any epoch; make the difference again")
    panels = []
    for name in metrics:
        bounds, unit = thresholds.of(name), METRICS[name].unit
        label = name.replace("_", " ") + (f"\n({unit.replace('-1', '⁻¹')})" if unit != "1" else "")
        panels.append(Panel(label, table[PREFIX + name].tolist(), bounds.green if bounds else (None, None)))
    return panels
