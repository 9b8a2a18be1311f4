"""The stamp that a model sees of an alert packet: the same for a sample to train on as for one to score.

A packet tells neither sky nor noise. Both are measured on its own pixels, sources left out, plane by plane,
so that planes are in units of their noise as those of any sample are. There is no S_corr in a packet: its
plane is absent, or, for models that never learned to do without, stood for by the filtered difference.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.formats.packets import Packet
from astrid_dist.imaging.masks import source_free
from astrid_dist.store.quantise import quantise
from astrid_dist.store.sample_layout import PLANES, STAMP

Float32 = NDArray[np.float32]

ScorePlane = Literal["absent", "filtered"]

#: Planes that a packet has.
PACKET_PLANES = PLANES[:3]
#: Seeing where a packet tells none, and the range in which it is believed: that of a candidate, pixels.
_FWHM, _SHARPEST, _WIDEST = 2.0, 1.5, 6.0
#: Least share of a stamp that must be quiet for its noise to be told from it, and rounds of masking.
_QUIET, _ROUNDS = 0.1, 4


@dataclass(frozen=True, eq=False)
class PacketStamp:
    """What is cut from a packet."""

    pixels: NDArray[np.float16]
    """(plane, v, u) noise sigmas of `planes_of`, rounded as samples are; alert in the middle."""
    sigma: Float32
    """(3,) noise that science, template and difference were divided by, in units of the packet."""


def planes_of(score: ScorePlane) -> tuple[str, ...]:
    """Planes of a packet's stamp."""
    return PLANES if score == "filtered" else PACKET_PLANES


def problem(packet: Packet) -> str:
    """Why a packet cannot be looked at; empty if it can."""
    difference = packet.difference.image
    good = difference[np.isfinite(difference)]
    if not good.size:
        return "no pixel of the difference has data"
    if good.min() == good.max():
        return f"the difference is {good[0]:g} everywhere"
    return ""


def stamp_of(packet: Packet, score: ScorePlane = "absent") -> PacketStamp:
    """Sky taken away, divided by the noise, and put into a stamp with the alert in its middle.

    What lies beyond the cutout is NaN; a plane without any noise to measure is NaN whole. ``filtered`` adds
    the score of a matched filter: without the noise of sources and of registration that S_corr allows for.
    """
    fwhm = packet.fwhm if np.isfinite(packet.fwhm) else _FWHM
    fwhm = min(max(fwhm, _SHARPEST), _WIDEST)
    stamp = np.full((len(planes_of(score)), STAMP, STAMP), np.nan, np.float32)
    sigmas = np.full(len(PACKET_PLANES), np.nan, np.float32)
    for plane, name in enumerate(PACKET_PLANES):
        image = getattr(packet, name).image
        level, sigma = sky_of(image, fwhm)
        if sigma > 0:
            sigmas[plane] = sigma
            _place((image - np.float32(level)) / np.float32(sigma), packet.place, stamp[plane])
    if score == "filtered":
        stamp[3] = _filtered(stamp[2], _FWHM if packet.science.psf is None else fwhm)
    return PacketStamp(quantise(stamp), sigmas)


def _filtered(difference: Float32, fwhm_px: float) -> Float32:
    """Matched filter by a round Gaussian, in units of its own noise where pixels are independent."""
    point = np.zeros((STAMP, STAMP))
    point[STAMP // 2, STAMP // 2] = 1
    width = fwhm_px / 2.3548
    norm = np.sqrt(np.square(ndimage.gaussian_filter(point, width)).sum())
    known = np.isfinite(difference)
    score = ndimage.gaussian_filter(np.where(known, difference, 0), width) / norm
    return np.where(known, score, np.nan).astype(np.float32)


def sky_of(image: Float32, fwhm_px: float) -> tuple[float, float]:
    """Level and noise of a small image: median and median absolute deviation of its source-free pixels.

    Sources of either sign are left out, in rounds. Where nearly nothing is left, as beside a bright star, the
    lower half of all pixels tells. (NaN, NaN) without data.
    """
    values = image[np.isfinite(image)]
    if not values.size:
        return float("nan"), float("nan")
    low, level = np.percentile(values, [15.87, 50])
    sigma = level - low
    for _ in range(_ROUNDS):
        if not sigma > 0:
            break
        above = (image - np.float32(level)).astype(np.float32)
        quiet = source_free(above, sigma, fwhm_px) & source_free(-above, sigma, fwhm_px)
        if np.count_nonzero(quiet) < _QUIET * values.size:
            break
        level, sigma = _robust(image[quiet])
    return float(level), float(sigma)


def _robust(values: Float32) -> tuple[float, float]:
    level = float(np.median(values))
    return level, 1.4826 * float(np.median(np.abs(values - level)))


def _place(image: Float32, place: tuple[int, int], stamp: Float32) -> None:
    """Copy an image into a stamp so that its pixel `place` (column, row) is the middle one."""
    half = STAMP // 2
    into, of = [], []
    for length, middle in zip(image.shape, place[::-1], strict=True):
        first, last = max(middle - half, 0), min(middle + half + 1, length)
        of.append(slice(first, last))
        into.append(slice(first - middle + half, last - middle + half))
    stamp[tuple(into)] = image[tuple(of)]
