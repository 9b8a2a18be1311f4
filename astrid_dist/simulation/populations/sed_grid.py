"""Lookups in grids of synthetic photometry, and extinction by wavelength."""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.bands import Band

Array = NDArray[np.float64]


@njit(cache=True, nogil=True)
def bilinear(grid: Array, rows: Array, columns: Array) -> Array:
    """Values between the nodes of a grid; beyond its ends those of the ends.

    Parameters
    ----------
    grid : (k, m) float64
    rows : (n,) float64
        Where between the rows, in rows.
    columns : (n, t) float64
        Where between the columns; NaN stays NaN.
    """
    out = np.empty_like(columns)
    for i in range(columns.shape[0]):
        row = min(max(rows[i], 0.0), grid.shape[0] - 1.0)
        r = min(int(row), grid.shape[0] - 2)
        v = row - r
        for j in range(columns.shape[1]):
            if np.isnan(columns[i, j]):
                out[i, j] = np.nan
                continue
            column = min(max(columns[i, j], 0.0), grid.shape[1] - 1.0)
            c = min(int(column), grid.shape[1] - 2)
            u = column - c
            near = grid[r, c] * (1 - u) + grid[r, c + 1] * u
            far = grid[r + 1, c] * (1 - u) + grid[r + 1, c + 1] * u
            out[i, j] = near * (1 - v) + far * v
    return out


def extinction(band: Band, z: ArrayLike, r_v: float) -> Array:
    """Magnitudes lost in an observer's band to dust at redshift z, per magnitude of E(B-V) there.

    Cardelli, Clayton & Mathis (1989), at the band's effective wavelength.
    """
    wavelength, law = _law(r_v)
    return np.asarray(np.interp(band.effective_wavelength / (1 + np.asarray(z)), wavelength, law))


@lru_cache(maxsize=16)
def _law(r_v: float) -> tuple[Array, Array]:
    import sncosmo

    dust = sncosmo.CCM89Dust()
    dust.set(ebv=1.0, r_v=r_v)
    wavelength = np.geomspace(1001.0, 33000.0, 1000)
    return wavelength, -2.5 * np.log10(dust.propagate(wavelength, np.ones_like(wavelength)))
