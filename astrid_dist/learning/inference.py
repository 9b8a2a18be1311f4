"""A model on images of any size: tile by tile, with the answers of one pass over the whole.

Needs numpy and torch alone. ::

    told = predict_image(model, pixels, at, maps=REAL_BOGUS)  # pixels (visit, plane, y, x), at (m, 2): x, y
    told.real                                                 # (m,) probability of each candidate
    proposals(told.segmentation[0, 0])                        # (n, 2) x, y where the model sees something

A tile is seen with what is around it, as far as an answer can depend on it (`halo_of`), and its origin lies
on the grid of the deepest level. So tiles agree with the whole to rounding, at borders and holes too; a model
with norm ``group``, whose statistics are of the image it sees, agrees only nearly. Of several networks, or of
one with dropout (``samples``), the mean is told, and what each says of candidates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.committee import Voice, one_config, voices
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction, UNet, UNetConfig
from astrid_dist.taxonomy import BOGUS, REAL

Device = Literal["auto", "cpu", "cuda"]
Float32 = NDArray[np.float32]
#: Name of a map -> classes of which it is the largest probability.
Maps = Mapping[str, Sequence[str]]

#: Rows and columns of a tile without its halo: as wide as a shard and so large that the halo costs little.
TILE = (1024, 2048)
#: Sides tried where only candidates are asked for.
_SMALL_TILES = (32, 128, 512)
#: A map for each class, and the two that tell real from bogus.
EACH_CLASS: Maps = {name: (name,) for name in MODEL_CLASSES}
REAL_BOGUS: Maps = {"real": REAL, "bogus": BOGUS}


@dataclass(frozen=True)
class Box:
    """A rectangle of an image: rows y0..y1, columns x0..x1, ends excluded."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y1 - self.y0, self.x1 - self.x0

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Rows and columns inside an array that covers `outer`."""
        rows = slice(self.y0 - outer.y0, self.y1 - outer.y0)
        return rows, slice(self.x0 - outer.x0, self.x1 - outer.x0)


@dataclass(frozen=True)
class ImagePrediction:
    """What a model says of an image and of m candidates in it."""

    maps: tuple[str, ...]
    segmentation: Float32
    """(visit, map, y, x) probabilities, of the region asked for."""
    real: Float32
    """(m,) probability of being real, mean of all voices."""
    voices: Float32
    """(voice, m) what each says: a network, or a sample of its dropout."""
    classes: Float32
    """(m, class) probabilities of one kind of change out of `MODEL_CLASSES`."""
    position: Float32
    """(m, 2) x, y in pixels from `at`."""
    sigma: Float32
    """(m, 2) standard deviation of these, pixels; of the mixture of all voices."""
    flux: Float32
    """(m, visit) in noise sigmas of the difference, signed."""


def predict_image(
    model: UNet | Sequence[UNet],
    pixels: Any,
    at: ArrayLike | None = None,
    *,
    region: Box | None = None,
    maps: Maps = EACH_CLASS,
    band: Sequence[int] | None = None,
    survey: int = 0,
    days: Sequence[float] | None = None,
    seen: Sequence[bool] | None = None,
    tile: int | None = None,
    halo: int | None = None,
    batch: int = 1,
    device: Device | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    samples: int = 0,
    seed: int = 0,
) -> ImagePrediction:
    """Predict.

    Parameters
    ----------
    model : UNet, or some of one architecture
        In evaluation.
    pixels : (visit, plane, y, x) array or tensor
        Noise sigmas, NaN no data, as the model takes them.
    at : (m, 2), optional
        x and y of candidates, pixels of the image. Default: none.
    region : Box, optional
        What is asked for; the rest of the image is only looked at. Default: all. A candidate outside belongs
        to the tile nearest to it.
    maps : mapping
        Maps to make; none of them where only candidates matter: then tiles without one are left out.
    band, survey, days, seen
        As the model's, without the dimension of images; `codes_of` gives the first two.
    tile, halo : int, optional
        Pixels of a tile's side, and around it. Default: `TILE`, or less where only candidates are asked for,
        and what `halo_of` says. Memory grows with tiles, see `bytes_of`.
    batch : int
        Tiles seen at once; those of one shape.
    device : str, optional
        Where the model is to run; it is moved. Default: where it is.
    precision : str
        Of the network's inside.
    samples, seed : int
        How often each network is asked without some of its channels (`committee.thinned`), and of which ones.
        0: once, whole.

    Raises
    ------
    InputError, ConfigError
        Shapes or numbers that do not fit; no such device; samples of a model without dropout.
    """
    members = [model] if isinstance(model, UNet) else list(model)
    config = one_config(members)
    image = torch.as_tensor(pixels)
    if image.dim() != 4:
        raise InputError(f"pixels have the shape {tuple(image.shape)}: they must be (visit, plane, y, x)")
    if unknown := sorted({name for names in maps.values() for name in names} - set(MODEL_CLASSES)):
        raise InputError(
            f"maps name {unknown}, of which the model knows nothing; its classes: {MODEL_CLASSES}"
        )
    whole = Box(0, image.shape[2], 0, image.shape[3])
    region = region or whole
    if not (0 <= region.y0 < region.y1 <= whole.y1 and 0 <= region.x0 < region.x1 <= whole.x1):
        raise InputError(f"{region} is no part of an image of {whole.shape} rows and columns")
    if device is not None:
        members = [member.to(choose_device(device)) for member in members]
    halo = halo_of(config) if halo is None else halo
    places = np.zeros((0, 2)) if at is None else np.asarray(at, np.float64).reshape(-1, 2)
    if not np.isfinite(places).all():
        raise InputError(
            f"at holds {np.count_nonzero(~np.isfinite(places).all(1))} places that are not finite"
        )
    usual = TILE if maps else _cheapest(places, region, halo)
    sides = usual if tile is None else (tile, tile)
    if min(sides) < 1 or halo < 0 or batch < 1 or samples < 0:
        raise InputError(
            f"tile {sides} and batch {batch} must be at least 1, halo {halo} and samples {samples} at least 0"
        )
    told = _Answers(voices(members, samples, seed), image, maps, region, len(places))
    told.condition(band, survey, days, seen)
    owner = _owners(places, region, sides)
    boxes = [box for box in _tiles(region, sides) if maps or box in owner]
    for some in _batches(boxes, whole, halo, config.stride, batch):
        told.add(some, [owner.get(core, _NONE) for core, _ in some], places, precision)
    return told.prediction()


def codes_of(config: UNetConfig, survey: str, bands: Iterable[str]) -> tuple[list[int], int]:
    """`band` and `survey` of a model for visits in some bands; 0 where it does not know them."""

    def code(known: tuple[str, ...], name: str) -> int:
        return known.index(name) + 1 if name in known else 0

    return [code(config.bands, f"{survey}/{band}") for band in bands], code(config.surveys, survey)


def choose_device(name: Device) -> torch.device:
    """``auto``: a GPU where there is one.

    Raises
    ------
    ConfigError
        A GPU is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device is cuda, but torch finds no GPU here: choose cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def reach_of(config: UNetConfig) -> int:
    """Farthest pixel that an answer at a pixel, or about a candidate in it, can depend on."""
    depth, farthest = len(config.widths), 0
    for pixel in range(config.stride):
        for level in range(depth):  # a candidate gathers from each level, neighbouring cells too
            first, last = pixel // 2**level - 1, pixel // 2**level + 1
            for _ in range(level, depth - 1):  # decoder: two convolutions, then the level below
                first, last = (first - 2) // 2, (last + 2) // 2
            first, last = first - 2, last + 2  # bottom
            for up in range(depth - 1, -1, -1):  # encoder
                first, last = first - 2, last + 2
                if up:
                    first, last = 2 * first, 2 * last + 1
            farthest = max(farthest, pixel - first + 1, last + 1 - pixel)  # first convolution
    return farthest


def halo_of(config: UNetConfig) -> int:
    """Pixels around a tile within which all lies that its answers depend on, a multiple of the stride."""
    return -(-reach_of(config) // config.stride) * config.stride


def bytes_of(config: UNetConfig, visits: int = 1, tile: tuple[int, int] = TILE) -> int:
    """Memory that a tile takes while it is seen: inputs, and some copies of the finest features, float32."""
    pixels = prod(side + 2 * halo_of(config) for side in tile)
    return visits * pixels * 4 * (6 * config.widths[0] + 60)


def proposals(probability: Float32, threshold: float = 0.5, radius: int = 4) -> NDArray[np.int64]:
    """Peaks of a map of probabilities.

    Parameters
    ----------
    probability : (y, x) float32
        NaN is no data.
    threshold : float
        Least probability of a peak.
    radius : int
        Pixels each way within which only the highest counts.

    Returns
    -------
    (n, 2) int64
        x and y, highest first. Heights are means over 3×3 pixels: a map is flat where it is sure, and the
        middle of what is flat is meant.
    """
    known = torch.nan_to_num(torch.as_tensor(np.ascontiguousarray(probability)))[None, None]
    height = F.avg_pool2d(F.avg_pool2d(known, 3, 1, 1), 3, 1, 1)
    highest = F.max_pool2d(height, 2 * radius + 1, 1, radius)
    found = torch.nonzero((height == highest)[0, 0] & (known >= threshold)[0, 0])
    value = height[0, 0, found[:, 0], found[:, 1]].numpy()
    places = found.numpy()[np.lexsort((found[:, 1], found[:, 0], -value))]
    kept: list[NDArray[np.int64]] = []
    taken = np.zeros(probability.shape, bool)
    for place in places:  # equal neighbours: the first stays
        y, x = place
        if not taken[y, x]:
            taken[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
            kept.append(place)
    return np.array(kept, np.int64).reshape(-1, 2)[:, ::-1]


_NONE = np.zeros(0, np.int64)


class _Answers:
    """What is gathered tile by tile."""

    def __init__(
        self, asked: Sequence[Voice], image: Tensor, maps: Maps, region: Box, candidates: int
    ) -> None:
        visits, many = len(image), len(asked)
        self.asked, self.image, self.region, self.names = asked, image, region, tuple(maps)
        self.device = next(asked[0][0].parameters()).device
        self.used = [name for name in MODEL_CLASSES if any(name in names for names in maps.values())]
        self.members = [[self.used.index(name) for name in names] for names in maps.values()]
        self.segmentation = np.empty((visits, len(maps), *region.shape), np.float32)
        self.real = np.zeros((many, candidates), np.float32)
        self.classes = np.zeros((many, candidates, len(MODEL_CLASSES)), np.float32)
        self.position, self.sigma = np.zeros((2, many, candidates, 2), np.float32)
        self.flux = np.zeros((many, candidates, visits), np.float32)

    def condition(
        self,
        band: Sequence[int] | None,
        survey: int,
        days: Sequence[float] | None,
        seen: Sequence[bool] | None,
    ) -> None:
        """What the model is told beside the pixels, of one image."""
        visits = len(self.image)
        band = [0] * visits if band is None else band
        days = [0.0] * visits if days is None else days
        seen = [True] * visits if seen is None else seen
        for name, values in (("band", band), ("days", days), ("seen", seen)):
            if len(values) != visits:
                raise InputError(f"{name} has {len(values)} values for {visits} visits")
        self.told = {
            "band": torch.tensor([list(band)]),
            "survey": torch.tensor([survey]),
            "days": torch.tensor([list(days)], dtype=torch.float32),
            "seen": torch.tensor([list(seen)]),
        }

    def add(
        self,
        some: Sequence[tuple[Box, Box]],
        rows: Sequence[NDArray[np.int64]],
        places: NDArray[np.float64],
        precision: str,
    ) -> None:
        """Look at tiles of one shape, (core, window) each, and at the candidates in them."""
        at = np.concatenate(
            [
                np.column_stack([np.full(len(own), i), places[own] - [window.x0, window.y0]])
                for i, ((_, window), own) in enumerate(zip(some, rows, strict=True))
            ]
        )
        pixels = torch.stack([self.image[:, :, w.y0 : w.y1, w.x0 : w.x1] for _, w in some])
        # Deterministic: a task that is done again must say the same.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        own = np.concatenate(list(rows))
        used = [MODEL_CLASSES.index(name) for name in self.used]
        sums: list[Tensor] = []
        with torch.inference_mode(), exact, half:
            given = pixels.to(self.device)
            where = torch.as_tensor(at, dtype=torch.float32).to(self.device)
            told = {k: v.expand(len(some), *v.shape[1:]).to(self.device) for k, v in self.told.items()}
            for voice, (model, within) in enumerate(self.asked):
                with within():
                    found: Prediction = model(given, at=where, **told)
                seen = [
                    found.segmentation[i][(..., *core.within(window))][:, used].sigmoid()
                    for i, (core, window) in enumerate(some)
                ]
                sums = [a + b for a, b in zip(sums, seen, strict=True)] if sums else seen
                self._of_candidates(voice, own, found)
            for (core, _), total in zip(some, sums, strict=True):
                for number, members in enumerate(self.members):
                    place = (slice(None), number, *core.within(self.region))
                    self.segmentation[place] = (total[:, members].amax(1) / len(self.asked)).cpu().numpy()

    def _of_candidates(self, voice: int, own: NDArray[np.int64], found: Prediction) -> None:
        self.real[voice, own] = found.real.sigmoid().cpu().numpy()
        self.classes[voice, own] = found.classes.softmax(1).cpu().numpy()
        self.position[voice, own] = found.position.cpu().numpy()
        self.sigma[voice, own] = found.log_sigma.exp().cpu().numpy()
        self.flux[voice, own] = found.flux.cpu().numpy()

    def prediction(self) -> ImagePrediction:
        return ImagePrediction(
            self.names,
            self.segmentation,
            self.real.mean(0),
            self.real,
            self.classes.mean(0),
            self.position.mean(0),
            np.sqrt(np.square(self.sigma).mean(0) + self.position.var(0)),
            self.flux.mean(0),
        )


def _tiles(region: Box, sides: tuple[int, int]) -> Iterator[Box]:
    """Tiles of so many rows and columns, the last ones smaller."""
    for y in range(region.y0, region.y1, sides[0]):
        for x in range(region.x0, region.x1, sides[1]):
            yield Box(y, min(y + sides[0], region.y1), x, min(x + sides[1], region.x1))


def _owners(places: NDArray[np.float64], region: Box, sides: tuple[int, int]) -> dict[Box, NDArray[np.int64]]:
    """Which candidates lie in which tile."""
    x = np.clip(np.rint(places[:, 0]), region.x0, region.x1 - 1).astype(np.int64) - region.x0
    y = np.clip(np.rint(places[:, 1]), region.y0, region.y1 - 1).astype(np.int64) - region.y0
    across = -(-region.shape[1] // sides[1])
    number = y // sides[0] * across + x // sides[1]
    boxes = list(_tiles(region, sides)) if len(places) else []
    return {boxes[one]: np.flatnonzero(number == one) for one in np.unique(number)}


def _cheapest(places: NDArray[np.float64], region: Box, halo: int) -> tuple[int, int]:
    """Sides of tiles by which the fewest pixels are seen where only candidates matter."""

    def cost(sides: tuple[int, int]) -> int:
        return sum(prod(side + 2 * halo for side in box.shape) for box in _owners(places, region, sides))

    return min([*((side, side) for side in _SMALL_TILES), TILE], key=cost)


def _batches(
    boxes: Sequence[Box], whole: Box, halo: int, stride: int, batch: int
) -> Iterator[list[tuple[Box, Box]]]:
    """Tiles with their windows, those of one shape together."""
    shapes: dict[tuple[int, int], list[tuple[Box, Box]]] = {}
    for core in boxes:
        window = Box(
            max(core.y0 - halo, 0) // stride * stride,
            min(core.y1 + halo, whole.y1),
            max(core.x0 - halo, 0) // stride * stride,
            min(core.x1 + halo, whole.x1),
        )
        shapes.setdefault(window.shape, []).append((core, window))
    for same in shapes.values():
        for i in range(0, len(same), batch):
            yield same[i : i + batch]
