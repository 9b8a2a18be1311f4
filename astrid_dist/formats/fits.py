"""FITS frames in: plain, gzipped, tile compressed, multi-extension, local or behind a URL.

`probe` reads what planning needs (header and a hash of the pixels); `read_frame` and `read_frames` give
calibrated frames. Everything wrong with a file ends as one `InputError` that says what, where and what to do.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, NoConvergence, SingularMatrixError
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.formats.files import exists, opened, quiet_headers
from astrid_dist.formats.planes import (
    Image,
    Mask,
    quality_flags,
    sky_is_gone,
    variance_from_gain,
    variance_from_weight,
)
from astrid_dist.imaging.gain import estimate_gain
from astrid_dist.surveys.headers import Facts, missing_gain, read_facts
from astrid_dist.surveys.profile import Profile


@dataclass(frozen=True)
class FrameProbe:
    """What planning knows of one frame; `problem` says why it cannot become an epoch."""

    source: str
    hdu: int
    order: int
    shape: tuple[int, int]
    epoch_id: str
    blank: bool
    wcs_header: str
    facts: Facts | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One calibrated exposure: image and variance in electrons, flags, and the header's numbers.

    `has_quality` says whether a quality plane told what is bad; else the mask knows saturation and NaN alone.
    """

    image: Image
    variance: Image
    mask: Mask
    header: fits.Header
    wcs: WCS | None
    source: str
    epoch_id: str
    facts: Facts
    sky_subtracted: bool
    has_quality: bool = False


def probe(path: str | os.PathLike[str], profile: Profile) -> list[FrameProbe]:
    """Header facts and pixel hash of every image in a file.

    Raises
    ------
    InputError
        The file cannot be read as FITS or holds no image. What is wrong with one frame of several is in its
        `problem`.
    """
    source = os.fspath(path)
    probes = []
    with opened(source) as hdus:
        for order, index in enumerate(_images(hdus, source, profile)):
            header = _header(hdus, index)
            pixels, facts, problem = _pixels(hdus, index, source), None, ""
            try:
                _check_size(pixels, f"{source}[{index}]", profile)
                facts = _facts(header, f"{source}[{index}]", profile)
            except InputError as error:
                problem = str(error)
            finite = pixels[np.isfinite(pixels)]
            probes.append(
                FrameProbe(
                    source=source,
                    hdu=index,
                    order=order,
                    shape=(pixels.shape[0], pixels.shape[1]),
                    epoch_id=epoch_id(pixels),
                    blank=finite.size == 0 or bool(finite.min() == finite.max()),
                    wcs_header=wcs_header(header),
                    facts=facts,
                    problem=problem,
                )
            )
    return probes


def read_frames(path: str | os.PathLike[str], profile: Profile) -> Iterator[Frame]:
    """Every image of a file, calibrated, in the order of its extensions."""
    source = os.fspath(path)
    with opened(source) as hdus:
        indices = _images(hdus, source, profile)
    for index in indices:
        yield read_frame(source, index, profile)


def read_frame(path: str | os.PathLike[str], hdu: int, profile: Profile) -> Frame:
    """Read one image extension and calibrate it to electrons with variance and flags.

    A gain that neither header nor profile says is measured from the noise of the sky.

    Parameters
    ----------
    path : str
        Local path or URL that fsspec understands.
    hdu : int
        Index of the extension.
    profile : Profile

    Raises
    ------
    InputError
        Nothing there, not FITS, cut short, no such image, too small, all NaN or constant, a keyword missing,
        a gain that the pixels do not tell either, or a weight or quality plane of another shape.
    """
    source = os.fspath(path)
    where = f"{source}[{hdu}]"
    with opened(source) as hdus:
        if hdu >= len(hdus):
            raise InputError(f"{source} has {len(hdus)} extensions, so none with index {hdu}")
        header = _header(hdus, hdu)
        raw = _pixels(hdus, hdu, source)
        planes = _planes_inside(hdus, hdu, source, profile, raw.shape)
    _check_size(raw, where, profile)
    facts = _facts(header, where, profile)
    planes = {**_planes_beside(source, hdu, header, profile, raw.shape), **planes}
    finite = np.isfinite(raw)
    if not finite.any():
        raise InputError(f"{where}: every pixel is NaN or infinite; leave the frame out or reduce it again")
    if raw[finite].min() == raw[finite].max():
        raise InputError(
            f"{where}: every pixel has the value {raw[finite].flat[0]}; the frame holds no sky, leave it out"
        )
    mask = np.where(finite, 0, Flag.NO_DATA).astype(np.uint16)
    if "quality" in planes:
        mask |= quality_flags(planes["quality"][0], header, profile.planes)
    if isnan(facts.gain):
        facts = _with_gain(raw, mask, header, where, profile)
    image = np.ascontiguousarray(raw, dtype=np.float32) * np.float32(facts.scale)
    mask[finite & (image >= facts.saturation_electron)] |= np.uint16(Flag.SATURATED)
    unusable = (mask & np.uint16(UNUSABLE)) > 0
    if unusable.all():
        raise InputError(f"{where}: no pixel is usable: its quality plane flags every one")
    gone = profile.sky_subtracted == "yes" or (
        profile.sky_subtracted == "auto" and sky_is_gone(image, unusable, facts.read_noise)
    )
    variance = variance_from_gain(image, unusable, facts.read_noise, gone)
    if "weight" in planes:
        plane, kind = planes["weight"]
        noise = profile.planes.weight_noise
        variance, mask = variance_from_weight(plane, kind, noise, image, facts.scale, variance, mask)
    empty = (mask & np.uint16(Flag.NO_DATA)) > 0
    image[empty] = variance[empty] = np.nan
    return Frame(
        image,
        variance,
        mask,
        header,
        _wcs(header),
        where,
        epoch_id(raw),
        facts,
        gone,
        has_quality="quality" in planes,
    )


def epoch_id(pixels: NDArray[Any]) -> str:
    """sha256 over shape, dtype and little-endian pixels as stored: the identity of an exposure.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.arange(6, dtype=">f4").reshape(2, 3)
    >>> epoch_id(a) == epoch_id(a.astype("<f4")), epoch_id(a) == epoch_id(a.T)
    (True, False)
    """
    little = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{little.shape}{little.dtype.str}".encode())
    digest.update(little.tobytes())
    return digest.hexdigest()


def wcs_header(header: Mapping[str, Any]) -> str:
    """The header's celestial WCS as a FITS header string, empty where it has none."""
    wcs = _wcs(header)
    with quiet_headers():
        return "" if wcs is None else str(wcs.to_header_string(relax=True))


def read_wcs(header: str) -> WCS | None:
    """The WCS of `wcs_header`'s string."""
    with quiet_headers():
        return WCS(fits.Header.fromstring(header)) if header else None


def _wcs(header: Mapping[str, Any]) -> WCS | None:
    with quiet_headers():
        try:
            wcs = WCS(header)
        except (ValueError, SingularMatrixError, NoConvergence, MemoryError):
            return None
        return wcs.celestial if wcs.has_celestial else None


def _images(hdus: fits.HDUList, source: str, profile: Profile) -> list[int]:
    """Indices of the two-dimensional images that are not weight or quality planes."""
    planes = {*profile.planes.weight_extensions, *profile.planes.quality_extensions}
    found = [
        index
        for index, hdu in enumerate(hdus)
        if hdu.is_image and hdu.header.get("NAXIS") == 2 and hdu.name.upper() not in planes
    ]
    if not found:
        kinds = ", ".join(f"{i} {type(h).__name__} NAXIS={h.header.get('NAXIS')}" for i, h in enumerate(hdus))
        raise InputError(
            f"{source} holds no two-dimensional image (extensions: {kinds or 'none'}); leave it out"
        )
    return found


def _header(hdus: fits.HDUList, index: int) -> fits.Header:
    """An extension's header on top of the primary header's keywords."""
    own = hdus[index].header
    if index == 0:
        return own.copy()
    header = hdus[0].header.copy()
    for keyword in ("", "COMMENT", "HISTORY", "CHECKSUM", "DATASUM", "EXTEND", "SIMPLE", "NEXTEND"):
        header.remove(keyword, ignore_missing=True, remove_all=True)
    header.update(own)
    return header


def _pixels(hdus: fits.HDUList, index: int, source: str) -> NDArray[Any]:
    data = hdus[index].data
    if data is None or data.ndim != 2:
        raise InputError(f"{source}[{index}] is not a two-dimensional image; leave it out")
    return np.asarray(data)


def _facts(header: fits.Header, where: str, profile: Profile, gain: float | None = None) -> Facts:
    try:
        return read_facts(header, profile, gain)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _with_gain(raw: NDArray[Any], mask: Mask, header: fits.Header, where: str, profile: Profile) -> Facts:
    """The header's numbers with the gain that the pixels tell."""
    counts = _facts(header, where, profile, 1.0)  # a gain of one: its "electrons" are counts
    image = np.asarray(raw, np.float32) * np.float32(counts.scale)
    unusable = (mask > 0) | ~(image < counts.saturation_electron)
    try:
        gain = estimate_gain(image, unusable, counts.read_noise)
    except InputError as error:
        raise InputError(f"{where}: {missing_gain(header, profile, str(error))}") from error
    facts = _facts(header, where, profile, gain.value)
    return replace(facts, notes=(*facts.notes, str(gain)))


def _check_size(pixels: NDArray[Any], where: str, profile: Profile) -> None:
    if min(pixels.shape) < profile.minimum_size:
        height, width = pixels.shape
        raise InputError(
            f"{where} is {height}x{width} pixels; the profile {profile.name} wants at least "
            f"{profile.minimum_size} on the shorter side (minimum_size)"
        )


def _planes_inside(
    hdus: fits.HDUList, index: int, source: str, profile: Profile, shape: tuple[int, ...]
) -> dict[str, tuple[NDArray[Any], str]]:
    """Weight and quality extensions of image `index`: those of its EXTVER, or all if it is alone."""
    planes = profile.planes
    found: dict[str, tuple[NDArray[Any], str]] = {}
    alone = len(_images(hdus, source, profile)) == 1
    for number, hdu in enumerate(hdus):
        name = hdu.name.upper()
        role = (
            "weight"
            if name in planes.weight_extensions
            else "quality"
            if name in planes.quality_extensions
            else ""
        )
        if not role or not hdu.is_image or (not alone and hdu.ver != hdus[index].ver) or role in found:
            continue
        plane = _pixels(hdus, number, source)
        _same_shape(plane, shape, f"{source}[{name}]", f"{source}[{index}]")
        found[role] = (plane, planes.weight_extensions.get(name, ""))
    return found


def _planes_beside(
    source: str, index: int, header: fits.Header, profile: Profile, shape: tuple[int, ...]
) -> dict[str, tuple[NDArray[Any], str]]:
    """Weight and quality planes in files of their own, where those exist."""
    planes = profile.planes
    found: dict[str, tuple[NDArray[Any], str]] = {}
    folder, slash, name = source.rpartition("/")
    if not planes.image_name or planes.image_name not in name:
        return found
    for role, part in (("weight", planes.weight_name), ("quality", planes.quality_name)):
        path = f"{folder}{slash}{name.replace(planes.image_name, part)}"
        if not part or not exists(path):
            continue
        with opened(path) as hdus:
            names = [hdu.name.upper() for hdu in hdus]
            own = str(header.get("EXTNAME", "")).strip().upper()
            number = names.index(own) if own and own in names else index
            if number >= len(hdus):
                raise InputError(f"{path} has no extension {own or index} to go with {source}[{index}]")
            plane = _pixels(hdus, number, path)
        _same_shape(plane, shape, f"{path}[{number}]", f"{source}[{index}]")
        found[role] = (plane, planes.weight_kind)
    return found


def _same_shape(plane: NDArray[Any], shape: tuple[int, ...], where: str, image: str) -> None:
    if plane.shape != shape:
        raise InputError(
            f"{where} is {plane.shape[0]}x{plane.shape[1]} pixels but {image} is {shape[0]}x{shape[1]}; "
            "they belong to different frames: fetch both again"
        )
