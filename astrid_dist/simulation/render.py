"""Painting point sources, trails and galaxies into an image, exact in flux and sub-pixel position.

The PSF is the effective one (optics, seeing and pixel together), so a pixel's value is the profile at its
centre. That is exact as long as the profile is well sampled, FWHM of 2 pixels or more.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Half width of a stamp in FWHM, and the flux (electrons) from which the wider one is used.
_STAMPS = ((0.0, 5.0), (3e4, 10.0), (3e6, 20.0))
#: Pixels evaluated at once: bounds the memory of a batch to 8 MiB an array.
_BATCH = 1_000_000


@dataclass(frozen=True)
class MoffatPsf:
    """Elliptical Moffat (1969) profile of unit flux."""

    fwhm_px: float
    beta: float = 3.5
    e1: float = 0.0
    """Ellipticity along x (positive: long axis along x)."""
    e2: float = 0.0
    """Ellipticity along the diagonal x = y."""

    @property
    def alpha_px(self) -> float:
        """Core radius, pixels."""
        return float(self.fwhm_px / (2 * np.sqrt(2 ** (1 / self.beta) - 1)))

    def __call__(self, dx: ArrayLike, dy: ArrayLike) -> Array:
        """Value at an offset in pixels from the centre, 1/pixel²."""
        dx, dy = np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)
        area = 1 - self.e1**2 - self.e2**2
        u = (1 - self.e1) * dx - self.e2 * dy
        v = -self.e2 * dx + (1 + self.e1) * dy
        radius2 = (u * u + v * v) / (area * self.alpha_px**2)
        return np.asarray((self.beta - 1) / (np.pi * self.alpha_px**2) * (1 + radius2) ** -self.beta)

    def stamp(self, radius_px: int) -> Array:
        """Square image of the PSF centred on its middle pixel."""
        step = np.arange(-radius_px, radius_px + 1, dtype=np.float64)
        return self(step[None, :], step[:, None])


def paint_points(image: Array, x: ArrayLike, y: ArrayLike, flux: ArrayLike, psf: MoffatPsf) -> None:
    """Add point sources to an image in place.

    Parameters
    ----------
    image : (y, x) float64
        Electrons; changed.
    x, y : (n,) array_like
        Positions in pixels, 0-based, centres at integers; may lie outside the image.
    flux : (n,) array_like
        Total electrons of each source.
    psf : MoffatPsf
        The profile; its wings are cut where they no longer matter (below 4e-4 of the flux for the
        faintest sources, 1e-5 for the brightest).
    """
    x, y, flux = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (x, y, flux))
    floors = [floor for floor, _ in _STAMPS[1:]]
    size = np.searchsorted(floors, np.abs(flux), side="right")
    for index, (_, width) in enumerate(_STAMPS):
        radius = int(np.ceil(width * psf.fwhm_px))
        near = (x > -radius) & (y > -radius) & (x < image.shape[1] + radius) & (y < image.shape[0] + radius)
        chosen = np.flatnonzero((size == index) & near & (flux != 0))
        batch = max(1, _BATCH // (2 * radius + 1) ** 2)
        for start in range(0, len(chosen), batch):
            part = chosen[start : start + batch]
            _paint_stamps(image, x[part], y[part], flux[part], psf, radius)


def _paint_stamps(image: Array, x: Array, y: Array, flux: Array, psf: MoffatPsf, radius: int) -> None:
    """Add equally sized stamps through one ``bincount``, whose order of summing is fixed."""
    step = np.arange(-radius, radius + 1)
    columns = np.rint(x).astype(np.int64)[:, None] + step
    rows = np.rint(y).astype(np.int64)[:, None] + step
    values = flux[:, None, None] * psf(
        (columns - x[:, None])[:, None, :],
        (rows - y[:, None])[:, :, None],
    )
    height, width = image.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    flat = (rows[:, :, None] * width + columns[:, None, :])[inside]
    image += np.bincount(flat, weights=values[inside], minlength=image.size).reshape(image.shape)


def paint_trail(
    image: Array, x: float, y: float, flux: float, length_px: float, angle_rad: float, psf: MoffatPsf
) -> None:
    """Add a source that moved during the exposure: its PSF spread evenly over a straight line.

    Parameters
    ----------
    image : (y, x) float64
        Electrons; changed.
    x, y : float
        Middle of the trail, pixels.
    flux : float
        Total electrons of the whole trail (not per pixel of length).
    length_px, angle_rad : float
        Length, and direction from +x towards +y.
    """
    # midpoint rule: with steps of FWHM/6 its error is far below the noise of any exposure
    steps = max(1, int(np.ceil(6 * length_px / psf.fwhm_px)))
    along = length_px * ((np.arange(steps) + 0.5) / steps - 0.5)
    xs, ys = x + along * np.cos(angle_rad), y + along * np.sin(angle_rad)
    paint_points(image, xs, ys, np.full(steps, flux / steps), psf)


@cache
def sersic_gaussians(index: float) -> tuple[Array, Array]:
    """Sérsic profile as a sum of round Gaussians, after the idea of Hogg & Lang (2013).

    Parameters
    ----------
    index : float
        Sérsic index: 1 exponential disc, 4 de Vaucouleurs.

    Returns
    -------
    fractions, sigmas : (n,) float64
        Share of the flux (sums to 1) and width in half-light radii of each component.
    """
    from scipy.optimize import nnls

    b = 2 * index - 1 / 3 + 4 / (405 * index)  # Ciotti & Bertin (1999), good to 1e-4 for n > 0.5
    radius = np.geomspace(0.03, 8.0, 240)
    profile = np.exp(-b * (radius ** (1 / index) - 1))
    sigmas = np.geomspace(0.03, 4.0, 12)
    basis = np.exp(-0.5 * (radius[:, None] / sigmas) ** 2) / (2 * np.pi * sigmas**2)
    # least squares of the light per log radius: what an eye and a detector weigh
    light = radius**2
    amplitudes, _ = nnls(basis * light[:, None], profile * light)
    used = amplitudes > 0
    return amplitudes[used] / amplitudes[used].sum(), sigmas[used]


#: Every component gets this width in quadrature, pixels: a core narrower than a pixel would alias
#: when shifted by part of a pixel, and leave dipoles that no telescope makes.
SOFTENING_PX = 0.8


def galaxy_covariances(radius_px: float, axis_ratio: float, angle_rad: float, index: float) -> Array:
    """Covariance matrices of a galaxy's Gaussian components, (n, 2, 2) pixel²; `radius_px` is half-light."""
    _, sigmas = sersic_gaussians(index)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    rotation = np.array([[cos, -sin], [sin, cos]])
    shape = rotation @ np.diag([radius_px**2, (radius_px * axis_ratio) ** 2]) @ rotation.T
    return np.asarray(sigmas[:, None, None] ** 2 * shape + SOFTENING_PX**2 * np.eye(2))


def paint_galaxy(
    image: Array,
    x: float,
    y: float,
    flux: float,
    radius_px: float,
    axis_ratio: float,
    angle_rad: float,
    index: float,
) -> None:
    """Add a galaxy to an image in place, before the PSF (`convolve` a whole image of them at once).

    Parameters
    ----------
    image : (y, x) float64
        Electrons; changed.
    x, y, flux : float
        Centre in pixels, total electrons.
    radius_px : float
        Half-light radius along the major axis.
    axis_ratio, angle_rad : float
        Minor over major axis; direction of the major axis from +x towards +y.
    index : float
        Sérsic index.
    """
    fractions, _ = sersic_gaussians(index)
    for fraction, covariance in zip(
        fractions, galaxy_covariances(radius_px, axis_ratio, angle_rad, index), strict=True
    ):
        reach = 4.5 * np.sqrt(np.diag(covariance))
        columns = _window(x, reach[0], image.shape[1])
        rows = _window(y, reach[1], image.shape[0])
        if columns.size == 0 or rows.size == 0:
            continue
        values = gaussian_value(columns[None, :] - x, rows[:, None] - y, covariance)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += flux * fraction * values


def _window(centre: float, reach: float, size: int) -> NDArray[np.int64]:
    return np.arange(max(0, int(centre - reach)), min(size, int(centre + reach) + 2))


def gaussian_value(dx: ArrayLike, dy: ArrayLike, covariance: Array) -> Array:
    """Unit-flux Gaussian at an offset in pixels, 1/pixel²."""
    dx, dy = np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)
    inverse = np.linalg.inv(covariance)
    chi2 = inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
    return np.asarray(np.exp(-0.5 * chi2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance))))


def convolve(image: Array, psf: MoffatPsf) -> Array:
    """Image seen through the PSF; light that leaves the frame is lost, none comes in."""
    from scipy.signal import fftconvolve

    return np.asarray(fftconvolve(image, psf.stamp(int(np.ceil(8 * psf.fwhm_px))), mode="same"))
