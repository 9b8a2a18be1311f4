"""Sources of a field as they were drawn: how bright each is at any moment, and what of it is no change.

What a source adds to a difference is its light in the epoch minus what the reference holds of it. Without an
injected reference (`in_reference` false) that holds nothing of what comes and goes, and a variable is a star
or nucleus that is there already: it changes about its mean over the epochs. With one, the reference holds the
mean over its own epochs of every source's light, so a source may have faded since.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.bands import Band
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.populations.base import Events
from astrid_dist.stages.synthetic.strata import Stratum

Array = NDArray[np.float64]

#: Zero point taken where a survey has none: then only ratios of light mean something.
ASSUMED_ZEROPOINT = 25.0


@dataclass(frozen=True)
class BandLight:
    """What light in one band of a field is measured by."""

    band: Band
    zeropoint: float
    """AB magnitude of one electron of the reference; `ASSUMED_ZEROPOINT` where unknown."""
    mjd: Array
    """Of the chosen epochs."""
    member_mjd: Array
    """Of the epochs that the reference is made of."""
    weights: Array
    """Of these, summing to 1."""


@dataclass(frozen=True)
class FieldSources:
    """n sources of a field; positions in its pixels, light in electrons of the reference of a band."""

    strata: tuple[Stratum, ...]
    """(n,)"""
    bands: Mapping[str, BandLight]
    """By group."""
    events: Mapping[str, tuple[NDArray[np.int64], Events]]
    """By kind: which sources, and their light curves."""
    in_reference: bool
    x: Array
    """At `anchor_mjd`; NaN for one without a place."""
    y: Array
    galaxy: NDArray[np.int64]
    """Number of the host among the reference's galaxies; -1 for none."""
    reason: tuple[str, ...]
    """Why it has no place; empty where it has one."""
    anchor_mjd: Array
    """Moment for which place and SNR were drawn."""
    moment: Array
    """Reference moment of its light curve, MJD."""
    scale: Array
    """Factor on the light that its population gives it."""
    rate_px: tuple[Array, Array]
    """Motion along x and y, pixels per day."""

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Those that were there before, whatever the reference."""
        return np.array([POPULATIONS[one.kind].always_there for one in self.strata], bool)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """Those that the reference does not hold, being elsewhere in every epoch."""
        return np.array([one.classification == "moving" for one in self.strata], bool)

    def light(self, group: str, mjd: Array) -> Array:
        """(n, t) light at some moments."""
        one = self.bands[group]
        out = np.zeros((len(self), len(mjd)))
        for which, events in self.events.values():
            days = mjd[None, :] - self.moment[which][:, None]
            out[which] = 10 ** (-0.4 * (events.magnitudes(one.band, days) - one.zeropoint))
        return out * self.scale[:, None]

    def template(self, group: str) -> Array:
        """(n,) light that is not in the difference, whatever the epoch."""
        one, varies = self.bands[group], self.varies
        if self.in_reference:
            held: Array = self.light(group, one.member_mjd) @ one.weights
            return np.where(self.moves, 0.0, held)
        mean = self.light(group, one.mjd).mean(axis=1) if varies.any() else np.zeros(len(self))
        return np.where(varies, mean, 0.0)

    def places(self, mjd: float) -> tuple[Array, Array]:
        """Columns and rows at a moment."""
        days = mjd - self.anchor_mjd
        return self.x + self.rate_px[0] * days, self.y + self.rate_px[1] * days
