"""What changes in a mock field: supernovae with and without hosts, RR Lyrae, asteroids."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.lightcurves import bazin, rr_lyrae, straight_motion, villar
from astrid_dist.simulation.randomness import generator
from astrid_dist.simulation.sky import COLOUR_SLOPES, Galaxies
from astrid_dist.simulation.survey import MockSurvey

#: Sources closer to the grid's edge than this would leave the frame in some epochs.
EDGE_PX = 24.0
#: Least distance between two of them, so that a detection has one owner.
SEPARATION_PX = 14.0


@dataclass(frozen=True)
class Source:
    """One object whose light or place changes."""

    id: int
    classification: str
    """``transient``, ``variable`` or ``moving``."""
    kind: str
    host: int
    """Number of its galaxy, -1 without one."""
    x: float
    y: float
    """Position on the field's grid at `mjd_0`, pixels."""
    magnitude: Callable[[str, float], float]
    """AB magnitude in a band at an MJD; infinite while there is no light."""
    mjd_0: float = 0.0
    rate_px_per_day: tuple[float, float] = (0.0, 0.0)

    def position(self, mjd: float) -> tuple[float, float]:
        """Place on the field's grid, pixels."""
        if self.rate_px_per_day == (0.0, 0.0):
            return self.x, self.y
        x, y = straight_motion(mjd, self.mjd_0, (self.x, self.y), self.rate_px_per_day)
        return float(x), float(y)


def supernovae(survey: MockSurvey, field: int, galaxies: Galaxies) -> list[Source]:
    """Supernovae of a field, those in galaxies first.

    Peak magnitudes are flat from r = 18 to 21.5, which is flat in the logarithm of the SNR; offsets
    from the host follow its own shape with an exponential radius. Four in five are Ia-like (Bazin), the
    rest have a plateau (Villar).
    """
    hosts = _host_numbers(survey, field, galaxies)
    found: list[Source] = []
    for number in range(survey.supernovae + survey.hostless):
        rng = generator(survey.seed, "supernova", field, number)
        host = hosts[number] if number < len(hosts) else -1
        x, y = _place(rng, survey, found, None if host < 0 else (galaxies, host))
        peak_mag, colour = rng.uniform(18.0, 21.5), rng.normal(0.1, 0.15)
        peak_mjd = survey.start_mjd + rng.uniform(-5.0, survey.season_days)
        if rng.random() < 0.8:
            kind, shape = "supernova Ia", _ia(rng.uniform(3, 5), rng.uniform(18, 28))
        else:
            kind, shape = "supernova IIP", _plateau(rng.uniform(2, 4), rng.uniform(60, 100))
        magnitude = _supernova_magnitude(peak_mag, colour, peak_mjd, shape)
        found.append(Source(1000 * field + number, "transient", kind, host, x, y, magnitude))
    return found


def variables(survey: MockSurvey, field: int, others: list[Source]) -> list[Source]:
    """RR Lyrae of a field: as often fainter as brighter than the template."""
    found: list[Source] = []
    for number in range(survey.variables):
        rng = generator(survey.seed, "variable", field, number)
        x, y = _place(rng, survey, others + found, None)
        if rng.random() < 0.7:
            kind, period = "RR Lyrae ab", float(np.clip(rng.normal(0.58, 0.08), 0.4, 0.9))
            amplitude, rise = rng.uniform(0.4, 1.2), rng.uniform(0.12, 0.25)
        else:
            kind, period = "RR Lyrae c", float(np.clip(rng.normal(0.34, 0.05), 0.25, 0.45))
            amplitude, rise = rng.uniform(0.2, 0.5), 0.45
        mean, phase = rng.uniform(16.5, 20.5), rng.random()
        magnitude = _periodic_magnitude(mean, amplitude, period, phase, rise, survey.start_mjd)
        found.append(Source(1000 * field + 500 + number, "variable", kind, -1, x, y, magnitude))
    return found


def asteroids(survey: MockSurvey, field: int, night: int, night_mjd: float) -> list[Source]:
    """Asteroids that cross a field in one night; one in four is near Earth and trails."""
    found: list[Source] = []
    for number in range(survey.asteroids):
        rng = generator(survey.seed, "asteroid", field, night, number)
        x, y = rng.uniform(EDGE_PX, survey.size_px - 1 - EDGE_PX, 2)
        near = rng.random() < 0.25
        degrees_per_day = rng.uniform(2.0, 8.0) if near else rng.uniform(0.1, 0.3)
        speed, angle = degrees_per_day * 3600 / survey.pixel_scale, rng.uniform(0, 2 * np.pi)
        magnitude = _constant_magnitude(rng.uniform(17.5, 21.0), rng.normal(0.55, 0.1))
        found.append(
            Source(
                10**9 + 10**6 * field + 100 * night + number,
                "moving",
                "near-Earth asteroid" if near else "main-belt asteroid",
                -1,
                float(x),
                float(y),
                magnitude,
                night_mjd,
                (float(speed * np.cos(angle)), float(speed * np.sin(angle))),
            )
        )
    return found


def _host_numbers(survey: MockSurvey, field: int, galaxies: Galaxies) -> list[int]:
    """Galaxies that host the supernovae, the brighter ones the likelier."""
    low, high = EDGE_PX, survey.size_px - 1 - EDGE_PX
    inside = (galaxies.x > low) & (galaxies.x < high) & (galaxies.y > low) & (galaxies.y < high)
    candidates = np.flatnonzero(inside & (galaxies.mag_r < 21.0))
    if candidates.size == 0:
        return []
    weights = 10 ** (-0.2 * galaxies.mag_r[candidates])
    rng = generator(survey.seed, "hosts", field)
    number = min(survey.supernovae, candidates.size)
    chosen = rng.choice(candidates, number, replace=False, p=weights / weights.sum())
    return [int(c) for c in chosen]


def _place(
    rng: np.random.Generator,
    survey: MockSurvey,
    others: list[Source],
    host: tuple[Galaxies, int] | None,
) -> tuple[float, float]:
    """A place clear of the edges and of the other sources (the last try stands if none is)."""
    low, high = EDGE_PX, survey.size_px - 1 - EDGE_PX
    x = y = 0.0
    for _ in range(50):
        if host is None:
            x, y = (float(v) for v in rng.uniform(low, high, 2))
        else:
            galaxies, number = host
            radius = galaxies.radius_px[number] * min(rng.exponential(0.7), 3.0)
            turn, angle = rng.uniform(0, 2 * np.pi), galaxies.angle[number]
            major, minor = radius * np.cos(turn), radius * np.sin(turn) * galaxies.axis_ratio[number]
            x = float(galaxies.x[number] + major * np.cos(angle) - minor * np.sin(angle))
            y = float(galaxies.y[number] + major * np.sin(angle) + minor * np.cos(angle))
        clear = all(np.hypot(x - other.x, y - other.y) > SEPARATION_PX for other in others)
        if clear and low <= x <= high and low <= y <= high:
            break
    return x, y


def _ia(rise: float, fall: float) -> Callable[[float], float]:
    return lambda days: float(bazin(days, rise, fall))


def _plateau(rise: float, plateau: float) -> Callable[[float], float]:
    # a plateau's "peak" is taken three rise times after its midpoint
    return lambda days: float(villar(days + 3 * rise, rise, plateau, 0.3, 15.0))


def _supernova_magnitude(
    peak_mag: float, colour: float, peak_mjd: float, shape: Callable[[float], float]
) -> Callable[[str, float], float]:
    def magnitude(band: str, mjd: float) -> float:
        flux = shape(mjd - peak_mjd)
        if flux < 1e-6:
            return float("inf")
        return float(peak_mag + COLOUR_SLOPES[band] * colour - 2.5 * np.log10(flux))

    return magnitude


def _periodic_magnitude(
    mean: float, amplitude: float, period: float, phase: float, rise: float, mjd_0: float
) -> Callable[[str, float], float]:
    # amplitudes shrink to the red: g 1.2, r 0.9, i 0.7 of V
    scale = {"u": 1.2, "g": 1.2, "q": 1.0, "r": 0.9, "i": 0.7, "z": 0.65, "y": 0.65, "Y": 0.65}

    def magnitude(band: str, mjd: float) -> float:
        cycle = (mjd - mjd_0) / period + phase
        return float(mean + 0.2 * COLOUR_SLOPES[band] + rr_lyrae(cycle, amplitude * scale[band], rise))

    return magnitude


def _constant_magnitude(mag_r: float, colour: float) -> Callable[[str, float], float]:
    return lambda band, mjd: mag_r + COLOUR_SLOPES[band] * colour
