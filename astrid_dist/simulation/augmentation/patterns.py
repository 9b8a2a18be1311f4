"""Artifacts on top of samples: patterns that a caller makes go through the filters of the pair."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from astrid_dist.simulation.augmentation.batch import Batch, Pixels
from astrid_dist.simulation.augmentation.pair import pair_of, side_of, stamps_of, transformed
from astrid_dist.simulation.augmentation.transform import Transform
from astrid_dist.taxonomy import class_bit


@dataclass(frozen=True, eq=False)
class Patterns:
    """What is added to the science images of a batch, zero where nothing is."""

    science: Pixels
    """(n, visit, y, x), electrons of the epoch, their own noise included; finite, zero near the border."""
    variance: Pixels
    """Electron²: what their light adds to the variance plane."""
    class_name: str
    """Of `astrid_dist.taxonomy.CLASSES`: what they are marked as."""


class Artifacts(Transform):
    """Patterns added to science, difference and score, and marked where the difference exceeds 1 sigma.

    Filters are those of seeing discs (`pair`); where the pair itself is at hand, injection does it exactly.
    The sample stays what it is: put patterns beside the object. A job file cannot name this: it takes code.
    """

    patterns: Callable[[Batch, np.uint64, ArrayLike], Patterns]
    """From (batch, key, items); keyed as any transform is."""

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        added = self.patterns(batch, key, items)
        sigma_n = np.asarray(batch.sigma_n, np.float32)[..., None, None]
        side = side_of(batch.shape)
        pair = pair_of(batch, side)
        science = added.science / sigma_n
        spectrum = transformed(science, side) * pair.science_d
        difference = stamps_of(spectrum, side, batch.shape)
        made = {"science": science, "difference": difference}
        pixels = batch.pixels.copy()
        for name, values in made.items():
            if name in batch.planes:
                pixels[:, :, batch.planes.index(name)] += values
        if "score" in batch.planes:
            kernel = fft.irfft2(pair.science_d * pair.score, (side, side))
            squared = np.asarray(fft.rfft2(np.square(kernel)), np.complex64)
            variance = transformed(added.variance / sigma_n**2, side) * squared
            louder = 1 + np.maximum(stamps_of(variance, side, batch.shape), 0)
            place = batch.planes.index("score")
            pixels[:, :, place] += stamps_of(spectrum * pair.score, side, batch.shape)
            pixels[:, :, place] /= np.sqrt(louder)
        bits: NDArray[np.uint16] = np.where(np.abs(difference) > 1, class_bit(added.class_name), 0).astype(
            np.uint16
        )
        return batch.having(pixels=pixels, target=batch.target | bits)
