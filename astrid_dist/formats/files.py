"""Files behind paths and URLs; FITS files opened, and what is wrong with one is an `InputError`."""

import glob
import os
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import FITSFixedWarning

from astrid_dist.errors import ConfigError, InputError

SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz", ".fit.fz")

#: What astropy and the file system raise on files that are cut short, not FITS, or not there.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    zlib.error,
    VerifyError,
    AstropyUserWarning,
)


class _Quiet:
    """Silences what astropy says of sloppy headers, and makes truncation an error, while any thread needs it.

    `warnings.catch_warnings` alone is not safe in threads: whoever leaves last restores another's filters.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._catch = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._catch = warnings.catch_warnings()
                self._catch.__enter__()
                warnings.filterwarnings("ignore", category=VerifyWarning)
                warnings.filterwarnings("ignore", category=FITSFixedWarning)
                warnings.filterwarnings(
                    "error", message="File may have been truncated", category=AstropyUserWarning
                )
                warnings.filterwarnings(
                    "error", message="Error validating header", category=AstropyUserWarning
                )
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._catch.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def quiet_headers() -> Iterator[None]:
    """No word from astropy on sloppy headers within this block, in any number of threads."""
    with _QUIET:
        yield


@contextmanager
def opened(source: str) -> Iterator[fits.HDUList]:
    """The HDUs of a local or remote file; only what is asked for is read."""
    compression = "gzip" if source.endswith(".gz") else None
    url, options = _url(source)
    with quiet_headers():
        try:
            with (
                fsspec.open(url, mode="rb", compression=compression, **options) as stream,
                fits.open(stream, memmap=False, lazy_load_hdus=True) as hdus,
            ):
                yield hdus
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{source} does not exist; check the path or URL") from error
        except _BROKEN as error:
            raise InputError(
                f"{source} cannot be read as FITS ({type(error).__name__}: {error}); it is empty, cut short, "
                "damaged or not FITS: fetch it again or leave it out"
            ) from error
        except Exception as error:  # remote file systems raise their clients' own types
            if "://" not in source:
                raise
            raise InputError(
                f"{source} cannot be read ({type(error).__name__}: {error}); check the URL"
            ) from error


def filesystem_of(path: str) -> tuple[Any, str]:
    """File system of a path or URL, and the path within it."""
    url, options = _url(path)
    filesystem, inner = fsspec.core.url_to_fs(url, **options)
    return filesystem, inner


def _url(source: str) -> tuple[str, dict[str, Any]]:
    """The address fsspec understands: R2 is S3 at the account's own endpoint."""
    if not source.startswith("r2://"):
        return source, {}
    account = os.environ.get("R2_ACCOUNT_ID", "")
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or f"https://{account}.r2.cloudflarestorage.com"
    return "s3://" + source.removeprefix("r2://"), {"endpoint_url": endpoint}


def is_pattern(path: str) -> bool:
    """Whether a path has wildcards, and is not the name of a file that has them in it."""
    return bool(re.search(r"[*?\[]", path)) and not os.path.exists(path)


def files_behind(path: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files that a path, folder, pattern or URL stands for; a file named in full may end in anything.

    Raises
    ------
    ConfigError
        A URL cannot be listed.
    """
    pattern = is_pattern(path)
    if "://" in path and not path.startswith("file://"):
        yield from _behind_url(path, pattern, suffixes)
        return
    local = os.path.abspath(path.removeprefix("file://"))
    if pattern:
        yield from (name for name in glob.glob(local, recursive=True) if name.endswith(suffixes))
    elif os.path.isdir(local):
        for folder, _, files in os.walk(local):
            yield from (os.path.join(folder, name) for name in files if name.endswith(suffixes))
    elif os.path.isfile(local):
        yield local


def _behind_url(path: str, pattern: bool, suffixes: tuple[str, ...]) -> Iterator[str]:
    scheme = path.split("://")[0]
    if not pattern and path.endswith(suffixes):
        yield path
        return
    try:
        filesystem, inner = filesystem_of(path)
        names = filesystem.glob(inner) if pattern else filesystem.find(inner)
    except Exception as error:  # remote file systems raise their clients' own types
        raise ConfigError(f"{path!r} cannot be listed ({type(error).__name__}: {error})") from error
    yield from (f"{scheme}://{name.lstrip('/')}" for name in names if name.endswith(suffixes))


@contextmanager
def stream_of(source: str) -> Iterator[Any]:
    """The bytes of a local or remote file, to be read from its beginning."""
    url, options = _url(source)
    with fsspec.open(url, mode="rb", **options) as stream:
        yield stream


def exists(path: str) -> bool:
    """Whether there is a file behind a path or URL."""
    try:
        filesystem, inner = filesystem_of(path)
        return bool(filesystem.exists(inner))
    except Exception as error:  # remote file systems raise their clients' own types
        raise InputError(f"{path} cannot be looked for ({type(error).__name__}: {error})") from error


def is_transient(error: InputError) -> bool:
    """Whether a file could not be read for a reason that may pass: a remote server's, not the file's."""
    cause = error.__cause__
    remote = cause is not None and "://" in str(error)
    return remote and (isinstance(cause, (ConnectionError, TimeoutError)) or not isinstance(cause, _BROKEN))
