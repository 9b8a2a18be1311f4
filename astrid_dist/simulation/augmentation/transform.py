"""What every transform of a batch is, and which kinds of change some of them leave alone."""

from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.simulation.augmentation.batch import Batch, Numbers
from astrid_dist.simulation.philox import uniforms
from astrid_dist.taxonomy import kind_code

Probability = Annotated[float, Field(ge=0, le=1)]

#: Kinds that have a direction on the detector or on the grid, which a quarter-turn would falsify. Charge
#: bleeds and trails along columns, columns go bad, crosstalk lies along rows; refraction moves stars along
#: the altitude and tracking errors along right ascension, and a field's grid keeps north up. Who does not
#: know what a null detection is leaves it as it is. What falls from the sky at any angle is free: cosmic
#: rays, satellites, ghosts, edges of a rotated coverage, and all that is real. Flips keep columns columns,
#: and amplifiers are read out towards either side.
DIRECTED = (
    "saturated star",
    "bad column",
    "crosstalk",
    "charge transport",
    "misregistration",
    "elongated PSF",
    "null detection",
)

#: Kinds that no PSF has blurred: the electrons were changed, not the light. Interpolation would make them
#: ring and a wider PSF would make stars of them. They lie anywhere within a pixel as it is.
SHARP = (
    "cosmic-ray track",
    "cosmic-ray worm",
    "hot pixel",
    "bad column",
    "saturated star",
    "charge transport",
    "flat-field residual",
    "dark current",
    "edge",
    "null detection",
)


def is_one_of(kind: Numbers, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Whether each kind is one of these; an unknown one (-1) counts as such."""
    return np.isin(kind, [-1, *(kind_code(name) for name in names)])


class Transform(BaseModel, ABC):
    """A change of samples, with its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        """The batch changed.

        Parameters
        ----------
        batch : Batch
            n samples.
        key : uint64
            `astrid_dist.simulation.philox.stream` of this transform.
        items : (n,) int
            Number of each sample, which its draws belong to.
        """


def by_sample(key: np.uint64, items: ArrayLike, draws: int) -> NDArray[np.float64]:
    """(draws, n) numbers in (0, 1), shared by the visits of a sample."""
    return uniforms(key, items, draws).T


def by_visit(key: np.uint64, items: ArrayLike, visits: int, draws: int) -> NDArray[np.float64]:
    """(draws, n, visit) numbers in (0, 1); further visits leave those of the first as they are."""
    return np.moveaxis(uniforms(key, items, visits * draws).reshape(-1, visits, draws), -1, 0)
