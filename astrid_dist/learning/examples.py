"""A batch of training samples as torch tensors: what a network sees, and what it should have said."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """n samples of up to `visit` visits; places without a visit have `seen` false and pixels NaN."""

    pixels: Tensor
    """(n, visit, plane, y, x) float32, noise sigmas, NaN no data; planes are science, template, difference,
    score, absent ones all NaN."""
    target: Tensor
    """(n, visit, y, x) int32, bits of `astrid_dist.taxonomy.class_bit`."""
    seen: Tensor
    """(n, visit) bool, whether the visit exists."""
    days: Tensor
    """(n, visit) float32, days since the first visit."""
    band: Tensor
    """(n, visit) int64, 1 + position in the run's list of ``survey/band``; 0 unknown."""
    survey: Tensor
    """(n,) int64, 1 + position in the run's list of surveys; 0 unknown."""
    class_code: Tensor
    """(n,) int64, position in `astrid_dist.taxonomy.CLASSES`."""
    label: Tensor
    """(n,) float32, 1 real, 0 bogus, between them soft."""
    weight: Tensor
    """(n,) float32, weight in the loss."""
    x: Tensor
    """(n,) float32, pixels: object minus middle pixel of the stamp, at the visit of largest |snr|."""
    y: Tensor
    flux: Tensor
    """(n, visit) float32, in units of sigma_d, signed; NaN unknown."""
    snr: Tensor
    """(n, visit) float32, true signal to noise, signed; NaN unknown."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: slice | Tensor) -> "Examples":
        """Some of the samples."""
        return self._each(lambda values: values[chosen])

    def part(self, rows: slice, columns: slice) -> "Examples":
        """Stamps of fewer pixels; x and y still count from the middle of the whole ones."""
        cut = (..., rows, columns)
        return replace(self, pixels=self.pixels[cut], target=self.target[cut])

    def places(self, x: float, y: float) -> Tensor:
        """The same place in each image, as a network is asked: image, x, y, (n, 3) float32."""
        at = torch.tensor([0.0, x, y], device=self.pixels.device).repeat(len(self), 1)
        at[:, 0] = torch.arange(len(self), device=at.device)
        return at

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Examples":
        """On another device."""
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Examples":
        """In page-locked memory, from where a GPU copies while it computes."""
        return self._each(lambda values: values.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Examples":
        return Examples(**{field.name: change(getattr(self, field.name)) for field in fields(self)})
