"""Closed forms of brightness against time, each with its peak (or its mean magnitude) at one."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def bazin(days: ArrayLike, rise: float, fall: float) -> Array:
    """Supernova flux of Bazin et al. (2009), eq. 1, scaled and shifted to peak at 1 on day 0.

    Parameters
    ----------
    days : array_like
        Time since the peak, days in the observer's frame.
    rise, fall : float
        e-folding times in days; ``fall`` must exceed ``rise`` for a peak to exist.

    Examples
    --------
    >>> float(bazin(0.0, 4.0, 25.0))
    1.0
    """
    if not 0 < rise < fall:
        raise ValueError(f"a Bazin curve needs 0 < rise < fall, got rise={rise}, fall={fall} days")
    peak = rise * np.log(fall / rise - 1)
    since_onset = np.asarray(days, dtype=np.float64) + peak
    # -ln(1 + e^(-t/rise)) through logaddexp: e^(-t/rise) overflows a year before the explosion
    log_flux = -since_onset / fall - np.logaddexp(0.0, -since_onset / rise)
    log_peak = -peak / fall - np.logaddexp(0.0, -peak / rise)
    return np.asarray(np.exp(log_flux - log_peak))


def villar(days: ArrayLike, rise: float, plateau: float, drop: float, fall: float) -> Array:
    """Supernova flux with a plateau, Villar et al. (2019), eq. 1, as a fraction of its amplitude.

    Parameters
    ----------
    days : array_like
        Time since the rise's midpoint, days in the observer's frame.
    rise, plateau, fall : float
        Rise time, plateau duration and exponential decline time, days.
    drop : float
        Fraction of the amplitude lost along the plateau, 0 to 1.
    """
    t = np.asarray(days, dtype=np.float64)
    along = 1 - drop * np.minimum(t, plateau) / plateau
    after = np.exp(-np.maximum(t - plateau, 0.0) / fall)
    # before the rise the plateau's straight line would grow without bound: it starts at the midpoint
    along = np.where(t < 0, 1.0, along)
    return np.asarray(along * after * np.exp(-np.logaddexp(0.0, -t / rise)))


def rr_lyrae(phase: ArrayLike, amplitude_mag: float, rise_fraction: float) -> Array:
    """Magnitude of an RR Lyrae relative to its mean: a fast rise, a slow decline, no corners.

    Two half cosines of unequal length: minimum light at phase 0, maximum at ``rise_fraction``. The
    mean over phase is zero. ``rise_fraction`` is 0.12 to 0.25 for RRab and near 0.5 for RRc.

    Parameters
    ----------
    phase : array_like
        Phase in cycles; any real number.
    amplitude_mag : float
        Peak to peak, magnitudes.
    rise_fraction : float
        Part of the cycle spent brightening, between 0 and 1.
    """
    cycle = np.mod(np.asarray(phase, dtype=np.float64), 1.0)
    rising = np.pi * cycle / rise_fraction
    falling = np.pi * (1 + (cycle - rise_fraction) / (1 - rise_fraction))
    return np.asarray(0.5 * amplitude_mag * np.cos(np.where(cycle < rise_fraction, rising, falling)))


def straight_motion(
    mjd: ArrayLike, mjd_0: float, start_px: tuple[float, float], rate_px_per_day: tuple[float, float]
) -> tuple[Array, Array]:
    """Position of a solar-system body on the field's grid within one night: a straight line.

    Returns
    -------
    x, y : arrays of the shape of `mjd`, pixels
    """
    elapsed = np.asarray(mjd, dtype=np.float64) - mjd_0
    return start_px[0] + rate_px_per_day[0] * elapsed, start_px[1] + rate_px_per_day[1] * elapsed
