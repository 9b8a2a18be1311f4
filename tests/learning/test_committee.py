"""Several networks as one, and one network several times: means, samples, and that tiles still agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.committee import Committee, thinned
from astrid_dist.learning.inference import REAL_BOGUS, predict_image
from astrid_dist.learning.unet import MODEL_CLASSES, UNet
from astrid_dist.taxonomy import REAL
from tests.learning.test_inference import image, network, places

CODES = [MODEL_CLASSES.index(name) for name in REAL]


@pytest.fixture(scope="module")
def three() -> list[UNet]:
    return [network(seed, widths=(4, 8, 8), dropout=0.3) for seed in (1, 2, 3)]


def test_a_committee_says_the_mean_of_the_probabilities(three: list[UNet]) -> None:
    pixels = image(33, 41)[None]
    with torch.inference_mode():
        told, each = Committee(three)(pixels), [member(pixels) for member in three]
    for name, of in (
        ("segmentation", torch.sigmoid),
        ("real", torch.sigmoid),
        ("classes", lambda x: x.softmax(1)),
    ):
        mean = torch.stack([of(getattr(one, name)) for one in each]).mean(0)
        torch.testing.assert_close(of(getattr(told, name)), mean)
    x = torch.stack([one.position for one in each])
    spread = torch.stack([one.log_sigma.exp() ** 2 for one in each]).mean(0) + x.var(0, unbiased=False)
    torch.testing.assert_close(told.log_sigma.exp(), spread.sqrt())
    alone = Committee(three[:1])(pixels)
    torch.testing.assert_close(alone.real, each[0].real)


def test_what_several_say_of_an_image_is_what_they_say_tile_by_tile(three: list[UNet]) -> None:
    pixels, at = image(96, 120), places(96, 120, 12)
    told = predict_image(three, pixels, at, maps=REAL_BOGUS, tile=40)
    where = torch.as_tensor(np.column_stack([np.zeros(len(at)), at]), dtype=torch.float32)
    with torch.inference_mode():
        whole = Committee(three)(pixels[None], at=where)
    np.testing.assert_allclose(told.real, whole.real.sigmoid(), atol=1e-5)
    np.testing.assert_allclose(told.sigma, whole.log_sigma.exp(), atol=1e-4)
    highest = whole.segmentation[0][:, CODES].sigmoid().amax(1)
    np.testing.assert_allclose(told.segmentation[:, 0], highest, atol=1e-5)
    for member, said in zip(three, told.voices, strict=True):
        np.testing.assert_allclose(predict_image(member, pixels, at, maps={}).real, said, atol=1e-5)


def test_a_sample_of_dropout_is_one_network_wherever_and_however_it_is_asked(three: list[UNet]) -> None:
    model, pixels, at = three[0], image(96, 120), places(96, 120, 12)
    asked = {"samples": 5, "seed": 7, "maps": {}}
    told = predict_image(model, pixels, at, **asked)
    assert told.voices.shape == (5, len(at))
    assert (told.voices.std(0) > 0).all()
    np.testing.assert_allclose(told.real, told.voices.mean(0), atol=1e-6)
    for changes in ({"tile": 40}, {"tile": 40, "batch": 3}):
        np.testing.assert_allclose(
            predict_image(model, pixels, at, **asked, **changes).voices, told.voices, atol=1e-4
        )
    turned = predict_image(model, pixels, at[::-1], **asked).voices[:, ::-1]
    np.testing.assert_allclose(turned, told.voices, atol=1e-4)
    more = predict_image(model, pixels, at, **{**asked, "samples": 8}).voices
    np.testing.assert_array_equal(more[:5], told.voices)
    assert not np.allclose(predict_image(model, pixels, at, **{**asked, "seed": 8}).voices, told.voices)
    calm = predict_image(model, pixels, at, maps={})
    assert not np.allclose(calm.real, told.real)
    assert len(predict_image(three, pixels, at, maps={}, samples=2).voices) == 6


def test_samples_drop_as_many_channels_as_training_does(three: list[UNet]) -> None:
    layer = torch.nn.Dropout2d(0.3)
    kept = []
    model = network(1, dropout=0.3)
    model.encoder[0].dropout = layer.eval()  # type: ignore[union-attr, assignment]
    for number in range(200):
        with thinned(model, 1, number):
            kept.append(layer(torch.ones(1, 64, 2, 2))[0, :, 0, 0])
    values = torch.stack(kept)
    assert values.mean() == pytest.approx(1, abs=0.02)
    assert (values > 0).float().mean() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(layer(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))  # and it ends


def test_what_cannot_be_asked_is_told(three: list[UNet]) -> None:
    pixels = image(16, 16)
    with pytest.raises(ConfigError, match="trained without dropout"):
        predict_image(network(1, dropout=0.0), pixels, [[3, 3]], samples=2)
    with pytest.raises(ConfigError, match=r"network 1 has another architecture.*hidden is 16, not 32"):
        predict_image([three[0], UNet(replace(three[0].config, hidden=16))], pixels)
    with pytest.raises(ConfigError, match="no networks"):
        predict_image([], pixels)
    with pytest.raises(InputError, match="samples -1"):
        predict_image(three, pixels, samples=-1)
