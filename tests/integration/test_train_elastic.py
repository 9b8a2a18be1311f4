"""A run that asks for one or two workers goes on with as many as there is room for, where it was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from astrid_dist.learning.training import read_state
from tests.learning.test_training import TINY, dot_product

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

#: A driver with a Ray of so many cores.
DRIVER = """
import sys, ray
from astrid_dist.stages.train import Settings, run
ray.init("local", num_cpus=int(sys.argv[1]), include_dashboard=False)
run(Settings.model_validate_json(sys.argv[2]))
"""


def driver(cores: int, asked: dict[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(cores), json.dumps(asked)]
    with log.open("wb") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )


def states(output: Path) -> list[dict[str, Any]]:
    """Checkpoints, the oldest first."""
    found = sorted(output.glob("ray/*/checkpoint_*/state.pt"), key=lambda path: path.parent.name)
    return [read_state(path.read_bytes(), str(path)) for path in found]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path, before: int, after: int) -> None:
    asked: dict[str, Any] = {
        "samples": dot_product(tmp_path),
        "validation": [dot_product(tmp_path, "val", 128)],
        "output": str(tmp_path / "run"),
        "size": "small",
        "model": {name: value for name, value in TINY.items() if name != "size"},
        "workers": [1, 2],
        "epochs": 4,
        "batch": 16,
        "rate": 1e-2,
    }
    log = tmp_path / "log"
    first = driver(before, asked, log)
    while not list((tmp_path / "run").glob("ray/*/checkpoint_*/state.pt")) and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, log.read_text()[-3000:]
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = states(tmp_path / "run")
    assert kept[-1]["loader"]["ranks"] == before
    done = len(kept[-1]["history"])
    assert 1 <= done < 4

    assert driver(after, asked, log).wait() == 0, log.read_text()[-3000:]
    last = states(tmp_path / "run")[-1]
    assert last["loader"]["ranks"] == after
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2, 3, 4]
    assert record["history"][:done] == kept[-1]["history"]
    # an epoch has as many samples, shared by as many workers as there are
    steps = {1: 256 // 16, 2: 256 // 2 // 16}
    assert last["step"] == done * steps[before] + (4 - done) * steps[after]
    assert record["best"] > 0.8
