"""Short trails: a point source drawn out along a line by its own motion, fitted to a difference."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from astrid_dist.imaging.measure import Floats, PointSource, noise_ratio, windows
from astrid_dist.imaging.separation import Peaks, Sources
from astrid_dist.imaging.streaks import SHORTEST_PX, Streak


@dataclass(frozen=True)
class Trail(Streak):
    """A line convolved with P_D, as fitted."""

    flux: float = np.nan
    """Electrons of the reference."""
    dchi2_hit: float = np.nan
    """How much better a line of no width, a particle's track, fits."""


def collapse_trails(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    peaks: Peaks,
    threshold: float = 5.0,
) -> tuple[Peaks, dict[tuple[int, int], Trail]]:
    """Peaks that one trail explains better than as many point sources become one.

    A trail has five parameters, m sources have 3 m: the lower Bayesian information criterion decides.

    Parameters
    ----------
    difference, score, sigma_flux, psf_d
        As for `measure_peaks`.
    peaks : tuple
        Sources, as `separate_peaks` returns them.
    threshold : float
        Of the pixels that belong together.

    Returns
    -------
    peaks
        Those that stay: of each trail, the one nearest to its middle.
    trails : dict
        Trails in the image's pixels, by the row and column of their peak.
    """
    model = PointSource(psf_d)
    parts = elongated_parts(score, threshold, model.fwhm) if len(peaks[0]) else []
    if not parts:
        return peaks, {}
    sources = Sources(difference, score, model, peaks)
    ratio = noise_ratio(difference, score, sigma_flux, model)
    stay = np.ones(len(peaks[0]), bool)
    trails = {}
    for y, x in parts:
        inside = set(zip(y.tolist(), x.tolist(), strict=True))
        mine = np.array([place in inside for place in zip(peaks[0], peaks[1], strict=True)]) & stay
        if not mine.any():
            continue
        half = int(max(np.ptp(y), np.ptp(x)) / 2 + 1.5 * model.fwhm) + 1
        row, column = (np.array([(axis.min() + axis.max()) // 2]) for axis in (y, x))
        data = windows(difference, row, column, half, np.nan)[0].astype(np.float64)
        sign = np.sign(score[y[0], x[0]])
        variance = float(np.nanmin(sigma_flux[y, x])) ** 2 * model.norm * ratio**2
        window = np.arange(-half, half + 1)
        near = np.abs(sources.places - [row[0], column[0]]).max(axis=1) < 2 * half
        light = {
            whose: np.tensordot(
                sources.flux[chosen],
                model.image((sources.places[chosen] - [row[0], column[0]]).T, window),
                1,
            )
            for whose, chosen in (("own", mine), ("other", near & ~mine))
        }
        data = (data - light["other"]) * sign
        points = float(np.nansum((data - light["own"] * sign) ** 2)) / variance
        trail, chi2 = fit_trail(data, variance, y - row + half, x - column + half, model)
        price = np.log(np.isfinite(data).sum())
        sound = (
            0.5 * model.fwhm < trail.length < 2 * half
            and max(abs(trail.y - half), abs(trail.x - half)) < half
        )
        # One source that noise draws out is common, hence the margin.
        margin = 10 if mine.sum() == 1 else 0
        if sound and chi2 + 5 * price + margin < points + 3 * mine.sum() * price:
            trail = replace(
                trail,
                y=trail.y + row[0] - half,
                x=trail.x + column[0] - half,
                sign=int(sign),
                flux=trail.flux * sign,
            )
            members = np.flatnonzero(mine)
            chosen = members[np.hypot(peaks[0][mine] - trail.y, peaks[1][mine] - trail.x).argmin()]
            stay[members] = False
            stay[chosen] = True
            trails[int(peaks[0][chosen]), int(peaks[1][chosen])] = trail
    return (peaks[0][stay], peaks[1][stay], peaks[2][stay]), trails


def elongated_parts(
    score: NDArray[np.float32], threshold: float, fwhm: float
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Connected pixels of one sign beyond the threshold, longer than wide beyond noise: y, x of each.

    Parts longer than `SHORTEST_PX` and a FWHM on either side, and those of fewer than 5 pixels, are left out.
    """
    found = []
    for sign in (1, -1):
        labels, n = ndimage.label(score * sign >= threshold, np.ones((3, 3), int))
        for index, box in enumerate(ndimage.find_objects(labels, n), 1):
            height, width = (part.stop - part.start for part in box)
            if max(height, width) < 1.5 * fwhm or np.hypot(height, width) > SHORTEST_PX + 4 * fwhm:
                continue
            y, x = np.nonzero(labels[box] == index)
            if len(y) < 5:
                continue
            weight = np.abs(score[box][y, x])
            peak = weight.max()
            yy, xx, xy = _moments(y, x, weight)
            mean, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
            if mean + half > (1 + max(0.12, 4 / peak)) ** 2 * (mean - half):
                found.append((y + box[0].start, x + box[1].start))
    return found


def _moments(y: NDArray[np.int64], x: NDArray[np.int64], weight: NDArray[np.floating]) -> tuple[float, ...]:
    """Second moments yy, xx and xy of pixels."""
    dy, dx = y - np.average(y, weights=weight), x - np.average(x, weights=weight)
    yy, xx, xy = (float(np.average(part, weights=weight)) for part in (dy * dy, dx * dx, dy * dx))
    return yy, xx, xy


def fit_trail(
    data: Floats, variance: float, y: NDArray[np.int64], x: NDArray[np.int64], model: PointSource
) -> tuple[Trail, float]:
    """Fit a trail to a window; length, angle, middle and flux free.

    Parameters
    ----------
    data : (v, u) float64
        Window of D, turned positive; NaN is no data.
    variance : float
        Of a pixel.
    y, x : (n,) int64
        Pixels of the part, in the window.
    model : PointSource
        P_D.

    Returns
    -------
    Trail
        In the window's pixels.
    float
        Chi squared over all pixels with data.
    """
    yy, xx, xy = _moments(y, x, np.ones(len(y)))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    along = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle)
    length = max(float(np.ptp(along)) - model.fwhm, 1.0)
    start = np.array([y.mean(), x.mean(), length * np.sin(angle) / 2, length * np.cos(angle) / 2])
    usable = np.isfinite(data)
    filled = np.where(usable, data, 0)
    drawn = _Line(model.stamp, len(data))
    best = {}
    for name, line in (("trail", drawn), ("track", _Line(np.ones((1, 1)), len(data)))):

        def residual(place: Floats, line: _Line = line) -> Floats:
            image = line.at(place) * usable
            flux = _flux(filled, image)
            return np.asarray((filled - flux * image).ravel() / np.sqrt(variance))

        best[name] = optimize.least_squares(residual, start, method="lm", max_nfev=60, diff_step=1e-4)
    place = best["trail"].x
    flux = _flux(filled, drawn.at(place) * usable)
    half = float(np.hypot(place[2], place[3]))
    chi2 = 2 * float(best["trail"].cost)
    trail = Trail(
        float(place[0]),
        float(place[1]),
        2 * half,
        float(np.arctan2(place[2], place[3]) % np.pi),
        1,
        flux,
        chi2 - 2 * float(best["track"].cost),
    )
    return trail, chi2


def _flux(data: Floats, image: Floats) -> float:
    energy = float(np.sum(image**2))
    return float(np.sum(data * image)) / energy if energy > 0 else 0.0


class _Line:
    """A source of unit flux drawn out from (y - dy, x - dx) to (y + dy, x + dx), in a square window."""

    def __init__(self, stamp: Floats, side: int) -> None:
        self.side = side
        size = fft.next_fast_len(side + len(stamp), real=True)
        grid = np.zeros((size, size))
        offsets = (np.arange(len(stamp)) - len(stamp) // 2) % size
        grid[np.ix_(offsets, offsets)] = stamp
        self.transform = fft.rfft2(grid)
        self.frequency_y, self.frequency_x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]

    def at(self, place: Floats) -> Floats:
        """Image for (y, x, dy, dx); a line's transform is sinc(2 f · d)."""
        y, x, dy, dx = place
        moved = np.exp(-2j * np.pi * self.frequency_y * y) * np.exp(-2j * np.pi * self.frequency_x * x)
        drawn = moved * np.sinc(2 * (self.frequency_y * dy + self.frequency_x * dx))
        size = len(self.frequency_y)
        return np.asarray(fft.irfft2(self.transform * drawn, (size, size))[: self.side, : self.side])
