"""How long, how fast and on what a model is trained; without torch, so that any machine checks job files."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Validation metric -> whether more of it is better.
METRICS = {"auc": True, "iou": True, "loss": False}


class TrainConfig(BaseModel):
    """Settings of the loop of one worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1, description="epochs at most")
    batch: int = Field(default=128, ge=1, description="samples in a batch of one worker")
    rate: float = Field(default=2e-3, gt=0, description="learning rate of AdamW after the warm-up")
    warmup: float = Field(default=0.5, ge=0, description="epochs over which the rate grows from 0")
    decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    clip: float = Field(default=1.0, gt=0, description="largest norm of a gradient")
    accumulate: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    precision: Literal["float32", "bf16"] = Field(default="float32", description="of the network's inside")
    compile: bool = Field(
        default=False, description="compile the network by torch.compile: minutes once, faster steps after"
    )
    tune: Literal["all", "heads"] = Field(
        default="all", description="what is trained: all, or, of a base and with few labels, the heads alone"
    )
    metric: Literal["auc", "iou", "loss"] = Field(
        default="auc", description="validation metric by which models are compared"
    )
    patience: int = Field(default=5, ge=1, description="epochs without a better metric, after which it stops")
    keep_every: int = Field(default=0, ge=0, description="steps between checkpoints within an epoch; 0: none")
    sides: tuple[Annotated[int, Field(ge=9)], ...] = Field(
        default=(),
        description="sides, pixels, of the part of its stamps that a batch is, moved by a few: faster, and "
        "objects are everywhere on the network's grids; none: whole stamps",
    )
    seed: int = Field(default=1, ge=0, description="of weights, order, drawing, augmentation and dropout")

    def rate_at(self, epoch: float) -> float:
        """Learning rate after so many epochs: a linear warm-up, then half a cosine down to 0."""
        if epoch < self.warmup:
            return self.rate * epoch / self.warmup
        rest = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
        return self.rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))

    def better(self, one: float, other: float | None) -> bool:
        """Whether a value of the metric is better than another; anything is better than None or NaN."""
        if math.isnan(one):
            return False
        if other is None or math.isnan(other):
            return True
        return one > other if METRICS[self.metric] else one < other
