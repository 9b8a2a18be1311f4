"""Tiles tell what one pass over the whole image tells."""

import numpy as np
import pytest
import torch

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning import inference
from astrid_dist.learning.inference import EACH_CLASS, REAL_BOGUS, Box, predict_image, proposals
from astrid_dist.learning.unet import MODEL_CLASSES, UNet, UNetConfig
from astrid_dist.taxonomy import REAL


def network(seed: int = 1, **changes: object) -> UNet:
    """Random weights everywhere, also where learning begins from zero."""
    torch.manual_seed(seed)
    names = {"surveys": ("ztf",), "bands": ("ztf/g", "ztf/r")}
    model = UNet(UNetConfig.named("small", **{**names, "hidden": 32, **changes}))
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                value.normal_(0, 0.1)
    return model.eval()


def image(height: int, width: int, visits: int = 1, seed: int = 0) -> torch.Tensor:
    """Noise with sources, holes, and columns without data."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randn((visits, 4, height, width), generator=random) * 2
    for _ in range(height * width // 300):
        y, x = (int(torch.randint(0, side, (1,), generator=random)) for side in (height, width))
        pixels[:, :, y : y + 3, x : x + 3] += 30
    pixels[:, :, : height // 5, width // 3 : width // 2] = torch.nan
    pixels[-1, 2:, height // 2, :] = torch.nan
    return pixels


def places(height: int, width: int, n: int = 40, seed: int = 3) -> np.ndarray:
    """Anywhere, and in the corners."""
    random = np.random.default_rng(seed)
    some = random.uniform(-0.5, [width - 0.5, height - 0.5], (n, 2)).astype("f4")
    corners = [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]
    return np.concatenate([some, np.array(corners, "f4")])


def whole(model: UNet, pixels: torch.Tensor, at: np.ndarray, **told: object) -> dict[str, np.ndarray]:
    """One pass over everything."""
    where = torch.as_tensor(np.column_stack([np.zeros(len(at)), at]), dtype=torch.float32)
    with torch.inference_mode():
        found = model(pixels[None], at=where, **told)
    return {
        "segmentation": found.segmentation[0].sigmoid().numpy(),
        "real": found.real.sigmoid().numpy(),
        "classes": found.classes.softmax(1).numpy(),
        "position": found.position.numpy(),
        "sigma": found.log_sigma.exp().numpy(),
        "flux": found.flux.numpy(),
    }


def assert_same(told: inference.ImagePrediction, expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(told, name), values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "tile", "batch"),
    [((203, 317), 96, 1), ((203, 317), 64, 3), ((211, 150), 50, 2), ((61, 75), 40, 4), ((9, 5), 8, 1)],
)
def test_tiles_tell_what_the_whole_tells(shape: tuple[int, int], tile: int, batch: int) -> None:
    model, pixels, at = network(), image(*shape), places(*shape)
    told = predict_image(model, pixels, at, tile=tile, batch=batch)
    assert told.maps == MODEL_CLASSES
    expected = whole(model, pixels, at)
    assert np.ptp(expected["segmentation"], axis=(0, 2, 3)).max() > 0.02  # there is something to get wrong
    assert_same(told, expected)


def test_several_visits_of_known_bands_of_which_one_is_missing() -> None:
    model, pixels, at = network(), image(140, 220, visits=3), places(140, 220)
    band, survey = inference.codes_of(model.config, "ztf", ["r", "g", "z"])
    assert (band, survey) == ([2, 1, 0], 1)
    days, seen = [0.0, 4.5, 9.0], [True, True, False]
    told = predict_image(model, pixels, at, band=band, survey=survey, days=days, seen=seen, tile=72)
    alone = predict_image(model, pixels, at, tile=72)
    expected = whole(
        model,
        pixels,
        at,
        band=torch.tensor([band]),
        survey=torch.tensor([survey]),
        days=torch.tensor([days]),
        seen=torch.tensor([seen]),
    )
    assert_same(told, expected)
    assert np.abs(alone.real - told.real).max() > 1e-3
    with pytest.raises(InputError, match="2 values for 3 visits"):
        predict_image(model, pixels, band=[0, 0])


def test_a_halo_less_than_the_reach_is_seen_and_the_reach_is_where_answers_come_from() -> None:
    config = network().config
    halo, reach = inference.halo_of(config), inference.reach_of(config)
    assert halo % config.stride == 0
    assert reach <= halo < reach + config.stride
    # By gradient: how far from a pixel, and from a candidate, an answer still depends on the image.
    model, side = network(widths=(4, 4, 4, 4)), 160
    farthest = 0
    for place in range(76, 84):
        pixels = torch.randn((1, 1, 4, side, side), generator=torch.Generator().manual_seed(2))
        pixels.requires_grad_()
        at = torch.tensor([[0.0, place + 0.3, place - 0.3]])
        found = model(pixels, at=at)
        (found.segmentation[..., place, place].sum() + found.real.sum() + found.log_sigma.sum()).backward()
        assert pixels.grad is not None
        rows = torch.nonzero(pixels.grad.abs().sum((0, 1, 2, 4)))[:, 0]
        farthest = max(farthest, int((rows - place).abs().max()))
    assert farthest == reach
    pixels = image(300, 300)
    at = places(300, 300)
    short = predict_image(model, pixels, at, tile=64, halo=16)
    assert np.abs(short.segmentation - whole(model, pixels, at)["segmentation"]).max() > 1e-4


def test_every_depth_has_its_own_halo() -> None:
    for widths in ((4, 8), (4, 8, 8), (4, 4, 4, 4, 4)):
        model = network(widths=widths)
        pixels, at = image(200, 290), places(200, 290, n=15)
        assert_same(predict_image(model, pixels, at, tile=128), whole(model, pixels, at))


def test_maps_of_several_classes_hold_the_most_probable_one() -> None:
    model, pixels = network(), image(90, 110)
    each = predict_image(model, pixels, tile=64).segmentation
    told = predict_image(model, pixels, tile=64, maps=REAL_BOGUS)
    assert told.maps == ("real", "bogus")
    np.testing.assert_allclose(told.segmentation[:, 0], each[:, : len(REAL)].max(1), atol=1e-6)
    np.testing.assert_allclose(told.segmentation[:, 1], each[:, len(REAL) :].max(1), atol=1e-6)
    assert tuple(EACH_CLASS) == MODEL_CLASSES


def test_a_region_is_seen_with_what_is_around_it() -> None:
    model, pixels, at = network(), image(240, 300), places(240, 300)
    box = Box(64, 131, 80, 200)
    inside = at[(at[:, 0] > 79.5) & (at[:, 0] < 199.5) & (at[:, 1] > 63.5) & (at[:, 1] < 130.5)]
    assert len(inside) >= 3
    told = predict_image(model, pixels, inside, region=box, tile=64)
    expected = whole(model, pixels, inside)
    expected["segmentation"] = expected["segmentation"][..., 64:131, 80:200]
    assert_same(told, expected)
    with pytest.raises(InputError, match="no part"):
        predict_image(model, pixels, region=Box(0, 241, 0, 300))


def test_candidates_alone_cost_only_their_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = network(), image(512, 512)
    at = places(512, 512, n=2)[:2]
    expected = whole(model, pixels, at)
    del expected["segmentation"]
    seen: list[int] = []
    forward = UNet.forward

    def counted(self: UNet, pixels: torch.Tensor, **told: torch.Tensor) -> object:
        seen.append(pixels.shape[-1] * pixels.shape[-2])
        return forward(self, pixels, **told)

    monkeypatch.setattr(UNet, "forward", counted)
    told = predict_image(model, pixels, at, maps={})
    assert told.segmentation.shape == (1, 0, 512, 512)
    assert_same(told, expected)
    assert sum(seen) < 0.4 * 512**2
    seen.clear()
    assert len(predict_image(model, pixels, np.zeros((0, 2)), maps={}).real) == 0
    assert not seen


def test_bf16_differs_by_little() -> None:
    model, pixels, at = network(), image(100, 100), places(100, 100)
    exact = predict_image(model, pixels, at)
    told = predict_image(model, pixels, at, precision="bf16")
    assert 0 < np.abs(told.real - exact.real).max() < 0.05


def test_peaks_of_a_map_are_the_middles_of_what_it_marks() -> None:
    model = np.zeros((60, 80), np.float32)
    y, x = np.mgrid[:60, :80]
    for place in ((20, 30), (20, 41), (50, 70)):
        model = np.maximum(model, np.clip(2.5 - np.hypot(y - place[0], x - place[1]) / 2, 0, 0.99))
    model[0, 0], model[40, 5] = 0.9, np.nan
    model[30, 20] = 0.4
    found = proposals(model.astype(np.float32))
    assert {tuple(one) for one in found.tolist()} == {(30, 20), (41, 20), (70, 50), (0, 0)}
    assert found[-1].tolist() == [0, 0]  # one pixel is least sure
    assert len(proposals(np.zeros((5, 5), np.float32))) == 0
    flat = np.ones((9, 9), np.float32)
    assert len(proposals(flat, radius=9)) == 1


def test_what_cannot_be_predicted_is_said() -> None:
    model, pixels = network(), image(20, 20)
    with pytest.raises(InputError, match=r"\(visit, plane, y, x\)"):
        predict_image(model, pixels[0])
    with pytest.raises(InputError, match="not finite"):
        predict_image(model, pixels, [[1.0, np.nan]])
    with pytest.raises(InputError, match="supernova"):
        predict_image(model, pixels, maps={"mine": ("supernova",)})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            predict_image(model, pixels, device="cuda")
    assert inference.choose_device("cpu").type == "cpu"
