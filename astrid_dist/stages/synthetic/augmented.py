"""Samples that are stored augmented: a chain of transforms over the columns of a group."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.augmentation import Batch, Compose
from astrid_dist.stages.synthetic.stamps import peaks
from astrid_dist.store.quantise import quantise
from astrid_dist.store.sample_layout import PLANES, STAMP

#: Columns of samples that a batch has under the same name.
_SAME = (
    "target", "offset_x", "offset_y", "flux", "snr", "band", "sigma_n", "sigma_r", "sigma_d", "fwhm_n",
    "fwhm_r", "flux_ratio", "kind", "label", "weight",
)  # fmt: skip


def augment(columns: dict[str, NDArray[Any]], chain: Compose, seed: int) -> None:
    """Change samples in place as a chain of transforms says; keyed by each sample's item."""
    batch = Batch(
        planes=PLANES,
        pixels=columns["pixels"].astype(np.float32),
        class_code=columns["class"],
        **{name: columns[name] for name in _SAME},
    )
    made = chain(batch, seed, columns["item"])
    columns["pixels"] = quantise(made.pixels)
    columns["class"] = made.class_code
    for name in _SAME:
        columns[name] = getattr(made, name)
    middle = STAMP // 2
    for visit in range(batch.visits):
        x, y = (
            np.clip(np.rint(np.nan_to_num(offset[:, visit])), -middle, middle).astype(np.int64) + middle
            for offset in (made.offset_x, made.offset_y)
        )
        score = np.ascontiguousarray(made.pixels[:, visit, PLANES.index("score")])
        columns["peak"][:, visit] = peaks(score, x, y)
