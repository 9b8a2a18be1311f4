"""How far, how dusty and how bright the events are that a survey of some depth sees.

The density of events over redshift, colour excess and luminosity is cut at the faintest peak of interest and
drawn from by inverse distribution functions: nothing is rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.populations.base import Rate
from astrid_dist.simulation.populations.cosmology import comoving_volume

Array = NDArray[np.float64]

_SKY_DEG2 = 4 * np.pi * (180 / np.pi) ** 2
_REDSHIFTS = np.geomspace(2e-4, 4.0, 257)
"""Edges of the cells in which events are counted."""


@dataclass(frozen=True, eq=False)
class Luminosity:
    """Distribution of absolute magnitudes, as a table."""

    magnitudes: Array
    """(k,), increasing."""
    below: Array
    """(k,) share that is brighter, from 0 to 1."""

    @classmethod
    def of_density(cls, magnitudes: Array, density: Array) -> "Luminosity":
        """From a density in magnitudes, any scale."""
        steps = np.diff(magnitudes) * 0.5 * (density[1:] + density[:-1])
        below = np.concatenate([[0.0], np.cumsum(steps)])
        return cls(magnitudes, below / below[-1])

    @classmethod
    def gaussian(cls, mean: float, sigma: float) -> "Luminosity":
        """Normal, cut at five sigma."""
        return cls.of_density(mean + sigma * (x := np.linspace(-5, 5, 1001)), np.exp(-(x**2) / 2))

    def share(self, faintest: Array) -> Array:
        """Share that is brighter than a magnitude."""
        return np.asarray(np.interp(faintest, self.magnitudes, self.below))

    def draw(self, uniform: Array, faintest: Array) -> Array:
        """Absolute magnitudes, none fainter than `faintest`; both (n,)."""
        drawn = np.interp(uniform * self.share(faintest), self.below, self.magnitudes)
        return np.minimum(drawn, faintest)


@dataclass(frozen=True, eq=False)
class Excess:
    """Distribution of a colour excess, magnitudes of B-V, in cells."""

    edges: Array
    """(m + 1,)."""
    shares: Array
    """(m,), summing to 1."""

    @classmethod
    def exponential(cls, mean: float) -> "Excess":
        """Dust of host galaxies; cut at eight times the mean."""
        edges = np.linspace(0, 8 * mean, 65)
        shares = -np.diff(np.exp(-edges / mean))
        return cls(edges, shares / shares.sum())

    @classmethod
    def none(cls) -> "Excess":
        return cls(np.zeros(2), np.ones(1))


@dataclass(frozen=True, eq=False)
class Demography:
    """A population in the volume of the Universe."""

    rate: Rate
    """Gpc-3 yr-1 in the rest frame, with its evolution."""
    luminosity: Luminosity
    excess: Excess
    peak: Callable[[Array, Array], Array]
    """(z, excess), broadcast, to the reference magnitude at which a usual event of absolute magnitude zero
    peaks."""

    def draw(self, uniform: Array, limit: float) -> tuple[Array, Array]:
        """Redshifts and colour excesses of events that peak brighter than `limit`.

        Parameters
        ----------
        uniform : (n, 2) float64
        limit : float
            Faintest peak, AB, reference band.

        Raises
        ------
        ConfigError
            Nothing of this population is ever as bright as that.
        """
        by_z, by_excess = _tables(self, limit)
        cell = np.clip(np.searchsorted(by_z, uniform[:, 0], "right") - 1, 0, len(by_z) - 2)
        z = np.exp(np.interp(uniform[:, 0], by_z, np.log(_REDSHIFTS)))
        return z, draw_in_rows(self.excess.edges, by_excess, cell, uniform[:, 1])

    def per_deg2_year(self, limit: float) -> float:
        """Events in an observer's year on a square degree that peak brighter than `limit`."""
        return float(_counts(self, limit).sum() / _SKY_DEG2)


def draw_in_rows(edges: Array, below: Array, rows: NDArray[np.intp], uniform: Array) -> Array:
    """Values by the inverse distribution function of the row of a table that each of n draws belongs to.

    Parameters
    ----------
    edges : (m + 1,) float64
        Of cells in which the density is even.
    below : (k, m + 1) float64
        Each row from 0 to 1.
    rows, uniform : (n,)
    """
    count = below.shape[1] - 1
    ladder = (below[:, 1:] + np.arange(len(below))[:, None]).ravel()
    cell = np.clip(np.searchsorted(ladder, rows + uniform) - rows * count, 0, count - 1)
    low, high = below[rows, cell], below[rows, cell + 1]
    part = np.clip((uniform - low) / np.maximum(high - low, 1e-300), 0, 1)
    return np.asarray(edges[cell] + part * (edges[cell + 1] - edges[cell]))


def shares_below(density: Array) -> Array:
    """Running share of the last axis, (..., m) to (..., m + 1) from 0 to 1; even where there is nothing."""
    empty = density.sum(-1, keepdims=True) <= 0
    below = np.cumsum(np.where(empty, 1.0, density), axis=-1)
    return np.concatenate([np.zeros((*below.shape[:-1], 1)), below / below[..., -1:]], axis=-1)


def _counts(demography: Demography, limit: float) -> Array:
    """(cell of z, cell of excess) events per observer's year on the whole sky."""
    middle = np.sqrt(_REDSHIFTS[1:] * _REDSHIFTS[:-1])
    evolution = demography.rate.evolution
    rate = demography.rate.value * (evolution(middle) if evolution else 1.0) / (1 + middle)
    excess = 0.5 * (demography.excess.edges[1:] + demography.excess.edges[:-1])
    faintest = limit - demography.peak(middle[:, None], excess[None, :])
    seen = demography.luminosity.share(faintest) * demography.excess.shares
    return np.asarray((rate * np.diff(comoving_volume(_REDSHIFTS)))[:, None] * seen)


@lru_cache(maxsize=128)
def _tables(demography: Demography, limit: float) -> tuple[Array, Array]:
    counts = _counts(demography, limit)
    if counts.sum() <= 0:
        raise ConfigError(
            f"no event of this population peaks brighter than magnitude {limit:g}; take a fainter limit"
        )
    return shares_below(counts.sum(1)), shares_below(counts)
