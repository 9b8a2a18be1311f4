"""The loop: it learns, stops, goes on where it was stopped, and refuses what is not its own."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from astrid_dist.learning.losses import LossConfig
from astrid_dist.learning.measures import Measures
from astrid_dist.learning.settings import TrainConfig
from astrid_dist.learning.training import HEADS, Trainer, evaluate, new_model
from astrid_dist.learning.unet import UNet, UNetConfig
from astrid_dist.taxonomy import CLASSES
from tests.learning.dots import dots
from tests.learning.products import product

TINY: dict[str, Any] = {"size": "small", "widths": (4, 8), "hidden": 16, "heads": 2, "condition": 4}
FAST = TrainConfig(epochs=3, batch=32, rate=1e-2, warmup=0.2, patience=10)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def dot_product(folder: Path, split: str = "train", samples: int = 256, **changes: Any) -> str:
    """A product of dots in the stamps' middles, half point sources, half hot pixels."""
    made = dots(samples, size=15, seed=len(split))
    columns: dict[str, Any] = {
        "class": made.class_code.numpy(),
        "label": made.label.numpy(),
        "offset_x": made.x.numpy()[:, None],
        "offset_y": made.y.numpy()[:, None],
        "flux": made.flux.numpy() * 4,
        "snr": made.snr.numpy(),
    }
    stamps = made.pixels.numpy()[:, 0]
    where = folder / split
    return product(where, samples=samples, split=split, side=15, stamps=stamps, columns=columns, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("dots")
    return dot_product(folder), dot_product(folder, "val", 128)


def trainer(data: tuple[str, str], config: TrainConfig = FAST, **changes: Any) -> Trainer:
    train = Catalogue.open(data[0])
    test = Catalogue.open(data[1], train.surveys, train.bands)
    model = new_model({**TINY, "bands": train.bands, "surveys": train.surveys, **changes}, config.seed)
    loader = Loader(train, config.batch, seed=config.seed)
    return Trainer(model, loader, Loader(test, config.batch, train=False), config, LossConfig())


def test_it_learns_to_tell_stars_from_hot_pixels_in_seconds(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"epochs": 8, "rate": 3e-2}), dropout=0.0)
    epochs = [moment.metrics for moment in one.run()]
    assert [e["epoch"] for e in epochs if e] == list(range(1, 9))
    assert epochs[-1] is not None
    assert epochs[0] is not None
    assert epochs[-1]["val_auc"] > 0.95
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    found = evaluate(one.best_model(), one.validation, one.config, one.losses).metrics()
    assert found["auc"] == max(e["val_auc"] for e in epochs if e)


def test_stopped_within_an_epoch_it_ends_with_the_same_weights(data: tuple[str, str]) -> None:
    config = FAST.model_copy(update={"epochs": 2, "accumulate": 2, "keep_every": 1, "seed": 3})
    whole = trainer(data, config)
    assert [moment.metrics is None for moment in whole.run()] == [True, True, True, False] * 2
    first = trainer(data, config)
    running = first.run()
    for _ in range(6):  # the second step of the second epoch
        moment = next(running)
    assert (moment.epoch, moment.metrics) == (1, None)
    state = first.state_bytes()
    running.close()
    second = trainer(data, config)
    second.load_state(state, "state")
    assert second.loader.position == 4
    list(second.run())
    for ours, theirs in zip(second.history, whole.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=0, nan_ok=True)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)


def test_accumulated_gradients_are_those_of_one_larger_batch(data: tuple[str, str]) -> None:
    """Without dropout, and where each batch has as many of everything that losses are means over."""
    examples = dots(32, size=15)
    plain = {"dropout": 0.0, "hide_condition": 0.0}
    gradients = []
    for config, parts in ((FAST, 1), (FAST.model_copy(update={"accumulate": 2}), 2)):
        one = trainer(data, config.model_copy(update={"clip": 1e9}), **plain)
        one.losses = LossConfig(segmentation=0, dice=0, position=0, flux=0, classes=0)
        one.optimizer.zero_grad = lambda: None  # type: ignore[method-assign, assignment]
        one.model.train()
        for part in range(parts):
            rows = torch.arange(32)[part * 32 // parts : (part + 1) * 32 // parts]
            one._learn(examples[rows], 0, part + 1, parts)
        gradients.append([p.grad for p in one.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_it_stops_when_nothing_becomes_better(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"epochs": 9, "patience": 2, "rate": 1e-30}))
    list(one.run())
    assert len(one.history) == 3
    assert one.finished


def test_heads_alone_are_tuned_where_that_is_asked_for(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"epochs": 1, "tune": "heads"}))
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    list(one.run())
    changed = {name.split(".")[0] for name, v in one.model.state_dict().items() if (v != before[name]).any()}
    assert changed
    assert changed <= set(HEADS)


def test_bf16_learns_as_well(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"epochs": 5, "rate": 3e-2, "precision": "bf16"}), dropout=0.0)
    list(one.run())
    assert one.history[-1]["val_auc"] > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch uses what it calls deprecated
@pytest.mark.timeout(900)  # the compiler takes minutes where it has nothing in its cache
def test_a_compiled_network_learns_the_same_and_its_checkpoint_is_like_any_other(
    data: tuple[str, str],
) -> None:
    plain = FAST.model_copy(update={"epochs": 1, "clip": 1e9})
    runs = {}
    for name in (False, True):
        one = trainer(data, plain.model_copy(update={"compile": name}), dropout=0.0)
        list(one.run())
        runs[name] = one
    for ours, theirs in zip(runs[False].history, runs[True].history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    after = trainer(data, plain)
    after.load_state(runs[True].state_bytes(), "compiled")
    assert after.step == runs[True].step


@pytest.mark.filterwarnings("default")
def test_without_a_compiler_it_says_so(data: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/no/such/g++"))
    with pytest.raises(ConfigError, match=r"torch\.compile does not work here .* install a C\+\+ compiler"):
        trainer(data, FAST.model_copy(update={"compile": True}))


def test_a_batch_that_cannot_be_learned_from_is_passed_over(data: tuple[str, str]) -> None:
    one = trainer(data)
    before = [part.detach().clone() for part in one.model.parameters()]
    bad = dots(32, size=15)
    bad.label[:] = torch.nan
    one.model.train()
    one._learn(bad, 0, 1, 8)
    assert one._skipped == 1
    for part, was in zip(one.model.parameters(), before, strict=True):
        torch.testing.assert_close(part.detach(), was)


def test_a_checkpoint_of_another_architecture_is_refused(data: tuple[str, str]) -> None:
    state = trainer(data).state_bytes()
    with pytest.raises(ConfigError, match=r"run/state.*another architecture, hidden is 16, here 32"):
        trainer(data, hidden=32).load_state(state, "run/state")


def test_a_checkpoint_that_would_run_code_is_refused(data: tuple[str, str]) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("harm",))

    file = io.BytesIO()
    torch.save({"format": "astrid_dist training 1", "step": Harm()}, file)
    for content in (
        file.getvalue(),
        pickle.dumps(Harm(), protocol=2),
        b"",
        trainer(data).state_bytes()[:-2000],
    ):
        with pytest.raises(InputError, match="damaged"):
            trainer(data).load_state(content, "run/state")


def test_validation_without_bogus_samples_is_told(tmp_path: Path, data: tuple[str, str]) -> None:
    only = product(tmp_path, split="val", samples=64, side=15, columns={"label": np.ones(64)})
    with pytest.raises(InputError, match=r"64 real and 0 bogus.*metric: loss"):
        list(trainer((data[0], only)).run())


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    config = TrainConfig(epochs=10, warmup=2, rate=1.0)
    rates = [config.rate_at(epoch) for epoch in np.arange(0, 10.5, 0.5)]
    assert rates[0] == 0
    assert max(rates) == rates[4] == 1
    assert rates[-1] == pytest.approx(0)
    assert np.all(np.diff(rates[:5]) > 0)
    assert np.all(np.diff(rates[4:]) < 0)


def test_better_knows_which_way_a_metric_goes() -> None:
    auc, loss = TrainConfig(metric="auc"), TrainConfig(metric="loss")
    assert auc.better(0.9, 0.8)
    assert loss.better(0.1, 0.2)
    assert not auc.better(math.nan, None)
    assert auc.better(0.1, math.nan)


def test_metrics_of_batches_are_those_of_the_whole_and_of_scikit_learn() -> None:
    truth = dots(200, size=15)
    model = UNet(UNetConfig.named("small")).eval()
    with torch.inference_mode():
        told = model(truth.pixels)
        told = told._replace(real=truth.label * 1.5 + torch.randn(200, generator=torch.manual_seed(1)))
    parts = {"loss": torch.tensor(2.0)}
    whole, pieces = Measures(), Measures()
    whole.add(told, truth, parts)
    for part in (slice(0, 70), slice(70, 200)):
        pieces.add(type(told)(*(values[part] for values in told)), truth[part], parts)
    found = whole.metrics()
    assert found == pytest.approx(pieces.metrics(), nan_ok=True)
    assert found["auc"] == pytest.approx(roc_auc_score(truth.label, told.real), abs=1e-3)
    real = truth.label > 0.5
    said = told.real > 0
    assert found["precision"] == pytest.approx(float((real & said).sum() / said.sum()))
    assert found["recall"] == pytest.approx(float((real & said).sum() / real.sum()))
    off = torch.hypot(told.position[:, 0] - truth.x, told.position[:, 1] - truth.y)[real]
    assert found["position_px"] == pytest.approx(float(off.median()), rel=0.03)
    code = CLASSES.index("transient")
    right = (told.classes.argmax(1) == code)[truth.class_code == code]
    assert found["recall_transient"] == pytest.approx(float(right.float().mean()))
    mean, share, counts = whole.reliability()
    assert counts.sum() == 200
    assert (np.diff(mean) > 0).all()
    assert share @ counts == pytest.approx(real.sum())


def test_parts_of_stamps_keep_their_middle_at_every_place_of_the_grids(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"sides": (9, 11)}))
    whole = next(iter(one.loader))
    middle = whole.pixels.shape[-1] // 2
    grid = set()
    for number in range(60):
        part, at = one._part(whole, f"batch {number}")
        assert at is not None
        assert part.pixels.shape[-1] in (9, 11)
        assert torch.equal(at[:, 0], torch.arange(len(whole), dtype=torch.float32))
        x, y = int(at[0, 1]), int(at[0, 2])
        torch.testing.assert_close(part.pixels[..., y, x], whole.pixels[..., middle, middle], equal_nan=True)
        grid.add((x % one.model.config.stride, y % one.model.config.stride))
    assert len(grid) == one.model.config.stride**2
    first, again = (trainer(data, one.config)._part(whole, "batch 1")[1] for _ in range(2))
    assert torch.equal(first, again)


def test_what_was_trained_on_parts_says_the_same_of_whole_stamps(data: tuple[str, str]) -> None:
    one = trainer(data, FAST.model_copy(update={"epochs": 8, "rate": 3e-2, "sides": (9, 11)}), dropout=0.0)
    metrics = [moment.metrics for moment in one.run() if moment.metrics]
    assert metrics[-1]["val_auc"] > 0.95
