"""What something added to a pair of images adds to their difference and score.

Proper subtraction is linear in both images (Zackay, Ofek & Gal-Yam 2016, eq. 13 and 26-29): a pattern goes
through the filters of the pair alone, and is added to what was there. Patterns are small, so this takes a
fraction of a subtraction. It says what the subtraction would have said as long as nothing it depends on
changes: PSFs, flux ratio, registration, background and masks stay those of the pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from astrid_dist.errors import InputError
from astrid_dist.imaging.filters import SubtractionPlan

Image = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

#: Padded pixels transformed together: so many that NumPy's calls do not count, and still in a cache.
_CACHED_PIXELS = 2**16


@dataclass(frozen=True)
class Response:
    """What patterns add, (n, y, x) float32 each, in electrons of the reference."""

    difference: Image
    science_score: Image
    """To S_n / F_S: flux that the epoch gives to the score."""
    reference_score: Image | None
    """To S_r / F_S; None where nothing was added to the reference."""
    variance: Image
    """To the variance of the score, electron²."""


def respond(
    plan: SubtractionPlan,
    science: Image,
    science_variance: Image,
    reference: Image | None = None,
    reference_variance: Image | None = None,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    margin: int = 0,
) -> Response:
    """What patterns add to difference and score.

    Parameters
    ----------
    plan : SubtractionPlan
        Filters of the pair on windows of the patterns' shape.
    science, reference : (n, y, x) float32
        What is added to the epoch and to the reference, in electrons of each; finite. None: nothing.
    science_variance, reference_variance : (n, y, x) float32
        What is added to their variance planes, electron².
    shift : (float, float)
        (dx, dy) by which the pair's subtraction moves the science image back, pixels.
    margin : int
        Pixels of the windows' border that are left out of the response: patterns there count, what they leave
        there does not.

    Raises
    ------
    InputError
        Windows of another shape than the plan's, or a margin that leaves nothing.
    """
    given = [science, science_variance, reference, reference_variance]
    for one in given:
        if one is not None and (one.ndim != 3 or one.shape[1:] != plan.shape or len(one) != len(science)):
            raise InputError(f"patterns are {one.shape}, the filters are for (n, {plan.shape})")
    height, width = plan.shape[0] - 2 * margin, plan.shape[1] - 2 * margin
    if margin < 0 or min(height, width) < 1:
        raise InputError(f"a margin of {margin} px leaves nothing of windows of {plan.shape}")
    shape = (len(science), height, width)
    both = reference is not None
    made = Response(
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
        np.empty(shape, np.float32) if both else None,
        np.empty(shape, np.float32),
    )
    ramp = _ramp(plan.padded, shift)
    rows = slice(margin, margin + height)
    columns = slice(margin, margin + width)

    def images(spectrum: Spectrum) -> Image:
        lines = fft.ifft(spectrum, axis=1, overwrite_x=True)[:, rows]
        full: Image = fft.irfft(lines, plan.padded[1], axis=2)
        return full[..., columns]

    for part in _blocks(len(science), plan.padded):
        N, Vn = (_transformed(one[part], plan.padded) for one in (science, science_variance))
        if ramp is not None:
            N *= ramp
            Vn *= ramp
        N *= plan.science_d
        Vn *= plan.science_v
        S = N * plan.match
        if reference is not None:
            R = _transformed(reference[part], plan.padded)
            R *= plan.reference_d
            N -= R
            R *= plan.match
            assert made.reference_score is not None
            made.reference_score[part] = images(R)
        if reference_variance is not None:
            Vr = _transformed(reference_variance[part], plan.padded)
            Vr *= plan.reference_v
            Vn += Vr
        made.difference[part] = images(N)
        made.science_score[part] = images(S)
        made.variance[part] = images(Vn)
    return made


def _transformed(windows: Image, padded: tuple[int, int]) -> Spectrum:
    """Transforms of windows put at [0, 0] of a grid of zeros."""
    rows = fft.rfft(windows, padded[1], axis=2)
    return np.asarray(fft.fft(rows, padded[0], axis=1, overwrite_x=True), np.complex64)


def _blocks(count: int, padded: tuple[int, int]) -> Iterator[slice]:
    size = max(1, _CACHED_PIXELS // (padded[0] * padded[1]))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _ramp(padded: tuple[int, int], shift: tuple[float, float]) -> Spectrum | None:
    """Shift theorem: moves an image by (-dx, -dy)."""
    if not any(shift):
        return None
    rows = np.exp(2j * np.pi * shift[1] * np.fft.fftfreq(padded[0]))
    columns = np.exp(2j * np.pi * shift[0] * np.fft.rfftfreq(padded[1]))
    return np.asarray(rows[:, None] * columns, np.complex64)
