"""Point sources in a difference: P_D at any place, its fit, the noise of the fit, and second moments."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = dict[str, NDArray[Any]]
Floats: TypeAlias = NDArray[np.float64]

_LARGEST_STEP_PX = 1.5


class PointSource:
    """P_D at any sub-pixel place, with its slopes, in a window that holds nearly all of its energy.

    Attributes
    ----------
    stamp : (v, u) float64
        P_D, centred on its middle pixel.
    norm, cube : float
        Sum of P_D², and of P_D³ where it is positive.
    fwhm : float
        Pixels, of the disk of the area above half maximum.
    radius : int
        Half the window's side.
    window : (w,) int
        Offsets of its rows and columns from the middle.
    width : float
        What `weighted_width` says of P_D.
    """

    def __init__(self, psf_d: NDArray[np.float32]) -> None:
        self.stamp = psf_d.astype(np.float64)
        box = len(self.stamp)
        self.norm = float(np.sum(self.stamp**2))
        self.cube = float(np.sum(np.maximum(self.stamp, 0) ** 3))
        self.fwhm = _isophotal_fwhm(self.stamp)
        self.radius = int(min(box // 2, max(3, np.ceil(1.5 * self.fwhm))))
        self.window = np.arange(-self.radius, self.radius + 1)
        self._turn = 2j * np.pi * np.fft.fftfreq(box)
        # The real transform's half of the frequencies of x; all but the first stand for two.
        half = box // 2 + 1
        self._turn_x = self._turn[:half]
        twice = np.where(np.arange(half) > 0, 2, 1)
        self._transform = np.fft.fft2(np.fft.ifftshift(self.stamp))[:, :half] * twice / box**2
        # Convolved with an exponential disk of a sixteenth of the FWHM (SPREAD_MODEL: Desai et al. 2012).
        k2 = np.abs(self._turn[:, None]) ** 2 + np.abs(self._turn_x) ** 2
        self._spread = self._transform * (1 + k2 * (self.fwhm / 16) ** 2) ** -1.5
        slopes = -self._turn[:, None] * self._transform, -self._turn_x * self._transform
        self._with_slopes = np.concatenate([self._transform, *slopes])
        # A source twice as wide or half as wide is judged against what the same estimate says of P_D.
        core = np.abs(np.arange(box) - box // 2) <= self.radius
        middle = np.zeros((2, 1))
        self.width = weighted_width(self.stamp[np.ix_(core, core)][None], self.window, middle, self.fwhm)[0]

    def at(self, offset: Floats) -> Floats:
        """P_D and its slopes along y and x for sources at offsets (2, n): (3, n, w, w)."""
        return self._evaluate(self._with_slopes, offset, self.window)

    def image(self, offset: Floats, window: NDArray[np.int64] | None = None) -> Floats:
        """P_D alone, as `at`; on another window where one is given."""
        images = self._evaluate(self._transform, offset, self.window if window is None else window)
        return np.asarray(images[0])

    def spread_at(self, offset: Floats) -> Floats:
        """P_D of a barely resolved source at offsets (2, n): (n, w, w)."""
        return np.asarray(self._evaluate(self._spread, offset, self.window)[0])

    def matched(self) -> "PointSource":
        """What a point source leaves in the matched filter of D: P_D with itself, 1 in the middle."""
        box = len(self.stamp)
        power = np.abs(np.fft.rfft2(self.stamp, (2 * box, 2 * box))) ** 2
        offsets = np.arange(box) - box // 2
        pattern = np.fft.irfft2(power, (2 * box, 2 * box))[np.ix_(offsets, offsets)]
        return PointSource(pattern / pattern.max())

    def _evaluate(
        self, transforms: NDArray[np.complex128], offset: Floats, window: NDArray[np.int64]
    ) -> Floats:
        """Images of k transforms, one below the other (k v, u): (k, n, w, w)."""
        box, n, side = len(self.stamp), offset.shape[1], len(window)
        kinds = len(transforms) // box
        rows, columns = (
            np.exp(-turn * one[:, None])[:, :, None] * np.exp(turn[:, None] * window)
            for turn, one in zip((self._turn, self._turn_x), offset, strict=True)
        )
        if np.abs(offset).max(initial=0) + np.abs(window).max() > box / 2:
            # Beyond its box P_D is nothing, not its periodic image.
            rows, columns = (
                part * (np.abs(window - one[:, None]) < box / 2)[:, None]
                for part, one in zip((rows, columns), offset, strict=True)
            )
        # One large product, then one small for each source: real and imaginary parts as one real product.
        flat = columns.transpose(1, 0, 2).reshape(len(self._turn_x), n * side)
        middle = (transforms @ flat).reshape(kinds, box, n, side).transpose(2, 1, 0, 3)
        middle = middle.reshape(n, box, kinds * side)
        left = np.concatenate([rows.real, -rows.imag], axis=1).swapaxes(1, 2)
        parts = left @ np.concatenate([middle.real, middle.imag], axis=1)
        return np.asarray(parts.reshape(n, side, kinds, side).transpose(2, 0, 1, 3))


@dataclass(frozen=True)
class Fit:
    """Point sources fitted to windows: places from the windows' middles, fluxes, and P_D there."""

    offset: Floats
    """(2, n), y and x, pixels."""
    flux: Floats
    """(n,), electrons of the reference; NaN where too little of the PSF is on data."""
    psf: Floats
    """(n, w, w), P_D at the place, zero off the data."""
    slopes: Floats
    """(2, n, w, w), its slopes along y and x."""
    energy: Floats
    """(n,), sum of psf²."""


def fit(
    data: Floats, usable: NDArray[np.bool_], model: PointSource, start: Floats, iterations: int = 6
) -> Fit:
    """Fit P_D to windows by Gauss-Newton, position and flux free; unweighted, D being white.

    Parameters
    ----------
    data : (n, w, w) float64
        Windows of the difference, zero off the data.
    usable : (n, w, w) bool
        Where there is data.
    model : PointSource
        P_D.
    start : (2, n) float64
        First guess of the offsets, pixels.
    iterations : int
        Steps to take.
    """
    offset = start.copy()
    flux = np.zeros(len(data))
    for _ in range(iterations):
        psf, slope_y, slope_x = model.at(offset) * usable
        energy = np.sum(psf**2, axis=(1, 2))
        flux = np.divide(np.sum(data * psf, axis=(1, 2)), energy, out=np.zeros_like(energy), where=energy > 0)
        offset += np.clip(_step(data, psf, slope_y, slope_x, flux), -0.5, 0.5)
    # A fit that runs away sits on no point source; its peak is the honest position.
    lost = ~(np.abs(offset - start).max(axis=0) <= _LARGEST_STEP_PX)
    offset[:, lost] = start[:, lost]
    psf, slope_y, slope_x = model.at(offset) * usable
    energy = np.sum(psf**2, axis=(1, 2))
    sound = energy > 0.1 * model.norm
    flux = np.divide(np.sum(data * psf, axis=(1, 2)), energy, out=np.full(len(data), np.nan), where=sound)
    return Fit(offset, flux, psf, np.stack([slope_y, slope_x]), energy)


def pixel_variance(
    sigma_flux: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    fitted: Fit,
    model: PointSource,
    noise_ratio: float,
) -> tuple[Floats, Floats]:
    """Variance of the pixels of D around peaks, (n, w, w), and of the sky alone, (n,); electron².

    Away from sources D is white, of sigma_flux · sqrt(sum P_D²) per pixel; a low quantile on a ring around
    the source stands for it, and `noise_ratio` says how far the pixels depart from that (resampled frames).
    At the peak sigma_flux² exceeds the ring's by E: the source's own photons. As a variance Q P_D they give a
    PSF flux an error of Q sum(P_D³) / (sum P_D²)², which fixes Q. Where E holds terms of misregistration or
    flux ratio too (a bright star that varies), the core is allowed that much misfit.
    """
    # Two sides of the window away the source's own light is gone, yet a host galaxy's noise is the same.
    reach = 2 * model.radius + 1
    side = np.arange(-reach, reach + 1, max(1, reach // 5))
    ring_y = np.concatenate([side, side, np.full_like(side, -reach), np.full_like(side, reach)])
    ring_x = np.concatenate([np.full_like(side, -reach), np.full_like(side, reach), side, side])
    height, width = sigma_flux.shape
    y, x = rows[:, None] + ring_y, columns[:, None] + ring_x
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    ring = sigma_flux[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(np.float64)
    ring[~inside] = np.nan
    ring = np.sort(ring, axis=1)
    count = np.isfinite(ring).sum(axis=1)
    peak = sigma_flux[rows, columns].astype(np.float64) ** 2
    floor = ring[np.arange(len(rows)), count // 4] ** 2
    floor = np.where(count > 0, np.minimum(floor, peak), peak)
    sky = floor * model.norm * noise_ratio**2
    own = (peak - floor) * model.norm**2 / model.cube
    return sky[:, None, None] + own[:, None, None] * np.maximum(fitted.psf, 0), sky


def reduced_chi2(data: Floats, usable: NDArray[np.bool_], variance: Floats, fitted: Fit) -> Floats:
    """Chi squared per degree of freedom of fits to windows, (n,)."""
    residual = data - np.nan_to_num(fitted.flux)[:, None, None] * fitted.psf
    freedom = np.maximum(usable.sum(axis=(1, 2)) - 3, 1)
    return np.asarray(np.sum(residual**2 / variance * usable, axis=(1, 2)) / freedom)


def noise_ratio(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    model: PointSource,
) -> float:
    """Robust deviation of D's pixels over what sigma_flux says of them: 1 where the noise is white.

    Resampling leaves noise correlated; then S_corr is scaled to unit noise, single pixels are quieter.
    """
    step = max(1, int(np.sqrt(difference.size / 40000)))
    thin = (slice(None, None, step),) * 2
    sample = (difference[thin] / sigma_flux[thin])[np.abs(score[thin]) < 3]
    if sample.size < 2000:
        return 1.0
    middle = np.median(sample)
    ratio = 1.4826 * float(np.median(np.abs(sample - middle))) / np.sqrt(model.norm)
    return ratio if 0.3 < ratio < 3 else 1.0


def windows(
    image: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], radius: int, fill: float
) -> NDArray[Any]:
    """Square cuts round pixels, (n, v, u), filled beyond the border."""
    offsets = np.arange(-radius, radius + 1)
    y, x = rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets
    height, width = image.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    cut = image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(inside, cut, np.asarray(fill, dtype=image.dtype))


def parabola(score: Floats) -> Floats:
    """Offsets (y, x) of the vertex through a pixel and its neighbours along each axis, (2, n)."""
    middle = score[:, 1, 1]
    offset = np.zeros((2, len(score)))
    for axis, (low, high) in enumerate(((score[:, 0, 1], score[:, 2, 1]), (score[:, 1, 0], score[:, 1, 2]))):
        bend = low - 2 * middle + high
        good = np.isfinite(bend) & (bend * np.sign(middle) < 0)
        offset[axis, good] = 0.5 * (low - high)[good] / bend[good]
    return np.asarray(np.clip(offset, -0.5, 0.5))


def second_moments(data: Floats, window: NDArray[np.int64], offset: Floats, fwhm: float) -> Floats:
    """Second moments (yy, xx, xy) in pixel² under a round Gaussian weight, its share taken out, (3, n).

    The weight is twice as wide as the PSF: 1/C = 1/M - 1/W along each axis (exact for a Gaussian source).
    Noise can make a moment reach the weight's, or fall to nothing; axes are held within 0.1 and 5 PSF widths.
    """
    yy, xx, xy = _raw_moments(data, window, offset, fwhm)
    # A round weight does not turn the axes.
    mean, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = _unweighted(mean + half, fwhm), _unweighted(mean - half, fwhm)
    turn = np.arctan2(xy, (xx - yy) / 2)
    mean, half = (major + minor) / 2, (major - minor) / 2
    return np.stack([mean - half * np.cos(turn), mean + half * np.cos(turn), half * np.sin(turn)])


def weighted_width(data: Floats, window: NDArray[np.int64], offset: Floats, fwhm: float) -> Floats:
    """Gaussian width in pixels, as `second_moments` but the same along all axes, (n,)."""
    yy, xx, _ = _raw_moments(data, window, offset, fwhm)
    return np.asarray(np.sqrt(_unweighted((yy + xx) / 2, fwhm)))


def _raw_moments(data: Floats, window: NDArray[np.int64], offset: Floats, fwhm: float) -> Floats:
    y, x = window[:, None] - offset[0][:, None, None], window - offset[1][:, None, None]
    weighted = data * np.exp(-(y**2 + x**2) / (2 * (2 * fwhm / 2.3548) ** 2))
    total = np.sum(weighted, axis=(1, 2))
    return np.stack(
        [
            np.divide(np.sum(weighted * part, axis=(1, 2)), total, out=np.zeros_like(total), where=total > 0)
            for part in (y**2, x**2, y * x)
        ]
    )


def _unweighted(moment: Floats, fwhm: float) -> Floats:
    """Take the weight's share out of a moment, within 0.1 and 5 widths of the PSF."""
    sigma = fwhm / 2.3548
    weight = 2 * sigma
    least, most = (1 / (1 / (k * sigma) ** 2 + 1 / weight**2) for k in (0.1, 5.0))
    return np.asarray(1 / (1 / np.clip(moment, least, most) - 1 / weight**2))


def _step(data: Floats, psf: Floats, slope_y: Floats, slope_x: Floats, flux: Floats) -> Floats:
    """Gauss-Newton step (dy, dx) of position, flux being free too, (2, n)."""
    scaled = flux[:, None, None]
    pixels = psf.shape[1] * psf.shape[2]
    design = np.stack([psf, slope_y * scaled, slope_x * scaled], axis=1).reshape(-1, 3, pixels)
    residual = (data - scaled * psf).reshape(-1, pixels)
    return np.asarray(solve(design, residual)[:, 1:].T)


def solve(design: Floats, residual: Floats, damping: float = 1e-9) -> Floats:
    """Least squares for many small problems, design (n, k, pixels), residual (n, pixels): (n, k).

    Scaled to a unit diagonal, plus `damping` of it: a window without slope gives no step, not an error.
    """
    normal = design @ design.swapaxes(1, 2)
    right = design @ residual[:, :, None]
    scale = np.sqrt(np.einsum("nii->ni", normal))
    scale[scale == 0] = 1
    normal = normal / (scale[:, :, None] * scale[:, None, :]) + damping * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(normal, right / scale[:, :, None])[:, :, 0] / scale)


def _isophotal_fwhm(stamp: Floats) -> float:
    """Diameter of the disk of the area above half maximum, on a grid four times finer (shift theorem)."""
    box, fine = len(stamp), 4 * len(stamp)
    padded = np.zeros((fine, fine), dtype=complex)
    half = box // 2
    centre = fine // 2
    spectrum = np.fft.fftshift(np.fft.fft2(stamp))
    padded[centre - half : centre + half + 1, centre - half : centre + half + 1] = spectrum
    smooth = np.fft.ifft2(np.fft.ifftshift(padded)).real
    return float(2 * np.sqrt(np.count_nonzero(smooth >= smooth.max() / 2) / 16 / np.pi))
