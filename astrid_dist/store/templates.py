"""Making the empty arrays of a product, growing them, and committing epochs.

A group is staged in memory with plain Zarr calls, then copied: every metadata object is written once, with
its final attributes, and the group's own last, so that a group that is there has all its arrays. Growing and
committing belong to the driver alone; readers take the committed count first and slice to it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from astrid_dist.errors import ConfigError, ResumeConflictError, StorageError
from astrid_dist.store import layouts, sample_layout
from astrid_dist.store.layouts import Sizes, Variable
from astrid_dist.store.locations import Location

METADATA = "zarr.json"
STATES = ("building", "complete")
#: Small requests in flight at once.
_THREADS = 16
#: Bytes that Blosc packs at a time in stamps.
_PACKED_BLOCK = 1 << 19


def create_product(
    location: Location,
    product: str,
    *,
    job: str = "",
    inputs: Mapping[str, Any] | None = None,
    digest: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create the root of a product; nothing happens if this very product is there already.

    Parameters
    ----------
    location : Location
        Where the product is to lie.
    product : str
        Name of its layout: survey, reference, difference, samples, candidates or truth.
    job, digest : str
        The job that makes it and the digest of that job's inputs and settings; none for a product that grows.
    inputs : mapping, optional
        What it is made from.
    attributes : mapping, optional
        Attributes of the root besides ``astrid``.

    Raises
    ------
    ConfigError
        If something else lies there.
    ResumeConflictError
        If the product that lies there was made by a job with another digest.
    """
    layouts.variables(product)
    header = {
        "product": product,
        "version": layouts.VERSION,
        "state": "building",
        "job": job,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": dict(inputs or {}),
        "digest": digest,
    }
    objects = location.objects()
    if not objects.exists(METADATA) and location.exists():
        raise ConfigError(f"{location} holds something that is no product: choose another output")
    if objects.create(METADATA, _group_document({**(attributes or {}), "astrid": header})):
        return
    there = product_header(location)
    if there["product"] != product:
        raise ConfigError(
            f"{location} is a {there['product']} product, not a {product}: choose another output"
        )
    if digest and there["digest"] and there["digest"] != digest:
        raise ResumeConflictError(
            f"{location} was made by a job with digest {there['digest'][:12]}, this one has {digest[:12]}:"
            " its inputs or settings changed; choose another output, or delete the product and its ledger"
        )


def create_group(
    location: Location, product: str, group: str, sizes: Sizes, attributes: Mapping[str, Any]
) -> None:
    """Create all arrays of a ``<field>/<band>`` group; nothing happens if it is there with the same sizes.

    Parameters
    ----------
    location : Location
        Root of the product.
    product : str
        Name of its layout.
    group : str
        ``"<field>/<band>"``.
    sizes : mapping of str to int
        Lengths of ``y``, ``x``, ``v``, ``u`` and, where the layout has them, ``epoch`` and ``psf_term``;
        those of tiles, mesh cells and stars follow. Of samples ``sample``, ``visit``, ``plane``,
        ``v``, ``u``, ``host`` and, where not as usual, ``sample_shard`` and ``sample_chunk``.
    attributes : mapping
        Attributes of the group: ``wcs`` (FITS header string), ``psf_order``, ``oversampling``, ...;
        of samples ``survey``, ``split``, ``bands``, ``planes``.

    Raises
    ------
    ConfigError
        If a size is missing.
    ResumeConflictError
        If the group is there with other sizes.
    """
    variables = layouts.variables(product)
    full = layouts.complete_sizes(sizes)
    if missing := {dim for one in variables.values() for dim in one.dims} - set(full):
        raise ConfigError(f"{location}/{group}: a {product} group needs the sizes {sorted(missing)} too")
    if "sample" in full and (wrong := sample_layout.wrong(full, attributes)):
        raise ConfigError(f"{location}/{group}: {wrong}")
    objects = location.objects()
    if objects.get(f"{group}/{METADATA}") is not None:
        _check_sizes(location, group, variables.values(), full)
        return
    own: dict[str, Any] = dict(attributes)
    if product != "samples":
        own = {"tile": layouts.TILE, "mesh_box": layouts.MESH_BOX, **own}
    scalars = [one.name for one in variables.values() if one.is_scalar]
    if scalars:
        own |= {"epochs": 0, "coordinates": " ".join(scalars)}
    group_document = _group_document(own)
    documents = _array_documents(product, tuple(sorted(full.items())))
    _each(lambda item: objects.put(f"{group}/{item[0]}", item[1]), documents)
    field = group.rpartition("/")[0]
    while field:
        name = f"{field}/{METADATA}"
        if not objects.exists(name):
            objects.create(name, _group_document({}))
        field = field.rpartition("/")[0]
    objects.put(f"{group}/{METADATA}", group_document)


@lru_cache(maxsize=64)
def _array_documents(product: str, sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[str, bytes], ...]:
    """The metadata objects of all arrays of a group; the same for every field of one size."""
    stage = MemoryStore()
    for one in layouts.variables(product).values():
        create_array(stage, one.name, one, dict(sizes))
    names = [f"{name}/{METADATA}" for name in layouts.variables(product)]
    return tuple((name, stage._store_dict[name].to_bytes()) for name in names)


def create_array(store: Any, path: str, variable: Variable, sizes: Sizes) -> "zarr.Array[Any]":
    """Create one empty array of a layout.

    Images are Blosc-compressed (LZ4, shuffled by bit: survey pixels become as small as with Zstandard in a
    quarter of its time), the rest with Zstandard; each chunk carries a checksum, so that a flipped byte is an
    error when read and never a wrong pixel.
    """
    shape = variable.shape(sizes)
    if variable.dtype == "f2":  # eighths of the noise, whose bits LZ4 cannot shorten
        # kB, thousands packed, thousands read per second and core of 4 planes of 63 x 63 (entropy: 10.3 kB):
        # LZ4-1 by bit 17.2, 39, 80; Zstd-1 by byte 12.7, 17, 35 (in Blosc's own blocks 13.1, 13, 24), by bit
        # 14.0, 19, 37; Zstd-2 by bit 14.1, 12, 38.
        packing: Any = BloscCodec(
            cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle, typesize=2, blocksize=_PACKED_BLOCK
        )
    elif variable.is_image:
        packing = BloscCodec(
            cname="lz4", clevel=1, shuffle=BloscShuffle.bitshuffle, typesize=int(variable.dtype[1:])
        )
    else:
        packing = ZstdCodec(level=1)
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        chunks=variable.chunks(sizes),
        shards=variable.units(sizes) if variable.is_image else None,
        dtype=variable.dtype if variable.dtype in ("string", "bool") else f"<{variable.dtype}",
        fill_value=variable.fill_value,
        compressors=[packing, Crc32cCodec()],
        dimension_names=variable.dims,
        attributes=variable.attributes,
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def grow(location: Location, product: str, group: str, epochs: int) -> None:
    """Make every epoch array of a group `epochs` long; what is that long already is left alone.

    Raises
    ------
    StorageError
        If an array of the group is missing.
    """
    objects = location.objects()

    def lengthen(variable: Variable) -> None:
        name = f"{group}/{variable.name}/{METADATA}"
        document = read_document(location, name)
        if document["shape"][0] < epochs:
            document["shape"][0] = epochs
            objects.put(name, encode_document(document))

    _each(lengthen, (one for one in layouts.variables(product).values() if "epoch" in one.dims))


def commit_epochs(location: Location, group: str, count: int) -> None:
    """Show readers the first `count` epochs of a group; call it when their data and scalars are written.

    Raises
    ------
    StorageError
        If the count would shrink, or exceeds the arrays: epochs are never taken back.
    """
    name = f"{group}/{METADATA}"
    document = read_document(location, name)
    there = int(document["attributes"].get("epochs", 0))
    if count == there:
        return
    length = int(read_document(location, f"{group}/valid/{METADATA}")["shape"][0])
    if not there <= count <= length:
        raise StorageError(
            f"{location}/{group} has {there} committed epochs in arrays of {length}: cannot commit {count}"
        )
    document["attributes"]["epochs"] = count
    location.objects().put(name, encode_document(document))


def set_state(location: Location, state: str, **more: Any) -> None:
    """Set the state of a product, building or complete, and more entries of its ``astrid`` attribute."""
    if state not in STATES:
        raise ConfigError(f"a product is {' or '.join(STATES)}, not {state!r}")
    document = read_document(location, METADATA)
    header = document["attributes"]["astrid"]
    changed = {**header, "state": state, **more}
    if changed != header:
        document["attributes"]["astrid"] = changed
        location.objects().put(METADATA, encode_document(document))


def shard_grid(sizes: Sizes, product: str) -> tuple[int, int]:
    """Rows and columns of shards that an image of these sizes is cut into."""
    image = next((one for one in layouts.variables(product).values() if "y" in one.dims), None)
    if image is None:
        raise ConfigError(f"a {product} product has no images")
    units = dict(zip(image.dims, image.units({"epoch": 0, **sizes}), strict=True))
    return -(-sizes["y"] // units["y"]), -(-sizes["x"] // units["x"])


def product_header(location: Location) -> dict[str, Any]:
    """The ``astrid`` attribute of a product's root: product, version, state, job, created, inputs, digest.

    Raises
    ------
    ConfigError
        If there is nothing, something that is no product, or a product of a later layout.
    StorageError
        If the location does not answer, or its metadata is damaged.
    """
    return dict(root_attributes(location)["astrid"])


def root_attributes(location: Location) -> dict[str, Any]:
    """All attributes of a product's root; raises as `product_header`."""
    body = location.objects().get(METADATA)
    if body is None:
        what = "something that is no product" if location.exists() else "nothing"
        raise ConfigError(f"there is {what} at {location}: check the URL")
    attributes: dict[str, Any] = decode_document(body, f"{location}/{METADATA}").get("attributes") or {}
    header = attributes.get("astrid")
    if not isinstance(header, dict) or "product" not in header:
        raise ConfigError(f"{location} is a Zarr store but no astrid product: check the URL")
    version = int(header["version"])
    if version != layouts.VERSION:
        advice = (
            "install a newer astrid-dist" if version > layouts.VERSION else "make it again from its inputs"
        )
        raise ConfigError(
            f"{location} has layout version {version}, this astrid_dist reads {layouts.VERSION}: {advice}"
        )
    return attributes


def _check_sizes(location: Location, group: str, variables: Iterable[Variable], sizes: Sizes) -> None:
    """Refuse a group that is there with other sizes; the epochs may have grown."""
    for one in variables:
        document = read_document(location, f"{group}/{one.name}/{METADATA}")
        there, wanted = document["shape"], list(one.shape(sizes))
        units = document["chunk_grid"]["configuration"]["chunk_shape"], list(one.units(sizes))
        skip = 1 if "epoch" in one.dims else 0
        if there[skip:] != wanted[skip:] or units[0] != units[1]:
            raise ResumeConflictError(
                f"{location}/{group}/{one.name} is there with shape {there} in shards of {units[0]}, this job"
                f" needs {wanted} in {units[1]} ({', '.join(one.dims)}): choose another output"
            )


def read_document(location: Location, name: str) -> dict[str, Any]:
    """A ``zarr.json`` that must be there."""
    body = location.objects().get(name)
    if body is None:
        raise StorageError(f"{location}/{name} is missing: the product is damaged or was never made")
    return decode_document(body, f"{location}/{name}")


def decode_document(body: bytes, where: str) -> dict[str, Any]:
    """A ``zarr.json``, or a `StorageError` saying which is damaged."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise StorageError(f"{where} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise StorageError(f"{where} is damaged: {type(found).__name__} instead of an object")
    return found


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Zarr metadata as JSON; NaN attributes are refused, as JSON has none."""
    try:
        return json.dumps(document, allow_nan=False, indent=1).encode()
    except ValueError as error:
        raise ConfigError(f"attributes must be plain JSON without NaN (use null): {error}") from error


def _group_document(attributes: Mapping[str, Any]) -> bytes:
    return encode_document({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})


def _each(action: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Do small requests side by side; the first error is raised."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(action, items):
            pass
