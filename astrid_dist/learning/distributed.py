"""Training on Ray: one or more workers, checkpoints on a disk or in a bucket, and on after a failure.

A run is its name and its storage: run again with both, it goes on from its last checkpoint.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid_dist.engine.ray import start_ray
from astrid_dist.errors import AstridError, ClusterError, ConfigError, TaskError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.losses import LossConfig
from astrid_dist.learning.model_file import read_model
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.screen import screen, tell
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.tracking import Tracker
from astrid_dist.learning.training import Trainer
from astrid_dist.learning.usage import Usage
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.store.locations import Location

#: A checkpoint's only file.
STATE = "state.pt"


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know; it travels to each."""

    train: tuple[str, ...]
    """``<url>#<survey>/<split>``, each."""
    validation: tuple[str, ...]
    model: bytes
    """What it begins with, as `astrid_dist.learning.model_file.model_bytes` writes it."""
    config: TrainConfig
    losses: LossConfig
    sampling: Sampling
    augment: Compose | None
    output: Location
    tracking: str
    run: str
    """Id of the run in MLflow."""
    threads: int = 1
    """Cores of a worker."""

    def loaders(self, rank: int = 0, ranks: int = 1, pinned: bool = False) -> tuple[Loader, Loader]:
        """Of training and of validation."""
        known = read_model(self.model, "the model to begin with").config
        shared: dict[str, Any] = {"seed": self.config.seed, "rank": rank, "ranks": ranks, "pinned": pinned}
        train, validation = (
            Catalogue.open(names, known.surveys, known.bands) for names in (self.train, self.validation)
        )
        return (
            Loader(train, self.config.batch, self.sampling, self.augment, **shared),
            Loader(validation, self.config.batch, train=False, **shared),
        )


def fit(
    work: Work,
    name: str,
    workers: int | tuple[int, int],
    *,
    gpu: bool = False,
    failures: int = 3,
    say: Callable[[str], None] = print,
) -> bytes:
    """Train to the end and return the last state, as `Trainer.state_bytes` writes it.

    Parameters
    ----------
    work : Work
    name : str
        Of the run: it goes on where a run of this name with the same output was stopped.
    workers : int or (int, int)
        How many, or at least and at most: then as many as the cluster has room for.
    gpu : bool
        One for each worker, which then talk by NCCL; else cores, and gloo.
    failures : int
        How often workers may be lost.
    say : callable
        Is handed a line for each epoch.

    Raises
    ------
    ClusterError
        Ray has too few cores or GPUs.
    TaskError
        Workers were lost too often.
    AstridError
        What a worker raised.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    path, filesystem = storage(work.output / "ray")
    # as many cores as asked for: the workers of this machine are processes, not places
    started = start_ray(cores=max(most * work.threads, os.cpu_count() or 1), log_to_driver=False)
    try:
        check_room(least, work.threads, gpu)
        with screen(say) as lines:
            trainer = TorchTrainer(
                train_worker,
                train_loop_config={"work": work, "lines": lines},
                scaling_config=ScalingConfig(
                    num_workers=workers,  # type: ignore[arg-type]
                    use_gpu=gpu,
                    resources_per_worker={"CPU": work.threads, **({"GPU": 1} if gpu else {})},
                ),
                run_config=RunConfig(
                    name=name,
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=FailureConfig(max_failures=failures),
                    checkpoint_config=CheckpointConfig(num_to_keep=2),
                ),
            )
            try:
                result = trainer.fit()
            except TrainingFailedError as error:
                raise _cause(error) from error
        if result.checkpoint is None:
            raise TaskError(f"{work.output}: Ray kept no checkpoint; see its logs in /tmp/ray")
        with result.checkpoint.as_directory() as folder:
            return (Path(folder) / STATE).read_bytes()
    finally:
        if started:
            ray.shutdown()


def train_worker(given: dict[str, Any]) -> None:
    """What each worker runs: the loop, keeping its state and telling MLflow of epochs by rank 0."""
    import ray.train.torch
    import torch
    from ray import train

    work: Work = given["work"]
    lines = given["lines"]
    context = train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.set_num_threads(work.threads)
    losses = work.losses
    unused = not all((losses.real, losses.classes, losses.position, losses.flux, losses.segmentation))
    options = {"find_unused_parameters": True} if unused else {}
    trainer = Trainer(
        read_model(work.model, "the model to begin with"),
        *work.loaders(rank, ranks, device.type == "cuda"),
        work.config,
        losses,
        device,
        lambda model: ray.train.torch.prepare_model(model, parallel_strategy_kwargs=options),
    )
    if (kept := train.get_checkpoint()) is not None:
        with kept.as_directory() as folder:
            trainer.load_state((Path(folder) / STATE).read_bytes(), kept.path)
        if rank == 0:
            tell(lines, f"goes on after step {trainer.step}, in epoch {trainer.loader.epoch + 1}")
    tracker = Tracker(work.tracking, work.run, work.output) if rank == 0 else None
    usage = Usage(device)
    for moment in trainer.run():
        said = moment.metrics or {}
        used = usage.of_all() if moment.metrics is not None else {}
        if tracker is None:
            train.report(said)
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STATE).write_bytes(trainer.state_bytes())
            train.report(said, checkpoint=train.Checkpoint.from_directory(folder))
        if moment.metrics is not None:
            tell(lines, _line(moment.metrics))
            if not tracker.epoch({**moment.metrics, **used}):
                tell(lines, f"MLflow at {work.tracking} does not answer: {tracker.waiting} epochs wait")


def _line(metrics: dict[str, float]) -> str:
    """An epoch in words."""
    loss = f"loss {metrics['train_loss']:.4f}, validation {metrics['val_loss']:.4f}"
    return f"epoch {metrics['epoch']:.0f}: {loss}, AUC {metrics['val_auc']:.4f}, IoU {metrics['val_iou']:.3f}"


def storage(location: Location) -> tuple[str, Any]:
    """Path and file system of pyarrow by which Ray writes; credentials stay in the environment."""
    if location.path is not None:
        return str(location.path), None
    if location.scheme == "memory":
        raise ConfigError(f"{location}: workers do not share a memory:// output; use a folder or a bucket")
    import s3fs  # type: ignore[import-untyped]
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    account = os.environ.get("R2_ACCOUNT_ID") if location.scheme == "r2" else None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint and account:
        endpoint = f"https://{account}.r2.cloudflarestorage.com"
    # R2 knows neither the checksums that botocore adds by itself, nor parts of different size
    config = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    region = "auto" if location.scheme == "r2" else os.environ.get("AWS_REGION", "us-east-1")
    found = s3fs.S3FileSystem(
        endpoint_url=endpoint,
        config_kwargs=config,
        client_kwargs={"region_name": region},
        fixed_upload_size=True,
        skip_instance_cache=True,
    )
    return f"{location.bucket}/{location.key}", PyFileSystem(FSSpecHandler(found))


def check_room(workers: int, threads: int, gpu: bool) -> None:
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, needed in (("CPU", workers * threads), ("GPU", workers if gpu else 0)):
        if there.get(name, 0) < needed:
            raise ClusterError(
                f"{workers} workers need {needed} {name}, Ray has {there.get(name, 0):g}: ask for fewer"
                " workers or threads, or start a larger cluster"
            )


def _cause(error: BaseException) -> AstridError:
    """What a worker raised, if it was an error of ours; else that it failed."""
    for failure in getattr(error, "worker_failures", {}).values():
        inner = getattr(failure, "_base_exc", failure)
        inner = getattr(inner, "cause", None) or inner
        if isinstance(inner, AstridError):
            return inner
    return TaskError(f"training failed: {str(error).strip()[-2000:]}; run the same again to go on")
