"""What each choice of the network, of its losses and of its input does, trained alike on the same samples.

``ASTRID_SAMPLES=URL [ASTRID_VIEWS=40000] [ASTRID_ONLY=name,...] python -m tests.benchmarks.run learning``,
with a product that has groups train and test. Every variant sees as many samples, in the same order, with the
same first seed: four minutes of one core for the first. What is measured is the test split, a sky not seen.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.losses import LossConfig
from astrid_dist.learning.quiet import quiet_peaks
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.training import Trainer, new_model
from astrid_dist.learning.unet import Prediction, UNet
from astrid_dist.simulation.augmentation import Compose
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import group_names

Result = dict[str, Any]
VIEWS = 40_000
EPOCHS = 2
#: Sides of parts of stamps that are trained on, pixels, and how far stamps are moved to be tested too.
SIDES, MOVED = (31, 47, 55), (3, -2)
#: Reals near the limit, by size of their true SNR.
FAINT = (4.0, 8.0)
#: Share of bogus samples that pass, at which completeness is quoted.
FALSE = 0.01


def same(examples: Examples) -> Examples:
    """As it comes: noise sigmas, the network takes arcsinh."""
    return examples


def to_unit_length(examples: Examples) -> Examples:
    """Each plane of a stamp divided by its own root of the sum of squares, times 63: its SNR is lost."""
    size = examples.pixels.nan_to_num().square().sum((-2, -1), keepdim=True).sqrt()
    return replace(examples, pixels=examples.pixels / size.clamp(min=1e-6) * 63)


def without(*planes: int) -> Callable[[Examples], Examples]:
    """Some planes are missing."""

    def changed(examples: Examples) -> Examples:
        pixels = examples.pixels.clone()
        pixels[:, :, list(planes)] = torch.nan
        return replace(examples, pixels=pixels)

    return changed


@dataclass(frozen=True)
class Variant:
    """What differs from the first."""

    model: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    pixels: Callable[[Examples], Examples] = same
    sides: tuple[int, ...] = SIDES
    crop: int | None = None
    seeds: tuple[int, ...] = (1,)
    """One network each; what they say is averaged."""


AS_SHIPPED = Variant()
VARIANTS = {
    "as shipped": AS_SHIPPED,
    "group normalisation": Variant(model={"norm": "group"}),
    "stamps of unit length": Variant(pixels=to_unit_length),
    "neither difference nor score": Variant(pixels=without(2, 3)),
    "difference and score alone": Variant(pixels=without(0, 1)),
    "cross-entropy of pixels instead of focal": Variant(losses={"pixel_loss": "bce"}),
    "no Dice": Variant(losses={"dice": 0.0}),
    "no segmentation": Variant(losses={"dice": 0.0, "segmentation": 0.0}),
    "visits are averaged": Variant(model={"temporal": False}),
    "never asked where nothing is": Variant(losses={"quiet": 0.0}),
    "whole stamps": Variant(sides=()),
    "one size and never moved": Variant(sides=(), crop=39),
    "three networks": Variant(seeds=(1, 2, 3)),
}


class Changed:
    """A loader whose batches are changed."""

    def __init__(self, loader: Loader, change: Callable[[Examples], Examples]) -> None:
        self.loader, self.change = loader, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Examples]:
        return map(self.change, self.loader)


def learning() -> list[Result]:
    """AUC of each variant, with the rest of what is measured in words."""
    url, views = os.environ["ASTRID_SAMPLES"], int(os.environ.get("ASTRID_VIEWS", VIEWS))
    only = [name for name in os.environ.get("ASTRID_ONLY", "").split(",") if name]
    visits = groups(url, "test")[0]
    several = Catalogue.open(visits).groups[0].visits > 1
    rows = []
    for name, variant in VARIANTS.items():
        if name in only or (not only and (several or name != "visits are averaged")):
            rows.append(_row(url, name, variant, views))
    return rows


def groups(url: str, split: str) -> list[str]:
    """Groups of a split, of every survey of a product."""
    found = [name for name in group_names(Location.parse(url)) if name.endswith(f"/{split}")]
    return [f"{url}#{name}" for name in found]


def _row(url: str, name: str, variant: Variant, views: int) -> Result:
    train = Catalogue.open(groups(url, "train"))
    test = Catalogue.open(groups(url, "test"), train.surveys, train.bands)
    started = process_time()
    models = [trained(train, variant, Sampling(samples=views // EPOCHS), seed) for seed in variant.seeds]
    return judged(f"learning: {name}", models, test, started, variant)


def judged(
    name: str, models: list[UNet], test: Catalogue, started: float, variant: Variant = AS_SHIPPED
) -> Result:
    """A row of the table: what networks say together of a test split; their work began at `started`."""
    told = [predicted(model, test, variant) for model in models]
    moved = [predicted(model, test, variant, MOVED)["p_real"] for model in models]
    said = {key: np.mean([one[key] for one in told], axis=0) for key in told[0]}
    found = measured(said | {"moved": np.mean(moved, axis=0)}, test)
    seconds = process_time() - started
    text = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
    return {
        "name": name,
        "value": found["auc"],
        "unit": "AUC",
        "ratio": None,
        "against": f"{text}, {seconds / 60:.0f} min of one core",
        **found,
        "seconds": seconds,
    }


def trained(
    train: Catalogue, variant: Variant, sampling: Sampling, seed: int = 1, epochs: int = EPOCHS
) -> UNet:
    """A small network after as many epochs of what `sampling` draws."""
    steps = ["flip", *([{"crop": {"side": variant.crop}}] if variant.crop else [])]
    config = TrainConfig(epochs=epochs, seed=seed, metric="loss", patience=epochs, sides=variant.sides)
    loader = Loader(train, config.batch, sampling, Compose.read(steps), seed=seed, threads=1)
    few = Loader(train, config.batch, Sampling(samples=config.batch), seed=seed, threads=1)
    names = {"size": "small", "surveys": train.surveys, "bands": train.bands}
    trainer = Trainer(
        new_model({**names, **variant.model}, seed),
        Changed(loader, variant.pixels),  # type: ignore[arg-type]
        Changed(few, variant.pixels),  # type: ignore[arg-type]
        config,
        LossConfig.read(variant.losses),
    )
    for _ in trainer.run():
        pass
    return trainer.model.eval()


def predicted(
    model: UNet, test: Catalogue, variant: Variant = AS_SHIPPED, moved: tuple[int, int] = (0, 0)
) -> dict[str, NDArray[np.float64]]:
    """Probabilities and places of all test samples, in their order; of stamps cut so that they are moved."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    with torch.inference_mode():
        for examples in Changed(Loader(test, 256, train=False, threads=1), variant.pixels):
            middle = examples.target.shape[-1] // 2
            cut = [slice(max(by, 0), min(by, 0) or None) for by in moved]
            at = examples.places(middle - cut[1].start, middle - cut[0].start)
            part, n = examples.part(*cut), len(examples)
            quiet, there = quiet_peaks(part.pixels, part.target, part.seen, at)
            every = torch.cat([at, quiet])
            told = model(part.pixels, part.seen, part.days, part.band, part.survey, every)
            alarms = torch.where(there > 0, told.real[n:].sigmoid(), torch.nan)
            told = Prediction(told.segmentation, *(values[:n] for values in told[1:]))
            off = torch.hypot(told.position[:, 0] - examples.x, told.position[:, 1] - examples.y)
            found = {"p_real": told.real.sigmoid(), "classes": told.classes.softmax(1), "off": off}
            found["quiet"] = alarms.reshape(-1, n).T
            for key, values in found.items():
                parts.setdefault(key, []).append(values.double().numpy())
    return {key: np.concatenate(values) for key, values in parts.items()}


def measured(told: dict[str, NDArray[Any]], test: Catalogue) -> dict[str, float]:
    """Figures of a test split."""
    usable = test.usable
    columns = {key: test.columns[key][usable] for key in ("class", "label", "snr")}
    real = columns["label"] >= 0.5
    snr = np.abs(columns["snr"]).max(axis=1)
    p = told["p_real"]
    faint = real & (snr >= FAINT[0]) & (snr < FAINT[1])
    cut = np.quantile(p[~real], 1 - FALSE)
    known = columns["class"] < told["classes"].shape[1]
    right = told["classes"].argmax(1)[known] == columns["class"][known]
    bright = real & (snr >= 10)
    return {
        "auc": _auc(p[real], p[~real]),
        "auc_faint": _auc(p[faint], p[~real]),
        "auc_moved": _auc(told["moved"][real], told["moved"][~real]),
        "recall_at_1pct": float((p[real] > cut).mean()),
        "recall_at_half": float((p[real] >= 0.5).mean()),
        "false_at_half": float((p[~real] >= 0.5).mean()),
        **{f"quiet_{name}": _share(p) for name, p in zip(("peaks", "stars"), told["quiet"].T, strict=True)},
        "class_accuracy": float(right.mean()),
        "position_px": float(np.nanmedian(told["off"][bright])),
        "reals": int(real.sum()),
        "bogus": int((~real).sum()),
    }


def _share(p: NDArray[np.float64]) -> float:
    """Of places where nothing is that are told to be real."""
    return float((p[np.isfinite(p)] >= 0.5).mean())


def _auc(real: NDArray[Any], bogus: NDArray[Any]) -> float:
    order = np.sort(bogus)
    below = np.searchsorted(order, real, "left") + np.searchsorted(order, real, "right")
    return float(below.mean() / 2 / len(bogus))


BENCHMARKS = {"learning": learning} if Path(os.environ.get("ASTRID_SAMPLES", "")).name else {}
