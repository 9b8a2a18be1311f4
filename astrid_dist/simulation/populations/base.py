"""What a population of changing sources says of itself, and what is drawn from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.taxonomy import ENVIRONMENTS as ENVIRONMENTS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """How often a population's events happen, or how many of its objects there are."""

    value: float
    unit: str
    """``Gpc-3 yr-1`` (comoving volume, rest frame), ``deg-2``, ``kpc-3``, ``yr-1 deg-2``, ..."""
    source: str
    """Publication."""
    evolution: Callable[[Array], Array] | None = None
    """Factor by redshift, for volumetric rates."""


class Events(Protocol):
    """n events or objects drawn from a population, each with its own light curve."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """(n,) each, named with their unit where they have one (``period_d``, ``z``, ``peak_mag``...)."""

    def __len__(self) -> int: ...

    def magnitudes(self, band: Band, days: Array) -> Array:
        """AB magnitudes of total light.

        Parameters
        ----------
        band : Band
            Of any survey.
        days : (t,) or (n, t) float64
            Observer's frame, since the event's reference moment: the peak in its own reference band for what
            explodes or flares, an arbitrary origin with random phase for what varies for ever.

        Returns
        -------
        (n, t) float64
            Infinite where there is no light.
        """

    def motion(self) -> tuple[Array, Array]:
        """Rates of motion on the sky, (n,) arcsec per hour towards east and north; zero for what stays."""


@dataclass(frozen=True)
class Population:
    """One kind of changing source."""

    kind: str
    """Of `astrid_dist.taxonomy.KINDS`."""
    description: str
    """One or two sentences with sources, for the catalogue."""
    rate: Rate
    environments: Mapping[str, float]
    """Shares of `astrid_dist.taxonomy.ENVIRONMENTS`, summing to 1."""
    n_draws: int
    """Uniform numbers that one event takes."""
    draw: Callable[[Array, float], Events]
    """From (n, n_draws) uniform numbers in (0, 1) and the faintest peak magnitude of interest (AB, reference
    band) to n events as a survey of that depth sees them: distances by volume and rate, and none that peaks
    fainter (drawn from the truncated distribution, not rejected)."""
    span_days: tuple[float, float]
    """Observer's frame, around the reference moment: when an event is bright enough to matter; a random visit
    falls evenly into it."""
    always_there: bool = False
    """Whether its light is in the template as well: variables, whose change has either sign."""
    expected: Callable[[float], float] | None = None
    """From the faintest peak magnitude of interest to events per square degree and observer's year."""
    present: Callable[[float], float] | None = None
    """From the same to objects per square degree at any time, for what varies for ever or moves."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Coma radius, tail length, ... for what is no point; see the population."""
