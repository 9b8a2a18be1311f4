"""Inverse distribution functions: what a uniform number in (0, 1) is worth."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]


def even(u: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Evenly between two values."""
    bottom = np.asarray(low, np.float64)
    return np.asarray(bottom + (np.asarray(high) - bottom) * np.asarray(u, np.float64))


def log_even(u: ArrayLike, low: float, high: float) -> Array:
    """Evenly in the logarithm between two positive values."""
    return np.asarray(low * np.power(high / low, u))


def bell(
    u: ArrayLike, mean: ArrayLike, sigma: ArrayLike, low: float = -np.inf, high: float = np.inf
) -> Array:
    """Normal, cut off below `low` and above `high` (not piled up there)."""
    middle, width = np.asarray(mean, np.float64), np.asarray(sigma, np.float64)
    bottom, top = ndtr((low - middle) / width), ndtr((high - middle) / width)
    return np.asarray(middle + width * ndtri(bottom + (top - bottom) * np.asarray(u)))


def power_law(u: ArrayLike, index: float, low: float, high: float) -> Array:
    """Density proportional to value^index between two positive values; `index` is not -1."""
    slope = index + 1
    return np.asarray((low**slope + np.asarray(u) * (high**slope - low**slope)) ** (1 / slope))


def tabulated(u: ArrayLike, values: ArrayLike, density: ArrayLike) -> Array:
    """Density given at increasing values, straight between them."""
    values, density = np.asarray(values, np.float64), np.asarray(density, np.float64)
    below = np.append(0.0, np.cumsum(np.diff(values) * (density[1:] + density[:-1]) / 2))
    fine = np.linspace(values[0], values[-1], 2001)
    # the integral of a straight line is a parabola: tabulated finely, so that interpolation follows it
    start = np.clip(np.searchsorted(values, fine, side="right") - 1, 0, len(values) - 2)
    step = fine - values[start]
    slope = (density[start + 1] - density[start]) / (values[start + 1] - values[start])
    integral = below[start] + density[start] * step + slope * step**2 / 2
    return np.asarray(np.interp(np.asarray(u) * integral[-1], integral, fine))


def cells(u: Array, weights: Array, row: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Numbers in (0, 1) distributed as a row of a table says.

    Parameters
    ----------
    u : (n,) float64
        Uniform numbers.
    weights : (rows, k) float64
        Of k cells of equal width in (0, 1), any scale; every row in use has some weight.
    row : (n,) int64
        Which row of `weights` each number follows.

    Returns
    -------
    (n,) float64; (n,) int64 index of the cell
    """
    rows, k = weights.shape
    upper = np.cumsum(weights, axis=1)
    upper = upper / np.where(upper[:, -1:] > 0, upper[:, -1:], 1.0)
    edges = (upper + np.arange(rows)[:, None]).ravel()
    cell = np.clip(np.searchsorted(edges, row + u, side="right") - row * k, 0, k - 1)
    lower = np.where(cell > 0, upper[row, np.maximum(cell - 1, 0)], 0.0)
    width = upper[row, cell] - lower
    within = np.clip((u - lower) / np.where(width > 0, width, 1.0), 1e-9, 1 - 1e-9)
    return (cell + within) / k, cell
