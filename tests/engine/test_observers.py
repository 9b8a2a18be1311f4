"""A terminal shows a bar, anything else gets JSON lines; both say the same."""

import io
import json
from typing import Any

import pytest

from astrid_dist.engine.keys import KeyBlock, KeyGrid
from astrid_dist.engine.observers import progress
from astrid_dist.engine.runner import run
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import IncompleteProductError
from tests.engine.planned import make_plan

KEYS = KeyGrid([KeyBlock("f0001/g", range(5))])
TABLE = {str(KEYS[1]): ["fail"] * 3, str(KEYS[2]): ["quarantine"]}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(stream: io.StringIO, url: str, calls: Any) -> str:
    try:
        run(make_plan(url, KEYS, table=TABLE, calls=calls), SerialEngine(), observers=[progress(stream)])
    except IncompleteProductError:
        return stream.getvalue()
    raise AssertionError("one task fails for ever")


def test_every_line_is_one_event_as_json(tmp_path: Any) -> None:
    lines = [
        json.loads(line) for line in watched(io.StringIO(), "memory://lines.zarr", tmp_path).splitlines()
    ]
    names = [line["event"] for line in lines]
    assert names[0] == "job_started"
    assert names[-1] == "job_finished"
    assert [names.count(name) for name in ("task_finished", "task_retried", "task_failed")] == [4, 2, 1]
    assert lines[0]["tasks"] == len(KEYS)
    assert (lines[-1]["status"], lines[-1]["failed"]) == ("incomplete", 1)


def test_a_terminal_sees_the_bar_what_went_wrong_and_the_sum(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said = watched(Terminal(), "memory://terminal.zarr", tmp_path)
    assert "5/5" in said
    assert f"set aside {KEYS[1]} after 3 attempts: RuntimeError: planned failure" in said.replace("\n", " ")
    assert f"quarantined {KEYS[2]}: the frame is truncated at 17 %" in said.replace("\n", " ")
    assert "incomplete: 3 done, 0 before, 1 quarantined, 1 set aside, 2 retried" in said.replace("\n", " ")
