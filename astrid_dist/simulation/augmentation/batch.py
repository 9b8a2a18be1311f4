"""A batch of training samples: stamps in noise sigmas, their targets, and what is known about them."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError

#: Planes of a stamp, in their order; a sample may lack some.
PLANES = ("science", "template", "difference", "score")

Pixels = NDArray[np.float32]
#: Numbers by sample, or by sample and visit.
Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """n samples of one or more visits each; nothing in it is changed in place."""

    planes: tuple[str, ...]
    """Which of `PLANES` there are, in their order."""
    pixels: Pixels
    """(n, visit, plane, y, x), noise sigmas above the sky; NaN no data."""
    target: NDArray[np.uint16]
    """(n, visit, y, x), bits of `astrid_dist.taxonomy.class_bit`."""
    offset_x: Numbers
    """(n, visit), object minus middle of the stamp, columns, pixels; so are all below up to `flux_ratio`."""
    offset_y: Numbers
    flux: Numbers
    """Electrons of the reference, signed."""
    snr: Numbers
    """True signal to noise, signed as the flux is."""
    band: Numbers
    sigma_n: Numbers
    """Electrons: noise by which the science plane was divided."""
    sigma_r: Numbers
    """Electrons of the reference."""
    sigma_d: Numbers
    """Electrons of the reference."""
    fwhm_n: Numbers
    """Pixels: full width at half maximum of the science PSF."""
    fwhm_r: Numbers
    flux_ratio: Numbers
    """Flux scale of science over reference."""
    kind: Numbers
    """(n,), positions in `astrid_dist.taxonomy.KINDS`, -1 unknown; so are all below."""
    class_code: Numbers
    """Positions in `astrid_dist.taxonomy.CLASSES`."""
    label: Numbers
    """1 real, 0 bogus, between them soft."""
    weight: Numbers

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        order = [PLANES.index(name) for name in self.planes if name in PLANES]
        if len(order) != len(self.planes) or order != sorted(set(order)) or not order:
            raise InputError(f"batch: planes are {self.planes}, they must be some of {PLANES}, in this order")
        shape = self.pixels.shape
        if self.pixels.ndim != 5 or shape[2] != len(self.planes):
            raise InputError(
                f"batch: pixels are {shape}, they must be (n, visit, {len(self.planes)} planes, y, x)"
            )
        expected = {"target": (*shape[:2], *shape[3:])}
        for field in fields(self)[2:]:
            wanted = expected.get(field.name, shape[:1] if field.name in _PER_SAMPLE else shape[:2])
            found = np.shape(getattr(self, field.name))
            if found != wanted:
                raise InputError(f"batch: {field.name} is {found}, beside pixels {shape} it must be {wanted}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def visits(self) -> int:
        """Visits of a sample."""
        return int(self.pixels.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a stamp."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def plane(self, name: str) -> Pixels | None:
        """(n, visit, y, x) of one plane, shared with `pixels`; None where the batch lacks it."""
        return self.pixels[:, :, self.planes.index(name)] if name in self.planes else None

    def having(self, **changed: Any) -> "Batch":
        """The batch with some of its arrays replaced; each keeps its type."""
        kept = {
            name: np.asarray(values).astype(getattr(self, name).dtype, copy=False)
            for name, values in changed.items()
            if name != "planes"
        }
        return replace(self, **changed | kept)

    def __getitem__(self, chosen: Any) -> "Batch":
        """Some of the samples, by a slice, a mask or positions."""
        return replace(self, **{field.name: getattr(self, field.name)[chosen] for field in fields(self)[1:]})


_PER_SAMPLE = ("kind", "class_code", "label", "weight")
