"""A tiny painter: stars of known place, flux and width under a known sky."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class Field:
    """A painted frame (sky taken away exactly) and what was put into it."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint16]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]


def moffat_on(shape: tuple[int, int], x: float, y: float, fwhm: float, beta: float) -> NDArray[Any]:
    """Unit-flux Moffat at pixel centres; beta is that of the profile as the pixels see it."""
    core = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    r2 = (columns - x) ** 2 + (rows - y) ** 2
    return (beta - 1) / (np.pi * core**2) * (1 + r2 / core**2) ** -beta


@pytest.fixture(scope="session")
def paint() -> Callable[..., Field]:
    """paint(fwhm, n=80, ...): stars on a jittered lattice, Poisson noise, variance of the true counts."""

    def painted(
        fwhm: float,
        *,
        n: int = 10,
        spacing: float = 45.0,
        beta: float = 3.0,
        sky: float = 200.0,
        faint: float = 4e3,
        bright: float = 2e5,
        seed: int = 1,
        noise_seed: int = 2,
    ) -> Field:
        rng = np.random.default_rng(seed)
        size = int(n * spacing)
        rows, columns = np.mgrid[:n, :n].reshape(2, -1)
        x = (columns + 0.5 + rng.uniform(-0.2, 0.2, n * n)) * spacing
        y = (rows + 0.5 + rng.uniform(-0.2, 0.2, n * n)) * spacing
        flux = np.exp(rng.uniform(np.log(faint), np.log(bright), n * n))
        truth = np.zeros((size, size))
        for one_x, one_y, one_flux in zip(x, y, flux, strict=True):
            truth += one_flux * moffat_on(truth.shape, one_x, one_y, fwhm, beta)
        counts = np.random.default_rng(noise_seed).poisson(truth + sky)
        return Field(
            (counts - sky).astype(np.float32),
            (truth + sky).astype(np.float32),
            np.zeros(truth.shape, dtype=np.uint16),
            x,
            y,
            flux,
        )

    return painted
