"""What artifacts and sources are put on: a window of a pair of images, and what is added to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid_dist.surveys.profile import Camera

Image = NDArray[np.float32]
Mask = NDArray[np.uint16]


@dataclass(frozen=True)
class Star:
    """A star of the reference, as it is seen in a window."""

    x: float
    """Column of the window, pixels; may lie outside."""
    y: float
    flux: float
    """Electrons of the epoch."""


@dataclass(frozen=True)
class View:
    """A window of an epoch and of its reference before anything is added, and what is known about them."""

    science: Image
    """(y, x), electrons of the epoch above its sky; NaN no data."""
    template: Image
    """(y, x), electrons of the reference above its sky; NaN no data."""
    sigma_n: float
    """Noise of the sky in `science`, electrons."""
    sigma_r: float
    """Noise of the sky in `template`, electrons of the reference."""
    flux_ratio: float
    """Electrons of the epoch per electron of the reference, for one source."""
    sky: float
    """Sky of the epoch, electrons per pixel."""
    psf_n: Image
    """(v, u), unit sum, centred on the middle pixel: PSF of the epoch at the pixels of the image."""
    psf_r: Image
    """PSF of the reference, likewise."""
    fwhm_n: float
    """Pixels."""
    fwhm_r: float
    camera: Camera
    exptime_s: float
    zeropoint: float
    """AB magnitude of one electron of the epoch; NaN where unknown."""
    stars: tuple[Star, ...] = ()
    """Stars in the window or near it, brightest first."""
    pixel_scale_arcsec: float = 1.0
    """Which tells how fast and how far out of focus a satellite passes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.science.shape


@dataclass(frozen=True)
class Canvas:
    """What is added to a window; everything starts at zero and is changed in place.

    Noise of what is added is in `science` and `template` already; its variance is what an estimate from the
    pixels would make of it.
    """

    science: Image
    """(y, x), electrons of the epoch; NaN where data are lost."""
    science_variance: Image
    """Electron²."""
    template: Image
    """Electrons of the reference; NaN where data are lost."""
    template_variance: Image
    """Electron² of the reference."""
    mask: Mask
    """Bits of `astrid_dist.flags.Flag` that the epoch gains."""
    template_mask: Mask
    """Likewise of the reference."""

    @classmethod
    def empty(cls, *shape: int) -> "Canvas":
        """Nothing added yet; leading dimensions stack windows."""
        a, b, c, d = (np.zeros(shape, np.float32) for _ in range(4))
        return cls(a, b, c, d, np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))

    def __getitem__(self, place: int | tuple[slice, ...]) -> "Canvas":
        """One window of a stack, or a part of a window; shares memory."""
        return Canvas(
            self.science[place],
            self.science_variance[place],
            self.template[place],
            self.template_variance[place],
            self.mask[place],
            self.template_mask[place],
        )
