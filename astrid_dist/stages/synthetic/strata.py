"""What each sample of a set is to be: strata filled exactly to a requested balance, told by index alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.taxonomy import BOGUS, ENVIRONMENTS, KINDS, REAL

Indices = NDArray[np.int64]

#: Classes of samples and their shares, where a job says nothing else: as many real as bogus.
DEFAULT_MIX = {
    "transient": 0.25, "variable": 0.125, "moving": 0.125, "dipole": 0.08, "psf_residual": 0.08,
    "cosmic_ray": 0.06, "bad_pixel": 0.05, "trail": 0.05, "ghost": 0.04, "edge": 0.04, "noise": 0.05,
    "unknown": 0.05,
}  # fmt: skip
#: Weight of a kind among those of its class, where it is not 1: comets are few, and costly to draw.
WEIGHTS = {"comet": 0.25}
_ROUNDS = 4


@dataclass(frozen=True)
class Stratum:
    """Samples of one kind, environment, sign and range of SNR."""

    kind: str
    environment: str
    negative: bool
    """Whether it is fainter in the epoch than in the reference."""
    snr: tuple[float, float]
    """Of what a population is drawn at; artifacts are as strong as they are."""
    share: float

    @property
    def classification(self) -> str:
        """Class of the taxonomy."""
        return KINDS[self.kind]

    @property
    def name(self) -> str:
        """For reports: ``SN Ia | host | + | 5.6-10``."""
        sign = "-" if self.negative else "+"
        said = f"{self.kind} | {self.environment} | {sign}"
        return f"{said} | {self.snr[0]:.3g}-{self.snr[1]:.3g}" if self.classification in REAL else said


def make_strata(
    mix: Mapping[str, float],
    kinds: Sequence[str],
    environments: Mapping[str, Mapping[str, float]],
    snr: tuple[float, float],
    snr_bins: int,
    negative: float,
) -> tuple[Stratum, ...]:
    """Every stratum with its share of the samples.

    Parameters
    ----------
    mix : mapping of str to float
        Class to share, scaled to sum 1.
    kinds : sequence of str
        Kinds wanted; those of one class share by `WEIGHTS`.
    environments : mapping of str to mapping
        Environment shares of each kind.
    snr : (float, float)
        Range of the true SNR, cut into `snr_bins` of equal width in the logarithm, filled evenly.
    negative : float
        Share of real samples with less light in the epoch than in the reference.

    Raises
    ------
    ConfigError
        A share that is negative or not a number, an unknown class or kind, a class without a kind, an
        impossible range.
    """
    _check(mix, kinds, snr, snr_bins, negative)
    edges = np.geomspace(*snr, snr_bins + 1)
    bins = [(float(low), float(high)) for low, high in pairwise(edges)]
    total = sum(mix.values())
    found = []
    for name, share in mix.items():
        members = [kind for kind in kinds if KINDS[kind] == name]
        weights = [WEIGHTS.get(kind, 1.0) for kind in members]
        for kind, weight in zip(members, weights, strict=True):
            of_kind = share / total * weight / sum(weights)
            whole = sum(environments[kind].values())
            for place, part in environments[kind].items():
                each = of_kind * part / whole
                if name not in REAL:
                    found.append(Stratum(kind, place, False, snr, each))
                    continue
                for sign, portion in ((False, 1 - negative), (True, negative)):
                    found += [Stratum(kind, place, sign, one, each * portion / len(bins)) for one in bins]
    return tuple(one for one in found if one.share > 0)


def _check(
    mix: Mapping[str, float], kinds: Sequence[str], snr: tuple[float, float], bins: int, negative: float
) -> None:
    for name, share in mix.items():
        if name not in (*REAL, *BOGUS, "unknown"):
            raise ConfigError(f"mix: no class is called {name!r}; classes are {', '.join((*REAL, *BOGUS))}")
        if not (np.isfinite(share) and share >= 0):
            raise ConfigError(f"mix: the share of {name} is {share}; it must be 0 or more")
        if share > 0 and not any(KINDS.get(kind) == name for kind in kinds):
            raise ConfigError(f"mix asks for {share:g} of {name}, but kinds holds none of that class")
    if not sum(mix.values()) > 0:
        raise ConfigError("mix: the shares sum to 0; give at least one class a share")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"kinds: {', '.join(unknown)} not known; kinds are {', '.join(KINDS)}")
    if not 0 < snr[0] < snr[1] or bins < 1:
        raise ConfigError(f"snr={list(snr)} with {bins} bins: give 0 < lowest < highest and 1 bin or more")
    if not 0 <= negative <= 1:
        raise ConfigError(f"negative={negative}: a share lies between 0 and 1")


@dataclass(frozen=True)
class Assignment:
    """Which stratum each of `number` samples belongs to: exact quotas, in an order without pattern."""

    strata: tuple[Stratum, ...]
    number: int
    key: np.uint64

    @cached_property
    def quotas(self) -> Indices:
        """Samples of each stratum: its share of them, rounded up or down.

        Classes, and their signs and ranges of SNR, come out within one sample of what is asked for even where
        strata outnumber samples; which of their kinds and environments are rounded up is drawn.
        """
        n = len(self.strata)
        draws = uniforms(self.key, np.arange(n + 1), 1)[:, 0]
        said = [(one.classification, one.negative, one.snr) for one in self.strata]
        order = sorted(range(n), key=lambda k: (*said[k], draws[k]))
        shares = np.array([self.strata[k].share for k in order])
        ends = np.floor(np.cumsum(shares) / shares.sum() * self.number + draws[n]).astype(np.int64)
        ends[-1] = self.number
        counts = np.empty(n, np.int64)
        counts[order] = np.diff(ends, prepend=0)
        return counts

    def of(self, samples: Indices) -> Indices:
        """Number of the stratum of each sample."""
        place = permuted(samples, self.number, self.key)
        return np.asarray(np.searchsorted(np.cumsum(self.quotas), place, side="right"))


def assignment(strata: tuple[Stratum, ...], number: int, seed: int, name: str) -> Assignment:
    """Strata of one set of samples, keyed by its name."""
    return Assignment(strata, number, stream(seed, f"strata of {name}"))


def largest_remainder(shares: Sequence[float], number: int) -> Indices:
    """Whole numbers in proportion to shares that sum to `number` (Hamilton's method)."""
    ideal = np.asarray(shares, np.float64) / sum(shares) * number
    counts = np.floor(ideal).astype(np.int64)
    order = np.argsort(counts - ideal, kind="stable")
    counts[order[: number - int(counts.sum())]] += 1
    return counts


def permuted(samples: Indices, number: int, key: np.uint64) -> Indices:
    """Where each of some numbers below `number` goes in a keyed permutation of all of them.

    A Feistel network on the next even number of bits, walked until it lands below `number` (Black & Rogaway
    2002): no table, so a set may be of any size.
    """
    half = max(1, (max(number - 1, 1).bit_length() + 1) // 2)
    place = np.asarray(samples, np.uint64)
    walking = np.ones(place.shape, bool)
    while walking.any():
        place[walking] = _enciphered(place[walking], half, key)
        walking &= place >= np.uint64(number)
    return place.astype(np.int64)


def _enciphered(values: NDArray[np.uint64], half: int, key: np.uint64) -> NDArray[np.uint64]:
    low = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & low
    for turn in range(_ROUNDS):
        mixed = right + np.uint64((((turn + 1) * 0x9E3779B97F4A7C15) ^ int(key)) & (2**64 - 1))
        for step, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(step))) * np.uint64(factor)
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & low)
    return (left << np.uint64(half)) | right


def environment_shares(own: Mapping[str, float], asked: Mapping[str, float] | None) -> dict[str, float]:
    """Environments of a kind: its own shares, or those asked for among the ones it can have."""
    if not asked:
        return dict(own)
    if unknown := set(asked) - set(ENVIRONMENTS):
        raise ConfigError(
            f"environments: {', '.join(sorted(unknown))} not known; they are {', '.join(ENVIRONMENTS)}"
        )
    both = {name: share for name, share in asked.items() if own.get(name, 0) > 0 and share > 0}
    return both or dict(own)
