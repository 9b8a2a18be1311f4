"""How good a model is on validation samples, as counts that add up over batches and over workers."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from astrid_dist.errors import InputError
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.losses import segmentation_truth
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction
from astrid_dist.taxonomy import REAL

#: Bins of the real/bogus logit, and its range beyond which it is clipped.
LOGITS, LARGEST = 8192, 20.0
#: Bins of the position error, 0.01 dex from 0.001 to 100 px.
ERRORS, DEX, LEAST = 500, 0.01, -3.0


class Measures:
    """Sums of everything that metrics need; float64, exact in any order and number of workers."""

    def __init__(self) -> None:
        c = len(MODEL_CLASSES)
        self.counts: dict[str, Tensor] = {
            "scores": torch.zeros(2, LOGITS, dtype=torch.float64),  # bogus, real
            "confusion": torch.zeros(c, c, dtype=torch.float64),  # truth, told
            "overlap": torch.zeros(c, dtype=torch.float64),
            "union": torch.zeros(c, dtype=torch.float64),
            "errors": torch.zeros(ERRORS, dtype=torch.float64),
        }
        self.losses: dict[str, Tensor] = {}
        self.samples = torch.zeros((), dtype=torch.float64)

    def add(self, told: Prediction, truth: Examples, losses: Mapping[str, Tensor]) -> None:
        """Count one batch, whose loss and parts of it are given."""
        n, real = len(truth), truth.label >= 0.5
        bins = ((told.real.clamp(-LARGEST, LARGEST) / LARGEST + 1) / 2 * (LOGITS - 1)).round().long()
        self._count("scores", real.long() * LOGITS + bins)
        known = truth.class_code < len(MODEL_CLASSES)
        pairs = truth.class_code * len(MODEL_CLASSES) + told.classes.argmax(1)
        self._count("confusion", pairs[known])
        bits, weight = segmentation_truth(truth)
        yes, should, counts = told.segmentation > 0, bits > 0.5, weight > 0
        along = (0, 1, 3, 4)
        self.counts["overlap"] += (yes & should & counts).sum(along).double().cpu()
        self.counts["union"] += ((yes | should) & counts).sum(along).double().cpu()
        off = torch.hypot(told.position[:, 0] - truth.x, told.position[:, 1] - truth.y)
        off = off[torch.isfinite(off) & real & (truth.class_code < len(REAL))]
        self._count("errors", ((off.clamp(min=1e-9).log10() - LEAST) / DEX).long().clamp(0, ERRORS - 1))
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), dtype=torch.float64)) + (
                value.detach().double().cpu() * n
            )
        self.samples += n

    def reduce(self) -> "Measures":
        """Those of all workers together, where there are several."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"
            parts = [*self.counts.values(), *self.losses.values(), self.samples]
            whole = torch.cat([part.flatten() for part in parts]).to(device)
            dist.all_reduce(whole)
            for part, values in zip(parts, torch.split(whole.cpu(), [p.numel() for p in parts]), strict=True):
                part.copy_(values.reshape(part.shape))
        return self

    def metrics(self) -> dict[str, float]:
        """Of real against bogus ``auc`` and, at 0.5, ``precision`` and ``recall``; ``recall_<class>``;
        mean ``iou`` of the classes there are; ``position_px``, median; ``loss`` and its parts. NaN where
        nothing was there to measure.
        """
        bogus, real = self.counts["scores"]
        confusion, union = self.counts["confusion"], self.counts["union"]
        half = LOGITS // 2
        hits, false = real[half:].sum(), bogus[half:].sum()
        iou = (self.counts["overlap"] / union)[union > 0]
        found = {
            "auc": _auc(bogus, real),
            "precision": float(hits / (hits + false)),
            "recall": float(hits / real.sum()),
            "iou": float(iou.mean()),
            "position_px": _median(self.counts["errors"]),
        }
        for code, name in enumerate(MODEL_CLASSES):
            if confusion[code].sum() > 0:
                found[f"recall_{name}"] = float(confusion[code, code] / confusion[code].sum())
        return found | {name: float(value / self.samples) for name, value in self.losses.items()}

    def reliability(self, bins: int = 10) -> tuple[NDArray[np.float64], ...]:
        """Mean probability told, share that was real, and count, in bins of probability; none empty."""
        logits = torch.linspace(-LARGEST, LARGEST, LOGITS, dtype=torch.float64)
        told = logits.sigmoid()
        place = (told * bins).long().clamp(max=bins - 1)
        bogus, real = self.counts["scores"]
        counts = torch.bincount(place, bogus + real, bins)
        some = counts > 0
        mean = torch.bincount(place, told * (bogus + real), bins)[some] / counts[some]
        share = torch.bincount(place, real, bins)[some] / counts[some]
        return mean.numpy(), share.numpy(), counts[some].numpy()

    def need_both(self) -> None:
        """Raise `InputError` where there is nothing real, or nothing bogus."""
        bogus, real = self.counts["scores"].sum(1).tolist()
        if not bogus or not real:
            raise InputError(
                f"{real:.0f} real and {bogus:.0f} bogus samples to validate on: without both there is no AUC;"
                " add samples, or choose `metric: loss`"
            )

    def _count(self, name: str, places: Tensor) -> None:
        counts = self.counts[name]
        counts += torch.bincount(places.cpu(), minlength=counts.numel()).reshape(counts.shape)


def _auc(bogus: Tensor, real: Tensor) -> float:
    """Chance that a real sample scores above a bogus one; ties count half."""
    below = bogus.cumsum(0) - bogus / 2
    return float((real * below).sum() / (real.sum() * bogus.sum()))


def _median(counts: Tensor) -> float:
    """Of what was counted in bins of log10."""
    total = counts.cumsum(0)
    if not total[-1]:
        return float("nan")
    place = int((total < total[-1] / 2).sum())
    before = total[place] - counts[place]
    within = (total[-1] / 2 - before) / counts[place]
    return float(10 ** (LEAST + DEX * (place + within)))
