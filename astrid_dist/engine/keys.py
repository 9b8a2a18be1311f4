"""Shard keys: the name of one task's piece of a product, in every marker, log line, error and random draw."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

from astrid_dist.errors import ConfigError

# Object names that every store keeps as they are; obstore would percent-encode others.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_EPOCH = re.compile(r"e(\d{6,})")
_TILE = re.compile(r"y(\d{2,})x(\d{2,})")


@dataclass(frozen=True, order=True, slots=True)
class ShardKey:
    """One shard of one epoch of one group, as ``<group>/e<epoch>/y<row>x<column>``.

    Parameters
    ----------
    group : str
        Group inside the product, such as ``f0423/g``.
    epoch : int
        Index on the epoch axis; -1 where the product has none.
    row, column : int
        Place of the shard in the grid of shards.

    Examples
    --------
    >>> str(ShardKey("f0423/g", 17, 0, 1))
    'f0423/g/e000017/y00x01'
    >>> ShardKey.parse("f0423/g/y00x01")
    ShardKey(group='f0423/g', epoch=-1, row=0, column=1)
    """

    group: str
    epoch: int
    row: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        """Refuse what would not survive as an object name."""
        if self.epoch < -1 or self.row < 0 or self.column < 0:
            raise ConfigError(
                f"shard key ({self.group!r}, {self.epoch}, {self.row}, {self.column}) has a negative index; "
                "only epoch may be -1, for products without epochs"
            )
        check_group(self.group)

    def __str__(self) -> str:
        """Return the object name, without suffix."""
        epoch = f"e{self.epoch:06d}/" if self.epoch >= 0 else ""
        return f"{self.group}/{epoch}y{self.row:02d}x{self.column:02d}"

    @classmethod
    def parse(cls, text: str) -> "ShardKey":
        """Read a key back from its string; ConfigError where it is none."""
        *front, last = text.split("/")
        tile = _TILE.fullmatch(last)
        if tile is None or not front:
            raise ConfigError(
                f"{text!r} is no shard key: expected <group>/e<epoch>/y<row>x<column>, as "
                f"f0423/g/e000017/y00x01"
            )
        epoch = _EPOCH.fullmatch(front[-1]) if len(front) > 1 else None
        key = cls(
            "/".join(front[:-1] if epoch else front),
            int(epoch[1]) if epoch else -1,
            int(tile[1]),
            int(tile[2]),
        )
        if str(key) != text:
            raise ConfigError(f"{text!r} is no shard key; the nearest is {str(key)!r}")
        return key


def check_group(group: str) -> None:
    """Raise ConfigError unless the group's name is safe in every store and cannot be taken for an epoch."""
    segments = group.split("/")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ConfigError(
            f"group {group!r} is no name for a shard key: letters, digits and _ . + = - only, parts joined "
            f"by /"
        )
    if len(segments) > 1 and _EPOCH.fullmatch(segments[-1]):
        raise ConfigError(f"group {group!r} ends like an epoch ({segments[-1]}): rename the band")


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """The shards of some epochs of one group: every epoch has the same grid of shards.

    Parameters
    ----------
    group : str
        Group inside the product.
    epochs : sequence of int
        Epoch indices, usually a `range`; ``(-1,)`` for products without epochs.
    rows, columns : int
        Size of the grid of shards.
    """

    group: str
    epochs: Sequence[int] = (-1,)
    rows: int = 1
    columns: int = 1

    def __len__(self) -> int:
        """Count the keys."""
        return len(self.epochs) * self.rows * self.columns

    def __getitem__(self, index: int) -> ShardKey:
        """Return one key, epoch-major."""
        epoch, place = divmod(index, self.rows * self.columns)
        return ShardKey(self.group, self.epochs[epoch], *divmod(place, self.columns))


class KeyGrid(Sequence[ShardKey]):
    """The keys of many blocks as one lazy sequence: nothing is stored per key.

    Examples
    --------
    >>> keys = KeyGrid([KeyBlock("f0001/g", range(2)), KeyBlock("f0002/g", range(10**9), 2, 2)])
    >>> len(keys), str(keys[3]), str(keys[-1])
    (4000000002, 'f0002/g/e000000/y00x01', 'f0002/g/e999999999/y01x01')
    """

    def __init__(self, blocks: Sequence[KeyBlock]) -> None:
        self._blocks = tuple(block for block in blocks if len(block))
        self._ends = list(accumulate(len(block) for block in self._blocks))

    def __len__(self) -> int:
        """Count the keys."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> ShardKey: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardKey]: ...
    def __getitem__(self, index: int | slice) -> ShardKey | Sequence[ShardKey]:
        """Return one key, or some as a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"key {index} of {len(self)}")
        block = bisect_right(self._ends, position)
        return self._blocks[block][position - (self._ends[block - 1] if block else 0)]

    def __iter__(self) -> Iterator[ShardKey]:
        """Yield the keys in order, block by block."""
        for block in self._blocks:
            for epoch in block.epochs:
                for row in range(block.rows):
                    for column in range(block.columns):
                        yield ShardKey(block.group, epoch, row, column)
