"""From template to committed epochs on a bucket with R2's rules, whatever is lost or refused on the way.

Epochs are written by `tests.faults:task`; a driver grows the arrays and commits as markers come in.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from astrid_dist.engine import Estimate, Job, Plan, RunSummary, SerialEngine, ShardKey, run, runner
from astrid_dist.errors import IncompleteProductError, ResumeConflictError, StorageError
from astrid_dist.store import locations
from astrid_dist.store.layouts import variables
from astrid_dist.store.lease import Lease
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_survey
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import grow
from astrid_dist.store.verifying import verify
from tests.faults import (
    SMALL,
    attempts,
    commit,
    create_survey,
    epoch_variables,
    scalars,
    what_is_wrong,
    write_epoch,
)
from tests.r2_rules import R2Server

pytestmark = pytest.mark.s3

GROUPS = ("f0001/g", "f0002/r")
SIZES = {**SMALL, "y": 64, "x": 96}


@pytest.fixture(scope="module")
def running() -> Iterator[R2Server]:
    with R2Server() as server:
        yield server


@pytest.fixture
def server(running: R2Server, monkeypatch: pytest.MonkeyPatch) -> R2Server:
    running.clear_faults()
    running.forget()
    monkeypatch.setattr(running, "seconds_between_writes", 0.2)  # R2's second, shortened
    monkeypatch.setattr(locations, "SECONDS_BETWEEN_WRITES", 0.21)
    monkeypatch.setattr(runner, "COMMIT_EVERY_S", 0.2)
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ASTRID_RETRY_S", "8")
    return running


@pytest.fixture
def real_seconds(running: R2Server, server: R2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "seconds_between_writes", 1.0)
    monkeypatch.setattr(locations, "SECONDS_BETWEEN_WRITES", 1.05)
    monkeypatch.setattr(runner, "COMMIT_EVERY_S", 1.0)


@pytest.fixture
def url(server: R2Server) -> str:
    return f"{server.bucket()}/night/survey.zarr"


class Night:
    """One ingest-like job: `epochs` new epochs of every group, each written by a task with planned faults."""

    def __init__(
        self,
        url: str,
        folder: Path,
        epochs: range,
        groups: tuple[str, ...] = GROUPS[:1],
        faults: dict[str, list[str]] | None = None,
    ) -> None:
        self.groups = groups
        self.keys = [ShardKey(group, epoch) for group in groups for epoch in epochs]
        settings = {"output": url, "sizes": SIZES, "attempts": str(folder), "faults": faults or {}}
        job = Job("ingest", "tests.faults:task", url, settings, {"epochs": list(epochs)})
        self.plan = Plan(job, self.keys, Estimate(tasks=len(self.keys)))
        self.seen: dict[str, dict[int, Any]] = {group: {} for group in groups}

    def run(self, engine: Any = None, *, retries: int = 2) -> RunSummary:
        return run(
            self.plan,
            engine or SerialEngine(),
            retries=retries,
            prepare=self.prepare,
            on_markers=self.commit,
        )

    def prepare(self, plan: Plan) -> None:
        location = create_survey(plan.job.output, self.groups, SIZES)
        for group in self.groups:
            grow(location, "survey", group, 1 + max(key.epoch for key in plan.keys))

    def commit(self, markers: list[dict[str, Any]]) -> None:
        for marker in markers:
            key = ShardKey.parse(marker["key"])
            self.seen[key.group][key.epoch] = marker
        for group, there in self.seen.items():
            commit(Location.parse(self.plan.job.output), group, there)


def assert_whole(url: str, epochs: int, groups: tuple[str, ...] = GROUPS[:1]) -> None:
    survey = open_survey(url)
    assert list(survey) == list(groups)
    for group in groups:
        assert survey[group].sizes["epoch"] == epochs
        assert what_is_wrong(survey[group], group) == []
    assert verify(url).problems == ()


@pytest.mark.usefixtures("real_seconds")
def test_a_survey_that_grows_keeps_r2s_write_limit_by_itself(
    server: R2Server, url: str, tmp_path: Path
) -> None:
    Night(url, tmp_path, range(2), GROUPS).run()
    Night(url, tmp_path, range(2, 3), GROUPS).run()
    assert server.count(pattern=r"/survey\.zarr/", status=429) == 0, "paced writes never meet the limit"
    assert {r.status for r in server.requests} <= {200, 204, 206, 404, 412, 429}
    assert_whole(url, 3, GROUPS)
    assert set(attempts(tmp_path).values()) == {1}


def test_writing_committing_and_opening_cost_the_requests_they_must(server: R2Server, url: str) -> None:
    location = create_survey(url, GROUPS[:1], SIZES)
    grow(location, "survey", GROUPS[0], 2)

    def requests() -> Counter[tuple[str, str]]:
        kinds = ((r.method, "data" if "/c/" in r.key else "metadata") for r in server.requests)
        found = Counter(kinds)
        server.forget()
        return found

    requests()
    shards = [write_epoch(location, GROUPS[0], epoch, SIZES) for epoch in range(2)]
    n = len(epoch_variables(SIZES))
    # The root for each epoch, each array's metadata once, each shard once; nothing is read back.
    assert requests() == {("GET", "metadata"): 2 + n, ("PUT", "data"): 2 * n}
    markers = {e: {"shards": one, "scalars": scalars(GROUPS[0], e)} for e, one in enumerate(shards)}
    assert commit(location, GROUPS[0], markers) == 2
    spent, n_scalars = requests(), len(scalars(GROUPS[0], 0))
    known = sum(one.is_scalar for one in variables("survey").values())
    assert (spent["PUT", "data"], spent["PUT", "metadata"]) == (n_scalars, 1)
    assert spent["GET", "metadata"] <= n_scalars + 5
    cube = open_survey(url)[GROUPS[0]]
    assert requests() == {("GET", "metadata"): 2 + n + known, ("GET", "data"): known}
    cube["image"][1, :8, :8].load()
    assert requests()["GET", "data"] <= 2, "the shard's index and one chunk"


def test_an_answer_that_is_lost_after_the_write_is_no_failure(
    server: R2Server, url: str, tmp_path: Path
) -> None:
    lost = [
        server.drop_response(pattern)
        for pattern in (
            r"ledger/lease/",
            r"ledger/jobs/[^.]*\.json",
            r"ledger/ingest/f0001/g/e000001",
            r"ledger/manifests/",
            r"survey\.zarr/zarr\.json",
            r"survey\.zarr/f0001/zarr\.json",
            r"survey\.zarr/f0001/g/zarr\.json",
            r"survey\.zarr/f0001/g/image/c/1/",
            r"survey\.zarr/f0001/g/mjd/c/",
        )
    ]
    summary = Night(url, tmp_path, range(2)).run()
    assert [fault.hits for fault in lost] == [1] * len(lost)
    assert (summary.done, summary.retried, set(attempts(tmp_path).values())) == (2, 0, {1})
    assert_whole(url, 2)


def test_bursts_of_refusals_are_waited_out(server: R2Server, url: str, tmp_path: Path) -> None:
    faults = [
        server.burst(429, times=4, pattern=r"/image/c/", methods="PUT"),
        server.burst(503, times=4, pattern=r"/psf/c/", methods="PUT"),
        server.burst(503, times=3, pattern=r"ledger/ingest/", methods="PUT"),
        server.burst(429, times=3, pattern=r"zarr\.json", methods="GET"),
        server.burst(500, times=2, pattern=r"ledger/jobs", methods="GET"),
    ]
    summary = Night(url, tmp_path, range(1)).run()
    assert [fault.hits for fault in faults] == [4, 4, 3, 3, 2]
    assert (summary.done, summary.retried) == (1, 0)
    assert_whole(url, 1)


def test_a_store_that_fails_for_longer_than_requests_are_retried_costs_attempts_not_data(
    server: R2Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTRID_RETRY_S", "0.5")
    server.burst(503, times=6, pattern=r"/g/image/c/0/", methods="PUT")
    summary = Night(url, tmp_path, range(1)).run(retries=5)
    assert summary.done == 1
    assert summary.retried >= 1
    assert attempts(tmp_path)["f0001/g/e000000/y00x00"] == 1 + summary.retried
    monkeypatch.setenv("ASTRID_RETRY_S", "8")
    assert_whole(url, 1)


def test_a_stopped_job_resumes_and_commits_what_was_finished(
    server: R2Server, url: str, tmp_path: Path
) -> None:
    poison = str(ShardKey(GROUPS[0], 1))
    night = partial(Night, url, tmp_path, range(2), faults={poison: ["raise", "raise after"]})
    with pytest.raises(IncompleteProductError, match=poison):
        night().run(retries=1)
    survey = open_survey(url)
    assert survey[GROUPS[0]].sizes["epoch"] == 1
    assert what_is_wrong(survey[GROUPS[0]], GROUPS[0]) == []
    failed = Ledger(Location.parse(url)).failure("ingest", poison)
    assert failed is not None
    assert "planned failure" in failed["traceback"]
    with pytest.raises(ResumeConflictError, match="unfinished"):
        Night(url, tmp_path, range(2, 3)).run()
    summary = night().run()
    assert (summary.done, summary.skipped) == (1, 1)
    assert attempts(tmp_path)[poison] == 3
    assert_whole(url, 2)


def test_of_two_drivers_of_one_product_the_second_is_refused(
    server: R2Server, url: str, tmp_path: Path
) -> None:
    first = Night(url, tmp_path, range(1))
    inside, refused = threading.Event(), []

    def second() -> None:
        inside.wait(30)
        try:
            Night(url, tmp_path, range(1)).run()
        except ResumeConflictError as error:
            refused.append(str(error))

    prepare: Callable[[Plan], None] = first.prepare
    thread = threading.Thread(target=second)

    def prepare_while_the_second_comes(plan: Plan) -> None:
        prepare(plan)
        inside.set()
        thread.join()

    first.prepare = prepare_while_the_second_comes  # type: ignore[method-assign]
    thread.start()
    first.run()
    thread.join()
    assert len(refused) == 1
    assert "ingest" in refused[0]
    assert set(attempts(tmp_path).values()) == {1}
    assert_whole(url, 1)


def test_a_driver_that_was_paused_while_two_others_took_their_turn_stops_by_itself(url: str) -> None:
    ledger = Location.parse(url).sibling(".ledger")
    paused = Lease(ledger, "paused", takeover_after_s=60)
    paused.acquire()
    for holder in ("second", "third"):
        Lease(ledger, holder, takeover_after_s=-1, heartbeat_s=0).acquire()  # waits for nobody
    paused.heartbeat()
    with pytest.raises(ResumeConflictError, match="took it over"):
        paused.check()


def test_a_commit_over_damaged_scalars_is_a_storage_error_and_changes_nothing(url: str) -> None:
    location, group = create_survey(url, GROUPS[:1], SIZES), GROUPS[0]
    grow(location, "survey", group, 2)
    markers = {epoch: {"scalars": scalars(group, epoch)} for epoch in range(2)}
    commit(location, group, {0: markers[0]})
    name = f"{group}/mjd/c/0"
    location.objects().put(name, bytes(reversed(location.objects().get(name) or b"")))
    with pytest.raises(StorageError, match=r"mjd.*cannot be decoded.*astrid verify"):
        commit(location, group, markers)
    assert ProductReader(location, group).epochs == 1


@pytest.mark.parametrize("scheme", ["s3", "r2"])
def test_wrong_credentials_are_a_storage_error_that_says_so(
    server: R2Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    create_survey(url, GROUPS[:1], SIZES)
    url = url.replace("s3://", f"{scheme}://")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    for action in (
        lambda: open_survey(url),
        lambda: Night(url, tmp_path, range(1)).run(),
        lambda: list(Ledger(Location.parse(url)).jobs()),
        lambda: Location.parse(url).exists(),
        lambda: verify(url),
    ):
        with pytest.raises(StorageError, match="credentials"):
            action()
    assert attempts(tmp_path) == {}


def test_a_bucket_that_is_not_there_or_does_not_answer_is_a_storage_error(
    server: R2Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "s3://no-such-bucket/survey.zarr"
    for action in (lambda: open_survey(missing), lambda: Night(missing, tmp_path, range(1)).run()):
        with pytest.raises(StorageError, match="no-such-bucket"):
            action()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ASTRID_RETRY_S", "0.5")
    with pytest.raises(StorageError, match="anywhere"):
        open_survey("s3://anywhere/survey.zarr")


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_killed_between_data_and_marker_leave_the_bits_of_a_serial_run(
    server: R2Server, url: str, tmp_path: Path
) -> None:
    from distributed import Client, LocalCluster

    from astrid_dist.engine.dask import DaskEngine

    first, second = (str(ShardKey(group, 1)) for group in GROUPS)
    faults = {first: ["kill after"], second: ["kill", "raise after"]}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        summary = Night(url, tmp_path, range(3), GROUPS, faults).run(DaskEngine(client))
    assert summary.failed == []
    assert attempts(tmp_path)[first] >= 2
    assert attempts(tmp_path)[second] >= 3
    assert_whole(url, 3, GROUPS)
