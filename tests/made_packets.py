"""Alert packets as surveys send them, of made-up images, written by fastavro and pyarrow."""

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import NDArray

SIDE, SKY, NOISE, SEEING = 63, 300.0, 8.0, 2.2
NAMES = ("Science", "Template", "Difference")

_CUTOUT = {
    "type": "record",
    "name": "cutout",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
#: Types of what a ZTF candidate says.
_CANDIDATE = {
    "jd": "double", "fid": "int", "pid": "long", "rcid": "int", "field": "int",
    "xpos": "float", "ypos": "float", "ra": "double", "dec": "double",
    "magpsf": "float", "fwhm": "float", "scorr": "double", "rb": "float",
    "drb": "float", "ssdistnr": "float", "magzpsci": "float", "isdiffpos": "string",
}  # fmt: skip


def image(seed: int, peak: float = 0.0, level: float = SKY, side: int = SIDE) -> NDArray[np.float32]:
    """Noise on a sky, and a star in the middle."""
    y, x = np.mgrid[:side, :side] - side // 2
    star = peak * np.exp(-0.5 * (x**2 + y**2) / (SEEING / 2.355) ** 2)
    return (level + star + np.random.default_rng(seed).normal(0, NOISE, (side, side))).astype(np.float32)


def fits_bytes(*images: Any, names: Sequence[str] = (), place: tuple[float, float] | None = None) -> bytes:
    """A FITS file of images, the first in the primary HDU; `place` (x, y) is that of the WCS."""
    header = fits.Header() if place is None else fits.Header({"CRPIX1": place[0] + 1, "CRPIX2": place[1] + 1})
    hdus = [fits.PrimaryHDU(images[0], header)]
    hdus += [fits.ImageHDU(one, name=name) for one, name in zip(images[1:], names, strict=True)]
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    return content.getvalue()


def ztf(candid: int, images: Sequence[Any] | None = None, name: str = "", **said: Any) -> dict[str, Any]:
    """A ZTF packet; the difference is as it is sent, positive whatever the alert's sign."""
    if images is None:
        images = image(3 * candid, 200), image(3 * candid + 1), image(3 * candid + 2, 200, 0)
    told = {
        "jd": 2460235.6, "fid": 2, "pid": 7, "rcid": 3, "field": 400, "xpos": 1500.0, "ypos": 1500.0,
        "ra": 20.0, "dec": 10.0, "magpsf": 18.0, "fwhm": SEEING, "scorr": 25.0, "rb": 0.9, "drb": 0.99,
        "ssdistnr": -999.0, "magzpsci": 26.2, "isdiffpos": "t", **said,
    }  # fmt: skip
    record = {"objectId": name or f"ZTF{candid}", "candid": candid, "candidate": told}
    for one, pixels in zip(NAMES, images, strict=True):
        packed = gzip.compress(fits_bytes(pixels), 1)
        record[f"cutout{one}"] = {"fileName": f"{candid}.fits.gz", "stampData": packed}
    return record


def lsst(candid: int, images: Sequence[Any], place: tuple[float, float], **said: Any) -> dict[str, Any]:
    """A packet of the LSST pipelines; cutouts have variance and PSF."""
    told = {
        "diaSourceId": candid, "diaObjectId": candid + 1, "visit": 5, "detector": 2,
        "midpointMjdTai": 60000.5, "ra": 20.0, "dec": 10.0,
        "psfFlux": -300.0, "psfFluxErr": 30.0, "isNegative": True, "band": "g",
        "reliability": 0.25, **said,
    }  # fmt: skip
    record: dict[str, Any] = {"diaSourceId": candid, "diaSource": told}
    for one, pixels in zip(NAMES, images, strict=True):
        extra = np.full_like(pixels, NOISE**2), np.full((21, 19), 1 / 399)
        record[f"cutout{one}"] = fits_bytes(pixels, *extra, names=("UNCERT", "PSFIMAGE"), place=place)
    return record


def schema_of(record: Mapping[str, Any]) -> Any:
    """Avro schema that a ZTF packet of these fields has; every number of the candidate may be null."""
    told = [{"name": name, "type": ["null", _CANDIDATE.get(name, "string")]} for name in record["candidate"]]
    fields: list[dict[str, Any]] = [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": ["null", "long", "double"]},
        {"name": "candidate", "type": {"type": "record", "name": "candidate", "fields": told}},
    ]
    cutouts = [name for name in record if name.startswith("cutout")]
    for number, name in enumerate(cutouts):
        kind: Any = "ztf.cutout" if number else _CUTOUT
        fields.append({"name": name, "type": ["null", kind]})
    return {"type": "record", "name": "alert", "namespace": "ztf", "fields": fields}


def avro(records: Sequence[Mapping[str, Any]], codec: str = "null", schema: Any = None) -> bytes:
    """An Avro file; one block a packet, so that what is cut short loses the last ones alone."""
    content = io.BytesIO()
    parsed = fastavro.parse_schema(schema or schema_of(records[0]))
    fastavro.writer(content, parsed, records, codec=codec, sync_interval=1)
    return content.getvalue()


def write(path: Path, records: Sequence[Mapping[str, Any]], codec: str = "null") -> Path:
    """Write packets to ``*.avro`` or ``*.parquet``."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(one) for one in records]), path)
    else:
        path.write_bytes(avro(records, codec))
    return path
