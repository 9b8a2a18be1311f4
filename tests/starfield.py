"""Star fields under a PSF that varies over the field; shared by tests and a benchmark."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optics:
    """Elliptical Moffat (beta 3) whose width and angle turn over the field."""

    fwhm: float = 3.5
    growth: float = 0.0
    """Part by which the FWHM differs between the left and the right edge."""
    axis_ratio: float = 1.0
    turn: float = 0.0
    """Radians by which the major axis turns from corner to corner."""
    pixel: int = 1
    """Points along each side of a pixel over which light is averaged; 1: the profile is as pixels see it."""

    def stamp(
        self, x: float, y: float, shape: tuple[int, int], dx: float = 0, dy: float = 0, half: int = 31
    ) -> Floats:
        """Unit-flux star of a place in the field, (dx, dy) off the middle of a stamp."""
        u, v = 2 * x / (shape[1] - 1) - 1, 2 * y / (shape[0] - 1) - 1
        fwhm, angle = self.fwhm * (1 + 0.5 * self.growth * u), 0.25 * self.turn * (u + v)
        core = fwhm / (2 * np.sqrt(2 ** (1 / 3) - 1))
        grid = np.arange(-half, half + 1.0)
        inside = (np.arange(self.pixel) + 0.5) / self.pixel - 0.5
        rows, columns = ((grid[:, None] + inside - d).ravel() for d in (dy, dx))
        along = np.cos(angle) * columns + np.sin(angle) * rows[:, None]
        across = -np.sin(angle) * columns + np.cos(angle) * rows[:, None]
        squared = (along**2 / self.axis_ratio + across**2 * self.axis_ratio) / core**2
        fine = 2 / (np.pi * core**2) * (1 + squared) ** -3.0
        side = len(grid)
        mean: Floats = fine.reshape(side, self.pixel, side, self.pixel).mean(axis=(1, 3))
        return mean


@dataclass(frozen=True)
class Starfield:
    """A painted frame, its sky taken away exactly, and what was put into it."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint16]
    x: Floats
    y: Floats
    flux: Floats


def paint(
    optics: Optics,
    shape: tuple[int, int] = (900, 900),
    n: int = 400,
    flux: tuple[float, float] = (8e3, 3e5),
    *,
    extent: tuple[float, float] = (0.0, 1.0),
    sky: float = 200.0,
    half: int = 31,
    seed: int = 1,
) -> Starfield:
    """Stars at random places, log-uniform fluxes, Poisson noise; `extent` is the part of x that has stars."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(*extent, n) * (shape[1] - 1), rng.uniform(0, shape[0] - 1, n)
    fluxes = np.exp(rng.uniform(*np.log(flux), n))
    truth = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
    for one_x, one_y, one in zip(x, y, fluxes, strict=True):
        column, row = round(one_x), round(one_y)
        star = optics.stamp(one_x, one_y, shape, one_x - column, one_y - row, half)
        truth[row : row + 2 * half + 1, column : column + 2 * half + 1] += one * star
    expected = truth[half:-half, half:-half] + sky
    image = (rng.poisson(expected) - sky).astype(np.float32)
    return Starfield(image, expected.astype(np.float32), np.zeros(shape, np.uint16), x, y, fluxes)
