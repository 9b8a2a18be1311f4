"""Fluxes in physical units: AB magnitudes and microjansky (Oke & Gunn 1983: 3631 Jy is magnitude 0)."""

from typing import Any

import numpy as np
import xarray as xr

#: AB magnitude of 1 µJy: 2.5 log10(3631e6).
AB_OF_ONE_MICROJANSKY = 23.9


def microjansky(flux_electron: Any, zeropoint: Any) -> Any:
    """Convert electrons of an exposure to microjansky.

    Parameters
    ----------
    flux_electron : array or DataArray
        Flux (or its error) in electrons.
    zeropoint : array or DataArray
        AB magnitude of 1 electron in the same exposure; NaN where unknown.

    Returns
    -------
    array or DataArray
        Flux in µJy, NaN where the zero point is unknown.

    Examples
    --------
    >>> microjansky(100.0, 23.9)
    100.0
    """
    return flux_electron * 10 ** (-0.4 * (zeropoint - AB_OF_ONE_MICROJANSKY))


def ab_magnitude(flux_electron: Any, flux_err_electron: Any, zeropoint: Any) -> tuple[Any, Any]:
    """AB magnitude and its first-order error; NaN where the flux is not positive.

    Parameters
    ----------
    flux_electron, flux_err_electron : array or DataArray
        Flux and its standard deviation in electrons.
    zeropoint : array or DataArray
        AB magnitude of 1 electron.

    Returns
    -------
    tuple
        Magnitude and magnitude error; at low signal-to-noise use the flux, whose error is Gaussian.
    """
    positive: Any = xr.where(flux_electron > 0, flux_electron, np.nan)  # type: ignore[no-untyped-call]
    magnitude = zeropoint - 2.5 * np.log10(positive)
    return magnitude, 2.5 / np.log(10) * flux_err_electron / positive
