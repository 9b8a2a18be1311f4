"""What is known of a candidate: features gathered where it is, fluxes and moments measured there."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from astrid_dist.learning.blocks import VisitAttention

#: Planes of a stamp, in order, as samples have them; one that a survey lacks is NaN.
PLANES = ("science", "template", "difference", "score")
DIFFERENCE = PLANES.index("difference")
#: Widths (sigma, pixels) of the round Gaussians by which light is measured.
APERTURES = (1.0, 1.7, 3.5)
#: How many numbers are measured in a visit.
NUMBERS = 6 * len(PLANES) * len(APERTURES)
_GUESS = 1  # the aperture whose flux and place learning begins from
_PSF = 1.3  # sigma of a usual PSF, pixels
_REACH = 8  # pixels each way that are looked at
_ROUNDS = 4  # of centring
_FARTHEST = 4.0  # pixels from `at`, along each axis


class Head(NamedTuple):
    """Answers about m candidates; see `Prediction`."""

    real: Tensor
    classes: Tensor
    position: Tensor
    log_sigma: Tensor
    flux: Tensor


class Measured(NamedTuple):
    """What was measured of m candidates, before anything is learned."""

    #: (m, visit) flux of the difference, noise sigmas, signed.
    flux: Tensor
    #: (m, 2) x, y of the difference's light, pixels from `at`.
    position: Tensor
    #: (m, visit, NUMBERS) all that was measured, scaled for a network.
    numbers: Tensor


def gather(maps: Tensor, at: Tensor, stride: int) -> Tensor:
    """Bilinear values of maps (n, visit, channel, y, x) at `at` (m, 3): (m, visit, channel)."""
    image = at[:, 0].long()
    height, width = maps.shape[-2:]
    x = ((at[:, 1] + 0.5) / stride - 0.5).clamp(0, width - 1)
    y = ((at[:, 2] + 0.5) / stride - 0.5).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fx = (x - left).to(maps.dtype)[:, None, None]
    fy = (y - top).to(maps.dtype)[:, None, None]
    upper = maps[image, :, :, top, left] * (1 - fx) + maps[image, :, :, top, right] * fx
    lower = maps[image, :, :, bottom, left] * (1 - fx) + maps[image, :, :, bottom, right] * fx
    return upper * (1 - fy) + lower * fy


def measure(values: Tensor, valid: Tensor, at: Tensor) -> Measured:
    """Place and fluxes of the light nearest to `at`, by round Gaussians, in what has data.

    values, valid (n, visit, plane, y, x): noise sigmas, 0 where not valid; at (m, 3): image, x, y.
    The place is a windowed centroid of the difference (Bertin, SExtractor's XWIN): the window follows it. All
    else is measured there; a flux is the least-squares one of a point source of the aperture's width.
    """
    height, width = values.shape[-2:]
    steps = torch.arange(-_REACH, _REACH + 1, device=values.device)
    columns = at[:, 1].round().long()[:, None, None] + steps[None, None, :]  # (m, 1, k)
    rows = at[:, 2].round().long()[:, None, None] + steps[None, :, None]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    image, rows_in, columns_in = at[:, 0].long(), rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pick = (image[:, None, None], slice(None), slice(None), rows_in, columns_in)
    w = (valid[pick] & inside[..., None, None]).float()  # (m, k, k, visit, plane)
    v = values[pick] * w
    columns, rows = columns - at[:, 1, None, None], rows - at[:, 2, None, None]

    position = torch.zeros_like(at[:, 1:])
    only = slice(DIFFERENCE, DIFFERENCE + 1)
    for _ in range(_ROUNDS):
        window = _window(v[..., only], w[..., only], columns, rows, position, APERTURES[_GUESS : _GUESS + 1])
        weight = window.size[:, :, 0, 0] ** 2
        weight = weight / weight.sum(1, keepdim=True)  # of visits
        off = torch.stack([(weight * place[:, :, 0, 0]).sum(1) for place in window.places], 1)
        # Moments within a window are too small by the known factor, of a usual PSF.
        off = off * APERTURES[_GUESS] * (1 + (_PSF / APERTURES[_GUESS]) ** 2)
        position = (position + off).clamp(-_FARTHEST, _FARTHEST)
    found = _window(v, w, columns, rows, position, APERTURES)
    numbers = [torch.asinh(found.flux), found.share, *found.moments, *found.places]
    return Measured(found.flux[:, :, DIFFERENCE, _GUESS], position, torch.stack(numbers, -1).flatten(2))


class _Window(NamedTuple):
    """Sums in Gaussian windows, each (m, visit, plane, aperture)."""

    flux: Tensor
    #: Share of the window that has data.
    share: Tensor
    #: Light and its noise, added in squares: so moments of noise alone are small, not wild.
    size: Tensor
    #: First moments in x and y over size, in widths of the window; their sign is also the flux's.
    moments: list[Tensor]
    #: The same for either sign of flux.
    places: list[Tensor]


def _window(
    v: Tensor, w: Tensor, columns: Tensor, rows: Tensor, position: Tensor, apertures: tuple[float, ...]
) -> _Window:
    """Sums of v with data w, (m, k, k, visit, plane), in windows around `position` (m, 2)."""
    dx, dy = columns - position[:, 0, None, None], rows - position[:, 1, None, None]
    sigma = torch.tensor(apertures, device=v.device)
    shape = torch.exp(-0.5 * (dx * dx + dy * dy)[..., None] / sigma**2)  # (m, k, k, aperture)
    shape = shape / (2 * torch.pi * sigma**2)
    light = torch.einsum("mijvp,mija->mvpa", v, shape)
    norm = torch.einsum("mijvp,mija->mvpa", w, shape**2)
    size = (light**2 + norm).clamp(min=1e-12).sqrt()
    moments = [torch.einsum("mijvp,mija->mvpa", v, shape * d[..., None]) / size / sigma for d in (dx, dy)]
    places = [moment * light / size for moment in moments]
    flux = light / norm.clamp(min=1e-5)  # of whole windows it is 0.006 or more
    return _Window(flux, norm * 4 * torch.pi * sigma**2, size, moments, places)


class CandidateHead(nn.Module):
    """From what was gathered at candidates to what they are, where, and how bright."""

    def __init__(self, inside: int, hidden: int, classes: int, heads: int, dropout: float) -> None:
        """`heads` of attention between visits; 0: visits are averaged."""
        super().__init__()
        self.enter = nn.Sequential(
            nn.Linear(inside, hidden), nn.SiLU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.visits = VisitAttention(hidden, heads) if heads else None
        self.share = nn.Linear(hidden, 1) if heads else None
        self.object = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.kind = nn.Linear(hidden, 1 + classes)
        self.place = nn.Linear(hidden, 4)
        self.light = nn.Linear(hidden, 1)
        for layer in (self.place, self.light):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, measured: Measured, days: Tensor, seen: Tensor) -> Head:
        """features (m, visit, feature); days, seen (m, visit). Flux and place are changes of the measured."""
        h = self.dropout(self.enter(features))
        if self.visits is not None:
            h = self.visits(h[:, :, None], days, seen)[:, :, 0]
        weight = seen.float()
        if self.share is not None:
            weight = torch.softmax(self.share(h)[..., 0].float().masked_fill(~seen, -1e9), -1) * seen
        mean = (h * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        told = self.object(mean.to(h.dtype))
        kind, place = self.kind(told).float(), self.place(told).float()
        change = self.light(h)[..., 0].float()
        flux = torch.sinh((torch.asinh(measured.flux) + change).clamp(-14, 14))
        log_sigma = 4 * torch.tanh(place[:, 2:] / 4) - 0.5  # 0.01 to 33 pixels
        return Head(kind[:, 0], kind[:, 1:], measured.position + place[:, :2], log_sigma, flux)


def pad_to(x: Tensor, stride: int) -> Tensor:
    """Rows and columns like the last ones added, below and at the right, up to a multiple of the stride."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
