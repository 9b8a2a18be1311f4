"""What the engine adds to Dask: milliseconds per task, and what it costs to plan very many."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from astrid_dist.engine.keys import KeyBlock, KeyGrid, ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome

Result = dict[str, Any]

TASKS, ROUNDS, WINDOW, WORKERS = 1000, 5, 256, 2
SHARDS = 100_000
_serial = count()


def trivial(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """The least that a task can do: its marker is still written."""
    return TaskOutcome({"f0001/g/image": {"region": [[key.epoch, key.epoch + 1]], "sha256": "0" * 64}})


def task_overhead_ms() -> Result:
    """Our runner with its ledger, beside a bare sliding window of futures that writes nothing."""
    import dask
    from distributed import Client, LocalCluster

    from astrid_dist.engine.dask import DaskEngine
    from astrid_dist.engine.runner import run

    ours, bare = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True}))
        cluster = stack.enter_context(
            LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0")
        )
        client = stack.enter_context(Client(cluster))
        for number in range(-1, ROUNDS):  # the first round only warms up
            plan = _plan(str(folder / f"{number}.zarr"), TASKS)
            seconds = _timed(lambda plan=plan: run(plan, DaskEngine(client, window=WINDOW)))
            bare_seconds = _timed(lambda: _bare_window(client))
            if number >= 0:
                ours.append(seconds / TASKS * 1000)
                bare.append(bare_seconds / TASKS * 1000)
    value, peer = statistics.median(ours), statistics.median(bare)
    against = f"bare client.submit, window {WINDOW}: {peer:.2f} ms, no markers"
    return {
        "name": "task_overhead_ms",
        "value": value,
        "unit": "ms/task",
        "against": against,
        "ratio": value / peer,
    }


def plan_100k_s() -> Result:
    """`plan` of a real difference job over 100,000 shards, beside as many dask.delayed tasks."""
    with tempfile.TemporaryDirectory() as folder:
        _survey_of(SHARDS // 4, folder)
        # Each in a process of its own, in turn: what one leaves in memory is not the other's.
        rows = [(_measured("ours", folder), _measured("delayed", folder)) for _ in range(3)]
    seconds, growth = (statistics.median(row[0][i] for row in rows) for i in (0, 1))
    peer_seconds, peer_growth = (statistics.median(row[1][i] for row in rows) for i in (0, 1))
    against = (
        f"dask.delayed: {peer_seconds:.2f} s, {peer_growth:.0f} MiB on the driver; ours {growth:.0f} MiB"
    )
    return {
        "name": "plan_100k_s",
        "value": seconds,
        "unit": "s",
        "against": against,
        "ratio": seconds / peer_seconds,
    }


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "task_overhead_ms": task_overhead_ms,
    "plan_100k_s": plan_100k_s,
}


def _plan(output: str, tasks: int) -> Plan:
    job = Job("difference", "tests.benchmarks.bench_engine:trivial", output, {"output": output})
    return Plan(job, KeyGrid([KeyBlock("f0001/g", range(tasks))]), Estimate(tasks))


def _bare_window(client: Any) -> None:
    """The loop one writes by hand: a window of futures, topped up as they complete."""
    from distributed import as_completed

    todo = iter(range(TASKS))
    started = [
        client.submit(_nothing, number, key=("bare", next(_serial)), pure=False)
        for number, _ in zip(todo, range(WINDOW), strict=False)
    ]
    completed = as_completed(started)
    started.clear()
    for _ in completed:
        number = next(todo, None)
        if number is not None:
            completed.add(client.submit(_nothing, number, key=("bare", next(_serial)), pure=False))


def _nothing(number: int) -> None:
    """A task that does nothing and leaves nothing."""


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _survey_of(epochs: int, folder: str) -> None:
    """Metadata and scalars, no pixels, of a survey of 4096 x 4096 frames (four shards) and its reference."""
    from astrid_dist.store.layouts import variables
    from astrid_dist.store.locations import Location
    from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow, set_state
    from astrid_dist.store.writing import ProductWriter

    sizes = {"epoch": 0, "y": 4096, "x": 4096, "psf_term": 1, "v": 41, "u": 41}
    attributes = {"psf_order": 0, "oversampling": 1}
    survey, reference = Location.parse(f"{folder}/survey.zarr"), Location.parse(f"{folder}/reference.zarr")
    create_product(survey, "survey")
    create_group(survey, "survey", "f0001/g", sizes, attributes)
    grow(survey, "survey", "f0001/g", epochs)
    rows = {
        one.name: [f"{one.name} {index}" for index in range(epochs)]
        if one.dtype == "string"
        else [1] * epochs
        for one in variables("survey").values()
        if one.is_scalar
    }
    ProductWriter(survey, "f0001/g").write_scalars({**rows, "valid": [True] * epochs}, 0)
    commit_epochs(survey, "f0001/g", epochs)
    create_product(reference, "reference")
    create_group(reference, "reference", "f0001/g", sizes, attributes)
    set_state(reference, "complete")


def _measured(which: str, folder: str) -> tuple[float, float]:
    """Seconds and growth of memory in MiB of one way of planning, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_engine", which, folder]
    seconds, growth = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(growth)


def _main(which: str, folder: str) -> None:
    import dask
    import psutil

    from astrid_dist.stages import load_stage
    from astrid_dist.stages.run import plan_stage

    process = psutil.Process()
    _ = dask.delayed(_nothing)(0), load_stage("difference")  # imports are not planning
    before = process.memory_info().rss
    started = time.perf_counter()
    if which == "ours":
        names = ("survey", "reference", "output")
        plan = plan_stage("difference", {name: f"{folder}/{name}.zarr" for name in names})
        assert plan.job.id
        assert sum(1 for key in plan.keys if str(key)) == SHARDS
    else:
        task = dask.delayed(_nothing, pure=False)
        tasks = [task(number, dask_key_name=("difference", number)) for number in range(SHARDS)]
        assert len(tasks) == SHARDS
    seconds = time.perf_counter() - started
    print(seconds, (process.memory_info().rss - before) / 2**20)


if __name__ == "__main__":
    _main(*sys.argv[1:])
