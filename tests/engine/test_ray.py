"""Ray's engine where it differs: nothing is repeated behind the runner's back, and nodes have room or not."""

import time
from pathlib import Path

import pytest
import ray

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.keys import KeyBlock, KeyGrid
from astrid_dist.engine.protocol import Engine
from astrid_dist.engine.ray import RayEngine
from astrid_dist.engine.runner import run
from astrid_dist.errors import ClusterError, ConfigError, IncompleteProductError
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from tests.engine.planned import STAGE, count_calls, make_plan

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

KEYS = KeyGrid([KeyBlock("f0001/g", range(6))])
FIRST = str(KEYS[0])


def test_room_is_what_the_file_says(ray_engine: Engine) -> None:
    crew = ray_engine.prepare()
    assert (crew.workers, crew.threads, crew.memory_per_task_bytes) == (2, 2, 2**30)


def test_a_task_that_kills_every_worker_is_set_aside(ray_engine: Engine, tmp_path: Path) -> None:
    for name in ("out.zarr", "calls"):
        (tmp_path / name).mkdir()
    output, calls = str(tmp_path / "out.zarr"), tmp_path / "calls"
    plan = make_plan(output, KEYS, table={FIRST: ["die"] * 9}, calls=calls)
    with pytest.raises(IncompleteProductError, match=FIRST) as caught:
        run(plan, ray_engine, retries=1)
    assert caught.value.summary.failed == [FIRST]  # type: ignore[attr-defined]
    assert caught.value.summary.done == len(KEYS) - 1  # type: ignore[attr-defined]
    failure = Ledger(Location.parse(output)).failure(STAGE, FIRST)
    assert failure is not None
    assert failure["kind"] == "worker"
    assert "out of memory" in failure["error"]
    assert count_calls(calls)[FIRST] == 2  # once per attempt


def test_a_cancelled_engine_tells_of_nothing_and_takes_new_calls(ray_engine: Engine) -> None:
    for number in range(4):
        ray_engine.submit("wait", str(number), time.sleep, 30)  # type: ignore[arg-type]
    ray_engine.cancel()
    ray_engine.submit("wait", "quick", time.sleep, 0)  # type: ignore[arg-type]
    started = time.monotonic()
    ended = None
    while ended is None and time.monotonic() - started < 25:
        ended = ray_engine.next(0.5)
    assert ended is not None
    assert (ended.name, ended.error) == ("quick", None)


def test_no_room_for_a_task_is_an_error_and_not_a_hang(ray_engine: Engine) -> None:
    with pytest.raises(
        ClusterError, match=r"no node of Ray has 1 CPU, 1 GPU for a task \(it has 2 CPU, 0 GPU"
    ):
        RayEngine(num_gpus=1, worker_timeout_s=0.2).prepare()


def test_nodes_that_are_gone_for_too_long_end_the_run(ray_engine: Engine) -> None:
    """A task that no node has room for waits as one does whose node has left."""
    engine = RayEngine(num_cpus=1000, worker_timeout_s=0.5)
    engine.submit("wait", "0", time.sleep, 0)  # type: ignore[arg-type]
    assert engine.next(0.1) is None
    time.sleep(0.6)
    with pytest.raises(ClusterError, match=r"lost with 1 tasks on it.*astrid resume"):
        engine.next(0.1)
    engine.cancel()


def test_a_connection_that_was_there_before_is_left_open(ray_engine: Engine) -> None:
    with open_engine("ray") as second:
        assert second.prepare().threads == 2
    assert ray.is_initialized()


def test_a_memory_limit_that_is_no_size_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("kind: ray\nmemory_limit: much\n")
    with pytest.raises(ConfigError, match="'much' is no size"), open_engine(str(tmp_path / "c.yaml")):
        pass
