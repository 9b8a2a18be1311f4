"""In whatever order epochs are appended, written, killed, committed and damaged, a dict says what is seen.

Hypothesis drives a driver, its tasks and a reader of one survey group through steps in any order; the model
is one dict of what each epoch went through, and the number of committed epochs.
"""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from astrid_dist.errors import ResumeConflictError, StorageError
from astrid_dist.store import locations
from astrid_dist.store.lease import Lease
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_survey
from astrid_dist.store.templates import grow
from astrid_dist.store.verifying import verify
from astrid_dist.store.writing import ProductWriter
from tests.faults import SMALL, commit, create_survey, epoch_variables, scalars, what_is_wrong, write_epoch
from tests.r2_rules import R2Server

STAGE, GROUP = "ingest", "f0001/g"
JOB = {"stage": STAGE, "task": "none:none", "settings": {}, "inputs": {}}
SIZES = {**SMALL, "y": 40, "x": 50}
MOST_EPOCHS = 7
VARIABLES = sorted(epoch_variables(SIZES))


class SurveyMachine(RuleBasedStateMachine):
    """One survey group, one ledger, one model."""

    new_url: Any

    @initialize()
    def create(self) -> None:
        self.location: Location = create_survey(type(self).new_url(), [GROUP], SIZES)
        self.ledger = Ledger(self.location)
        self.ledger.register(JOB, "digest-of-the-job")
        self.planned = self.committed = 0
        self.markers: dict[int, dict[str, Any]] = {}
        self.touched: set[int] = set()  # data without a marker: what a killed task leaves
        self.compacted: set[int] = (
            set()
        )  # a contradiction to these is found by `verify`, not when it is marked
        self.append(3)
        self.mark(0, write_epoch(self.location, GROUP, 0, SIZES))

    def key(self, epoch: int) -> str:
        return f"{GROUP}/e{epoch:06d}/y00x00"

    def unmarked(self) -> list[int]:
        return [epoch for epoch in range(self.planned) if epoch not in self.markers]

    def quarantined(self) -> set[int]:
        return {epoch for epoch, marker in self.markers.items() if marker["status"] == "quarantined"}

    def done(self) -> list[int]:
        return sorted(set(self.markers) - self.quarantined())

    def mark(self, epoch: int, shards: dict[str, Any], status: str = "done", reason: str = "") -> None:
        good = status == "done"
        said = {**scalars(GROUP, epoch), "valid": good, "verdict": "good" if good else status}
        marker = {"key": self.key(epoch), "stage": STAGE, "status": status, "shards": shards}
        marker |= {"scalars": said, "reason": reason, "config": "digest"}
        self.ledger.mark(STAGE, self.key(epoch), marker)
        self.markers[epoch] = marker

    # what the driver and its tasks do -----------------------------------------------------------------------

    @precondition(lambda self: self.planned < MOST_EPOCHS)
    @rule(more=st.integers(1, 3))
    def append(self, more: int) -> None:
        self.planned = min(self.planned + more, MOST_EPOCHS)
        grow(self.location, "survey", GROUP, self.planned)

    @precondition(lambda self: self.unmarked())
    @rule(data=st.data())
    def write_epochs(self, data: st.DataObject) -> None:
        for epoch in data.draw(
            st.lists(st.sampled_from(self.unmarked()), unique=True, min_size=1, max_size=2)
        ):
            self.mark(epoch, write_epoch(self.location, GROUP, epoch, SIZES))

    @precondition(lambda self: self.unmarked())
    @rule(data=st.data(), written=st.sets(st.sampled_from(VARIABLES), min_size=1))
    def die_between_data_and_marker(self, data: st.DataObject, written: set[str]) -> None:
        epoch = data.draw(st.sampled_from(self.unmarked()))
        write_epoch(self.location, GROUP, epoch, SIZES, only=sorted(written))
        self.touched.add(epoch)

    @precondition(lambda self: set(self.unmarked()) - self.touched)
    @rule(data=st.data())
    def quarantine_an_epoch(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(sorted(set(self.unmarked()) - self.touched)))
        self.mark(epoch, {}, "quarantined", "NaN plane")

    @precondition(lambda self: self.done())
    @rule(data=st.data())
    def run_a_finished_task_again(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(self.done()))
        self.mark(epoch, write_epoch(self.location, GROUP, epoch, SIZES))
        self.compacted.discard(epoch)

    @rule()
    def commit(self) -> None:
        by_key = {marker["key"]: marker for marker in self.ledger.markers(STAGE)}
        there = {epoch: by_key[self.key(epoch)] for epoch in self.markers}
        self.committed = commit(self.location, GROUP, there)

    @rule()
    def die_between_scalars_and_count(self) -> None:
        commit(self.location, GROUP, self.markers, count=False)

    @rule()
    def compact(self) -> None:
        self.ledger.compact(STAGE)
        self.compacted = set(self.markers)

    @rule()
    def resume(self) -> None:
        """A new driver knows what was done from the ledger alone."""
        self.ledger = Ledger(Location.parse(str(self.location)))
        assert {marker["key"]: marker for marker in self.ledger.markers(STAGE)} == {
            marker["key"]: marker for marker in self.markers.values()
        }

    # what must be refused -----------------------------------------------------------------------------------

    @rule()
    def a_second_driver_is_refused(self) -> None:
        with (
            Lease(self.ledger.location, "first"),
            pytest.raises(ResumeConflictError, match=r"first.*process \d+"),
        ):
            Lease(self.ledger.location, "second").acquire()
        with pytest.raises(ResumeConflictError, match="unfinished"):
            self.ledger.register(JOB, "digest-of-another")
        assert self.ledger.register(JOB, "digest-of-the-job") == self.ledger.jobs()[0]["id"]

    @precondition(lambda self: set(self.done()) - self.compacted)
    @rule(data=st.data())
    def other_data_under_the_same_key_are_refused(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(sorted(set(self.done()) - self.compacted)))
        other = copy.deepcopy(self.markers[epoch])
        other["shards"][f"{GROUP}/image"]["sha256"] = "0" * 64
        with pytest.raises(StorageError, match=f"{self.key(epoch)}"):
            self.ledger.mark(STAGE, self.key(epoch), other)

    @rule(beyond=st.integers(0, 2), y=st.integers(1, 39))
    def writes_beyond_the_arrays_or_of_half_a_shard_are_refused(self, beyond: int, y: int) -> None:
        with pytest.raises(StorageError, match="grow"):
            write_epoch(self.location, GROUP, self.planned + beyond, SIZES)
        writer, half = ProductWriter(self.location, GROUP), np.zeros((y, SIZES["x"]), "f4")
        with pytest.raises(StorageError, match=f"y 0..{y} "):
            writer.write("image", {"epoch": 0, "y": slice(0, y)}, half)

    # what a reader sees -------------------------------------------------------------------------------------

    @rule()
    def read(self) -> None:
        cube = open_survey(str(self.location))[GROUP]
        assert cube.sizes["epoch"] == self.committed
        assert what_is_wrong(cube, GROUP, self.quarantined()) == []

    @rule()
    def verify(self) -> None:
        report = verify(str(self.location))
        assert report.problems == ()
        assert report.checked >= len(self.done()) * len(VARIABLES)

    @precondition(lambda self: self.done())
    @rule(data=st.data(), variable=st.sampled_from(VARIABLES), lost=st.booleans())
    def verify_names_what_was_damaged_and_its_task_repairs_it(
        self, data: st.DataObject, variable: str, lost: bool
    ) -> None:
        epoch = data.draw(st.sampled_from(self.done()))
        dims = len(epoch_variables(SIZES)[variable][0])
        name = f"{GROUP}/{variable}/c/" + "/".join(map(str, [epoch] + [0] * dims))
        objects = self.location.objects()
        whole = objects.get(name)
        assert whole is not None
        if lost:
            objects.delete(name)
        else:
            byte = data.draw(st.integers(0, len(whole) - 1))
            objects.put(name, whole[:byte] + bytes([whole[byte] ^ 0x10]) + whole[byte + 1 :])
        problems = verify(str(self.location)).problems
        assert [(p.key, p.variable.rpartition("/")[2]) for p in problems] == [(self.key(epoch), variable)]
        write_epoch(self.location, GROUP, epoch, SIZES, only=[variable])
        assert objects.get(name) == whole

    @invariant()
    def the_ledger_knows_what_is_finished(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.finished(STAGE) == {self.key(epoch) for epoch in self.markers}


def check(new_url: Any, examples: int, steps: int) -> None:
    machine = type("Machine", (SurveyMachine,), {"new_url": staticmethod(new_url)})
    bounds = {"max_examples": examples, "stateful_step_count": steps, "deadline": None}
    run_state_machine_as_test(
        machine, settings=settings(**bounds, suppress_health_check=list(HealthCheck), print_blob=True)
    )


def numbered(prefix: str) -> Any:
    numbers = itertools.count()
    return lambda: f"{prefix}/{next(numbers)}/survey.zarr"


def test_a_survey_on_disk_shows_what_was_committed_in_any_order_of_events(tmp_path: Path) -> None:
    check(numbered(str(tmp_path)), examples=10, steps=25)


def test_a_survey_in_memory_shows_what_was_committed_in_any_order_of_events() -> None:
    check(numbered("memory://state-machine"), examples=6, steps=25)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket without R2's write limit (`test_commit_protocol` keeps it): here thousands of steps run."""
    monkeypatch.setattr(locations, "SECONDS_BETWEEN_WRITES", 0.0)
    with R2Server(seconds_between_writes=0.0) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server.bucket()


@pytest.mark.s3
def test_a_survey_in_a_bucket_shows_what_was_committed_in_any_order_of_events(bucket: str) -> None:
    check(numbered(bucket), examples=2, steps=15)


@pytest.mark.slow
@pytest.mark.s3
def test_many_more_orders_of_events_on_disk_and_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    check(numbered(str(tmp_path)), examples=60, steps=50)
    check(numbered(bucket), examples=10, steps=30)
