"""Large arrays whose memory is used again: to get new pages of it takes longer than to decode into them."""

import math
from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Memory:
    """Arrays, given back by themselves once nobody holds one, or a view or tensor of one, any more."""

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[NDArray[np.uint8]]] = defaultdict(deque)

    def array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array whose values are anything; for any number of threads."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        free = self._free[size]
        try:
            block = free.pop()
        except IndexError:
            block = np.empty(size, np.uint8)
        return np.asarray(_Loan(block, free)).view(dtype).reshape(shape)


class _Loan:
    """A block that is lent: every array made of it holds this, and nothing else does."""

    def __init__(self, block: NDArray[np.uint8], free: "deque[NDArray[np.uint8]]") -> None:
        self.__array_interface__ = block.__array_interface__
        self._block, self._free = block, free

    def __del__(self) -> None:
        self._free.append(self._block)
