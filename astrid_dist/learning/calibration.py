"""What makes a model's probabilities come true: temperatures, the prior they hold for, and a threshold.

They are fitted on candidates that nothing was trained on (`astrid run jobs/calibrate.yaml`) and kept with the
model. The log odds of being real become log odds / temperature + offset (Platt 1999), the classes' logits are
divided by a temperature (Guo et al. 2017). Another share of real candidates than was calibrated for changes
the odds by the ratio of the two (Saerens et al. 2002, eq. 2.4): that supposes that real and bogus candidates
look as before, and only their numbers change.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.trees import Floats
from astrid_dist.taxonomy import CLASSES, REAL

_FORMAT = "astrid_dist calibration 1"
#: Which of the classes that a model tells apart are real.
_IS_REAL = np.array([name in REAL for name in CLASSES[:-1]])


@dataclass(frozen=True)
class Guarantee:
    """A threshold of p_real and what was shown of it."""

    p_threshold: float
    """Candidates are accepted at or above it; p_real at the prior of the calibration."""
    limit: float
    """False positives per image, that their mean stays under ..."""
    confidence: float
    """... with this confidence, ..."""
    cap: int
    """... an image counting so many at most."""
    bound: float
    """Upper bound of that mean, at the confidence."""
    images: int
    """That it was shown on."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Settings of detection, and what else must be as it was for it to hold."""

    def __post_init__(self) -> None:
        if not 0 <= float(self.p_threshold) <= 1 or int(self.images) < 1:
            raise ConfigError(f"a threshold of {self.p_threshold} on {self.images} images is none of p_real")


@dataclass(frozen=True)
class Calibration:
    """Numbers that a calibration found."""

    temperature: float
    offset: float
    class_temperature: float
    prior: float
    """Share of real among candidates that p_real holds for."""
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        numbers = [self.temperature, self.offset, self.class_temperature]
        if not np.isfinite(numbers).all() or min(self.temperature, self.class_temperature) <= 0:
            raise ConfigError(
                f"temperatures and offset {numbers}: finite, and temperatures above 0, are needed"
            )
        _check_prior(self.prior)

    def logit(self, logit: Floats) -> Floats:
        """Log odds that come true at the calibration's prior."""
        return logit / self.temperature + self.offset

    def shift(self, prior: float | None) -> float:
        """What is added to these log odds for them to hold at another prior; None: the same."""
        if prior is None:
            return 0.0
        _check_prior(prior)
        return float(np.log(prior / (1 - prior)) - np.log(self.prior / (1 - self.prior)))

    def classes(self, told: NDArray[Any], prior: float | None = None) -> Floats:
        """Probabilities of classes from those that a model told, both (n, class), at a prior."""
        log = np.log(np.clip(np.asarray(told, np.float64), 1e-30, None)) / self.class_temperature
        log = log + np.where(_IS_REAL, self.shift(prior), 0.0)
        p = np.exp(log - np.nanmax(log, axis=1, keepdims=True, initial=-np.inf, where=~np.isnan(log)))
        return np.asarray(p / p.sum(1, keepdims=True))


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise ConfigError(f"prior is {prior}: a share of real candidates lies between 0 and 1")


def calibration_bytes(calibration: Calibration) -> bytes:
    """Content of ``calibration.json``."""
    return json.dumps({"format": _FORMAT, **asdict(calibration)}, indent=1).encode()


def read_calibration(content: bytes, path: str) -> Calibration:
    """What `calibration_bytes` wrote; `path` is for messages.

    Raises
    ------
    InputError
        It is damaged, or something else.
    """
    try:
        said = json.loads(content)
        if said.pop("format") != _FORMAT:
            raise InputError(f"{path}: this calibration was not written by this version ({_FORMAT})")
        if (given := said.pop("guarantee")) is not None:
            given = Guarantee(**given)
        return Calibration(**said, guarantee=given)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise InputError(
            f"{path}: the calibration is damaged ({error}); calibrate the model again"
        ) from error
