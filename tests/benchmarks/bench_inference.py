"""A model on an image of 2048² pixels, tile by tile, beside bare passes over the tiles without their halo.

Needs numpy and torch alone: ``python -m tests.benchmarks.bench_inference cuda`` runs it where nothing else is
installed.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from astrid_dist.learning.inference import REAL_BOGUS, TILE, halo_of, predict_image
from astrid_dist.learning.unet import UNet, UNetConfig

Result = dict[str, Any]
SIDE, CANDIDATES, ROUNDS = 2048, 200, 3


def inference(
    device: str = "cpu", size: str = "small", precision: str = "float32", rounds: int = ROUNDS
) -> Result:
    """Megapixels a second of maps of real and bogus and of 200 candidates, and the ratio to bare passes."""
    torch.manual_seed(0)
    model = UNet(UNetConfig.named(size)).eval().to(device)
    pixels = torch.randn((1, 4, SIDE, SIDE))
    at = np.random.default_rng(0).uniform(0, SIDE - 1, (CANDIDATES, 2))
    rows, columns = TILE
    tiles = [
        pixels[None, :, :, y : y + rows, x : x + columns]
        for y in range(0, SIDE, rows)
        for x in range(0, SIDE, columns)
    ]

    def tiled() -> None:
        predict_image(model, pixels, at, maps=REAL_BOGUS, device=device, precision=precision)

    def bare() -> None:
        half = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), half:
            for tile in tiles:
                model(tile.to(device))

    runs: dict[str, Callable[[], None]] = {"tiled": tiled, "bare": bare}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, rounds):  # the first round only warms up
        for name, run in runs.items():
            rate = _rate(run, device)
            if number >= 0:
                rates[name].append(rate)
    rate = {name: statistics.median(found) for name, found in rates.items()}
    halo = halo_of(model.config)
    return {
        "name": "inference" if device == "cpu" else f"inference_{size}_{precision}",
        "value": rate["tiled"],
        "unit": "Mpix/s" if device != "cpu" else "Mpix/s/core",
        "against": f"bare passes over tiles of {rows} × {columns} without the halo of {halo}:"
        f" {rate['bare']:.3g} ({size}, {precision}, {device})",
        "ratio": rate["tiled"] / rate["bare"],
    }


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {"inference": inference}


def _rate(run: Callable[[], None], device: str) -> float:
    """Megapixels a second; on a CPU of core, which other work disturbs little, else of wall clock."""
    if device == "cpu":
        started = time.process_time()
        run()
        return SIDE**2 / 1e6 / (time.process_time() - started)
    torch.cuda.synchronize()
    wall = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return SIDE**2 / 1e6 / (time.perf_counter() - wall)


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    for one in ("small", "medium", "large") if where != "cpu" else ("small",):
        for kind in ("float32", "bf16"):
            print(inference(where, one, kind, rounds=5 if where != "cpu" else 1), flush=True)
