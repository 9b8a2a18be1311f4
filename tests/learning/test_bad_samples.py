"""Samples that are wrong, from the product through the loader to the loop: told, or without harm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astrid_dist.errors import InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.training import Trainer
from tests.learning.dots import dots
from tests.learning.products import product
from tests.learning.test_training import FAST, dot_product, one_thread, trainer

__all__ = ["one_thread"]  # for every test here too
SAMPLES = 64


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dot_product(tmp_path_factory.mktemp("good"), "val", 128)


def dots_without(folder: Path, planes: slice, rows: slice = slice(None)) -> str:
    """Dots of whose stamps some planes of some rows hold NaN alone."""
    made = dots(SAMPLES, size=15, seed=2)
    stamps = made.pixels.numpy()[:, 0].copy()
    stamps[rows, planes] = np.nan
    columns = {
        "class": made.class_code.numpy(),
        "label": made.label.numpy(),
        "offset_x": made.x.numpy()[:, None],
        "offset_y": made.y.numpy()[:, None],
        "flux": made.flux.numpy() * 4,
        "snr": made.snr.numpy(),
    }
    return product(folder, samples=SAMPLES, split="train", side=15, stamps=stamps, columns=columns)


def trained(train: str, validation: str, **changes: Any) -> Trainer:
    one = trainer((train, validation), FAST.model_copy(update={"epochs": 1, **changes}))
    list(one.run())
    return one


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.model.state_dict().items()}


@pytest.mark.parametrize("plane", range(4))
def test_a_plane_without_any_data_is_trained_without(tmp_path: Path, good: str, plane: int) -> None:
    one = trained(dots_without(tmp_path, slice(plane, plane + 1)), good)
    (epoch,) = one.history
    assert np.isfinite([epoch["train_loss"], epoch["val_loss"], epoch["val_auc"]]).all()
    assert epoch["steps_skipped"] == 0
    assert all(torch.isfinite(value).all() for value in weights(one).values())


def test_stamps_without_any_data_teach_nothing(tmp_path: Path, good: str) -> None:
    """Neither are they learned as bogus, nor do they harm those beside them."""
    one = trainer((dots_without(tmp_path / "all", slice(None)), good))
    before = weights(one)
    one.optimizer.param_groups[0]["weight_decay"] = 0.0
    list(one.run())
    assert {epoch["train_loss"] for epoch in one.history} == {0.0}
    for name, value in weights(one).items():
        torch.testing.assert_close(value, before[name])
    some = trained(dots_without(tmp_path / "some", slice(None), slice(0, 20)), good)
    assert 0 < some.history[0]["train_loss"] < 10


@pytest.mark.parametrize("name", ["flux", "snr", "offset_x", "mjd", "sigma_d", "peak"])
def test_numbers_that_are_not_known_do_not_count(tmp_path: Path, good: str, name: str) -> None:
    train = dot_product(tmp_path, samples=SAMPLES)
    of = product(tmp_path / "nan", samples=SAMPLES, side=15, columns={name: np.full((SAMPLES, 1), np.nan)})
    for one in (trained(of, good), trainer((train, of), FAST.model_copy(update={"epochs": 1}))):
        list(one.run())
        assert np.isfinite([one.history[0]["train_loss"], one.history[0]["val_loss"]]).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": np.full(SAMPLES, np.nan)},
            r"#ztf/train: the label of 64 samples is not .* but nan: .*weight 0",
        ),
        ({"label": np.r_[np.ones(63), 2.0]}, r"the label of 1 samples is not from 0, bogus, .* but 2.0"),
        (
            {"class": np.r_[np.zeros(62), 99, 99]},
            r"the class of 2 samples is not one of the 12 classes, but 99",
        ),
    ],
)
def test_labels_that_say_nothing_are_told(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    source = product(tmp_path / "bad", samples=SAMPLES, columns=columns)
    with pytest.raises(InputError, match=message):
        Catalogue.open(source)
    weightless = {**columns, "weight": np.zeros(SAMPLES)}
    Catalogue.open(product(tmp_path / "left out", samples=SAMPLES, columns=weightless))


def test_one_sample_is_trained_on(tmp_path: Path, good: str) -> None:
    one = trained(dot_product(tmp_path, samples=1), good, batch=1)
    assert one.step == 1
    assert np.isfinite(one.history[0]["train_loss"])


def test_one_sample_is_validated_on_by_its_loss(tmp_path: Path, good: str) -> None:
    one = trained(good, dot_product(tmp_path, "val", 1), metric="loss")
    assert np.isnan(one.history[0]["val_auc"])
    assert one.best_model() is not None
    assert np.isfinite(one._best_value or np.nan)


def test_a_class_without_samples_is_neither_learned_nor_measured(tmp_path: Path, good: str) -> None:
    """Dots are point sources and hot pixels: nine classes are empty."""
    train = dot_product(tmp_path, samples=SAMPLES)
    one = trained(train, good)
    told = {name for name in one.history[0] if name.startswith("val_recall_")}
    assert told == {"val_recall_transient", "val_recall_bad_pixel"}
    asked = Sampling(balance=("class",), shares={"variable": 2})
    with pytest.raises(InputError, match=r"stated for \['variable'\].*there are transient, bad_pixel"):
        len(Loader(one.loader.catalogue, 8, asked))


def test_a_rate_at_which_nothing_is_learned_is_told(tmp_path: Path, good: str) -> None:
    one = trainer((dot_product(tmp_path, samples=SAMPLES), good))
    with torch.no_grad():
        one.model.segment.weight.fill_(float("nan"))  # as after a step that was far too long
    with pytest.raises(InputError, match=r"epoch 1: in all 2 steps .* lower `rate`, which is 0.01"):
        list(one.run())
