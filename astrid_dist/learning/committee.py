"""Several U-Nets asked as one, or one of them several times, each time without some of its channels.

Needs numpy and torch alone. They disagree where nothing was learned: members of a deep ensemble begin from
other weights (Lakshminarayanan et al. 2017), Monte Carlo dropout leaves out other channels (Gal & Ghahramani
2016).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astrid_dist.errors import ConfigError
from astrid_dist.learning.unet import Prediction, UNet, UNetConfig

#: A network, and within what it is asked.
Voice = tuple[UNet, Callable[[], AbstractContextManager[None]]]


class Committee(nn.Module):
    """What a `UNet` says, as the mean of the probabilities of several.

    Parameters
    ----------
    members : sequence of UNet
        Of one architecture.

    Raises
    ------
    ConfigError
        None, or of several architectures.
    """

    def __init__(self, members: Sequence[UNet]) -> None:
        super().__init__()
        self.config = one_config(members)
        self.members = nn.ModuleList(members)

    def forward(self, *given: Any, **named: Any) -> Prediction:
        """As `UNet.forward`; the error of the place is that of the mixture."""
        told = [member(*given, **named) for member in self.members]
        position = torch.stack([one.position for one in told])
        variance = torch.stack([(2 * one.log_sigma).exp() for one in told]).mean(0)
        variance = variance + position.var(0, unbiased=False)
        classes = torch.stack([one.classes.log_softmax(1) for one in told])
        return Prediction(
            _mean_logit([one.segmentation for one in told]),
            _mean_logit([one.real for one in told]),
            classes.logsumexp(0) - np.log(len(told)),
            position.mean(0),
            0.5 * variance.log(),
            torch.stack([one.flux for one in told]).mean(0),
        )


def one_config(members: Sequence[UNet]) -> UNetConfig:
    """The architecture of all members; ConfigError where there are several, or no member."""
    if not members:
        raise ConfigError("no networks: a model needs at least one")
    first = members[0].config
    for number, member in enumerate(members):
        if member.config != first:
            here, there = member.config.plain(), first.plain()
            names = [name for name in here if here[name] != there[name]]
            raise ConfigError(
                f"network {number} has another architecture than the first: "
                + "; ".join(f"{name} is {here[name]}, not {there[name]}" for name in names)
                + ": members must be alike in all but their weights"
            )
    return first


def voices(members: Sequence[UNet], samples: int, seed: int) -> list[Voice]:
    """Each member as it is, or, with samples, each so many times `thinned`, never twice in the same way."""
    if not samples:
        return [(member, nullcontext) for member in members]
    return [
        (member, partial(thinned, member, seed, number * samples + sample))
        for number, member in enumerate(members)
        for sample in range(samples)
    ]


@contextmanager
def thinned(model: UNet, seed: int, number: int) -> Iterator[None]:
    """Within it a model in evaluation lacks channels, as in training: one sample of Monte Carlo dropout.

    Gal & Ghahramani 2016. Which ones follows from `seed` and the number of the sample: the same everywhere in
    an image and for all its candidates, so that tiles agree with the whole. The condition is never hidden.

    Raises
    ------
    ConfigError
        The model was trained without dropout.
    """
    rate = model.config.dropout
    if not rate:
        raise ConfigError(
            "the network was trained without dropout: to leave channels out now tells nothing of what it "
            "does not know. Train with model={dropout: 0.1}, or several members"
        )

    def drop(layer: int, channel: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        random = np.random.default_rng([seed, number, layer])

        @lru_cache(1)
        def kept(channels: int) -> Tensor:
            return torch.as_tensor(random.random(channels) >= rate) / (1 - rate)

        def hook(module: nn.Module, given: Any, told: Tensor) -> Tensor:
            shape = [1] * told.dim()
            shape[channel] = -1
            return told * kept(told.shape[channel]).to(told).reshape(shape)

        return hook

    layers = [m for m in model.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]
    hooks = [
        layer.register_forward_hook(drop(i, 1 if isinstance(layer, nn.Dropout2d) else -1))
        for i, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mean_logit(logits: list[Tensor]) -> Tensor:
    """Log odds of the mean probability, exact where members are sure."""
    told = torch.stack(logits)
    return nn.functional.logsigmoid(told).logsumexp(0) - nn.functional.logsigmoid(-told).logsumexp(0)
