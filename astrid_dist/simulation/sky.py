"""What lies in a field: stars and galaxies by magnitude, and the light of a galaxy at any place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.render import MoffatPsf, galaxy_covariances, gaussian_value, sersic_gaussians

Array = NDArray[np.float64]

#: How a source's colour g - r carries over to each band: mag(band) = mag(r) + slope * (g - r).
COLOUR_SLOPES = {"u": 2.3, "g": 1.0, "q": 0.3, "r": 0.0, "i": -0.4, "z": -0.6, "y": -0.7, "Y": -0.7}


@dataclass(frozen=True)
class Stars:
    """Constant point sources, brightest first; positions on the field's grid in pixels."""

    x: Array
    y: Array
    mag_r: Array
    colour: Array
    """g - r, magnitudes."""

    def magnitude(self, band: str) -> Array:
        """AB magnitudes in a band."""
        return self.mag_r + COLOUR_SLOPES[band] * self.colour


@dataclass(frozen=True)
class Galaxies(Stars):
    """Galaxies with elliptical Sérsic profiles, brightest first."""

    radius_px: Array
    """Half-light radius along the major axis."""
    axis_ratio: Array
    angle: Array
    """Major axis, radians from +x towards +y."""
    index: Array
    """Sérsic index, 1 or 4."""

    def light_at(self, number: int, dx: Array, dy: Array, psf: MoffatPsf) -> Array:
        """Surface brightness of one galaxy of unit flux at an offset, 1/pixel².

        The PSF enters as the Gaussian of the same FWHM: good to some 10%, for noise estimates only.
        """
        fractions, _ = sersic_gaussians(float(self.index[number]))
        covariances = galaxy_covariances(
            float(self.radius_px[number]),
            float(self.axis_ratio[number]),
            float(self.angle[number]),
            float(self.index[number]),
        )
        seeing = (psf.fwhm_px / 2.355) ** 2 * np.eye(2)
        parts = [f * gaussian_value(dx, dy, c + seeing) for f, c in zip(fractions, covariances, strict=True)]
        return np.asarray(np.sum(parts, axis=0))


def magnitudes_of_counts(
    rng: np.random.Generator, number: int, slope: float, bright: float, faint: float
) -> Array:
    """Draw magnitudes whose counts grow as dN/dm ~ 10^(slope m) between two limits."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(low + (high - low) * rng.random(number)) / slope


def _scatter(
    rng: np.random.Generator,
    mean_to_limit: float,
    span_px: tuple[float, float],
    slope: float,
    limit: float,
    bright: float,
    faint: float,
) -> tuple[Array, Array, Array]:
    """Magnitudes, brightest first, and places of a Poisson number of objects."""
    low, high, known = (10 ** (slope * mag) for mag in (bright, faint, limit))
    number = int(rng.poisson(mean_to_limit * ((high - low) / (known - low))))
    mag = np.sort(magnitudes_of_counts(rng, number, slope, bright, faint))
    x, y = rng.uniform(*span_px, (2, number)) - 0.5
    return mag, x, y


def draw_stars(
    rng: np.random.Generator,
    size_px: int,
    margin_px: int,
    density_per_mpix: float,
    *,
    limit: float = 21.5,
    slope: float = 0.3,
    bright: float = 13.0,
    faint: float = 24.0,
) -> Stars:
    """Stars of a field and its surroundings.

    Parameters
    ----------
    rng : numpy.random.Generator
        Keyed by the field.
    size_px, margin_px : int
        The grid's side, and how far beyond it stars are drawn.
    density_per_mpix : float
        Stars brighter than `limit` (r magnitude) in a million pixels.
    slope : float
        d log10 N / dm; about 0.3 at intermediate Galactic latitude (Bahcall & Soneira 1980).
    bright, faint : float
        Limits of the r magnitudes drawn.
    """
    mean = density_per_mpix * 1e-6 * (size_px + 2 * margin_px) ** 2
    mag, x, y = _scatter(rng, mean, (-margin_px, size_px + margin_px), slope, limit, bright, faint)
    number = len(mag)
    return Stars(x, y, mag, rng.normal(0.7, 0.35, number))


def draw_galaxies(
    rng: np.random.Generator,
    size_px: int,
    margin_px: int,
    density_per_mpix: float,
    pixel_scale: float,
    *,
    limit: float = 21.5,
    slope: float = 0.4,
    bright: float = 15.5,
    faint: float = 22.5,
) -> Galaxies:
    """Galaxies of a field and its surroundings; half-light radii shrink with magnitude.

    Parameters are as in `draw_stars`; `pixel_scale` is in arcsec per pixel. Discs (n = 1) are 70% of
    them. The radius is log-normal about 1.0 arcsec at r = 21 with 0.13 dex per magnitude (close to the
    sizes of Shen et al. 2003 seen along the counts).
    """
    mean = density_per_mpix * 1e-6 * (size_px + 2 * margin_px) ** 2
    mag, x, y = _scatter(rng, mean, (-margin_px, size_px + margin_px), slope, limit, bright, faint)
    number = len(mag)
    radius_arcsec = 1.0 * 10 ** (0.13 * (21 - mag) + rng.normal(0, 0.15, number))
    return Galaxies(
        x,
        y,
        mag,
        rng.normal(0.8, 0.3, number),
        radius_arcsec / pixel_scale,
        rng.uniform(0.3, 1.0, number),
        rng.uniform(0, np.pi, number),
        np.where(rng.random(number) < 0.7, 1.0, 4.0),
    )
