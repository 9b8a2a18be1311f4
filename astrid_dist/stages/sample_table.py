"""What describes the samples of a product, in tables: what was asked for and got, and which to look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.query.samples import Samples
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import SAMPLE_GROUP
from astrid_dist.taxonomy import CODES, REAL

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]

#: Chunks of stamps that are read in search of examples, at most.
MOST_CHUNKS = 64
#: Multiples of it, taken modulo 1, are spread evenly.
_GOLDEN = (5**0.5 - 1) / 2


def sample_table(product: Samples, say: Say) -> "pd.DataFrame":
    """A row for every sample: words for its codes, and its visit of largest SNR.

    Columns: group, survey, split, row, class, kind, environment, origin, reason, injectable, stratum, host,
    visit, band, snr, peak, flux, mag, fwhm_n. Where nothing has an SNR, the visit
    is that of largest S_corr.
    """
    import pandas as pd

    parts = []
    for group in product:
        data = product[group]
        n = data.sizes["sample"]
        snr, peak = data["snr"].to_numpy(), data["peak"].to_numpy()
        size = np.where(np.isfinite(snr), np.abs(snr), np.abs(peak))
        visit = np.nan_to_num(size, nan=-1.0).argmax(axis=1)
        columns: dict[str, Any] = {
            name: pd.Categorical.from_codes(data[name].to_numpy(), pd.Index(CODES[name]))
            for name in ("class", "kind", "environment", "origin", "reason")
        }
        columns["kind"] = columns["kind"].add_categories("unknown").fillna("unknown")  # of alerts
        for name in ("snr", "peak", "flux", "mag", "fwhm_n"):
            columns[name] = data[name].to_numpy()[np.arange(n), visit]
        columns |= {
            "group": group,
            "survey": str(data.attrs["survey"]),
            "split": str(data.attrs["split"]),
            "row": np.arange(n),
            "visit": visit,
            "band": np.array(data.attrs["bands"], object)[data["band"].to_numpy()[np.arange(n), visit]],
            "injectable": data["injectable"].to_numpy(),
            "stratum": data["stratum"].to_numpy(),
            "host": data["host_row"].to_numpy(),
        }
        frame = pd.DataFrame(columns)
        parts.append(frame.astype(dict.fromkeys(("group", "survey", "split", "band"), "category")))
        say(f"{group}: {n:,} samples described")
    table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return table.astype(dict.fromkeys(("group", "survey", "split", "band"), "category"))


def strata_table(product: Samples, table: "pd.DataFrame") -> "pd.DataFrame":
    """A row for every stratum of every group: survey, split, class, kind, environment, sign, snr, asked, got.

    `snr` is the range as text, empty for artifacts; `got` counts what could be put in.
    """
    import pandas as pd

    rows = []
    for group in product:
        attributes = product[group].attrs
        here = table[(table["group"] == group) & table["injectable"]]
        strata = attributes.get("strata", [])
        got = np.bincount(here["stratum"].clip(lower=0), minlength=len(strata))[: len(strata)]
        for stratum, count in zip(strata, got.tolist(), strict=True):
            real = stratum["class"] in REAL
            low, high = stratum["snr"]
            rows.append(
                {
                    "survey": attributes["survey"],
                    "split": attributes["split"],
                    "class": stratum["class"],
                    "kind": stratum["kind"],
                    "environment": stratum["environment"],
                    "sign": ("fading" if stratum["negative"] else "brightening") if real else "",
                    "snr": f"{low:.3g} to {high:.3g}" if real else "",
                    "asked": stratum["asked"],
                    "got": count,
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Example:
    """One sample with its pixels, at one visit."""

    index: int
    """Row of the table of samples."""
    planes: NDArray[np.float16]
    """(4, v, u)"""
    target: NDArray[np.uint16]
    """(v, u)"""


def find_examples(product: Samples, table: "pd.DataFrame", most: int, say: Say) -> dict[str, list[Example]]:
    """Some samples of every kind that could be put in, from weak to strong; few chunks of pixels are read.

    Parameters
    ----------
    product : Samples
        Where pixels are read.
    table : DataFrame
        Of `sample_table`.
    most : int
        Of each kind, at most.
    say : callable
        Told how much is read.
    """
    good = table[table["injectable"]]
    wanted = {str(kind): min(most, int(n)) for kind, n in good["kind"].value_counts().items() if n}
    have = dict.fromkeys(wanted, 0)
    pools: dict[str, list[Example]] = {kind: [] for kind in wanted}
    read = 0
    for group, start, stop in _chunks(product):
        if read == MOST_CHUNKS or all(have[kind] >= wanted[kind] for kind in wanted):
            break
        rows = good[(good["group"] == group) & (good["row"] >= start) & (good["row"] < stop)]
        if all(have[str(kind)] >= wanted[str(kind)] for kind in rows["kind"].unique()):
            continue
        reader = ProductReader(product.location, group)
        pixels = reader.read("pixels", sample=slice(start, stop))
        target = reader.read("target", sample=slice(start, stop))
        read += 1
        for index, row in rows.iterrows():
            at, visit = int(row["row"]) - start, int(row["visit"])
            example = Example(int(str(index)), pixels[at, visit].copy(), target[at, visit].copy())
            pools[str(row["kind"])].append(example)
            have[str(row["kind"])] += 1
    say(f"{read} chunks of stamps read for examples")
    strength = table["snr"].abs().fillna(table["peak"].abs()).fillna(0.0).to_numpy()
    return {kind: _spread(pool, strength, most) for kind, pool in pools.items()}


def _chunks(product: Samples) -> Iterator[tuple[str, int, int]]:
    """Chunks of stamps of all groups by turns: (group, first sample, end), those of different hosts first."""
    orders = {}
    for group in product:
        size = product[group].sizes["sample"]
        chunk = int(ProductReader(product.location, group).array("pixels").chunks[0])
        starts = np.arange(0, size, chunk)
        apart = np.argsort(np.arange(len(starts)) * _GOLDEN % 1, kind="stable")
        orders[group] = [(group, int(k), min(int(k) + chunk, size)) for k in starts[apart]]
    for turn in zip_longest(*orders.values()):
        yield from (one for one in turn if one)


def _spread(pool: list[Example], strength: NDArray[Any], most: int) -> list[Example]:
    """Examples of evenly spaced ranks, from weak to strong."""
    ordered = sorted(pool, key=lambda one: float(strength[one.index]))
    chosen = np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int))
    return [ordered[k] for k in chosen]


def hosts_table(product: Samples, table: "pd.DataFrame") -> list[dict[str, Any]]:
    """How often the noise of each group's hosts is reused: samples per host, and of one middle pixel."""
    rows = []
    for group in product:
        here = table[table["group"] == group]
        data = product[group]
        per_host = np.bincount(here["host"].clip(lower=0), minlength=data.sizes["host"])
        rows.append(
            {
                "group": group,
                "hosts": data.sizes["host"],
                "cells": len(np.unique(data["host_cell"].to_numpy())),
                "nights": len(np.unique(data["host_night"].to_numpy())),
                "least": int(per_host.min()),
                "median": float(np.median(per_host)),
                "most": int(per_host.max()),
                "draws": -(-len(here) // SAMPLE_GROUP),
            }
        )
    return rows


def stored_bytes(product: Samples) -> dict[str, int]:
    """Bytes on disk by variable, all groups together, from one listing."""
    found: dict[str, int] = {}
    for group in product:
        for name, size in product.location.objects().list(group):
            parts = name.removeprefix(group).strip("/").split("/")
            variable = parts[0] if len(parts) > 1 else "metadata"
            found[variable] = found.get(variable, 0) + size
    return found
