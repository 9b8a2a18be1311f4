"""Stamps of dots of known place and flux, for tests of the model and of its losses."""

import torch

from astrid_dist.learning.examples import Examples
from astrid_dist.taxonomy import CLASSES, class_code


def dots(
    n: int, *, visits: int = 1, size: int = 31, seed: int = 0, psf: float = 1.3, smooth: float = 0.0
) -> Examples:
    """Half point sources of SNR 10 to 100 and either sign, half bogus hot pixels; the noise is 1 sigma.

    `psf`: sigma of point sources, pixels; `smooth`: share of each neighbour in the noise of a pixel.
    """
    random = torch.Generator().manual_seed(seed)
    middle = size // 2
    real = torch.arange(n) % 2 == 0
    x, y = (torch.rand((2, n), generator=random) * 4 - 2).unbind()
    sign = torch.where(torch.rand((n, visits), generator=random) < 0.5, -1.0, 1.0)
    snr = sign * 10 ** (1 + torch.rand((n, visits), generator=random))
    grid = torch.arange(size) - middle
    light = torch.exp(
        -0.5 * ((grid[:, None] - y[:, None, None]) ** 2 + (grid - x[:, None, None]) ** 2) / psf**2
    )
    light = light / light.sum((1, 2), keepdim=True)
    flux = snr * (4 * torch.pi) ** 0.5 * psf  # of a point source in white noise of 1 sigma
    hot = torch.zeros_like(light)
    hot[torch.arange(n), middle + y.round().long(), middle + x.round().long()] = 1
    shape = torch.where(real[:, None, None], light, hot * 0.15)
    noise = torch.randn((n, visits, 2, size, size), generator=random)
    beside = sum(noise.roll(step, axis) for step in (-1, 1) for axis in (-1, -2))
    noise = (noise + smooth * beside) / (1 + 4 * smooth**2) ** 0.5
    difference = flux[..., None, None] * shape[:, None] + noise[:, :, 0]
    pixels = torch.stack([difference + 20, noise[:, :, 1] + 20, difference, difference], 2)
    bit = torch.where(real, 1 << class_code("transient"), 1 << class_code("bad_pixel"))
    pattern = torch.where(real[:, None, None], light > 0.02, hot > 0)
    return Examples(
        pixels=pixels,
        target=(pattern * bit[:, None, None])[:, None].expand(-1, visits, -1, -1).int(),
        seen=torch.ones((n, visits), dtype=torch.bool),
        days=torch.arange(visits).float().expand(n, -1) * 3,
        band=torch.zeros((n, visits), dtype=torch.long),
        survey=torch.zeros(n, dtype=torch.long),
        class_code=torch.where(real, CLASSES.index("transient"), CLASSES.index("bad_pixel")),
        label=real.float(),
        weight=torch.ones(n),
        x=x,
        y=y,
        flux=torch.where(real[:, None], flux, torch.nan),
        snr=snr,
    )
