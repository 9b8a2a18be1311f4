"""Whether probabilities mean what they say: reliability, errors, and what a perfect model would score.

All take weights; with `prior_weights` of `metrics` they are stated at another share of real candidates than
the sample's, for probabilities moved there by `shift_prior`. `calibration` does both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError
from astrid_dist.evaluation.matching import wilson_interval
from astrid_dist.evaluation.metrics import Bools, Floats, examples, prior_weights
from astrid_dist.evaluation.scaling import shift_prior

Ints = NDArray[np.int64]

#: Bins, as most of the literature has them (Guo et al. 2017).
BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Examples of like probability."""

    low: float
    high: float
    #: Share of all weight.
    share: float
    #: Mean probability told.
    told: float
    #: Share of real weight.
    real: float
    #: Effective numbers of examples of each class, (sum of weights)^2 / sum of their squares (Kish 1965).
    real_number: float
    bogus_number: float
    #: Mean weight of a real example over that of a bogus one.
    odds: float

    @property
    def number(self) -> float:
        """Effective number of examples."""
        return self.real_number + self.bogus_number

    @property
    def interval(self) -> tuple[float, float]:
        """68% interval of `real`: Wilson's of the numbers, its odds weighted as the classes are."""
        return self._interval(1.0)

    @property
    def interval95(self) -> tuple[float, float]:
        """95% interval of the same."""
        return self._interval(1.96)

    def _interval(self, sigmas: float) -> tuple[float, float]:
        low, high = wilson_interval(self.real_number, self.number, sigmas)
        return low * self.odds / (low * self.odds + 1 - low), high * self.odds / (high * self.odds + 1 - high)


@dataclass(frozen=True)
class Brier:
    """Mean squared error of probabilities, and what it is made of (Murphy 1973).

    score = reliability - resolution + uncertainty + within_bins, exactly; the last is what binning leaves
    (Stephenson et al. 2008) and 0 where all probabilities of a bin are equal.
    """

    score: float
    #: Squared distance of what was told from what is; 0 for a calibrated model.
    reliability: float
    #: Spread of what is over the bins; as large as `uncertainty` for a perfect model.
    resolution: float
    #: Of the prior alone.
    uncertainty: float
    within_bins: float


@dataclass(frozen=True)
class Calibration:
    """Errors of calibration beside those that chance alone makes."""

    #: Share of real examples that all is stated for.
    prior: float
    examples: int
    ece: float
    #: Mean and 95th percentile of the ECE of a perfectly calibrated model on as many examples.
    ece_by_chance: tuple[float, float]
    #: The same with bins of equal weight.
    adaptive_ece: float
    adaptive_by_chance: tuple[float, float]
    brier: Brier


def reliability(
    p: ArrayLike,
    real: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> list[ReliabilityBin]:
    """Bins of a reliability diagram, rising; those without weight are left out.

    Parameters
    ----------
    p : (n,) array_like
        Probabilities of being real.
    real : (n,) array_like of bool
    weight : (n,) array_like, optional
    bins : int
    equal_mass : bool
        Bins of about equal weight instead of equal width; equal probabilities stay together.

    Raises
    ------
    InputError
        Probabilities outside 0 to 1, or arrays that do not fit.
    """
    q, r, w = _probabilities(p, real, weight)
    at = _bins(q, w, bins, equal_mass)
    mass, told, true = _sums(at, bins, q, r, w)
    numbers = [_effective(at, bins, w * of) for of in (r, ~r)]
    everywhere = _odds(w, r)
    out = []
    for b in np.flatnonzero(mass > 0):
        inside = (at == b) & (w > 0)
        low, high = (q[inside].min(), q[inside].max()) if equal_mass else (b / bins, (b + 1) / bins)
        n1, n0 = float(numbers[0][b]), float(numbers[1][b])
        odds = (true[b] / n1) / ((mass[b] - true[b]) / n0) if n1 and n0 else everywhere
        share = float(mass[b] / mass.sum())
        known = float(told[b] / mass[b]), float(min(true[b] / mass[b], 1))
        out.append(ReliabilityBin(float(low), float(high), share, *known, n1, n0, float(odds)))
    return out


def calibration_error(
    p: ArrayLike,
    real: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> float:
    """Expected calibration error: mean over bins of |told - real|, by weight (Naeini et al. 2015).

    With `equal_mass` the adaptive one (Nguyen & O'Connor 2015). Arguments and errors as for `reliability`. It
    is above 0 for a perfect model too, the more the fewer examples: see `error_by_chance`.
    """
    q, r, w = _probabilities(p, real, weight)
    return _error(_bins(q, w, bins, equal_mass), bins, q, r, w)


def error_by_chance(
    p: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    prior: float | None = None,
    share: float | None = None,
    bins: int = BINS,
    equal_mass: bool = False,
    draws: int = 200,
    seed: int = 0,
) -> Floats:
    """Calibration errors of a perfectly calibrated model that tells the same probabilities.

    Truths are drawn from the probabilities themselves (the consistency resampling of Bröcker & Smith 2007).

    Parameters
    ----------
    p : (n,) array_like
    weight : (n,) array_like, optional
        Weights that do not depend on the class.
    prior, share : float, optional
        Of real examples: that `p` is stated for, and the sample's own. Where they differ, truths are drawn as
        the sample would have them and weighted to the prior, as the measured error was.
    draws, seed : int

    Returns
    -------
    (draws,) float64
    """
    q, _, w = _probabilities(p, np.zeros(np.shape(p), bool), weight)
    chance = q if prior is None or share is None else shift_prior(q, prior, share)
    rng = np.random.default_rng([seed, len(q)])
    at, ties = _bins(q, w, bins, equal_mass), _ties(q) if equal_mass else None
    errors = []
    for _ in range(draws):
        real = rng.random(len(q)) < chance
        v = w
        if prior is not None and share is not None:
            if not (w[real].any() and w[~real].any()):
                continue  # a draw without both classes cannot be weighted
            v = prior_weights(real, prior, w)
            at = at if ties is None else _equal_mass(ties, v, bins)
        errors.append(_error(at, bins, q, real, v))
    return np.array(errors)


def brier(p: ArrayLike, real: ArrayLike, weight: ArrayLike | None = None, *, bins: int = BINS) -> Brier:
    """Brier score and its parts, over bins of equal width; arguments and errors as for `reliability`."""
    q, r, w = _probabilities(p, real, weight)
    at = _bins(q, w, bins, False)
    mass, told, true = _sums(at, bins, q, r, w)
    used, whole = mass > 0, mass.sum()
    mass, told, true = mass[used], told[used] / mass[used], true[used] / mass[used]
    base = float((w * r).sum() / whole)
    score = float((w * (q - r) ** 2).sum() / whole)
    apart = float((mass * (told - true) ** 2).sum() / whole)
    spread = float((mass * (true - base) ** 2).sum() / whole)
    return Brier(score, apart, spread, base * (1 - base), score - apart + spread - base * (1 - base))


def calibration(
    p: ArrayLike,
    real: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    prior: float | None = None,
    bins: int = BINS,
    draws: int = 200,
    seed: int = 0,
) -> Calibration:
    """How well probabilities are calibrated, beside what chance alone makes of a perfect model.

    Parameters
    ----------
    p : (n,) array_like
        Probabilities of being real, true for `prior` where one is given (`shift_prior`), else for the sample.
    real, weight : (n,) array_like
    prior : float, optional
        Share of real candidates to state all for; the sample is weighted to it.
    bins, draws, seed : int
        Of the errors, and of the drawn truths.

    Raises
    ------
    InputError
        Probabilities outside 0 to 1, arrays that do not fit, or, with a prior, one class alone.
    """
    q, r, w = _probabilities(p, real, weight)
    share = float((w * r).sum() / w.sum())
    v = w if prior is None else prior_weights(r, prior, w)
    ece, chance = [], []
    for equal_mass in (False, True):
        ece.append(calibration_error(q, r, v, bins=bins, equal_mass=equal_mass))
        drawn = error_by_chance(
            q,
            w,
            prior=prior,
            share=None if prior is None else share,
            bins=bins,
            equal_mass=equal_mass,
            draws=draws,
            seed=seed,
        )
        chance.append((float(drawn.mean()), float(np.quantile(drawn, 0.95))))
    stated = share if prior is None else prior
    return Calibration(stated, len(q), ece[0], chance[0], ece[1], chance[1], brier(q, r, v, bins=bins))


def _probabilities(p: ArrayLike, real: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Bools, Floats]:
    q, r, w = examples(p, real, weight)
    if len(q) and not (q.min() >= 0 and q.max() <= 1):
        raise InputError(f"probabilities from {q.min():g} to {q.max():g}: they must lie between 0 and 1")
    return q, r, w


def _bins(p: Floats, weight: Floats, bins: int, equal_mass: bool) -> Ints:
    """(n,) bin of each probability."""
    if not equal_mass:
        return np.minimum((p * bins).astype(np.int64), bins - 1)
    return _equal_mass(_ties(p), weight, bins)


def _ties(p: Floats) -> Ints:
    """(n,) rank of each probability; equal ones share one."""
    return np.unique(p, return_inverse=True)[1].astype(np.int64)


def _equal_mass(ties: Ints, weight: Floats, bins: int) -> Ints:
    """(n,) bin of each example, by where the middle of its rank's weight lies."""
    mass = np.bincount(ties, weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.asarray(np.minimum((middle * bins).astype(np.int64), bins - 1)[ties])


def _sums(at: Ints, bins: int, p: Floats, real: Bools, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """(bins,) sums of weight, of weighted probability and of real weight."""
    mass, told, true = (
        np.bincount(at, of, bins).astype(np.float64) for of in (weight, weight * p, weight * real)
    )
    return mass, told, true


def _effective(at: Ints, bins: int, weight: Floats) -> Floats:
    """(bins,) effective number of examples with these weights."""
    total, squares = np.bincount(at, weight, bins), np.bincount(at, weight**2, bins)
    return np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1), 0.0)


def _odds(weight: Floats, real: Bools) -> float:
    """Mean weight of a real example over that of a bogus one, 1 where a class is missing."""
    r, b = weight[real & (weight > 0)], weight[~real & (weight > 0)]
    return float(r.mean() / b.mean()) if len(r) and len(b) else 1.0


def _error(at: Ints, bins: int, p: Floats, real: Bools, weight: Floats) -> float:
    return float(np.abs(np.bincount(at, weight * (p - real), bins)).sum() / weight.sum())
