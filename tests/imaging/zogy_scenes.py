"""Pairs of painted frames for the tests and benchmarks of the subtraction, and how it stands wrong inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.zogy import plan_subtraction, subtract

BOX = 31
Catalogue = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def gaussian(fwhm: float, box: int = BOX, dy: float = 0.0, dx: float = 0.0) -> NDArray[np.float64]:
    """PSF of flux 1, not on the middle pixel but (dy, dx) beside it."""
    axis = np.arange(box) - box // 2
    sigma = fwhm / 2.3548
    stamp = np.exp(-0.5 * ((axis[:, None] - dy) ** 2 + (axis - dx) ** 2) / sigma**2)
    return np.asarray(stamp / (2 * np.pi * sigma**2))


def moffat(fwhm: float, box: int = BOX, beta: float = 3.5) -> NDArray[np.float64]:
    """PSF of flux 1 with wings."""
    axis = np.arange(box) - box // 2
    width = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    stamp = (1 + (axis[:, None] ** 2 + axis**2) / width**2) ** -beta
    return np.asarray(stamp / stamp.sum())


def stars(
    shape: tuple[int, int], seed: int, count: int = 40, faintest: float = 2e3, margin: int = 0
) -> Catalogue:
    """Rows, columns and fluxes: half as many above twice the flux, up to 50 times the faintest."""
    rng = np.random.default_rng(seed)
    flux = faintest * rng.uniform(0.02, 1, count) ** -1.0
    return (
        rng.uniform(margin, shape[0] - 1 - margin, count),
        rng.uniform(margin, shape[1] - 1 - margin, count),
        flux,
    )


def scene(
    shape: tuple[int, int],
    fwhm: float,
    catalogue: Catalogue,
    scale: float = 1.0,
    dy: float = 0.0,
    dx: float = 0.0,
) -> NDArray[np.float64]:
    """Noise-free stars; what falls off the frame is lost, as on a detector."""
    big = np.zeros((shape[0] + 2 * BOX, shape[1] + 2 * BOX))
    for y, x, flux in zip(*catalogue, strict=True):
        at_y, at_x = y + dy, x + dx
        row, column = round(at_y), round(at_x)
        cut = big[row + BOX // 2 + 1 :, column + BOX // 2 + 1 :][:BOX, :BOX]
        cut += scale * flux * gaussian(fwhm, dy=at_y - row, dx=at_x - column)
    return big[BOX:-BOX, BOX:-BOX]


def noisy(
    clean: NDArray[np.float64], sky_sigma: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A frame with the noise of its sky and sources, and its variance."""
    variance = np.maximum(clean, 0) + sky_sigma**2
    image = clean + np.random.default_rng(seed).normal(size=clean.shape) * np.sqrt(variance)
    return image.astype(np.float32), variance.astype(np.float32)


def pair(
    shape: tuple[int, int],
    seed: int,
    fwhm: tuple[float, float] = (2.6, 2.2),
    sigma: tuple[float, float] = (20.0, 10.0),
    ratio: float = 1.0,
) -> Planes:
    """Science, reference and their variances, of the same stars."""
    catalogue = stars(shape, seed)
    new, var_new = noisy(scene(shape, fwhm[0], catalogue, ratio), sigma[0], seed + 1)
    ref, var_ref = noisy(scene(shape, fwhm[1], catalogue), sigma[1], seed + 2)
    return new, ref, var_new, var_ref


def empty_sky(
    shape: tuple[int, int], sigma: float, seed: int, gradient: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise without sources, whose variance rises along y, and that variance."""
    rng = np.random.default_rng(seed)
    slope = 1 + gradient * (np.linspace(-1, 1, shape[0])[:, None] + np.zeros(shape[1]))
    variance = (sigma**2 * slope).astype(np.float32)
    noise = rng.standard_normal(shape, np.float32) * np.sqrt(variance)
    return noise, variance


#: What is wrong by how much: shift in pixels, the others as fractions.
ERRORS = (
    ("none", 0.0),
    *(("shift", error) for error in (0.05, 0.1, 0.2, 0.3)),
    *(("FWHM", error) for error in (0.01, 0.02, 0.05, 0.1)),
    *(("flux ratio", error) for error in (0.01, 0.03, 0.05)),
)


@dataclass(frozen=True)
class Sensitivity:
    """Peaks of |S_corr| >= 5 that are no transient, and transients found (of 25), with an input in error."""

    kind: str
    error: float
    spurious: int
    spurious_excused: int
    """With the error in the variance: V_ast of a shift, flux_ratio_err of the others."""
    recovered: int
    """With the error in the variance."""
    score_std: float
    """Robust, of the whole frame, with the error in the variance."""


class WrongInputs:
    """A crowded pair with 25 transients of S/N 10: 600 stars per Mpix up to 3e5 e-, sky 400 and 100 e-."""

    def __init__(self, side: int = 1024, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.shape = (side, side)
        count = round(600 * side**2 / 2**20)
        # Ten times as many stars per decade fainter, from 3e5 e- down; none is cut by the border.
        flux = 3e5 / (1 + 299 * rng.random(count))
        y, x = (rng.uniform(20, side - 21, count) for _ in range(2))
        self.psfs = gaussian(3.2), gaussian(2.4)
        plan = plan_subtraction(*self.psfs, 20, 10, 1.0, shape=self.shape)
        grid = np.linspace(40, side - 40, 5).round()
        rows, columns = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
        self.transients = rows, columns, np.full(25, 2 * plan.limiting_flux)
        # Transients stand in the open: on a star they would have another S/N.
        open_sky = np.hypot(y[:, None] - rows, x[:, None] - columns).min(1) > 10
        y, x, flux = y[open_sky], x[open_sky], flux[open_sky]
        self.steady: Catalogue = y, x, flux
        self.noise = rng.standard_normal((2, *self.shape))

    def measure(self, kind: str, error: float) -> Sensitivity:
        """Subtract with one input in error, without and with that error in the variance."""
        shift = error if kind == "shift" else 0.0
        # The same along x and y, the length of both together being the error.
        steady = scene(self.shape, 3.2, self.steady, dx=shift / np.sqrt(2), dy=shift / np.sqrt(2))
        clean = steady + scene(self.shape, 3.2, self.transients), scene(self.shape, 2.4, self.steady)
        variances = [one + sky for one, sky in zip(clean, (400.0, 100.0), strict=True)]
        images = [
            one + noise * np.sqrt(variance)
            for one, noise, variance in zip(clean, self.noise, variances, strict=True)
        ]
        planes = [plane.astype(np.float32) for plane in (*images, *variances)]
        psf_n = gaussian(3.2 * (1 + error)) if kind == "FWHM" else self.psfs[0]
        ratio = 1 + error if kind == "flux ratio" else 1.0
        plan = plan_subtraction(psf_n, self.psfs[1], 20, 10, ratio, shape=self.shape)
        plain = subtract(*planes, plan)
        excused = subtract(
            *planes,
            plan,
            astrometric_sigma=(shift / np.sqrt(2),) * 2,
            flux_ratio_err=error if kind in ("FWHM", "flux ratio") else 0.0,
        )
        recovered, spurious = self._peaks(excused.score)
        return Sensitivity(
            kind,
            error,
            self._peaks(plain.score)[1],
            spurious,
            recovered,
            1.4826 * float(np.median(np.abs(excused.score))),
        )

    def _peaks(self, score: NDArray[np.float32]) -> tuple[int, int]:
        """Transients found, and other peaks."""
        y, x = find_peaks(score, 5.0)[:2]
        apart = np.hypot(y[:, None] - self.transients[0], x[:, None] - self.transients[1])
        return int((apart < 3).any(0).sum()), int((apart >= 3).all(1).sum())
