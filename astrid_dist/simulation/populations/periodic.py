"""Stars that pulsate: RR Lyrae, Cepheids and Miras; with `eclipsing`, all that vary for ever.

Peak magnitudes are in r (SDSS, AB), amplitudes in V. The reference moment is arbitrary: phases are random.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.lightcurves import rr_lyrae
from astrid_dist.simulation.populations import galaxy, quantiles
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.eclipsing import ECLIPSING_BINARY
from astrid_dist.simulation.populations.galaxy import Sightline
from astrid_dist.simulation.populations.planck import R_WAVELENGTH, V_WAVELENGTH, colour, columns, reddening

Array = NDArray[np.float64]

#: Amplitude over that in V by wavelength (Angstrom). RR Lyrae: typical, after Sesar et al. (2010, table 2);
#: Cepheids: Klagyivik & Szabados (2009), Yoachim et al. (2009); Miras: typical, Whitelock et al. (2008).
_RR_LYRAE_RATIO = ([3600.0, 4800, 5500, 6200, 7600, 9000, 22000], [1.15, 1.2, 1.0, 0.9, 0.7, 0.65, 0.3])
_CEPHEID_RATIO = ([3600.0, 4400, 4800, 5500, 6200, 7900, 22000], [2.0, 1.5, 1.3, 1.0, 0.8, 0.6, 0.3])
_MIRA_RATIO = ([4400.0, 5500, 6200, 7600, 9000, 12500, 22000], [1.1, 1.0, 0.8, 0.4, 0.3, 0.2, 0.12])

#: A random visit falls anywhere into ten years.
_SPAN = (0.0, 3652.5)


def at(ratio: tuple[list[float], list[float]], wavelength: float) -> float:
    """Amplitude over that in V."""
    return float(np.interp(np.log(wavelength), np.log(ratio[0]), ratio[1]))


@dataclass(frozen=True, eq=False)
class Pulsators:
    """Stars that brighten and fade in the same way each cycle."""

    parameters: Mapping[str, Array]
    ratio: tuple[list[float], list[float]]
    """Wavelengths (Angstrom), and the amplitude there over that in V."""

    def __len__(self) -> int:
        return len(self.parameters["period_d"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB, see `Events`."""
        p = {name: value[:, None] for name, value in self.parameters.items()}
        wavelength = band.effective_wavelength
        amplitude = p["amplitude_mag"] * at(self.ratio, wavelength)
        mean = p["mean_mag"] + colour(wavelength, p["temperature_K"])
        mean = mean + p["extinction_mag"] * reddening(wavelength)
        cycle = p["phase"] + columns(days) / p["period_d"]
        return np.asarray(mean + rr_lyrae(cycle, amplitude, p["rise_fraction"]))

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


Shape = Callable[[Array, Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Pulsation:
    """What a kind of pulsating star is like, and where such stars are."""

    kind: str
    sky: Sightline
    shape: Shape
    """Period (d), amplitude in V (mag, peak to peak) and mean M_V by two quantiles."""
    rise: Callable[[Array], tuple[ArrayLike, ArrayLike]]
    """Least and largest part of the cycle spent brightening, by period."""
    kelvin: Callable[[Array], ArrayLike]
    """Temperature by period."""
    ratio: tuple[list[float], list[float]]
    per_kpc3: float
    """Stars near the Sun."""

    def per_square_degree(self, limit_mag: float) -> float:
        """Stars whose maximum is above a limit (r, AB)."""
        return self.sky.per_square_degree(self.per_kpc3, limit_mag, self.peak)

    def peak(self, q1: Array, q2: Array) -> Array:
        """M_r at maximum."""
        period, amplitude, mean = self.shape(q1, q2)
        return galaxy.to_r(mean, self.kelvin(period)) - at(self.ratio, R_WAVELENGTH) * amplitude / 2

    def draw(self, u: Array, limit_mag: float) -> Pulsators:
        """Stars that a survey sees at maximum, from (n, 5) uniform numbers."""
        seen = self.sky.draw(u[:, :3], limit_mag, self.peak, self.kind)
        period, amplitude, _ = self.shape(seen.q1, seen.q2)
        parameters = {
            "period_d": period,
            "amplitude_mag": amplitude,
            "rise_fraction": quantiles.even(u[:, 3], *self.rise(period)),
            "phase": u[:, 4],
            "temperature_K": np.broadcast_to(self.kelvin(period), period.shape),
            "mean_mag": seen.peak_mag + at(self.ratio, R_WAVELENGTH) * amplitude / 2,
            "peak_mag": seen.peak_mag,
            "distance_kpc": seen.distance_kpc,
            "extinction_mag": seen.extinction_mag,
        }
        return Pulsators(parameters, self.ratio)


RRC_SHARE = 0.25  # of RR Lyrae that pulsate in the first overtone (Soszynski et al. 2014)
OVERTONE_BELOW_D = 0.4  # RRc have shorter periods than this, RRab longer ones


def _rr_lyrae(q1: Array, q2: Array) -> tuple[Array, Array, Array]:
    """RRc for small `q1`, else RRab, whose amplitude falls with period (Bailey; Smith 1995)."""
    c = q1 < RRC_SHARE
    within = np.where(c, q1 / RRC_SHARE, (q1 - RRC_SHARE) / (1 - RRC_SHARE))
    period_ab = quantiles.bell(np.where(c, 0.5, within), 0.58, 0.08, OVERTONE_BELOW_D, 0.9)
    period = np.where(c, quantiles.bell(within, 0.34, 0.05, 0.2, OVERTONE_BELOW_D), period_ab)
    amplitude_ab = quantiles.bell(q2, 0.95 - 2.0 * (period_ab - 0.58), 0.15, 0.3, 1.3)
    amplitude = np.where(c, quantiles.even(q2, 0.2, 0.5), amplitude_ab)
    return period, amplitude, np.full(period.shape, 0.6)  # M_V: Catelan & Smith 2015


def _cepheid(q1: Array, q2: Array) -> tuple[Array, Array, Array]:
    """Period-luminosity relation (Benedict et al. 2007)."""
    period = quantiles.log_even(q1, 1.0, 60.0)
    return period, quantiles.even(q2, 0.3, 1.2), -2.43 * (np.log10(period) - 1) - 4.05


_MIRA_KELVIN = 2300.0  # of the colour from g to K: cooler than the star, for its TiO bands


def _mira(q1: Array, q2: Array) -> tuple[Array, Array, Array]:
    """Period and luminosity in K (Whitelock et al. 2008), taken to V with a black body."""
    period = quantiles.even(q1, 100.0, 700.0)
    k_ab = -3.51 * (np.log10(period) - 2.38) - 7.15 + 1.85
    v = k_ab + colour(V_WAVELENGTH, _MIRA_KELVIN) - colour(21900.0, _MIRA_KELVIN)
    return period, quantiles.even(q2, 2.5, 8.0), v


def _rr_lyrae_rise(period: Array) -> tuple[Array, Array]:
    c = period < OVERTONE_BELOW_D
    return np.where(c, 0.4, 0.12), np.where(c, 0.5, 0.25)


_RR_LYRAE = Pulsation(
    kind="RR Lyrae",
    sky=Sightline(galaxy.halo(), 90.0, 60.0),
    shape=_rr_lyrae,
    rise=_rr_lyrae_rise,
    kelvin=lambda period: np.where(period < OVERTONE_BELOW_D, 7200.0, 6600.0),
    ratio=_RR_LYRAE_RATIO,
    per_kpc3=5.6,
)
_CEPHEID = Pulsation(
    kind="Cepheid",
    sky=Sightline(galaxy.disc(0.07), 90.0, 2.0),
    shape=_cepheid,
    rise=lambda _: (0.2, 0.4),
    kelvin=lambda period: 6100.0 - 600.0 * np.log10(period),
    ratio=_CEPHEID_RATIO,
    per_kpc3=38.0,
)
_MIRA = Pulsation(
    kind="Mira",
    sky=Sightline(galaxy.disc(0.25), 90.0, 10.0),
    shape=_mira,
    rise=lambda _: (0.4, 0.5),
    kelvin=lambda _: _MIRA_KELVIN,
    ratio=_MIRA_RATIO,
    per_kpc3=200.0,
)

RR_LYRAE = Population(
    kind="RR Lyrae",
    description="Pulsating halo stars, three of four in the fundamental mode: periods near "
    "0.58 d (ab) and 0.34 d (c), a fast rise and a slow decline, bluest and largest in g "
    "(Smith 1995; Sesar et al. 2010).",
    rate=Rate(_RR_LYRAE.per_kpc3, "kpc-3", "Sesar et al. 2010, density at the Sun"),
    environments={"empty": 0.9, "near star": 0.08, "edge": 0.02},
    n_draws=5,
    draw=_RR_LYRAE.draw,
    span_days=_SPAN,
    always_there=True,
    present=_RR_LYRAE.per_square_degree,
)
CEPHEID = Population(
    kind="Cepheid",
    description="Young supergiants of the disc whose period tells their luminosity, 1 to 60 d; "
    "M_V = -2.43 (log P - 1) - 4.05 (Benedict et al. 2007).",
    rate=Rate(_CEPHEID.per_kpc3, "kpc-3", "typical: 6000 in a disc of 70 pc; Skowron et al. 2019"),
    environments={"empty": 0.6, "near star": 0.2, "host": 0.2},
    n_draws=5,
    draw=_CEPHEID.draw,
    span_days=_SPAN,
    always_there=True,
    present=_CEPHEID.per_square_degree,
)
MIRA = Population(
    kind="Mira",
    description="Cool giants that pulsate over 100 to 700 d by 2.5 to 8 mag in V and much less "
    "in the infrared (Whitelock et al. 2008).",
    rate=Rate(_MIRA.per_kpc3, "kpc-3", "typical: Jura & Kleinmann 1992"),
    environments={"empty": 0.8, "near star": 0.2},
    n_draws=5,
    draw=_MIRA.draw,
    span_days=_SPAN,
    always_there=True,
    present=_MIRA.per_square_degree,
)
POPULATIONS = (RR_LYRAE, CEPHEID, ECLIPSING_BINARY, MIRA)
