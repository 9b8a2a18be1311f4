"""Probabilities made true: log odds scaled on examples of their own, then moved to the prior of use."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit

from astrid_dist.errors import InputError
from astrid_dist.evaluation.metrics import Floats, examples


@dataclass(frozen=True)
class Scaling:
    """scale * log odds + offset: temperature scaling with offset 0 (Guo et al. 2017), else Platt's (1999)."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def temperature(self) -> float:
        """1 / scale: above 1 for a model that was too sure."""
        return 1 / self.scale

    def logit(self, log_odds: ArrayLike) -> Floats:
        """Scaled log odds, of any shape."""
        return np.asarray(self.scale * np.asarray(log_odds, np.float64) + self.offset)

    def p(self, log_odds: ArrayLike) -> Floats:
        """Probabilities of being real."""
        return np.asarray(expit(self.logit(log_odds)))


def fit_scaling(
    log_odds: ArrayLike, real: ArrayLike, weight: ArrayLike | None = None, *, offset: bool = False
) -> Scaling:
    """The scale, and offset if asked for, of the least mean log loss.

    Parameters
    ----------
    log_odds : (n,) array_like
        Of examples that the model has not seen, in natural logarithms; their order does not change.
    real : (n,) array_like of bool
    weight : (n,) array_like, optional
        `prior_weights` make the probabilities true at that prior, with an offset.
    offset : bool
        Fit an offset too. Without one, the model's own prior must be right: see `shift_prior`.

    Raises
    ------
    InputError
        Infinite log odds, arrays that do not fit, examples so well told apart that no finite scale is best,
        or told apart the wrong way round.
    """
    x, r, w = examples(log_odds, real, weight)
    if not np.isfinite(x).all():
        raise InputError("infinite log odds: clip probabilities away from 0 and 1 before taking them")
    x, r, w = x[w > 0], r[w > 0], w[w > 0] / w.sum()
    _refuse_separated(x, r, offset)
    size = float(np.abs(x).max())  # so that one is a step of like size for both

    def loss(at: Floats) -> tuple[float, Floats]:
        told = at[0] * x / size + (at[1] if offset else 0.0)
        error = w * (expit(told) - r)
        slope = [error @ x / size, error.sum()] if offset else [error @ x / size]
        return float(w @ (np.logaddexp(0, told) - r * told)), np.array(slope)

    start = np.array([size, 0.0] if offset else [size])
    best = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    scale = float(best[0]) / size
    if not scale > 0:
        raise InputError(
            f"the best scale of log odds is {scale:.3g}: bogus examples are told to be more real than real "
            "ones, so this score cannot become a probability"
        )
    return Scaling(scale, float(best[1]) if offset else 0.0)


def shift_prior(p: ArrayLike, told_at: float, used_at: float) -> Floats:
    """Probabilities moved from one share of real candidates to another (Saerens et al. 2002, eq. 2.4).

    Parameters
    ----------
    p : array_like
        True where the share is `told_at`; any shape.
    told_at, used_at : float
        Shares of real candidates, between 0 and 1.

    Raises
    ------
    InputError
        A share that does not lie between 0 and 1.

    Examples
    --------
    >>> shift_prior([0.5, 0.99], 0.5, 0.1).round(3)
    array([0.1  , 0.917])
    """
    for share in (told_at, used_at):
        if not 0 < share < 1:
            raise InputError(f"a prior of {share}: it is the share of real candidates, between 0 and 1")
    q = np.asarray(p, np.float64)
    real, bogus = q * used_at / told_at, (1 - q) * (1 - used_at) / (1 - told_at)
    return np.asarray(real / (real + bogus))


def estimate_prior(p: ArrayLike, told_at: float, *, steps: int = 10_000) -> float:
    """Share of real candidates in a sample without truth, by expectation maximisation.

    Saerens et al. (2002), eq. 2.9. It holds as far as `p` is calibrated at `told_at` and real and bogus look
    as they did there, at another share.

    Parameters
    ----------
    p : (n,) array_like
        Probabilities true at `told_at`.
    told_at : float
    steps : int
        At most.

    Raises
    ------
    InputError
        No probabilities, or a prior that does not lie between 0 and 1.
    """
    q = np.asarray(p, np.float64)
    if not q.size or not np.isfinite(q).all():
        raise InputError(f"{q.size} probabilities, {int(np.isnan(q).sum())} of them NaN: leave those out")
    tiny = 1e-9
    share = told_at
    for _ in range(steps):
        before, share = share, float(np.clip(shift_prior(q, told_at, share).mean(), tiny, 1 - tiny))
        if abs(logit(share) - logit(before)) < 1e-7:
            break
    return share


def _refuse_separated(x: Floats, real: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], offset: bool) -> None:
    if real.all() or not real.any():
        raise InputError(f"{int(real.sum())} real and {int((~real).sum())} bogus examples: both are needed")
    cut = x[~real].max() if offset else 0.0
    if x[real].min() >= cut >= x[~real].max():
        raise InputError(
            f"{len(x)} examples are all told right, so that no finite scale is the best: leave the log odds "
            "as they are, or give more and harder examples"
        )
