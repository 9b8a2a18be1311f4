"""What a FITS header says, read through a profile: time, gain, noise, seeing, zero point, band, detector."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from astrid_dist.errors import InputError
from astrid_dist.surveys.profile import Profile

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


@dataclass(frozen=True)
class Facts:
    """One exposure's numbers, in the units that the package uses.

    `scale` is electrons per unit of the stored pixels; `zeropoint` the AB magnitude of one electron of this
    exposure (NaN if unknown); `mjd` is mid-exposure, UTC; `saturation_electron` is infinite where nothing
    says; `notes` says what had to be assumed. Where neither header nor profile has a gain it is NaN, and so
    is what follows from it, until it is measured; then `gain_estimated` is true.
    """

    mjd: float
    exptime: float
    gain: float
    read_noise: float
    scale: float
    saturation_electron: float
    zeropoint: float
    fwhm_px: float | None
    band: str
    ccd: str
    notes: tuple[str, ...] = ()
    gain_estimated: bool = False


def read_facts(header: Mapping[str, Any], profile: Profile, measured_gain: float | None = None) -> Facts:
    """Read everything that `ingest` needs to know of one frame.

    Parameters
    ----------
    header : mapping
        FITS header with the primary header's keywords inherited.
    profile : Profile
    measured_gain : float, optional
        Electrons per count, taken where neither header nor profile says.

    Raises
    ------
    InputError
        A keyword that cannot be done without is missing, unusable, or puts the exposure in the future.
    """
    words = profile.keywords
    notes: list[str] = []
    exptime = _first(header, [[word] for word in words.exptime]) or profile.exptime
    if exptime is None or exptime <= 0:
        raise _missing("exposure time", words.exptime, "exptime: <seconds>", profile, header)
    gain = _first(header, words.gain) or profile.gain
    unit = profile.unit if profile.unit != "auto" else _unit(header)
    estimated = gain is None and not unit.startswith("electron") and measured_gain is not None
    if gain is None:
        gain = 1.0 if unit.startswith("electron") else measured_gain or math.nan
    scale = (1.0 if unit.startswith("electron") else gain) * (exptime if unit.endswith("/s") else 1.0)
    read_noise = _first(header, words.read_noise)
    if read_noise is None:
        if profile.read_noise is None:
            names = [w for group in words.read_noise for w in group]
            raise _missing("read noise", names, "read_noise: <electron>", profile, header)
        read_noise = profile.read_noise
        notes.append(f"read noise {read_noise:g} e- assumed")
    saturation = _first(header, words.saturation, combine=min) or profile.saturation
    mjd, note = _middle(header, profile, exptime)
    return Facts(
        mjd=mjd,
        exptime=exptime,
        gain=gain,
        read_noise=read_noise,
        scale=scale,
        saturation_electron=saturation * scale if saturation else math.inf,
        zeropoint=_zeropoint(header, profile, scale, gain, exptime),
        fwhm_px=_fwhm(header, profile),
        band=_band(header, profile),
        ccd=_ccd(header, words.ccd),
        notes=(*notes, *note),
        gain_estimated=estimated,
    )


def missing_gain(header: Mapping[str, Any], profile: Profile, why: str) -> InputError:
    """What to say of a frame without a gain, where its pixels do not tell it either."""
    words = [word for group in profile.keywords.gain for word in group]
    said = _missing("gain", words, "gain: <electron per DN>", profile, header)
    return InputError(f"{said}; it could not be measured: {why}")


def number(header: Mapping[str, Any], keyword: str) -> float | None:
    """A keyword's finite number, or None: headers hold 'NaN' strings, blanks and undefined cards."""
    value = header.get(keyword)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def _first(header: Mapping[str, Any], groups: Sequence[Sequence[str]], combine: Any = None) -> float | None:
    for group in groups:
        values = [value for word in group if (value := number(header, word)) is not None and value > 0]
        if values:
            return float(combine(values)) if combine else math.fsum(values) / len(values)
    return None


def _missing(
    what: str, words: Sequence[str], key: str, profile: Profile, header: Mapping[str, Any]
) -> InputError:
    looked = ", ".join(words) or "no keyword"
    useless = [
        f"{word}={header[word]}"
        for word in words
        if isinstance(header.get(word), (int, float, str)) and str(header[word]).strip()
    ]
    fault = f"{', '.join(useless)} is no {what}; correct" if useless else ""
    fault = fault or f"no {what} in the header: looked for {looked}; add"
    return InputError(
        f"{fault} it, or say `{key}` or the keyword's name in a profile that `extends: {profile.origin}` and "
        "pass its path as survey"
    )


def _unit(header: Mapping[str, Any]) -> str:
    text = str(header.get("BUNIT", "")).strip().lower().replace(" ", "")
    per_second = "/s" if re.search(r"/s(ec(ond)?)?$|s-1$|s\*\*-1$|\.s\^?-1$", text) else ""
    return (
        "electron" if text.startswith(("e-", "elec", "e/", "photo")) or text == "e" else "DN"
    ) + per_second


def _middle(header: Mapping[str, Any], profile: Profile, exptime: float) -> tuple[float, list[str]]:
    """Mid-exposure MJD (UTC) of the first time keyword that can be read, and what had to be assumed."""
    date_only: tuple[float, str] | None = None
    for entry in profile.keywords.time:
        value = header.get(entry.keyword)
        if value is None or value == "":
            continue
        mjd, whole = _to_mjd(value, entry.keyword)
        if not whole:
            clock = next(
                (c for w in profile.keywords.time_of_day if (c := _clock(header.get(w))) is not None), None
            )
            if clock is None:
                date_only = date_only or (mjd + 0.5, f"time known to the day only ({entry.keyword}={value})")
                continue
            mjd += clock
        mjd += 0.5 * exptime / 86400.0 if entry.at == "start" else 0.0
        return _checked(_to_utc(mjd, header), f"{entry.keyword}={value}"), []
    if date_only is not None:
        return _checked(date_only[0], date_only[1], slack_days=1.0), [date_only[1]]
    names = [entry.keyword for entry in profile.keywords.time]
    raise _missing("time", names, "keywords: {time: [...]}", profile, header)


def _to_mjd(value: object, keyword: str) -> tuple[float, bool]:
    """MJD of a number (JD or MJD) or an ISO string, and whether it holds a time of day."""
    try:
        day = float(str(value))
    except ValueError:
        text = str(value).strip().rstrip("Z")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise InputError(
                f"{keyword}={value!r} is neither a Julian date nor YYYY-MM-DDThh:mm:ss"
            ) from error
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (moment - _MJD_EPOCH) / timedelta(days=1), len(text) > 10
    return (day - 2400000.5 if day > 2_000_000 else day), True


def _clock(value: object) -> float | None:
    """Fraction of a day of hh:mm:ss(.s), or None."""
    match = re.fullmatch(r"\s*(\d{1,2}):(\d{2}):(\d{2}(?:\.\d*)?)\s*", str(value))
    if match is None:
        return None
    hours, minutes, seconds = (float(part) for part in match.groups())
    return (hours + minutes / 60 + seconds / 3600) / 24


def _to_utc(mjd: float, header: Mapping[str, Any]) -> float:
    system = str(header.get("TIMESYS", "UTC")).strip().lower()
    if system not in {"tai", "tt", "tdb"}:
        return mjd
    from astropy.time import Time

    return float(Time(mjd, format="mjd", scale=system).utc.mjd)


def _checked(mjd: float, said: str, slack_days: float = 0.0) -> float:
    now = (datetime.now(UTC) - _MJD_EPOCH) / timedelta(days=1)
    if not math.isfinite(mjd) or mjd <= 0 or mjd > now + 0.01 + slack_days:
        # Nothing that changes from run to run: a frame refused before is known by its reason.
        raise InputError(
            f"the header's time {said} is MJD {mjd:.4f}, which is not between 1858 and now; correct it"
        )
    return mjd


def _zeropoint(
    header: Mapping[str, Any], profile: Profile, scale: float, gain: float, exptime: float
) -> float:
    """AB magnitude of one electron: fainter by 2.5 log10 n than that of a unit of n electrons."""
    electrons = {"image": scale, "DN/s": gain * exptime, "electron": 1.0, "electron/s": exptime}
    for entry in profile.keywords.zeropoint:
        value = number(header, entry.keyword)
        if value is not None and value != 0:
            return value + 2.5 * math.log10(electrons[entry.per])
    return math.nan


def _fwhm(header: Mapping[str, Any], profile: Profile) -> float | None:
    for entry in profile.keywords.fwhm:
        value = number(header, entry.keyword)
        if value is not None and value > 0:
            return value if entry.unit == "pixel" else value / profile.pixel_scale_arcsec
    return None


def _band(header: Mapping[str, Any], profile: Profile) -> str:
    for keyword in profile.keywords.band:
        text = str(header.get(keyword, "")).strip()
        for rule in profile.bands:
            match = re.search(rule.match, text)
            if match:
                return rule.band or (match.group(1) if match.groups() else match.group(0))
        if text and not profile.bands:
            return re.sub(r"[^A-Za-z0-9.+_-]", "_", text.split()[0])
    return ""


def _ccd(header: Mapping[str, Any], words: Sequence[str]) -> str:
    values = [number(header, word) for word in words]
    if not words or any(value is None for value in values):
        return ""
    if len(values) == 1:
        return f"ccd{int(values[0] or 0):02d}"
    prefix = {"FIELDID": "f", "CCDID": "c", "QID": "q"}
    return "".join(f"{prefix.get(w, '')}{int(v or 0):02d}" for w, v in zip(words, values, strict=True))
