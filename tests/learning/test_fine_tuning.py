"""A survey with few labels: its model, tuned from a base, against a new model and the base itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.losses import LossConfig
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.training import HEADS, Trainer, evaluate, new_model
from astrid_dist.learning.unet import UNet
from tests.learning.dots import dots
from tests.learning.products import product
from tests.learning.test_training import one_thread

pytestmark = pytest.mark.slow
__all__ = ["one_thread"]  # for every test here too
#: The second survey is sharper, so that its stars resemble hot pixels of the first, and its noise is smooth.
SKIES: dict[str, dict[str, float]] = {"ztf": {"psf": 1.3}, "ps1": {"psf": 0.75, "smooth": 0.4}}
LABELS = 64
MODEL = {"size": "small", "widths": (8, 16), "hidden": 32, "heads": 2, "condition": 4}


def sky(folder: Path, survey: str, split: str, samples: int, seed: int) -> str:
    made = dots(samples, size=15, seed=seed, **SKIES[survey])
    columns: dict[str, Any] = {
        "class": made.class_code.numpy(),
        "label": made.label.numpy(),
        "offset_x": made.x.numpy()[:, None],
        "offset_y": made.y.numpy()[:, None],
        "flux": made.flux.numpy() * 4,
        "snr": made.snr.numpy(),
    }
    stamps = made.pixels.numpy()[:, 0]
    return product(
        folder / split, survey, samples, split=split, side=15, bands=("g",), stamps=stamps, columns=columns
    )


class Skies:
    """Products of both surveys, and the base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, str], str] = {}

    def group(self, survey: str, split: str, samples: int, seed: int) -> str:
        name = (survey, split)
        if name not in self.made:
            self.made[name] = sky(self.folder, survey, split, samples, seed)
        return self.made[name]

    def tuned(self, model: UNet, survey: str, samples: int, **settings: Any) -> UNet:
        config = TrainConfig.model_validate({"metric": "loss", "patience": 100, "seed": 1, **settings})
        known = model.config
        train, validation = (
            Catalogue.open(self.group(survey, split, number, seed), known.surveys, known.bands)
            for split, number, seed in (("train", samples, 1), ("val", LABELS, 2))
        )
        loaders = Loader(train, config.batch, seed=1), Loader(validation, config.batch, train=False)
        one = Trainer(model, *loaders, config, LossConfig())
        list(one.run())
        return one.best_model()

    def measured(self, model: UNet, survey: str) -> dict[str, float]:
        known = model.config
        test = Catalogue.open(self.group(survey, "test", 512, 3), known.surveys, known.bands)
        return evaluate(model, Loader(test, 256, train=False), TrainConfig(), LossConfig()).metrics()


@pytest.fixture(scope="module")
def skies(tmp_path_factory: pytest.TempPathFactory) -> Skies:
    return Skies(tmp_path_factory.mktemp("skies"))


@pytest.fixture(scope="module")
def base(skies: Skies) -> UNet:
    """Trained on 1024 samples of the first survey."""
    new = new_model({**MODEL, "surveys": ("ztf",), "bands": ("ztf/g",)}, 1)
    return skies.tuned(new, "ztf", 1024, epochs=8, batch=64, rate=1e-2)


def for_both(base: UNet) -> UNet:
    return base.with_conditions(("ztf/g", "ps1/g"), ("ztf", "ps1"))


@pytest.mark.parametrize(("tune", "rate"), [("heads", 2e-3), ("all", 5e-3)])
def test_with_few_labels_a_tuned_base_is_better_than_it_was_and_than_a_new_model(
    skies: Skies, base: UNet, tune: str, rate: float
) -> None:
    """Rates are the best of those tried, 1e-3 to 1e-2, also for the new model."""
    few = {"epochs": 10, "batch": 16}
    tuned = skies.tuned(for_both(base), "ps1", LABELS, rate=rate, tune=tune, **few)
    anew = new_model({**MODEL, "surveys": ("ps1",), "bands": ("ps1/g",)}, 1)
    found = {
        "tuned": skies.measured(tuned, "ps1"),
        "untouched": skies.measured(for_both(base), "ps1"),
        "new": skies.measured(skies.tuned(anew, "ps1", LABELS, rate=1e-2, **few), "ps1"),
    }
    for other in ("untouched", "new"):
        assert found["tuned"]["auc"] > found[other]["auc"], found
        assert found["tuned"]["real"] < found[other]["real"] - 0.03, found  # log loss of real against bogus
        assert found["tuned"]["loss"] < found[other]["loss"] - 0.1, found


def test_heads_alone_leave_the_rest_as_it_was(skies: Skies, base: UNet) -> None:
    tuned = skies.tuned(for_both(base), "ps1", LABELS, rate=2e-3, tune="heads", epochs=2, batch=16)
    for name, value in for_both(base).state_dict().items():
        same = torch.equal(tuned.state_dict()[name], value)
        if name.split(".")[0] not in HEADS:
            assert same, name
    assert not torch.equal(tuned.survey.weight[2], for_both(base).survey.weight[2])
