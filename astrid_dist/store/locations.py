"""Where a product lies: a URL in, a Zarr store and small objects out.

Local folders go through Zarr's own ``LocalStore``, object stores through obstore, ``memory://`` through one
dictionary per process. Credentials come from the environment or an AWS profile only, and no store object is
ever pickled: what travels is the `Location`, and each process opens its own connection.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.store.buckets import bucket_store
from astrid_dist.store.failures import storage_errors
from astrid_dist.store.memory import MemoryFolder, memory_buffer

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store
    from zarr.abc.store import Store

SCHEMES = ("file", "memory", "s3", "r2")
#: R2 refuses a second write of one key within a second.
SECONDS_BETWEEN_WRITES = 1.05

_last_write: dict[str, float] = {}
_pace_lock = threading.Lock()


@dataclass(frozen=True)
class Location:
    """A folder on disk, in memory, or below a prefix of a bucket; hashable, picklable, without secrets."""

    scheme: str
    """``file``, ``memory``, ``s3`` or ``r2``."""
    bucket: str
    """Bucket of an object store, else empty."""
    key: str
    """Absolute path, name in memory, or prefix in the bucket; no slash at its end."""

    @classmethod
    def parse(cls, url: "str | os.PathLike[str] | Location") -> "Location":
        """Location of a plain path or of a file://, memory://, s3:// or r2:// URL.

        Raises
        ------
        ConfigError
            If the scheme is unknown, or a bucket or name is missing.

        Examples
        --------
        >>> str(Location.parse("s3://bucket/night.zarr/"))
        's3://bucket/night.zarr'
        """
        if isinstance(url, Location):
            return url
        text = os.fspath(url)
        if "://" not in text:
            return cls("file", "", str(Path(text).expanduser().absolute()))
        parts = urlsplit(text)
        scheme, bucket = parts.scheme.lower(), parts.netloc
        if scheme not in SCHEMES:
            raise ConfigError(f"unknown scheme {scheme!r} in {text!r}: use a path, or one of {_schemes()}")
        if "@" in bucket or parts.query or parts.fragment:
            raise ConfigError(
                f"{scheme}://{bucket.rpartition('@')[2]}{parts.path}: a location takes no user, query or"
                " fragment; credentials come from the environment (AWS_*) or an AWS profile"
            )
        if scheme == "file":
            if bucket not in ("", "localhost"):
                raise ConfigError(f"{text!r} names the host {bucket!r}: a file URL has three slashes")
            return cls("file", "", unquote(parts.path).rstrip("/") or "/")
        if not bucket:
            raise ConfigError(f"{text!r} names no {'bucket' if scheme != 'memory' else 'name'}")
        path = "/".join(part for part in parts.path.split("/") if part)
        if scheme == "memory":
            return cls("memory", "", f"{bucket}/{path}".rstrip("/"))
        return cls(scheme, bucket, path)

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.key).as_uri()
        return f"{self.scheme}://" + "/".join(part for part in (self.bucket, self.key) if part)

    def __truediv__(self, child: str) -> "Location":
        key = f"{self.key.rstrip('/')}/{child.strip('/')}" if self.key else child.strip("/")
        return Location(self.scheme, self.bucket, key)

    @property
    def folder(self) -> "Location":
        """The location that this one lies in."""
        return Location(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def sibling(self, suffix: str) -> "Location":
        """The location beside this one whose name has a suffix more: X.zarr -> X.zarr.ledger."""
        if not self.key.strip("/"):
            raise ConfigError(f"{self} is a whole {self.scheme} root: name a folder in it")
        return Location(self.scheme, self.bucket, self.key + suffix)

    @property
    def is_shared(self) -> bool:
        """Whether other processes see it (memory:// is this process's own)."""
        return self.scheme != "memory"

    @property
    def path(self) -> Path | None:
        """The local folder, or None."""
        return Path(self.key) if self.scheme == "file" else None

    def free_bytes(self) -> int | None:
        """Bytes free on the disk it lies on; None where there is no such limit."""
        if (folder := self.path) is None:
            return None
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def exists(self) -> bool:
        """Whether anything lies here."""
        if self.path is not None:
            return self.path.exists()
        return next(self.objects().list(), None) is not None

    def zarr_store(self, read_only: bool = False) -> "Store":
        """A Zarr store rooted here; opening it writes nothing."""
        if self.scheme == "file":
            from zarr.storage import LocalStore

            return LocalStore(self.key, read_only=read_only)
        if self.scheme == "memory":
            from zarr.storage import MemoryStore

            return MemoryStore(MemoryFolder(self.key), read_only=read_only)
        from zarr.storage import ObjectStore

        return ObjectStore(self._s3(), read_only=read_only)

    def objects(self) -> "Objects":
        """Small whole objects under this location."""
        return Objects(self)

    def pace(self, name: str) -> None:
        """Wait until this process may write the object `name` again (object stores: once a second a key)."""
        if self.scheme not in ("s3", "r2"):
            return
        url = f"{self}/{name}"
        with _pace_lock:
            now = time.monotonic()
            turn = max(now, _last_write.get(url, -SECONDS_BETWEEN_WRITES) + SECONDS_BETWEEN_WRITES)
            if len(_last_write) > 10_000:
                for stale in [
                    key for key, last in _last_write.items() if last < now - SECONDS_BETWEEN_WRITES
                ]:
                    del _last_write[stale]
            _last_write[url] = turn
        time.sleep(max(0.0, turn - now))

    def _s3(self) -> "S3Store":
        return bucket_store(str(self), self.scheme, self.bucket, self.key)


class Objects:
    """Small whole objects under one location; every write is atomic."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def get(self, name: str) -> bytes | None:
        """The bytes of an object, or None if there is none."""
        if (memory := self._memory()) is not None:
            found = memory.get(name)
            return None if found is None else bytes(found.to_bytes())
        with storage_errors(f"reading {self.location}/{name}"):
            try:
                if self.location.path is not None:
                    return (self.location.path / name).read_bytes()
                return bytes(self.location._s3().get(name).bytes())
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing what was there."""
        if (memory := self._memory()) is not None:
            memory[name] = memory_buffer(data)
            return
        self.location.pace(name)
        with storage_errors(f"writing {self.location}/{name}", need_bytes=len(data)):
            self._writable().put(name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless one is there (one winner among any number of writers); False if one is.

        After a lost response the retry may meet the caller's own object: compare contents on False.
        """
        if (memory := self._memory()) is not None:
            return memory.create(name, memory_buffer(data))
        from obstore.exceptions import AlreadyExistsError

        with storage_errors(f"creating {self.location}/{name}", need_bytes=len(data)):
            try:
                self._writable().put(name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes of the objects below a folder (whole path segments), any depth."""
        if (memory := self._memory()) is not None:
            folder = prefix.strip("/") + "/" if prefix.strip("/") else ""
            yield from [(name, len(memory[name])) for name in sorted(memory) if name.startswith(folder)]
            return
        if (store := self._store()) is None:
            return
        with storage_errors(f"listing {self.location}/{prefix}"):
            for batch in store.list(prefix or None):
                yield from [(item["path"], item["size"]) for item in batch]

    def folders(self, prefix: str = "") -> "tuple[str, ...]":
        """Names of the folders directly below a folder, sorted."""
        if self._memory() is not None:
            depth = len([part for part in prefix.split("/") if part])
            found = {tuple(name.split("/")) for name, _ in self.list(prefix)}
            return tuple(sorted({parts[depth] for parts in found if len(parts) > depth + 1}))
        if self.location.path is not None:
            with storage_errors(f"listing {self.location}/{prefix}"), contextlib.suppress(FileNotFoundError):
                return tuple(sorted(e.name for e in os.scandir(self.location.path / prefix) if e.is_dir()))
            return ()
        with storage_errors(f"listing {self.location}/{prefix}"):
            below = self._writable().list_with_delimiter(prefix or None)["common_prefixes"]
        return tuple(sorted(name.rstrip("/").rpartition("/")[2] for name in below))

    def delete(self, name: str) -> None:
        """Remove an object; removing what is not there is no error."""
        if (memory := self._memory()) is not None:
            memory.pop(name, None)
        elif (store := self._store()) is not None:
            with storage_errors(f"deleting {self.location}/{name}"), contextlib.suppress(FileNotFoundError):
                store.delete(name)

    def exists(self, name: str) -> bool:
        """Whether an object of that name is there."""
        if (memory := self._memory()) is not None:
            return name in memory
        if self.location.path is not None:
            return (self.location.path / name).is_file()
        with storage_errors(f"looking for {self.location}/{name}"):
            try:
                self.location._s3().head(name)
            except FileNotFoundError:
                return False
        return True

    def _memory(self) -> "MemoryFolder | None":
        return MemoryFolder(self.location.key) if self.location.scheme == "memory" else None

    def _store(self) -> "LocalStore | S3Store | None":
        """The obstore store; None for a local folder that does not exist (reading creates nothing)."""
        path = self.location.path
        return None if path is not None and not path.is_dir() else self._writable()

    def _writable(self) -> "LocalStore | S3Store":
        if self.location.path is None:
            return self.location._s3()
        from obstore.store import LocalStore

        try:
            self.location.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder {self.location.path} ({error.strerror}): choose another place"
            ) from error
        return LocalStore(self.location.path)


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)
