"""Transforms that move pixels: flips, quarter-turns, shifts, crops. All visits of a sample move alike."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from astrid_dist.errors import InputError
from astrid_dist.simulation.augmentation.batch import Batch
from astrid_dist.simulation.augmentation.shift import copied, moved, rolled
from astrid_dist.simulation.augmentation.transform import (
    DIRECTED,
    SHARP,
    Probability,
    Transform,
    by_sample,
    is_one_of,
)
from astrid_dist.simulation.philox import compiled


class Flip(Transform):
    """Mirrored left to right, up to down, or both."""

    horizontal: Probability = 0.5
    vertical: Probability = 0.5

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        u, v = by_sample(key, items, 2)
        return _arranged(batch, np.zeros(len(batch), np.int64), u < self.horizontal, v < self.vertical)


class Turn(Transform):
    """Turned by any number of quarter-turns, where the kind of change has no direction (`DIRECTED`)."""

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        if batch.shape[0] != batch.shape[1]:
            raise InputError(f"turn: stamps are {batch.shape}; crop them to a square first")
        turns = np.where(
            is_one_of(batch.kind, DIRECTED), 0, (4 * by_sample(key, items, 1)[0]).astype(np.int64)
        )
        never = np.zeros(len(batch), np.bool_)
        return _arranged(batch, turns, never, never)


class Jitter(Transform):
    """Moved by a part of a pixel, the same in every plane, and by whole pixels.

    What comes from outside is NaN: cut stamps larger than needed, and `crop` afterwards. Kinds that no PSF
    has blurred (`SHARP`) move by whole pixels alone: by one towards the other side, with a probability of
    their offset within the pixel. So places that fill a pixel evenly are spread by half a pixel just as all
    others are, and where the object lies does not tell what it is.
    """

    px: Annotated[float, Field(ge=0, le=0.5, description="largest part of a pixel, either way")] = 0.5
    whole: Annotated[int, Field(ge=0, description="largest number of whole pixels, either way")] = 0

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        if 2 * self.whole >= min(batch.shape):
            raise InputError(f"jitter: whole is {self.whole} px, more than half of a stamp of {batch.shape}")
        draws = by_sample(key, items, 4)
        offset = np.nan_to_num(np.stack([batch.offset_x[:, 0], batch.offset_y[:, 0]]))
        within = offset - np.rint(offset)
        step = np.where(draws[:2] < np.abs(within) * 2 * self.px, -np.sign(within), 0.0)
        part = np.where(is_one_of(batch.kind, SHARP), step, (2 * draws[:2] - 1) * self.px)
        dx, dy = part + np.floor(draws[2:] * (2 * self.whole + 1)) - self.whole
        pixels = batch.pixels.reshape(len(batch), -1, *batch.shape)
        return batch.having(
            pixels=moved(pixels, dx, dy).reshape(batch.pixels.shape),
            target=rolled(batch.target, dx, dy),
            offset_x=batch.offset_x + dx[:, None],
            offset_y=batch.offset_y + dy[:, None],
        )


class Crop(Transform):
    """The middle of every stamp."""

    side: Annotated[int, Field(gt=0, description="rows and columns that are kept")]

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        rows, columns = (length - self.side for length in batch.shape)
        if min(rows, columns) < 0 or rows % 2 or columns % 2:
            raise InputError(
                f"crop: no {self.side} px in the middle of {batch.shape}; both must be odd, or both even"
            )
        y, x = (slice(cut // 2, cut // 2 + self.side) for cut in (rows, columns))
        return batch.having(
            pixels=np.ascontiguousarray(batch.pixels[..., y, x]),
            target=np.ascontiguousarray(batch.target[..., y, x]),
        )


def _arranged(
    batch: Batch, turns: NDArray[np.int64], mirror_x: NDArray[np.bool_], mirror_y: NDArray[np.bool_]
) -> Batch:
    """Samples turned anticlockwise (row 0 at the top), then mirrored; offsets follow."""
    arranged = {}
    for name in ("pixels", "target"):
        given = getattr(batch, name)
        out = np.empty_like(given)
        stack = np.ascontiguousarray(given).reshape(len(batch), -1, *batch.shape)
        _arrange(stack, turns, mirror_x, mirror_y, out.reshape(stack.shape))
        arranged[name] = out
    x, y = batch.offset_x, batch.offset_y
    quarters = [k[:, None] for k in (turns == 0, turns == 1, turns == 2)]
    new_x, new_y = np.select(quarters, [x, y, -x], -y), np.select(quarters, [y, -x, -y], x)
    return batch.having(
        **arranged,
        offset_x=np.where(mirror_x[:, None], -new_x, new_x),
        offset_y=np.where(mirror_y[:, None], -new_y, new_y),
    )


@compiled
def _arrange(stack: Any, turns: Any, mirror_x: Any, mirror_y: Any, out: Any) -> None:
    n, m, rows, columns = stack.shape
    # an unsigned index needs no check for counting from the end
    last = np.uintp(columns - 1)
    for i in range(n):
        for k in range(m):
            image, result = stack[i, k], out[i, k]
            for r in range(rows):
                row = rows - 1 - r if mirror_y[i] else r
                line = result[r]
                if turns[i] == 0:
                    copied(image[row], line)
                elif turns[i] == 1:
                    line[:] = image[:, columns - 1 - row]
                elif turns[i] == 2:
                    line[:] = image[rows - 1 - row, ::-1]
                else:
                    line[:] = image[::-1, row]
                if mirror_x[i]:
                    for c in range(np.uintp(columns // 2)):
                        line[c], line[last - c] = line[last - c], line[c]
