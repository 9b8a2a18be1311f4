"""What an injected frame holds: sources put on it, and one row of the truth for each.

Rows follow the truth of a mock survey: ``mag`` is the magnitude of all light of the object in that epoch, and
rows of the epochs that the reference is made of (``epoch`` -1) say what that holds, so that what to expect
in a difference follows from magnitudes alone. ``flux`` is the change against the reference, electrons of the
epoch; ``snr`` what a filter for points sees of it over the noise of its difference, own shot noise included.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging.resampling import Grid
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.truth import INJECTABLE_EDGE_PX
from astrid_dist.stages.comparison import file_of
from astrid_dist.stages.synthetic.frame import Frame
from astrid_dist.stages.synthetic.frame_artifacts import OF_TEMPLATE
from astrid_dist.stages.synthetic.frame_light import FieldSources
from astrid_dist.stages.synthetic.frame_paint import paint, seen_by_points
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_truth
from astrid_dist.store.reading import ProductReader
from astrid_dist.taxonomy import KINDS

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

#: Numbers of objects: those of a field's sources, those of an epoch's artifacts.
_PER_FIELD, _ARTIFACTS, _PER_SLOT = 1_000_000, 1 << 44, 1 << 24
#: Light of a point source fades by at most this before its row says that it has none, electrons.
_NO_LIGHT = 1e-3


def source_ids(number: int, n: int) -> NDArray[np.int64]:
    """Of the sources of the field with a number."""
    return number * _PER_FIELD + np.arange(n, dtype=np.int64)


def source_rows(
    frame: Frame, sources: FieldSources, settings: Settings, ids: NDArray[np.int64], what: str
) -> Columns:
    """Paint the sources of a field into an epoch; their rows, but for what all rows of the epoch share.

    `what` names the exposure: shot noise follows from it and the job's seed.
    """
    pair, group, canvas = frame.pair, frame.pair.survey.group, frame.canvas
    mjd = np.array([float(pair.row["mjd"])])
    x, y = sources.places(mjd[0])
    light, held = sources.light(group, mjd)[:, 0], sources.template(group)
    height, width = frame.shape
    known = np.isfinite(x + y)
    inside = known & (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    at_x, at_y = np.where(known, x, 0.0), np.where(known, y, 0.0)
    ratio, dx, dy = frame.along(at_x, at_y)
    base = lasting_light(frame.pair.reference, sources, x, y)
    change = light - held
    painted = light if sources.in_reference else change
    row, column = (
        np.clip(np.rint(at).astype(int), 0, n - 1) for at, n in ((at_y + dy, height), (at_x + dx, width))
    )
    bad = (frame.raw["mask"][row, column] & int(UNUSABLE)) != 0
    bad |= ~np.isfinite(frame.raw["image"][row, column] + canvas.science[row, column])
    there = np.array([not one for one in sources.reason], bool) & inside
    put = there & ~bad & (painted + base >= 0)
    key = stream(settings.seed, f"shot noise of {what}")
    exposed = float(pair.row["exptime"]), pair.pixel_scale_arcsec
    shining = put & (np.abs(painted * ratio) > _NO_LIGHT)
    at = at_x + dx, at_y + dy
    paint(
        canvas.science,
        canvas.science_variance,
        frame.banks[0],
        sources,
        shining,
        at,
        painted * ratio,
        exposed,
        key,
    )
    for k in np.flatnonzero(shining):
        canvas.mask[max(row[k] - 1, 0) : row[k] + 2, max(column[k] - 1, 0) : column[k] + 2] |= np.uint16(
            Flag.INJECTED
        )
    peak = np.where(put, frame.raw["image"][row, column] + canvas.science[row, column], 0.0)
    edge = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y])
    total = np.where(put, base + (light if sources.in_reference else change), np.nan)
    # What moves and is not in this epoch has no row in it.
    kept = np.flatnonzero(~sources.moves | inside)
    change = np.where(put, change, 0.0)
    seen = change * seen_by_points(frame.banks[0], sources, shining, exposed)
    noise = frame.noise(at_x[kept], at_y[kept], frame.finished["variance"])
    return {
        "id": ids[kept],
        "x": x[kept],
        "y": y[kept],
        "flux": (change * ratio)[kept],
        "mag": magnitudes(total, pair.zeropoint)[kept],
        "snr": np.where(put[kept], seen[kept] / noise, np.nan),
        **names_of(sources, kept),
        "injectable": (put & (edge > INJECTABLE_EDGE_PX) & (peak < frame.camera.full_well))[kept],
    }


def lasting_light(reference: ProductReader, sources: FieldSources, x: Array, y: Array) -> Array:
    """(n,) light of the star or nucleus that a variable is, as the reference shows it.

    That of a point source as bright in its middle. Zero for others, and where the reference is injected.
    """
    out = np.zeros(len(sources))
    which = np.flatnonzero(sources.varies & np.isfinite(x + y))
    if sources.in_reference or not which.size:
        return out
    image, first = reference.read("image"), reference.read("psf")[0]
    height, width = image.shape
    row = np.clip(np.rint(y[which]).astype(int), 0, height - 1)
    column = np.clip(np.rint(x[which]).astype(int), 0, width - 1)
    out[which] = np.clip(np.nan_to_num(image[row, column]), 0, None) / (first.max() / first.sum())
    return out


def names_of(sources: FieldSources, kept: NDArray[np.int64]) -> Columns:
    """Class, kind and host of sources."""
    strata = [sources.strata[k] for k in kept]
    hosts = sources.galaxy[kept].tolist()
    return {
        "class": np.array([one.classification for one in strata], object),
        "kind": np.array([one.kind for one in strata], object),
        "host": np.array([f"g{host:04d}" if host >= 0 else "" for host in hosts], object),
    }


def artifact_rows(found: Columns, slot: int) -> Columns:
    """Rows of the artifacts of an epoch, whose number among all is `slot`: never injectable."""
    n = len(found["kind"])
    return {
        "id": _ARTIFACTS + slot * _PER_SLOT + np.arange(n, dtype=np.int64),
        "x": found["x"],
        "y": found["y"],
        "flux": found["flux"],
        "mag": np.full(n, np.nan),
        "snr": np.full(n, np.nan),
        "class": np.array([KINDS[kind] for kind in found["kind"]], object),
        "kind": found["kind"],
        "host": np.full(n, "", object),
        "injectable": np.zeros(n, bool),
    }


def held_rows(
    survey: ProductReader, reference: ProductReader, sources: FieldSources, ids: NDArray[np.int64]
) -> Columns:
    """What the reference holds of the sources of a field: a row for each of its epochs."""
    group, made = reference.group, reference.attributes["reference"]
    one = sources.bands[group]
    varies = sources.varies
    light = sources.light(group, one.member_mjd)
    if not sources.in_reference:
        base = lasting_light(reference, sources, sources.x, sources.y)
        light = np.where(varies, base, 0.0)[:, None] * np.ones(len(one.member_mjd))
    light[sources.moves | np.array([bool(one) for one in sources.reason], bool)] = 0.0
    kept = np.flatnonzero((light > _NO_LIGHT).any(axis=1) & np.isfinite(sources.x))
    zeropoint = np.nan if made["zeropoint"] is None else float(made["zeropoint"])
    parts = []
    for k, (source, mjd) in enumerate(zip(made["sources"], one.member_mjd, strict=True)):
        parts.append(
            {
                "id": ids[kept],
                "x": sources.x[kept],
                "y": sources.y[kept],
                "flux": np.zeros(len(kept)),
                "mag": magnitudes(light[kept, k], zeropoint),
                "snr": np.full(len(kept), np.nan),
                **names_of(sources, kept),
                "injectable": np.zeros(len(kept), bool),
            }
            | shared(survey, len(kept), file_of(source), -1, mjd)
        )
    return joined(parts)


def left_rows(frame: Frame, reference: Location, variance: NDArray[np.float32]) -> Columns:
    """Rows of what an injected reference holds that no source of the epochs is: gone from all of them."""
    left = _left_behind(str(reference))
    field, _, band = frame.pair.survey.group.rpartition("/")
    rows = left[(left["field"] == field) & (left["band"] == band)]
    n, x, y = len(rows), rows["x"].to_numpy(np.float64), rows["y"].to_numpy(np.float64)
    ratio, _, _ = frame.along(x, y)
    held = rows["flux"].to_numpy(np.float64)
    return {
        "id": rows["id"].to_numpy(np.int64),
        "x": x,
        "y": y,
        "flux": -held * ratio,
        "mag": np.full(n, np.nan),
        "snr": -held / frame.noise(x, y, variance),
        **{name: rows[name].to_numpy(object) for name in ("class", "kind", "host")},
        "injectable": np.ones(n, bool),
    }


@lru_cache(2)
def _left_behind(reference: str) -> "pd.DataFrame":
    """What was put into a reference alone, one row for each."""
    table = open_truth(reference).to_dataframe()
    return table[table["kind"].isin(OF_TEMPLATE)].drop_duplicates("id")


def shared(survey: ProductReader, n: int, source: str, epoch: int, mjd: float) -> Columns:
    """Columns that all rows of an exposure share."""
    field, _, band = survey.group.rpartition("/")
    return {
        "source": np.full(n, source, object),
        "epoch": np.full(n, epoch, np.int32),
        "field": np.full(n, field, object),
        "band": np.full(n, band, object),
        "mjd": np.full(n, mjd),
    }


def on_sky(rows: Columns, survey: ProductReader, shape: tuple[int, int]) -> Columns:
    """Rows with right ascension and declination; NaN without a WCS."""
    wcs = Grid(survey.attributes.get("wcs") or "", *shape).wcs
    sky = np.full((2, len(rows["x"])), np.nan)
    known = np.isfinite(rows["x"])
    if wcs is not None and known.any():
        sky[:, known] = wcs.all_pix2world(rows["x"][known], rows["y"][known], 0)
    return rows | {"ra": sky[0], "dec": sky[1]}


def magnitudes(flux: Array, zeropoint: float) -> Array:
    """AB magnitudes; NaN where there is no light."""
    good = np.where(flux > _NO_LIGHT, flux, np.nan)
    return np.asarray(zeropoint - 2.5 * np.log10(good), np.float64)


def joined(parts: Sequence[Columns]) -> Columns:
    """Rows of several parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
