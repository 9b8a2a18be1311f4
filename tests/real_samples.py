"""Real detections of known kind beside synthetic: ``python -m tests.real_samples SAMPLES.zarr SHEET.png``.

Labels are those that came with the data: known asteroids of ZTF, flags of the LSST pipeline on Subaru images,
the quality planes of DECam. Where only a model judged an alert, the row says so.
"""

import gzip
import sys
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.figures.canvas import png
from astrid_dist.figures.samples import Row, contact_sheet, in_sigmas
from astrid_dist.imaging import zogy
from astrid_dist.query.samples import open_samples
from astrid_dist.stages.sample_table import find_examples, sample_table
from tests.hsc import Cutout, packets

Stamps = NDArray[np.float64]

ASTEROID = "ZTF: known asteroids"
SHARP = "ZTF, one exposure: drb (a model) < 0.1"
SORTS = "ZTF, many exposures: drb (a model) < 0.1"
DIPOLE = "Subaru: flagged dipole"
PARTICLE = "Subaru: flagged cosmic ray"
TRACK = "DECam: cosmic rays of the quality plane"
#: Rows of the sheet: what the real ones are, and the kind that stands beside them.
PAIRS = (
    (ASTEROID, "asteroid"),
    (DIPOLE, "misregistration"),
    (TRACK, "cosmic-ray track"),
    (PARTICLE, "cosmic-ray worm"),
    (SHARP, "hot pixel"),
    (SORTS, "bad column"),
)
SIDE, HALF = 63, 31
_DECAM_COSMIC_RAY = 5


def real_rows(realdata: Path, most: int) -> dict[str, Stamps]:
    """(n, planes, v, u) stamps by the names of `PAIRS`, in units of their own noise; at most so many each."""
    one, many = (
        list(found) for found in (local_packets(realdata), archived(realdata / "ztf_fink_topics_2023_2025"))
    )
    subaru = list(packets(realdata))
    chosen: dict[str, Iterator[Stamps | None]] = {
        ASTEROID: (ztf_stamp(packet) for packet in many if is_asteroid(packet)),
        SHARP: (ztf_stamp(packet) for packet in one if drb(packet) < 0.1),
        SORTS: (ztf_stamp(packet) for packet in many if drb(packet) < 0.1),
        DIPOLE: (hsc_stamp(packet) for packet in subaru if packet["diaSource"]["isDipole"]),
        PARTICLE: (hsc_stamp(packet) for packet in subaru if packet["diaSource"]["pixelFlags_cr"]),
        TRACK: decam_tracks(realdata),
    }
    return {
        name: np.array(list(islice((one for one in stamps if one is not None), most)))
        for name, stamps in chosen.items()
    }


def local_packets(realdata: Path) -> Iterator[Mapping[str, Any]]:
    """Alerts of one bright exposure, most of them bogus."""
    for path in sorted((realdata / "ztf_fink_local_20200101" / "alerts").glob("*.avro")):
        with path.open("rb") as stream:
            yield from fastavro.reader(stream)  # type: ignore[misc]


def archived(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Alerts of an archive, read as it lies."""
    with tarfile.open(folder / "alerts.tar.xz") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield from fastavro.reader(stream)  # type: ignore[misc]


def drb(packet: Mapping[str, Any]) -> float:
    """Score of ZTF's model; 1 where there is none."""
    value = packet["candidate"].get("drb")
    return 1.0 if value is None else float(value)


def is_asteroid(packet: Mapping[str, Any]) -> bool:
    """Whether a known body of the Solar System is within 5 arcsec."""
    distance = packet["candidate"]["ssdistnr"]
    return distance is not None and 0 <= distance < 5


def decam_tracks(realdata: Path) -> Iterator[Stamps]:
    """What the quality planes of single DECam epochs call a cosmic ray: science alone."""
    for path in sorted((realdata / "decam_epochs").rglob("*_ood_*")):
        with fits.open(path) as quality, fits.open(str(path).replace("_ood_", "_ooi_")) as image:
            hit = quality[1].data == _DECAM_COSMIC_RAY
            plane = np.pad(in_sigmas(image[1].data), HALF, constant_values=np.nan)
        tracks, n = ndimage.label(hit, np.ones((3, 3)))
        for y, x in ndimage.center_of_mass(hit, tracks, range(1, n + 1)):
            yield plane[None, round(y) : round(y) + SIDE, round(x) : round(x) + SIDE]


def ztf_stamp(packet: Mapping[str, Any]) -> Stamps | None:
    """Science, template and difference (science minus template); None at a chip's edge."""
    planes = []
    for name in ("Science", "Template", "Difference"):
        with fits.open(BytesIO(gzip.decompress(packet[f"cutout{name}"]["stampData"]))) as hdus:
            planes.append(in_sigmas(hdus[0].data.astype(np.float64)))
    if any(plane.shape != (SIDE, SIDE) for plane in planes):
        return None
    planes[2] *= 1 if packet["candidate"]["isdiffpos"] in ("t", "1") else -1
    return np.array(planes)


def hsc_stamp(packet: Mapping[str, Any]) -> Stamps:
    """The four planes of a packet subtracted anew, the alert in the middle of as many pixels as ZTF has."""
    new, ref = (Cutout.read(packet[f"cutout{name}"]) for name in ("Science", "Template"))
    side = max(*new.psf.shape, *ref.psf.shape) | 1
    plan = zogy.plan_subtraction(
        new.boxed(side), ref.boxed(side), new.sigma, ref.sigma, 1.0, shape=new.image.shape
    )
    made = zogy.subtract(new.image, ref.image, new.variance, ref.variance, plan)
    planes = np.full((4, SIDE, SIDE), np.nan)
    x, y = (round(place) for place in new.place)
    cut = (slice(max(y - SIDE // 2, 0), y + SIDE // 2 + 1), slice(max(x - SIDE // 2, 0), x + SIDE // 2 + 1))
    values = (
        new.image / new.sigma,
        ref.image / ref.sigma,
        in_sigmas(made.difference),
        made.score.astype(np.float64),
    )
    for plane, value in zip(planes, values, strict=True):
        part = value[cut]
        top, left = cut[0].start - y + SIDE // 2, cut[1].start - x + SIDE // 2
        plane[top : top + part.shape[0], left : left + part.shape[1]] = part
    return planes


def synthetic_rows(url: str, most: int) -> dict[str, tuple[Stamps, Stamps, list[str]]]:
    """Stamps, targets and captions of detected samples by kind."""
    product = open_samples(url)
    table = sample_table(product, lambda said: None)
    wanted = [kind for _, kind in PAIRS]
    table["injectable"] &= table["kind"].isin(wanted) & (table["peak"].abs() >= 5)
    found = find_examples(product, table, most, lambda said: None)
    rows = {}
    for kind, examples in found.items():
        captions = [f"S_corr {table['peak'].iloc[one.index]:+.1f}" for one in examples]
        planes = np.array([one.planes.astype(np.float64) for one in examples])
        rows[kind] = (planes, np.array([one.target for one in examples]), captions)
    return rows


def sharpness(plane: Stamps) -> float:
    """Largest value within four pixels of the middle over the mean of its eight neighbours."""
    height, width = plane.shape
    core = plane[height // 2 - 4 : height // 2 + 5, width // 2 - 4 : width // 2 + 5]
    y, x = np.unravel_index(np.nanargmax(core), core.shape)
    y, x = int(y) + height // 2 - 4, int(x) + width // 2 - 4
    around = plane[y - 1 : y + 2, x - 1 : x + 2]
    return float(plane[y, x] * 8 / (np.nansum(around) - plane[y, x]))


def opposite(difference: Stamps, reach: int = 6) -> float:
    """Of the largest positive and the largest negative value near the middle, the smaller over the larger."""
    height, width = difference.shape
    core = difference[
        height // 2 - reach : height // 2 + reach + 1, width // 2 - reach : width // 2 + reach + 1
    ]
    high, low = np.nanmax(core), -np.nanmin(core)
    return float(min(high, low) / max(high, low))


def sheet(realdata: Path, url: str, most: int = 6) -> bytes:
    """PNG of real rows, each with the synthetic one below it."""
    real, made = real_rows(realdata, most), synthetic_rows(url, most)
    rows = []
    for name, kind in PAIRS:
        rows.append(Row(f"real, {name}", real[name]))
        planes, target, captions = made[kind]
        rows.append(Row(f"synthetic, {kind}", planes, target, captions))
    figure = contact_sheet(rows, most, 16.0)
    figure.patch.set_alpha(1.0)
    return png(figure, dpi=110)


if __name__ == "__main__":
    from tests.conftest import PROJECT

    Path(sys.argv[2]).write_bytes(sheet(PROJECT.parent / "shared" / "realdata", sys.argv[1]))
