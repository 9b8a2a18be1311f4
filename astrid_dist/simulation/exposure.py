"""From expected electrons to the numbers a camera writes: cosmic rays, full well, noise, gain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Charge a minimum ionising particle leaves in silicon, electrons per micrometre.
_ELECTRONS_PER_UM = 80.0


@dataclass(frozen=True)
class Defects:
    """Charge that no light made, and where."""

    image: Array
    """(y, x), electrons."""
    x: Array
    """Middle of each, pixels of the frame."""
    y: Array
    charge: Array
    """Electrons of each."""


def cosmic_rays(
    rng: np.random.Generator,
    shape: tuple[int, int],
    number: int,
    *,
    thickness_um: float = 40.0,
    pixel_um: float = 15.0,
) -> Defects:
    """Charge left by cosmic-ray muons: straight tracks sharper than any PSF.

    Parameters
    ----------
    rng : numpy.random.Generator
        Keyed by the exposure.
    shape : (height, width)
        Pixels.
    number : int
        Tracks to draw.
    thickness_um, pixel_um : float
        Depth of the silicon and side of a pixel.
    """
    image = np.zeros(shape)
    x, y, charge = np.zeros(number), np.zeros(number), np.zeros(number)
    for k in range(number):
        y[k], x[k] = rng.random(2) * shape - 0.5
        # zenith angles of muons through a flat detector follow cos^3 sin (flux cos^2 times projection)
        cos_zenith = max(rng.random() ** 0.25, 0.1)
        azimuth = rng.uniform(0, 2 * np.pi)
        length_px = thickness_um / pixel_um * np.sqrt(1 - cos_zenith**2) / cos_zenith
        charge[k] = _ELECTRONS_PER_UM * thickness_um / cos_zenith * (1 + rng.exponential(0.3))
        steps = max(8, int(10 * length_px))
        along = length_px * np.linspace(-0.5, 0.5, steps)
        # charge diffuses by a fraction of a pixel on its way to the gates
        columns = np.rint(x[k] + along * np.cos(azimuth) + rng.normal(0, 0.3, steps)).astype(np.int64)
        rows = np.rint(y[k] + along * np.sin(azimuth) + rng.normal(0, 0.3, steps)).astype(np.int64)
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        np.add.at(image, (rows[inside], columns[inside]), charge[k] / steps)
    return Defects(image, x, y, charge)


def hot_pixels(rng: np.random.Generator, shape: tuple[int, int], number: int) -> Defects:
    """Dark charge of a detector's hot pixels, the same in every exposure of one length."""
    image = np.zeros(shape)
    rows, columns = rng.integers(shape[0], size=number), rng.integers(shape[1], size=number)
    charge = 10 ** rng.uniform(2, 3.5, number)
    image[rows, columns] = charge
    return Defects(image, columns.astype(np.float64), rows.astype(np.float64), charge)


def bleed(electrons: Array, full_well: float) -> Array:
    """Charge above the full well spills along its column, half up and half down, until there is room."""
    image = electrons.copy()
    for column in np.flatnonzero((image > full_well).any(axis=0)):
        for step in (1, -1):
            values = image[::step, column]
            original = electrons[::step, column]
            spill = 0.0
            for row in range(len(values)):
                share = 0.5 * max(0.0, original[row] - full_well)
                room = max(0.0, full_well - values[row])
                taken = min(room, spill)
                values[row] += taken
                spill += share - taken
    return np.minimum(image, full_well)


def read_out(
    rng: np.random.Generator, mean_electrons: Array, *, gain: float, read_noise: float, saturation_dn: float
) -> NDArray[np.uint16]:
    """Counts of one exposure: photon noise, bleeding, read noise, gain, quantisation, clipping.

    Parameters
    ----------
    rng : numpy.random.Generator
        Keyed by the exposure.
    mean_electrons : (y, x) float64
        Expected charge, sky and cosmic rays included.
    gain : float
        Electrons per DN.
    read_noise : float
        Electrons, rms.
    saturation_dn : float
        Level of a full well; nothing is brighter.

    Returns
    -------
    (y, x) uint16
        DN, bias subtracted.
    """
    electrons = rng.poisson(np.maximum(mean_electrons, 0.0)).astype(np.float64)
    electrons = bleed(electrons, gain * saturation_dn)
    electrons += rng.normal(0.0, read_noise, electrons.shape)
    return np.clip(np.rint(electrons / gain), 0, saturation_dn).astype(np.uint16)
