"""Transforms that make an observation worse: a noisier epoch, a wider PSF. Every plane keeps unit noise."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy import fft

from astrid_dist.simulation.augmentation.batch import Batch, Pixels
from astrid_dist.simulation.augmentation.pair import (
    FWHM,
    Filter,
    frequencies,
    mean_square,
    pair_of,
    side_of,
    stamps_of,
    transformed,
)
from astrid_dist.simulation.augmentation.transform import SHARP, Transform, by_sample, by_visit, is_one_of
from astrid_dist.simulation.philox import noise

Floats = NDArray[np.floating]


class Noise(Transform):
    """A shallower epoch: white noise in science, and what it becomes in difference and score.

    Each visit gets noise of between 0 and `sigma` of what it has. It goes through the filters that the pair
    was subtracted with; a survey would have made its filters anew for the noisier epoch, which differs where
    the PSFs do. The score is scaled by its background's noise: that of a bright source becomes a little too
    small.
    """

    sigma: Annotated[float, Field(ge=0, description="most noise that is added, noise sigmas of science")] = (
        0.3
    )

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        amount = (self.sigma * by_visit(key, items, batch.visits, 1)[0]).astype(np.float32)
        side = side_of(batch.shape, margin=0)
        pair = pair_of(batch, side)
        fresh = noise(key, items, (batch.visits, side, side)) * amount[..., None, None]
        spectrum = np.asarray(fft.rfft2(fresh), np.complex64)
        filters = {
            "science": None,
            "difference": pair.science_d,
            "score": pair.science_d * pair.score,
        }
        pixels = batch.pixels.copy()
        larger = {}
        for name, filter_ in filters.items():
            power = 1.0 if filter_ is None else mean_square(filter_, side)
            larger[name] = np.sqrt(1 + amount**2 * power)
            if name not in batch.planes:
                continue
            added = (
                fresh[..., : batch.shape[0], : batch.shape[1]]
                if filter_ is None
                else stamps_of(spectrum * filter_, side, batch.shape)
            )
            place = batch.planes.index(name)
            pixels[:, :, place] = (pixels[:, :, place] + added) / larger[name][..., None, None]
        background = np.square(batch.sigma_d) / pair.energy
        return batch.having(
            pixels=pixels,
            sigma_n=batch.sigma_n * larger["science"],
            sigma_d=batch.sigma_d * larger["difference"],
            snr=_fainter(batch, background * (larger["score"] ** 2 - 1), background),
        )


class Width(Transform):
    """Worse seeing: every PSF of a sample convolved with one Gaussian, under white noise as before.

    What the Gaussian takes from the noise at high frequency is given back as fresh noise, which is common to
    the planes as the pair's filters make it: exact for white noise and seeing discs (`pair`). Kinds that no
    PSF has blurred (`SHARP`) stay, so keep this small beside the spread of seeing, or stars tell what the
    sample is.
    """

    fwhm: Annotated[float, Field(ge=0, description="widest Gaussian, FWHM in pixels")] = 1.0

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        wider = np.where(is_one_of(batch.kind, SHARP), 0, self.fwhm * by_sample(key, items, 1)[0])
        wider = np.asarray(wider, np.float32)[:, None]
        side = side_of(batch.shape)
        pair = pair_of(batch, side)
        blur = np.exp(-((wider[..., None, None] / FWHM) ** 2) * frequencies(side) / 2)
        energy = mean_square(pair.psf_d * blur, side)

        # what the blur takes: of the template once, of each epoch
        given = np.asarray(fft.rfft2(noise(key, items, (1 + batch.visits, side, side))), np.complex64)
        given *= np.sqrt(np.maximum(1 - blur**2, 0))
        of_r, of_n = given[:, :1], given[:, 1:]
        of_d = pair.science_d * of_n - pair.reference_d * of_r
        matched = np.asarray(blur * pair.psf_d / np.sqrt(energy)[..., None, None], np.float32)
        louder = np.asarray(np.sqrt(pair.energy / energy)[..., None, None], np.float32)
        made: dict[str, tuple[Filter, NDArray[Any]]] = {
            "science": (blur, of_n),
            "template": (blur, of_r),
            "difference": (blur, of_d),
            "score": (louder * blur**2, matched * of_d),
        }
        pixels = batch.pixels.copy()
        changed = wider[:, 0] > 0
        for place, name in enumerate(batch.planes):
            filter_, fresh = made[name]
            stamps: Pixels = batch.pixels[:, :, place]
            blurred = stamps_of(transformed(stamps, side) * filter_ + fresh, side, batch.shape)
            blurred[np.isnan(stamps)] = np.nan
            pixels[changed, :, place] = blurred[changed]
        background, after = (np.square(batch.sigma_d) / value for value in (pair.energy, energy))
        return batch.having(
            pixels=pixels,
            fwhm_n=np.hypot(batch.fwhm_n, wider),
            fwhm_r=np.hypot(batch.fwhm_r, wider),
            snr=_fainter(batch, after - background, background),
        )


def _fainter(batch: Batch, added: Floats, background: Floats) -> Floats:
    """SNR when variance is added to that of the flux, electron²; a source's own noise stays as it is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        before = np.where(batch.snr * batch.flux != 0, np.square(batch.flux / batch.snr), background)
    return np.asarray(batch.snr / np.sqrt(1 + added / before), np.float32)
