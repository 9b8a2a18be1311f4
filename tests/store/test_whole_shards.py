"""Shards packed and unpacked at once are those of the Zarr specification, and damage is seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import StorageError
from astrid_dist.store.layouts import complete_sizes, variable, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_samples
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import PLANES
from astrid_dist.store.templates import create_array, create_group, create_product
from astrid_dist.store.whole_shards import decode_shard, encode_shard, is_row_shard
from astrid_dist.store.writing import ProductWriter

GROUP = "ztf/train"
SIZES = {"visit": 1, "plane": 4, "v": 7, "u": 7, "host": 1, "sample_shard": 256, "sample_chunk": 32}


def _array(name: str, samples: int) -> tuple[dict[str, Any], "zarr.Array[Any]"]:
    """An empty array in memory with its ``zarr.json``."""
    store = zarr.storage.MemoryStore()
    array = create_array(store, name, variable("samples", name), complete_sizes({**SIZES, "sample": samples}))
    return store._store_dict, array


def _values(name: str, samples: int) -> np.ndarray:
    rng = np.random.default_rng(samples)
    values = rng.integers(-40, 40, variable("samples", name).shape({**SIZES, "sample": samples}))
    found = (values / 8).astype("f2") if name == "pixels" else values.astype("u2")
    if name == "pixels":
        found[:, ..., 0, 0] = np.nan
    return found


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["pixels", "target"]), st.integers(1, 256))
def test_zarr_reads_what_is_packed_here_and_the_other_way_round(name: str, samples: int) -> None:
    objects, array = _array(name, samples)
    metadata = json.loads(objects[f"{name}/zarr.json"].to_bytes())
    assert is_row_shard(metadata)
    values = _values(name, samples)
    place = "/".join([name, "c", *["0"] * values.ndim])
    objects[place] = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(
        encode_shard(values, metadata)
    )
    np.testing.assert_array_equal(array[:], values)
    array[:] = values[::-1]
    np.testing.assert_array_equal(decode_shard(objects[place].to_bytes(), metadata, samples), values[::-1])


def test_a_shard_can_be_decoded_into_memory_that_is_there() -> None:
    objects, _ = _array("pixels", 100)
    metadata = json.loads(objects["pixels/zarr.json"].to_bytes())
    values = _values("pixels", 100)
    out = np.full((256, *values.shape[1:]), 7, values.dtype)
    found = decode_shard(encode_shard(values, metadata), metadata, 100, out)
    assert found is not None
    assert np.shares_memory(found, out)
    np.testing.assert_array_equal(found, values)


def test_images_are_not_taken_for_samples() -> None:
    store = zarr.storage.MemoryStore()
    sizes = complete_sizes({"epoch": 1, "y": 600, "x": 600})
    for name in ("image", "time"):
        create_array(store, name, variables("survey")[name], sizes)
        assert not is_row_shard(json.loads(store._store_dict[f"{name}/zarr.json"].to_bytes()))


def test_a_chunk_that_was_never_written_is_left_to_zarr() -> None:
    objects, array = _array("pixels", 256)
    metadata = json.loads(objects["pixels/zarr.json"].to_bytes())
    array[:32] = _values("pixels", 32)
    place = "pixels/c/0/0/0/0/0"
    assert decode_shard(objects[place].to_bytes(), metadata, 256) is None
    np.testing.assert_array_equal(
        decode_shard(objects[place].to_bytes(), metadata, 32), _values("pixels", 32)
    )


@pytest.fixture
def product(tmp_path: Path) -> Location:
    """300 samples in two shards."""
    location = Location.parse(tmp_path / "s.zarr")
    create_product(location, "samples")
    attributes = {"survey": "ztf", "split": "train", "bands": ["g"], "planes": list(PLANES)}
    create_group(location, "samples", GROUP, {**SIZES, "sample": 300}, attributes)
    ProductWriter(location, GROUP).write("pixels", {}, _values("pixels", 300))
    return location


@pytest.mark.parametrize("part", [slice(0, 256), slice(256, 300), slice(0, 300), slice(250, 260), 7])
def test_every_way_of_reading_gives_the_same(product: Location, part: Any) -> None:
    expected = _values("pixels", 300)[part]
    dask = open_samples(product, allow_partial=True)[GROUP].pixels
    np.testing.assert_array_equal(ProductReader(product, GROUP).read("pixels", sample=part), expected)
    np.testing.assert_array_equal(dask[part], expected)
    picked = np.array([299, 3, 258])
    np.testing.assert_array_equal(dask.isel(sample=picked), _values("pixels", 300)[picked])


@pytest.mark.parametrize("damage", ["first byte", "index", "short", "empty"])
def test_damage_is_an_error_that_names_the_place(product: Location, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.zarr" / GROUP / "pixels/c/0/0/0/0/0"
    body = bytearray(path.read_bytes())
    if damage in ("first byte", "index"):
        body[0 if damage == "first byte" else -40] ^= 1
    path.write_bytes(body[: {"short": 60, "empty": 0}.get(damage, len(body))])
    with pytest.raises(StorageError, match=r"pixels.*cannot be decoded.*astrid verify"):
        ProductReader(product, GROUP).read("pixels", sample=slice(0, 256))
    np.testing.assert_array_equal(
        ProductReader(product, GROUP).read("pixels", sample=slice(256, 300)), _values("pixels", 300)[256:]
    )
