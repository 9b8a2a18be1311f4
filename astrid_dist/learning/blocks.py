"""Blocks of the U-Net: normalisation, residual convolutions under a condition, attention between visits."""

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

#: Time scales of the encoding of days, days: from exposures of one night to seasons.
TIME_SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)


class PixelNorm(nn.LayerNorm):
    """Normalises over channels in each pixel: what lies elsewhere in the image changes nothing.

    So an object gets the same answer in a stamp and in a tile, up to what is in reach of the convolutions.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x) in, the same out."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Normalisation by name: ``group`` (statistics over the image; Wu & He 2018) or ``pixel``."""
    if kind == "pixel":
        return PixelNorm(channels)
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and channels > g)
    return nn.GroupNorm(groups, channels)


def convolution(inside: int, outside: int) -> nn.Conv2d:
    """3×3; beyond the border the image goes on as at it.

    Zeros would tell how far the border is: a model that was trained on stamps would then know nothing else.
    """
    return nn.Conv2d(inside, outside, 3, padding=1, padding_mode="replicate")


class Block(nn.Module):
    """Two 3×3 convolutions with a way past them; the condition scales and shifts the middle (FiLM)."""

    def __init__(self, inside: int, outside: int, condition: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, inside)
        self.conv1 = convolution(inside, outside)
        self.norm2 = norm_layer(norm, outside)
        self.film = nn.Linear(condition, 2 * outside)
        self.dropout = nn.Dropout2d(dropout)  # whole channels, so that neighbouring pixels agree
        self.conv2 = convolution(outside, outside)
        self.past = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (n, channel, y, x), condition (n, c)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return torch.add(h, self.past(x))


class VisitAttention(nn.Module):
    """What the other visits tell of this one, added to it.

    A visit attends to all seen visits but itself, so a single visit comes out unchanged, exactly. Times enter
    as differences alone: any cadence, any origin, and visits in another order give the same, in that order.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.time = nn.Sequential(
            nn.Linear(2 * len(TIME_SCALES), 32), nn.SiLU(), nn.Linear(32, heads + channels)
        )
        self.out = nn.Linear(channels, channels, bias=False)  # no bias: nothing to attend to adds nothing
        nn.init.zeros_(self.out.weight)
        self.register_buffer("scales", torch.tensor(TIME_SCALES), persistent=False)
        self.scales: Tensor

    def forward(self, x: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        """x (n, visit, place, channel), days and seen (n, visit); places do not mix."""
        n, visits, places, channels = x.shape
        if visits == 1 and not self.training:
            return x  # what would be added is 0; in training it is, so that every weight has a gradient
        split = (n, visits, places, 3, self.heads, channels // self.heads)
        q, k, v = self.query_key_value(self.norm(x)).reshape(split).unbind(3)
        apart = torch.nan_to_num(days[:, :, None] - days[:, None, :]).masked_fill(
            ~(seen[:, :, None] & seen[:, None]), 0
        )
        steps = torch.asinh(apart[..., None] / self.scales)
        bias, told = self.time(torch.cat([steps, steps.abs()], -1)).split([self.heads, channels], -1)
        told = told.reshape(n, visits, visits, self.heads, -1)
        others = seen[:, None, :] & ~torch.eye(visits, dtype=torch.bool, device=x.device)
        others = others[:, None, None]  # (n, head, place, visit, visit)
        logits = torch.einsum("niphd,njphd->nhpij", q, k) / (channels // self.heads) ** 0.5
        logits = logits + bias.permute(0, 3, 1, 2)[:, :, None]
        weight = torch.softmax(logits.float().masked_fill(~others, -1e9), -1) * others
        weight = weight.to(v.dtype)
        heard = torch.einsum("nhpij,njphd->niphd", weight, v)
        heard = heard + torch.einsum("nhpij,nijhd->niphd", weight, told.to(v.dtype))
        added: Tensor = self.out(heard.reshape(n, visits, places, channels))
        return x + added
