"""Stamps of samples: cut from a host and what was added, in noise sigmas, with their target masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.philox import compiled
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import Host
from astrid_dist.store.sample_layout import STAMP

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

_HALF = STAMP // 2
#: Half width of the square of the truth mask that every object has.
_LEAST = 1


@dataclass(frozen=True)
class Stamps:
    """n samples of one visit."""

    pixels: Float32
    """(n, plane, v, u) in noise sigmas; NaN no data."""
    target: NDArray[np.bool_]
    """(n, v, u) where its own pattern stands above one sigma of the difference, joined to its middle."""
    peak: Float32
    """(n,) S_corr of largest size within two pixels of the object."""
    strength: Float32
    """(n,) largest change of S_corr in the stamp; infinite where data were lost."""


@compiled
def cut_linear(
    pixels: Float32,
    science: Float32,
    template: Float32,
    difference: Float32,
    S_n: Float32,
    S_r: Float32,
    level: Float32,
    variance: Float32,
    added_n: Float32,
    added_r: Float32,
    added_d: Float32,
    added_sn: Float32,
    added_sr: Float32,
    added_v: Float32,
    lost: NDArray[np.bool_],
    column: Int64,
    row: Int64,
    scales: NDArray[np.float64],
    astrometric: NDArray[np.float64],
    ratio_error: float,
    renormalisation: float,
) -> None:
    """Planes of samples: the host's and what was added, the score put together as ZOGY eq. 25-33 does.

    `added_n`, `added_r` are (n, 63, 63), the responses (n, 65, 65): the score's slope needs its neighbours.
    """
    half = pixels.shape[2] // 2
    side = pixels.shape[2]
    nan = np.float32(np.nan)
    wx, wy = astrometric[0] ** 2 / 8, astrometric[1] ** 2 / 8
    both = added_sr.shape[0] > 0
    n_scale, r_scale = np.float32(1 / scales[0]), np.float32(1 / scales[1])
    d_scale = np.float32(1 / scales[2])
    for i in range(pixels.shape[0]):
        top, left = row[i] - half, column[i] - half
        for v in range(side):
            y = top + v
            for u in range(side):
                x = left + u
                pixels[i, 0, v, u] = (science[y, x] + added_n[i, v, u]) * n_scale
                pixels[i, 1, v, u] = (template[y, x] + added_r[i, v, u]) * r_scale
                if lost[i, v, u]:
                    pixels[i, 2, v, u] = nan
                    pixels[i, 3, v, u] = nan
                    continue
                pixels[i, 2, v, u] = (difference[y, x] + added_d[i, v + 1, u + 1]) * d_scale
                here_n = S_n[y, x] + added_sn[i, v + 1, u + 1]
                here_r = S_r[y, x]
                whole = variance[y, x] + added_v[i, v + 1, u + 1]
                across = S_n[y, x + 1] + added_sn[i, v + 1, u + 2] - S_n[y, x - 1] - added_sn[i, v + 1, u]
                along = S_n[y + 1, x] + added_sn[i, v + 2, u + 1] - S_n[y - 1, x] - added_sn[i, v, u + 1]
                across_r = S_r[y, x + 1] - S_r[y, x - 1]
                along_r = S_r[y + 1, x] - S_r[y - 1, x]
                if both:
                    here_r += added_sr[i, v + 1, u + 1]
                    across_r += added_sr[i, v + 1, u + 2] - added_sr[i, v + 1, u]
                    along_r += added_sr[i, v + 2, u + 1] - added_sr[i, v, u + 1]
                # beside what holds no data there is no slope
                if across - across == 0:
                    whole += wx * across * across
                if along - along == 0:
                    whole += wy * along * along
                if across_r - across_r == 0:
                    whole += wx * across_r * across_r
                if along_r - along_r == 0:
                    whole += wy * along_r * along_r
                whole += (ratio_error * here_r) ** 2
                if whole > 0:
                    score = (here_n - here_r - level[y, x]) / np.sqrt(whole) / renormalisation
                    pixels[i, 3, v, u] = np.float32(score)
                else:
                    pixels[i, 3, v, u] = nan


@compiled
def cut_images(
    pixels: Float32,
    plane: int,
    image: Float32,
    column: Int64,
    row: Int64,
    scale: float,
) -> None:
    """One plane of samples, cut from an image."""
    half = pixels.shape[2] // 2
    factor = np.float32(1 / scale)
    for i in range(pixels.shape[0]):
        for v in range(pixels.shape[2]):
            for u in range(pixels.shape[3]):
                pixels[i, plane, v, u] = image[row[i] - half + v, column[i] - half + u] * factor


@compiled
def footprints(pattern: Float32, level: float, x: Int64, y: Int64, target: NDArray[np.bool_]) -> None:
    """Mark in `target` (n, v, u) what of a pattern lies above a level and is joined to a pixel; 3×3 always.

    The middle of what moves light (a ring, a pair) may itself be near zero, so what touches the 3×3 counts as
    joined.
    """
    side = pattern.shape[1]
    stack = np.empty((side * side, 2), np.int64)
    for i in range(pattern.shape[0]):
        depth = 0
        for v in range(max(y[i] - _LEAST, 0), min(y[i] + _LEAST + 1, side)):
            for u in range(max(x[i] - _LEAST, 0), min(x[i] + _LEAST + 1, side)):
                target[i, v, u] = True
                stack[depth, 0], stack[depth, 1] = v, u
                depth += 1
        while depth > 0:
            depth -= 1
            v0, u0 = stack[depth, 0], stack[depth, 1]
            for v in range(max(v0 - 1, 0), min(v0 + 2, side)):
                for u in range(max(u0 - 1, 0), min(u0 + 2, side)):
                    if not target[i, v, u] and abs(pattern[i, v, u]) > level:
                        target[i, v, u] = True
                        stack[depth, 0], stack[depth, 1] = v, u
                        depth += 1


def peaks(score: Float32, x: Int64, y: Int64) -> Float32:
    """(n,) value of largest size within two pixels of a place of each stamp (n, v, u); NaN without data."""
    found = np.full(len(score), np.nan, np.float32)
    _peaks(score, x, y, found)
    return found


@compiled
def _peaks(score: Float32, x: Int64, y: Int64, found: Float32) -> None:
    for i in range(score.shape[0]):
        best = -1.0
        for v in range(max(y[i] - 2, 0), min(y[i] + 3, score.shape[1])):
            for u in range(max(x[i] - 2, 0), min(x[i] + 3, score.shape[2])):
                if abs(score[i, v, u]) > best:
                    best = abs(score[i, v, u])
                    found[i] = score[i, v, u]


@compiled
def _strengths(score: Float32, before: Float32, column: Int64, row: Int64, found: Float32) -> None:
    """Largest change of S_corr in each stamp."""
    half = score.shape[1] // 2
    for i in range(score.shape[0]):
        for v in range(score.shape[1]):
            for u in range(score.shape[2]):
                was = before[row[i] - half + v, column[i] - half + u]
                if was != was:
                    continue
                apart = abs(score[i, v, u] - was)
                if apart != apart:
                    found[i] = np.float32(np.inf)
                elif apart > found[i]:
                    found[i] = apart


def scales_of(host: Host) -> NDArray[np.float64]:
    """Noise by which science, template and difference are divided, electrons of each."""
    return np.array([host.recipe.sigma_n, host.recipe.sigma_r, host.sigma_d])


def finish(pixels: Float32, pattern: Float32, host: Host, drawn: Samples, at: NDArray[Any]) -> Stamps:
    """Stamps with target, peak and strength.

    Parameters
    ----------
    pixels : (n, plane, v, u) float32
    pattern : (n, v, u) float32
        What was added to the difference, electrons of the reference.
    host : Host
    drawn : Samples
    at : (n, 2) int
        Pixel (x, y) of each stamp that its object lies in.
    """
    x, y = (np.ascontiguousarray(at[:, k], np.int64) for k in (0, 1))
    target = np.zeros(pattern.shape, bool)
    footprints(pattern, host.sigma_d, x, y, target)
    strength = np.zeros(len(pixels), np.float32)
    _strengths(pixels[:, 3], host.score, drawn.column, drawn.row, strength)
    return Stamps(pixels, target, peaks(pixels[:, 3], x, y), strength)
