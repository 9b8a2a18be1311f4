"""Batches for training: decoded and augmented by threads ahead of use, the same in any number of them.

Samples are a map-style data set, as the order of a whole epoch is known from their columns: so any batch can
be read by itself, and resuming, ranks and workers need no state. Threads read, not processes: unpacking,
conversion and augmentation hold no lock of Python's, and a decoded shard is shared by all of them.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from astrid_dist.errors import ConfigError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.sharing import Plan, Share, Ticket
from astrid_dist.learning.stamps import Shard, StampReader
from astrid_dist.simulation.augmentation import Compose


class SampleDataset(Dataset[Examples]):
    """Samples by number; batches of them at once, for random access and torch's own DataLoader.

    With worker processes, start them by ``multiprocessing_context="spawn"``. Each decodes the shards of its
    own batches: `Loader` decodes each shard once.
    """

    def __init__(self, reader: StampReader, kept: int = 6) -> None:
        self.reader = reader
        self.kept = kept
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self.reader.catalogue)

    def __getitem__(self, row: int) -> Examples:
        """One sample, as a batch of one."""
        return self.__getitems__([row])

    def __getitems__(self, rows: "Ticket | list[int]") -> Examples:
        """A batch, sorted by row; the last shards stay decoded."""
        if not isinstance(rows, Ticket):
            numbers = np.sort(np.asarray(rows, np.int64))
            rows = Ticket(0, numbers, np.zeros_like(numbers))
        needed = np.unique(self.reader.catalogue.shard[rows.rows]).tolist()
        found = {
            number: self._shards.pop(number) if number in self._shards else self.reader.shard(number)
            for number in needed
        }
        older = list(self._shards.items())
        self._shards = dict(older[max(0, len(older) + len(found) - self.kept) :]) | found
        return self.reader.examples(rows, found)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}


class Loader:
    """Iterates over the batches of one epoch after the other.

    Each ``for`` loop over it runs what is left of the current epoch and moves on to the next.

    Parameters
    ----------
    catalogue : Catalogue
        Samples.
    batch : int
        Samples in a batch of one rank.
    sampling : Sampling
        What is drawn from them.
    augment : Compose, optional
        Applied to what is trained on.
    seed : int
        Of order, drawing and augmentation.
    rank, ranks : int
        This process, and how many share the samples.
    train : bool
        False: every usable sample once, in the order of the store, neither drawn nor augmented, and the same
        at every epoch.
    mixed : int
        Shards whose samples are mixed; as many and two more lie decoded in memory, 160 MB each at most.
    threads : int
        They decode and augment.
    ahead : int
        Batches that are made before they are asked for.
    pinned : bool
        Batches in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        batch: int = 256,
        sampling: Sampling | None = None,
        augment: Compose | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        train: bool = True,
        mixed: int = 4,
        threads: int = 2,
        ahead: int = 4,
        pinned: bool = False,
    ) -> None:
        if not 0 <= rank < ranks:
            raise ConfigError(f"rank {rank} of {ranks}: ranks count from 0")
        for name, value in (("batch", batch), ("mixed", mixed), ("threads", threads), ("ahead", ahead)):
            if value < 1:
                raise ConfigError(f"loader: {name} is {value}, it must be at least 1")
        self.catalogue, self.train, self.rank = catalogue, train, rank
        self.plan = Plan(catalogue, sampling or Sampling(), batch, seed, ranks, mixed)
        self.reader = StampReader(catalogue, augment if train else None, seed)
        self.threads, self.ahead, self.pinned = threads, ahead, pinned
        self.epoch = 0
        self.position = 0
        """Batches of the epoch that were handed over."""
        self._share: Share | None = None

    @property
    def share(self) -> Share:
        """Which samples are in the batches of the current epoch."""
        if self._share is None or (self.train and self._share.epoch != self.epoch):
            training, rank = self.plan.training, self.rank
            self._share = training(self.epoch, rank) if self.train else self.plan.validation(rank)
        return self._share

    def __len__(self) -> int:
        """Batches of the current epoch."""
        return len(self.share)

    def __iter__(self) -> Iterator[Examples]:
        share = self.share
        for examples in self._made(share, self.position):
            self.position += 1
            yield examples
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, after the batch that was handed over last; plain JSON."""
        done = self.position >= len(self)
        at = (self.epoch + 1, 0) if done else (self.epoch, self.position)
        return {"epoch": at[0], "position": at[1], "ranks": self.plan.ranks, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken: the batches are those of a run that was never interrupted.

        With another number of ranks, the epoch begins anew: they share the samples otherwise.

        Raises
        ------
        ConfigError
            It was taken with other samples, another seed, batch or sampling.
        """
        if state["samples"] != self._samples:
            raise ConfigError(
                "the loader's state was taken with other samples, or another seed, batch, sampling or"
                " augmentation: resume with those, or start anew"
            )
        self.epoch = int(state["epoch"])
        self.position = int(state["position"]) if state["ranks"] == self.plan.ranks else 0

    @property
    def _samples(self) -> str:
        """Digest of all that batches follow from, but the number of ranks."""
        plan = self.plan
        groups = [(group.name, group.digest, group.samples) for group in self.catalogue.groups]
        said = (groups, plan.sampling.model_dump(), plan.batch, plan.seed, plan.mixed, self.reader.augment)
        return sha256(repr((said, self.train)).encode()).hexdigest()

    def _made(self, share: Share, start: int) -> Iterator[Examples]:
        """Batches in order, from a position on; `ahead` of them are made, and one shard more is decoded."""
        batches = _shards_of(share, self.catalogue)
        last = {shard: number for number, shards in enumerate(batches) for shard in shards}
        order = list(dict.fromkeys(shard for shards in batches[start:] for shard in shards))
        place = {shard: number for number, shard in enumerate(order)}
        decoded: dict[int, Future[Shard]] = {}
        made: deque[Future[Examples]] = deque()
        asked = needed = 0
        pool = ThreadPoolExecutor(self.threads, "loader")

        def decode(upto: int) -> None:
            nonlocal asked
            for shard in order[asked:upto]:
                decoded[shard] = pool.submit(self.reader.shard, shard)
                asked += 1

        try:
            for number in range(start, len(batches)):
                for one in range(number + len(made), min(number + self.ahead, len(batches))):
                    # the pool works in order: a batch waits for nothing but what was asked for before it
                    needed = max(needed, 1 + max(place[shard] for shard in batches[one]))
                    decode(needed)
                    waiting = {shard: decoded[shard] for shard in batches[one]}
                    made.append(pool.submit(self._examples, share[one], waiting))
                    decode(needed + 1)
                yield made.popleft().result()
                for shard in batches[number]:
                    if last[shard] == number:
                        del decoded[shard]
        finally:
            pool.shutdown(cancel_futures=True)

    def _examples(self, ticket: Ticket, shards: Mapping[int, "Future[Shard]"]) -> Examples:
        found = self.reader.examples(ticket, {number: one.result() for number, one in shards.items()})
        return found.pin_memory() if self.pinned else found


def _shards_of(share: Share, catalogue: Catalogue) -> list[list[int]]:
    """Shards of each batch."""
    shards = catalogue.shard[share.rows]
    return [np.unique(part).tolist() for part in np.split(shards, share.starts[1:-1])]
