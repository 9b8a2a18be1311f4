"""Peaks of a score image, their positions, fluxes and shapes, and seams between tiles."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError

Columns: TypeAlias = dict[str, NDArray[Any]]
Peaks: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]

#: Radius in pixels within which mask bits count as touching a detection.
MASK_RADIUS_PX = 2
_SEPARATION_PX = 2
_ITERATIONS = 8
_LARGEST_STEP_PX = 1.5
_BLOCK = 256


def find_peaks(score: NDArray[np.float32], threshold: float = 5.0) -> Peaks:
    """Local extremes of a score image that reach the threshold, of both signs.

    A peak is the largest of its sign within 5×5 pixels; of equal neighbours the first in raster order stays.

    Parameters
    ----------
    score : (y, x) float32
        Signed S_corr; NaN is never a peak.
    threshold : float
        Least absolute score.

    Returns
    -------
    y, x : (n,) int64
    score : (n,) float32
        In raster order.
    """
    found = []
    width = score.shape[1]
    border = np.pad(score, _SEPARATION_PX, constant_values=np.nan)
    stride = border.shape[1]
    flat = border.reshape(-1)
    for sign in (1, -1):
        index = np.flatnonzero(score * sign >= threshold)
        rows, columns = np.divmod(index, width)
        places = (rows + _SEPARATION_PX) * stride + columns + _SEPARATION_PX
        for dy in range(-_SEPARATION_PX, _SEPARATION_PX + 1):
            for dx in range(-_SEPARATION_PX, _SEPARATION_PX + 1):
                if dy == dx == 0:
                    continue
                own, other = flat[places] * sign, flat[places + dy * stride + dx] * sign
                first = (dy, dx) < (0, 0)
                places = places[~(other >= own)] if first else places[~(other > own)]
        found.append(places)
    places = np.sort(np.concatenate(found))
    rows, columns = np.divmod(places, stride)
    return rows - _SEPARATION_PX, columns - _SEPARATION_PX, flat[places]


def measure_peaks(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    mask: NDArray[np.uint16],
    peaks: Peaks,
) -> Columns:
    """Positions, fluxes and shapes of peaks, by least squares of P_D on the difference.

    D is white, so the fit is unweighted; the noise of a pixel is what `sigma_flux` says it is for a PSF flux,
    sigma_flux · sqrt(sum P_D²), source noise included. P_D is moved by the shift theorem.

    Parameters
    ----------
    difference, score, sigma_flux : (y, x) float32
        Of a `Subtraction`; NaN is no data.
    psf_d : (v, u) float32
        PSF of the difference, centred on its middle pixel.
    mask : (y, x) uint16
        Bits of `astrid_dist.flags`.
    peaks : tuple
        As `find_peaks` returns them.

    Returns
    -------
    dict of (n,) arrays
        x, y float64 and x_err, y_err float32 in pixels; flux, flux_err float32 in electrons of the reference;
        snr float32, the signed score of the peak; chi2 float32 per degree of freedom; fwhm float32 in pixels,
        of the source as it stands in the difference; mask uint16, bits within 2 px.

    Raises
    ------
    InputError
        Images of different shapes.
    """
    shape = difference.shape
    if not shape == score.shape == sigma_flux.shape == mask.shape:
        raise InputError(
            f"detection: difference {shape}, score {score.shape}, sigma_flux {sigma_flux.shape} and "
            f"mask {mask.shape} must share one shape"
        )
    model = _Model(psf_d)
    parts = [
        _measure_block(difference, score, sigma_flux, mask, model, tuple(p[i : i + _BLOCK] for p in peaks))
        for i in range(0, max(len(peaks[0]), 1), _BLOCK)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def merge(columns: Mapping[str, NDArray[Any]], radius_px: float = 1.5) -> Columns:
    """One row per source where tiles that overlap saw it twice; the same whatever the order of rows.

    Rows of one sign within the radius are one source; the one of highest absolute snr stays.

    Parameters
    ----------
    columns : mapping of (n,) arrays
        With x, y (pixels of one common frame, one epoch) and snr.
    radius_px : float
        Rows farther apart are different sources.

    Returns
    -------
    dict of arrays
        The rows that stay, sorted by y, then x.
    """
    rows = {name: np.asarray(values) for name, values in columns.items()}
    if not len(rows["x"]):
        return rows
    x, y, snr = rows["x"], rows["y"], rows["snr"]
    # Every column takes part, so that rows equal in place and strength are still ordered by content.
    others = [rows[name] for name in sorted(rows, reverse=True) if name not in ("x", "y", "snr")]
    order = np.lexsort([*others, x, y, -np.abs(snr)])
    places = np.column_stack([x, y])
    near = cKDTree(places).query_ball_point(places, radius_px)
    dropped = np.zeros(len(order), dtype=bool)
    kept = []
    for row in order:
        if dropped[row]:
            continue
        kept.append(row)
        same = np.asarray(near[row])
        dropped[same[np.signbit(snr[same]) == np.signbit(snr[row])]] = True
    chosen = np.asarray(kept)
    chosen = chosen[np.lexsort([snr[chosen], x[chosen], y[chosen]])]
    return {name: values[chosen] for name, values in rows.items()}


class _Model:
    """P_D at any sub-pixel place, with its slopes, in a window that holds nearly all of its energy."""

    def __init__(self, psf_d: NDArray[np.float32]) -> None:
        stamp = psf_d.astype(np.float64)
        box = len(stamp)
        offsets = np.arange(box) - box // 2
        self.norm = float(np.sum(stamp**2))
        self.fwhm = _isophotal_fwhm(stamp)
        self.radius = int(min(box // 2, max(3, np.ceil(1.5 * self.fwhm))))
        self.window = np.arange(-self.radius, self.radius + 1)
        self.frequencies = np.fft.fftfreq(box)
        self.transform = np.fft.fft2(np.roll(stamp, (-(box // 2), -(box // 2)), (0, 1))) / box**2
        # A source twice as wide or half as wide is judged against what the same estimate says of P_D.
        core = np.abs(offsets) <= self.radius
        self.width = _weighted_width(
            stamp[np.ix_(core, core)][None], self.window, np.zeros((2, 1)), self.fwhm
        )

    def at(self, dy: NDArray[np.float64], dx: NDArray[np.float64]) -> NDArray[np.float64]:
        """P_D and its slopes along y and x for sources at these offsets: (3, n, v, u)."""
        turn = 2j * np.pi * self.frequencies
        rows = np.exp(turn * (self.window[:, None] - dy[:, None, None]))
        columns = np.exp(turn * (self.window[:, None] - dx[:, None, None])).swapaxes(1, 2)
        middle, middle_y = self.transform @ columns, (-turn[:, None] * self.transform) @ columns
        slope_x = self.transform * -turn @ columns
        return np.stack([(rows @ part).real for part in (middle, middle_y, slope_x)])


def _measure_block(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    mask: NDArray[np.uint16],
    model: _Model,
    peaks: tuple[NDArray[Any], ...],
) -> Columns:
    rows, columns, snr = (np.asarray(part) for part in peaks)
    data = _windows(difference, rows, columns, model.radius, np.nan).astype(np.float64)
    usable = np.isfinite(data)
    data[~usable] = 0
    peak_error = sigma_flux[rows, columns].astype(np.float64)

    start = _parabola(_windows(score, rows, columns, 1, np.nan).astype(np.float64))
    offset = start.copy()
    flux = np.zeros(len(rows))
    for _ in range(_ITERATIONS):
        psf, slope_y, slope_x = model.at(*offset) * usable
        energy = np.sum(psf**2, axis=(1, 2))
        flux = np.divide(np.sum(data * psf, axis=(1, 2)), energy, out=np.zeros_like(energy), where=energy > 0)
        step = _solve_step(data - flux[:, None, None] * psf, psf, slope_y, slope_x, flux)
        offset += np.clip(step, -0.5, 0.5)
    # A fit that runs away sits on no point source; its peak is the honest position.
    lost = ~(np.abs(offset - start).max(axis=0) <= _LARGEST_STEP_PX)
    offset[:, lost] = start[:, lost]
    psf, slope_y, slope_x = model.at(*offset) * usable
    energy = np.sum(psf**2, axis=(1, 2))
    sound = energy > 0.1 * model.norm
    flux = np.divide(np.sum(data * psf, axis=(1, 2)), energy, out=np.full(len(rows), np.nan), where=sound)
    residual = data - flux[:, None, None] * psf
    pixel_sigma = peak_error * np.sqrt(model.norm)
    freedom = np.maximum(usable.sum(axis=(1, 2)) - 3, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chi2 = np.sum(residual**2 * usable, axis=(1, 2)) / pixel_sigma**2 / freedom
        y_err, x_err = (
            pixel_sigma / (np.abs(flux) * np.sqrt(np.sum(slope**2, axis=(1, 2))))
            for slope in (slope_y, slope_x)
        )
        # Lost pixels of the window cost signal.
        flux_err = peak_error * np.sqrt(np.maximum(1.0, model.norm / energy))
    width = _weighted_width(data * np.sign(snr)[:, None, None], model.window, offset, model.fwhm)
    bits = _windows(mask, rows, columns, MASK_RADIUS_PX, 0)
    near = np.arange(-MASK_RADIUS_PX, MASK_RADIUS_PX + 1)
    disk = near[:, None] ** 2 + near**2 <= MASK_RADIUS_PX**2
    return {
        "x": columns + offset[1],
        "y": rows + offset[0],
        "x_err": x_err.astype(np.float32),
        "y_err": y_err.astype(np.float32),
        "flux": flux.astype(np.float32),
        "flux_err": flux_err.astype(np.float32),
        "snr": snr.astype(np.float32),
        "chi2": chi2.astype(np.float32),
        "fwhm": (model.fwhm * width / model.width).astype(np.float32),
        "mask": np.bitwise_or.reduce(bits[:, disk], axis=1).astype(np.uint16),
    }


def _windows(
    image: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], radius: int, fill: float
) -> NDArray[Any]:
    """Square cuts round pixels, (n, v, u), filled beyond the border."""
    offsets = np.arange(-radius, radius + 1)
    y, x = rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets
    height, width = image.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    cut = image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(inside, cut, np.asarray(fill, dtype=image.dtype))


def _parabola(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets (y, x) of the vertex through a pixel and its neighbours along each axis, (2, n)."""
    middle = score[:, 1, 1]
    offset = np.zeros((2, len(score)))
    for axis, (low, high) in enumerate(((score[:, 0, 1], score[:, 2, 1]), (score[:, 1, 0], score[:, 1, 2]))):
        bend = low - 2 * middle + high
        good = np.isfinite(bend) & (bend * np.sign(middle) < 0)
        offset[axis, good] = 0.5 * (low - high)[good] / bend[good]
    return np.asarray(np.clip(offset, -0.5, 0.5))


def _solve_step(
    residual: NDArray[np.float64],
    psf: NDArray[np.float64],
    slope_y: NDArray[np.float64],
    slope_x: NDArray[np.float64],
    flux: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Gauss-Newton step (dy, dx) of position, flux being free too, (2, n)."""
    design = np.stack([psf, slope_y * flux[:, None, None], slope_x * flux[:, None, None]], axis=1)
    pixels = psf.shape[1] * psf.shape[2]
    design = design.reshape(len(psf), 3, pixels)
    normal = design @ design.swapaxes(1, 2)
    right = design @ residual.reshape(len(psf), pixels, 1)
    # Scaled to a unit diagonal, plus a trace of it: a window without slope gives no step, not an error.
    scale = np.sqrt(np.einsum("nii->ni", normal))
    scale[scale == 0] = 1
    normal = normal / (scale[:, :, None] * scale[:, None, :]) + 1e-9 * np.eye(3)
    step = np.linalg.solve(normal, right / scale[:, :, None])[:, :, 0] / scale
    return np.asarray(step[:, 1:].T)


def _isophotal_fwhm(stamp: NDArray[np.float64]) -> float:
    """Diameter of the disk of the area above half maximum, on a grid four times finer (shift theorem)."""
    box, fine = len(stamp), 4 * len(stamp)
    padded = np.zeros((fine, fine), dtype=complex)
    half = box // 2
    centre = fine // 2
    spectrum = np.fft.fftshift(np.fft.fft2(stamp))
    padded[centre - half : centre + half + 1, centre - half : centre + half + 1] = spectrum
    smooth = np.fft.ifft2(np.fft.ifftshift(padded)).real
    return float(2 * np.sqrt(np.count_nonzero(smooth >= smooth.max() / 2) / 16 / np.pi))


def _weighted_width(
    data: NDArray[np.float64], window: NDArray[np.int64], offset: NDArray[np.float64], fwhm: float
) -> NDArray[np.float64]:
    """Gaussian width from second moments under a Gaussian weight of twice the PSF's width, (n,).

    The weight's own share is taken out: 1/s² = 1/m - 1/w². Noise can make the moment reach the weight's,
    or fall to nothing; the result is held within 0.1 and 5 widths of the PSF.
    """
    sigma = fwhm / 2.3548
    weight_sigma = 2 * sigma
    y, x = window[:, None] - offset[0][:, None, None], window - offset[1][:, None, None]
    r2 = y**2 + x**2
    weighted = data * np.exp(-r2 / (2 * weight_sigma**2))
    total = np.sum(weighted, axis=(1, 2))
    moment = np.divide(
        np.sum(weighted * r2, axis=(1, 2)) / 2, total, out=np.zeros_like(total), where=total > 0
    )
    least, most = (1 / (1 / (k * sigma) ** 2 + 1 / weight_sigma**2) for k in (0.1, 5.0))
    moment = np.clip(moment, least, most)
    return np.asarray(1 / np.sqrt(1 / moment - 1 / weight_sigma**2))
