"""Pixels as multiples of an eighth of the noise: what is lost is far below it, what is left packs well.

Rounding to 1/8 adds an error of 1/8/sqrt(12) = 0.036 noise sigmas rms, which raises the noise by 0.065 %.
Half floats hold every eighth up to 256 exactly; beyond, their own steps are coarser: 3/4096 of the value is
lost at most.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Steps per noise sigma.
STEPS = 8
#: Largest half float; brighter pixels are cut to it.
LARGEST = 65504.0

_BLOCK = 4096
#: Adding and taking away 1.5 * 2^23 / STEPS rounds a float32 to a multiple of 1 / STEPS, ties to even.
_ROUNDER = np.float32(1.5 * 2**23 / STEPS)
#: Float32 times this has the exponent bits of the half float in front of its mantissa.
_SHIFT = np.float32(2.0**-112)
_CUT = np.uint32((np.float32(LARGEST) * _SHIFT).view(np.uint32))
_NAN, _INFINITE = np.uint32(0x7E00), np.uint32(0x7F800000)
_SIGN, _SIZE, _HALF = np.uint32(0x8000), np.uint32(0x7FFFFFFF), np.uint32(0x1000)


def quantise(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to 1/8, as half floats; 0.7 ns per value, where NumPy's own cast alone takes 2.6.

    Parameters
    ----------
    values : (...) float32
        In noise sigmas.

    Returns
    -------
    (...) float16
        NaN stays; what is infinite tells nothing and becomes NaN; beyond ±65504 values are cut.

    Examples
    --------
    >>> quantise(np.array([0.3, -0.07, 1e9, np.nan], "f4"))
    array([ 2.50e-01, -1.25e-01,  6.55e+04,       nan], dtype=float16)
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits: NDArray[Any] = np.empty(flat.size, np.uint16)
    block = np.empty(_BLOCK, np.float32)
    _pack(flat, bits, block, block.view(np.uint32))
    return bits.view(np.float16).reshape(np.shape(values))


@njit(cache=True, nogil=True)
def _pack(values, bits, block, block_bits):  # type: ignore[no-untyped-def]
    """Bits of half floats; two short loops over a block in cache, so that both are vectorised."""
    for start in range(0, values.size, block.size):
        part = values[start : start + block.size]
        out = bits[start : start + block.size]
        for i in range(part.size):
            block[i] = ((part[i] + _ROUNDER) - _ROUNDER) * _SHIFT
        for i in range(part.size):
            size = block_bits[i] & _SIZE
            half = (min(size, _CUT) + _HALF) >> np.uint32(13) | (block_bits[i] >> np.uint32(16)) & _SIGN
            out[i] = half if size < _INFINITE else _NAN
