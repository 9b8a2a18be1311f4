"""Transforms of calibration and of roles: units, zero point, sky, science and template swapped."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from astrid_dist.simulation.augmentation.batch import Batch
from astrid_dist.simulation.augmentation.pair import pair_of, side_of, stamps_of, transformed
from astrid_dist.simulation.augmentation.transform import Probability, Transform, by_sample
from astrid_dist.simulation.philox import normals

#: Grid on which the energy of a PSF is summed, where nothing else is filtered.
_GRID = 64


class Gain(Transform):
    """Other units: electrons of every epoch and of the reference by factors of their own. Exact.

    Pixels are in noise sigmas and stay; what is told in electrons changes.
    """

    spread: Annotated[float, Field(ge=0, description="standard deviation of the factors' logarithm")] = 0.1

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        factor = np.exp(self.spread * normals(key, items, 1 + batch.visits)).astype(np.float32)
        of_r, of_n = factor[:, :1], factor[:, 1:]
        return batch.having(
            sigma_n=batch.sigma_n * of_n,
            sigma_r=batch.sigma_r * of_r,
            sigma_d=batch.sigma_d * of_r,
            flux=batch.flux * of_r,
            flux_ratio=batch.flux_ratio * of_n / of_r,
        )


class Swap(Transform):
    """Science and template in each other's roles: what appeared has gone.

    Exact, as proper subtraction is antisymmetric. Of several visits each then has a reference of its own.
    """

    probability: Probability = 0.5

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        chosen = by_sample(key, items, 1)[0] < self.probability
        pixels = batch.pixels.copy()
        names = batch.planes
        roles = {"science": "template", "template": "science"}
        for position, name in enumerate(names):
            other = roles.get(name, name)
            taken = batch.plane(other)
            values = np.float32(np.nan) if taken is None else taken[chosen]
            pixels[chosen, :, position] = values if name in roles else -values
        which = chosen[:, None]
        scale = np.where(which, batch.flux_ratio, 1)
        sign = np.where(which, -1, 1)
        return batch.having(
            pixels=pixels,
            flux=batch.flux * sign * scale,
            snr=batch.snr * sign,
            sigma_n=np.where(which, batch.sigma_r, batch.sigma_n),
            sigma_r=np.where(which, batch.sigma_n, batch.sigma_r),
            sigma_d=batch.sigma_d * scale,
            fwhm_n=np.where(which, batch.fwhm_r, batch.fwhm_n),
            fwhm_r=np.where(which, batch.fwhm_n, batch.fwhm_r),
            flux_ratio=np.where(which, 1 / batch.flux_ratio, batch.flux_ratio),
        )


class Background(Transform):
    """Sky that was not taken out of an epoch and of the reference: a constant and a slope.

    Constants and slopes go through any symmetric filter unchanged, so the difference is exact; the response
    of the score to them is that of seeing discs (`pair`).
    """

    sigma: Annotated[float, Field(ge=0, description="standard deviation of the constant, noise sigmas")] = 0.1
    slope: Annotated[
        float, Field(ge=0, description="standard deviation of what it gains from middle to border")
    ] = 0.1

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        pair = pair_of(batch, _GRID)
        rows, columns = batch.shape
        draws = normals(key, items, 3 * (1 + batch.visits)).reshape(len(batch), -1, 3).astype(np.float32)
        ramp_y, ramp_x = (np.linspace(-1, 1, length, dtype=np.float32) for length in (rows, columns))
        constant, along_y, along_x = (draws[..., k, None, None] for k in range(3))
        sky = self.sigma * constant + self.slope * (along_y * ramp_y[:, None] + along_x * ramp_x)
        science, template = sky[:, 1:], sky[:, :1]
        share_n, share_r = (one[..., 0, 0, None, None] for one in (pair.science_d, pair.reference_d))
        difference = share_n * science - share_r * template
        added: dict[str, NDArray[Any]] = {
            "science": science,
            "template": template,
            "difference": difference,
            "score": np.asarray(difference * pair.score[..., 0, 0, None, None], np.float32),
        }
        return batch.having(pixels=_plus(batch, added))


class FluxScale(Transform):
    """An error of the flux ratio: a share of all light of an epoch is left in difference and score.

    To first order in the error, with the filters of seeing discs (`pair`); the flux stays the true one. What
    it leaves of bright stars (error times their SNR, in the score) is marked in no target: keep it small.
    """

    spread: Annotated[float, Field(ge=0, le=0.1, description="standard deviation of the error")] = 0.01

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        science = batch.plane("science")
        if science is None:
            return batch
        side = side_of(batch.shape)
        pair = pair_of(batch, side)
        error = (self.spread * normals(key, items, batch.visits)).astype(np.float32)[..., None, None]
        left = transformed(science, side) * pair.science_d * error
        added = {"difference": stamps_of(left, side, batch.shape)}
        if "score" in batch.planes:
            added["score"] = stamps_of(left * pair.score, side, batch.shape)
        return batch.having(pixels=_plus(batch, added))


def _plus(batch: Batch, added: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Pixels with planes (n, visit, y, x) added to them."""
    pixels = batch.pixels.copy()
    for name, values in added.items():
        if name in batch.planes:
            pixels[:, :, batch.planes.index(name)] += values
    return pixels
