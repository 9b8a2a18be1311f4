import json
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from astrid_dist.errors import ConfigError, IncompleteProductError, StorageError
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_difference, open_product, open_reference, open_survey
from astrid_dist.store.reading import group_names
from astrid_dist.store.shards import StoredArray
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow, set_state
from astrid_dist.store.writing import ProductWriter

SIZES = {"epoch": 0, "y": 300, "x": 420, "v": 5, "u": 5, "psf_term": 1, "star": 4}


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return Location.parse(tmp_path / "survey.zarr")
    return Location.parse(f"memory://{uuid.uuid4().hex}/survey.zarr")


def _survey(location: Location, epochs: int = 2) -> Location:
    create_product(location, "survey")
    create_group(location, "survey", "f1/g", SIZES, {"wcs": "", "psf_order": 0})
    for epoch in range(epochs):
        _append(location, epoch)
    return location


def _append(location: Location, epoch: int) -> None:
    """One epoch whose every value is its number."""
    grow(location, "survey", "f1/g", epoch + 1)
    writer = ProductWriter(location, "f1/g")
    for name in ("image", "mask"):
        writer.write(name, {"epoch": epoch}, np.full((300, 420), epoch, "u2" if name == "mask" else "f4"))
    writer.write_scalars({"mjd": [epoch], "epoch_id": [str(epoch)], "time": [epoch], "valid": [True]}, epoch)
    commit_epochs(location, "f1/g", epoch + 1)


def test_a_group_is_a_dataset_with_its_scalars_as_coordinates(location: Location) -> None:
    cube = open_survey(_survey(location))["f1/g"]
    names = {one.name for one in variables("survey").values()}
    assert set(cube.variables) == names | {"y", "x"}
    assert {name for name in names if variables("survey")[name].is_scalar} <= set(cube.coords)
    assert cube.epoch_id.values.tolist() == ["0", "1"]
    assert cube.time.dtype == "datetime64[us]"
    assert cube.time.values[1] == np.datetime64(1, "us")
    assert cube.attrs["url"] == str(location)
    assert (cube.attrs["group"], cube.attrs["product"], cube.attrs["tile"]) == ("f1/g", "survey", 512)
    assert cube.image.attrs["units"] == "electron"
    assert np.isnan(cube.psf.values).all(), "never written, so unknown"
    assert cube.mask.sel(x=7)[1, 3].values == 1
    assert cube.star_flags.dtype == "u2"


def test_what_was_never_measured_is_nat_nan_or_minus_one(location: Location) -> None:
    _survey(location)
    grow(location, "survey", "f1/g", 3)
    commit_epochs(location, "f1/g", 3)
    last = open_survey(location)["f1/g"].isel(epoch=2)
    assert np.isnat(last.time.values)
    assert np.isnan(last.exptime.item())
    assert last.n_stars.item() == -1
    assert not last.valid.item()
    assert (last.mask.values == 1).all()


def test_there_is_one_dask_chunk_per_shard_and_no_graph_before_it_is_asked_for(location: Location) -> None:
    create_product(location, "survey")
    create_group(location, "survey", "f1/g", {**SIZES, "y": 4100, "x": 2049}, {})
    grow(location, "survey", "f1/g", 100_000)
    commit_epochs(location, "f1/g", 100_000)
    image = open_survey(location)["f1/g"].image
    assert image.data.numblocks == (100_000, 3, 2)
    assert image.chunksizes["y"] == (2048, 2048, 4)
    assert not any(layer.is_materialized() for layer in image.data.dask.layers.values() if len(layer) > 1)


def test_a_reader_sees_whole_epochs_only_while_a_writer_appends(location: Location) -> None:
    _survey(location, 1)
    failure: list[BaseException] = []

    def append() -> None:
        try:
            for epoch in range(1, 12):
                _append(location, epoch)
        except BaseException as error:
            failure.append(error)

    writer = threading.Thread(target=append)
    writer.start()
    seen: set[int] = set()
    while writer.is_alive() or not seen:
        cube = open_survey(location)["f1/g"]
        count = cube.sizes["epoch"]
        seen.add(count)
        assert cube.mjd.values.tolist() == list(range(count))
        assert cube.epoch_id.values.tolist() == [str(epoch) for epoch in range(count)]
        assert cube.valid.values.all()
        assert cube.image[-1, ::100, ::100].values.tolist() == np.full((3, 5), count - 1).tolist()
    writer.join()
    assert not failure
    assert open_survey(location)["f1/g"].sizes["epoch"] == 12


def test_a_dataset_opened_before_an_epoch_was_added_keeps_its_shape(location: Location) -> None:
    before = open_survey(_survey(location, 1))["f1/g"]
    _append(location, 1)
    assert before.image.mean("epoch").values.max() == 0
    assert open_survey(location)["f1/g"].image.shape[0] == 2


def test_products_are_mappings_of_their_groups(location: Location) -> None:
    _survey(location)
    create_group(location, "survey", "f1/r", SIZES, {})
    create_group(location, "survey", "f2/g", SIZES, {})
    survey = open_survey(location)
    assert list(survey) == ["f1/g", "f1/r", "f2/g"] == list(group_names(location))
    assert len(survey) == 3
    assert survey.fields() == ("f1", "f2")
    assert "f1/g" in survey
    assert "f1" not in survey
    assert survey.get("f3/g") is None
    tree = survey.to_datatree(["f1/g", "f2/g"])
    assert tree["f1/g"].image.shape == (2, 300, 420)
    assert tree.attrs["url"] == str(location)


@pytest.mark.parametrize(
    ("group", "says"),
    [("f1/r", "did you mean 'f1/g'"), ("g1/g", "did you mean 'f1'|it has f1"), ("", "f1"), ("f1", "f1/g")],
)
def test_a_group_that_is_not_there_is_answered_with_close_ones(
    location: Location, group: str, says: str
) -> None:
    survey = open_survey(_survey(location))
    with pytest.raises(ConfigError, match=says):
        survey[group]
    with pytest.raises(KeyError):
        survey[group]


def test_opening_what_cannot_be_opened_says_why(location: Location) -> None:
    with pytest.raises(ConfigError, match="nothing at"):
        open_survey(location)
    location.objects().put("notes.txt", b"")
    with pytest.raises(ConfigError, match="no product"):
        open_survey(location)
    location.objects().put("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(ConfigError, match="no astrid product"):
        open_survey(location)
    location.objects().put("zarr.json", b"{")
    with pytest.raises(StorageError, match="damaged"):
        open_survey(location)


def test_another_kind_a_later_version_and_an_unfinished_product_are_refused(location: Location) -> None:
    create_product(location, "difference")
    with pytest.raises(ConfigError, match="use open_difference"):
        open_reference(location)
    with pytest.raises(IncompleteProductError, match="allow_partial=True"):
        open_difference(location)
    assert open_difference(location, allow_partial=True).state == "building"
    set_state(location, "complete")
    assert list(open_product(location, "difference")) == []
    document = json.loads(location.objects().get("zarr.json") or b"")
    document["attributes"]["astrid"]["version"] = 99
    location.objects().put("zarr.json", json.dumps(document).encode())
    with pytest.raises(ConfigError, match="version 99"):
        open_difference(location)


def test_an_array_that_is_missing_or_short_is_named(location: Location) -> None:
    _survey(location)
    document = json.loads(location.objects().get("f1/g/mask/zarr.json") or b"")
    document["shape"][0] = 1
    location.objects().put("f1/g/mask/zarr.json", json.dumps(document).encode())
    with pytest.raises(StorageError, match="mask has 1 epochs although 2 are committed"):
        open_survey(location)["f1/g"]
    location.objects().delete("f1/g/mask/zarr.json")
    with pytest.raises(StorageError, match="f1/g/mask is missing"):
        open_survey(location)["f1/g"]


def test_a_flipped_byte_is_an_error_and_never_a_wrong_pixel(location: Location) -> None:
    _survey(location)
    body = bytearray(location.objects().get("f1/g/image/c/1/0/0") or b"")
    body[3] ^= 4
    location.objects().put("f1/g/image/c/1/0/0", bytes(body))
    cube = open_survey(location)["f1/g"]
    assert cube.image[0].values.max() == 0
    with pytest.raises(StorageError, match=r"f1/g/image.* cannot be decoded.*astrid verify"):
        cube.image[1].values  # noqa: B018


def test_a_survey_is_a_plain_zarr_group_that_xarray_reads_alone(tmp_path: Path) -> None:
    location = _survey(Location.parse(tmp_path / "survey.zarr"))
    ours = open_survey(location)["f1/g"]
    theirs = xr.open_zarr(str(tmp_path / "survey.zarr" / "f1" / "g"), consolidated=False)
    np.testing.assert_array_equal(theirs.image.values, ours.image.values)
    assert theirs.time.values[1] == ours.time.values[1]
    assert "mjd" in theirs.coords


def test_what_travels_to_a_worker_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "HUSH")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    local = _survey(Location.parse(f"memory://{uuid.uuid4().hex}"))
    metadata: dict[str, Any] = json.loads(local.objects().get("f1/g/image/zarr.json") or b"")
    stored = StoredArray(Location.parse("s3://bucket/survey.zarr"), "f1/g/image", metadata, (2, 300, 420))
    assert stored._array.shape == (2, 300, 420), "it has opened its store"
    body = pickle.dumps(stored)
    assert b"HUSH" not in body
    assert b"AKIAKEY" not in body
    assert pickle.loads(body) == stored
