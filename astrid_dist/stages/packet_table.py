"""Which alert packets become samples: each alert once, with its label, its split and its fold.

Labels come from two places, and every sample says which. A known asteroid at the place is real, whatever a
model thinks. Of the rest only a model of the survey (`drb`, `reliability`) has an opinion, which is taken as
a soft label with less weight; agreement with it is agreement with a model.

A field of the survey, with all its objects, is on one side of every split and in one fold. An object seen in
two fields belongs to that in which it was seen most; its other alerts are left out where that would put it
on two sides.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.formats.packets import Packet, Refused, read_source
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.stages.packet_stamps import problem
from astrid_dist.stages.synthetic.host_table import nights_of
from astrid_dist.taxonomy import LABELLERS, class_code, kind_code

Columns = dict[str, NDArray[Any]]
SplitBy = Literal["auto", "field", "both"]

#: Cells that stand for fields where a survey has no grid, degrees.
_CELL_DEG = 0.25
#: Alerts that every split must have left for ``auto`` to split by field and night.
_FEWEST = 100
_TYPES = {
    "source": "i4", "number": "i8", "candid": "i8", "mjd": "f8", "survey_score": "f4", "ssdistnr": "f4",
    "peak": "f4", "mag": "f4", "fwhm": "f4",
}  # fmt: skip


@dataclass(frozen=True)
class Labelling:
    """What makes an alert real or bogus, and how much it counts."""

    asteroid_arcsec: float
    """Within this distance of a known body of the Solar System an alert is real, with weight 1."""
    real_above: float
    bogus_below: float
    """Scores of the survey's model beyond which an alert has `model_weight`; between, `between_weight`."""
    model_weight: float
    between_weight: float


def scan(sources: Sequence[str], survey: str | None) -> tuple[Columns, list[Refused]]:
    """All packets of some files but duplicates, one row each in order, and what was set aside.

    Parameters
    ----------
    sources : sequence of str
        `astrid_dist.formats.packet_files.packet_sources`.
    survey : str, optional
        Name of the survey; by default that of each packet's schema.
    """
    rows: list[dict[str, Any]] = []
    refused: list[Refused] = []
    seen: dict[tuple[str, int], str] = {}
    for index, source in enumerate(sources):
        for number, one in read_source(source):
            if isinstance(one, Refused):
                refused.append(one)
                continue
            alert = survey or one.survey, one.candid
            why = problem(one) or (f"the same alert as in {seen[alert]}" if alert in seen else "")
            if why:
                refused.append(Refused(one.source, why, one.candid, one.object_id))
                continue
            seen[alert] = one.source
            rows.append({"source": index, "number": number, **_row(one, alert[0])})
    names = rows[0] if rows else ()
    return {name: np.array([row[name] for row in rows], _TYPES.get(name, object)) for name in names}, refused


def _row(packet: Packet, survey: str) -> dict[str, Any]:
    cell = f"{floor(packet.ra / _CELL_DEG)}_{floor(packet.dec / _CELL_DEG)}"
    score = packet.drb if packet.reliability is None else packet.reliability
    return {
        "survey": survey,
        "candid": packet.candid,
        "object": packet.object_id or str(packet.candid),
        "field": cell if packet.field is None else str(packet.field),
        "exposure": packet.exposure,
        "band": packet.band,
        "mjd": packet.mjd,
        "survey_score": nan if score is None else score,
        "ssdistnr": nan if packet.ssdistnr is None else packet.ssdistnr,
        "peak": nan if packet.snr is None else packet.snr,
        "mag": packet.magnitude,
        "fwhm": packet.fwhm,
    }


def read_again(sources: Sequence[str], own: Columns, rows: NDArray[np.int64]) -> Iterator[tuple[int, Packet]]:
    """The packets of some rows of a table, file by file, each with its row.

    Raises
    ------
    InputError
        A file is no longer what was scanned.
    """
    for source in np.unique(own["source"][rows]).tolist():
        here = rows[own["source"][rows] == source]
        wanted = dict(zip(own["number"][here].tolist(), here.tolist(), strict=True))
        for number, packet in read_source(sources[source], wanted.keys()):
            row = wanted.pop(number)
            if isinstance(packet, Refused) or packet.candid != own["candid"][row]:
                break
            yield row, packet
        else:
            if not wanted:
                continue
        raise InputError(f"{sources[source]} changed since the job was planned: choose a new output")


def label(table: Columns, rules: Labelling) -> Columns:
    """Columns `label`, `weight`, `class`, `kind` and `labeller` of alerts.

    What nobody has an opinion of has label 0.5 and weight 0.
    """
    score = table["survey_score"]
    known = table["ssdistnr"] < rules.asteroid_arcsec
    judged = np.isfinite(score)
    sure = (score >= rules.real_above) | (score < rules.bogus_below)
    weight = np.where(sure, rules.model_weight, np.where(judged, rules.between_weight, 0.0))
    labeller = np.where(known, LABELLERS.index("catalogue"), np.where(judged, LABELLERS.index("model"), -1))
    return {
        "label": np.where(known, 1.0, np.where(judged, score, 0.5)).astype(np.float32),
        "weight": np.where(known, 1.0, weight).astype(np.float32),
        "class": np.where(known, class_code("moving"), class_code("unknown")).astype(np.int8),
        "kind": np.where(known, kind_code("asteroid"), -1).astype(np.int16),
        "labeller": labeller.astype(np.int8),
    }


@dataclass(frozen=True)
class Division:
    """On which side of every split each alert lies."""

    split: NDArray[np.int64]
    """Number of the split; -1 left out."""
    fold: NDArray[np.int64]
    night: NDArray[np.int64]
    by: str
    """What it was split by, in words."""
    left_out: int


def divide(table: Columns, shares: Mapping[str, float], folds: int, split_by: SplitBy, seed: int) -> Division:
    """Split alerts by field and object, and by night too if that is asked for or leaves enough.

    A field's split and fold follow from its name and the seed alone: more packets change nobody's.
    """
    fields = np.array(
        [f"{survey}/{field}" for survey, field in zip(table["survey"], table["field"], strict=True)]
    )
    names, which = np.unique(fields, return_inverse=True)
    units = np.array([zlib.crc32(name.encode()) for name in names.tolist()], np.int64)
    total = sum(shares.values())
    edges = np.cumsum([share / total for share in shares.values()])[:-1]

    def side(of: NDArray[np.int64], what: str) -> NDArray[np.int64]:
        drawn = uniforms(stream(seed, f"split by {what}"), of, 1)[:, 0]
        return np.searchsorted(edges, drawn, side="right").astype(np.int64)

    by_field = side(units, "field")
    by_fold = (uniforms(stream(seed, "folds"), units, 1)[:, 0] * folds).astype(np.int64)
    home = _homes(
        which, np.array([f"{s}/{o}" for s, o in zip(table["survey"], table["object"], strict=True)])
    )
    there = (by_field[which] == by_field[home]) & (by_fold[which] == by_fold[home])
    split, fold = np.where(there, by_field[which], -1), by_fold[which]
    night = np.zeros(len(fields), np.int64)
    for survey in np.unique(table["survey"].astype(str)):
        own = table["survey"] == survey
        night[own] = nights_of(table["mjd"][own])
    by = "field and object"
    if split_by != "field" and len(shares) > 1:
        both = np.where(side(night, "night") == split, split, -1)
        left = np.bincount(both[both >= 0], minlength=len(shares))
        if split_by == "both" and not left.all():
            empty = ", ".join(name for name, n in zip(shares, left, strict=True) if not n)
            raise ConfigError(
                f"{len(names)} fields in {len(np.unique(night))} nights leave nothing for {empty}: "
                "give more nights, split_by=field, or other splits"
            )
        if split_by == "both" or left.min() >= _FEWEST:
            split, by = both, "field, object and night"
    return Division(split, fold, night, by, int((split < 0).sum()))


def _homes(field: NDArray[np.int64], name: NDArray[Any]) -> NDArray[np.int64]:
    """For each alert the field in which its object was seen most; of equals the first in order."""
    objects, which = np.unique(name, return_inverse=True)
    pairs, count = np.unique(np.column_stack([which, field]), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -count, pairs[:, 0]))
    first = np.unique(pairs[order, 0], return_index=True)[1]
    home = np.empty(len(objects), np.int64)
    home[pairs[order[first], 0]] = pairs[order[first], 1]
    return home[which]
