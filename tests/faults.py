"""Failures planned in advance, and data whose every value follows from its place: for tests on any engine.

A test writes down what shall happen to each task, `{key: ["kill", "raise", "ok"]}`, runs its job on any
engine, and asserts both the data and how often each task ran. Attempts are counted in files of one folder, so
that they outlive the processes that made them.
"""

import os
import signal
import time
import zlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from astrid_dist.engine import ShardKey, TaskOutcome
from astrid_dist.errors import InputError, StorageError
from astrid_dist.store.layouts import complete_sizes, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import commit_epochs, create_group, create_product
from astrid_dist.store.writing import ProductWriter

#: What can happen to an attempt; a name with "after" strikes when its data are written and its marker is not.
ACTIONS = ("ok", "raise", "input", "storage", "kill", "raise after", "kill after", "sleep", "sleep after")
SLEEP_S = 0.2

#: A frame that fills no shard: 5 x 7 mesh cells and 2 x 2 chunks, the last of them partial.
SMALL = {"y": 300, "x": 420, "epoch": 0, "v": 5, "u": 5, "psf_term": 1, "star": 4}


def take_turn(folder: Path, key: str, plan: Sequence[str]) -> str:
    """Count one attempt at a key and return what shall happen to it: "ok" once the plan is used up."""
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(10_000):
        try:
            (folder / f"{key.replace('/', '~')}.{attempt}").touch(exist_ok=False)
        except FileExistsError:
            continue
        action = plan[attempt] if attempt < len(plan) else "ok"
        assert action in ACTIONS, f"{action!r} is none of {ACTIONS}"
        return action
    raise AssertionError(f"{key} ran 10,000 times")


def attempts(folder: Path) -> Counter[str]:
    """How often each key ran, whatever became of it."""
    return Counter(path.name.rpartition(".")[0].replace("~", "/") for path in folder.glob("*.*"))


def strike(action: str) -> None:
    """Let a planned action happen to this process."""
    match action.removesuffix(" after"):
        case "raise":
            raise RuntimeError("planned failure")
        case "input":
            raise InputError("planned bad input: the plane is NaN")
        case "storage":
            raise StorageError("planned storage failure")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(SLEEP_S)


def pattern(group: str, variable: str, epoch: int, shape: Sequence[int], dtype: str = "f4") -> np.ndarray:
    """Values of one epoch of a variable, each a function of its place alone; no two epochs agree.

    At most 2**16, so that float32 holds them exactly, and never 0 nor NaN.
    """
    seed = zlib.crc32(f"{group}/{variable}/{epoch}".encode())
    mixed = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    return (np.uint64(1) + (mixed >> np.uint64(48)) % np.uint64(0xFFFE)).astype(f"<{dtype}").reshape(shape)


def create_survey(url: str, groups: Sequence[str], sizes: Mapping[str, int] = SMALL) -> Location:
    """An empty survey of some groups of one size."""
    location = Location.parse(url)
    create_product(location, "survey")
    for group in groups:
        create_group(location, "survey", group, dict(sizes), {})
    return location


def epoch_variables(sizes: Mapping[str, int] = SMALL) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape without the epoch, and type, of each variable that a task writes."""
    full = complete_sizes(sizes)
    return {
        name: (tuple(full[dim] for dim in one.dims[1:]), one.dtype)
        for name, one in variables("survey").items()
        if not one.is_scalar
    }


def write_epoch(
    location: Location, group: str, epoch: int, sizes: Mapping[str, int] = SMALL, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Write every variable of an epoch (or `only` some), and return their digests as a marker holds them."""
    writer = ProductWriter(location, group)
    written = {}
    for name, (shape, dtype) in epoch_variables(sizes).items():
        if not only or name in only:
            digest = writer.write(name, {"epoch": epoch}, pattern(group, name, epoch, shape, dtype))
            written[f"{group}/{name}"] = {"region": [list(b) for b in digest.region], "sha256": digest.sha256}
    return written


def scalars(group: str, epoch: int) -> dict[str, Any]:
    """Scalars of one epoch, as its marker holds them and the committer writes them."""
    return {
        "epoch_id": f"{group}-{epoch}",
        "source": f"night/{epoch}.fits",
        "time": 1_000_000 * epoch,
        "mjd": 60_000.0 + epoch,
        "exptime": 30.0,
        "gain": 1.5,
        "read_noise": 5.0,
        "zeropoint": 25.0,
        "fwhm": 3.0,
        "sky": 100.0,
        "n_stars": epoch,
        "valid": True,
        "verdict": "good",
        "reason": "",
    }


def commit(
    location: Location, group: str, markers: Mapping[int, Mapping[str, Any]], *, count: bool = True
) -> int:
    """Commit the leading epochs that have a marker: their scalars, then (unless killed before) the count."""
    start = stop = ProductReader(location, group).epochs
    while stop in markers:
        stop += 1
    if stop > start:
        rows = [markers[epoch]["scalars"] for epoch in range(start, stop)]
        ProductWriter(location, group).write_scalars(
            {name: [r[name] for r in rows] for name in rows[0]}, start
        )
        if count:
            commit_epochs(location, group, stop)
    return stop


def task(settings: Mapping[str, Any], key: ShardKey) -> TaskOutcome:
    """Write one epoch, with the failures planned for its key. For `Job(task="tests.faults:task")`.

    Settings: ``output``, ``sizes``, ``attempts`` (the folder that counts) and ``faults`` (key -> actions).
    """
    action = take_turn(Path(settings["attempts"]), str(key), settings["faults"].get(str(key), ()))
    if not action.endswith("after"):
        strike(action)
    written = write_epoch(Location.parse(settings["output"]), key.group, key.epoch, settings["sizes"])
    if action.endswith("after"):
        strike(action)
    return TaskOutcome(written, scalars=scalars(key.group, key.epoch), counts={"epochs": 1})


def what_is_wrong(
    cube: xr.Dataset, group: str, quarantined: Container[int] = (), newest: int | None = None
) -> list[str]:
    """What a reader sees that no committed survey may show; empty if every epoch is whole and its own.

    `newest` limits it to so many of the last epochs, where half-written ones would be.
    """
    lengths = {name: cube[name].sizes["epoch"] for name in cube.variables if "epoch" in cube[name].dims}
    if len(set(lengths.values())) != 1:
        return [f"arrays of different lengths: {lengths}"]
    found = []
    epochs = cube.sizes["epoch"]
    for epoch in range(0 if newest is None else max(epochs - newest, 0), epochs):
        one = cube.isel(epoch=epoch)
        if bool(one["valid"]) == (epoch in quarantined) or one["epoch_id"].item() != f"{group}-{epoch}":
            found.append(f"epoch {epoch}: valid {one['valid'].item()}, epoch_id {one['epoch_id'].item()!r}")
        for name, layout in variables("survey").items():
            if not layout.is_scalar:
                values, empty = one[name].values, np.asarray(layout.fill_value, layout.dtype)
                expected = pattern(group, name, epoch, values.shape, layout.dtype)
                if epoch in quarantined:
                    expected = np.full_like(expected, empty)
                if not np.array_equal(values, expected, equal_nan=values.dtype.kind == "f"):
                    bad = int(np.count_nonzero(values != expected))
                    found.append(f"epoch {epoch}: {name} has {bad} wrong values of {values.size}")
    return found
