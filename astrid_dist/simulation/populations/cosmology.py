"""Distances and volumes of the flat Lambda-CDM of Planck 2018, sampled once."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Redshifts between which distances are known.
Z_MIN, Z_MAX = 1e-5, 8.0


@lru_cache(maxsize=1)
def _samples() -> tuple[Array, Array, Array]:
    from astropy.cosmology import Planck18

    z = np.geomspace(Z_MIN, Z_MAX, 2000)
    return np.log(z), Planck18.distmod(z).value, np.log(Planck18.comoving_volume(z).to_value("Gpc3"))


def distance_modulus(z: ArrayLike) -> Array:
    """Apparent minus absolute magnitude before any K-correction."""
    log_z, modulus, _ = _samples()
    return np.asarray(np.interp(np.log(z), log_z, modulus))


def comoving_volume(z: ArrayLike) -> Array:
    """Gpc3 within a redshift, whole sky."""
    log_z, _, log_volume = _samples()
    return np.asarray(np.exp(np.interp(np.log(z), log_z, log_volume)))
