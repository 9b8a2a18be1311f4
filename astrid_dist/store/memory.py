"""What lies at ``memory://``: one dictionary of this process, and folders in it."""

from collections.abc import Iterator, MutableMapping
from typing import Any

_memory: dict[str, Any] = {}


class MemoryFolder(MutableMapping[str, Any]):
    """The keys of the process's one dictionary that lie under a folder; values are Zarr buffers."""

    def __init__(self, folder: str) -> None:
        self.folder = folder + "/"

    def __getitem__(self, name: str) -> Any:
        return _memory[self.folder + name]

    def __setitem__(self, name: str, value: Any) -> None:
        _memory[self.folder + name] = value

    def __delitem__(self, name: str) -> None:
        del _memory[self.folder + name]

    def __iter__(self) -> Iterator[str]:
        return iter([name[len(self.folder) :] for name in list(_memory) if name.startswith(self.folder)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def create(self, name: str, value: Any) -> bool:
        """Set a value unless there is one; whether this one was set."""
        return _memory.setdefault(self.folder + name, value) is value


def memory_buffer(data: bytes) -> Any:
    """Bytes as Zarr keeps them in memory."""
    from zarr.buffer.cpu import Buffer

    return Buffer.from_bytes(data)
