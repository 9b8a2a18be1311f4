"""Losses: what counts, what does not, and that every gradient is a number."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.losses import LossConfig, dice_loss, loss, pixel_loss, segmentation_truth
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction, UNet, UNetConfig
from astrid_dist.taxonomy import CLASSES, class_bit, class_code
from tests.learning.dots import dots

CHOICES = [
    LossConfig(pixel_loss=pixel, position_loss=position)
    for pixel, position in (("focal", "nll"), ("bce", "huber"))
]
PARTS = ("segmentation", "dice", "real", "classes", "position", "flux")


def guess(examples: Examples, seed: int = 0, size: float = 1.0) -> Prediction:
    """Predictions at random, each a leaf that takes gradients."""
    random = torch.Generator().manual_seed(seed)
    n, visits, _, height, width = examples.pixels.shape
    classes = len(MODEL_CLASSES)
    shapes = ((n, visits, classes, height, width), (n,), (n, classes), (n, 2), (n, 2), (n, visits))
    parts = [torch.randn(s, generator=random) * size for s in shapes]
    parts[4] = parts[4].clamp(-4.5, 3.5)  # the model's range of log_sigma
    return Prediction(*(part.requires_grad_() for part in parts))


def gradients(prediction: Prediction, examples: Examples, config: LossConfig) -> dict[str, Tensor]:
    total, _ = loss(prediction, examples, config)
    total.backward()
    return {
        name: torch.zeros_like(part) if part.grad is None else part.grad
        for name, part in prediction._asdict().items()
    }


def perfect(examples: Examples) -> Prediction:
    bits, _ = segmentation_truth(examples)
    kinds = torch.nn.functional.one_hot(examples.class_code.clamp(max=10), len(MODEL_CLASSES))
    place = torch.stack([examples.x, examples.y], 1)
    real, flux = (examples.label * 2 - 1) * 20, torch.nan_to_num(examples.flux)
    return Prediction(bits * 40 - 20, real, kinds * 40.0 - 20, place, torch.full((len(place), 2), -4.0), flux)


@pytest.mark.parametrize("config", CHOICES)
def test_the_truth_costs_nothing_and_a_guess_does(config: LossConfig) -> None:
    examples = dots(8, visits=2)
    _, best = loss(perfect(examples), examples, config)
    _, worse = loss(guess(examples), examples, config)
    assert set(best) == set(PARTS)
    for name in PARTS:
        assert best[name] < 1e-3, name
        assert worse[name] > best[name] + 1e-2, name


@pytest.mark.parametrize("config", CHOICES)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_gradients_are_numbers(config: LossConfig, size: float) -> None:
    examples = dots(6, visits=2)
    examples = replace(examples, flux=examples.flux * size**2)
    for name, value in gradients(guess(examples, size=min(size, 50)), examples, config).items():
        assert torch.isfinite(value).all(), name
        assert value.abs().max() < 1e3, name


@pytest.mark.parametrize("config", CHOICES)
def test_a_sample_without_weight_does_nothing(config: LossConfig) -> None:
    examples = dots(6)
    weight = torch.tensor([1.0, 1, 0, 1, 0, 1])
    kept = weight > 0
    examples = replace(examples, weight=weight)
    prediction = guess(examples)
    total, _ = loss(prediction, examples, config)
    for name, value in gradients(prediction, examples, config).items():
        assert (value[~kept] == 0).all(), name
        assert name == "log_sigma" or value[kept].abs().sum() > 0, name
    without = Prediction(*(part[kept] for part in prediction))
    torch.testing.assert_close(total, loss(without, examples[kept], config)[0])


def test_weights_scale_what_a_sample_does() -> None:
    examples = dots(2)
    even, uneven = guess(examples), guess(examples)
    a = gradients(even, examples, LossConfig(dice=0))["real"]
    b = gradients(uneven, replace(examples, weight=torch.tensor([3.0, 1.0])), LossConfig(dice=0))["real"]
    torch.testing.assert_close(b / a, torch.tensor([1.5, 0.5]))


def test_pixels_without_data_and_unseen_visits_do_not_count() -> None:
    examples = dots(4, visits=2)
    pixels = examples.pixels.clone()
    pixels[0, 0, :, 3:6] = torch.nan
    pixels[1, 0, 1] = torch.nan  # one plane is missing: the pixel still counts
    seen = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    examples = replace(examples, pixels=pixels, seen=seen)
    prediction = guess(examples)
    pushed = gradients(prediction, examples, LossConfig())
    ignored = pushed["segmentation"] == 0
    assert ignored[0, 0, :, 3:6].all()
    assert ignored[3, 1].all()
    assert int(ignored.sum()) == len(MODEL_CLASSES) * (3 * 31 + 31 * 31)
    assert pushed["flux"][3, 1] == 0


def test_bogus_of_unknown_kind_teaches_real_against_bogus_alone() -> None:
    examples = dots(2)
    unknown = torch.tensor([CLASSES.index("unknown"), CLASSES.index("unknown")])
    target = torch.zeros_like(examples.target)
    examples = replace(examples, class_code=unknown, target=target, label=torch.tensor([0.0, 0.7]))
    pushed = gradients(guess(examples), examples, LossConfig())
    assert (pushed["real"] != 0).all()
    assert (pushed["classes"] == 0).all()
    assert (pushed["position"] == 0).all()
    assert (pushed["flux"] == 0).all()
    assert (pushed["segmentation"][0, :, :3] != 0).all()  # surely no real change anywhere
    assert (pushed["segmentation"][0, :, 3:] == 0).all()  # bogus of what kind, and where?
    assert (pushed["segmentation"][1] == 0).all()  # perhaps real: nobody knows where


def test_only_real_samples_have_a_place_and_a_flux() -> None:
    examples = dots(4)  # real, bogus, real, bogus
    examples = replace(examples, flux=torch.ones_like(examples.flux), x=torch.tensor([torch.nan, 0, 1, 0]))
    pushed = gradients(guess(examples), examples, LossConfig())
    assert (pushed["position"][[1, 3]] == 0).all()
    assert (pushed["flux"][[1, 3]] == 0).all()
    assert pushed["position"][0, 0] == 0  # unknown column, known row
    assert pushed["position"][0, 1] != 0
    assert (pushed["flux"][[0, 2]] != 0).all()


def test_soft_labels_are_met_at_their_probability() -> None:
    examples = replace(dots(1), label=torch.tensor([0.7]))
    at_label = guess(examples)._replace(real=torch.logit(torch.tensor([0.7])).requires_grad_())
    assert gradients(at_label, examples, LossConfig())["real"].abs() < 1e-6
    bits, _ = segmentation_truth(examples)
    assert float(bits.max()) == pytest.approx(0.7)


def test_target_bits_become_classes_in_their_order() -> None:
    examples = dots(1)
    target = torch.zeros_like(examples.target)
    target[0, 0, 5, 7] = class_bit("moving") | class_bit("noise") | class_bit("transient")
    bits, _ = segmentation_truth(replace(examples, target=target))
    where = bits[0, 0, :, 5, 7].nonzero().flatten().tolist()
    assert where == [class_code("transient"), class_code("moving"), class_code("noise")]
    assert float(bits.sum()) == 3


def test_sigma_of_a_place_is_learned_as_its_scatter() -> None:
    examples = dots(512, size=7)
    random = torch.Generator().manual_seed(2)
    off = torch.randn((512, 2), generator=random) * torch.tensor([0.3, 1.0])
    true = torch.stack([examples.x, examples.y], 1)
    log_sigma = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([log_sigma], lr=0.05)
    for _ in range(150):
        prediction = guess(examples)._replace(position=true + off, log_sigma=log_sigma.expand(512, 2))
        total, _ = loss(prediction, examples, LossConfig(segmentation=0, dice=0, real=0, classes=0, flux=0))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    scatter = off[examples.label > 0.5].pow(2).mean(0).sqrt()
    torch.testing.assert_close(log_sigma.exp().detach(), scatter, rtol=0.02, atol=0)


def test_focal_loss_leaves_out_what_is_easy() -> None:
    bits = torch.zeros((1, 1, len(MODEL_CLASSES), 1, 2))
    counts = torch.ones_like(bits)
    logits = torch.tensor([-4.0, 4.0]).expand_as(bits)  # right, wrong
    shares = {}
    for name in ("bce", "focal"):
        config = LossConfig(pixel_loss=name)
        right = pixel_loss(logits[..., :1], bits[..., :1], counts[..., :1], config)
        shares[name] = right / pixel_loss(logits, bits, counts, config)
    assert shares["focal"] < shares["bce"] / 100
    flat = LossConfig(pixel_loss="focal", gamma=0, alpha=0.5)
    torch.testing.assert_close(
        pixel_loss(logits, bits, counts, flat), pixel_loss(logits, bits, counts, CHOICES[1])
    )


def test_dice_counts_classes_that_are_there() -> None:
    bits = torch.zeros((2, 1, len(MODEL_CLASSES), 4, 4))
    logits = torch.full_like(bits, -20.0)
    assert dice_loss(logits, bits, torch.ones_like(bits)) == 0  # a batch without any positive pixel
    bits[0, 0, 2, :2] = 1
    assert dice_loss(logits, bits, torch.ones_like(bits)) == pytest.approx(1)
    logits[0, 0, 2, :1] = 20  # half of it
    assert dice_loss(logits, bits, torch.ones_like(bits)) == pytest.approx(1 - 2 * 4 / (4 + 8))


@pytest.mark.parametrize("config", CHOICES)
@pytest.mark.parametrize("n", [1, 3])
def test_nothing_to_learn_from_is_no_loss_and_no_gradient(config: LossConfig, n: int) -> None:
    """All-NaN planes, no class, no place, no flux, no weight: zeros, through a whole model."""
    examples = dots(n)
    empty = torch.full_like(examples.pixels, torch.nan)
    unknown = torch.full_like(examples.class_code, CLASSES.index("unknown"))
    nowhere = torch.full_like(examples.x, torch.nan)
    examples = replace(
        examples, pixels=empty, class_code=unknown, x=nowhere, y=nowhere, weight=torch.zeros(n)
    )
    torch.set_num_threads(1)
    model = UNet(UNetConfig(widths=(8, 8), hidden=8, heads=2))
    total, parts = loss(model(examples.pixels, examples.seen), examples, config)
    total.backward()
    assert total.item() == 0
    assert all(float(part) == 0 for part in parts.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    with_weight = replace(examples, weight=torch.ones(n), pixels=dots(n).pixels)
    total, _ = loss(model(with_weight.pixels, examples.seen), with_weight, config)
    total.backward()
    assert total.item() > 0  # real against bogus still counts
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_parts_of_weight_zero_are_left_out() -> None:
    examples = dots(2)
    total, parts = loss(
        guess(examples), examples, LossConfig(segmentation=0, dice=0, position=0, flux=0, real=2)
    )
    assert set(parts) == {"real", "classes"}
    torch.testing.assert_close(total.detach(), 2 * parts["real"] + 0.5 * parts["classes"])


def test_predictions_of_other_samples_are_told() -> None:
    with pytest.raises(InputError, match="call the model without `at`"):
        loss(guess(dots(3)), dots(2), LossConfig())


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"real": -1}, "0 or more"),
        ({"flux": float("nan")}, "0 or more"),
        ({"alpha": 1}, "between 0 and 1"),
        ({"pixel_loss": "mse"}, "bce or focal"),
        ({"position_loss": "l2"}, "nll or huber"),
        ({"tversky": 1}, "tversky"),
    ],
)
def test_wrong_settings_are_told(plain: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read(plain)
