"""What samples take on disk, and how fast they are packed, written and read back, beside bare packing."""

import gc
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.blosc import Blosc
from scipy.ndimage import gaussian_filter

from astrid_dist.store.layouts import complete_sizes, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.quantise import quantise
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import PLANES, STAMP
from astrid_dist.store.templates import create_group, create_product, set_state
from astrid_dist.store.writing import ProductWriter

Result = dict[str, Any]

SAMPLES, ROUNDS, CHUNK = 20_000, 5, 32
GROUP = "ztf/train"
CODECS = {
    "LZ4-1 by bit": ("lz4", 1, Blosc.BITSHUFFLE, 0),
    "Zstd-1 by byte": ("zstd", 1, Blosc.SHUFFLE, 1 << 19),
    "Zstd-1 by byte, Blosc's blocks": ("zstd", 1, Blosc.SHUFFLE, 0),
    "Zstd-1 by bit": ("zstd", 1, Blosc.BITSHUFFLE, 1 << 19),
    "Zstd-2 by bit": ("zstd", 2, Blosc.BITSHUFFLE, 1 << 19),
    "Zstd-3 by byte": ("zstd", 3, Blosc.SHUFFLE, 1 << 19),
}


def samples_packing() -> list[Result]:
    """Bytes per sample and thousands per second and core of the codecs that came into question."""
    pixels = _stamps(1024)
    chunks = [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]
    room = np.empty_like(chunks[0])
    found = []
    for name, (compressor, level, shuffle, block) in CODECS.items():
        codec = Blosc(compressor, level, shuffle, block)
        packed = [codec.encode(chunk) for chunk in chunks]
        packing = _median(lambda codec=codec: [codec.encode(chunk) for chunk in chunks])
        reading = _median(lambda codec=codec, packed=packed: [codec.decode(one, room) for one in packed])
        size = sum(map(len, packed)) / len(pixels) / 1000
        rates = f"packed {len(pixels) / packing / 1000:.0f}, read {len(pixels) / reading / 1000:.0f}"
        entropy = _entropy(pixels) * pixels[0].size / 8 / 1000
        found.append(
            {
                "name": f"samples_{name.split()[0].lower()}_{name.split()[2].rstrip(',')}"
                + ("_auto" if "blocks" in name else ""),
                "value": size,
                "unit": "kB/sample",
                "against": f"{name}; thousands a second and core {rates}; entropy {entropy:.1f} kB",
                "ratio": size / entropy,
            }
        )
    return found


def samples_quantise() -> Result:
    """Rounding to an eighth of the noise, beside NumPy's cast alone."""
    values = np.random.default_rng(1).normal(size=(1024, len(PLANES), STAMP, STAMP)).astype("f4")
    quantise(values)
    ours = _median(lambda: quantise(values)) / values.size * 1e9
    numpy = _median(lambda: values.astype("f2")) / values.size * 1e9
    against = f"astype(float16) {numpy:.2f} ns; without rounding"
    return {
        "name": "samples_quantise",
        "value": ours,
        "unit": "ns/value",
        "against": against,
        "ratio": ours / numpy,
    }


def samples_read() -> list[Result]:
    """Whole shards through the reader in their order, beside decoding the same bytes bare, in turn.

    In seconds of one core, which other work on the machine disturbs little.
    """
    with tempfile.TemporaryDirectory() as folder:
        location = Location.parse(f"{folder}/samples.zarr")
        writing, packing, bytes_per_sample = _write(location)
        reader = ProductReader(location, GROUP)
        shard = complete_sizes({"sample": SAMPLES, "visit": 1})["sample_shard"]
        shards = [slice(start, min(start + shard, SAMPLES)) for start in range(0, SAMPLES, shard)]
        files = _pixel_files(folder)
        sizes = [one.stop - one.start for one in shards]
        ours, bare = [], []
        with zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1}):
            for number in range(-1, ROUNDS):  # the first round only warms up
                through = bare_seconds = 0.0
                for part, path, size in zip(shards, files, sizes, strict=True):
                    through += _timed(lambda part=part: reader.read("pixels", sample=part))
                    bare_seconds += _timed(lambda path=path, size=size: _bare(path, size))
                if number < 0:
                    last = reader.read("pixels", sample=shards[-1])
                    np.testing.assert_array_equal(last, _bare(files[-1], sizes[-1]))
                else:
                    ours.append(through)
                    bare.append(bare_seconds)
    value, peer = SAMPLES / statistics.median(ours), SAMPLES / statistics.median(bare)
    return [
        {
            "name": "samples_read",
            "value": value,
            "unit": "samples/s/core",
            "against": f"bare Blosc.decode of the same chunks: {peer:.0f}/s",
            "ratio": value / peer,
        },
        {
            "name": "samples_write",
            "value": SAMPLES / writing,
            "unit": "samples/s/core",
            "against": f"bare Blosc.encode: {SAMPLES / packing:.0f}/s; ours with digests, all variables",
            "ratio": packing / writing,
        },
        {
            "name": "samples_bytes",
            "value": bytes_per_sample / 1000,
            "unit": "kB/sample",
            "against": "limit: 16 kB, all variables",
            "ratio": bytes_per_sample / 16_000,
        },
    ]


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {
    "samples_packing": samples_packing,
    "samples_quantise": samples_quantise,
    "samples_read": samples_read,
}


def _bare(path: Path, count: int) -> np.ndarray:
    """One shard decoded by hand: its index at the end, every chunk into its place."""
    body = path.read_bytes()
    chunks = 4096 // CHUNK
    places = struct.unpack(f"<{2 * chunks}Q", body[-4 - 16 * chunks : -4])
    found = np.empty((chunks * CHUNK, 1, len(PLANES), STAMP, STAMP), "f2")
    codec = Blosc()
    for number in range(-(-count // CHUNK)):
        start, size = places[2 * number : 2 * number + 2]
        codec.decode(memoryview(body)[start : start + size - 4], found[number * CHUNK : (number + 1) * CHUNK])
    return found[:count]


def _write(location: Location) -> tuple[float, float, float]:
    """Write the samples; seconds it took, seconds of packing the stamps alone, bytes of a sample."""
    attributes = {"survey": "ztf", "split": "train", "bands": ["g"], "planes": list(PLANES)}
    given = {"sample": SAMPLES, "visit": 1, "plane": len(PLANES), "v": STAMP, "u": STAMP, "host": 1}
    sizes = complete_sizes(given)
    create_product(location, "samples")
    create_group(location, "samples", GROUP, sizes, attributes)
    writer = ProductWriter(location, GROUP)
    rng = np.random.default_rng(2)
    stamps, codec = _stamps(1024), Blosc(*CODECS["Zstd-1 by byte"])
    writing = packing = 0.0
    for start in range(0, SAMPLES, sizes["sample_shard"]):
        stop = min(start + sizes["sample_shard"], SAMPLES)
        pixels = stamps[rng.integers(0, len(stamps), stop - start)]
        parts: dict[str, Any] = {"pixels": ({"sample": slice(start, stop)}, pixels)}
        for one in (one for one in variables("samples").values() if one.is_sample and one.name != "pixels"):
            shape = (stop - start, *one.shape(sizes)[1:])
            values = rng.normal(size=shape) if one.dtype[0] == "f" else rng.integers(0, 2, shape)
            if one.name == "target":
                values[..., :28, :], values[..., 35:, :] = 0, 0
                values[..., :28], values[..., 35:] = 0, 0
            kept = values.astype(bool) if one.dtype == "bool" else values.astype(one.dtype)
            parts[one.name] = ({"sample": slice(start, stop)}, kept)
        writing += _timed(lambda parts=parts: writer.write_all(parts))
        cut = [pixels[place : place + CHUNK] for place in range(0, len(pixels), CHUNK)]
        packing += _timed(lambda cut=cut: [codec.encode(np.ascontiguousarray(part)) for part in cut])
    set_state(location, "complete")
    size = sum(path.stat().st_size for path in Path(location.path).rglob("*") if path.is_file())
    return writing, packing, size / SAMPLES


def _stamps(count: int) -> np.ndarray:
    """Noise of unit width, of the score correlated as a PSF is, and a few stars in science and template."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(count, 1, len(PLANES), STAMP, STAMP)).astype("f4")
    score = gaussian_filter(pixels[:, 0, 3], (0, 1.5, 1.5))
    pixels[:, 0, 3] = score / score.std()
    rows, columns = np.indices((STAMP, STAMP))
    for stamp in pixels[:, 0]:
        for _ in range(rng.poisson(3)):
            y, x, peak = *rng.uniform(0, STAMP, 2), 10 ** rng.uniform(-0.2, 2.8)
            stamp[:2] += peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 4.5)
    return quantise(pixels)


def _entropy(values: np.ndarray) -> float:
    """Bits per value, plane by plane, each value for itself."""
    bits = []
    for plane in range(len(PLANES)):
        counts = np.unique(values[:, 0, plane], return_counts=True)[1] / values[:, 0, plane].size
        bits.append(-(counts * np.log2(counts)).sum())
    return float(np.mean(bits))


def _pixel_files(folder: str) -> list[Path]:
    """Objects of the stamps, in the order of their shards."""
    files = Path(folder, "samples.zarr", GROUP, "pixels", "c").rglob("*")
    return sorted((path for path in files if path.is_file()), key=lambda path: int(path.parts[-5]))


def _median(call: Callable[[], Any]) -> float:
    return statistics.median(_timed(call) for _ in range(ROUNDS))


def _timed(call: Callable[[], Any]) -> float:
    gc.collect()
    started = time.process_time()
    call()
    return time.process_time() - started
