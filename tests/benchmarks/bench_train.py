"""Training beside bare torch: the loop with its loader, and two workers of Ray.

Both sides have the same model, loss, optimizer and clipping, one thread of torch per process, and take turns.
The bare ones have their batches in memory, ready. Steps are timed, not how runs and epochs begin and end.
"""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from astrid_dist.learning import distributed
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.distributed import Work, fit
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.losses import LossConfig, loss
from astrid_dist.learning.model_file import model_bytes, read_model
from astrid_dist.learning.quiet import quiet_peaks
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.tracking import start_run
from astrid_dist.learning.training import Trainer, new_model
from astrid_dist.learning.unet import Prediction
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.store.locations import Location
from astrid_dist.store.quantise import quantise
from tests.learning.products import product

Result = dict[str, Any]
STAMP, PLANES, SAMPLES, SHARD = 63, 4, 4096, 1024
BATCH, STEPS, ROUNDS = 128, 4, 7
#: Of a run of two workers: steps that only warm up, and how often each side runs.
WARM, RUNS = 4, 2
TIMES = "ASTRID_BENCH_TIMES"


def train(size: str = "medium", batch: int = BATCH) -> Result:
    """Steps of the loop, fed from a product with flips, beside the same steps on batches in memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = _work(Path(folder), size, batch, epochs=1000)
        loader, validation = work.loaders()
        trainer = Trainer(read_model(work.model, ""), loader, validation, work.config, work.losses)
        ours, theirs = _steps(trainer), _bare_steps(work, read_model(work.model, ""), _held(work))
        rates = []
        for number in range(-1, ROUNDS):  # the first round only warms up
            pair = _rate(ours, batch), _rate(theirs, batch)
            if number >= 0:
                rates.append(pair)
        ours.close()
    return _result("train", rates, f"bare torch on batches in memory, {size} model, batch {batch}")


def train_scaling(size: str = "medium", batch: int = BATCH) -> Result:
    """Two workers of Ray, reading the product, beside two processes of DDP with batches in memory."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        work = _work(where, size, batch, epochs=2)
        rates = [(_ray(work, where, f"run-{number}"), _ddp(work, where)) for number in range(RUNS)]
    return _result("train_scaling", rates, f"two bare DDP processes (gloo), {size} model, batch {batch} each")


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {"train": train, "train_scaling": train_scaling}


def _result(name: str, rates: list[tuple[float, float]], against: str) -> Result:
    return {
        "name": name,
        "value": statistics.median(one for one, _ in rates),
        "unit": "samples/s",
        "against": f"{against}: {statistics.median(one for _, one in rates):.4g}/s",
        "ratio": statistics.median(one / other for one, other in rates),
    }


def _work(folder: Path, size: str, batch: int, epochs: int) -> Work:
    rng = np.random.default_rng(1)
    stamps = quantise(rng.normal(size=(512, PLANES, STAMP, STAMP)).astype("f4"))
    shape: dict[str, Any] = {"side": STAMP, "shard": SHARD, "stamps": stamps}
    source = product(folder / "train", samples=SAMPLES, **shape)
    known = Catalogue.open(source)
    return Work(
        train=(source,),
        validation=(product(folder / "val", samples=2 * batch, split="val", **shape),),
        model=model_bytes(new_model({"size": size, "surveys": known.surveys, "bands": known.bands}, 1)),
        config=TrainConfig(epochs=epochs, batch=batch, patience=1000),
        losses=LossConfig(),
        sampling=Sampling(),
        augment=Compose.read([{"flip": {}}]),
        output=Location.parse(folder / "out"),
        tracking=f"sqlite:///{folder}/mlflow.db",
        run="",
    )


def _held(work: Work, rank: int = 0, ranks: int = 1) -> list[Examples]:
    return [one for one, _ in zip(work.loaders(rank, ranks)[0], range(STEPS), strict=False)]


def _steps(trainer: Trainer) -> Iterator[None]:
    """A step of the loop at each turn."""
    while True:
        epoch, batches = trainer.loader.epoch, len(trainer.loader)
        trainer.model.train()
        for examples in trainer.loader:
            trainer._learn(examples, epoch, trainer.loader.position, batches)
            yield


def _bare_steps(work: Work, model: nn.Module, batches: list[Examples]) -> Iterator[None]:
    """The loop as one would write it in an afternoon."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.config.rate)
    while True:
        for one in batches:
            n, middle = len(one), one.places(STAMP // 2, STAMP // 2)
            quiet, there = quiet_peaks(one.pixels, one.target, one.seen, middle)
            at = torch.cat([middle, quiet])
            told = model(one.pixels, one.seen, one.days, one.band, one.survey, at)
            own = Prediction(told.segmentation, *(values[:n] for values in told[1:]))
            total, _ = loss(own, one, work.losses, (told.real[n:], there))
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), work.config.clip)
            optimizer.step()
            optimizer.zero_grad()
            yield


def _rate(steps: Iterator[None], batch: int) -> float:
    gc.collect()
    started = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    return STEPS * batch / (time.perf_counter() - started)


def _ray(work: Work, folder: Path, name: str) -> float:
    """Samples per second of a training as the stage runs it, all but its ends of epochs."""
    run = start_run(work.tracking, "bench", name, Location.parse(folder / "artifacts"))
    os.environ[TIMES] = str(folder / f"{name}.times")
    worker, distributed.train_worker = distributed.train_worker, timed_worker
    try:
        fit(replace(work, run=run), name, 2)
    finally:
        distributed.train_worker = worker
    epochs = np.loadtxt(os.environ[TIMES]).reshape(work.config.epochs, -1)
    return float(2 * work.config.batch / np.median(np.diff(epochs[:, WARM:], axis=1)))


def timed_worker(given: dict[str, Any]) -> None:
    """`train_worker`, noting when each step is done."""
    learn, times = Trainer._learn, []

    def noted(*given: Any) -> bool:
        done = learn(*given)
        times.append(time.perf_counter())
        return done

    Trainer._learn = noted  # type: ignore[method-assign]
    distributed.train_worker(given)
    if dist.get_rank() == 0:
        np.savetxt(os.environ[TIMES], times, fmt="%.6f")


def _ddp(work: Work, folder: Path) -> float:
    steps = 2 * (SAMPLES // work.config.batch // 2)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(ddp_process, (work, str(meeting), steps), nprocs=2)
    times = np.loadtxt(folder / "bare.times")
    return float(2 * work.config.batch / np.median(np.diff(times[WARM:])))


def ddp_process(rank: int, work: Work, meeting: str, steps: int) -> None:
    """One of the two bare ones."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    model = DistributedDataParallel(read_model(work.model, ""))
    times = []
    for _, _ in zip(range(steps), _bare_steps(work, model, _held(work, rank, 2)), strict=False):
        times.append(time.perf_counter())
    if rank == 0:
        np.savetxt(Path(meeting).with_name("bare.times"), times, fmt="%.6f")
    dist.destroy_process_group()
