"""The runner keeps its promises on every engine, whatever tasks do."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astrid_dist.engine.events import JobFinished, JobStarted, TaskFailed, TaskFinished, TaskRetried
from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job
from astrid_dist.engine.protocol import Crew, Ended, Engine
from astrid_dist.engine.runner import run
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import (
    ClusterError,
    ConfigError,
    IncompleteProductError,
    ResumeConflictError,
    StorageError,
)
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from tests.engine.planned import STAGE, count_calls, make_plan

KEYS = KeyGrid([KeyBlock("f0001/g", range(6))])
FIRST, SECOND, THIRD = (str(key) for key in KEYS[:3])


@pytest.fixture(
    params=[
        "serial",
        pytest.param("dask_engine", marks=pytest.mark.cluster),
        pytest.param("ray_engine", marks=[pytest.mark.ray, pytest.mark.filterwarnings("default")]),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return SerialEngine() if request.param == "serial" else request.getfixturevalue(request.param)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


@pytest.fixture
def output(tmp_path: Path) -> str:
    (tmp_path / "out.zarr").mkdir()
    return str(tmp_path / "out.zarr")


def ledger_of(output: str) -> Ledger:
    return Ledger(Location.parse(output))


PLANNED = {
    "fails twice, then works": (["fail", "fail"], 3, "done"),
    "fails once in the store": (["storage"], 2, "done"),
    "asks Python to leave": (["exit"], 2, "done"),
    "fails for ever": (["fail"] * 9, 3, "failed"),
    "has bad input": (["input"] * 9, 1, "failed"),
    "is quarantined": (["quarantine"], 1, "quarantined"),
    "works": ([], 1, "done"),
}


def test_each_task_runs_exactly_as_often_as_its_planned_failures_ask(
    engine: Engine, output: str, calls: Path
) -> None:
    keys = KeyGrid([KeyBlock("f0001/g", range(len(PLANNED)))])
    rows = dict(zip(map(str, keys), PLANNED.values(), strict=True))
    plan = make_plan(output, keys, table={key: row[0] for key, row in rows.items()}, calls=calls)
    events: list[Any] = []

    with pytest.raises(
        IncompleteProductError, match=r"incomplete, these keys: .*astrid why .*astrid resume"
    ) as caught:
        run(plan, engine, observers=[events.append])

    assert count_calls(calls) == {key: row[1] for key, row in rows.items()}
    ledger = ledger_of(output)
    assert {m["key"]: m["status"] for m in ledger.markers(STAGE)} == {
        key: row[2] for key, row in rows.items() if row[2] != "failed"
    }
    failures = {failure["key"]: failure for failure in ledger.failures(STAGE)}
    assert set(failures) == {key for key, row in rows.items() if row[2] == "failed"}
    for key, failure in failures.items():
        assert failure["attempts"] == rows[key][1]
        assert f"{key}" in failure["error"]
        assert "planned.py" in failure["traceback"]
        assert ":" in failure["worker"]
    summary = caught.value.summary  # type: ignore[attr-defined]
    assert (summary.done, summary.quarantined, summary.retried) == (4, 1, 2 + 1 + 1 + 2)
    assert set(summary.failed) == set(failures)
    assert [type(event) for event in events].count(TaskRetried) == summary.retried
    assert [type(event) for event in events].count(TaskFailed) == 2
    assert [type(event) for event in events].count(TaskFinished) == 5
    assert isinstance(events[0], JobStarted)
    assert isinstance(events[-1], JobFinished)
    assert events[-1].status == "incomplete"


def test_a_resumed_job_runs_only_what_has_no_marker_and_forgets_its_failures(
    engine: Engine, output: str, calls: Path
) -> None:
    plan = make_plan(output, KEYS, table={SECOND: ["fail"] * 3}, calls=calls)
    with pytest.raises(IncompleteProductError):
        run(plan, engine)
    finalised = []

    summary = run(plan, engine, finalise=finalised.append)

    assert (summary.done, summary.skipped, summary.failed) == (1, 5, [])
    assert count_calls(calls) == {str(key): 4 if str(key) == SECOND else 1 for key in KEYS}
    assert not list(ledger_of(output).failures(STAGE))
    assert finalised == [plan]
    [job] = ledger_of(output).jobs()
    assert job["finished"]["tasks"] == len(KEYS)
    assert run(plan, engine).skipped == len(KEYS)
    assert set(count_calls(calls).values()) == {1, 4}


def test_a_task_that_returns_no_outcome_leaves_no_marker_and_fails(engine: Engine, output: str) -> None:
    job = Job(STAGE, "tests.engine.planned:returns_nothing", output, {})
    with pytest.raises(IncompleteProductError):
        run(replace(make_plan(output, KEYS), job=job), engine, retries=0)
    assert not ledger_of(output).finished(STAGE)
    assert "returned NoneType" in ledger_of(output).failure(STAGE, FIRST)["error"]  # type: ignore[index]


def test_a_worker_cannot_finish_a_task_that_it_cannot_import(engine: Engine, output: str) -> None:
    job = Job(STAGE, "tests.engine.planned:no_such_task", output, {})
    with pytest.raises(IncompleteProductError):
        run(replace(make_plan(output, KEYS[:1]), job=job), engine)
    failure = ledger_of(output).failure(STAGE, FIRST)
    assert failure is not None
    assert (failure["kind"], failure["attempts"]) == ("config", 1)


class Engineless:
    """An engine that claims that calls ended, and may do something else instead."""

    name, in_process, window = "claims", True, 8

    def __init__(self, instead: Callable[[str], None] = lambda name: None, memory: int | None = None) -> None:
        self.calls: list[str] = []
        self.most = self.ended = 0
        self.instead, self.memory = instead, memory

    def prepare(self) -> Crew:
        return Crew(1, 1, self.memory)

    def submit(self, stage: str, name: str, call: Callable[..., None], *arguments: str) -> None:
        self.calls.append(name)
        self.most = max(self.most, len(self.calls))

    def next(self, timeout_s: float) -> Ended | None:
        name = self.calls.pop(0)
        self.instead(name)
        self.ended += 1
        return Ended(name, None)

    def cancel(self) -> None:
        self.calls.clear()


def test_success_without_a_marker_is_a_failure_and_the_engine_is_not_believed(output: str) -> None:
    with pytest.raises(IncompleteProductError, match=FIRST):
        run(make_plan(output, KEYS), Engineless(), retries=1)
    failure = ledger_of(output).failure(STAGE, FIRST)
    assert failure is not None
    assert failure["attempts"] == 2
    assert "left no marker" in failure["error"]


class Endless(Sequence[ShardKey]):
    """A list of keys too long to hold, which counts how many were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: Any) -> Any:
        return ShardKey("f0001/g", index)

    def __iter__(self) -> Iterator[ShardKey]:
        for epoch in itertools.count():
            self.asked += 1
            yield ShardKey("f0001/g", epoch)


def test_keys_are_asked_for_only_as_the_window_has_room(output: str) -> None:
    keys, engine = Endless(), Engineless()
    ledger = ledger_of(output)

    def stop_at_300(name: str) -> None:
        ledger.mark(STAGE, name, marker(name))
        assert keys.asked <= engine.ended + engine.window
        if engine.ended == 300:
            raise KeyboardInterrupt

    engine.instead = stop_at_300
    with pytest.raises(KeyboardInterrupt):
        run(make_plan(output, keys), engine)
    assert engine.most == engine.window
    assert not engine.calls


def marker(key: str, **more: Any) -> dict[str, Any]:
    common = {
        "status": "done",
        "shards": {},
        "reason": "",
        "worker": "w",
        "counts": {},
        "timings": {"total": 0.0},
    }
    return {"key": key, "stage": STAGE, **common, **more}


def test_stopping_by_hand_frees_the_lease_and_leaves_a_job_that_resumes(output: str, calls: Path) -> None:
    plan = make_plan(output, KEYS, calls=calls)
    events: list[Any] = []

    class Interrupted(SerialEngine):
        def next(self, timeout_s: float) -> Ended | None:
            if len(count_calls(calls)) == 3:
                raise KeyboardInterrupt
            return super().next(timeout_s)

    with pytest.raises(KeyboardInterrupt):
        run(plan, Interrupted(), observers=[events.append])
    assert events[-1].status == "interrupted"
    summary = run(plan, SerialEngine())
    assert (summary.skipped, summary.done) == (3, 3)
    assert set(count_calls(calls).values()) == {1}


def test_another_job_is_refused_while_one_is_unfinished_and_told_what_differs(output: str) -> None:
    with pytest.raises(IncompleteProductError):
        run(make_plan(output, KEYS, table={FIRST: ["fail"] * 3}), SerialEngine())
    with pytest.raises(ResumeConflictError, match=r"settings\.table.*differ.*astrid resume"):
        run(make_plan(output, KEYS), SerialEngine())


def test_another_job_on_the_same_keys_is_refused_after_the_first_finished(output: str) -> None:
    run(make_plan(output, KEYS, tile=512), SerialEngine())
    with pytest.raises(ResumeConflictError, match="was written with configuration"):
        run(make_plan(output, KEYS, tile=256), SerialEngine())
    grown = KeyGrid([KeyBlock("f0001/g", range(6, 9))])
    assert run(make_plan(output, grown, tile=256), SerialEngine()).done == 3


def test_a_product_that_was_deleted_without_its_ledger_is_not_taken_for_done(output: str) -> None:
    run(make_plan(output, KEYS), SerialEngine())
    Path(output).rmdir()
    with pytest.raises(ResumeConflictError, match="is gone"):
        run(make_plan(output, KEYS), SerialEngine())


def test_a_job_whose_output_cannot_be_prepared_leaves_the_way_free(output: str) -> None:
    def refuse(plan: Any) -> None:
        raise ConfigError("the survey has no field f0001")

    with pytest.raises(ConfigError):
        run(make_plan(output, KEYS, survey="wrong"), SerialEngine(), prepare=refuse)
    assert run(make_plan(output, KEYS, survey="right"), SerialEngine()).done == len(KEYS)


def test_every_marker_reaches_the_committer_and_again_on_resume(output: str) -> None:
    keys = KeyGrid([KeyBlock("f0001/g", range(40))])
    batches: list[list[str]] = []
    times: list[float] = []

    def commit(markers: list[dict[str, Any]]) -> None:
        batches.append([m["key"] for m in markers])
        times.append(time.monotonic())
        assert threading.current_thread() is threading.main_thread()
        if len(batches) == 2:
            raise OSError("the driver dies while it commits")

    plan = make_plan(output, keys, table={str(key): ["sleep"] for key in keys[:6]})
    slow = replace(plan, job=replace(plan.job, settings={**plan.job.settings, "calls": ""}))
    with pytest.raises(OSError, match="dies while it commits"):
        run(slow, SerialEngine(), on_markers=commit)
    assert times[1] - times[0] >= 0.9
    again: list[str] = []
    run(slow, SerialEngine(), on_markers=lambda markers: again.extend(m["key"] for m in markers))
    assert sorted(again) == sorted(map(str, keys))


def test_thousands_of_markers_end_in_manifests_and_none_is_lost() -> None:
    keys, output = KeyGrid([KeyBlock("f0001/g", range(2300))]), "memory://thousands.zarr"
    run(make_plan(output, keys), SerialEngine())
    ledger = ledger_of(output)
    assert ledger.finished(STAGE) == set(map(str, keys))
    names = [name for name, _ in ledger.location.objects().list("")]
    assert sum(name.startswith("manifests/") for name in names) == 3
    assert not [name for name in names if name.startswith(f"{STAGE}/")]


def test_an_observer_that_raises_is_dropped_and_the_job_goes_on(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def broken(event: Any) -> None:
        raise ValueError("no room on the screen")

    assert run(make_plan(output, KEYS), SerialEngine(), observers=[broken, seen.append]).done == len(KEYS)
    assert len(seen) == len(KEYS) + 2
    assert caplog.text.count("is dropped") == 1


def test_memory_outputs_are_refused_by_engines_of_other_processes() -> None:
    engine = Engineless()
    engine.in_process = False
    with pytest.raises(ConfigError, match="serial"):
        run(make_plan("memory://refused.zarr", KEYS), engine)
    assert run(make_plan("memory://taken.zarr", KEYS), SerialEngine()).done == len(KEYS)


def test_a_worker_too_small_is_refused_with_the_number_it_needs(output: str) -> None:
    plan = replace(make_plan(output, KEYS), estimate=Estimate(tasks=6, peak_memory_bytes=8 * 2**30))
    with pytest.raises(ClusterError, match=r"needs 8\.00 GiB.*memory limit of 10\.00 GiB"):
        run(plan, Engineless(memory=4 * 2**30))
    assert not ledger_of(output).jobs()


def test_a_disk_too_full_is_refused_with_what_is_missing(output: str) -> None:
    plan = replace(make_plan(output, KEYS), estimate=Estimate(tasks=6, bytes_written=2**60))
    with pytest.raises(StorageError, match=r"needs 1073741824\.00 GiB"):
        run(plan, SerialEngine())


def test_a_record_changed_in_the_ledger_is_noticed_by_workers(output: str, calls: Path) -> None:
    plan = make_plan(output, KEYS, calls=calls, tile=512)

    def tamper(prepared: Any) -> None:
        objects = ledger_of(output).location.objects()
        record = json.loads(objects.get(f"jobs/{plan.job.id}.json") or b"")
        record["settings"]["tile"] = 64
        objects.put(f"jobs/{plan.job.id}.json", json.dumps(record).encode())

    with pytest.raises(IncompleteProductError):
        run(plan, SerialEngine(), retries=0, prepare=tamper)
    assert not count_calls(calls)
