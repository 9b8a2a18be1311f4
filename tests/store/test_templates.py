import json
import math
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zarr

from astrid_dist.errors import ConfigError, ResumeConflictError, StorageError
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location, Objects
from astrid_dist.store.templates import (
    commit_epochs,
    create_group,
    create_product,
    grow,
    product_header,
    set_state,
    shard_grid,
)

SIZES = {"epoch": 0, "y": 300, "x": 420, "v": 5, "u": 5, "psf_term": 3, "star": 4}


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return Location.parse(tmp_path / "survey.zarr")
    return Location.parse(f"memory://{uuid.uuid4().hex}/survey.zarr")


def _survey(location: Location) -> Location:
    create_product(location, "survey", job="ingest", inputs={"files": 2}, digest="d1")
    create_group(location, "survey", "f1/g", SIZES, {"wcs": "", "psf_order": 1})
    return location


def _arrays(location: Location) -> dict[str, Any]:
    group = zarr.open_group(location.zarr_store(read_only=True), path="f1/g", mode="r")
    return dict(group.arrays())


def test_every_array_is_there_with_its_layout(location: Location) -> None:
    arrays = _arrays(_survey(location))
    assert set(arrays) == set(variables("survey"))
    image, mask, time = arrays["image"], arrays["mask"], arrays["time"]
    assert (image.shape, image.shards, image.chunks) == ((0, 300, 420), (1, 512, 512), (1, 256, 256))
    assert image.metadata.dimension_names == ("epoch", "y", "x")
    assert math.isnan(image.fill_value)
    assert mask.fill_value == 1
    assert image.attrs["units"] == "electron"
    assert time.shards is None, "a committed scalar is one object: it is replaced whole"
    assert arrays["epoch_id"].metadata.data_type.to_json(zarr_format=3) == "string"


def test_every_metadata_object_is_written_once(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    puts: Counter[str] = Counter()
    for method in ("put", "create"):
        real = getattr(Objects, method)

        def counted(self: Objects, name: str, data: bytes, real: Any = real) -> Any:
            puts[name] += 1
            return real(self, name, data)

        monkeypatch.setattr(Objects, method, counted)
    _survey(location)
    create_group(location, "survey", "f1/r", SIZES, {})
    assert set(puts.values()) == {1}
    assert len(puts) == 2 + 2 * (1 + len(variables("survey")))
    puts.clear()
    grow(location, "survey", "f1/g", 7)
    grow(location, "survey", "f1/g", 7)
    assert set(puts.values()) == {1}
    assert all(array.shape[0] == 7 for array in _arrays(location).values())


def test_a_group_cut_short_is_not_there_and_is_finished_by_the_next_try(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objects.put

    def failing(self: Objects, name: str, data: bytes) -> None:
        if name.startswith("f1/g/psf/"):
            raise StorageError("gone")
        real(self, name, data)

    monkeypatch.setattr(Objects, "put", failing)
    with pytest.raises(StorageError, match="gone"):
        _survey(location)
    assert not location.objects().exists("f1/g/zarr.json")
    monkeypatch.setattr(Objects, "put", real)
    assert set(_arrays(_survey(location))) == set(variables("survey"))


def test_creating_again_is_nothing_but_another_job_or_size_is_refused(location: Location) -> None:
    _survey(location)
    grow(location, "survey", "f1/g", 2)
    commit_epochs(location, "f1/g", 1)
    before = sorted(location.objects().list())
    _survey(location)
    assert sorted(location.objects().list()) == before
    with pytest.raises(ResumeConflictError, match=r"d1.*d2"):
        create_product(location, "survey", digest="d2")
    with pytest.raises(ConfigError, match="is a survey product, not a reference"):
        create_product(location, "reference", digest="d1")
    with pytest.raises(ResumeConflictError, match=r"\[2, 300, 420\].*\[0, 300, 421\]"):
        create_group(location, "survey", "f1/g", {**SIZES, "x": 421}, {})
    with pytest.raises(ConfigError, match="psf_term"):
        create_group(location, "survey", "f2/g", {name: SIZES[name] for name in ("epoch", "y", "x")}, {})


def test_a_folder_of_something_else_is_never_written_into(location: Location) -> None:
    location.objects().put("thesis.tex", b"")
    with pytest.raises(ConfigError, match="no product"):
        create_product(location, "survey")


def test_epochs_are_committed_forwards_and_only_into_arrays_that_hold_them(location: Location) -> None:
    _survey(location)
    grow(location, "survey", "f1/g", 3)
    commit_epochs(location, "f1/g", 2)
    for count in (1, 4):
        with pytest.raises(StorageError, match=f"cannot commit {count}"):
            commit_epochs(location, "f1/g", count)
    grow(location, "survey", "f1/g", 2)
    assert _arrays(location)["image"].shape[0] == 3, "nothing ever shrinks"


def test_the_state_is_set_with_whatever_else(location: Location) -> None:
    _survey(location)
    set_state(location, "complete", tasks=3)
    header = product_header(location)
    assert (header["state"], header["tasks"], header["inputs"]) == ("complete", 3, {"files": 2})
    with pytest.raises(ConfigError):
        set_state(location, "nearly")


def test_nan_in_attributes_is_refused_before_anything_is_written(location: Location) -> None:
    create_product(location, "survey")
    with pytest.raises(ConfigError, match="NaN"):
        create_group(location, "survey", "f1/g", SIZES, {"zeropoint": math.nan})
    assert location.objects().folders() == ()


def test_damaged_metadata_is_named(location: Location) -> None:
    _survey(location)
    location.objects().put("zarr.json", json.dumps({"attributes": {}}).encode()[:-3])
    with pytest.raises(StorageError, match=r"zarr\.json is damaged"):
        product_header(location)


def test_the_grid_of_shards_covers_the_image() -> None:
    assert shard_grid({"y": 2048, "x": 2049}, "survey") == (1, 2)
    assert shard_grid({"y": 1, "x": 6000}, "reference") == (1, 3)
    with pytest.raises(ConfigError, match="no images"):
        shard_grid({"y": 1, "x": 1}, "truth")
