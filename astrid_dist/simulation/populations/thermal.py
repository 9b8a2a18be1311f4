"""Engines and mergers that shine as blackbodies: superluminous supernovae, tidal disruptions, kilonovae."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import C_ANGSTROM, reference_band
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.blackbody import Glowing, Shape, Spectrum, emission
from astrid_dist.simulation.populations.demography import Excess, Luminosity
from astrid_dist.simulation.populations.sed_grid import bilinear
from astrid_dist.simulation.populations.supernovae import star_formation

Array = NDArray[np.float64]


def _even(uniform: Array, low: float, high: float) -> Array:
    return low + (high - low) * uniform[:, None]


def _log_even(uniform: Array, low: float, high: float) -> Array:
    return np.exp(_even(uniform, np.log(low), np.log(high)))


# --- superluminous supernovae ----------------------------------------------------------------------------

#: Spin period, ms; field, 1e14 G; diffusion time, days: within Nicholl et al. 2017, typical.
SPIN_MS, FIELD, DIFFUSION_D = (1.0, 4.0), (0.4, 3.0), (20.0, 50.0)
#: Kelvin at first light, kelvin it falls to, e-folding days (Inserra et al. 2013; typical).
SLSN_KELVIN = (24000.0, 6500.0, 40.0)

_RATIO = np.linspace(-2.2, 2.1, 44)
_TIME = np.linspace(0.0, 12.0, 601)
"""Of the grid: log10 of spin-down over diffusion time, and days over diffusion time."""


@lru_cache(maxsize=1)
def _magnetar_grid() -> tuple[Array, Array]:
    """(ratio, time) luminosity over its peak, and the (ratio,) time of that."""
    fine = np.linspace(0, _TIME[-1], 10 * (len(_TIME) - 1) + 1)
    ratio = 10 ** _RATIO[:, None]
    # Ostriker & Gunn 1971 in the diffusion of Arnett 1982: dy/dx = 2x (heat - y), in exact steps
    heat = 1 / (1 + fine / ratio) ** 2
    light = np.zeros_like(heat)
    for k in range(1, len(fine)):
        keep = np.exp(fine[k - 1] ** 2 - fine[k] ** 2)
        light[:, k] = light[:, k - 1] * keep + 0.5 * (heat[:, k] + heat[:, k - 1]) * (1 - keep)
    return light[:, ::10] / light.max(axis=1, keepdims=True), fine[light.argmax(axis=1)]


def _magnetar(uniform: Array) -> Shape:
    spin, field = _even(uniform[:, 0], *SPIN_MS), _log_even(uniform[:, 1], *FIELD)
    diffusion = _even(uniform[:, 2], *DIFFUSION_D)
    spin_down = 4.7 * spin**2 / field**2  # days (Kasen & Bildsten 2010, eq. 2)
    grid, peaks = _magnetar_grid()
    row = np.interp(np.log10(spin_down / diffusion), _RATIO, np.arange(len(_RATIO)))[:, 0]
    rise = np.interp(row, np.arange(len(_RATIO)), peaks)[:, None] * diffusion

    def curve(days: Array) -> tuple[Array, Array]:
        since_first = days + rise
        flux = bilinear(grid, row, since_first / diffusion / _TIME[1])
        hot, cool, cooling = SLSN_KELVIN
        return flux, cool + (hot - cool) * np.exp(-np.maximum(since_first, 0.0) / cooling)

    parameters = {"spin_ms": spin, "field_1e14G": field, "diffusion_d": diffusion, "rise_d": rise}
    return Shape({name: value[:, 0] for name, value in parameters.items()}, curve)


# --- tidal disruptions -----------------------------------------------------------------------------------

#: log10 kelvin, mean and sigma; Gaussian sigma of the rise, e-folding days of an exponential decline, t0 of a
#: decline as ((t + t0) / t0)^(-5/3): van Velzen et al. 2021, typical.
TDE_LOG_KELVIN, TDE_RISE_D, TDE_FALL_D, TDE_T0_D = (4.3, 0.15), (5.0, 20.0), (30.0, 100.0), (10.0, 100.0)
#: Of nu L_nu in rest-frame g, erg/s: break, and slopes of the double power law (Yao et al. 2023).
TDE_BREAK, TDE_SLOPES, TDE_LOG_RANGE = 10**43.1, (0.3, 2.6), (42.5, 44.7)
_G_WAVELENGTH = 4702.0  # effective, Angstrom


def _tde_luminosity() -> Luminosity:
    log_light = np.linspace(*TDE_LOG_RANGE[::-1], 1001)
    relative = 10**log_light / TDE_BREAK
    density = 1 / (relative ** TDE_SLOPES[0] + relative ** TDE_SLOPES[1])
    return Luminosity.of_density(g_magnitude(10**log_light), density)


def g_magnitude(light: Array) -> Array:
    """Absolute AB magnitude in g of nu L_nu in erg/s."""
    frequency = C_ANGSTROM / _G_WAVELENGTH
    ten_parsec_area = 4 * np.pi * 3.0856776e19**2  # cm2
    return np.asarray(-2.5 * np.log10(light / frequency / ten_parsec_area) - 48.6)


def _disruption(uniform: Array) -> Shape:
    from scipy.special import ndtri

    kelvin = 10 ** (TDE_LOG_KELVIN[0] + TDE_LOG_KELVIN[1] * ndtri(uniform[:, 0, None]))
    kelvin = np.clip(kelvin, 1e4, 6e4)
    sigma, fall = _even(uniform[:, 1], *TDE_RISE_D), _even(uniform[:, 2], *TDE_FALL_D)
    t0, power = _even(uniform[:, 3], *TDE_T0_D), uniform[:, 4, None] < 0.5

    def curve(days: Array) -> tuple[Array, Array]:
        after = np.maximum(days, 0.0)
        rise = np.where(days > -4 * sigma, np.exp(-0.5 * (np.minimum(days, 0) / sigma) ** 2), 0.0)
        decline = np.where(power, -5 / 3 * np.log1p(after / t0), -after / fall)
        return rise * np.exp(decline), np.broadcast_to(kelvin, days.shape)

    parameters = {"kelvin": kelvin, "rise_d": sigma, "fall_d": np.where(power, t0, fall), "power_law": power}
    return Shape({name: np.asarray(value[:, 0], np.float64) for name, value in parameters.items()}, curve)


# --- kilonovae -------------------------------------------------------------------------------------------

#: Peak absolute magnitude in r: that of AT2017gfo, and a spread; factor of the pace: typical.
KILONOVA_PEAK, KILONOVA_PACE = (-16.0, 1.0), (0.7, 1.5)
KILONOVA_PEAK_KELVIN = 6000.0  # a day after the merger
_KILONOVA_EARLIEST = 0.5
"""Days: the fit's temperature grows without bound before."""


def _kilonova_kelvin(days: Array) -> Array:
    return np.asarray(np.maximum(6050.0 * np.maximum(days, _KILONOVA_EARLIEST) ** -0.62, 810.0))


@lru_cache(maxsize=1)
def kilonova_track() -> tuple[Array, Array]:
    """Absolute r magnitude of GW170817's kilonova by day since the merger (fit of Kasliwal et al. 2017)."""
    days = np.concatenate([np.linspace(0.01, 2, 200), np.linspace(2.05, 40, 760)])
    radius = (24000 * -np.expm1(-0.42 * days) + 2500 * days) * 6.957e10  # cm
    band = reference_band()
    scale = 2 * np.pi * 6.62607015e-27 * 2.99792458e10 * 1e24  # pi times 2 h c / lambda^3, erg/s/cm2/Hz
    light = scale * (emission(band.wavelength, _kilonova_kelvin(days)[:, None], 0.0) @ band.photon_weights)
    return days, -2.5 * np.log10(light * (radius / 3.0856776e19) ** 2) - 48.6


def _merger(uniform: Array) -> Shape:
    days_known, track = kilonova_track()
    peak_day, peak_mag = float(days_known[track.argmin()]), float(track.min())
    pace = _even(uniform[:, 0], *KILONOVA_PACE)

    def curve(days: Array) -> tuple[Array, Array]:
        since = days / pace + peak_day
        flux = 10 ** (-0.4 * (np.interp(since, days_known, track) - peak_mag))
        return np.where(since > 0, flux, 0.0), _kilonova_kelvin(since)

    return Shape({"pace": pace[:, 0]}, curve)


# ---------------------------------------------------------------------------------------------------------


def _populations() -> tuple[Population, ...]:
    superluminous = Glowing(
        Rate(35.0, "Gpc-3 yr-1", "Frohmaier et al. 2021; star formation", star_formation),
        Luminosity.gaussian(-21.3, 0.6),
        Spectrum(rest="g", cutoff=3000.0),
        Excess.none(),
        14000.0,
        _magnetar,
    )
    disruptions = Glowing(
        Rate(310.0, "Gpc-3 yr-1", "Yao et al. 2023"),
        _tde_luminosity(),
        Spectrum(rest="g"),
        Excess.none(),
        20000.0,
        _disruption,
    )
    kilonovae = Glowing(
        Rate(1000.0, "Gpc-3 yr-1", "Abbott et al. 2023: 10 to 1700"),
        Luminosity.gaussian(*KILONOVA_PEAK),
        Spectrum(rest="r"),
        Excess.none(),
        KILONOVA_PEAK_KELVIN,
        _merger,
    )
    return (
        Population(
            kind="SLSN",
            description=(
                "Hydrogen-poor superluminous supernovae, M_g = -21.3 ± 0.6: light of a magnetar that spins "
                "down (Kasen & Bildsten 2010), cooling, its ultraviolet absorbed (Nicholl et al. 2017)."
            ),
            rate=superluminous.rate,
            environments={"empty": 0.6, "host": 0.4},
            n_draws=6,
            draw=superluminous.draw,
            span_days=(-60.0, 250.0),
            expected=superluminous.per_deg2_year,
        ),
        Population(
            kind="TDE",
            description=(
                "Stars torn apart by the black hole in a galaxy's exact middle: constantly hot, a "
                "Gaussian rise, an exponential or t^(-5/3) decline (van Velzen et al. 2021; Yao et al. 2023)."
            ),
            rate=disruptions.rate,
            environments={"nucleus": 1.0},
            n_draws=8,
            draw=disruptions.draw,
            span_days=(-50.0, 250.0),
            expected=disruptions.per_deg2_year,
        ),
        Population(
            kind="kilonova",
            description=(
                "Merging neutron stars: the blackbody of GW170817 (Kasliwal et al. 2017), brighter or "
                "fainter by a magnitude and at another pace; red within days."
            ),
            rate=kilonovae.rate,
            environments={"host": 0.7, "empty": 0.3},
            n_draws=4,
            draw=kilonovae.draw,
            span_days=(-1.0, 12.0),
            expected=kilonovae.per_deg2_year,
        ),
    )


POPULATIONS = _populations()
