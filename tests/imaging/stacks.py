"""Epochs of one field as a co-add meets them: seeing, sky, transparency and registration of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.coadd import Stack, plan_stack
from astrid_dist.imaging.photometry import forced_flux
from astrid_dist.simulation.render import MoffatPsf, paint_points

BOX = 41
MIXED = (2.5, 2.9, 3.2, 3.6, 4.0)

#: Paints something into the truth of epoch j, given its image (electrons of the first epoch) and its PSF.
Extra = Callable[[int, NDArray[np.float64], MoffatPsf], None]


@dataclass(frozen=True)
class Scene:
    """Epochs on the flux scale of the first, and the stars painted into all of them."""

    images: NDArray[np.float32]
    variances: NDArray[np.float32]
    psfs: NDArray[np.float32]
    noise: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Data everywhere."""
        return np.ones(self.images.shape, bool)

    def stack(self, offsets: NDArray[np.float64] | None = None) -> Stack:
        """Plan of the whole frame."""
        return plan_stack(self.psfs, self.noise, shape=self.images.shape[1:], offsets=offsets)


def paint(
    seeing: Sequence[float] = MIXED,
    shape: tuple[int, int] = (240, 240),
    *,
    skies: Sequence[float] | float = 400.0,
    scatter_px: float = 0.0,
    offsets: NDArray[np.float64] | None = None,
    spacing: int = 48,
    faint: float = 2e3,
    bright: float = 3e5,
    seed: int = 1,
    extra: Extra | None = None,
) -> Scene:
    """Stars on a jittered lattice, Poisson noise; places scatter by `scatter_px` per epoch and axis."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[spacing // 2 : shape[0] : spacing, spacing // 2 : shape[1] : spacing].reshape(2, -1) * 1.0
    x, y = x + rng.uniform(-3, 3, x.size), y + rng.uniform(-3, 3, y.size)
    flux = np.exp(rng.uniform(np.log(faint), np.log(bright), x.size))
    sky = np.broadcast_to(np.asarray(skies, float), len(seeing))
    moved = np.zeros((len(seeing), 2)) if offsets is None else offsets
    images, variances, psfs = [], [], []
    for epoch, (fwhm, level, (dx, dy)) in enumerate(zip(seeing, sky, moved, strict=True)):
        psf = MoffatPsf(fwhm)
        truth = np.zeros(shape)
        places = [place + rng.normal(0, scatter_px, x.size) for place in (x + dx, y + dy)]
        paint_points(truth, *places, flux, psf)
        if extra is not None:
            extra(epoch, truth, psf)
        counts = np.random.default_rng((seed, epoch)).poisson(np.maximum(truth, 0) + level)
        images.append(counts - level)
        variances.append(np.maximum(counts, 1.0))
        psfs.append(psf.stamp(BOX // 2))
    cubes = (np.array(cube, np.float32) for cube in (images, variances, psfs))
    return Scene(*cubes, np.sqrt(sky), x, y, flux)


def measured(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    psf: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PSF fluxes and their errors."""
    return forced_flux(image, variance, np.zeros(image.shape, np.uint16), psf, x, y)
