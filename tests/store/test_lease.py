"""One driver at a time, and never none for long."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from astrid_dist.errors import ResumeConflictError
from astrid_dist.store.lease import Lease
from astrid_dist.store.locations import Location


@pytest.fixture
def ledger(tmp_path: Path) -> Location:
    return Location.parse(tmp_path / "x.zarr.ledger")


def rewrite(ledger: Location, **changes: object) -> None:
    """Make the newest lease look as if another machine had written it."""
    name = max(name for name, _ in ledger.objects().list("lease/"))
    said = json.loads(ledger.objects().get(name) or b"")
    ledger.objects().put(name, json.dumps({**said, **changes}).encode())


def test_a_second_driver_is_refused_and_told_who_holds_it(ledger: Location) -> None:
    with (
        Lease(ledger, "difference-1"),
        pytest.raises(
            ResumeConflictError, match=r"held by job difference-1 on .*, process \d+ \(last seen 0 s ago\)"
        ),
    ):
        Lease(ledger, "difference-2").acquire()


def test_a_lease_given_back_is_free_at_once(ledger: Location) -> None:
    for number in range(3):
        with Lease(ledger, f"job-{number}") as lease:
            lease.check()
    assert len(list(ledger.objects().list("lease/"))) == 1


def test_a_silent_holder_is_taken_over_and_finds_that_out(ledger: Location) -> None:
    first = Lease(ledger, "first", heartbeat_s=0.1)
    first.acquire()
    rewrite(ledger, machine="elsewhere", time=time.time() - 31)
    with Lease(ledger, "second") as second:
        first.heartbeat()
        with pytest.raises(ResumeConflictError, match="another driver took it over"):
            first.check()
        first.release()
        second.check()
        with pytest.raises(ResumeConflictError, match="job second"):
            Lease(ledger, "third").acquire()


def test_a_holder_that_died_on_this_machine_is_taken_over_at_once(ledger: Location) -> None:
    Lease(ledger, "first").acquire()
    rewrite(ledger, pid=2**22 + 1)  # above the largest process number of Linux
    started = time.monotonic()
    with Lease(ledger, "second"):
        assert time.monotonic() - started < 2


def test_a_live_holder_with_a_wrong_clock_is_left_alone(ledger: Location) -> None:
    Lease(ledger, "first").acquire()
    rewrite(ledger, machine="elsewhere", time=time.time() - 3600, heartbeat_s=0.2)
    beat = threading.Timer(0.2, rewrite, (ledger,), {"beats": 7})
    beat.start()
    with pytest.raises(ResumeConflictError, match="clock differs"):
        Lease(ledger, "second").acquire()
    beat.join()


def test_of_many_that_take_over_one_wins(ledger: Location) -> None:
    Lease(ledger, "dead").acquire()
    rewrite(ledger, machine="elsewhere", time=0, heartbeat_s=0.0)
    start = threading.Barrier(6)

    def contend(number: int) -> bool:
        start.wait()
        try:
            Lease(ledger, f"contender-{number}").acquire()
        except ResumeConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(contend, range(6))) == 1


def test_a_driver_that_cannot_renew_its_lease_stops_by_itself(ledger: Location) -> None:
    lease = Lease(ledger, "cut off", takeover_after_s=0.05)
    lease.acquire()
    time.sleep(0.1)
    with pytest.raises(ResumeConflictError, match="no heartbeat could be written"):
        lease.check()


def test_the_heartbeat_goes_on_while_the_driver_works(ledger: Location) -> None:
    with Lease(ledger, "busy", takeover_after_s=0.6, heartbeat_s=0.05) as lease:
        time.sleep(1.0)
        lease.check()
