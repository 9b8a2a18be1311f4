"""Records of alert packets out of the files they come in: Avro, Parquet, and tar archives of either.

A survey's public archive is one compressed tar a night, a broker's topic a folder of Avro or Parquet files.
All are read as streams: memory holds a few packets, or a member of an archive. No pickle is read.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from astrid_dist.errors import ConfigError
from astrid_dist.formats.files import files_behind, stream_of

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_RECORDS = (".avro", ".parquet")
SUFFIXES = _RECORDS + _ARCHIVES
#: Archives that must be read from their beginning to reach a packet.
PACKED = _ARCHIVES[1:]
#: First bytes of a file of records.
_AVRO, _PARQUET = b"Obj\x01", b"PAR1"
#: Columns of a Parquet file that packets are made of; histories are not read.
_COLUMNS = ("objectId", "candid", "candidate", "diaSourceId", "diaSource")
_ROWS = 32

Record = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """Where a file cannot be read, or not further, and why."""

    where: str
    reason: str


def packet_sources(paths: Iterable[str]) -> list[str]:
    """Files behind paths, folders, patterns and URLs, sorted, each once.

    Raises
    ------
    ConfigError
        A path or pattern stands for nothing; fastavro is not installed.
    """
    found: set[str] = set()
    for path in paths:
        names = list(files_behind(path, SUFFIXES))
        if not names:
            raise ConfigError(
                f"{path!r} stands for no alert packets: it does not exist, or nothing there ends in "
                f"{', '.join(SUFFIXES)}"
            )
        found.update(names)
    _fastavro()
    return sorted(found)


def records(source: str) -> Iterator[tuple[str, Record] | Broken]:
    """Records of a file in order, each with the name of the file or archive member it lies in."""
    try:
        with stream_of(source) as stream:
            if source.endswith(_ARCHIVES):
                yield from _members(source, stream)
            else:
                yield from _file(source, stream)
    except Exception as error:  # a damaged file, or a server, raises anything at all
        yield _broken(source, error)


def _members(source: str, stream: Any) -> Iterator[tuple[str, Record] | Broken]:
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(_RECORDS) else None
            if content is not None:
                yield from _file(f"{source}:{member.name}", io.BytesIO(content.read()))


def _file(where: str, stream: Any) -> Iterator[tuple[str, Record] | Broken]:
    head = stream.read(4)
    try:
        stream.seek(0)
        if head == _AVRO:
            yield from ((where, _mapping(one)) for one in _fastavro().reader(stream))
        elif head == _PARQUET:
            yield from ((where, one) for one in _rows(stream))
        else:
            yield Broken(where, "it is empty" if not head else "it is neither Avro nor Parquet")
    except ConfigError:
        raise
    except Exception as error:  # decoders of damaged bytes raise anything at all
        yield _broken(where, error)


def _rows(stream: Any) -> Iterator[Record]:
    from pyarrow import parquet

    file = parquet.ParquetFile(stream)
    names = [name for name in file.schema_arrow.names if name in _COLUMNS or name.startswith("cutout")]
    for batch in file.iter_batches(_ROWS, columns=names):
        yield from batch.to_pylist()


def _mapping(record: Any) -> Record:
    return record if isinstance(record, dict) else {}


def _broken(where: str, error: Exception) -> Broken:
    return Broken(where, f"cannot be read further ({type(error).__name__}: {error})")


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError as error:
        raise ConfigError("alert packets need fastavro: pip install 'astrid-dist[alerts]'") from error
    return fastavro
