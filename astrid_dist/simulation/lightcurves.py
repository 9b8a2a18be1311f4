"""Closed forms of brightness against time, each with its peak (or its mean magnitude) at one."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def bazin(days: ArrayLike, rise: float | Array, fall: float | Array) -> Array:
    """Supernova flux of Bazin et al. (2009), eq. 1, scaled and shifted to peak at 1 on day 0.

    Parameters
    ----------
    days : array_like
        Time since the peak, days in the observer's frame.
    rise, fall : array_like
        e-folding times in days, which broadcast against `days`; ``fall`` must exceed ``rise`` for a peak to
        exist.

    Examples
    --------
    >>> float(bazin(0.0, 4.0, 25.0))
    1.0
    """
    if not np.all((np.asarray(rise) > 0) & (np.asarray(rise) < fall)):
        raise ValueError(f"a Bazin curve needs 0 < rise < fall, got rise={rise}, fall={fall} days")
    peak = bazin_peak(rise, fall)
    since_onset = np.asarray(days, dtype=np.float64) + peak
    # -ln(1 + e^(-t/rise)) through logaddexp: e^(-t/rise) overflows a year before the explosion
    log_flux = -since_onset / fall - np.logaddexp(0.0, -since_onset / rise)
    log_peak = -peak / fall - np.logaddexp(0.0, -peak / rise)
    return np.asarray(np.exp(log_flux - log_peak))


def bazin_peak(rise: float | Array, fall: float | Array) -> Array:
    """Days from the midpoint of a Bazin curve's rise to its peak."""
    return np.asarray(rise * np.log(fall / rise - 1))


def villar(
    days: ArrayLike, rise: float | Array, plateau: float | Array, drop: float | Array, fall: float | Array
) -> Array:
    """Supernova flux with a plateau, Villar et al. (2019), eq. 1, as a fraction of its amplitude.

    Parameters
    ----------
    days : array_like
        Time since the rise's midpoint, days in the observer's frame.
    rise, plateau, fall : array_like
        Rise time, plateau duration and exponential decline time, days; they broadcast against `days`.
    drop : array_like
        Fraction of the amplitude lost along the plateau, 0 to 1.
    """
    t = np.asarray(days, dtype=np.float64)
    along = 1 - drop * np.minimum(t, plateau) / plateau
    after = np.exp(-np.maximum(t - plateau, 0.0) / fall)
    # before the rise the plateau's straight line would grow without bound: it starts at the midpoint
    along = np.where(t < 0, 1.0, along)
    return np.asarray(along * after * np.exp(-np.logaddexp(0.0, -t / rise)))


def villar_peak(rise: float | Array, plateau: float | Array, drop: float | Array) -> Array:
    """Days from the midpoint of a Villar curve's rise to its peak.

    Where the slope of eq. 1 vanishes: exp(x) + x = plateau / (drop rise) - 1 for x = peak / rise.
    """
    from scipy.special import wrightomega

    steepness = plateau / (drop * rise) - 1
    return np.asarray(np.minimum(rise * np.log(wrightomega(steepness).real), plateau))


def rr_lyrae(phase: ArrayLike, amplitude_mag: ArrayLike, rise_fraction: ArrayLike) -> Array:
    """Magnitude of an RR Lyrae relative to its mean: a fast rise, a slow decline, no corners.

    Two half cosines of unequal length: minimum light at phase 0, maximum at ``rise_fraction``. The
    mean over phase is zero. ``rise_fraction`` is 0.12 to 0.25 for RRab and near 0.5 for RRc.

    Parameters
    ----------
    phase : array_like
        Phase in cycles; any real number.
    amplitude_mag : array_like
        Peak to peak, magnitudes; broadcasts against the phase, as does the rise.
    rise_fraction : array_like
        Part of the cycle spent brightening, between 0 and 1.
    """
    cycle = np.mod(np.asarray(phase, dtype=np.float64), 1.0)
    rise = np.asarray(rise_fraction, dtype=np.float64)
    rising = np.pi * cycle / rise
    falling = np.pi * (1 + (cycle - rise) / (1 - rise))
    half = 0.5 * np.asarray(amplitude_mag, dtype=np.float64)
    return np.asarray(half * np.cos(np.where(cycle < rise, rising, falling)))


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
