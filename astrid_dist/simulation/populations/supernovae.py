"""Supernovae: type Ia from a spectral template, core collapse from closed forms and cooling blackbodies."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import Band, ab_magnitudes, band_of, reference_band
from astrid_dist.simulation.lightcurves import bazin, bazin_peak, villar, villar_peak
from astrid_dist.simulation.populations.base import Population, Rate
from astrid_dist.simulation.populations.blackbody import Glowing, Shape, Spectrum
from astrid_dist.simulation.populations.cosmology import distance_modulus
from astrid_dist.simulation.populations.demography import (
    Demography,
    Excess,
    Luminosity,
    draw_in_rows,
    shares_below,
)
from astrid_dist.simulation.populations.sed_grid import bilinear, extinction
from astrid_dist.surveys.profile import load_profile

Array = NDArray[np.float64]


def star_formation(z: Array) -> Array:
    """Cosmic star formation relative to today (Madau & Dickinson 2014, eq. 15)."""
    today = 1 + (1 / 2.9) ** 5.6
    return np.asarray((1 + z) ** 2.7 / (1 + ((1 + z) / 2.9) ** 5.6) * today)


# --- type Ia ---------------------------------------------------------------------------------------------

#: Peak of a usual event in rest-frame B (AB), intrinsic scatter, Tripp's coefficients of stretch and colour.
M_B, SIGMA_INT, ALPHA, BETA = -19.3, 0.10, -0.14, 3.15
#: Stretch x1: weight, mean and sigma of the modes (Nicolas et al. 2021, young and old progenitors alike).
X1_MODES = ((0.5 + 0.5 * 0.45, 0.33, 0.64), (0.5 * 0.55, -1.5, 0.58))
#: Colour c: mode, sigma of the blue and of the red side (Scolnic & Kessler 2016).
COLOUR = (-0.05, 0.03, 0.10)
#: Magnitudes per day after the template's last phase, when cobalt powers the light; typical.
LATE_DECLINE = 0.014

_PHASES = np.arange(-20.0, 85.5, 0.5)
_LOG_Z_TOP, _N_Z = np.log(3.0), 81


@lru_cache(maxsize=64)
def _ia_grid(band: Band) -> Array:
    """(z, phase) flux in a band of an event that peaks at B = 0, its distance modulus taken out."""
    wavelength, spectra = _ia_spectra()
    grid = np.empty((_N_Z, len(_PHASES)))
    for row, stretch in enumerate(np.exp(np.linspace(0, _LOG_Z_TOP, _N_Z))):
        grid[row] = 10 ** (-0.4 * ab_magnitudes(band, wavelength * stretch, spectra)) / stretch
    return grid


@lru_cache(maxsize=1)
def _ia_spectra() -> tuple[Array, Array]:
    """Angstrom, and (phase, wavelength) f_lambda of an event that peaks at B = 0."""
    import sncosmo

    source = sncosmo.get_source("hsiao-subsampled")
    wavelength = np.arange(source.minwave(), source.maxwave() + 1, 20.0)
    spectra = np.maximum(source.flux(_PHASES, wavelength), 0.0)
    spectra[0] = 0.0  # the explosion
    bessell_b = band_of(load_profile("generic").model_copy(update={"filters": {"B": "bessell-B"}}), "B")
    zero = ab_magnitudes(bessell_b, wavelength, source.flux(0.0, wavelength))
    return wavelength, spectra * 10 ** (0.4 * zero)


def _row(z: Array) -> Array:
    return np.asarray(np.log1p(z) / _LOG_Z_TOP * (_N_Z - 1))


def _ia_peak(z: Array, colour: Array) -> Array:
    """Peak in the reference band for M = 0; z and colour (n,) or broadcasting."""
    band = reference_band()
    bright = -2.5 * np.log10(_ia_grid(band).max(axis=1))
    k_correction = np.interp(_row(z), np.arange(_N_Z), bright)
    return np.asarray(distance_modulus(z) + k_correction + colour * extinction(band, z, BETA - 1))


@dataclass(frozen=True, eq=False)
class Thermonuclear:
    """n type Ia supernovae; day 0 is the peak in rest-frame B."""

    parameters: Mapping[str, Array]
    """``z``, ``peak_mag`` in the reference band, ``absolute_mag`` in B without colour, ``x1``, ``c``."""

    def __len__(self) -> int:
        return len(self.parameters["z"])

    def magnitudes(self, band: Band, days: Array) -> Array:
        """(n, t) AB magnitudes in any band; see `Events`."""
        z, x1, c = (self.parameters[name] for name in ("z", "x1", "c"))
        stretch = 0.98 + x1 * (0.091 + x1 * (0.003 - 0.00075 * x1))  # Guy et al. 2007
        phase = np.atleast_2d(days) / ((1 + z) * stretch)[:, None]
        columns = (phase - _PHASES[0]) / (_PHASES[1] - _PHASES[0])
        flux = bilinear(_ia_grid(band), _row(z), columns)
        # Tripp's beta is the total-to-selective extinction in B: one law for colour and brightness
        level = distance_modulus(z) + self.parameters["absolute_mag"] + c * extinction(band, z, BETA - 1)
        with np.errstate(divide="ignore"):
            fading = -2.5 * np.log10(flux)
        return np.asarray(level[:, None] + fading + LATE_DECLINE * np.maximum(phase - _PHASES[-1], 0.0))

    def motion(self) -> tuple[Array, Array]:
        """None."""
        return np.zeros(len(self)), np.zeros(len(self))


IA_RATE = Rate(
    2.35e4, "Gpc-3 yr-1", "Perley et al. 2020; (1+z)^1.7 of Dilday et al. 2010", lambda z: (1 + z) ** 1.7
)

_X1 = np.linspace(-4.0, 3.0, 141)
_X1_MIDDLE = 0.5 * (_X1[1:] + _X1[:-1])
_X1_SHARES = sum(w * np.exp(-0.5 * ((_X1_MIDDLE - m) / s) ** 2) / s for w, m, s in X1_MODES)


def _stretch_and_luminosity() -> tuple[Luminosity, Array]:
    """Of magnitudes that stretch and intrinsic scatter make together, and of x1 at each of them."""
    magnitudes = M_B + np.linspace(-1.5, 1.5, 601)
    scatter = (magnitudes[:, None] - M_B - ALPHA * _X1_MIDDLE) / SIGMA_INT
    joint = np.exp(-0.5 * scatter**2) * _X1_SHARES
    return Luminosity.of_density(magnitudes, joint.sum(1)), shares_below(joint)


def _ia_colour() -> Excess:
    edges = np.linspace(-0.2, 0.5, 71)
    middle = 0.5 * (edges[1:] + edges[:-1])
    mode, blue, red = COLOUR
    shares = np.exp(-0.5 * ((middle - mode) / np.where(middle < mode, blue, red)) ** 2)
    return Excess(edges, shares / shares.sum())


_IA_LUMINOSITY, _X1_BELOW = _stretch_and_luminosity()
_IA = Demography(IA_RATE, _IA_LUMINOSITY, _ia_colour(), _ia_peak)


def _draw_ia(uniform: Array, limit: float) -> Thermonuclear:
    z, c = _IA.draw(uniform[:, :2], limit)
    above = _ia_peak(z, c)
    absolute = _IA_LUMINOSITY.draw(uniform[:, 2], limit - above)
    nearest = np.rint(np.interp(absolute, _IA_LUMINOSITY.magnitudes, np.arange(len(_X1_BELOW))))
    x1 = draw_in_rows(_X1, _X1_BELOW, nearest.astype(np.intp), uniform[:, 3])
    return Thermonuclear({"z": z, "peak_mag": absolute + above, "absolute_mag": absolute, "x1": x1, "c": c})


# --- core collapse ---------------------------------------------------------------------------------------

#: All together (Perley et al. 2020).
CORE_COLLAPSE_RATE = 1.0e5  # Gpc-3 yr-1
HOST_EXCESS = 0.11  # mean E(B-V)
_FIRST_LIGHT = 3.0  # rise times before the midpoint of the rise


@dataclass(frozen=True)
class CoreCollapse:
    """What one type is like; days and kelvin are of the rest frame, ranges are drawn from evenly."""

    kind: str
    share: float
    """Of all core collapses."""
    peak: tuple[float, float]
    """Mean and sigma of the peak absolute magnitude in r."""
    rise: tuple[float, float]
    """e-folding days."""
    fall: tuple[float, float]
    """e-folding days; after the plateau where there is one."""
    kelvin: tuple[float, float, float]
    """Temperature at first light, the one it falls to, and the e-folding days of that."""
    tail: tuple[float, float]
    """Flux that decaying nickel gives, extrapolated to the peak, and its e-folding days."""
    plateau: tuple[float, float] | None = None
    """Days."""
    drop: tuple[float, float] = (0.05, 0.5)
    """Part of the flux lost along the plateau."""
    note: str = ""

    def shapes(self, uniform: Array) -> Shape:
        """(n, 5) uniform numbers to n light curves."""
        rise, fall, plateau, drop = (
            low + (high - low) * uniform[:, k, None]
            for k, (low, high) in enumerate((self.rise, self.fall, self.plateau or (0, 0), self.drop))
        )
        warmth = 0.9 + 0.2 * uniform[:, 4, None]
        known = {"rise_d": rise[:, 0], "fall_d": fall[:, 0], "kelvin": warmth[:, 0] * self.kelvin[0]}
        if self.plateau:
            middle = villar_peak(rise, plateau, drop)
            top = villar(middle, rise, plateau, drop, fall)
            known |= {"plateau_d": plateau[:, 0], "drop": drop[:, 0]}
        else:
            middle = bazin_peak(rise, fall)

        def curve(days: Array) -> tuple[Array, Array]:
            since_first = days + middle + _FIRST_LIGHT * rise
            if self.plateau:
                flux = villar(days + middle, rise, plateau, drop, fall) / top
            else:
                flux = bazin(days, rise, fall)
            level, decay = self.tail
            if level:
                flux = np.where(
                    days > 0, np.maximum(flux, level * np.exp(-np.maximum(days, 0) / decay)), flux
                )
            # the closed forms rise from minus infinity: a smooth step from first light to the midpoint
            step = np.clip(since_first / (_FIRST_LIGHT * rise), 0.0, 1.0)
            flux *= step * step * (3 - 2 * step)
            hot, cool, cooling = self.kelvin
            falling = (hot - cool) * np.exp(-np.maximum(since_first, 0.0) / cooling)
            return flux, warmth * (cool + falling)

        return Shape(known, curve)

    def population(self) -> Population:
        source = "Perley et al. 2020; star formation of Madau & Dickinson 2014"
        rate = Rate(CORE_COLLAPSE_RATE * self.share, "Gpc-3 yr-1", source, star_formation)
        usual = self.shapes(np.full((1, 5), 0.5)).curve(np.zeros((1, 1)))[1]
        glowing = Glowing(
            rate,
            Luminosity.gaussian(*self.peak),
            Spectrum(rest="r", cutoff=3500.0),
            Excess.exponential(HOST_EXCESS),
            float(usual[0, 0]),
            self.shapes,
        )
        longest = self.plateau[1] + 60 if self.plateau else 2.5 * self.fall[1]
        return Population(
            kind=self.kind,
            description=f"{self.note} M_r = {self.peak[0]:g} ± {self.peak[1]:g} (Perley et al. 2020).",
            rate=rate,
            environments={"host": 0.85, "nucleus": 0.08, "empty": 0.07},
            n_draws=8,
            draw=glowing.draw,
            span_days=(-5.0 - 5 * self.rise[1], longest),
            expected=glowing.per_deg2_year,
        )


#: Luminosities and shares: Perley et al. 2020. Typical are times (within those of Bazin et al. 2009, Villar
#: et al. 2019, Taddia et al. 2018) and temperatures (Faran et al. 2018, Taddia et al. 2013, 2018).
CORE_COLLAPSES = (
    CoreCollapse(
        "SN II", 0.649, (-17.48, 0.70), (1.0, 2.5), (5.0, 15.0), (14000, 5500, 18), (0.15, 111.3),
        plateau=(60.0, 120.0),
        note="Red supergiants with hydrogen: a fast rise, a plateau (Villar et al. 2019, eq. 1), a tail.",
    ),
    CoreCollapse(
        "SN IIn", 0.047, (-18.0, 0.80), (3.0, 10.0), (60.0, 200.0), (15000, 7000, 40), (0.0, 111.3),
        note="Ejecta that run into dense gas: slow and blue.",
    ),
    CoreCollapse(
        "SN IIb", 0.109, (-17.45, 0.60), (2.0, 4.5), (20.0, 35.0), (9500, 5000, 20), (0.25, 60.0),
        note="Hydrogen nearly lost: a bell (Bazin et al. 2009, eq. 1) and a nickel tail.",
    ),
    CoreCollapse(
        "SN Ib", 0.108, (-17.35, 0.53), (2.0, 4.5), (20.0, 35.0), (9000, 5000, 20), (0.25, 60.0),
        note="Helium stars: a bell and a nickel tail.",
    ),
    CoreCollapse(
        "SN Ic", 0.075, (-17.50, 0.70), (2.0, 4.5), (20.0, 35.0), (8500, 4800, 20), (0.25, 60.0),
        note="Stars stripped of helium too: a bell and a nickel tail.",
    ),
    CoreCollapse(
        "SN Ic-BL", 0.0097, (-18.12, 0.90), (2.0, 3.5), (20.0, 30.0), (9500, 5000, 16), (0.25, 60.0),
        note="Stripped stars with fast ejecta, some with gamma-ray bursts: brighter and faster than Ic.",
    ),
)  # fmt: skip

POPULATIONS = (
    Population(
        kind="SN Ia",
        description=(
            "Exploding white dwarfs: the template of Hsiao et al. (2007); stretch (Nicolas et al. 2021), "
            "colour (Scolnic & Kessler 2016) and luminosity as Tripp (1998) relates them."
        ),
        rate=IA_RATE,
        environments={"host": 0.85, "nucleus": 0.05, "empty": 0.10},
        n_draws=4,
        draw=_draw_ia,
        span_days=(-18.0, 90.0),
        expected=_IA.per_deg2_year,
    ),
    *(each.population() for each in CORE_COLLAPSES),
)
