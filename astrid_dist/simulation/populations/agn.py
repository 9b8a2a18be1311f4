"""Active nuclei, whose light wanders as a damped random walk.

Magnitudes that surveys are limited by (``mean_mag``, given as ``peak_mag`` too) are means in r (SDSS,
AB). The reference moment is arbitrary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.philox import block, compiled, normal_at
from astrid_dist.simulation.populations import quantiles
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.cosmology import comoving_volume, distance_modulus
from astrid_dist.simulation.populations.planck import R_WAVELENGTH, columns

Array = NDArray[np.float64]

#: Luminosity function in b_J, moving with redshift (Croom et al. 2004, H0 = 70): at its knee per Gpc³
#: and magnitude, slopes of either side, knee at z = 0 and how it brightens.
PER_GPC3_MAG, BRIGHT, FAINT = 1670.0, -3.31, -1.09
KNEE_MAG, KNEE_Z, KNEE_Z2 = -21.61, 1.39, -0.29
FAINTEST_MAG = -18.0
Z_RANGE = (0.03, 4.0)
BJ_WAVELENGTH, I_WAVELENGTH = 4600.0, 7480.0
SPECTRAL_INDEX, SPECTRAL_SCATTER = -0.44, 0.2  # of f_nu (Vanden Berk et al. 2001); scatter typical

#: Time is rounded to 1/256 day of the rest frame: in between the walk moves by 1 % of its amplitude.
_TICKS_PER_DAY = 256.0
_MEMORY = 40.0  # in units of tau, after which exp(-40) is left of what was


def structure_function(wavelength: float | Array, i_mag: Array, log_mass: Array) -> Array:
    """Asymptotic structure function (mag), by rest-frame wavelength (Angstrom), M_i and log of solar masses.

    Suberlak et al. (2021), eq. 7.
    """
    slope = -0.476 - 0.479 * np.log10(np.asarray(wavelength) / 4000)
    return np.asarray(10 ** (slope + 0.118 * (i_mag + 23) + 0.118 * (log_mass - 9)))


def damping_days(wavelength: float | Array, i_mag: Array, log_mass: Array) -> Array:
    """Time scale of the walk in rest-frame days; arguments and source as for `structure_function`."""
    slope = 2.597 + 0.17 * np.log10(np.asarray(wavelength) / 4000)
    return np.asarray(10 ** (slope + 0.035 * (i_mag + 23) + 0.141 * (log_mass - 9)))


@compiled
def _walk(out: Array, seeds: NDArray[np.uint64], tau: Array, days: Array) -> None:
    drawn_to = np.empty(64)
    spread = np.empty(64)
    for i in range(out.shape[0]):
        start, twist = block(seeds[i], 0)
        top = 0
        while 2.0**top < _MEMORY * tau[i] * _TICKS_PER_DAY:
            half = 2.0**top / _TICKS_PER_DAY / tau[i]
            drawn_to[top] = 0.5 / np.cosh(half)
            spread[top] = np.sqrt(np.tanh(half))
            top += 1
        for j in range(out.shape[1]):
            tick = int(np.floor(days[i, j] * _TICKS_PER_DAY + 0.5))
            left = (tick >> top) << top
            before = normal_at(start, twist, left)
            after = normal_at(start, twist, left + (1 << top))
            level = top
            while left != tick:
                level -= 1
                middle = left + (1 << level)
                value = drawn_to[level] * (before + after) + spread[level] * normal_at(start, twist, middle)
                if tick < middle:
                    after = value
                else:
                    left, before = middle, value
            out[i, j] = before


def damped_random_walk(seeds: NDArray[np.uint64], tau: Array, days: Array) -> Array:
    """Ornstein-Uhlenbeck process of mean 0 and variance 1, at any times, in any order.

    A value depends on seed and time alone, so that bands, epochs and jobs that ask apart see one light curve.
    Times that lie far apart against `tau` are independent; between two of them the middle is drawn from its
    exact distribution given both (mean (a + b) / (2 cosh(h / tau)), variance tanh(h / tau) for halves of
    length h), and so on down to the time that was asked for. This has the same law as the recursion
    x(t + dt) = x(t) exp(-dt / tau) + sqrt(1 - exp(-2 dt / tau)) N(0, 1).

    Parameters
    ----------
    seeds : (n,) uint64
        Of the light curves.
    tau : (n,) float64
        e-folding time of the correlation, days.
    days : (n, t) float64
        Same frame as `tau`; rounded to 1/256 day.
    """
    out = np.empty(days.shape)
    _walk(out, seeds, np.ascontiguousarray(tau, np.float64), np.ascontiguousarray(days, np.float64))
    return out


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Nuclei that vary together in all bands, by less in the red.

    One walk serves all bands, with the time scale of r: that of others differs by wavelength^0.17 only.
    """

    parameters: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.parameters["z"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB, see `Events`."""
        p = self.parameters
        wavelength = band.effective_wavelength
        mean = p["mean_mag"] + 2.5 * p["spectral_index"] * np.log10(wavelength / R_WAVELENGTH)
        scale = structure_function(wavelength / (1 + p["z"]), p["i_mag"], p["log_mass"]) / np.sqrt(2)
        rest = np.broadcast_to(columns(days), (len(self), np.shape(days)[-1])) / (1 + p["z"])[:, None]
        seeds = (p["light_curve"] * 2.0**52).astype(np.uint64)
        walk = damped_random_walk(seeds, p["tau_d"], rest)
        return np.asarray(mean[:, None] + scale[:, None] * walk)

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


# magnitudes from the knee, and how many nuclei are brighter, over those per magnitude at the knee
_FROM_KNEE = np.linspace(-9.0, 9.0, 3601)
_DENSITY = 1 / (10 ** (0.4 * (BRIGHT + 1) * _FROM_KNEE) + 10 ** (0.4 * (FAINT + 1) * _FROM_KNEE))
_BRIGHTER = np.cumsum(_DENSITY) * (_FROM_KNEE[1] - _FROM_KNEE[0])


def _knee(z: Array) -> Array:
    return np.asarray(KNEE_MAG - 2.5 * (KNEE_Z * z + KNEE_Z2 * z**2))


def _apparent(z: Array, index: Array | float) -> Array:
    """Mean r less absolute magnitude in b_J, for a spectrum nu^index."""
    to_r = 2.5 * np.asarray(index) * np.log10(R_WAVELENGTH / BJ_WAVELENGTH)
    return np.asarray(distance_modulus(z) - 2.5 * (1 + np.asarray(index)) * np.log10(1 + z) + to_r)


def _brighter(z: Array, limit_mag: float, index: Array | float) -> Array:
    """Nuclei per Gpc³ that are seen above a limit, over those per magnitude at the knee."""
    faintest = np.minimum(limit_mag - _apparent(z, index), FAINTEST_MAG)
    return np.asarray(np.interp(faintest - _knee(z), _FROM_KNEE, _BRIGHTER))


@lru_cache(maxsize=64)
def _by_redshift(limit_mag: float) -> tuple[Array, Array]:
    """Redshifts, and nuclei per square degree and unit of redshift."""
    z = np.linspace(*Z_RANGE, 400)
    volume = np.gradient(comoving_volume(z), z) / 41252.96
    return z, PER_GPC3_MAG * volume * _brighter(z, limit_mag, SPECTRAL_INDEX)


def _draw(u: Array, limit_mag: float) -> Nuclei:
    z = quantiles.tabulated(u[:, 0], *_by_redshift(limit_mag))
    index = quantiles.bell(u[:, 1], SPECTRAL_INDEX, SPECTRAL_SCATTER)
    from_knee = np.interp(u[:, 2] * _brighter(z, limit_mag, index), _BRIGHTER, _FROM_KNEE)
    absolute = from_knee + _knee(z)
    i_mag = absolute + 2.5 * index * np.log10(I_WAVELENGTH / BJ_WAVELENGTH)
    # mass of a nucleus of some luminosity: MacLeod et al. (2010), section 5.3
    log_mass = quantiles.bell(u[:, 3], 2.0 - 0.27 * i_mag, np.maximum(0.58 + 0.011 * i_mag, 0.1))
    mean = absolute + _apparent(z, index)
    parameters = {
        "z": z,
        "mean_mag": mean,
        "peak_mag": mean,
        "i_mag": i_mag,
        "log_mass": log_mass,
        "spectral_index": index,
        "sf_mag": structure_function(R_WAVELENGTH / (1 + z), i_mag, log_mass),
        "tau_d": damping_days(R_WAVELENGTH / (1 + z), i_mag, log_mass),
        "light_curve": u[:, 4],
    }
    return Nuclei(parameters)


def per_square_degree(limit_mag: float) -> float:
    """Nuclei whose mean is above a limit (r, AB)."""
    z, density = _by_redshift(limit_mag)
    return float(np.trapezoid(density, z))


AGN = Population(
    kind="AGN",
    description="Nuclei of galaxies that wander by tenths of a magnitude over years: a damped random walk "
    "whose amplitude and time follow luminosity, mass and wavelength (Suberlak et al. 2021).",
    rate=Rate(PER_GPC3_MAG, "Gpc-3 mag-1", "Croom et al. 2004, at the knee, which brightens with redshift"),
    environments={"nucleus": 0.6, "empty": 0.4},
    n_draws=5,
    draw=_draw,
    span_days=(0.0, 3652.5),
    always_there=True,
    present=per_square_degree,
)
POPULATIONS = (AGN,)
