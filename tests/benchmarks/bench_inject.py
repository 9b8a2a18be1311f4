"""Samples per second to storage, the fast and the full way, beside what noise, FFTs and bytes alone take."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from astrid_dist.engine.keys import ShardKey
from astrid_dist.simulation.philox import noise, stream
from astrid_dist.stages import inject
from astrid_dist.stages.synthetic.host import WINDOW
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.writing import ProductWriter
from tests.small_survey import small_survey

Result = dict[str, Any]
#: Samples that are timed; one shard.
NUMBER = {"fast": 4096, "full": 1024}


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
    """CPU seconds per sample of shot noise in 25 × 25 pixels, five transforms of a window, packing, writing."""
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


BENCHMARKS = {"samples_fast": samples_fast, "samples_full": samples_full}
