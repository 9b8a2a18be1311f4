"""NumPy arrays and torch tensors through one set of calls."""

import importlib
import math
import sys
import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft

#: A NumPy array or a torch tensor.
Array: TypeAlias = Any

_KEPT_BYTES = 2**28
_thread = threading.local()


@dataclass(frozen=True)
class Namespace:
    """Functions of one array library.

    Attributes
    ----------
    xp : module
        `numpy` or `torch`; only what both spell alike is called.
    fft : module
        `scipy.fft` or `torch.fft`; arguments go by position, since their names differ.
    device : torch.device or None
        None is NumPy.
    """

    xp: Any
    fft: Any
    device: Any

    @property
    def on_host(self) -> bool:
        """Whether arrays lie in the memory of the processor."""
        return self.device is None or self.device.type == "cpu"

    def float32(self, values: Any) -> Array:
        """Values as float32 on this device, without gradients; the same memory where they already are."""
        if self.device is None:
            return np.asarray(values, dtype=np.float32)
        return self.xp.as_tensor(values, dtype=self.xp.float32, device=self.device).detach()

    def moved(self, values: NDArray[Any]) -> Array:
        """A NumPy array on this device, of the same type."""
        return values if self.device is None else self.xp.as_tensor(values, device=self.device)

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Float32, not set."""
        place = {} if self.device is None else {"device": self.device}
        return self.xp.empty(shape, dtype=self.xp.float32, **place)

    def scratch(self, shape: tuple[int, ...]) -> Array:
        """Complex64, not set; on the host overwritten by the next scratch array of this thread."""
        if self.on_host:
            made = scratch(shape, np.complex64)
            return made if self.device is None else self.xp.from_numpy(made)
        return self.xp.empty(shape, dtype=self.xp.complex64, device=self.device)

    def along_columns(self, spectrum: Array, *, inverse: bool = False) -> Array:
        """Complex transform along the second last axis; may use up the memory of `spectrum`."""
        one = self.fft.ifft if inverse else self.fft.fft
        if self.device is None:
            return one(spectrum, None, -2, overwrite_x=True)
        return one(spectrum, None, -2)


def scratch(shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """An array in memory that the thread keeps, not set: fresh pages cost as much as transforming them does.

    The next call in the thread overwrites it. More than 256 MiB is not kept.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _KEPT_BYTES:
        return np.empty(shape, dtype)
    kept: NDArray[np.uint8] | None = getattr(_thread, "kept", None)
    if kept is None or kept.size < size:
        kept = _thread.kept = np.empty(size, np.uint8)
    return kept[:size].view(dtype).reshape(shape)


def namespace(array: Array) -> Namespace:
    """The library of an array; torch is imported only where a tensor shows that it is there."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if isinstance(array, torch.Tensor):
            return Namespace(torch, torch.fft, array.device)
    return Namespace(np, fft, None)


def on_device(device: Any) -> Namespace:
    """NumPy for None, else torch on that device, as `torch.device` spells it."""
    if device is None:
        return Namespace(np, fft, None)
    torch = importlib.import_module("torch")
    return Namespace(torch, torch.fft, torch.device(device))


def to_host(array: Array) -> NDArray[Any]:
    """As a NumPy array."""
    return np.asarray(array if isinstance(array, np.ndarray) else array.cpu())
