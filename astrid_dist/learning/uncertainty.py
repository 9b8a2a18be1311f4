"""What several models that disagree do not know, apart from what nobody can know. Needs numpy alone.

Of m members each gives probabilities. The entropy of their mean is all uncertainty; the mean of their
entropies is aleatoric, what the data leave open whatever the model; the rest is epistemic, what the members
disagree on: the mutual information of answer and model (BALD; Houlsby et al. 2011). All in nats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]


class Uncertainty(NamedTuple):
    """Of n candidates; ``total`` is ``aleatoric`` plus ``epistemic``, none is negative."""

    mean: Floats
    """(n,) or (n, class), the members' mean."""
    total: Floats
    """(n,) nats, entropy of the mean."""
    aleatoric: Floats
    """(n,) nats, mean of the members' entropies."""
    epistemic: Floats
    """(n,) nats; NaN of one member, which has nobody to disagree with."""


def decompose(members: ArrayLike) -> Uncertainty:
    """Uncertainty of members' probabilities.

    Parameters
    ----------
    members : (m, n) or (m, n, class)
        Probabilities of yes, or of classes that add up to 1; NaN where nothing is known.

    Raises
    ------
    InputError
        Another shape, or no probabilities.
    """
    told = np.asarray(members, np.float64)
    if told.ndim not in (2, 3) or not len(told):
        raise InputError(
            f"probabilities of shape {told.shape}: they must be (members, n) or (members, n, class)"
        )
    sums = told.sum(-1) if told.ndim == 3 else np.ones(1)
    if (told < 0).any() or (told > 1).any() or (np.abs(sums - 1) > 1e-4).any():
        raise InputError("probabilities must lie from 0 to 1, and those of classes add up to 1")
    mean = told.mean(0)
    total, aleatoric = _entropy(mean), _entropy(told).mean(0)
    if told.ndim == 2:
        total, aleatoric = total + _entropy(1 - mean), aleatoric + _entropy(1 - told).mean(0)
    else:
        total, aleatoric = total.sum(-1), aleatoric.sum(-1)
    epistemic = np.maximum(total - aleatoric, 0) if len(told) > 1 else np.full_like(total, np.nan)
    return Uncertainty(mean, total, aleatoric, epistemic)


def _entropy(p: Floats) -> Floats:
    """-p log p of each; 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1))
