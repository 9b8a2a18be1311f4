"""Filters of a sample's subtraction, from what a sample keeps of its pair: FWHM, noise and flux ratio.

Proper subtraction is linear (Zackay, Ofek & Gal-Yam 2016, eq. 13-15 and 26-29), so what is added to science
or template goes to difference and score through filters. They are made here for the seeing disc of a
turbulent atmosphere (Fried 1966), whose transform is real and closed, exp(-3.44 (f lambda / r0)^5/3); the
filters of the pair itself are `astrid_dist.imaging.response`'s. Measured against those, for pairs of Gaussian
and for pairs of Moffat PSFs (beta 3) of 2.5 to 4 px, the level of noise is right to 1.2 % in the score, and
in the difference to 1.1 % unless science is a little sharper than the template (11 %); what a single pixel of
science leaves is right to 5 % of its peak in the score (a track of eight pixels to 9 %), to 1 % in the
difference or, where science is sharper, to 22 %; the response of the score to a constant to 15 %.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from astrid_dist.errors import InputError
from astrid_dist.simulation.augmentation.batch import Batch, Pixels
from astrid_dist.simulation.augmentation.shift import filled

Spectrum = NDArray[np.complex64]
Filter = NDArray[np.float32]

#: FWHM of a Gaussian over its standard deviation.
FWHM = float(np.sqrt(8 * np.log(2)))
#: Pixels by which stamps are held beyond their border before they are filtered, at least.
_MARGIN = 8


@dataclass(frozen=True, eq=False)
class Pair:
    """Filters of every sample and visit on square grids of `side` pixels, transforms (n, visit, ky, kx).

    They take planes in noise sigmas to planes in noise sigmas: those of white noise of unit variance in
    science and in template add up to white noise of unit variance in difference and to unit variance in
    score.
    """

    side: int
    science_d: Filter
    """Science to difference; to be subtracted: `reference_d`."""
    reference_d: Filter
    psf_d: Filter
    """PSF of the difference, of unit sum."""
    energy: NDArray[np.float32]
    """(n, visit): sum of squares of that PSF."""

    @property
    def score(self) -> Filter:
        """Difference to score: the matched filter, scaled to unit noise."""
        return np.asarray(self.psf_d / np.sqrt(self.energy)[..., None, None], np.float32)


def pair_of(batch: Batch, side: int) -> Pair:
    """Filters of a batch.

    Raises
    ------
    InputError
        A width, noise or flux ratio that is not a positive number.
    """
    for name in ("fwhm_n", "fwhm_r", "sigma_n", "sigma_r", "flux_ratio"):
        values = np.asarray(getattr(batch, name))
        bad = np.argwhere(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            sample, visit = bad[0]
            raise InputError(
                f"augmentation: {name} of sample {sample}, visit {visit} is {values[sample, visit]}; filters "
                "of a pair need a positive number: leave out such samples, or what changes light and noise"
            )
    science = np.asarray(batch.sigma_n, np.float64) / batch.flux_ratio
    share = science**2 / (science**2 + np.asarray(batch.sigma_r, np.float64) ** 2)
    share_n = np.asarray(share, np.float32)[..., None, None]
    science_log, reference_log = (_log_transform(fwhm, side) for fwhm in (batch.fwhm_n, batch.fwhm_r))
    # the ratio of both transforms, never each alone: far out they are nothing over nothing
    contrast = np.exp(np.clip(science_log - reference_log, -40, 40))
    root = np.sqrt(share_n + (1 - share_n) * contrast**2)
    psf_d = np.exp(science_log) / root
    return Pair(
        side, np.sqrt(share_n) / root, np.sqrt(1 - share_n) * contrast / root, psf_d, mean_square(psf_d, side)
    )


def _log_transform(fwhm: NDArray[Any], side: int) -> Filter:
    """Logarithm of a seeing disc's transform: 3.44 (f lambda / r0)^5/3 with FWHM = 0.976 lambda / r0."""
    scale = np.asarray(3.44 * (fwhm / (2 * np.pi * 0.976)) ** (5 / 3), np.float32)
    return np.asarray(-scale[..., None, None] * frequencies(side) ** np.float32(5 / 6), np.float32)


@lru_cache(maxsize=8)
def frequencies(side: int) -> Filter:
    """Squared angular frequencies (ky, kx), radians² per pixel²."""
    ky, kx = 2 * np.pi * np.fft.fftfreq(side), 2 * np.pi * np.fft.rfftfreq(side)
    return np.asarray(ky[:, None] ** 2 + kx**2, np.float32)


def mean_square(filters: Filter, side: int) -> NDArray[np.float32]:
    """Variance of white noise of unit variance that has gone through filters."""
    both = np.full(filters.shape[-1], 2.0, np.float32)
    both[0] = 1
    if side % 2 == 0:
        both[-1] = 1
    return np.asarray(np.einsum("...yx,...yx,x->...", filters, filters, both) / side**2, np.float32)


def side_of(shape: tuple[int, int], margin: int = _MARGIN) -> int:
    """Side of a grid for stamps, with their margin."""
    return int(fft.next_fast_len(max(shape) + 2 * margin, real=True))


def transformed(stamps: Pixels, side: int) -> Spectrum:
    """Transforms of (n, visit, y, x) stamps; holes are filled, and the border is held around."""
    whole = filled(stamps)
    before = [(side - length) // 2 for length in stamps.shape[-2:]]
    after = [side - length - first for length, first in zip(stamps.shape[-2:], before, strict=True)]
    around = [(0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])]
    return np.asarray(fft.rfft2(np.pad(whole, around, mode="edge")), np.complex64)


def stamps_of(spectrum: Spectrum, side: int, shape: tuple[int, int]) -> Pixels:
    """The middle (n, visit, y, x) of transformed grids."""
    y, x = (slice((side - length) // 2, (side - length) // 2 + length) for length in shape)
    return np.asarray(fft.irfft2(spectrum, (side, side)), np.float32)[..., y, x]
