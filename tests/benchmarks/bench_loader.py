"""Reading samples for training: batches as tensors, beside bare decoding of the same shards in the same run.

In seconds of one core, which other work on the machine disturbs little; both use as many threads.
"""

import gc
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc

from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.store.quantise import quantise
from tests.learning.products import product

Result = dict[str, Any]
SHARD, SHARDS, CHUNK, STAMP, PLANES = 4096, 4, 32, 63, 4
BATCH, THREADS, ROUNDS = 256, 2, 3
SHAPES = ((SHARD, 1, PLANES, STAMP, STAMP), (SHARD, 1, STAMP, STAMP))
FLIPS = [{"flip": {}}, {"jitter": {"px": 0.5}}]


def loader() -> list[Result]:
    """An epoch of shuffled batches, without augmentation and with flips and shifts by parts of a pixel."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        stamps = quantise(rng.normal(size=(1024, PLANES, STAMP, STAMP)).astype("f4"))
        source = product(Path(folder), samples=SHARD * SHARDS, side=STAMP, shard=SHARD, stamps=stamps)
        catalogue = Catalogue.open(source)
        group = Path(folder, "ztf.zarr", "ztf", "train")
        memory = [[np.ones(shape, "u2") for shape in SHAPES] for _ in range(THREADS)]
        plain = Loader(catalogue, BATCH, threads=THREADS)
        augmented = Loader(catalogue, BATCH, augment=Compose.read(FLIPS), threads=THREADS)
        runs: dict[str, Callable[[], object]] = {
            "bare": lambda: _bare(group, None),
            "bare, memory used again": lambda: _bare(group, memory),
            "loader": lambda: _epoch(plain),
            "loader_augmented": lambda: _epoch(augmented),
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for number in range(-1, ROUNDS):  # the first round only warms up
            for name, run in runs.items():
                rate = _rates(run, SHARD * SHARDS)
                if number >= 0:
                    rates[name].append(rate)
    core = {name: statistics.median(one for one, _ in found) for name, found in rates.items()}
    wall = {name: statistics.median(one for _, one in found) for name, found in rates.items()}
    return [
        {
            "name": name,
            "value": core[name],
            "unit": "samples/s/core",
            "against": f"bare Blosc.decode of the same shards: {core['bare']:.0f}/s, into memory used again"
            f" {core['bare, memory used again']:.0f}/s; in {THREADS} threads {wall[name]:.0f}/s,"
            f" bare {wall['bare']:.0f}/s",
            "ratio": core[name] / core["bare"],
        }
        for name in ("loader", "loader_augmented")
    ]


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {"loader": loader}


def _epoch(of: Loader) -> None:
    total = sum(len(examples) for examples in of)
    assert total == SHARD * SHARDS


def _bare(group: Path, memory: list[list[np.ndarray]] | None) -> None:
    """Stamps and targets of all shards decoded by hand, into new arrays or memory of each thread's own."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda one: _bare_shards(group, one, memory and memory[one]), range(THREADS)))


def _bare_shards(group: Path, thread: int, memory: list[np.ndarray] | None) -> None:
    codec, chunks = Blosc(), SHARD // CHUNK
    for number in range(thread, SHARDS, THREADS):
        arrays = memory or [np.empty(shape, "u2") for shape in SHAPES]
        for name, found in zip(("pixels", "target"), arrays, strict=True):
            body = group.joinpath(name, "c", str(number), *["0"] * (found.ndim - 1)).read_bytes()
            places = struct.unpack(f"<{2 * chunks}Q", body[-4 - 16 * chunks : -4])
            for chunk in range(chunks):
                start, size = places[2 * chunk : 2 * chunk + 2]
                packed = memoryview(body)[start : start + size - 4]
                codec.decode(packed, found[chunk * CHUNK : (chunk + 1) * CHUNK])


def _rates(run: Callable[[], object], samples: int) -> tuple[float, float]:
    """Samples per second of core and of wall clock."""
    gc.collect()
    wall, core = time.perf_counter(), time.process_time()
    run()
    return samples / (time.process_time() - core), samples / (time.perf_counter() - wall)
