"""Alert packets of ZTF (any schema) and of the LSST pipelines, as they were sent.

ZTF: Masci et al. 2019, PASP 131, 018003; cutouts are gzipped FITS in DN, sky included, without PSF, variance
and WCS. LSST pipelines: DMTN-093; cutouts are FITS in nJy with variance and PSF.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from astrid_dist.formats.cutouts import Cutout, Image, read_cutout, same_shape
from astrid_dist.formats.packet_files import Broken, packet_sources, records

_ZTF_BANDS = {1: "g", 2: "r", 3: "i"}
#: Side of a ZTF cutout, and columns of its chip, pixels.
_ZTF_SIDE, _ZTF_CHIP = 63, 3072
_JD_OF_MJD = 2400000.5
_CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")


@dataclass(frozen=True, eq=False)
class Packet:
    """One alert. What a schema lacks is None."""

    source: str
    """File, or archive and member."""
    survey: str
    """``ztf`` or ``lsst``: whose schema."""
    candid: int
    object_id: str
    field: int | None
    """Field of ZTF's grid."""
    rcid: int | None
    """CCD quadrant of ZTF, detector of LSST."""
    exposure: str
    """What all packets of one image share."""
    band: str
    jd: float
    """Of the exposure, UTC (ZTF) or TAI (LSST)."""
    magnitude: float
    """AB, PSF fit on the difference; NaN unknown."""
    snr: float | None
    """S_corr of its peak (ZTF), PSF flux over its error (LSST); signed."""
    positive: bool
    """Brighter than in the template: ZTF's isdiffpos."""
    drb: float | None
    """Deep real/bogus score, a model's."""
    rb: float | None
    """Random forest's real/bogus score, a model's."""
    reliability: float | None
    """LSST's score, a model's."""
    ssdistnr: float | None
    """To the nearest known body of the Solar System, arcsec; None where there is none near."""
    fwhm: float
    """Of the candidate, pixels; NaN unknown."""
    magzpsci: float
    """Magnitude of one DN in science; NaN unknown."""
    ra: float
    dec: float
    """Degrees, ICRS."""
    place: tuple[int, int]
    """Column and row of the cutouts' pixel that the alert lies in."""
    science: Cutout
    template: Cutout
    difference: Cutout
    """Science minus template. ZTF sends what has faded with its sign turned; here it is turned back."""

    @property
    def mjd(self) -> float:
        """Modified Julian date."""
        return self.jd - _JD_OF_MJD


@dataclass(frozen=True)
class Refused:
    """What is no packet, or one that cannot be used, and why."""

    source: str
    reason: str
    candid: int | None = None
    object_id: str = ""


def read_packets(paths: Iterable[str]) -> Iterator[Packet | Refused]:
    """Packets of files, folders, patterns and URLs, one after the other; what is damaged is set aside.

    Raises
    ------
    ConfigError
        A path stands for nothing; fastavro is not installed.
    """
    for source in packet_sources(paths):
        for _, one in read_source(source):
            yield one


def read_source(source: str, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Packet | Refused]]:
    """Packets of one file with their numbers in it.

    Parameters
    ----------
    source : str
        One of `packet_sources`.
    wanted : collection of int, optional
        Numbers; others are passed over, and reading ends with the last.
    """
    last = max(wanted, default=-1) if wanted is not None else None
    for number, one in enumerate(records(source)):
        if last is not None and number > last:
            return
        if wanted is None or number in wanted:
            yield number, (Refused(one.where, one.reason) if isinstance(one, Broken) else packet_of(*one))


def packet_of(source: str, record: Mapping[str, Any]) -> Packet | Refused:
    """The packet of a record, or why there is none."""
    candid, name = None, ""
    try:
        schema = next((one for one in _SCHEMAS if isinstance(record.get(one), Mapping)), None)
        if schema is None:
            keys = ", ".join(sorted(map(str, record))[:5]) or "nothing"
            return Refused(source, f"no alert packet: it has neither candidate nor diaSource, but {keys}")
        candid, name = _identity(record, record[schema])
        return _SCHEMAS[schema](source, candid, name, record, record[schema])
    except KeyError as error:
        return Refused(source, f"the packet has no {error.args[0]}", candid, name)
    except (ValueError, TypeError, OverflowError) as error:
        return Refused(source, str(error), candid, name)


def _identity(record: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[int, str]:
    """Number of the alert, which must be an integer (a float has lost digits), and name of its object."""
    candid = next(
        (one[key] for key in ("candid", "diaSourceId") for one in (record, told) if one.get(key) is not None),
        None,
    )
    if not isinstance(candid, int):
        raise ValueError(f"candid is {candid!r}: it must be an integer")
    name = record.get("objectId") or told.get("diaObjectId") or told.get("ssObjectId") or ""
    return candid, str(name)


def _ztf(source: str, candid: int, name: str, record: Mapping[str, Any], told: Mapping[str, Any]) -> Packet:
    positive = _sign(told["isdiffpos"])
    science, template, difference = (read_cutout(record, one) for one in _CUTOUTS)
    same_shape(science, template, difference)
    snr, distance = _number(told, "scorr"), _number(told, "ssdistnr")
    return Packet(
        source=source,
        survey="ztf",
        candid=candid,
        object_id=name,
        field=_integer(told, "field"),
        rcid=_integer(told, "rcid"),
        exposure=str(told.get("pid") or f"{told['jd']:.7f}/{told.get('rcid')}"),
        band=_ZTF_BANDS.get(told["fid"], str(told["fid"])),
        jd=_finite(told, "jd"),
        magnitude=_or_nan(_number(told, "magpsf")),
        snr=snr if snr is None or positive else -snr,
        positive=positive,
        drb=_number(told, "drb"),
        rb=_number(told, "rb"),
        reliability=None,
        ssdistnr=distance if distance is not None and distance >= 0 else None,
        fwhm=_or_nan(_number(told, "fwhm")),
        magzpsci=_or_nan(_number(told, "magzpsci")),
        ra=_finite(told, "ra"),
        dec=_finite(told, "dec"),
        place=_ztf_place(science.image.shape, _number(told, "xpos"), _number(told, "ypos")),
        science=science,
        template=template,
        difference=difference if positive else Cutout(-difference.image),
    )


def _ztf_place(shape: tuple[int, ...], xpos: float | None, ypos: float | None) -> tuple[int, int]:
    """Where the alert lies: in the middle, but for cutouts that the border of the chip cuts on one side.

    They lack rows or columns on the side of the border, so that the pixel is counted from the other one.
    """

    def along(length: int, position: float | None) -> int:
        half = _ZTF_SIDE // 2
        if length >= _ZTF_SIDE or position is None:
            return length // 2
        return max(length - 1 - half, 0) if position < _ZTF_CHIP / 2 else min(half, length - 1)

    return along(shape[1], xpos), along(shape[0], ypos)


def _lsst(source: str, candid: int, name: str, record: Mapping[str, Any], told: Mapping[str, Any]) -> Packet:
    places: list[tuple[int, int]] = []
    science, template, difference = (
        read_cutout(record, one, places.append)
        for one in ("cutoutScience", "cutoutTemplate", "cutoutDifference")
    )
    same_shape(science, template, difference)
    flux, error = _number(told, "psfFlux"), _number(told, "psfFluxErr")
    height, width = science.image.shape
    return Packet(
        source=source,
        survey="lsst",
        candid=candid,
        object_id=name,
        field=None,
        rcid=_integer(told, "detector"),
        exposure=f"{told.get('visit')}/{told.get('detector')}",
        band=str(told["band"]),
        jd=_finite(told, "midpointMjdTai") + _JD_OF_MJD,
        magnitude=31.4 - 2.5 * math.log10(abs(flux)) if flux else math.nan,  # AB of nJy
        snr=flux / error if flux is not None and error else None,
        positive=not told.get("isNegative") if told.get("isNegative") is not None else (flux or 0) >= 0,
        drb=None,
        rb=None,
        reliability=_number(told, "reliability"),
        ssdistnr=None,
        fwhm=_width(science.psf),
        magzpsci=31.4,
        ra=_finite(told, "ra"),
        dec=_finite(told, "dec"),
        place=places[0] if places else (width // 2, height // 2),
        science=science,
        template=template,
        difference=difference,
    )


_SCHEMAS: dict[str, Callable[..., Packet]] = {"candidate": _ztf, "diaSource": _lsst}


def _sign(said: Any) -> bool:
    """ZTF's isdiffpos: t or 1, f or 0."""
    if said in ("t", "1", 1, True):
        return True
    if said in ("f", "0", 0, False):
        return False
    raise ValueError(f"isdiffpos is {said!r}: it must be t, 1, f or 0")


def _number(told: Mapping[str, Any], name: str) -> float | None:
    """A finite number; None where there is none."""
    value = told.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _integer(told: Mapping[str, Any], name: str) -> int | None:
    value = told.get(name)
    return None if value is None else int(value)


def _finite(told: Mapping[str, Any], name: str) -> float:
    """A number without which there is no alert."""
    value = _number({name: told[name]}, name)
    if value is None:
        raise ValueError(f"{name} is {told[name]!r}: it must be a number")
    return value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _width(psf: Image | None) -> float:
    """Full width at half maximum of a PSF, from the pixels above half its peak; NaN without one."""
    return math.nan if psf is None else 2 * math.sqrt(np.count_nonzero(psf > psf.max() / 2) / math.pi)
