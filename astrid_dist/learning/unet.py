"""A compact U-Net: which pixels changed and how, and what each candidate is, where, and how bright.

Needs numpy and torch alone. ::

    model = UNet(UNetConfig.named("small", surveys=("ztf",), bands=("ztf/g", "ztf/r")))
    prediction = model(pixels)                      # (n, visit, plane, y, x) noise sigmas, NaN no data
    prediction.real.sigmoid()                       # one number for the object in the middle of each stamp
    model(tile, at=torch.tensor([[0, 410.2, 77.9]]))  # a candidate in an image of any size
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.blocks import Block, VisitAttention, convolution
from astrid_dist.learning.candidates import NUMBERS, PLANES, CandidateHead, gather, measure, pad_to
from astrid_dist.taxonomy import CLASSES

#: Classes told apart, in the order of every output; `unknown` is none of them.
MODEL_CLASSES = CLASSES[:-1]
#: Named sizes: channels of each level, channels of the candidate head.
SIZES: Mapping[str, dict[str, Any]] = {
    "small": {"widths": (8, 16, 32, 64), "hidden": 64},
    "medium": {"widths": (16, 32, 64, 128), "hidden": 128},
    "large": {"widths": (48, 96, 192, 384), "hidden": 256},
}


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a `UNet`; all of it is kept beside the weights."""

    #: Channels of each level; each next one has half the pixels.
    widths: tuple[int, ...] = (16, 32, 64, 128)
    #: Channels of the candidate head.
    hidden: int = 128
    #: "survey/band" names; a band is told to the model as 1 + its position here, 0 is unknown.
    bands: tuple[str, ...] = ()
    #: Names of surveys, told likewise.
    surveys: tuple[str, ...] = ()
    #: Channels of the condition, band and survey.
    condition: int = 16
    #: Share of training samples whose band, and whose survey, are hidden, so that 0 is learned.
    hide_condition: float = 0.15
    #: Share of channels dropped in training, and in Monte Carlo dropout (`committee.thinned`).
    dropout: float = 0.1
    #: Whether visits attend to each other; False: each is seen alone and candidates average them.
    temporal: bool = True
    #: Heads of that attention.
    heads: int = 4
    #: ``pixel`` or ``group``: over what features are normalised.
    norm: str = "pixel"

    def __post_init__(self) -> None:
        """Check."""
        for name in ("widths", "bands", "surveys"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.widths) < 2 or min(self.widths) < 4:
            raise ConfigError(f"widths is {self.widths}: it needs two or more levels of at least 4 channels")
        if self.norm not in ("pixel", "group"):
            raise ConfigError(f"norm is {self.norm!r}: choose pixel or group")
        if self.temporal and (self.widths[-1] % self.heads or self.hidden % self.heads):
            raise ConfigError(
                f"{self.heads} heads must divide the last width {self.widths[-1]} and hidden {self.hidden}"
            )
        for name in ("dropout", "hide_condition"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 0 and below 1")
        for name in ("bands", "surveys"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ConfigError(f"{name} names something twice: {getattr(self, name)}")

    @classmethod
    def named(cls, size: str, **changes: Any) -> "UNetConfig":
        """Small, medium or large, with changes."""
        if size not in SIZES:
            raise ConfigError(f"no size {size!r}: choose one of {', '.join(SIZES)}")
        return cls.read({**SIZES[size], **changes})

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "UNetConfig":
        """From what `plain` gave, or from a job file."""
        if unknown := sorted(set(plain) - {field.name for field in fields(cls)}):
            raise ConfigError(f"a U-Net has no settings {unknown}; was it made by another version?")
        return cls(**plain)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @property
    def digest(self) -> str:
        """16 hex digits of the architecture."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def stride(self) -> int:
        """Pixels of the image to one of the deepest level."""
        return int(2 ** (len(self.widths) - 1))


class Prediction(NamedTuple):
    """What a `UNet` says; float32 whatever the precision inside."""

    #: (n, visit, class, y, x) logits, one yes or no for each class.
    segmentation: Tensor
    #: (m,) logit of real against bogus.
    real: Tensor
    #: (m, class) logits of one kind of change out of `MODEL_CLASSES`.
    classes: Tensor
    #: (m, 2) x, y in pixels from `at`.
    position: Tensor
    #: (m, 2) logarithm of the standard deviation of these, pixels.
    log_sigma: Tensor
    #: (m, visit) flux in units of sigma_d, signed.
    flux: Tensor


class UNet(nn.Module):
    """Encoder and decoder shared by visits, attention between visits, two heads."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, inputs = config.widths, 2 * len(PLANES)
        self.band = nn.Embedding(1 + len(config.bands), config.condition)
        self.survey = nn.Embedding(1 + len(config.surveys), config.condition)

        def block(inside: int, outside: int) -> Block:
            return Block(inside, outside, config.condition, config.norm, config.dropout)

        self.enter = convolution(inputs, widths[0])
        self.encoder = nn.ModuleList(block(a, b) for a, b in zip((widths[0], *widths), widths, strict=False))
        self.bottom = block(widths[-1], widths[-1])
        self.visits = VisitAttention(widths[-1], config.heads) if config.temporal else None
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(block(a, a) for a in widths[:-1])
        # Both heads see the input beside the features: normalised features no longer tell absolute SNR.
        self.segment = nn.Conv2d(widths[0] + inputs, len(MODEL_CLASSES), 1)
        assert self.segment.bias is not None
        nn.init.constant_(self.segment.bias, -4.6)  # 1 % of pixels, as it begins
        known = sum(widths) + inputs + 2 + NUMBERS + config.condition
        heads = config.heads if config.temporal else 0
        self.candidates = CandidateHead(known, config.hidden, len(MODEL_CLASSES), heads, config.dropout)

    def forward(
        self,
        pixels: Tensor,
        seen: Tensor | None = None,
        days: Tensor | None = None,
        band: Tensor | None = None,
        survey: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Prediction:
        """Predict.

        Parameters
        ----------
        pixels : (n, visit, plane, y, x)
            Noise sigmas, NaN no data, planes as `PLANES`; any size of image.
        seen : (n, visit) bool
            Whether the visit exists; what an unseen one holds does not matter. Default: all.
        days : (n, visit)
            Time of visits since any day. Default: all at once.
        band : (n, visit) int64
            1 + position in the configuration's bands; 0, the default, is unknown.
        survey : (n,) int64
            Likewise.
        at : (m, 3)
            Image, x, y of candidates. Default: the middle pixel of each image.

        Raises
        ------
        InputError
            A shape or a number does not fit.
        """
        _check(self.config, pixels, band, survey, at)
        n, visits, _, height, width = pixels.shape
        device = pixels.device
        if seen is None:
            seen = torch.ones((n, visits), dtype=torch.bool, device=device)
        if days is None:
            days = torch.zeros((n, visits), device=device)
        if at is None:
            middle = pixels.new_tensor([width // 2, height // 2], dtype=torch.float32).expand(n, 2)
            at = torch.cat([torch.arange(n, device=device, dtype=torch.float32)[:, None], middle], 1)
        condition = self._condition(n, visits, band, survey, device)

        valid = torch.isfinite(pixels) & seen[:, :, None, None, None]
        values = torch.where(valid, pixels, 0).float()
        inputs = torch.cat([torch.asinh(values), valid.float()], 2).flatten(0, 1)
        inputs = pad_to(inputs, self.config.stride).contiguous(memory_format=torch.channels_last)
        levels = self._levels(inputs, condition.flatten(0, 1), days, seen)

        top = torch.cat([levels[0], inputs], 1)
        segmentation = self.segment(top)[..., :height, :width].float()

        image = at[:, 0].long()
        with torch.autocast(device.type, enabled=False):  # fluxes need float32
            measured = measure(values, valid, at)
        gathered = [
            gather(x.reshape(n, visits, *x.shape[1:]), at, 2**i) for i, x in enumerate((top, *levels[1:]))
        ]
        shift = measured.position[:, None].expand(-1, visits, -1)
        features = torch.cat(
            [x.float() for x in gathered] + [shift, measured.numbers, condition[image].float()], -1
        )
        head = self.candidates(features, measured, days[image], seen[image])
        return Prediction(segmentation.unflatten(0, (n, visits)), *head)

    def _levels(self, inputs: Tensor, condition: Tensor, days: Tensor, seen: Tensor) -> list[Tensor]:
        """Features of each level after the decoder, finest first; (n * visit, channel, y, x)."""
        x, skips = self.enter(inputs), []
        for i, down in enumerate(self.encoder):
            x = down(F.avg_pool2d(x, 2) if i else x, condition)
            skips.append(x)
        x = self.bottom(x, condition)
        if self.visits is not None:
            rows, columns = x.shape[-2:]
            places = x.flatten(2).unflatten(0, days.shape).transpose(2, 3)  # (n, visit, place, channel)
            places = self.visits(places, days, seen)
            x = places.flatten(0, 1).transpose(1, 2).unflatten(2, (rows, columns))
        levels = [x]
        for narrow, up, skip in zip(self.narrow[::-1], self.decoder[::-1], skips[-2::-1], strict=True):
            x = up(F.interpolate(narrow(x), scale_factor=2.0) + skip, condition)
            levels.append(x)
        return levels[::-1]

    def _condition(
        self, n: int, visits: int, band: Tensor | None, survey: Tensor | None, device: torch.device
    ) -> Tensor:
        """Embedded band and survey, (n, visit, condition); in training some are hidden."""
        band = torch.zeros((n, visits), dtype=torch.long, device=device) if band is None else band
        survey = torch.zeros(n, dtype=torch.long, device=device) if survey is None else survey
        if self.training and self.config.hide_condition > 0:
            show = torch.rand((n, 2), device=device) >= self.config.hide_condition
            band, survey = band * show[:, :1], survey * show[:, 1]
        told: Tensor = self.band(band) + self.survey(survey)[:, None]
        return told

    def with_conditions(self, bands: tuple[str, ...], surveys: tuple[str, ...]) -> "UNet":
        """The same model for other bands and surveys; a name it does not know begins as unknown."""
        model = UNet(replace(self.config, bands=tuple(bands), surveys=tuple(surveys)))
        state = self.state_dict()
        for key, old, new in (
            ("band.weight", self.config.bands, model.config.bands),
            ("survey.weight", self.config.surveys, model.config.surveys),
        ):
            rows = [0] + [1 + old.index(name) if name in old else 0 for name in new]
            state[key] = state[key][rows].clone()
        model.load_state_dict(state)
        return model.train(self.training).to(next(self.parameters()).device)


def _check(
    config: UNetConfig, pixels: Tensor, band: Tensor | None, survey: Tensor | None, at: Tensor | None
) -> None:
    """Say what does not fit; numbers are looked at on the CPU alone, where it costs no wait."""
    if pixels.dim() != 5 or pixels.shape[2] != len(PLANES):
        raise InputError(
            f"pixels have the shape {tuple(pixels.shape)}: they must be (n, visit, plane, y, x) with the "
            f"planes {', '.join(PLANES)}; fill a plane that is missing with NaN"
        )
    if at is not None and (at.dim() != 2 or at.shape[1] != 3):
        raise InputError(f"at has the shape {tuple(at.shape)}: it must be (m, 3), image, x, y")
    if torch.compiler.is_compiling():
        return
    if (
        at is not None
        and at.device.type == "cpu"
        and at.numel()
        and not 0 <= at[:, 0].min() <= at[:, 0].max() < len(pixels)
    ):
        worst = at[at[:, 0].abs().argmax(), 0]
        raise InputError(f"at names image {int(worst)}, of {len(pixels)}")
    for name, told, names in (("band", band, config.bands), ("survey", survey, config.surveys)):
        if told is None or told.device.type != "cpu" or not told.numel():
            continue
        if int(told.min()) < 0 or int(told.max()) > len(names):
            raise InputError(
                f"{name} holds {int(told.min())} to {int(told.max())}, but the model knows 0 (unknown) to "
                f"{len(names)}: {names}; use with_conditions to add some"
            )
