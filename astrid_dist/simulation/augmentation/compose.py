"""Transforms by name, and chains of them as a job file says them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ValidationError

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.simulation.augmentation.batch import Batch
from astrid_dist.simulation.augmentation.depth import Noise, Width
from astrid_dist.simulation.augmentation.geometry import Crop, Flip, Jitter, Turn
from astrid_dist.simulation.augmentation.light import Background, FluxScale, Gain, Swap
from astrid_dist.simulation.augmentation.loss import Dropout, NoData
from astrid_dist.simulation.augmentation.transform import Transform
from astrid_dist.simulation.philox import stream

#: What a job file can name.
TRANSFORMS: Mapping[str, type[Transform]] = MappingProxyType(
    {
        "flip": Flip,
        "turn": Turn,
        "jitter": Jitter,
        "crop": Crop,
        "width": Width,
        "gain": Gain,
        "flux_scale": FluxScale,
        "background": Background,
        "noise": Noise,
        "swap": Swap,
        "no_data": NoData,
        "dropout": Dropout,
    }
)


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other."""

    transforms: tuple[Transform, ...]

    @classmethod
    def read(cls, steps: Iterable[str | Mapping[str, Mapping[str, Any] | None]]) -> "Compose":
        """A chain from names with parameters, such as ``[{"flip": {}}, {"jitter": {"px": 0.5}}]``.

        Raises
        ------
        ConfigError
            A name or parameter that there is not, or a value out of range.
        """
        return cls(tuple(_transform(place, step) for place, step in enumerate(steps, start=1)))

    def __call__(self, batch: Batch, seed: int, items: ArrayLike) -> Batch:
        """The batch changed; the same (seed, item) gives the same sample in any batch.

        Parameters
        ----------
        batch : Batch
            n samples.
        seed : int
            Root seed, not negative. For other draws at every epoch of training, a seed for each.
        items : (n,) int
            Number of each sample.
        """
        if len(np.atleast_1d(items)) != len(batch):
            raise InputError(f"augmentation: {len(np.atleast_1d(items))} items for {len(batch)} samples")
        for place, transform in enumerate(self.transforms):
            key = stream(seed, f"augment {place} {type(transform).__name__}")
            batch = transform(batch, key, items)
        return batch


def _transform(place: int, step: Any) -> Transform:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise ConfigError(f"augmentation, step {place}: {step!r} is not one name with its parameters")
    ((name, parameters),) = step.items()
    if name not in TRANSFORMS:
        raise ConfigError(f"augmentation, step {place}: unknown transform {name!r}{_hint(name, TRANSFORMS)}")
    kind = TRANSFORMS[name]
    if not isinstance(parameters or {}, Mapping):
        raise ConfigError(f"augmentation, step {place}: {name} takes parameters by name, not {parameters!r}")
    try:
        return kind.model_validate(dict(parameters or {}))
    except ValidationError as error:
        details = "; ".join(_explained(mistake, kind) for mistake in error.errors())
        raise ConfigError(f"augmentation, step {place}: {name}: {details}") from error


def _explained(mistake: Mapping[str, Any], kind: type[Transform]) -> str:
    said = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        return f"unknown parameter {said!r}{_hint(said, kind.model_fields)}"
    if mistake["type"] == "missing":
        return f"{said} is missing"
    return f"{said} is {mistake['input']!r}: {mistake['msg']}"


def _hint(name: object, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(str(name), names, n=1)
    return f", did you mean {close[0]}?" if close else f"; there are {', '.join(names) or 'none'}"
