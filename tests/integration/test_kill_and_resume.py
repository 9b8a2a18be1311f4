"""kill -9 of a worker, then of the driver, in the middle of a job; resume ends equal to a serial run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import reopen_damaged, resume, run_stage
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.verifying import verify
from tests.r2_rules import R2Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def settings(folder: Path, output: str) -> dict[str, str]:
    return {
        "survey": str(folder / "survey.zarr"),
        "reference": str(folder / "reference.zarr"),
        "output": output,
    }


def start_driver(folder: Path, output: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    overrides = [f"{name}={value}" for name, value in settings(folder, output).items()]
    command = [sys.executable, "-m", "astrid_dist.cli", "run", "jobs/difference.yaml", *overrides]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def markers(output: str) -> set[str]:
    return Ledger(Location.parse(output)).finished("difference")


def wait_for_markers(output: str, count: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while len(markers(output)) < count:
        assert time.monotonic() < deadline, "the job made no progress"
        assert driver.poll() is None, driver.stderr.read().decode() if driver.stderr else ""
        time.sleep(0.05)


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Worker processes alive; one that was killed may be a zombie for a moment."""
    found = []
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.ZombieProcess, psutil.NoSuchProcess):
            continue
    return found


def values(output: str, group: str) -> dict[str, np.ndarray]:
    reader = ProductReader(Location.parse(output), group)
    names = (
        "difference",
        "score",
        "sigma_flux",
        "mask",
        "psf_d",
        "score_std",
        "flux_ratio",
        "mjd",
        "verdict",
    )
    return {name: reader.read(name) for name in names}


def kill_worker_then_driver_then_resume(folder: Path, output: str, environment: dict[str, str]) -> None:
    driver = start_driver(folder, output, environment)
    try:
        wait_for_markers(output, 1, driver)
        os.kill(workers_of(driver)[0].pid, signal.SIGKILL)
        wait_for_markers(output, 2, driver)
        orphans = workers_of(driver)
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    for orphan in orphans:
        orphan.wait(timeout=60)  # a worker that lost its driver goes away by itself
    total = ProductReader(Location.parse(folder / "survey.zarr"), "f0000/r").epochs
    before = {
        marker["key"]: marker["finished"] for marker in Ledger(Location.parse(output)).markers("difference")
    }
    assert 2 <= len(before) < total, "the driver was to die in the middle"

    summary = resume(output, SerialEngine())
    assert summary.skipped == len(before)
    after = {
        marker["key"]: marker["finished"] for marker in Ledger(Location.parse(output)).markers("difference")
    }
    assert len(after) == total
    assert all(after[key] == when for key, when in before.items()), "a finished shard was done again"


def check_equal_to_serial(folder: Path, output: str, serial: str) -> None:
    run_stage("difference", settings(folder, serial), SerialEngine())
    expected, found = values(serial, "f0000/r"), values(output, "f0000/r")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_on_a_local_folder(mock_reference: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "difference.zarr")
    kill_worker_then_driver_then_resume(mock_reference, output, {})
    check_equal_to_serial(mock_reference, output, str(tmp_path / "serial.zarr"))
    assert not verify(output).problems

    shard = next(
        path
        for path in (tmp_path / "difference.zarr" / "f0000" / "r" / "score" / "c").rglob("*")
        if path.is_file()
    )
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 0x40
    shard.write_bytes(bytes(damaged))
    problems = verify(output).problems
    epoch = int(shard.relative_to(tmp_path / "difference.zarr" / "f0000" / "r" / "score" / "c").parts[0])
    assert [(problem.key, problem.variable) for problem in problems] == [
        (f"f0000/r/e{epoch:06d}/y00x00", "f0000/r/score")
    ]

    reopen_damaged(output, [problem.key for problem in problems])
    assert resume(output, SerialEngine()).done == 1
    assert not verify(output).problems
    check_equal_to_serial(mock_reference, output, str(tmp_path / "again.zarr"))


@pytest.mark.s3
def test_on_a_server_with_the_rules_of_r2(
    mock_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with R2Server() as server:
        bucket = server.bucket("astrid")
        environment = server.environment()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        output = f"{bucket}/difference.zarr"
        kill_worker_then_driver_then_resume(mock_reference, output, environment)
        check_equal_to_serial(mock_reference, output, str(tmp_path / "serial.zarr"))
        assert not verify(output).problems
