"""What a process takes is seen while it works."""

import time

import torch

from astrid_dist.learning.usage import Usage


def test_a_busy_process_is_told_from_one_that_waits() -> None:
    usage = Usage(torch.device("cpu"), every_s=0.05)
    time.sleep(0.4)
    waiting = usage.mean()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    time.sleep(0.06)
    busy = usage.of_all()
    usage.stop()
    assert set(busy) == {f"system/worker_0/{name}" for name in waiting}
    assert busy["system/worker_0/cpu_percentage"] > 2 * waiting["cpu_percentage"]
    assert 10 < busy["system/worker_0/memory_megabytes"] < 1e5
    time.sleep(0.1)  # the thread may be looking
    usage.mean()
    time.sleep(0.2)
    assert usage.mean() == {}


def test_nothing_seen_is_nothing_told() -> None:
    usage = Usage(torch.device("cpu"), every_s=60)
    assert usage.of_all() == {}
    usage.stop()
