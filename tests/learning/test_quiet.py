"""Places where nothing is, and that a network learns from them."""

from dataclasses import replace

import torch

from astrid_dist.learning.losses import LossConfig, loss
from astrid_dist.learning.quiet import MOST, PLACES, quiet_peaks
from astrid_dist.learning.unet import UNet, UNetConfig
from tests.learning.dots import dots

SIDE, STAR, PEAK, RESIDUAL, SECOND = 41, (8, 30), (33, 6), (32, 32), (9, 8)


def _stamps(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A candidate in the middle, a star on which noise is low, a peak of noise, a strong residual."""
    pixels = torch.zeros((n, 2, 4, SIDE, SIDE))
    target = torch.zeros((n, 2, SIDE, SIDE), dtype=torch.int32)
    pixels[:, 0, 3, 20, 20], target[:, 0, 20, 20] = 30.0, 1
    pixels[:, 1, 1, STAR[1] - 1 : STAR[1] + 2, STAR[0] - 1 : STAR[0] + 2] = 100.0
    pixels[:, 0, 3, STAR[1], STAR[0]] = 1.5
    pixels[:, 1, 3, PEAK[1], PEAK[0]] = -3.5
    pixels[:, 0, 3, SECOND[1], SECOND[0]] = 3.0
    pixels[:, 0, 3, RESIDUAL[1], RESIDUAL[0]] = MOST + 1
    pixels[:, 0, 3, RESIDUAL[1] + 3, RESIDUAL[0]] = 4.0  # its wing
    at = torch.tensor([[i, 20.0, 20.0] for i in range(n)])
    return pixels, target, torch.ones((n, 2), dtype=torch.bool), at


def test_the_highest_peaks_are_found_of_all_and_on_stars() -> None:
    places, found = quiet_peaks(*_stamps())
    assert places.tolist() == [[i, *place] for place in (PEAK, STAR) for i in range(3)]
    assert found.tolist() == [1.0] * 3 * PLACES


def test_what_is_labelled_unseen_or_without_data_is_left_alone() -> None:
    pixels, target, seen, at = _stamps(4)
    target[0, 1, PEAK[1] + 4, PEAK[0] - 4] = 16  # near the peak, in another visit
    seen[1, 1] = False  # the peak's, and the star's template
    pixels[2, 1, 3, PEAK[1], PEAK[0]] = torch.nan
    at[3, 1:] = torch.tensor([PEAK[0] + 5.0, PEAK[1]])
    target[3, 0, 20, 20] = 0  # a candidate whose pixels nobody marked: 30 sigma are nothing to learn from
    places, found = quiet_peaks(pixels, target, seen, at)
    assert places[:4, 1:].tolist() == [list(map(float, SECOND))] * 4
    assert found.tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


def test_without_scores_there_is_no_place() -> None:
    pixels, target, seen, at = _stamps()
    pixels[:, :, 3] = torch.nan
    places, found = quiet_peaks(pixels, target, seen, at)
    assert not found.any()
    assert ((places[:, 1:] >= 0) & (places[:, 1:] < SIDE)).all()


def test_the_loss_makes_them_bogus_and_counts_those_alone_that_there_are() -> None:
    examples = dots(4)
    model = UNet(UNetConfig.named("small")).eval()
    told = model(examples.pixels)
    logits = torch.tensor([3.0, -3.0, 0.0, 50.0, 50.0, 50.0, 50.0, 50.0], requires_grad=True)
    there = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])
    total, parts = loss(told, examples, LossConfig(), (logits, there))
    assert parts["quiet"] == torch.nn.functional.softplus(logits[:3]).sum() / 4
    (gradient,) = torch.autograd.grad(total, logits)
    assert (gradient[:3] > 0).all()
    assert not gradient[3:].any()
    without, _ = loss(told, examples, LossConfig(quiet=0.0), (logits, there))
    assert torch.isclose(without + parts["quiet"], total)
    unweighted = replace(examples, weight=torch.tensor([0.0, 1, 1, 1]))
    assert loss(told, unweighted, LossConfig(), (logits, there))[1]["quiet"] < parts["quiet"]
