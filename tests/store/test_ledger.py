"""The ledger says what is done, whoever writes it and however often."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError, ResumeConflictError, StorageError
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location

STAGE = "difference"
JOB = {"stage": STAGE, "task": "m:f", "output": "o", "settings": {"tile": 512}, "inputs": {"epochs": ["a"]}}


@pytest.fixture(params=["disk", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    name = f"memory://{uuid.uuid4()}.zarr" if request.param == "memory" else str(tmp_path / "x.zarr")
    return Ledger(Location.parse(name))


def marker(key: str, sha: str = "aa", **more: Any) -> dict[str, Any]:
    shards = {"f/g/image": {"region": [[0, 1], [0, 8]], "sha256": sha}}
    return {"key": key, "stage": STAGE, "status": "done", "shards": shards, **more}


def test_marking_twice_with_the_same_data_is_success_whatever_else_differs(ledger: Ledger) -> None:
    ledger.mark(STAGE, "f/g/e000000/y00x00", marker("f/g/e000000/y00x00", worker="a", timings={"total": 1.0}))
    ledger.mark(STAGE, "f/g/e000000/y00x00", marker("f/g/e000000/y00x00", worker="b", timings={"total": 2.0}))
    assert [found["worker"] for found in ledger.markers(STAGE)] == ["a"]


@pytest.mark.parametrize("other", [{"sha": "bb"}, {"status": "quarantined"}])
def test_marking_twice_with_other_data_is_refused(ledger: Ledger, other: dict[str, str]) -> None:
    ledger.mark(STAGE, "k/y00x00", marker("k/y00x00"))
    with pytest.raises(StorageError, match="not deterministic"):
        ledger.mark(STAGE, "k/y00x00", marker("k/y00x00", **other))


def test_of_many_threads_that_mark_one_key_with_other_data_one_wins(ledger: Ledger) -> None:
    start = threading.Barrier(8)

    def mark(number: int) -> bool:
        start.wait()
        try:
            ledger.mark(STAGE, "k/y00x00", marker("k/y00x00", sha=str(number // 2)))
        except StorageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, ok in enumerate(pool.map(mark, range(8))) if ok]
    [found] = ledger.markers(STAGE)
    digest = found["shards"]["f/g/image"]["sha256"]
    assert {str(number // 2) for number in won} == {digest}
    assert len(won) == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["mark", "again", "compact", "loose again"]), max_size=14))
def test_no_order_of_marking_and_compacting_loses_or_repeats_a_marker(steps: list[str]) -> None:
    ledger = Ledger(Location.parse(f"memory://{uuid.uuid4()}.zarr"))
    marked: list[str] = []
    for step in steps:
        if step == "mark":
            marked.append(f"k/e{len(marked):06d}/y00x00")
            ledger.mark(STAGE, marked[-1], marker(marked[-1]))
        elif step == "compact":
            ledger.compact(STAGE)
        elif marked:  # a task that Dask runs once more, loose or compacted
            key = marked[-1] if step == "again" else marked[0]
            ledger.mark(STAGE, key, marker(key))
        assert ledger.finished(STAGE) == set(marked)
        assert sorted(found["key"] for found in ledger.markers(STAGE)) == marked
    for key in marked:
        found = ledger.marker(STAGE, key)
        assert found is not None
        assert found["key"] == key


def test_markers_read_while_another_process_compacts_them_are_all_there(ledger: Ledger) -> None:
    keys = [f"k/e{number:06d}/y00x00" for number in range(40)]
    for key in keys:
        ledger.mark(STAGE, key, marker(key))
    reading = ledger.markers(STAGE)
    seen = [next(reading)["key"]]
    ledger.compact(STAGE)
    seen += [found["key"] for found in reading]
    assert sorted(seen) == keys


def test_stages_whose_names_begin_alike_are_kept_apart(ledger: Ledger) -> None:
    ledger.mark("detect", "k/y00x00", marker("k/y00x00"))
    ledger.mark("detect2", "k/y00x01", marker("k/y00x01"))
    ledger.compact("detect2")
    assert ledger.finished("detect") == {"k/y00x00"}
    for stage in ("jobs", "failures", "parts", "Detect", "a/b", ""):
        with pytest.raises(ConfigError, match="no name for a stage"):
            ledger.finished(stage)


def test_numbers_from_numpy_and_nan_come_back_as_numbers(ledger: Ledger) -> None:
    scalars = {"zeropoint": np.float32("nan"), "fwhm": np.float32(2.5), "n": np.int64(3), "row": np.arange(2)}
    ledger.mark(STAGE, "k/y00x00", marker("k/y00x00", scalars=scalars))
    ledger.compact(STAGE)
    found = ledger.marker(STAGE, "k/y00x00")
    assert found is not None
    assert np.isnan(found["scalars"].pop("zeropoint"))
    assert found["scalars"] == {"fwhm": 2.5, "n": 3, "row": [0, 1]}


def test_the_same_job_is_registered_once_and_another_is_refused_until_it_finished(ledger: Ledger) -> None:
    job_id = ledger.register(JOB, "d1" * 32)
    assert ledger.register(JOB, "d1" * 32) == job_id
    other = {**JOB, "settings": {"tile": 256}, "inputs": {"epochs": ["a", "b"]}}
    with pytest.raises(ResumeConflictError, match=r"settings\.tile, inputs\.epochs differ"):
        ledger.register(other, "d2" * 32)
    ledger.finish(job_id, {"done": 1})
    second = ledger.register(other, "d2" * 32)
    assert [job["id"] for job in ledger.jobs()] == [job_id, second]
    first = ledger.job(job_id)
    assert first is not None
    assert first["finished"]["done"] == 1
    assert ledger.job("no-such-job") is None


def test_a_failure_is_kept_until_it_is_cleared(ledger: Ledger) -> None:
    ledger.fail(STAGE, "k/y00x00", {"error": "first"})
    ledger.fail(STAGE, "k/y00x00", {"error": "second"})
    assert [failure["error"] for failure in ledger.failures(STAGE)] == ["second"]
    ledger.clear_failure(STAGE, "k/y00x00")
    assert ledger.failure(STAGE, "k/y00x00") is None


def test_a_damaged_marker_is_named(ledger: Ledger) -> None:
    ledger.location.objects().put(f"{STAGE}/k/y00x00.json", b'{"key": "k/y')
    with pytest.raises(StorageError, match=r"k/y00x00\.json is damaged"):
        list(ledger.markers(STAGE))


def test_forgotten_tasks_are_to_be_done_again_wherever_their_marker_was(ledger: Ledger) -> None:
    ledger.register(JOB, "digest-of-the-job")
    for number in range(4):
        ledger.mark(STAGE, f"k/y0{number}x00", marker(f"k/y0{number}x00"))
    ledger.compact(STAGE)
    ledger.mark(STAGE, "k/y04x00", marker("k/y04x00"))
    ledger.forget(STAGE, {"k/y01x00", "k/y04x00"})
    assert ledger.finished(STAGE) == {"k/y00x00", "k/y02x00", "k/y03x00"}
    ledger.mark(STAGE, "k/y01x00", marker("k/y01x00"))
    assert len(ledger.finished(STAGE)) == 4


def test_a_reopened_job_is_unfinished(ledger: Ledger) -> None:
    job_id = ledger.register(JOB, "digest-of-the-job")
    ledger.finish(job_id, {})
    ledger.reopen(job_id)
    [job] = ledger.jobs()
    assert job["finished"] is None
