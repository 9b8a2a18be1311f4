"""PSFs at sub-pixel phases, ready for painting: a pixel is a sum over four of them, not a spline.

A PSF that varies over the field stays a sum of Legendre terms (see `astrid_dist.imaging.psf`), each with its
own phases, so every source gets the PSF of its own place and no border between cells shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError
from astrid_dist.imaging.psf import legendre_weights, n_terms, profiles

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

#: Sub-pixel steps along each axis. Between them light is interpolated: an error of 7e-4 of the peak at a FWHM
#: of 3 pixels, as 1/FWHM², which widens the PSF but does not move it (the nearest phase would: dipoles).
PHASES = 16


@dataclass(frozen=True)
class PsfBank:
    """A PSF, or any other pattern a source makes, at `PHASES` + 1 places of its centre along each axis."""

    phases: Float32
    """(term, phase_y, phase_x, v, u): centre at -1/2 .. 1/2 pixel off the middle one; odd side."""
    sums: Float64
    """(term, phase_y, phase_x) light within the footprint over that of the whole stamp."""
    chosen: NDArray[np.int64]
    """(term,) which Legendre terms these are: zero terms are left out."""
    order: int
    """Highest i + j of the Legendre terms."""
    shape: tuple[int, int]
    """Height and width of the field that they span."""
    conserve: bool
    """Whether what the footprint cuts off is made up for by scaling."""
    fits: dict[tuple[int, int], Any] = field(default_factory=dict, compare=False, repr=False)
    """What was worked out of it for a part of the field, kept with it."""

    @classmethod
    def of_terms(
        cls,
        terms: NDArray[Any],
        order: int,
        oversampling: int,
        shape: tuple[int, int],
        radius_px: int | None = None,
        *,
        conserve: bool = True,
    ) -> PsfBank:
        """From a PSF over the field, as `astrid_dist.imaging.psf.Psf` holds it.

        Parameters
        ----------
        terms : (term, v, u)
            L_i(x) L_j(y), i + j <= order, sorted by i + j, then i; odd side.
        order, oversampling : int
            Highest i + j; samples of the terms to a pixel.
        shape : (height, width)
            Of the field in pixels.
        radius_px : int, optional
            Half width of the footprint; as wide as the terms are if left out.
        conserve : bool
            A source's light in its footprint is its flux times the sum of the whole stamp. False where the
            pattern has no sum to speak of.

        Raises
        ------
        InputError
            Wrong shape, values that are not finite, a footprint that holds less than half of the light.
        """
        terms = np.asarray(terms, dtype=np.float32)
        if terms.ndim != 3 or len(terms) != n_terms(order) or terms.shape[1] != terms.shape[2]:
            raise InputError(f"PSF terms are {terms.shape}: order {order} needs ({n_terms(order)}, v, v)")
        if terms.shape[1] % 2 == 0 or not np.isfinite(terms).all():
            raise InputError(f"PSF terms of side {terms.shape[1]}: need an odd side and finite values")
        step = np.linspace(-0.5, 0.5, PHASES + 1)
        at_y, at_x = (grid.ravel() for grid in np.meshgrid(step, step, indexing="ij"))
        chosen = np.flatnonzero(terms.any(axis=(1, 2)))
        made = []
        for term in terms[chosen]:
            one = profiles(term[None], 0, oversampling, at_x, at_y, (1, 1))[0]
            made.append(one.reshape(PHASES + 1, PHASES + 1, *one.shape[1:]))
        phases = np.stack(made) if made else np.zeros((0, PHASES + 1, PHASES + 1, 1, 1), np.float32)
        middle, half = PHASES // 2, phases.shape[-1] // 2
        first = phases[0, middle, middle].astype(np.float64) if 0 in chosen else np.zeros((1, 1))
        whole = float(first.sum())
        if radius_px is not None and radius_px < half:
            cut = half - radius_px
            phases = phases[..., cut:-cut, cut:-cut]
        sums = phases.sum(axis=(3, 4), dtype=np.float64)
        if conserve and not (
            abs(whole) > 0.01 * np.abs(first).sum() and sums[0, middle, middle] / whole > 0.5
        ):
            raise InputError(
                f"a PSF that sums to {whole:.3g} leaves less than half of it within {radius_px} px: "
                "give a larger radius, or conserve=False if it is no PSF"
            )
        return cls(
            np.ascontiguousarray(phases), sums / (whole or 1.0), chosen, order, (shape[0], shape[1]), conserve
        )

    @classmethod
    def of_stamp(
        cls,
        stamp: NDArray[Any],
        radius_px: int | None = None,
        oversampling: int = 1,
        *,
        conserve: bool = True,
    ) -> PsfBank:
        """From one (v, u) stamp for the whole field; see `of_terms`. It is not scaled to unit sum."""
        return cls.of_terms(np.asarray(stamp)[None], 0, oversampling, (1, 1), radius_px, conserve=conserve)

    @property
    def radius_px(self) -> int:
        """Half width of the footprint."""
        return int(self.phases.shape[-1]) // 2

    def weights(self, x: ArrayLike, y: ArrayLike) -> Float64:
        """(n, term) how much of each term there is at pixels of the field."""
        if self.order == 0:
            return np.ones((np.atleast_1d(x).shape[0], len(self.chosen)))
        return legendre_weights(self.order, x, y, self.shape)[:, self.chosen]

    def stamp(self, x: float = 0.0, y: float = 0.0) -> Float64:
        """(v, u) pattern of a source in the middle of a pixel at one place of the field, as it is painted."""
        weights, middle = self.weights(x, y)[0], PHASES // 2
        made = np.tensordot(weights, self.phases[:, middle, middle].astype(np.float64), axes=1)
        return made / (weights @ self.sums[:, middle, middle]) if self.conserve else made
