"""What training makes small: errors of the segmentation, and of what is said of each candidate.

Every part is a weighted mean over what counts in it; where nothing counts, the part and its gradient are 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction
from astrid_dist.taxonomy import REAL


@dataclass(frozen=True)
class LossConfig:
    """Which losses, and their weights; 0 leaves a part out."""

    #: Weight of the segmentation's pixel loss, and of its Dice loss.
    segmentation: float = 1.0
    dice: float = 0.5
    #: Weights of real against bogus, of the class, of the position, of the flux.
    real: float = 1.0
    classes: float = 0.5
    position: float = 1.0
    flux: float = 1.0
    #: Weight of peaks of S_corr where nothing is, as bogus; see `astrid_dist.learning.quiet`.
    quiet: float = 1.0
    #: Pixel loss: ``bce``, or ``focal`` (Lin et al. 2017), which leaves easy pixels out by degrees.
    pixel_loss: str = "focal"
    #: Exponent of the focal loss, and weight of positive pixels in it against 1 minus it.
    gamma: float = 2.0
    alpha: float = 0.75
    #: ``nll``: Gaussian likelihood with the model's own sigma; ``huber``: pixels alone, sigma is not learned.
    position_loss: str = "nll"

    def __post_init__(self) -> None:
        """Check."""
        for name in ("segmentation", "dice", "real", "classes", "position", "flux", "quiet", "gamma"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"loss {name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"loss alpha is {self.alpha}: it must lie between 0 and 1")
        if self.pixel_loss not in ("bce", "focal"):
            raise ConfigError(f"pixel_loss is {self.pixel_loss!r}: choose bce or focal")
        if self.position_loss not in ("nll", "huber"):
            raise ConfigError(f"position_loss is {self.position_loss!r}: choose nll or huber")

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "LossConfig":
        """From a job file."""
        if unknown := sorted(set(plain) - {field.name for field in fields(cls)}):
            raise ConfigError(f"losses have no settings {unknown}")
        return cls(**plain)


def loss(
    prediction: Prediction, truth: Examples, config: LossConfig, quiet: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total to make small, and its parts before their weights, detached; a sample without data has no weight.

    Parameters
    ----------
    prediction : Prediction
        One candidate for each sample.
    truth : Examples
    config : LossConfig
    quiet : (k * n,), (k * n,), optional
        Logits of being real of k places in each sample where nothing is, and 1 where there is one, else 0.

    Raises
    ------
    InputError
        Prediction and truth are not of the same samples.
    """
    if prediction.real.shape != truth.label.shape or prediction.flux.shape != truth.flux.shape:
        raise InputError(
            f"predictions for {tuple(prediction.flux.shape)} samples and visits, truth for "
            f"{tuple(truth.flux.shape)}: losses need one candidate "
            "for each example, so call the model without `at`"
        )
    weight = truth.weight.float() * torch.isfinite(truth.pixels).flatten(1).any(1)
    parts: dict[str, Tensor] = {}
    if config.segmentation or config.dice:
        bits, counts = segmentation_truth(truth)
        if config.segmentation:
            parts["segmentation"] = pixel_loss(prediction.segmentation, bits, counts, config)
        if config.dice:
            parts["dice"] = dice_loss(prediction.segmentation, bits, counts)
    if config.real:
        each = F.binary_cross_entropy_with_logits(prediction.real, truth.label.float(), reduction="none")
        parts["real"] = mean(each, weight)
    if config.classes:
        known = truth.class_code < len(MODEL_CLASSES)
        code = truth.class_code.clamp(0, len(MODEL_CLASSES) - 1)
        each = F.cross_entropy(prediction.classes, code, reduction="none")
        parts["classes"] = mean(each, weight * known)
    real = weight * (truth.class_code < len(REAL)) * (truth.label >= 0.5)
    if config.position:
        parts["position"] = position_loss(prediction, truth, real, config)
    if config.flux:
        parts["flux"] = flux_loss(prediction.flux, truth, real)
    if quiet is not None and config.quiet:
        each = F.softplus(quiet[0]) * quiet[1]  # cross-entropy of what is bogus
        parts["quiet"] = mean(each.reshape(-1, len(weight)).sum(0), weight)
    total = prediction.real.sum() * 0
    for name, part in parts.items():
        total = total + getattr(config, name) * part
    return total, {name: part.detach() for name, part in parts.items()}


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing has weight. What has none may be anything, NaN too."""
    return torch.where(weight > 0, values * weight, 0).sum() / weight.sum().clamp(min=1e-12)


def segmentation_truth(truth: Examples) -> tuple[Tensor, Tensor]:
    """What each pixel should be, and how much it counts, both (n, visit, class, y, x) float32.

    Pixels without data in any plane and unseen visits do not count. Of a bogus sample of unknown kind nobody
    knows which pixels are bogus of what kind, so that only classes of real changes count there, as absent.
    The classes of a real sample are as sure as its label.
    """
    shifts = torch.arange(len(MODEL_CLASSES), device=truth.target.device)[:, None, None]
    bits = ((truth.target.long()[:, :, None] >> shifts) & 1).float()
    is_real = (shifts < len(REAL)).float()  # (class, 1, 1)
    sure = torch.where(truth.class_code < len(REAL), truth.label.float(), 1.0)[:, None, None, None, None]
    bits = bits * (1 - is_real * (1 - sure))
    data = torch.isfinite(truth.pixels).any(2) & truth.seen[:, :, None, None]
    known = (truth.class_code < len(MODEL_CLASSES)).float()
    absent = (1 - known) * (truth.label == 0)
    kinds = known[:, None, None, None] + absent[:, None, None, None] * is_real  # (n, class, 1, 1)
    counts = data[:, :, None] * (kinds * truth.weight.float()[:, None, None, None])[:, None]
    return bits, counts


def pixel_loss(logits: Tensor, bits: Tensor, counts: Tensor, config: LossConfig) -> Tensor:
    """Binary cross-entropy, or focal loss, of (n, visit, class, y, x); summed over classes.

    Soft targets: the focal factor is the distance from the target to its power (Li et al. 2020, eq. 5).
    """
    each = F.binary_cross_entropy_with_logits(logits, bits, reduction="none")
    if config.pixel_loss == "focal":
        away = (bits - logits.sigmoid()).abs()
        each = each * away**config.gamma * (config.alpha * bits + (1 - config.alpha) * (1 - bits)) * 2
    return mean(each, counts) * len(MODEL_CLASSES)


def dice_loss(logits: Tensor, bits: Tensor, counts: Tensor) -> Tensor:
    """1 − overlap of prediction and truth, mean over the classes that the batch has; 0 if it has none."""
    told = logits.sigmoid()
    along = (0, 1, 3, 4)
    both = (told * bits * counts).sum(along)
    size = ((told + bits) * counts).sum(along)
    present = ((bits * counts).sum(along) > 0).float()
    return mean(1 - 2 * both / size.clamp(min=1e-6), present)


def position_loss(prediction: Prediction, truth: Examples, weight: Tensor, config: LossConfig) -> Tensor:
    """Of x and y of real samples whose place is known.

    The likelihood of each is weighted by the model's sigma, held fixed (beta-NLL with beta 0.5, Seitzer et
    al. 2022): otherwise samples that are fitted well take over. Beyond 3 sigma it is
    linear: one wrong place does not move all.
    """
    true = torch.stack([truth.x, truth.y], 1).float()
    known = torch.isfinite(true)
    off = prediction.position - torch.where(known, true, prediction.position.detach())
    if config.position_loss == "huber":
        each = F.huber_loss(off, torch.zeros_like(off), reduction="none")
    else:
        sigma = prediction.log_sigma.exp()
        pull = off / sigma
        each = F.huber_loss(pull, torch.zeros_like(pull), reduction="none", delta=3.0)
        each = (each + prediction.log_sigma) * sigma.detach()
    return mean(each, weight[:, None] * known)


def flux_loss(flux: Tensor, truth: Examples, weight: Tensor) -> Tensor:
    """Huber loss of arcsinh of fluxes in sigma_d: linear at the noise, relative where bright, signed."""
    known = torch.isfinite(truth.flux) & truth.seen
    true = torch.asinh(torch.where(known, truth.flux.float(), 0))
    each = F.huber_loss(torch.asinh(flux), true, reduction="none", delta=0.5)
    return mean(each, weight[:, None] * known)
