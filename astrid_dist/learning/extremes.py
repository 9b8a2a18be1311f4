"""Samples that a model gets most wrong, and those that it is least sure of."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from astrid_dist.learning.examples import Examples
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction
from astrid_dist.taxonomy import CLASSES


@dataclass(frozen=True)
class Case:
    """One sample, as it is shown."""

    planes: NDArray[np.float32]
    """(plane, y, x) noise sigmas, of the visit of largest |snr|."""
    truth: str
    """Its class."""
    label: float
    """1 real, 0 bogus."""
    told: str
    """The class that the model takes for likeliest."""
    p_real: float

    def __str__(self) -> str:
        told = "" if self.told == self.truth else f", told {self.told}"
        truth = "bogus" if self.truth == CLASSES[-1] and self.label < 0.5 else self.truth
        return f"{truth}{told}".replace("_", " ") + f"; p_real {self.p_real:.2f}"


class Extremes:
    """Shown every batch, keeps the few that matter.

    Parameters
    ----------
    most : int
        Samples of either sort.
    """

    def __init__(self, most: int = 12) -> None:
        self.most = most
        self._wrong: list[tuple[float, Case]] = []
        self._unsure: list[tuple[float, Case]] = []

    def __call__(self, told: Prediction, truth: Examples) -> None:
        """Look at a batch; samples without weight or data are left out."""
        p = told.real.float().sigmoid()
        counts = (truth.weight > 0) & torch.isfinite(truth.pixels).flatten(1).any(1)
        for kept, score in ((self._wrong, (p - truth.label).abs()), (self._unsure, -(p - 0.5).abs())):
            score = torch.where(counts, score, -torch.inf)
            best = score.topk(min(self.most, len(score))).indices.tolist()
            kept.extend((float(score[i]), _case(told, truth, i, float(p[i]))) for i in best if counts[i])
            kept.sort(key=lambda one: -one[0])
            del kept[self.most :]

    @property
    def wrong(self) -> list[Case]:
        """On the wrong side of 0.5, the surest first."""
        return [case for _, case in self._wrong if (case.p_real > 0.5) != (case.label >= 0.5)]

    @property
    def unsure(self) -> list[Case]:
        """Those nearest to 0.5 first."""
        return [case for _, case in self._unsure]


def _case(told: Prediction, truth: Examples, i: int, p: float) -> Case:
    strength = torch.where(truth.seen[i], truth.snr[i].abs().nan_to_num(0.0), -1.0)
    return Case(
        truth.pixels[i, int(strength.argmax())].cpu().numpy(),
        CLASSES[int(truth.class_code[i])],
        float(truth.label[i]),
        MODEL_CLASSES[int(told.classes[i].argmax())],
        p,
    )
