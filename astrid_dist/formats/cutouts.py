"""Images of alert packets: FITS bytes, gzipped or not, alone or with variance and PSF."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astrid_dist.formats.files import quiet_headers

Image = NDArray[np.float32]

#: Largest FITS file that a cutout may unpack to, bytes: 1024 x 1024 pixels with variance and PSF.
_LARGEST = 16 * 2**20
#: Beyond this there is no data: some templates of ZTF hold the largest float where nothing was observed.
_NO_DATA = 1e30


@dataclass(frozen=True, eq=False)
class Cutout:
    """One image of a packet, (y, x) float32; NaN is no data."""

    image: Image
    variance: Image | None = None
    """In units of the image squared."""
    psf: Image | None = None
    """Unit sum; sides differ and may be other than the image's."""


def read_cutout(
    record: Mapping[str, Any], name: str, found: Callable[[tuple[int, int]], None] | None = None
) -> Cutout:
    """The cutout of a packet by its name; `found` is told where the WCS puts the alert, if there is one.

    Raises
    ------
    ValueError
        It is missing, damaged, or no image.
    """
    data = record.get(name)
    if isinstance(data, Mapping):
        data = data.get("stampData")
    if not data:
        raise ValueError(f"{name} is missing")
    try:
        with quiet_headers(), fits.open(BytesIO(_inflated(bytes(data))), memmap=False) as hdus:
            planes = {hdu.name: hdu.data for hdu in hdus if hdu.data is not None}
            pixels, header = next(iter(planes.values())), hdus[0].header
            if found is not None and "CRPIX1" in header:
                found((round(header["CRPIX1"]) - 1, round(header["CRPIX2"]) - 1))
    except Exception as error:  # decoders of damaged bytes raise anything at all
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error})") from error
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise ValueError(f"{name} has the shape {pixels.shape}: it must be an image")
    image = _floats(pixels)
    image[np.abs(image) > _NO_DATA] = np.nan
    return Cutout(image, _floats(planes.get("UNCERT")), _floats(planes.get("PSFIMAGE")))


def _inflated(data: bytes) -> bytes:
    """What gzip packed, if it did; no more than a cutout can be."""
    if data[:2] != b"\x1f\x8b":
        return data
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    content = unpacker.decompress(data, _LARGEST)
    if not unpacker.eof:
        raise ValueError("the gzip stream is cut short, or unpacks to more than an image")
    return content


def _floats(values: Any) -> Any:
    """(y, x) float32 in the machine's byte order, or None."""
    return None if values is None else np.ascontiguousarray(values, np.float32)


def same_shape(*cutouts: Cutout) -> None:
    """Raise ValueError unless cutouts have one shape."""
    shapes = [one.image.shape for one in cutouts]
    if len(set(shapes)) > 1:
        raise ValueError(f"science, template and difference have the shapes {shapes}: they must be the same")
