"""Transforms that take pixels away: NaN is no data. Targets stay, as the change is still there."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from astrid_dist.simulation.augmentation.batch import Batch
from astrid_dist.simulation.augmentation.transform import Probability, Transform, by_sample, by_visit
from astrid_dist.simulation.philox import block, compiled, uniform_at

#: Radius that holds 99.9 % of the energy of a pair's filters, Moffat's PSFs included, in FWHM of the wider
#: PSF: pixels of difference and score are no data so far around one that is none in an image.
_KERNEL_RADIUS = 1.8

Floats = NDArray[np.float64]


class NoData(Transform):
    """Rows, columns and corners without data, in an epoch or, for all visits, in the template.

    Difference and score lose the pixels around as well, as far as the filters reach. The object keeps one
    FWHM of difference around it.
    """

    rows: Annotated[Probability, Field(description="that an image lacks rows")] = 0.05
    columns: Annotated[Probability, Field(description="that an image lacks columns")] = 0.05
    edge: Annotated[Probability, Field(description="that an image ends in the stamp, at any angle")] = 0.05
    widest: Annotated[int, Field(ge=1, description="most rows or columns in one hole")] = 3

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        wide = np.nan_to_num(np.maximum(batch.fwhm_n, batch.fwhm_r).astype(np.float64), nan=3.0)
        reach = np.ceil(_KERNEL_RADIUS * wide)
        x, y = (
            (length - 1) / 2 + np.nan_to_num(np.asarray(offset, np.float64))
            for length, offset in zip(batch.shape[::-1], (batch.offset_x, batch.offset_y), strict=True)
        )
        keep = reach + np.ceil(wide)
        # one hole of the template, apart from all places of what moves, then one of each visit
        template = [self._middle(x), self._middle(y)]
        apart = np.hypot(np.ptp(x, axis=1), np.ptp(y, axis=1))[:, None] / 2
        centre = [np.concatenate(pair, axis=1) for pair in zip(template, (x, y), strict=True)]
        kept = np.concatenate([keep.max(axis=1, keepdims=True) + apart, keep], axis=1)
        u = np.moveaxis(by_visit(key, items, 1 + batch.visits, 9), 0, -1)
        pixels = np.ascontiguousarray(batch.pixels).copy()
        roles = np.array([("template", "science", "difference", "score").index(p) for p in batch.planes])
        _lose(
            pixels,
            roles,
            u,
            centre[0],
            centre[1],
            kept,
            reach,
            (self.rows, self.columns, self.edge),
            self.widest,
        )
        return batch.having(pixels=pixels)

    @staticmethod
    def _middle(places: Floats) -> Floats:
        return np.asarray((places.min(axis=1) + places.max(axis=1)) / 2)[:, None]


class Dropout(Transform):
    """Pixels hidden in all planes of a visit, and whole planes hidden in all visits.

    No camera does the first (`no_data` is what they do): it keeps a network from leaning on single pixels.
    The second stands for surveys that lack a plane; the difference is never hidden.
    """

    pixels: Annotated[Probability, Field(description="share of the pixels")] = 0.02
    planes: Annotated[Probability, Field(description="that science, template or score is hidden")] = 0.0

    def __call__(self, batch: Batch, key: np.uint64, items: ArrayLike) -> Batch:
        pixels = np.ascontiguousarray(batch.pixels).copy()
        if self.pixels:
            _hide(pixels, np.uint64(key), np.atleast_1d(items).astype(np.int64), self.pixels)
        hidden = by_sample(key, items, 4) < self.planes
        for place, name in enumerate(batch.planes):
            if name != "difference":
                pixels[hidden[("science", "template", "score").index(name)], :, place] = np.nan
        return batch.having(pixels=pixels)


@compiled
def _band(
    u: Any, position: Any, width: Any, length: Any, centre: Any, keep: Any, widest: Any
) -> tuple[int, int]:
    """First and end of a hole of rows (or columns) that stays `keep` pixels away from the object."""
    low = max(int(np.floor(centre - keep)), 0)
    high = min(int(np.ceil(centre + keep)) + 1, length)
    room = low + length - high
    if not u or room <= 0:
        return 0, 0
    first = int(position * room)
    size = 1 + int(width * widest)
    if first < low:
        return first, min(first + size, low)
    first += high - low
    return first, min(first + size, length)


@compiled
def _lose(
    pixels: Any, roles: Any, u: Any, x: Any, y: Any, keep: Any, reach: Any, chances: Any, widest: Any
) -> None:
    n, visits, planes, rows, columns = pixels.shape
    for i in range(n):
        for hole in range(1 + visits):
            draws, cx, cy, around = u[i, hole], x[i, hole], y[i, hole], keep[i, hole]
            r0, r1 = _band(draws[0] < chances[0], draws[1], draws[2], rows, cy, around, widest)
            c0, c1 = _band(draws[3] < chances[1], draws[4], draws[5], columns, cx, around, widest)
            ends = draws[6] < chances[2]
            if r1 == r0 and c1 == c0 and not ends:
                continue
            angle = 2 * np.pi * draws[7]
            nx, ny = np.cos(angle), np.sin(angle)
            end = around + draws[8] * max(max(rows, columns) / 2 - around, 0.0)
            for v in range(visits):
                if hole not in (0, v + 1):
                    continue
                for p in range(planes):
                    if (roles[p] == 0 and hole) or (roles[p] == 1 and not hole):
                        continue
                    grow = int(reach[i, v]) if roles[p] > 1 else 0
                    image = pixels[i, v, p]
                    if r1 > r0:
                        image[max(r0 - grow, 0) : r1 + grow] = np.nan
                    if c1 > c0:
                        image[:, max(c0 - grow, 0) : c1 + grow] = np.nan
                    if ends:
                        for r in range(rows):
                            for c in range(columns):
                                if (c - cx) * nx + (r - cy) * ny > end - grow:
                                    image[r, c] = np.nan


@compiled
def _hide(pixels: Any, key: Any, items: Any, share: Any) -> None:
    n, visits, planes, rows, columns = pixels.shape
    for i in range(n):
        start, twist = block(key, items[i])
        index = 0
        for v in range(visits):
            for r in range(rows):
                for c in range(columns):
                    if uniform_at(start, twist, index) < share:
                        for p in range(planes):
                            pixels[i, v, p, r, c] = np.nan
                    index += 1
