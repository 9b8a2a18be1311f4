"""What only a cluster can do: die in part, die altogether, or never come."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster

from astrid_dist.engine.dask import DaskEngine
from astrid_dist.engine.keys import KeyBlock, KeyGrid
from astrid_dist.engine.protocol import Engine
from astrid_dist.engine.runner import run
from astrid_dist.errors import ClusterError, IncompleteProductError
from astrid_dist.store.lease import Lease
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from tests.engine.planned import STAGE, count_calls, make_plan

pytestmark = pytest.mark.cluster

KEYS = KeyGrid([KeyBlock("f0001/g", range(12))])
FIRST, SECOND = str(KEYS[0]), str(KEYS[1])


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def output_of(calls: Path) -> str:
    return str(calls.parent / "out.zarr")


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_set_aside(dask_engine: Engine, calls: Path) -> None:
    plan = make_plan(output_of(calls), KEYS, table={FIRST: ["die"] * 99}, calls=calls)
    with pytest.raises(IncompleteProductError, match=FIRST) as caught:
        run(plan, dask_engine, retries=1)
    assert caught.value.summary.failed == [FIRST]  # type: ignore[attr-defined]
    assert caught.value.summary.done == len(KEYS) - 1  # type: ignore[attr-defined]
    failure = Ledger(Location.parse(output_of(calls))).failure(STAGE, FIRST)
    assert failure is not None
    assert failure["kind"] == "worker"
    assert "KilledWorker" in failure["error"]
    assert "out of memory" in failure["error"]
    assert (
        count_calls(calls)[FIRST] == 4
    )  # twice per attempt: Dask itself repeats what was there when a worker died


def test_a_cluster_without_workers_is_an_error_and_not_a_hang(calls: Path) -> None:
    with _threads(0) as cluster, Client(cluster, set_as_default=False) as client:
        started = time.monotonic()
        with pytest.raises(ClusterError, match=r"no worker of tcp://127\.0\.0\.1:\d+ came within 0 s"):
            run(make_plan(output_of(calls), KEYS), DaskEngine(client, worker_timeout_s=0.2))
        assert time.monotonic() - started < 20


def test_a_lost_cluster_ends_the_run_and_leaves_a_job_that_resumes(dask_engine: Engine, calls: Path) -> None:
    plan = make_plan(output_of(calls), KEYS, table={str(key): ["sleep"] for key in KEYS}, calls=calls)
    cluster = _threads(1)
    with Client(cluster, set_as_default=False) as client:

        def pull_the_plug(event: Any) -> None:
            if type(event).__name__ == "TaskFinished":
                cluster.close()

        with pytest.raises(ClusterError, match="astrid resume"):
            run(plan, DaskEngine(client, worker_timeout_s=2.0), observers=[pull_the_plug])
    done_before = len(Ledger(Location.parse(output_of(calls))).finished(STAGE))
    assert 0 < done_before < len(KEYS)
    summary = run(plan, dask_engine)
    assert summary.done + summary.skipped == len(KEYS)
    assert summary.skipped >= done_before


def _threads(workers: int) -> LocalCluster:
    """A cluster in this process: quick to start."""
    address = "127.0.0.1:0"
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=address
    )


DRIVER = """
import sys
from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.keys import KeyBlock, KeyGrid
from astrid_dist.engine.runner import run
from tests.engine.planned import make_plan

if __name__ == "__main__":
    keys = KeyGrid([KeyBlock("f0001/g", range(100))])
    with open_engine("local") as engine:
        table = {str(key): ["sleep"] for key in keys}
        run(make_plan(sys.argv[1], keys, table=table, calls=sys.argv[2]), engine)
"""


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_stops_driver_and_workers_and_frees_the_lease(calls: Path) -> None:
    script, project = calls.parent / "driver.py", Path(__file__).resolve().parents[2]
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), output_of(calls), str(calls)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    try:
        while sum(1 for _ in calls.iterdir()) < 5 and driver.poll() is None:
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGINT)  # a terminal sends it to the workers too
        _, said = driver.communicate(timeout=60)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert said.count("Traceback") == 1
    assert "KeyboardInterrupt" in said.splitlines()[-1]
    left = [
        process.info
        for process in psutil.process_iter(["cmdline", "status"])
        if _group(process.pid) == driver.pid and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    assert left == []
    ledger = Ledger(Location.parse(output_of(calls)))
    assert 0 < len(ledger.finished(STAGE)) < 100
    Lease(ledger.location, "the next driver").acquire()
