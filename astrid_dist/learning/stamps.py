"""From shards of a store to batches: whole shards are decoded, rows of several put together, augmented."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.memory import Memory
from astrid_dist.learning.sharing import Ticket
from astrid_dist.simulation.augmentation import PLANES, Batch, Compose
from astrid_dist.simulation.augmentation.shift import copied
from astrid_dist.simulation.philox import compiled, stream
from astrid_dist.store.reading import ProductReader

#: A half float's bits, its sign spread upwards, moved by 13 places, of which these are kept, are those of a
#: float32 that, times 2^112, has its value. No half float is larger than 65504: beyond, it is NaN.
_KEPT, _SHIFT, _BEYOND = np.int32(-0x70002000), np.float32(2.0**112), np.float32(2.0**16)


@dataclass(frozen=True, eq=False)
class Shard:
    """Decoded stamps of one shard."""

    first: int
    """Row of the catalogue."""
    planes: NDArray[np.int64]
    """(plane,) place of each plane in `PLANES`."""
    pixels: NDArray[np.int16]
    """(sample, visit, plane, y x), bits of half floats."""
    target: NDArray[np.uint16]
    """(sample, visit, y x)."""


@dataclass(eq=False)
class StampReader:
    """Reads shards of a catalogue; its connections are made in the process that reads, when it first does."""

    catalogue: Catalogue
    augment: Compose | None = None
    seed: int = 0
    _readers: dict[int, ProductReader] = field(default_factory=dict)
    _process: int = 0
    _memory: Memory = field(default_factory=Memory)

    def shard(self, number: int) -> Shard:
        """All stamps of a shard.

        Raises
        ------
        StorageError
            It is damaged, or the store does not answer.
        ConfigError
            The group was changed after the catalogue was read.
        """
        place, start, row = self.catalogue.place(number)
        group, reader = self.catalogue.groups[place], self._reader(place)
        stop = min(start + group.shard, group.samples)
        whole = (group.shard, group.visits, len(group.planes), group.side, group.side)
        part = slice(start, stop)
        pixels = reader.read("pixels", self._memory.array(whole, "<f2"), sample=part)
        target = reader.read("target", self._memory.array((*whole[:2], *whole[3:]), "<u2"), sample=part)
        shape = (stop - start, *whole[1:])
        if pixels.shape != shape:
            raise ConfigError(
                f"{group} has stamps {pixels.shape}, expected {shape}: it was made anew meanwhile"
            )
        planes = np.array([PLANES.index(name) for name in group.planes])
        bits = np.ascontiguousarray(pixels, "<f2").view(np.int16)
        flat = np.ascontiguousarray(target, "<u2").reshape(*shape[:2], -1)
        return Shard(row, planes, bits.reshape(*shape[:3], -1), flat)

    def batch(self, rows: NDArray[np.int64], shards: Mapping[int, Shard]) -> Batch:
        """Rows, growing, of shards that are all given; what a sample lacks is NaN."""
        columns, side = self.catalogue.columns, self.catalogue.groups[0].side
        visits = self.catalogue.visits
        pixels = self._memory.array((len(rows), visits, len(PLANES), side * side), "f4")
        target = self._memory.array((len(rows), visits, side * side), "i4")
        numbers, starts = np.unique(self.catalogue.shard[rows], return_index=True)
        for number, start, stop in zip(
            numbers.tolist(), starts, [*starts[1:].tolist(), len(rows)], strict=True
        ):
            shard = shards[number]
            within = rows[start:stop] - shard.first
            out = pixels[start:stop], target[start:stop]
            _unpack(shard.pixels, shard.target, within, shard.planes, *out)
        described = {name: columns[name][rows] for name in _DESCRIBED}
        return Batch(
            planes=PLANES,
            pixels=pixels.reshape(*pixels.shape[:3], side, side),
            target=target.reshape(*target.shape[:2], side, side),
            class_code=columns["class"][rows],
            **described,
        )

    def examples(self, ticket: Ticket, shards: Mapping[int, Shard]) -> Examples:
        """A batch for a network; what augmentation does depends on seed, epoch and sample alone."""
        batch = self.batch(ticket.rows, shards)
        if self.augment is not None:
            seed = int(stream(self.seed, f"augmentation of epoch {ticket.epoch}"))
            batch = self.augment(batch, seed, ticket.rows + ticket.copies * len(self.catalogue))
        columns = self.catalogue.columns
        return _examples(
            batch, columns["seen"][ticket.rows], columns["mjd"][ticket.rows], columns["survey"][ticket.rows]
        )

    def _reader(self, place: int) -> ProductReader:
        if self._process != os.getpid():
            self._readers, self._process = {}, os.getpid()
        if place not in self._readers:
            group = self.catalogue.groups[place]
            self._readers[place] = ProductReader(group.location, group.name)
        return self._readers[place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}, "_process": 0, "_memory": Memory()}


_DESCRIBED = (
    "offset_x",
    "offset_y",
    "flux",
    "snr",
    "band",
    "sigma_n",
    "sigma_r",
    "sigma_d",
    "fwhm_n",
    "fwhm_r",
    "flux_ratio",
    "kind",
    "label",
    "weight",
)


def _examples(batch: Batch, seen: NDArray[Any], mjd: NDArray[Any], survey: NDArray[Any]) -> Examples:
    days = mjd - np.min(mjd, axis=1, where=seen, initial=np.inf, keepdims=True)
    size = np.where(seen, np.nan_to_num(np.abs(batch.snr), nan=-1), -2)
    own = size.argmax(axis=1)[:, None]
    flux = np.where(seen, batch.flux / batch.sigma_d, np.nan)

    def floats(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    def codes(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.int64))

    return Examples(
        pixels=floats(batch.pixels),
        target=torch.from_numpy(np.ascontiguousarray(batch.target, np.int32)),
        seen=torch.from_numpy(seen),
        days=floats(np.where(seen, np.nan_to_num(days), 0)),
        band=codes(np.where(seen, batch.band, 0)),
        survey=codes(survey),
        class_code=codes(batch.class_code),
        label=floats(batch.label),
        weight=floats(batch.weight),
        x=floats(np.take_along_axis(batch.offset_x, own, axis=1)[:, 0]),
        y=floats(np.take_along_axis(batch.offset_y, own, axis=1)[:, 0]),
        flux=floats(flux),
        snr=floats(np.where(seen, batch.snr, np.nan)),
    )


@compiled
def _unpack(pixels: Any, target: Any, rows: Any, planes: Any, out: Any, out_target: Any) -> None:
    """Rows of half floats as floats, each plane at its place; the rest NaN, and no target."""
    visits, size = pixels.shape[1], pixels.shape[3]
    if visits < out.shape[1] or len(planes) < out.shape[2]:
        out[:] = np.nan
        out_target[:] = 0
    for i in range(len(rows)):
        for v in range(visits):
            for p in range(len(planes)):
                given, values = pixels[rows[i], v, p], out[i, v, planes[p]]
                for c in range(size):
                    bits = (np.int32(given[c]) << np.int32(13)) & _KEPT
                    value = np.int32(bits).view(np.float32) * _SHIFT
                    values[c] = value if abs(value) < _BEYOND else np.float32(np.nan)
            copied(target[rows[i], v], out_target[i, v])
