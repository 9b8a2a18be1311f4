import errno
import os
import pickle
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.store.failures import storage_errors
from astrid_dist.store.locations import Location


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return Location.parse(tmp_path / "night 1.zarr")
    return Location.parse(f"memory://{uuid.uuid4().hex}/night.zarr")


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/?#"), min_size=1)


@given(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3))
def test_the_url_of_a_local_path_leads_back_to_it(parts: list[str]) -> None:
    location = Location.parse(os.path.join("/data", *parts))
    assert Location.parse(str(location)) == location


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("s3://bucket/a/b.zarr/", "s3://bucket/a/b.zarr"),
        ("R2://bucket//a", "r2://bucket/a"),
        ("s3://bucket", "s3://bucket"),
        ("memory://x/y", "memory://x/y"),
        ("file:///data/a%20b.zarr", "file:///data/a%20b.zarr"),
        ("/data/a b.zarr", "file:///data/a%20b.zarr"),
    ],
)
def test_a_url_has_one_spelling(url: str, normal: str) -> None:
    location = Location.parse(url)
    assert str(location) == normal
    assert pickle.loads(pickle.dumps(location)) == location
    assert {location: 1}[Location.parse(normal)] == 1


def test_children_and_siblings_keep_the_scheme_and_bucket() -> None:
    location = Location.parse("r2://bucket/night.zarr")
    assert str(location.sibling(".ledger")) == "r2://bucket/night.zarr.ledger"
    assert str(location / "f1/g") == "r2://bucket/night.zarr/f1/g"
    with pytest.raises(ConfigError, match="name a folder"):
        Location.parse("s3://bucket").sibling(".ledger")


@pytest.mark.parametrize(
    "url", ["ftp://host/a", "s3:///a", "file://host/a", "memory://", "s3://bucket/a?x=1"]
)
def test_what_is_no_location_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Location.parse(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        Location.parse("s3://AKIAKEY:SECRET@bucket/a")
    assert "SECRET" not in str(caught.value)


def test_objects_are_read_back_listed_and_deleted(location: Location) -> None:
    objects = location.objects()
    assert not location.exists()
    assert objects.get("a/b.json") is None
    assert list(objects.list()) == []
    assert objects.folders() == ()
    assert not location.exists(), "reading creates nothing"
    objects.put("a/b.json", b"12")
    objects.put("a/b.json", b"345")
    objects.put("ab/c.json", b"")
    assert objects.get("a/b.json") == b"345"
    assert list(objects.list("a")) == [("a/b.json", 3)], "a prefix is whole folders"
    assert sorted(objects.list()) == [("a/b.json", 3), ("ab/c.json", 0)]
    assert objects.folders() == ("a", "ab")
    assert objects.exists("a/b.json")
    assert not objects.exists("a")
    objects.delete("a/b.json")
    objects.delete("a/b.json")
    assert not objects.exists("a/b.json")


def test_of_many_who_create_an_object_one_wins(location: Location) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: location.objects().create("job.json", b"%d" % i), range(32)))
    assert sum(won) == 1
    assert location.objects().get("job.json") == b"%d" % won.index(True)


def test_zarr_and_small_objects_see_each_other(location: Location) -> None:
    zarr.create_array(location.zarr_store(), name="f/g/a", data=np.arange(3))
    assert zarr.open_array(location.zarr_store(read_only=True), path="f/g/a", mode="r")[2] == 2
    assert b'"array"' in (location.objects().get("f/g/a/zarr.json") or b"")
    assert location.objects().folders("f") == ("g",)


def test_free_space_is_known_before_the_folder_exists(tmp_path: Path) -> None:
    assert (Location.parse(tmp_path / "not" / "yet").free_bytes() or 0) > 0
    assert Location.parse("memory://x").free_bytes() is None


def test_r2_asks_for_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "R2_ACCOUNT_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="R2_ACCOUNT_ID"):
        Location.parse("r2://bucket/a").zarr_store()


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        Location.parse(f"s3://{uuid.uuid4().hex}/a").objects().get("x")


def test_an_unreachable_bucket_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ASTRID_RETRY_S", "0")
    with pytest.raises(StorageError, match="reading s3://bucket/a/x") as caught:
        Location.parse("s3://bucket/a").objects().get("x")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_is_needed(number: int) -> None:
    def fill() -> None:
        raise OSError(number, "disk")

    with pytest.raises(StorageError, match=r"writing X: the disk is full and 1,048,576 bytes are needed"):
        _guarded(fill)


def test_a_full_disk_is_recognised_when_obstore_meets_it() -> None:
    def fill() -> None:
        raise GenericError("Generic LocalFileSystem error: No space left on device (os error 28)\nDebug ...")

    with pytest.raises(StorageError, match="the disk is full"):
        _guarded(fill)


def _guarded(action: Callable[[], None]) -> None:
    with storage_errors("writing X", need_bytes=2**20):
        action()
