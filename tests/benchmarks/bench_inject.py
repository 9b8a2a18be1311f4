"""Samples per second to storage, the fast and the full way, beside what noise, FFTs and bytes alone take."""

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import fft

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.keys import ShardKey
from astrid_dist.simulation.philox import noise, stream
from astrid_dist.stages import inject
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.synthetic.host import WINDOW
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.writing import ProductWriter
from tests.small_survey import small_survey

Result = dict[str, Any]
#: Samples that are timed; one shard.
NUMBER = {"fast": 4096, "full": 1024}
#: Of the job that stands for a million.
MILLION = int(os.environ.get("ASTRID_MILLION", "60000"))


def _made(way: str) -> tuple[float, float]:
    """CPU seconds per sample of one shard to storage, and of the bare work in it."""
    survey, folder = small_survey(1024, 4, ("r",)), Path(tempfile.mkdtemp(prefix="bench-inject-"))
    number = NUMBER[way]
    plan = inject.plan(
        inject.Settings(
            survey=survey.survey, reference=survey.reference, output=str(folder / "samples.zarr"), way=way,
            samples=2 * number, splits={"train": 1}, shard_samples=number, known=survey.truth,
        )
    )  # fmt: skip
    inject.prepare(plan)
    settings = plan.job.settings
    inject.task(settings, ShardKey("generic/train", 0))  # compiles, and fills caches
    started = time.process_time()
    inject.task(settings, ShardKey("generic/train", 1))
    ours = (time.process_time() - started) / number
    reader = ProductReader(Location.parse(str(folder / "samples.zarr")), "generic/train")
    pixels = reader.read("pixels", sample=slice(0, number))
    bare = _bare(pixels, folder)
    shutil.rmtree(folder)
    return ours, bare


def _bare(pixels: np.ndarray, folder: Path) -> float:
    """CPU seconds per sample of noise in 25 × 25 pixels, five transforms of a window, packing, writing."""
    number = len(pixels)
    writer = ProductWriter(Location.parse(str(folder / "samples.zarr")), "generic/train")
    started = time.process_time()
    noise(stream(1, "bare"), np.arange(number), (25, 25))
    side = fft.next_fast_len(WINDOW + 28, real=True)
    block = np.zeros((8, side, side), np.float32)
    for _ in range(number // 8):
        spectrum = fft.rfft2(block)
        fft.rfft2(block)
        for _ in range(3):
            fft.irfft2(spectrum, (side, side))
    writer.write("pixels", {"sample": slice(0, number)}, pixels)
    return (time.process_time() - started) / number


def samples_fast() -> Result:
    """The fast way: through the pair's filters."""
    ours, bare = _made("fast")
    return _result("samples_fast", ours, bare)


def samples_full() -> Result:
    """The full way: put in, then subtracted."""
    ours, bare = _made("full")
    return _result("samples_full", ours, bare)


def _result(name: str, ours: float, bare: float) -> Result:
    return {
        "name": name,
        "value": 1 / ours,
        "unit": "samples/s/core",
        "against": f"bare noise, FFTs, packing and writing: {1 / bare:.0f}",
        "ratio": bare / ours,
    }


class _Watch:
    """The most memory that each worker process of this one holds, and the CPU seconds that they take."""

    def __init__(self) -> None:
        self.peak: dict[int, int] = {}
        self.cpu: dict[int, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                try:
                    if "spawn_main" not in " ".join(child.cmdline()):
                        continue
                    times, held = child.cpu_times(), child.memory_info().rss
                except psutil.Error:
                    continue
                self.peak[child.pid] = max(self.peak.get(child.pid, 0), held)
                self.cpu[child.pid] = times.user + times.system


def _job(way: str, number: int) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds and bytes per sample of a job of two workers, and the peak of one in bytes.

    The workers have each made one shard before: a million samples are no time to compile in.
    """
    survey, folder = small_survey(1024, 4, ("r",)), Path(tempfile.mkdtemp(prefix="bench-million-"))
    cluster = folder / "two.yaml"
    cluster.write_text("kind: local\nworkers: 2\n")
    given = {"survey": survey.survey, "reference": survey.reference, "known": survey.truth, "way": way}
    with open_engine(str(cluster)) as engine, _Watch() as watch:
        run_stage(
            "inject",
            {**given, "samples": 2048, "shard_samples": 256, "output": str(folder / "warm.zarr")},
            engine,
        )
        time.sleep(1)
        output, cpu = folder / "samples.zarr", sum(watch.cpu.values())
        started = time.perf_counter()
        run_stage("inject", {**given, "samples": number, "output": str(output)}, engine)
        seconds = time.perf_counter() - started
        time.sleep(1)
        cpu = sum(watch.cpu.values()) - cpu
    held = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return seconds / number, cpu / number, held / number, max(watch.peak.values())


def million_minutes() -> list[Result]:
    """A million samples on two workers, from a job of `ASTRID_MILLION` (60,000) of them."""
    fast, cpu, held, peak = _job("fast", MILLION)
    full, full_cpu, _, _ = _job("full", max(MILLION // 20, 4096))
    scale = 1e6 / 60
    said = f"scaled up from {MILLION:,} samples; CPU alone, two cores: {cpu / 2 * scale:.1f}"
    other = f"the full way {full * scale:.0f} min (CPU alone {full_cpu / 2 * scale:.0f})"
    rows = [
        ("million_minutes", fast * scale, "minutes", f"{other}; {said}", full / fast),
        ("million_peak_mb", peak / 2**20, "MiB/worker", "at most 1.5 GB", peak / 1.5e9),
        ("million_bytes", held, "bytes/sample", "at most 16,000", held / 16e3),
    ]
    return [
        {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}
        for name, value, unit, against, ratio in rows
    ]


BENCHMARKS = {
    "samples_fast": samples_fast,
    "samples_full": samples_full,
    "million_minutes": million_minutes,
}
