"""What more samples bring, and a few samples of the survey that a network is for among many of another.

``ASTRID_SAMPLES=URL [ASTRID_VIEWS=40000] python -m tests.benchmarks.run curves``, with a product of two
surveys that has groups train and test. Every network sees as many samples, the fewer there are the more
often. In the second half samples of `TARGET` stand in for what a telescope saw, all others for what was made.
"""

import os
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.sampling import SYNTHETIC, Sampling
from tests.benchmarks.bench_learning import AS_SHIPPED, EPOCHS, VIEWS, groups, judged, trained

Result = dict[str, Any]
#: Samples for training.
SIZES = (1_000, 4_000, 16_000, 64_000)
#: The survey that is real, how many samples there are of it, and shares of it in a batch.
TARGET, FEW, SHARES = "ztf", 1_000, (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def curves() -> list[Result]:
    """AUC by number of samples, and by share of the target survey."""
    url, views = os.environ["ASTRID_SAMPLES"], int(os.environ.get("ASTRID_VIEWS", VIEWS))
    train = Catalogue.open(groups(url, "train"))
    rows = []
    for size in SIZES:
        some = _kept(train, _some(train, train.usable, size))
        epochs = max(EPOCHS, round(views / size))
        every = Sampling(samples=min(size, views // epochs))
        rows.append(_row(f"curves: {size:,} samples", some, groups(url, "test"), every, epochs))
    target = train.columns["survey"] == train.surveys.index(TARGET) + 1
    few = _kept(train, _some(train, train.usable & target, FEW) | ~target)
    seen = np.where(target, SYNTHETIC + 1, SYNTHETIC).astype(few.columns["origin"].dtype)
    few = replace(few, columns={**few.columns, "origin": seen})
    tests = [one for one in groups(url, "test") if f"#{TARGET}/" in one]
    for share in SHARES:
        mixed = Sampling(samples=views // EPOCHS, real=share, repeats=1 + views // EPOCHS // FEW)
        rows.append(_row(f"curves: {share:.0%} of {FEW:,} {TARGET}", few, tests, mixed, EPOCHS))
    return rows


def _some(train: Catalogue, of: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """(row,) so many of them by chance, more being those and others."""
    chosen = np.random.default_rng(1).permutation(np.flatnonzero(of))[:count]
    return np.isin(np.arange(len(train)), chosen)


def _kept(train: Catalogue, kept: NDArray[np.bool_]) -> Catalogue:
    weight = np.where(kept, train.columns["weight"], 0).astype("f4")
    return replace(train, columns={**train.columns, "weight": weight})


def _row(name: str, train: Catalogue, tests: list[str], sampling: Sampling, epochs: int) -> Result:
    test = Catalogue.open(tests, train.surveys, train.bands)
    started = process_time()
    return judged(name, [trained(train, AS_SHIPPED, sampling, epochs=epochs)], test, started)


BENCHMARKS = {"curves": curves} if Path(os.environ.get("ASTRID_SAMPLES", "")).name else {}
