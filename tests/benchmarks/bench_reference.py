"""How fast epochs become a reference: megapixels of one epoch per second, one thread."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_dist.imaging import rejection
from astrid_dist.imaging.coadd import combine, halo_px, mean_filters, plan_stack, stacked_psf
from astrid_dist.imaging.proper_coadd import proper_filters
from tests.imaging.stacks import BOX, MIXED, paint

Result = dict[str, Any]
TILE, ROUNDS = 512, 3


def _measured(name: str, filters: Callable[..., Any]) -> Result:
    """A tile with its halo: planned, cleaned and combined; the halo is work, not yield."""
    side = TILE + 2 * halo_px(BOX)
    scene = paint(MIXED, (side, side), scatter_px=0.03)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        stack = plan_stack(scene.psfs, scene.noise, shape=(side, side))
        cleaned = rejection.clean(stack, scene.images, scene.variances, scene.good)
        combine(stack, filters(stack), cleaned.images, cleaned.variances)
        seconds.append(time.perf_counter() - started)
    speed = len(MIXED) * TILE**2 / 1e6 / min(seconds)
    stack = plan_stack(scene.psfs, scene.noise, shape=(BOX, BOX))
    stamp = stacked_psf(stack, filters(stack), scene.psfs).astype(float)
    alone = scene.psfs / scene.psfs.sum(axis=(1, 2))[:, None, None]
    limit = (np.square(alone).sum(axis=(1, 2)) / scene.noise**2).sum()
    depth = float(np.sqrt(np.square(stamp).sum() * stack.weights.sum() / limit))
    against = f"S/N of a faint source {depth:.3f} of what the five epochs hold"
    return {"name": name, "value": speed, "unit": "Mpix/s/epoch", "against": against, "ratio": depth}


def reference_mean() -> Result:
    """Cleaned and averaged."""
    return _measured("reference_mean", mean_filters)


def reference_proper() -> Result:
    """Cleaned and co-added properly."""
    return _measured("reference_proper", proper_filters)


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "reference_mean": reference_mean,
    "reference_proper": reference_proper,
}
