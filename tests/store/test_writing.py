import os
import uuid
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import create_group, create_product, grow
from astrid_dist.store.writing import ProductWriter, digest_values

SIZES = {"y": 2100, "x": 130, "v": 3, "u": 3, "psf_term": 1, "star": 2}


def _survey(location: Location, epochs: int = 3) -> ProductWriter:
    create_product(location, "survey")
    create_group(location, "survey", "f1/g", {**SIZES, "epoch": epochs}, {})
    return ProductWriter(location, "f1/g")


@pytest.fixture
def memory() -> Location:
    return Location.parse(f"memory://{uuid.uuid4().hex}/survey.zarr")


def _stored(location: Location, variable: str) -> np.ndarray:
    array = zarr.open_array(location.zarr_store(read_only=True), path=f"f1/g/{variable}", mode="r")
    return np.asarray(array[:])


def test_shards_are_read_back_bit_for_bit_and_their_digests_tell_them(memory: Location) -> None:
    writer = _survey(memory)
    image = np.random.default_rng(1).normal(size=(2100, 130)).astype("f4")
    image[:5] = np.nan
    top = writer.write("image", {"epoch": slice(1, 2), "y": slice(0, 2048)}, image[None, :2048])
    bottom = writer.write("image", {"epoch": 1, "y": slice(2048, 2100)}, image[2048:])
    stored = _stored(memory, "image")
    np.testing.assert_array_equal(stored[1], image)
    assert np.isnan(stored[[0, 2]]).all(), "what was not written is no data"
    assert top.region == ((1, 2), (0, 2048), (0, 130))
    assert top.sha256 == digest_values(stored[1:2, :2048])
    assert bottom.sha256 == digest_values(stored[1:2, 2048:]) != top.sha256


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ({"epoch": slice(0, 1), "y": slice(0, 1024)}, "y 0..1024 is not made of whole shards of 2048"),
        ({"epoch": slice(0, 1), "y": slice(1024, 2048)}, "y 1024..2048 is not made of whole shards"),
        ({"epoch": slice(0, 1), "y": slice(2048, 2099)}, "y 2048..2099 is not made of whole shards"),
        ({"epoch": slice(0, 1), "x": slice(0, 256)}, "x 0..256 lies outside the array, whose x is 130 long"),
        ({"epoch": slice(3, 4)}, "epoch 3..4 lies outside the array, whose epoch is 3 long"),
        ({"epoch": slice(1, 1)}, "epoch 1..1 lies outside"),
        ({"epoch": slice(-1, 1)}, "epoch -1..1 lies outside"),
        ({"epoch": slice(0, 2, 2)}, "no step"),
        ({"row": slice(0, 1)}, "has dimensions .* not .*row"),
    ],
)
def test_a_region_that_is_not_whole_shards_of_the_array_is_refused(
    memory: Location, region: dict[str, slice], says: str
) -> None:
    with pytest.raises(StorageError, match=says):
        _survey(memory).write("image", region, np.zeros((1, 2100, 130), "f4"))
    assert "c" not in memory.objects().folders("f1/g/image"), "nothing was written"


@given(st.integers(0, 2200), st.integers(0, 2200))
@settings(max_examples=60, deadline=None)
def test_a_region_is_accepted_exactly_when_it_is_whole_shards(start: int, stop: int) -> None:
    location = Location.parse("memory://aligned/survey.zarr")
    writer = _survey(location)
    whole = (start, stop) in {(0, 2048), (2048, 2100), (0, 2100)}
    try:
        values = np.zeros((1, max(0, stop - start), 130), "u2")
        writer.write("mask", {"epoch": slice(0, 1), "y": slice(start, stop)}, values)
    except StorageError:
        assert not whole
    else:
        assert whole


def test_values_must_fit_the_region_and_the_type(memory: Location) -> None:
    writer = _survey(memory)
    with pytest.raises(StorageError, match=r"region has shape \(1, 2100, 130\), the values \(2100, 130\)"):
        writer.write("image", {"epoch": slice(0, 1)}, np.zeros((2100, 130)))
    with pytest.raises(StorageError, match="mask is uint16, the values are float64"):
        writer.write("mask", {"epoch": 0}, np.zeros((2100, 130)))
    with pytest.raises(StorageError, match=r"values -1\.\.-1 do not fit"):
        writer.write("mask", {"epoch": 0}, np.full((2100, 130), -1))
    with pytest.raises(ConfigError, match="'background_rms'"):
        writer.write("background_rmss", {"epoch": 0}, np.zeros((33, 3)))
    with pytest.raises(StorageError, match="committer"):
        writer.write("mjd", {}, np.zeros(3))
    with pytest.raises(StorageError, match="create the group first"):
        ProductWriter(memory, "f2/g").write("image", {"epoch": 0}, np.zeros((2100, 130)))


def test_a_writer_opened_before_the_array_grew_writes_the_new_epoch(memory: Location) -> None:
    writer = _survey(memory, epochs=1)
    writer.write("mask", {"epoch": 0}, np.zeros((2100, 130), "u2"))
    grow(memory, "survey", "f1/g", 2)
    writer.write("mask", {"epoch": 1}, np.full((2100, 130), 4, "u2"))
    assert _stored(memory, "mask")[1].min() == 4


def test_a_shard_of_nothing_but_fill_values_is_an_object_too(memory: Location) -> None:
    _survey(memory).write("image", {"epoch": 0, "y": slice(0, 2048)}, np.full((2048, 130), np.nan, "f4"))
    assert memory.objects().exists("f1/g/image/c/0/0/0")


def test_scalars_are_written_in_place_and_read_back(memory: Location) -> None:
    writer = _survey(memory, epochs=5000)
    times = np.array(["2026-01-01T12:00:00.25", "NaT"], "M8[ns]")
    writer.write_scalars({"time": times, "epoch_id": ["a" * 64, None], "valid": [True, False]}, 4095)
    writer.write_scalars({"n_stars": [3, None], "fwhm": np.array([2.5, np.nan])}, 4095)
    time = _stored(memory, "time")
    assert time[4095].astype("M8[us]") == times[0].astype("M8[us]")
    assert time[4096] == time[0] == -1
    assert _stored(memory, "epoch_id")[4094:4098].tolist() == ["", "a" * 64, "", ""]
    assert _stored(memory, "n_stars")[4095:4097].tolist() == [3, -1]
    with pytest.raises(StorageError, match="different lengths"):
        writer.write_scalars({"mjd": [1.0], "fwhm": [1.0, 2.0]}, 0)
    with pytest.raises(StorageError, match=r"has 5000 epochs, not 4999\.\.5001"):
        writer.write_scalars({"mjd": [1.0, 2.0]}, 4999)
    with pytest.raises(StorageError, match="tasks write it"):
        writer.write_scalars({"psf": [1.0]}, 0)


def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path) -> None:
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=600k tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("no right to mount a small disk")
    try:
        writer = _survey(Location.parse(tmp_path / "survey.zarr"))
        noise = np.random.default_rng(1).normal(size=(2100, 130)).astype("f4")
        with pytest.raises(StorageError, match=r"f1/g/image.* the disk is full and 1,092,000 bytes"):
            writer.write("image", {"epoch": 0}, noise)
        until = monotonic() + 30
        while list(
            tmp_path.rglob("*.partial")
        ):  # other chunks' threads are a moment behind the one that failed
            assert monotonic() < until, "what was begun is removed"
            sleep(0.01)
    finally:
        os.system(f"umount {tmp_path}")


@given(
    hnp.arrays(st.sampled_from(["f4", "f8", "u2", "i4", "i8", "?"]), hnp.array_shapes(max_dims=3, max_side=4))
)
def test_a_digest_depends_on_values_shape_and_type_only(values: np.ndarray) -> None:
    digest = digest_values(values)
    assert digest == digest_values(np.asfortranarray(values))
    assert digest == digest_values(values.astype(values.dtype.newbyteorder(">")))
    assert digest != digest_values(values[None])
    assert digest != digest_values(values.astype("c16"))
    changed = values.copy()
    changed.reshape(-1).view("u1")[0] ^= 1
    assert digest != digest_values(changed)
