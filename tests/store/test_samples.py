"""Samples at rest: their layout, how they are cut, and what the ledger and `verify` make of them."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import (
    ConfigError,
    IncompleteProductError,
    InputError,
    ResumeConflictError,
    StorageError,
)
from astrid_dist.stages import STAGES
from astrid_dist.stages.run import resume, run_stage
from astrid_dist.stages.status import describe_key, describe_reasons, describe_status
from astrid_dist.store import sample_layout
from astrid_dist.store.layouts import complete_sizes, variable, variables
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_difference, open_samples
from astrid_dist.store.templates import create_group, create_product
from astrid_dist.store.verifying import verify
from astrid_dist.store.writing import ProductWriter
from astrid_dist.taxonomy import CLASSES, CODES, class_bit
from tests import made_samples
from tests.made_samples import GROUP, STAGE
from tests.r2_rules import R2Server

SMALL = {"samples": 600, "side": 9}


@pytest.fixture(autouse=True)
def _stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, STAGE, "tests.made_samples")


@pytest.fixture(params=["file", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "s.zarr") if request.param == "file" else f"memory://{uuid.uuid4().hex}/s.zarr"


def _made(output: str, **settings: Any) -> str:
    run_stage(STAGE, {"output": output, **SMALL, **settings}, SerialEngine())
    return output


def _group(location: Location, **changes: Any) -> None:
    attributes = {"survey": "ztf", "split": "train", "bands": ["g"], "planes": list(sample_layout.PLANES)}
    sizes: dict[str, Any] = {"sample": 600, "visit": 1, "plane": 4, "v": 9, "u": 9, "host": 2}
    for name, value in changes.items():
        (attributes if name in attributes else sizes)[name] = value
    create_group(location, "samples", GROUP, sizes, attributes)


@pytest.mark.parametrize("visits", [1, 2, 3, 5, 17, 100, 5000])
def test_a_shard_is_whole_groups_whole_chunks_and_no_more_than_4096_visits(visits: int) -> None:
    cut = complete_sizes({"sample": 10**6, "visit": visits, "plane": 4, "v": 63, "u": 63, "host": 4000})
    shard, chunk = cut["sample_shard"], cut["sample_chunk"]
    assert shard % sample_layout.SAMPLE_GROUP == 0
    assert shard % chunk == 0
    assert shard == 256 or 2048 < shard * visits <= 4096
    assert chunk == 1 or 16 < chunk * visits <= 32
    for one in variables("samples").values():
        assert one.units(cut)[0] == (4000 if "host" in one.dims else shard)
        assert one.units(cut)[1:] == one.shape(cut)[1:], "a shard has all visits, planes and pixels"
        assert one.chunks(cut)[0] == (chunk if one.is_image else one.units(cut)[0])


def test_codes_and_bits_say_what_they_mean() -> None:
    for name, words in CODES.items():
        said = variable("samples", name).attributes
        assert said["flag_values"] == list(range(len(words)))
        assert [word.replace("_", " ") for word in said["flag_meanings"].split()] == [
            word.replace("_", " ") or "none" for word in words
        ]
        assert len(words) <= np.iinfo(variable("samples", name).dtype).max
    target = variable("samples", "target").attributes
    bits = dict(zip(target["flag_meanings"].split(), target["flag_masks"], strict=True))
    assert bits == {name: class_bit(name) for name in CLASSES if name != "unknown"}
    assert max(bits.values()) <= np.iinfo(np.uint16).max


def test_values_do_not_depend_on_how_samples_are_cut(output: str, tmp_path: Path) -> None:
    one = open_samples(_made(output))[GROUP].compute()
    other = open_samples(_made(str(tmp_path / "o.zarr"), shard=512, chunk=64))[GROUP].compute()
    xr.testing.assert_equal(one, other)
    assert one.sizes["sample"] == 600, "the last shard is partial"
    expected = made_samples.rows(made_samples.Settings(output=output, **SMALL), 2)
    np.testing.assert_array_equal(one.pixels[512:], expected["pixels"])
    assert np.isnan(one.pixels[..., 0, 0]).all()
    assert (one.pixels.dtype, one.target.dtype, one.time.dtype) == ("f2", "u2", "datetime64[us]")


def test_a_group_opens_with_one_dask_chunk_per_shard_and_reads_nothing(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = open_samples(_made(output))
    reads: list[Any] = []
    monkeypatch.setattr("astrid_dist.store.shards.StoredArray.__getitem__", lambda *key: reads.append(key))
    group = product[GROUP]
    assert not reads
    assert set(group.data_vars) == set(variables("samples"))
    assert group.plane.values.tolist() == list(sample_layout.PLANES)
    for name in ("pixels", "target", "snr", "class"):
        assert group[name].chunks[0] == (256, 256, 88)
        assert group[name].data.npartitions == 3
    assert (group.attrs["survey"], group.attrs["bands"]) == ("ztf", ["g", "r"])
    assert list(product) == [GROUP]


def test_stamps_lie_in_one_object_per_shard_packed_in_blocks(tmp_path: Path) -> None:
    output = Location.parse(_made(str(tmp_path / "s.zarr"), side=63, samples=256))
    stored = zarr.open_array(output.zarr_store(read_only=True), path=f"{GROUP}/pixels", mode="r")
    assert (stored.shards, stored.chunks) == ((256, 1, 4, 63, 63), (32, 1, 4, 63, 63))
    files = [path for path in (tmp_path / "s.zarr" / GROUP / "pixels" / "c").rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].stat().st_size < 256 * 16_000, "at most 16 kB per sample, of white noise"


def test_a_stopped_job_is_resumed_verified_and_told_about(output: str) -> None:
    with pytest.raises(IncompleteProductError, match=f"{GROUP}/e000001"):
        _made(output, fail=1)
    with pytest.raises(IncompleteProductError, match="astrid resume"):
        open_samples(output)
    partial = open_samples(output, allow_partial=True)[GROUP]
    assert np.isnan(partial.snr[256:512].compute()).all(), "never written"
    assert (partial["class"][256:512].compute() == -1).all()
    assert (partial.target[256:512].compute() == 0).all()
    key = f"{GROUP}/e000001/y00x00"
    assert "600 samples, 9 x 9 pixels" in describe_status(output)
    assert "2 of 3 tasks" in describe_status(output)
    assert f"set aside    {key}" in describe_reasons(output)
    assert "NaN plane" in describe_key(output, key)
    assert verify(output).ok, "what is written is as it was written"


def test_resume_writes_only_what_is_missing(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_samples.rows

    def without_the_first(settings: made_samples.Settings, group: int) -> dict[str, np.ndarray]:
        if group == 0:
            raise InputError("the host is not there yet")
        return rows(settings, group)

    monkeypatch.setattr(made_samples, "rows", without_the_first)
    with pytest.raises(IncompleteProductError):
        _made(output)
    monkeypatch.setattr(made_samples, "rows", rows)
    summary = resume(output, SerialEngine())
    assert (summary.skipped, summary.done) == (2, 1)
    report = verify(output)
    assert report.ok, [str(problem) for problem in report.problems]
    count = len(variables("samples"))
    hosts = sum("host" in one.dims for one in variables("samples").values())
    assert report.checked == 3 * (count - hosts) + hosts, "every shard, and the host table"


def test_verify_names_a_shard_that_is_missing_or_changed(tmp_path: Path) -> None:
    output = _made(str(tmp_path / "s.zarr"))
    (tmp_path / "s.zarr" / GROUP / "snr" / "c" / "1" / "0").unlink()
    ProductWriter(Location.parse(output), GROUP).write(
        "label", {"sample": slice(512, 600)}, np.ones(88, "f4")
    )
    ProductWriter(Location.parse(output), GROUP).write("host_x", {}, np.zeros(3, "f4"))
    found = {(problem.variable, problem.key.rpartition("/e")[2][:6]) for problem in verify(output).problems}
    finalised = Ledger(Location.parse(output)).jobs()[0]["id"]
    assert found == {
        (f"{GROUP}/snr", "000001"),
        (f"{GROUP}/label", "000002"),
        (f"{GROUP}/host_x", finalised[:6]),
    }


@pytest.mark.parametrize(
    ("region", "shape", "says"),
    [
        (slice(0, 128), (128, 1), "0..128 is not made of whole shards of 256"),
        (slice(256, 512), (100, 1), "the region has shape \\(256, 1\\), the values \\(100, 1\\)"),
        (slice(512, 768), (256, 1), "lies outside the array"),
    ],
)
def test_half_a_shard_or_a_wrong_shape_is_refused(
    tmp_path: Path, region: slice, shape: tuple[int, ...], says: str
) -> None:
    location = Location.parse(tmp_path / "s.zarr")
    create_product(location, "samples")
    _group(location, sample_shard=256)
    with pytest.raises(StorageError, match=says):
        ProductWriter(location, GROUP).write("snr", {"sample": region}, np.zeros(shape, "f4"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample_shard": 300}, "multiple of 256"),
        ({"sample_shard": 0}, "multiple of 256"),
        ({"sample_chunk": 48}, "must divide sample_shard"),
        ({"planes": ["science"]}, "4 planes are asked for"),
        ({"bands": []}, "needs the attributes \\['bands'\\]"),
    ],
)
def test_a_group_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    location = Location.parse(tmp_path / "s.zarr")
    create_product(location, "samples")
    with pytest.raises(ConfigError, match=says):
        _group(location, **changes)
    with pytest.raises(ConfigError, match="'host'"):
        create_group(location, "samples", GROUP, {"sample": 1, "visit": 1, "plane": 4, "v": 9, "u": 9}, {})


def test_a_group_that_is_there_in_other_shards_is_no_place_to_go_on(tmp_path: Path) -> None:
    location = Location.parse(tmp_path / "s.zarr")
    create_product(location, "samples")
    _group(location, sample_shard=256)
    _group(location, sample_shard=256)
    with pytest.raises(ResumeConflictError, match="in shards of \\[256"):
        _group(location, sample_shard=512)


def test_other_products_and_unknown_groups_are_answered(output: str) -> None:
    product = open_samples(_made(output))
    with pytest.raises(ConfigError, match="did you mean 'ztf/train'"):
        product["ztf/trian"]
    with pytest.raises(ConfigError, match="is not a <survey>/<split> group"):
        product["ztf"]
    with pytest.raises(ConfigError, match="use open_samples"):
        open_difference(output)


@pytest.mark.s3
def test_a_shard_is_one_object_per_variable_on_a_bucket_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with R2Server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        url = server.bucket() + "/samples.zarr"
        _made(url, samples=300, side=63)
        expected = sum(2 if one.is_sample else 1 for one in variables("samples").values())
        objects = Location.parse(url).objects()
        assert sum(1 for name, _ in objects.list(GROUP) if "/c/" in name) == expected
        server.forget()
        stamps = open_samples(url)[GROUP].pixels[:256].compute()
        assert server.count("GET", r"/pixels/c/") == 1, "a whole shard is one request"
        assert stamps.shape == (256, 1, 4, 63, 63)
        assert verify(url).ok
