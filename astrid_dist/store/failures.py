"""What disks and buckets say when they refuse, turned into a `StorageError` that says what to do."""

import contextlib
import errno
from collections.abc import Iterator

from astrid_dist.errors import ConfigError, StorageError


@contextlib.contextmanager
def storage_errors(doing: str, need_bytes: int | None = None) -> Iterator[None]:
    """Turn what the disk or the bucket says into a `StorageError` that says what was being done."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (StorageError, ConfigError):
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):  # what a write is told; a read is told that its object is missing
            raise StorageError(_no_bucket(doing)) from error
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StorageError(_refused(doing, error)) from error
    except BaseError as error:
        if "No space left" in str(error):  # obstore's LocalStore keeps no errno
            raise StorageError(_full(doing, need_bytes)) from error
        if "NoSuchBucket" in str(error):
            raise StorageError(_no_bucket(doing)) from error
        if "403 Forbidden" in str(error) or "401 Unauthorized" in str(error):  # so says a listing
            raise StorageError(_refused(doing, error)) from error
        raise StorageError(f"{doing}: {_first_line(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(_full(doing, need_bytes)) from error
        raise StorageError(f"{doing}: {error}") from error


def _first_line(error: Exception) -> str:
    """What obstore says, without the debug dump below it."""
    return str(error).partition("\n")[0]


def _no_bucket(doing: str) -> str:
    return f"{doing}: there is no such bucket: check the URL and the account"


def _refused(doing: str, error: Exception) -> str:
    return (
        f"{doing}: refused; check the credentials in the environment (AWS_*) and their rights: "
        + _first_line(error)
    )


def _full(doing: str, need_bytes: int | None) -> str:
    need = "" if need_bytes is None else f" and {need_bytes:,} bytes are needed"
    return f"{doing}: the disk is full{need}; free space, then `astrid resume`"
