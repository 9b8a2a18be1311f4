"""Products of samples whose pixels say which sample they are, so that a batch can be told apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astrid_dist.store.layouts import complete_sizes, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.sample_layout import PLANES, SAMPLE_GROUP
from astrid_dist.store.templates import create_group, create_product, set_state
from astrid_dist.store.writing import ProductWriter
from astrid_dist.taxonomy import CLASSES, KINDS, ORIGINS

SIDE = 9
KIND_CLASSES = np.array([CLASSES.index(name) for name in KINDS.values()])


def product(
    folder: Path,
    survey: str = "ztf",
    samples: int = 1500,
    *,
    split: str = "train",
    visits: int = 1,
    bands: Sequence[str] = ("g", "r"),
    planes: Sequence[str] = PLANES,
    side: int = SIDE,
    first: int = 0,
    columns: Mapping[str, Any] | None = None,
    state: str = "complete",
    shard: int = SAMPLE_GROUP,
    stamps: Any = None,
) -> str:
    """Write one group in shards of 256 samples and return its ``<url>#<group>``.

    The difference plane of sample i is (first + i) / 8, science (first + i) / 8 + visit, and NaN in a corner;
    its target has bit 1 in the middle; `stamps` (n, plane, y, x), over and over, are others. All are usable
    and synthetic unless `columns` says otherwise.
    """
    location = Location.parse(folder / f"{survey}.zarr")
    cuts = {"sample_shard": shard, "sample_chunk": 32}
    given = {"sample": samples, "visit": visits, "plane": len(planes), "v": side, "u": side, "host": 1}
    sizes, group = complete_sizes({**given, **cuts}), f"{survey}/{split}"
    create_product(location, "samples", job="test", digest=f"{survey}{first}")
    attributes = {"survey": survey, "split": split, "bands": list(bands), "planes": list(planes)}
    create_group(location, "samples", group, sizes, attributes)
    values = _columns(samples, visits, len(bands)) | dict(columns or {})
    number = first + np.arange(samples)
    pixels = np.zeros((samples, visits, len(planes), side, side), "f2")
    pixels[:, :, list(planes).index("difference")] = (number / 8)[:, None, None, None]
    if "science" in planes:
        science = (number / 8)[:, None] + np.arange(visits)
        pixels[:, :, list(planes).index("science")] = science[:, :, None, None]
    pixels[..., 0, 0] = np.nan
    if stamps is not None:
        pixels = np.resize(stamps, pixels.shape)
    target = np.zeros((samples, visits, side, side), "u2")
    target[..., side // 2, side // 2] = 2
    writer = ProductWriter(location, group)
    for start in range(0, samples, shard):
        part = slice(start, min(start + shard, samples))
        stored = {"pixels": ({"sample": part}, pixels[part]), "target": ({"sample": part}, target[part])}
        for one in variables("samples").values():
            if one.is_sample and one.name in values:
                stored[one.name] = ({"sample": part}, np.asarray(values[one.name])[part].astype(one.dtype))
        writer.write_all(stored)
    set_state(location, state)
    return f"{location}#{group}"


def numbers(pixels: Any) -> Any:
    """Which samples a batch has, by their difference planes."""
    return np.rint(np.asarray(pixels)[:, 0, 2, -1, -1] * 8).astype(int)


def _columns(samples: int, visits: int, bands: int) -> dict[str, Any]:
    rng = np.random.default_rng(samples)
    kind = np.arange(samples) % len(KINDS)
    shape = (samples, visits)
    return {
        "kind": kind,
        "class": KIND_CLASSES[kind],
        "origin": np.full(samples, ORIGINS.index("synthetic")),
        "label": kind % 2,
        "weight": np.ones(samples),
        "injectable": np.ones(samples, bool),
        "item": np.arange(samples),
        "offset_x": rng.uniform(-0.5, 0.5, shape),
        "offset_y": rng.uniform(-0.5, 0.5, shape),
        "flux": rng.normal(size=shape) * 100,
        "snr": np.exp(rng.uniform(np.log(3), np.log(300), shape)) * rng.choice([-1, 1], shape),
        "peak": rng.normal(size=shape) * 10,
        "band": rng.integers(0, bands, shape),
        "mjd": 60000 + np.cumsum(rng.uniform(0.5, 3, shape), axis=1),
        "sigma_n": np.full(shape, 2.0),
        "sigma_r": np.full(shape, 1.0),
        "sigma_d": np.full(shape, 4.0),
        "fwhm_n": np.full(shape, 2.5),
        "fwhm_r": np.full(shape, 2.0),
        "flux_ratio": np.ones(shape),
    }
