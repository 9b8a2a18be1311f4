"""The difference stage on 2048² epochs of a mock survey, Zarr to Zarr: speed, scaling, memory.

Speed per core is by CPU time of all threads, so that a machine shared with others says nearly the same. Every
measurement runs in a process of its own, bound to one core where the system can bind it, with one
thread per library. What it stands beside is measured in the same run: the same planes read, transformed eight
times per tile and written, without any of the astronomy in between.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

Result = dict[str, Any]
SIZE, TEMPLATES, EPOCHS = 2048, 3, 7
_FOLDER = tempfile.TemporaryDirectory(prefix="bench-difference-")


def difference_stage() -> Result:
    """Megapixels per second and core of whole tasks, after one that warms up."""
    ours, bare = [], []
    for _ in range(3):
        ours.append(_measured("tasks", core=0)["mpix_s"])
        bare.append(_measured("bare", core=0)["mpix_s"])
    value, limit = statistics.median(ours), statistics.median(bare)
    against = f"reading, 8 transforms a tile and writing alone: {limit:.1f} Mpix/s"
    return _row("difference_stage", value, "Mpix/s/core", against, value / limit)


def difference_scaling() -> Result:
    """Two Dask workers beside two bare processes that share the epochs."""
    dask, processes = [], []
    for _ in range(3):
        dask.append(_with_dask())
        processes.append(_with_processes())
    value, peer = statistics.median(dask), statistics.median(processes)
    return _row("difference_scaling", value, "Mpix/s", f"two bare processes: {peer:.2f} Mpix/s", value / peer)


def difference_memory_mb() -> Result:
    """Peak memory of one pair above that of the same worker after a first one."""
    peaks = [_measured("memory", core=0)["mib"] for _ in range(3)]
    pixels = 4 * SIZE**2 / 2**20
    value = statistics.median(peaks)
    return _row("difference_memory_mb", value, "MiB", f"one float32 plane: {pixels:.0f} MiB", value / pixels)


def difference_linear() -> list[Result]:
    """Seconds per megapixel of whole tasks, field by field of growing size, over the smallest one's."""
    rows, first = [], None
    for size in (512, 1024, 2048, 4096):
        seconds = 1 / _measured("tasks", core=0, size=size)["mpix_s"]
        first = first or seconds
        name = f"difference_linear_{size}"
        rows.append(_row(name, seconds, "s/Mpix", f"512 px: {first:.2f} s/Mpix", seconds / first))
    return rows


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {
    "difference_stage": difference_stage,
    "difference_scaling": difference_scaling,
    "difference_memory_mb": difference_memory_mb,
    "difference_linear": difference_linear,
}


def _row(name: str, value: float, unit: str, against: str, ratio: float) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


@cache
def _survey(size: int) -> Path:
    """A survey and its reference, made once a run."""
    folder = Path(_FOLDER.name) / str(size)
    mock = {
        "files": f"{folder}/fits",
        "output": f"{folder}/truth.zarr",
        "size_px": size,
        "epochs": EPOCHS if size == SIZE else TEMPLATES + 3,
        "template_epochs": TEMPLATES,
        "supernovae": max(4, 40 * size**2 // SIZE**2),
    }
    survey, reference = f"{folder}/survey.zarr", f"{folder}/reference.zarr"
    _run("mock", mock)
    _run("ingest", {"paths": [mock["files"]], "output": survey})
    _run("reference", {"survey": survey, "output": reference, "epochs": f"best:{TEMPLATES}"})
    return folder


def _run(stage: str, settings: dict[str, Any]) -> None:
    from astrid_dist.engine.clusters import open_engine
    from astrid_dist.stages.run import run_stage

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), open_engine("local") as engine:
        run_stage(stage, settings, engine)


def _measured(what: str, core: int, size: int = SIZE) -> dict[str, float]:
    """Figures of one process."""
    with tempfile.TemporaryDirectory() as output:
        process = _start(what, str(_survey(size)), output, str(core))
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{what} ended with status {process.returncode}")
        return dict(json.loads(said))


def _start(*arguments: str) -> "subprocess.Popen[str]":
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, "-m", "tests.benchmarks.bench_difference", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | threads)


def _planned(folder: str, output: str) -> Any:
    from astrid_dist.stages.run import plan_stage

    settings = {name: f"{folder}/{name}.zarr" for name in ("survey", "reference")}
    return plan_stage("difference", {**settings, "output": f"{output}/difference.zarr"})


def _with_processes() -> float:
    """Megapixels per second of two processes, each with every other epoch; their start is not counted."""
    from astrid_dist.stages import difference

    folder = str(_survey(SIZE))
    with tempfile.TemporaryDirectory() as output:
        difference.prepare(_planned(folder, output))
        processes = [_start("share", folder, output, str(core)) for core in (0, 1)]
        spans = []
        for process in processes:
            said, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"a bare process ended with status {process.returncode}")
            spans.append(json.loads(said))
    seconds = max(span["end"] for span in spans) - min(span["start"] for span in spans)
    return float(sum(span["mpix"] for span in spans) / seconds)


def _with_dask() -> float:
    """Megapixels per second of a job on two workers that have each done a task before."""
    import dask
    from distributed import Client, LocalCluster

    from astrid_dist.engine.dask import DaskEngine
    from astrid_dist.engine.runner import run
    from astrid_dist.stages import difference

    folder = str(_survey(SIZE))
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True}))
        cluster = stack.enter_context(
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
        )
        client = stack.enter_context(Client(cluster))
        client.run(_warm_up, folder)
        plan = _planned(folder, output)
        difference.prepare(plan)
        started = time.time()
        run(plan, DaskEngine(client))
        return len(plan.keys) * SIZE**2 / 1e6 / (time.time() - started)


def _warm_up(folder: str) -> None:
    """One task, on a product that is thrown away."""
    from astrid_dist.stages import difference

    with tempfile.TemporaryDirectory() as output:
        plan = _planned(folder, output)
        difference.prepare(plan)
        difference.task(plan.job.settings, next(iter(plan.keys)))


def _main(what: str, folder: str, output: str, core: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[int(core) % len(available)]})
    figures = {"tasks": _tasks, "bare": _bare, "memory": _memory, "share": _share}[what](
        folder, output, int(core)
    )
    print(json.dumps(figures))


def _tasks(folder: str, output: str, core: int) -> dict[str, float]:
    """Every epoch but the first, which warms up."""
    from astrid_dist.stages import difference

    plan = _planned(folder, output)
    difference.prepare(plan)
    keys = list(plan.keys)
    for key in keys:
        if key.epoch == 0:
            difference.task(plan.job.settings, key)
    started = time.process_time()
    pixels = sum(difference.task(plan.job.settings, key).counts["pixels"] for key in keys if key.epoch > 0)
    return {"mpix_s": pixels / 1e6 / (time.process_time() - started)}


def _share(folder: str, output: str, core: int) -> dict[str, float]:
    from astrid_dist.stages import difference

    _warm_up(folder)
    plan = _planned(folder, output)
    keys = list(plan.keys)[core::2]
    started = time.time()
    for key in keys:
        difference.task(plan.job.settings, key)
    return {"start": started, "end": time.time(), "mpix": len(keys) * SIZE**2 / 1e6}


def _bare(folder: str, output: str, core: int) -> dict[str, float]:
    """What no difference can do without: planes read, eight transforms of each tile, planes written."""
    from scipy import fft

    from astrid_dist.imaging.zogy import halo_px
    from astrid_dist.stages import difference
    from astrid_dist.stages.selection import resolved
    from astrid_dist.store.layouts import TILE
    from astrid_dist.store.locations import Location
    from astrid_dist.store.reading import ProductReader
    from astrid_dist.store.writing import ProductWriter

    plan = _planned(folder, output)
    difference.prepare(plan)
    keys = list(plan.keys)
    group, epochs = next(iter(resolved(plan.job.settings["epochs"]).items()))
    reader = ProductReader(Location.parse(f"{folder}/survey.zarr"), group)
    writer = ProductWriter(Location.parse(f"{output}/difference.zarr"), group)
    side = fft.next_fast_len(TILE + 3 * halo_px(reader.sizes("psf")["u"]), real=True)
    tiles = SIZE // TILE
    real = np.random.default_rng(1).normal(size=(side, side)).astype(np.float32)
    for number, epoch in enumerate(epochs):
        if number == 1:
            started = time.process_time()
        planes = {name: reader.read(name, epoch=epoch) for name in ("image", "variance", "mask")}
        for _ in range(tiles**2):
            for _ in range(4):
                fft.irfft2(fft.rfft2(real), real.shape)
        region = {"epoch": slice(number, number + 1)}
        for name, source in zip(
            ("difference", "score", "sigma_flux", "mask"), ("image", "variance", "image", "mask"), strict=True
        ):
            writer.write(name, region, planes[source][None])
    return {"mpix_s": (len(keys) - 1) * SIZE**2 / 1e6 / (time.process_time() - started)}


def _memory(folder: str, output: str, core: int) -> dict[str, float]:
    """Sampled every five milliseconds during the second pair, above what stays after the first."""
    import psutil

    from astrid_dist.stages import difference

    plan = _planned(folder, output)
    difference.prepare(plan)
    keys = list(plan.keys)
    difference.task(plan.job.settings, keys[0])
    process = psutil.Process()
    before = peak = process.memory_info().rss
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    difference.task(plan.job.settings, keys[1])
    stop.set()
    watcher.join()
    return {"mib": (peak - before) / 2**20}


if __name__ == "__main__":
    _main(*sys.argv[1:])
