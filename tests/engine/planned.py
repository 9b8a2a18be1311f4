"""Tasks that fail as a table says; calls are counted in files, so that it holds for every engine."""

import os
import signal
import time
import uuid
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from astrid_dist.engine.keys import ShardKey
from astrid_dist.engine.plan import Estimate, Job, Plan, TaskOutcome
from astrid_dist.errors import InputError, StorageError

STAGE = "difference"


def make_plan(
    output: str,
    keys: Any,
    *,
    table: Mapping[str, list[str]] | None = None,
    calls: Path | None = None,
    **settings: Any,
) -> Plan:
    """A plan of tasks that do, at their n-th call, the n-th thing in the row of their key; then ``ok``."""
    said = {"table": dict(table or {}), "calls": str(calls or ""), **settings}
    return Plan(Job(STAGE, "tests.engine.planned:task", output, said), keys, Estimate(tasks=len(keys)))


def count_calls(calls: Path) -> dict[str, int]:
    """How often each task ran."""
    counted: dict[str, int] = {}
    for path in calls.iterdir():
        key = path.name.split("@")[0].replace("~", "/")
        counted[key] = counted.get(key, 0) + 1
    return counted


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Do what is planned for this call."""
    folder, name = settings["calls"], str(key).replace("/", "~")
    call = 0
    if folder:
        call = sum(1 for path in Path(folder).iterdir() if path.name.split("@")[0] == name)
        (Path(folder) / f"{name}@{uuid.uuid4().hex}").touch()
    row = settings["table"].get(str(key), [])
    act(row[call] if call < len(row) else "ok", key)
    if row and row[0] == "quarantine":
        return TaskOutcome({}, quarantined="the frame is truncated at 17 %")
    digest = sha256(str(key).encode()).hexdigest()
    return TaskOutcome(
        {f"{key.group}/image": {"region": [[key.epoch, key.epoch + 1], [0, 8]], "sha256": digest}},
        scalars={"zeropoint": 25.0 + key.epoch},
        counts={"pixels": 8},
    )


def act(what: str, key: ShardKey) -> None:
    """Fail, or not."""
    if what == "fail":
        raise RuntimeError(f"planned failure of {key}")
    if what == "input":
        raise InputError(f"{key} is a NaN plane")
    if what == "storage":
        raise StorageError(f"503 for {key}")
    if what == "exit":
        raise SystemExit(3)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(0.3)


def returns_nothing(settings: Mapping[str, Any], key: ShardKey) -> Any:
    """A task that breaks its promise."""
    return None


def environment(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Tell what a worker's environment says of threads."""
    return TaskOutcome({}, scalars={"threads": os.environ.get("OMP_NUM_THREADS")})
