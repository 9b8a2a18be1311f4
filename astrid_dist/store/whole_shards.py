"""Packing and unpacking a whole shard of samples at once: Zarr would copy every chunk once or twice more.

A shard of the layout of samples is cut along its first axis alone, so that its chunks lie one after the other
in the array, and Blosc packs each from, or unpacks each into, its place. The bytes are those of the Zarr
specification: any reader decodes them.
"""

from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

#: Bytes of a checksum, and what the index says of a chunk that was not written.
_CHECK, _EMPTY = 4, np.uint64(2**64 - 1)
_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}


def is_row_shard(metadata: dict[str, Any]) -> bool:
    """Whether shards are cut along the first axis alone, and packed as `create_array` packs them."""
    codec = metadata["codecs"][0]
    if codec["name"] != "sharding_indexed":
        return False
    inner = codec["configuration"]
    packing = [one["name"] for one in inner["codecs"]]
    checked = [one["name"] for one in inner["index_codecs"]]
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return (
        inner["chunk_shape"][1:] == shard[1:] == list(metadata["shape"])[1:]
        and packing == ["bytes", "blosc", "crc32c"]
        and checked == ["bytes", "crc32c"]
        and inner["index_location"] == "end"
    )


def encode_shard(values: NDArray[Any], metadata: dict[str, Any]) -> bytes:
    """The object of one shard.

    Parameters
    ----------
    values : (rows, ...) array
        In the array's type, C order, little-endian; rows that are missing at the end of the array are filled.
    metadata : dict
        The array's ``zarr.json``, of which `is_row_shard` holds.
    """
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    inner = metadata["codecs"][0]["configuration"]
    packing = inner["codecs"][1]["configuration"]
    options = (
        packing["cname"].encode(),
        packing["clevel"],
        _SHUFFLES[packing["shuffle"]],
        packing["blocksize"],
    )
    chunk = inner["chunk_shape"][0]
    index = np.full((shard[0] // chunk, 2), _EMPTY, "<u8")
    parts: list[bytes] = []
    written = 0
    for number, start in enumerate(range(0, len(values), chunk)):
        rows = values[start : start + chunk]
        if len(rows) < chunk:
            rest = np.full((chunk - len(rows), *shard[1:]), metadata["fill_value"], rows.dtype)
            rows = np.concatenate([rows, rest])
        packed = blosc.compress(rows, *options)
        parts += [packed, _checksum(packed)]
        index[number] = written, len(packed) + _CHECK
        written += len(packed) + _CHECK
    said = index.tobytes()
    return b"".join([*parts, said, _checksum(said)])


def decode_shard(
    body: bytes | NDArray[np.uint8], metadata: dict[str, Any], rows: int, out: NDArray[Any] | None = None
) -> NDArray[Any] | None:
    """The first `rows` rows of a shard; None if one of their chunks was never written.

    Parameters
    ----------
    body : bytes or (n,) uint8
        The shard's object.
    metadata : dict
        The array's ``zarr.json``, of which `is_row_shard` holds.
    rows : int
        Rows of the array in this shard.
    out : (shard, ...) array, optional
        Memory to decode into, of the array's type and the shape of a shard.

    Raises
    ------
    ValueError
        If a checksum does not fit, or the object is cut short.
    """
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][0]
    data = np.frombuffer(body, np.uint8)
    index = _checked(data[-(16 * (shard[0] // chunk) + _CHECK) :], "the index of the shard")
    if index.size != 16 * (shard[0] // chunk):
        raise ValueError(f"the shard has {data.size} bytes, fewer than its index")
    places = index.view("<u8").reshape(-1, 2)[: -(-rows // chunk)]
    if (places == _EMPTY).any():
        return None
    if out is None:
        out = np.empty((len(places) * chunk, *shard[1:]), np.dtype(metadata["data_type"]).newbyteorder("<"))
    found = out[: len(places) * chunk]
    for number, (start, size) in enumerate(places.tolist()):
        packed = _checked(data[start : start + size], f"chunk {number} of the shard")
        blosc.decompress(packed, found[number * chunk : (number + 1) * chunk])
    return found[:rows]


def _checked(data: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """Bytes without the CRC-32C at their end."""
    content, said = data[:-_CHECK], data[-_CHECK:].tobytes()
    if _checksum(content) != said:
        raise ValueError(f"{what} does not have its checksum")
    return content


def _checksum(data: bytes | NDArray[np.uint8]) -> bytes:
    value: int = google_crc32c.value(data)
    return value.to_bytes(_CHECK, "little")
