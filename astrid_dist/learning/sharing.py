"""In which order the samples of an epoch come, and how ranks and batches share them.

All follows from the catalogue, the seed and the number of the epoch: nothing is kept between epochs, and any
batch can be found without those before it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.sampling import Draw, Rows, Sampling, Stream
from astrid_dist.simulation.philox import stream, uniforms


@dataclass(frozen=True, eq=False)
class Ticket:
    """One batch that is to be read."""

    epoch: int
    rows: Rows
    """Of the catalogue, growing: neighbours in the store are neighbours in the batch."""
    copies: Rows
    """How often the row came before in the epoch: each copy is augmented differently."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Share:
    """All batches of one rank in one epoch."""

    epoch: int
    rows: Rows
    copies: Rows
    starts: Rows
    """(batches + 1,) where each batch begins."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> Ticket:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        part = slice(self.starts[number], self.starts[number + 1])
        return Ticket(self.epoch, self.rows[part], self.copies[part])

    def __iter__(self) -> Iterator[Ticket]:
        return (self[number] for number in range(len(self)))


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches of any epoch, for any rank."""

    catalogue: Catalogue
    sampling: Sampling
    batch: int
    """Samples in a batch of one rank."""
    seed: int = 0
    ranks: int = 1
    mixed: int = 4
    """Shards whose samples are mixed with one another; as many lie decoded in memory, and two more."""

    def training(self, epoch: int, rank: int = 0) -> Share:
        """Shuffled batches of one rank, each of exactly `batch` samples; all ranks have as many.

        The shards are put in an order of the epoch's own, and each rank takes a run of them, cut within a
        shard at its ends so that all have as many samples. What is left after the last whole batch comes in
        another epoch.

        Raises
        ------
        InputError
            As `Draw.streams`; too few samples for a batch.
        """
        streams = self._draw.streams(epoch)
        order = uniforms(stream(self.seed, f"shards of epoch {epoch}"), np.arange(self._shards), 1)[:, 0]
        streams = [self._in_shards(one, order) for one in streams]
        bounds = _bounds(
            [one.share for one in streams], [len(s.rows) // self.ranks for s in streams], self.batch
        )
        batches = len(bounds[0]) - 1
        if not batches:
            counts = " and ".join(str(len(one.rows)) for one in streams)
            raise InputError(
                f"epoch {epoch}: {counts} samples make no batch of {self.batch} on {self.ranks} ranks:"
                " choose a smaller batch, or add samples"
            )
        pieces = [self._piece(one, order, epoch, rank) for one in streams]
        rows = np.concatenate([one.rows[: bound[-1]] for one, bound in zip(pieces, bounds, strict=True)])
        copies = np.concatenate([one.copies[: bound[-1]] for one, bound in zip(pieces, bounds, strict=True)])
        number = np.concatenate([np.repeat(np.arange(batches), np.diff(bound)) for bound in bounds])
        sorted_ = np.lexsort((copies, rows, number))
        return Share(epoch, rows[sorted_], copies[sorted_], np.sum(bounds, axis=0))

    def validation(self, rank: int = 0) -> Share:
        """Every usable sample once, in the order of the store, in batches of at most `batch` samples."""
        rows = np.flatnonzero(self.catalogue.usable)
        if len(rows) < self.ranks:
            raise InputError(f"{len(rows)} usable samples cannot be shared by {self.ranks} ranks")
        own = rows[rank * len(rows) // self.ranks : (rank + 1) * len(rows) // self.ranks]
        batches = min(math.ceil(len(rows) / self.ranks / self.batch), len(own))
        starts = np.arange(batches + 1) * len(own) // batches
        return Share(0, own, np.zeros_like(own), starts)

    @cached_property
    def _draw(self) -> Draw:
        return Draw(self.catalogue, self.sampling, self.seed)

    @property
    def _shards(self) -> int:
        return sum(group.shards for group in self.catalogue.groups)

    def _in_shards(self, one: Stream, order: NDArray[np.float64]) -> Stream:
        """Sorted by shard, in the order of the epoch; the first ones where only some are asked for."""
        most = self.sampling.samples
        kept = slice(None if most is None else int(most * one.share + 0.5))
        sorted_ = np.argsort(order[self.catalogue.shard[one.rows]], kind="stable")[kept]
        return Stream(one.share, one.rows[sorted_], one.copies[sorted_])

    def _piece(self, one: Stream, order: NDArray[np.float64], epoch: int, rank: int) -> Stream:
        """What one rank has of a stream, shuffled.

        Each sample gets a time, even over the `mixed` shards around the middle of its own: so one shard is
        opened after the other, and done with `mixed` shards later.
        """
        total = len(one.rows)
        part = slice(rank * total // self.ranks, (rank + 1) * total // self.ranks)
        rows, copies = one.rows[part], one.copies[part]
        shards = self.catalogue.shard[rows]
        middle = np.cumsum(np.diff(shards, prepend=shards[:1]) != 0) + 0.5
        begin = np.maximum(middle - self.mixed / 2, 0)
        end = np.minimum(middle + self.mixed / 2, middle.max(initial=0) + 0.5)
        items = rows + copies * len(self.catalogue)
        chance = uniforms(stream(self.seed, f"order of epoch {epoch}"), items, 1)[:, 0]
        sorted_ = np.argsort(begin + (end - begin) * chance, kind="stable")
        return Stream(one.share, rows[sorted_], copies[sorted_])


def _bounds(shares: list[float], lengths: list[int], batch: int) -> list[Rows]:
    """Where batches begin in each stream: `batch` samples in all, of each stream its share."""
    numbers = np.arange(sum(lengths) // batch + 1)
    bounds = [np.floor(numbers * share * batch + 1e-9).astype(np.int64) for share in shares[:-1]]
    bounds.append(numbers * batch - np.sum(bounds, axis=0, dtype=np.int64))
    enough = [bound <= length for bound, length in zip(bounds, lengths, strict=True)]
    whole = int(np.logical_and.reduce(enough).sum())
    return [bound[:whole] for bound in bounds]
