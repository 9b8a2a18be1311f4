"""The loop of one worker: epochs, steps, validation, and a state from which it goes on as if never stopped.

Nothing here knows of Ray or MLflow. ::

    trainer = Trainer(model, loader, validation, TrainConfig(), LossConfig())
    for moment in trainer.run():
        file.write_bytes(trainer.state_bytes())     # at any moment; load_state(...) goes on from there
"""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.losses import LossConfig, loss
from astrid_dist.learning.measures import Measures
from astrid_dist.learning.quiet import quiet_peaks
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.unet import Prediction, UNet
from astrid_dist.simulation.philox import stream

_FORMAT = "astrid_dist training 1"
#: What `tune: heads` trains.
HEADS = ("band", "survey", "segment", "candidates")


@dataclass(frozen=True)
class Moment:
    """Where the state may be kept."""

    epoch: int
    step: int
    """Steps of the optimizer since the beginning."""
    metrics: dict[str, float] | None
    """At the end of an epoch; None within."""


class Trainer:
    """Trains a model.

    Parameters
    ----------
    model : UNet
        Changed in place.
    loader, validation : Loader
        This worker's; the second with ``train=False``.
    config : TrainConfig
    losses : LossConfig
    device : device
        Where the model and batches go.
    wrap : callable, optional
        Makes of the model what gradients are averaged over workers with.
    """

    def __init__(
        self,
        model: UNet,
        loader: Loader,
        validation: Loader,
        config: TrainConfig,
        losses: LossConfig,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        self.model, self.loader, self.validation = model.to(device), loader, validation
        self.config, self.losses, self.device = config, losses, torch.device(device)
        for name, part in self.model.named_parameters():
            part.requires_grad_(config.tune == "all" or name.split(".")[0] in HEADS)
        self.wrapped = wrap(_compiled(self.model, self.device) if config.compile else self.model)
        trained = [part for part in self.model.parameters() if part.requires_grad]
        groups = [
            {"params": [part for part in trained if part.dim() > 1], "weight_decay": config.decay},
            {"params": [part for part in trained if part.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.rate)
        self.step = 0
        self.stale = 0
        """Epochs since the best one."""
        self.history: list[dict[str, float]] = []
        """Metrics of each finished epoch."""
        self.measures = Measures()
        """Of the last validation."""
        self._best = _copied(self.model)
        self._best_value: float | None = None
        self._sums: dict[str, float] = {}
        self._skipped = 0

    @property
    def finished(self) -> bool:
        """All epochs are done, or nothing became better for long."""
        return self.loader.epoch >= self.config.epochs or self.stale >= self.config.patience

    def run(self) -> Iterator[Moment]:
        """Train to the end; yields at the end of each epoch, and within one every `keep_every` steps.

        With several workers all yield at the same steps.
        """
        while not self.finished:
            epoch, batches = self.loader.epoch, len(self.loader)
            if self.loader.position == 0:
                self._sums, self._skipped = {}, 0
            self.model.train()
            for examples in self.loader:
                done = self.loader.position
                stepped = self._learn(examples, epoch, done, batches)
                due = stepped and self.config.keep_every and self.step % self.config.keep_every == 0
                if due and done < batches:
                    yield Moment(epoch, self.step, None)
            metrics = self._end_of_epoch(epoch, batches)
            yield Moment(epoch, self.step, metrics)

    def best_model(self) -> UNet:
        """The model of the best epoch, on the CPU, in evaluation."""
        model = UNet(self.model.config)
        model.load_state_dict(self._best)
        return model.eval()

    def state_bytes(self) -> bytes:
        """Everything to go on from, the same on all workers; holds no code."""
        file = io.BytesIO()
        state = {
            "format": _FORMAT,
            "architecture": self.model.config.plain(),
            "model": _copied(self.model),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "step": self.step,
            "stale": self.stale,
            "history": self.history,
            "best": self._best,
            "best_value": self._best_value,
            "sums": self._sums,
            "skipped": self._skipped,
        }
        torch.save(state, file)
        return file.getvalue()

    def load_state(self, content: bytes, path: str) -> None:
        """Go on from a state.

        Raises
        ------
        ConfigError
            It is of another architecture, or of other samples or settings of their order.
        InputError
            It is damaged, or no state at all.
        """
        state = read_state(content, path)
        if state["architecture"] != self.model.config.plain():
            there, here = state["architecture"], self.model.config.plain()
            names = [name for name in here if there.get(name) != here[name]]
            raise ConfigError(
                f"{path}: the checkpoint is of another architecture, "
                + "; ".join(f"{name} is {there.get(name)}, here {here[name]}" for name in names)
                + ": choose another output, or the settings it was made with"
            )
        self.loader.load_state_dict(state["loader"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stale, self.history = state["step"], state["stale"], state["history"]
        self._best, self._best_value = state["best"], state["best_value"]
        self._sums, self._skipped = state["sums"], state["skipped"]

    def _learn(self, examples: Examples, epoch: int, done: int, batches: int) -> bool:
        """Gradients of one batch, and where enough are gathered a step; whether there was one."""
        key = stream(self.config.seed, f"batch {done} of epoch {epoch}, worker {self.loader.rank}")
        torch.manual_seed(int(key) & (2**63 - 1))  # dropout needs no state then
        whole = batches - batches % self.config.accumulate
        together = self.config.accumulate if done <= whole else batches - whole
        last = done % self.config.accumulate == 0 or done == batches
        alone = nullcontext() if last else getattr(self.wrapped, "no_sync", nullcontext)()
        with alone:
            examples, at = self._part(examples.to(self.device, True), f"batch {done} of epoch {epoch}")
            told, quiet = _told(self.wrapped, examples, self.config, self.losses, at)
            total, parts = loss(told, examples, self.losses, quiet)
            (total / together).backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss": total.detach(), **parts}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        if last:
            self._step(epoch + done / batches)
        return last

    def _part(self, examples: Examples, batch: str) -> tuple[Examples, Tensor | None]:
        """A part of the stamps, and where their middle is in it; None is the middle.

        A network that pools is not the same at each place of its grids. In stamps an object is always at the
        same, in an image anywhere, so training moves it.
        """
        if not self.config.sides:
            return examples, None
        height, width = examples.target.shape[-2:]
        numbers = np.random.default_rng(int(stream(self.config.seed, f"part of {batch}")))  # of all workers
        side = min(int(numbers.choice(self.config.sides)), height, width)
        reach = [min((size - side) // 2, self.model.config.stride // 2) for size in (height, width)]
        top, left = (
            (size - side) // 2 + int(numbers.integers(-most, most + 1))
            for size, most in zip((height, width), reach, strict=True)
        )
        part = examples.part(slice(top, top + side), slice(left, left + side))
        return part, examples.places(width // 2 - left, height // 2 - top)

    def _step(self, epoch: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(epoch)
        gradients = [part for part in self.model.parameters() if part.requires_grad]
        norm = nn.utils.clip_grad_norm_(gradients, self.config.clip)
        if torch.isfinite(norm):  # the same on all workers, as gradients are averaged
            self.optimizer.step()
        else:
            self._skipped += 1
        self.optimizer.zero_grad()
        self.step += 1

    def _end_of_epoch(self, epoch: int, batches: int) -> dict[str, float]:
        """Validate, and remember the model if it is the best so far."""
        self.measures = evaluate(self.model, self.validation, self.config, self.losses, self.device)
        if self.config.metric == "auc":
            self.measures.need_both()
        found = {f"val_{name}": value for name, value in self.measures.metrics().items()}
        found |= {f"train_{name}": value / batches for name, value in self._sums.items()}
        found |= {"epoch": float(epoch + 1), "rate": self.config.rate_at(epoch + 1.0)}
        found |= {"steps_skipped": float(self._skipped)}
        steps = -(-batches // self.config.accumulate)
        if self._skipped == steps:
            raise InputError(
                f"epoch {epoch + 1}: in all {steps} steps the gradient is not a number, so nothing was"
                f" learned: lower `rate`, which is {self.config.rate:g}"
            )
        self._sums, self._skipped = {}, 0
        self.history = [*self.history, found]
        value = found[f"val_{self.config.metric}"]
        if self.config.better(value, self._best_value):
            self._best, self._best_value, self.stale = _copied(self.model), value, 0
        else:
            self.stale += 1
        return found


def evaluate(
    model: nn.Module,
    examples: Iterable[Examples],
    config: TrainConfig,
    losses: LossConfig,
    device: torch.device | str = "cpu",
    watch: Callable[[Prediction, Examples], None] = lambda told, truth: None,
) -> Measures:
    """Measure a U-Net, or a committee, on validation samples, of all workers together.

    `watch` is shown every batch.
    """
    measures = Measures()
    model.eval()
    with torch.no_grad():
        for one in examples:
            truth = one.to(device, True)
            told, quiet = _told(model, truth, config, losses)
            total, parts = loss(told, truth, losses, quiet)
            measures.add(told, truth, {"loss": total, **parts})
            watch(told, truth)
    return measures.reduce()


def read_state(content: bytes, path: str) -> dict[str, Any]:
    """What `Trainer.state_bytes` wrote; runs no code.

    Raises
    ------
    InputError
        It is damaged, holds something else, or would run code.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # reading what is no pickle may raise anything
        raise InputError(f"{path}: no checkpoint, or a damaged one; remove it and train again") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise InputError(f"{path}: no checkpoint of this version ({_FORMAT}); train again to another output")
    return state


def _told(
    model: nn.Module, truth: Examples, config: TrainConfig, losses: LossConfig, at: Tensor | None = None
) -> tuple[Prediction, tuple[Tensor, Tensor] | None]:
    """What the model says of each sample, and of a place in it where nothing is, for `loss`.

    Inside in the precision asked for, outside in float32.
    """
    n, found = len(truth), None
    if losses.quiet:
        height, width = truth.target.shape[-2:]
        at = truth.places(width // 2, height // 2) if at is None else at
        places, found = quiet_peaks(truth.pixels, truth.target, truth.seen, at)
        at = torch.cat([at, places])
    with torch.autocast(truth.pixels.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        told = model(truth.pixels, truth.seen, truth.days, truth.band, truth.survey, at)
    told = Prediction(*(part.float() for part in told))
    if found is None:
        return told, None
    own = Prediction(told.segmentation, *(part[:n] for part in told[1:]))
    return own, (told.real[n:], found)


def _compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The same weights behind machine code that is made at the first step; ConfigError without a compiler."""
    try:
        # not from a cache, which needs no compiler
        probe = torch.compile(lambda values: values + 1, options={"fx_graph_cache": False})
        probe(torch.zeros(2, device=device))
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"compile: torch.compile does not work here ({said}): install a C++ compiler such as g++, or"
            " leave `compile` out"
        ) from error
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return compiled


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def new_model(size_and_changes: dict[str, Any], seed: int) -> UNet:
    """A model whose first weights follow from the seed."""
    from astrid_dist.learning.unet import UNetConfig

    torch.manual_seed(int(np.uint64(stream(seed, "first weights"))) & (2**63 - 1))
    changes = dict(size_and_changes)
    return UNet(UNetConfig.named(changes.pop("size", "medium"), **changes))
