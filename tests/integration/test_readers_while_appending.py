"""Readers open and query a survey while it grows: never an error, half an epoch, or arrays of two lengths."""

import json
import multiprocessing
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_survey
from astrid_dist.store.templates import create_group, grow
from tests.faults import SMALL, commit, create_survey, scalars, what_is_wrong, write_epoch
from tests.r2_rules import R2Server

GROUP, LATER = "f0001/g", "f0001/r"
SIZES = {**SMALL, "y": 64, "x": 96}


@dataclass
class Seen:
    """What one reader saw."""

    counts: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def read_until(stop: Any, url: str, seen: Seen) -> None:
    """Open, look at everything, and look once more at what was opened first."""
    first: xr.Dataset | None = None
    try:
        while True:
            last = stop.is_set()
            survey = open_survey(url)
            for group in survey:
                cube = survey[group]
                seen.wrong += what_is_wrong(cube, group, newest=None if last else 2)
                if group == GROUP:
                    seen.counts.append(cube.sizes["epoch"])
                    if first is None and cube.sizes["epoch"]:
                        first = cube
            if last:
                break
        if first is not None:
            seen.wrong += what_is_wrong(first, GROUP)
    except Exception:
        seen.wrong.append(traceback.format_exc())


def read_in_a_process(stop: Any, url: str, answer: str) -> None:
    """Entry of the reader in another process; what it saw goes to a file."""
    seen = Seen()
    read_until(stop, url, seen)
    Path(answer).write_text(json.dumps(asdict(seen)))


def append(url: str, batches: list[int]) -> None:
    """Grow the survey as ingest does, batch by batch: arrays, then data out of order, then the commit."""
    location = Location.parse(url)
    written: dict[int, Any] = {}
    for batch in batches:
        start = len(written)
        grow(location, "survey", GROUP, start + batch)
        for epoch in reversed(range(start, start + batch)):
            shards = write_epoch(location, GROUP, epoch, SIZES)
            written[epoch] = {"shards": shards, "scalars": scalars(GROUP, epoch)}
            commit(location, GROUP, written)
    create_group(location, "survey", LATER, SIZES, {})


def check(url: str, folder: Path, batches: list[int], threads: int = 2) -> None:
    create_survey(url, [GROUP], SIZES)
    spawn = multiprocessing.get_context("spawn")
    stop, stop_process = threading.Event(), spawn.Event()
    seen = [Seen() for _ in range(threads)]
    readers = [threading.Thread(target=read_until, args=(stop, url, one)) for one in seen]
    answer = folder / "seen.json"
    process = spawn.Process(target=read_in_a_process, args=(stop_process, url, str(answer)))
    for reader in (*readers, process):
        reader.start()
    try:
        append(url, batches)
        time.sleep(0.2)
    finally:
        stop.set()
        stop_process.set()
        for reader in (*readers, process):
            reader.join()
    assert process.exitcode == 0
    for one in (*seen, Seen(**json.loads(answer.read_text()))):
        assert one.wrong == []
        assert one.counts == sorted(one.counts), "a committed epoch is never taken back"
        assert one.counts[-1] == sum(batches)
    ends = {sum(batches[:i]) for i in range(len(batches) + 1)}
    assert {count for one in seen for count in one.counts} <= ends, (
        "epochs written out of order appear in order"
    )
    assert len({count for one in seen for count in one.counts}) > 1, "the readers saw it grow"


def test_readers_of_a_survey_on_disk_see_whole_epochs_while_it_grows(tmp_path: Path) -> None:
    check(str(tmp_path / "survey.zarr"), tmp_path, batches=[2, 3, 1, 2])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with R2Server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server.bucket()


@pytest.mark.s3
def test_readers_of_a_survey_in_a_bucket_see_whole_epochs_while_it_grows(bucket: str, tmp_path: Path) -> None:
    check(f"{bucket}/survey.zarr", tmp_path, batches=[2, 1], threads=1)


@pytest.mark.slow
@pytest.mark.s3
def test_readers_see_whole_epochs_through_many_commits(bucket: str, tmp_path: Path) -> None:
    check(str(tmp_path / "survey.zarr"), tmp_path, batches=[1, 2, 3] * 8, threads=3)
    check(f"{bucket}/survey.zarr", tmp_path, batches=[1, 2] * 4)
