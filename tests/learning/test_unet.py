"""The U-Net: any size, no data, one visit as many, conditions, learning itself, files."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.losses import LossConfig, loss
from astrid_dist.learning.unet import MODEL_CLASSES, Prediction, UNet, UNetConfig
from tests.learning.dots import dots

TINY = UNetConfig(widths=(8, 8, 16), hidden=32, heads=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As tests share the machine."""
    torch.set_num_threads(1)


def made(config: UNetConfig = TINY, seed: int = 0) -> UNet:
    """A model in evaluation whose every weight does something, those that begin at zero too."""
    torch.manual_seed(seed)
    model = UNet(config)
    for value in model.parameters():
        if value.abs().max() == 0:
            nn.init.normal_(value, std=0.1)
    return model.eval()


def stamps(n: int = 2, visits: int = 1, height: int = 31, width: int = 31, seed: int = 0) -> Tensor:
    return torch.randn((n, visits, 4, height, width), generator=torch.Generator().manual_seed(seed)) * 3


def predict(model: UNet, *args: Tensor, **kwargs: Tensor) -> Prediction:
    with torch.no_grad():
        return model(*args, **kwargs)


def same(one: Prediction, two: Prediction, **kwargs: float) -> None:
    for name in Prediction._fields:
        torch.testing.assert_close(
            getattr(one, name), getattr(two, name), msg=lambda m, name=name: f"{name}: {m}", **kwargs
        )


@pytest.mark.parametrize(("height", "width"), [(63, 63), (64, 64), (1, 1), (7, 50), (33, 18)])
@pytest.mark.parametrize("norm", ["pixel", "group"])
def test_images_of_any_size(height: int, width: int, norm: str) -> None:
    out = predict(made(replace(TINY, norm=norm)), stamps(2, 3, height, width))
    assert out.segmentation.shape == (2, 3, len(MODEL_CLASSES), height, width)
    assert out.real.shape == (2,)
    assert out.classes.shape == (2, len(MODEL_CLASSES))
    assert out.position.shape == out.log_sigma.shape == (2, 2)
    assert out.flux.shape == (2, 3)
    assert all(torch.isfinite(part).all() for part in out)


def test_candidates_anywhere_in_an_image() -> None:
    model, images = made(), stamps(2, 1, 40, 30)
    middle = torch.tensor([[0, 15, 20], [1, 15, 20]])
    same(predict(model, images), predict(model, images, at=middle.float()))
    many = torch.tensor([[1, 3.4, 39.0], [0, 15, 20], [1, -0.4, 0.0], [1, 29.4, 5.2], [0, 3.4, 39.0]])
    out = predict(model, images, at=many)
    assert out.real.shape == (5,)
    torch.testing.assert_close(out.real[1], predict(model, images).real[0])
    assert out.real[0] != out.real[4]
    none = predict(model, images, at=torch.zeros((0, 3)))
    assert none.real.shape == (0,)
    assert none.segmentation.shape == (2, 1, len(MODEL_CLASSES), 40, 30)


def test_shifted_by_the_stride_the_answer_is_shifted() -> None:
    model, stride = made(), TINY.stride
    wide = stamps(1, 1, 96 + stride, 96 + 2 * stride)
    one, two = wide[..., stride:, 2 * stride :], wide[..., :96, :96]
    at = torch.tensor([[0, 48.3, 47.6]])
    a = predict(model, one, at=at)
    b = predict(model, two, at=at + torch.tensor([0.0, 2 * stride, stride]))
    inside = slice(44, 52)  # farther from the border than the convolutions reach
    moved = b.segmentation[..., 44 + stride : 52 + stride, 44 + 2 * stride : 52 + 2 * stride]
    torch.testing.assert_close(a.segmentation[..., inside, inside], moved, rtol=1e-4, atol=1e-5)
    for name in Prediction._fields[1:]:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4)


def test_learning_begins_from_what_is_measured() -> None:
    """Flux of a Gaussian by least squares, place by a window that follows it; either sign, any size."""
    torch.manual_seed(0)
    grid = torch.arange(31.0) - 15
    psf = torch.exp(-0.5 * ((grid[:, None] - 0.3) ** 2 + (grid + 0.4) ** 2) / 1.7**2)
    flux = torch.tensor([1e5, -3e3, 40.0, 0.0])
    pixels = torch.full((4, 1, 4, 31, 31), torch.nan)
    pixels[:, 0, 2] = flux[:, None, None] * psf / psf.sum()
    at = torch.tensor([[0, 14.6, 15.3], [1, 15, 15], [2, 13, 17], [3, 15, 15]])
    out = predict(UNet(TINY).eval(), pixels, at=at)
    torch.testing.assert_close(out.flux[:, 0], flux, rtol=1e-2, atol=1e-3)
    true = torch.tensor([[14.6, 15.3]]) - at[:, 1:]
    torch.testing.assert_close(out.position[:3], true[:3], rtol=0, atol=0.02)
    assert (out.position[3] == 0).all()  # no light


def test_measured_place_is_near_the_limit_of_the_noise() -> None:
    """In white noise no place of a Gaussian is known better than sqrt(2) sigma over SNR (Cramer-Rao)."""
    examples = dots(400, size=17)
    real, bright = examples.label > 0.5, examples.snr[:, 0].abs() > 30
    out = predict(UNet(TINY).eval(), examples.pixels)
    off = out.position - torch.stack([examples.x, examples.y], 1)
    pull = (off / (2**0.5 * 1.3 / examples.snr.abs()))[real & bright]
    assert 0.9 < pull.abs().median() / 0.6745 < 1.3


def test_what_lies_under_no_data_does_not_matter() -> None:
    model, pixels = made(), stamps(3, 2)
    pixels[0, 0, 2, 5:9] = torch.nan
    pixels[1, :, 1] = torch.nan  # a plane that the survey lacks
    pixels[2, 1] = torch.nan  # a visit without any data
    out = predict(model, pixels)
    assert all(torch.isfinite(part).all() for part in out)
    infinite = torch.where(torch.isnan(pixels), torch.inf, pixels)
    same(out, predict(model, infinite), rtol=0, atol=0)
    zero = torch.where(torch.isnan(pixels), 0, pixels)
    assert not torch.equal(out.segmentation, predict(model, zero).segmentation)  # 0 is a measurement


def test_an_unseen_visit_does_not_matter() -> None:
    model, pixels = made(), stamps(2, 3)
    seen = torch.tensor([[True, False, True], [True, True, False]])
    days = torch.tensor([[0.0, 4.0, 9.0], [0.0, 1.0, 2.0]])
    out = predict(model, pixels, seen=seen, days=days)
    other = torch.where(seen[:, :, None, None, None], pixels, 1e4)
    later = torch.where(seen, days, torch.nan)
    changed = predict(model, other, seen=seen, days=later)
    for name in ("real", "classes", "position", "log_sigma"):
        torch.testing.assert_close(getattr(out, name), getattr(changed, name))
    torch.testing.assert_close(out.segmentation[seen], changed.segmentation[seen])
    torch.testing.assert_close(out.flux[seen], changed.flux[seen])


def test_one_visit_is_as_if_there_were_no_attention() -> None:
    model, pixels = made(), stamps(3)
    alone = UNet(replace(TINY, temporal=False)).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if k in alone.state_dict()})
    same(predict(model, pixels, days=torch.full((3, 1), 777.0)), predict(alone, pixels), rtol=0, atol=0)
    # Of three places only one is seen: the same again.
    padded = torch.cat([stamps(3, 1, seed=1), pixels, stamps(3, 1, seed=2)], 1)
    seen = torch.tensor([False, True, False]).expand(3, 3)
    out, one = predict(model, padded, seen=seen), predict(model, pixels)
    torch.testing.assert_close(out.real, one.real)
    torch.testing.assert_close(out.segmentation[:, 1], one.segmentation[:, 0])
    torch.testing.assert_close(out.flux[:, 1], one.flux[:, 0], rtol=1e-3, atol=1e-3)


def test_every_weight_takes_part_in_training_on_single_visits() -> None:
    """So that workers that train together agree on what there is to add up."""
    model, examples = made().train(), dots(2, size=9)
    loss(model(examples.pixels), examples, LossConfig())[0].backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    attention = model.visits
    assert attention is not None
    x = torch.randn(2, 1, 5, TINY.widths[-1])
    one = attention(x, torch.zeros(2, 1), torch.ones((2, 1), dtype=torch.bool))
    assert torch.equal(one, x)  # nothing is added in training either


def test_visits_in_another_order_and_from_another_day() -> None:
    model, pixels = made(), stamps(2, 4)
    days = torch.tensor([[0.0, 0.02, 5.0, 90.0], [0.0, 3.0, 3.5, 400.0]])
    seen = torch.tensor([[True, True, True, True], [True, True, False, True]])
    out = predict(model, pixels, seen=seen, days=days)
    order = torch.tensor([2, 0, 3, 1])
    turned = predict(model, pixels[:, order], seen=seen[:, order], days=days[:, order] + 16)
    straight = out._replace(segmentation=out.segmentation[:, order], flux=out.flux[:, order])
    same(straight, turned, rtol=1e-4, atol=1e-5)


def test_other_visits_and_their_times_matter() -> None:
    model, pixels = made(), stamps(2, 3)
    near = predict(model, pixels, days=torch.tensor([[0.0, 1.0, 2.0]] * 2))
    far = predict(model, pixels, days=torch.tensor([[0.0, 40.0, 300.0]] * 2))
    assert (near.real - far.real).abs().min() > 1e-5
    other = pixels.clone()
    other[:, 2] = stamps(2, 1, seed=9)[:, 0] + 5
    assert not torch.allclose(near.segmentation[:, 0], predict(model, other).segmentation[:, 0])


def test_band_and_survey_matter_and_unknown_is_a_choice() -> None:
    model = made(replace(TINY, bands=("ztf/g", "ztf/r"), surveys=("ztf",)))
    pixels = stamps(1)
    unknown = predict(model, pixels)
    same(
        unknown,
        predict(
            model, pixels, band=torch.zeros((1, 1), dtype=torch.long), survey=torch.zeros(1, dtype=torch.long)
        ),
    )
    outs = [predict(model, pixels, band=torch.tensor([[b]])).real for b in range(3)]
    outs.append(predict(model, pixels, survey=torch.tensor([1])).real)
    assert len({float(out) for out in outs}) == 4
    with pytest.raises(InputError, match=r"the model knows 0 \(unknown\) to 2"):
        model(pixels, band=torch.tensor([[3]]))


def test_training_hides_conditions_so_that_unknown_is_learned() -> None:
    config = replace(TINY, bands=("a/g",), surveys=("a",), hide_condition=0.5)
    model = made(config).train()
    band, survey = torch.ones((64, 1), dtype=torch.long), torch.ones(64, dtype=torch.long)
    model(stamps(64, height=8, width=8), band=band, survey=survey).real.sum().backward()
    assert (model.band.weight.grad.abs().sum(1) > 0).all()  # row 0, unknown, as well
    assert (model.survey.weight.grad.abs().sum(1) > 0).all()


def test_a_model_goes_on_with_other_surveys() -> None:
    model = made(replace(TINY, bands=("ztf/g", "ztf/r"), surveys=("ztf",)))
    pixels = stamps(1)
    wider = model.with_conditions(("hsc/g", "ztf/r"), ("hsc", "ztf"))
    as_before = predict(model, pixels, band=torch.tensor([[2]]), survey=torch.tensor([1]))
    same(as_before, predict(wider, pixels, band=torch.tensor([[2]]), survey=torch.tensor([2])))
    new = predict(wider, pixels, band=torch.tensor([[1]]), survey=torch.tensor([1]))
    same(new, predict(model, pixels))  # a new name begins as unknown


def test_learns_dots_in_seconds() -> None:
    """64 stamps: every one told apart, place within 0.2 pixels, signs of flux right."""
    examples = dots(64, size=17)
    torch.manual_seed(1)
    model = UNet(replace(TINY, dropout=0.0)).train()
    steps = 80
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        total, _ = loss(model(examples.pixels, examples.seen, examples.days), examples, LossConfig())
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    out = predict(model.eval(), examples.pixels)
    real = examples.label > 0.5
    assert ((out.real > 0) == real).all()
    assert (out.classes.argmax(1) == examples.class_code).float().mean() > 0.98
    off = (out.position - torch.stack([examples.x, examples.y], 1))[real]
    assert off.pow(2).mean().sqrt() < 0.2
    ratio = (out.flux / examples.flux)[real]
    assert ratio.min() > 0
    assert ratio.log().abs().median() < 0.1
    told = (out.segmentation[:, 0, 0] > 0) & real[:, None, None]
    true = (examples.target[:, 0] & 1) > 0
    assert (told & true).sum() / (told | true).sum() > 0.5


def test_bfloat16_is_close() -> None:
    model, pixels = made(), stamps(4, 2)
    exact = predict(model, pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = predict(model, pixels)
    for name in Prediction._fields:
        a, b = getattr(exact, name), getattr(rough, name)
        assert b.dtype == torch.float32
        assert (a - b).pow(2).mean().sqrt() < 0.05 * a.pow(2).mean().sqrt() + 0.02, name


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (torch.zeros(2, 4, 31, 31), "n, visit, plane"),
        (torch.zeros(2, 1, 3, 31, 31), "fill a plane that is missing"),
    ],
)
def test_wrong_shapes_are_told(pixels: Tensor, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        made()(pixels)


def test_a_candidate_without_an_image_is_told() -> None:
    with pytest.raises(InputError, match="image 2"):
        made()(stamps(2), at=torch.tensor([[2.0, 3, 3]]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"widths": [8]}, "two or more levels"),
        ({"norm": "batch"}, "pixel or group"),
        ({"heads": 3}, "must divide"),
        ({"dropout": 1.0}, "below 1"),
        ({"bands": ["a/g", "a/g"]}, "twice"),
        ({"depth": 4}, "another version"),
    ],
)
def test_wrong_configurations_are_told(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        UNetConfig.read({**TINY.plain(), **changes})


def test_sizes_span_the_range() -> None:
    counts = [
        sum(p.numel() for p in UNet(UNetConfig.named(size)).parameters())
        for size in ("small", "medium", "large")
    ]
    assert counts == sorted(counts)
    assert counts[0] > 1e5
    assert counts[-1] < 8e6
    with pytest.raises(ConfigError, match="small, medium, large"):
        UNetConfig.named("huge")


def test_configuration_survives_json_and_its_digest_tells_architectures_apart() -> None:
    assert UNetConfig.read(TINY.plain()) == TINY
    assert UNetConfig.read(TINY.plain()).digest == TINY.digest
    assert replace(TINY, norm="group").digest != TINY.digest


def test_imports_numpy_and_torch_alone() -> None:
    code = (
        "import sys, astrid_dist.learning.unet, astrid_dist.learning.losses, astrid_dist.learning.model_file;"
        "heavy = {'zarr', 'dask', 'ray', 'xarray', 'mlflow', 'pandas', 'scipy', 'pydantic'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning")  # of torch's own compiler
def test_traced_whole_it_gives_the_same_answers_and_gradients() -> None:
    """What `torch.compile` traces, both ways and in one piece, run without making code of it."""
    model, examples = made(), dots(4, visits=2, size=15)
    outs, grads = [], []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        outs.append(run(examples.pixels, seen=examples.seen, days=examples.days))
        loss(outs[-1], examples, LossConfig())[0].backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    same(*outs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler at work
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning")
def test_compiled_gives_the_same() -> None:
    model, pixels = made(replace(TINY, widths=(8, 8))), stamps(2, 1, 15, 15)
    with torch.no_grad():
        same(predict(model, pixels), torch.compile(model, fullgraph=True)(pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_exported_with_any_number_of_stamps() -> None:
    model = made()
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(model, (stamps(3),), dynamic_shapes=({0: batch},)).module()
    for n in (2, 7):
        same(predict(model, stamps(n, seed=n)), exported(stamps(n, seed=n)), rtol=1e-4, atol=1e-5)


def test_an_image_that_goes_on_beyond_its_border_has_none():
    torch.manual_seed(3)
    model = UNet(UNetConfig.named("small")).eval()
    flat = torch.full((1, 1, 4, 40, 48), 0.7)
    with torch.no_grad():
        told = model(flat).segmentation[0, 0]
    assert torch.allclose(told, told[:, :1, :1].expand_as(told), atol=1e-4)
