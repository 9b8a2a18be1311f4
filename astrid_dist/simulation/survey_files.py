"""A mock exposure as the pipeline of a real survey would write it: unit of the pixels, keywords, bands."""

import re
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.mock import Exposure
from astrid_dist.surveys.profile import Profile

Cards = dict[str, tuple[Any, str]]


def as_written_by(profile: Profile, exposure: Exposure, band: str, gain: float) -> Exposure:
    """The same exposure with the keywords that a profile reads, in the unit that it expects.

    Parameters
    ----------
    profile : Profile
    exposure : Exposure
        In DN, with the keywords of a mock survey.
    band : str
    gain : float
        Electrons per DN.

    Raises
    ------
    ConfigError
        The profile's rules recognise no filter as that band, or it reads flux per second.
    """
    if profile.unit.endswith("/s"):
        raise ConfigError(f"survey {profile.name!r} holds flux per second, which a mock survey cannot write")
    header = exposure.header
    values = {name: header[name][0] for name in ("EXPTIME", "GAIN", "RDNOISE", "SATURATE", "FWHM", "MAGZERO")}
    in_electrons = profile.unit == "electron"
    scale = gain if in_electrons else 1.0
    words = profile.keywords
    cards: Cards = {}
    _set(cards, words.exptime[:1], values["EXPTIME"], "[s] exposure time")
    _set(cards, words.gain[0] if words.gain else [], values["GAIN"], "[electron/DN]")
    _set(cards, words.read_noise[0] if words.read_noise else [], values["RDNOISE"], "[electron] read noise")
    saturation = words.saturation[0] if words.saturation else []
    _set(cards, saturation, values["SATURATE"] * scale, "full well, unit of the pixels")
    for seeing in words.fwhm[:1]:
        in_pixels = seeing.unit == "pixel"
        width = values["FWHM"] * (1.0 if in_pixels else profile.pixel_scale_arcsec)
        _set(cards, [seeing.keyword], round(width, 3), f"[{seeing.unit}] seeing")
    # MAGZERO is of one DN of the whole exposure; that of another unit follows from its electrons
    seconds = values["EXPTIME"]
    electrons = {
        "image": 1.0 if in_electrons else gain,
        "DN/s": gain * seconds,
        "electron": 1.0,
        "electron/s": seconds,
    }
    for known in words.zeropoint[:1]:
        zeropoint = values["MAGZERO"] + 2.5 * np.log10(gain / electrons[known.per])
        _set(cards, [known.keyword], round(float(zeropoint), 4), f"[mag] AB magnitude of 1 {known.per}")
    _set(cards, words.band[:1], _filter_name(profile, band), "filter")
    if words.time:
        keyword = words.time[0].keyword
        moment = float(header["MJD-OBS"][0]) + (0.5 * seconds / 86400 if words.time[0].at == "mid" else 0.0)
        iso = (datetime(1858, 11, 17) + timedelta(days=moment)).isoformat(timespec="milliseconds")
        _set(cards, [keyword], iso if "DATE" in keyword else moment, f"UTC at the {words.time[0].at}")
    kept = {name: card for name, card in header.items() if name not in cards}
    unit = ("electron" if in_electrons else "DN", header["BUNIT"][1])
    counts = exposure.counts
    if in_electrons:
        counts = np.rint(exposure.counts * gain).astype(np.int32)
    return Exposure(counts, {**kept, **cards, "BUNIT": unit})


def _set(cards: Cards, keywords: list[str], value: Any, comment: str) -> None:
    """The value under each keyword; those that FITS proper cannot hold become HIERARCH cards."""
    for keyword in keywords:
        plain = re.fullmatch(r"[A-Z0-9_-]{1,8}", keyword)
        cards[keyword if plain else f"HIERARCH {keyword}"] = (value, comment)


def _filter_name(profile: Profile, band: str) -> str:
    """What the band keyword has to say for the profile's rules to read the band."""
    if not profile.bands:
        return band
    for name in (band, f"{profile.name.upper()}_{band}"):
        for rule in profile.bands:
            match = re.search(rule.match, name)
            if match and (rule.band or (match.group(1) if match.groups() else match.group(0))) == band:
                return name
    raise ConfigError(f"no filter name is read as band {band!r} by survey {profile.name!r}: see its `bands`")
