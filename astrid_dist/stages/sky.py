"""Sky, seeing and stars of one image: its own pixels, or those it has on the field's grid."""

from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.formats.fits import Frame
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.resampling import Grid
from astrid_dist.imaging.stars import StarList, estimate_fwhm, measure_stars
from astrid_dist.store.layouts import MESH_BOX, STARS
from astrid_dist.surveys.profile import Profile

#: Side of the part of a frame in which the seeing is looked for first.
_MIDDLE_PX = 1024


@dataclass(frozen=True)
class Sky:
    """What was measured on one image: mesh of the sky and its noise, the image without it, seeing, stars."""

    mesh: NDArray[np.float32]
    rms: NDArray[np.float32]
    signal: NDArray[np.float32]
    fwhm_px: float
    stars: StarList

    @property
    def level(self) -> float:
        """Median sky, electrons."""
        return float(np.median(self.mesh))


def measure_sky(
    frame: Frame, image: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any], guess_px: float
) -> Sky:
    """Sky, seeing and stars of a frame's planes, its own or as resampled.

    Parameters
    ----------
    frame : Frame
        Whose saturation and header's seeing count.
    image, variance, mask : (y, x)
        Electrons, electrons squared, bits of `Flag`.
    guess_px : float
        FWHM to start from where the header has none.
    """
    mesh, rms = measure_background(image, mask, MESH_BOX)
    signal = image - evaluate(mesh, MESH_BOX, 0, 0, *image.shape)
    fwhm_px = seeing(signal, variance, mask, frame.facts.fwhm_px or guess_px)
    full = frame.facts.saturation_electron - float(np.median(mesh))
    saturation = full if 0 < full < np.inf else None
    stars = measure_stars(signal, variance, mask, fwhm_px, limit=STARS, saturation=saturation)
    return Sky(mesh, rms, signal, fwhm_px, stars)


def seeing(signal: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any], guess_px: float) -> float:
    """FWHM from the middle of a frame, which is sooner searched; where it has no stars, from all of it."""
    window = tuple(slice(max(0, (side - _MIDDLE_PX) // 2), (side + _MIDDLE_PX) // 2) for side in signal.shape)
    width = estimate_fwhm(signal[window], variance[window], mask[window], guess_px)
    if width != guess_px or max(signal.shape) <= _MIDDLE_PX:
        return width
    return estimate_fwhm(signal, variance, mask, guess_px)


def guessed_fwhm(profile: Profile, grid: Grid | None = None) -> float:
    """The profile's typical seeing in pixels of a grid."""
    scale = grid.pixel_scale_arcsec if grid is not None else float("nan")
    return profile.seeing_arcsec.typical / (profile.pixel_scale_arcsec if isnan(scale) else scale)
