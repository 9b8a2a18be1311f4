"""Random numbers that depend on what they are for: (seed, stage, item, draw), in numba and in numpy.

Philox4x32-10 (Salmon et al. 2011) enciphers the counter (draw, item) with a key made of seed and stage, so
any number can be had without those before it. For noise in many pixels of one item, `block` takes 128 bits of
Philox per item and `normal_at` mixes them with the pixel's number (SplitMix64: Steele et al. 2014), which is
several times as fast and as free of order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compiled by numba at the first call, kept on disk, without Python's global lock."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


_WORD = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_12, _24, _27, _30, _31 = (np.uint64(n) for n in (12, 24, 27, 30, 31))
_LAYER, _LOW_24 = np.uint64(0xFF), np.uint64(0xFFFFFF)


def stream(seed: int, stage: str) -> np.uint64:
    """Key of all the draws of one stage of a job.

    Parameters
    ----------
    seed : int
        Root seed of the job, not negative.
    stage : str
        What the numbers are for, for example ``"shot noise"``.

    Raises
    ------
    InputError
        Negative seed.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative: give 0 or more")
    digest = hashlib.blake2b(f"{seed}/{stage}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


@compiled
def philox(key: np.uint64, low: np.uint64, high: np.uint64) -> tuple[np.uint64, np.uint64]:
    """128 random bits of a 128-bit counter, as two words of 64; the lower 32 bits of each come first."""
    c0, c1, c2, c3 = low & _WORD, low >> _32, high & _WORD, high >> _32
    k0, k1 = key & _WORD, key >> _32
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _WORD, (p0 >> _32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0 | (c1 << _32), c2 | (c3 << _32)


@compiled
def _unit(word: np.uint64) -> float:
    """Upper 52 bits of a word as a number in (0, 1), never 0 or 1."""
    return (float(word >> _12) + 0.5) * 2.0**-52


@compiled
def uniform(key: np.uint64, item: int, draw: int) -> float:
    """Number in (0, 1)."""
    word, _ = philox(key, np.uint64(draw), np.uint64(item))
    return _unit(word)


@compiled
def normal(key: np.uint64, item: int, draw: int) -> float:
    """Number from N(0, 1), independent of `uniform` of the same draw (Box & Muller 1958; |value| < 7.6)."""
    _, word = philox(key, np.uint64(draw), np.uint64(item))
    radius = math.sqrt(-2.0 * math.log((float(word >> _24) + 0.5) * 2.0**-40))
    return radius * math.cos(2.0 * math.pi * (float(word & _LOW_24) + 0.5) * 2.0**-24)


@compiled
def block(key: np.uint64, item: int) -> tuple[np.uint64, np.uint64]:
    """What `normal_at` and `uniform_at` need of an item: apart from all that `uniform` and `normal` draw."""
    return philox(~key, np.uint64(0), np.uint64(item))


@compiled
def _mixed(word: np.uint64) -> np.uint64:
    """SplitMix64's finaliser."""
    word = (word ^ (word >> _30)) * _MIX_1
    word = (word ^ (word >> _27)) * _MIX_2
    return word ^ (word >> _31)


@compiled
def uniform_at(start: np.uint64, twist: np.uint64, index: int) -> float:
    """Number in (0, 1) for the pixel (or any other `index`) of a `block`."""
    return _unit(_mixed((start + np.uint64(index) * _GOLDEN) ^ twist))


def _ziggurat() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of 256 layers of equal area under exp(-x²/2), and its values there (Marsaglia & Tsang 2000)."""
    edge, area = 3.6541528853610088, 0.00492867323399
    x = np.zeros(257)
    x[0], x[1] = area / math.exp(-0.5 * edge * edge), edge
    for i in range(2, 256):
        x[i] = math.sqrt(-2 * math.log(area / x[i - 1] + math.exp(-0.5 * x[i - 1] ** 2)))
    return x, np.exp(-0.5 * x * x)


_EDGES, _HEIGHTS = _ziggurat()


@compiled
def normal_at(start: np.uint64, twist: np.uint64, index: int) -> float:
    """Number from N(0, 1) for the pixel (or any other `index`) of a `block`, by the ziggurat."""
    word = _mixed((start + np.uint64(index) * _GOLDEN) ^ twist)
    layer = word & _LAYER
    value = _in_layer(word, layer)
    if abs(value) < _EDGES[layer + np.uint64(1)]:
        return value
    return _near_an_edge(word, layer, value)  # one in 80; apart, so that the rest is inlined


@compiled
def _in_layer(word: np.uint64, layer: np.uint64) -> float:
    """Even in the layer, of either sign; of bits that the layer's number has not used."""
    return float(np.int64(word) >> 11) * 2.0**-52 * float(_EDGES[layer])


@compiled
def _near_an_edge(word: np.uint64, layer: np.uint64, value: float) -> float:
    while True:
        if layer == 0:
            return math.copysign(_beyond(word), value)
        word = _mixed(word + _GOLDEN)
        height = _HEIGHTS[layer] + _unit(word) * (_HEIGHTS[layer + np.uint64(1)] - _HEIGHTS[layer])
        if height < math.exp(-0.5 * value * value):
            return value
        word = _mixed(word + _GOLDEN)
        layer = word & _LAYER
        value = _in_layer(word, layer)
        if abs(value) < _EDGES[layer + np.uint64(1)]:
            return value


@compiled
def _beyond(word: np.uint64) -> float:
    """Number from the tail of N(0, 1) beyond the last edge (Marsaglia 1964)."""
    while True:
        word = _mixed(word + _GOLDEN)
        past = -math.log(_unit(word)) / _EDGES[1]
        word = _mixed(word + _GOLDEN)
        if -2.0 * math.log(_unit(word)) > past * past:
            return float(_EDGES[1] + past)


@compiled
def _fill(out: NDArray[np.float64], key: np.uint64, items: NDArray[np.int64], gaussian: bool) -> None:
    for i in range(out.shape[0]):
        for draw in range(out.shape[1]):
            out[i, draw] = normal(key, items[i], draw) if gaussian else uniform(key, items[i], draw)


@compiled
def _fill_noise(out: NDArray[np.float32], key: np.uint64, items: NDArray[np.int64]) -> None:
    for i in range(out.shape[0]):
        start, twist = block(key, items[i])
        for index in range(out.shape[1]):
            out[i, index] = normal_at(start, twist, index)


def _items(items: ArrayLike) -> NDArray[np.int64]:
    return np.ascontiguousarray(np.atleast_1d(items), dtype=np.int64)


def uniforms(key: np.uint64, items: ArrayLike, draws: int) -> NDArray[np.float64]:
    """(n, draws) numbers in (0, 1): row i holds `uniform(key, items[i], draw)` for every draw."""
    numbers = _items(items)
    out = np.empty((len(numbers), draws))
    _fill(out, np.uint64(key), numbers, False)
    return out


def normals(key: np.uint64, items: ArrayLike, draws: int) -> NDArray[np.float64]:
    """(n, draws) numbers from N(0, 1): row i holds `normal(key, items[i], draw)` for every draw."""
    numbers = _items(items)
    out = np.empty((len(numbers), draws))
    _fill(out, np.uint64(key), numbers, True)
    return out


def noise(key: np.uint64, items: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(n, *shape) planes of N(0, 1), one per item, for noise in pixels.

    A pixel's value is `normal_at` its index in the plane (C order): it depends on (key, item, index) alone.
    """
    numbers = _items(items)
    out = np.empty((len(numbers), math.prod(shape)), dtype=np.float32)
    _fill_noise(out, np.uint64(key), numbers)
    return out.reshape(len(numbers), *shape)
