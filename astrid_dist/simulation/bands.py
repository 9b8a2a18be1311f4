"""Photometric bands of surveys: filter curves and what follows from them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """A filter's throughput.

    Bands are made by `band_of` once and kept: they compare by identity, so they can key a cache of grids.
    """

    survey: str
    name: str
    wavelength: Array
    """Angstrom, increasing."""
    throughput: Array
    """Of photons, any scale."""

    @cached_property
    def effective_wavelength(self) -> float:
        """Mean wavelength of detected photons from a flat spectrum, Angstrom."""
        weight = self.throughput / self.wavelength
        return float(
            np.trapezoid(weight * self.wavelength, self.wavelength) / np.trapezoid(weight, self.wavelength)
        )
