"""Where in a tile a source is put: on a host's light, in a nucleus, on or near a star, at an edge, alone."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from astrid_dist.errors import InputError
from astrid_dist.imaging.galaxies import Galaxies
from astrid_dist.taxonomy import ENVIRONMENTS
from astrid_dist.taxonomy import REASONS as REASONS

Array = NDArray[np.float64]
Codes = NDArray[np.int8]

#: Uniform numbers that one place takes.
DRAWS = 3
#: A nucleus and a star are hit within this, FWHM.
NUCLEUS_FWHM = 0.05
#: How far from a bright star is near it, FWHM.
NEAR_STAR_FWHM = (1.5, 6.0)
#: How far from the border of data is at the edge, pixels.
EDGE_PX = 10.0
#: Empty sky keeps this far from stars (FWHM) and galaxies (half-light radii, plus a FWHM).
_CLEAR_STAR, _CLEAR_GALAXY = 3.0, 3.0
#: An exponential disc's half-light radius in scale lengths, and the part of its light that hosts sources.
_R50_SCALE, _LIGHT = 1.6783, 0.99


@dataclass(frozen=True)
class Sites:
    """What a tile offers; pixels of the tile, centres at integers. What is found from it is kept."""

    galaxies: Galaxies
    star_x: Array
    star_y: Array
    bright: NDArray[np.bool_]
    """(n,) which stars are bright enough to leave residuals."""
    usable: NDArray[np.bool_]
    """(y, x) pixels on which a source can be measured."""
    data: NDArray[np.bool_]
    """(y, x) pixels with data, usable or not: their border is an edge."""
    saturated: NDArray[np.bool_]
    """(y, x)."""
    fwhm_px: float

    @cached_property
    def border_distance(self) -> Array:
        """(y, x) pixels to the nearest one without data; beyond the tile's frame there is none."""
        inside = np.pad(self.data, 1)
        return np.asarray(ndimage.distance_transform_edt(inside)[1:-1, 1:-1])

    @cached_property
    def edge_pixels(self) -> NDArray[np.intp]:
        """Flat numbers of usable pixels at the edge."""
        return np.flatnonzero(self.usable & (self.border_distance <= EDGE_PX))

    @cached_property
    def empty_pixels(self) -> NDArray[np.intp]:
        """Flat numbers of usable pixels away from stars, galaxies and edges."""
        free = self.usable & (self.border_distance > EDGE_PX)
        galaxies, star = self.galaxies, _CLEAR_STAR * self.fwhm_px
        far = np.where(self.bright, NEAR_STAR_FWHM[1] * self.fwhm_px, star)
        for x, y, radius in zip(self.star_x, self.star_y, far, strict=True):
            _clear(free, x, y, radius)
        longest = galaxies.r50 * np.sqrt(galaxies.a / galaxies.b) * _CLEAR_GALAXY + self.fwhm_px
        for x, y, radius in zip(galaxies.x, galaxies.y, longest, strict=True):
            _clear(free, x, y, radius)
        return np.flatnonzero(free)


@dataclass(frozen=True)
class Places:
    """Where sources are put, (n,) each; a source without a place has `ok` false and its reason."""

    x: Array
    """Columns, pixels; NaN where there is no site."""
    y: Array
    host: NDArray[np.int64]
    """Number of the galaxy (`host`, `nucleus`) or star (`star`, `near star`), else -1."""
    reason: Codes
    """Positions in `astrid_dist.taxonomy.REASONS`; 0 has a place."""

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Whether the source can be injected there."""
        return np.asarray(self.reason == 0)


def place(environments: ArrayLike, uniforms: Array, sites: Sites) -> Places:
    """Put sources into their environments.

    A source whose place turns out to be outside, masked or saturated stays there and is not ok: another place
    would make positions, and what is lost at them, look better than they are.

    Parameters
    ----------
    environments : (n,) int
        Positions in `ENVIRONMENTS`.
    uniforms : (n, DRAWS) float64
        In (0, 1).
    sites : Sites

    Raises
    ------
    InputError
        Codes that no environment has, or too few uniform numbers.
    """
    codes = np.asarray(environments, np.int64)
    if codes.size and not (codes.min() >= 0 and codes.max() < len(ENVIRONMENTS)):
        raise InputError(f"environments are 0 to {len(ENVIRONMENTS) - 1}, not {codes.min()} to {codes.max()}")
    if uniforms.shape[0] != len(codes) or uniforms.shape[1] < DRAWS:
        raise InputError(f"{len(codes)} places take ({len(codes)}, {DRAWS}) numbers, not {uniforms.shape}")
    x, y = np.full((2, len(codes)), np.nan)
    host = np.full(len(codes), -1, np.int64)
    bright = np.flatnonzero(sites.bright)
    for code, name in enumerate(ENVIRONMENTS):
        here = np.flatnonzero(codes == code)
        if len(here) == 0:
            continue
        u = uniforms[here]
        if name in ("empty", "edge"):
            pixels = sites.empty_pixels if name == "empty" else sites.edge_pixels
            if len(pixels):
                row, column = np.divmod(pixels[_choice(u[:, 0], len(pixels))], sites.usable.shape[1])
                x[here], y[here] = column + u[:, 1] - 0.5, row + u[:, 2] - 0.5
            continue
        of_galaxy = name in ("host", "nucleus")
        known = np.arange(len(sites.galaxies)) if of_galaxy else bright
        known = np.arange(len(sites.star_x)) if name == "star" else known
        if len(known) == 0:
            continue
        chosen = known[_choice(u[:, 0], len(known))]
        middle = (sites.galaxies.x, sites.galaxies.y) if of_galaxy else (sites.star_x, sites.star_y)
        dx, dy = _on_light(u, sites.galaxies, chosen) if name == "host" else _around(u, name, sites.fwhm_px)
        x[here], y[here], host[here] = middle[0][chosen] + dx, middle[1][chosen] + dy, chosen
    return Places(x, y, host, _reasons(x, y, sites))


def _choice(u: Array, n: int) -> NDArray[np.int64]:
    return np.minimum((u * n).astype(np.int64), n - 1)


def _on_light(u: Array, galaxies: Galaxies, chosen: NDArray[np.int64]) -> tuple[Array, Array]:
    """Offsets that follow the light of elliptical exponential discs (supernovae do: Hakobyan et al. 2009)."""
    # light within x scale lengths: 1 - (1 + x) exp(-x), inverted by Lambert's W
    radius = -1 - special.lambertw(-(1 - _LIGHT * u[:, 1]) / np.e, -1).real
    radius *= galaxies.r50[chosen] / _R50_SCALE
    longer = np.sqrt(galaxies.a[chosen] / galaxies.b[chosen])
    turn, theta = 2 * np.pi * u[:, 2], galaxies.theta[chosen]
    along, across = radius * longer * np.cos(turn), radius / longer * np.sin(turn)
    return (
        along * np.cos(theta) - across * np.sin(theta),
        along * np.sin(theta) + across * np.cos(theta),
    )


def _around(u: Array, name: str, fwhm_px: float) -> tuple[Array, Array]:
    """Offsets even in area: within a nucleus or a star's place, or in a ring about a bright star."""
    low, high = NEAR_STAR_FWHM if name == "near star" else (0.0, NUCLEUS_FWHM)
    radius = fwhm_px * np.sqrt(low**2 + (high**2 - low**2) * u[:, 1])
    return radius * np.cos(2 * np.pi * u[:, 2]), radius * np.sin(2 * np.pi * u[:, 2])


def _reasons(x: Array, y: Array, sites: Sites) -> Codes:
    height, width = sites.usable.shape
    reason = np.zeros(len(x), np.int8)
    known = np.isfinite(x)
    reason[~known] = REASONS.index("no site")
    column = np.rint(np.where(known, x, 0)).astype(np.int64)
    row = np.rint(np.where(known, y, 0)).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    reason[known & ~inside] = REASONS.index("outside")
    at = np.flatnonzero(known & inside)
    row, column = row[at], column[at]
    reason[at[~sites.usable[row, column]]] = REASONS.index("masked")
    reason[at[sites.saturated[row, column]]] = REASONS.index("saturated")
    return reason


def _clear(free: NDArray[np.bool_], x: float, y: float, radius: float) -> None:
    """Pixels within a disc are free no longer."""
    height, width = free.shape
    rows = np.arange(max(0, int(y - radius)), min(height, int(y + radius) + 2))
    columns = np.arange(max(0, int(x - radius)), min(width, int(x + radius) + 2))
    if len(rows) and len(columns):
        near = (columns - x) ** 2 + (rows[:, None] - y) ** 2 <= radius**2
        free[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] &= ~near
