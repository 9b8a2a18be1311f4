"""What every engine with worker processes does when one of them dies, and how many threads a worker has."""

from dataclasses import replace
from pathlib import Path

import pytest

from astrid_dist.engine.keys import KeyBlock, KeyGrid
from astrid_dist.engine.plan import Job
from astrid_dist.engine.protocol import Engine
from astrid_dist.engine.runner import run
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from tests.engine.planned import STAGE, count_calls, make_plan

KEYS = KeyGrid([KeyBlock("f0001/g", range(12))])
FIRST = str(KEYS[0])


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def output_of(calls: Path) -> str:
    return str(calls.parent / "out.zarr")


def test_a_killed_worker_costs_a_second_call_and_the_job_completes(far_engine: Engine, calls: Path) -> None:
    plan = make_plan(output_of(calls), KEYS, table={FIRST: ["die"]}, calls=calls)
    assert run(plan, far_engine).done == len(KEYS)
    counted = count_calls(calls)
    assert counted[FIRST] == 2
    assert set(counted) == set(map(str, KEYS))


def test_workers_run_one_thread_each(far_engine: Engine, calls: Path) -> None:
    plan = make_plan(output_of(calls), KEYS[:1])
    run(replace(plan, job=Job(STAGE, "tests.engine.planned:environment", output_of(calls), {})), far_engine)
    [marker] = Ledger(Location.parse(output_of(calls))).markers(STAGE)
    assert marker["scalars"] == {"threads": "1"}
