"""Which peaks of a score are sources: joint fits of neighbours, side lobes dropped, hidden ones added."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.imaging.measure import (
    Fit,
    Floats,
    PointSource,
    fit,
    noise_ratio,
    parabola,
    pixel_variance,
    reduced_chi2,
    windows,
)

Peaks: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]

#: Sources handled at a time: what they need stays in a core's cache.
BLOCK = 64
# Share of a stronger source's pattern, as high as it is at that distance or farther, that its fit may miss.
_MODEL_ERROR = 0.25
_BLEND_PASSES = 4
# Pairs of sources handled at a time.
_PAIRS = 8192


def separate_peaks(
    difference: NDArray[np.float32],
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    psf_d: NDArray[np.float32],
    peaks: Peaks,
    threshold: float = 5.0,
) -> Peaks:
    """Peaks that are sources: side lobes of stronger ones dropped, sources hidden beside stronger ones added.

    As CLEAN (Hogbom 1974), on the score: a point source leaves there the autocorrelation of P_D, times its
    flux over sigma_flux. From the strongest on, a peak stays if it exceeds what stronger ones leave at its
    place by `threshold`. What all of them leave is searched again, one source beside each, at least 0.8 FWHM
    away, of the same sign; it is kept if both together fit the difference.

    Parameters
    ----------
    difference, score, sigma_flux, psf_d
        As for `measure_peaks`.
    peaks : tuple
        As `find_peaks` returns them.
    threshold : float
        Least absolute score of a source.

    Returns
    -------
    y, x, score
        As `find_peaks`; in raster order. The score of a hidden source is what is left of it.
    """
    if not len(peaks[0]):
        return peaks
    model = PointSource(psf_d)
    pattern = model.matched()
    fitted = Sources(difference, score, model, peaks)
    kept = _not_side_lobes(fitted, pattern, sigma_flux, threshold)
    peaks = (peaks[0][kept], peaks[1][kept], peaks[2][kept])
    sources = fitted if kept.all() else Sources(difference, score, model, peaks)
    hidden = _hidden(sources, pattern, score, sigma_flux, threshold)
    if len(hidden[0]):
        both = (
            np.concatenate([peaks[0], hidden[0]]),
            np.concatenate([peaks[1], hidden[1]]),
            np.concatenate([peaks[2], hidden[2]]),
        )
        joint = Sources(difference, score, model, both)
        ratio = noise_ratio(difference, score, sigma_flux, model)
        stay = np.ones(len(both[0]), bool)
        parents = cKDTree(sources.pixels).query(np.column_stack(hidden[:2]))[1]
        before, after = sources.chi2(sigma_flux, ratio), joint.chi2(sigma_flux, ratio)
        worst = np.maximum(after[parents], after[len(peaks[0]) :])
        stay[len(peaks[0]) :] = worst <= np.maximum(2, 0.2 * before[parents])
        peaks = (both[0][stay], both[1][stay], both[2][stay])
    order = np.lexsort((peaks[1], peaks[0]))
    return peaks[0][order], peaks[1][order], peaks[2][order]


class Sources:
    """Point sources fitted at peaks, those of one sign that share pixels together."""

    def __init__(
        self,
        difference: NDArray[np.float32],
        score: NDArray[np.float32],
        model: PointSource,
        peaks: Peaks,
    ) -> None:
        self.difference, self.model = difference, model
        self.rows, self.columns, self.snr = peaks
        self.pixels = np.column_stack(peaks[:2]).astype(np.float64)
        n = len(self.rows)
        self.offset, self.flux = np.zeros((2, n)), np.zeros(n)
        for i in range(0, n, BLOCK):
            part = slice(i, i + BLOCK)
            near = windows(score, self.rows[part], self.columns[part], 1, np.nan).astype(np.float64)
            found = fit(*self.data(part), model, parabola(near))
            self.offset[:, part], self.flux[part] = found.offset, np.nan_to_num(found.flux)
        self.blends = self._neighbours()
        crowded = np.unique(self.blends[0])
        for _ in range(_BLEND_PASSES if len(crowded) else 0):
            results = []
            for i in range(0, len(crowded), BLOCK):
                some = crowded[i : i + BLOCK]
                results.append((some, fit(*self.data(some), model, self.offset[:, some], iterations=3)))
            for some, found in results:
                self.offset[:, some], self.flux[some] = found.offset, np.nan_to_num(found.flux)

    @property
    def places(self) -> Floats:
        """(n, 2), y and x, pixels."""
        return np.asarray(self.pixels + self.offset.T)

    def data(self, part: slice | NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        """Windows of the difference less neighbours' light, zero off the data, and where there is data."""
        radius = self.model.radius
        data = windows(self.difference, self.rows[part], self.columns[part], radius, np.nan).astype(
            np.float64
        )
        usable = np.isfinite(data)
        data[~usable] = 0
        if hasattr(self, "blends"):
            own = np.full(len(self.rows), -1)
            own[part] = np.arange(len(data))
            i, j = self.blends
            taken = own[i] >= 0
            i, j = i[taken], j[taken]
            light = self.flux[j, None, None] * self.model.image(
                self.offset[:, j] + (self.pixels[j] - self.pixels[i]).T
            )
            np.subtract.at(data, own[i], light)
            data[~usable] = 0
        return data, usable

    def fitted(self, part: slice, data: Floats, usable: NDArray[np.bool_]) -> Fit:
        """The final fit of some of them, from where the joint one ended."""
        return fit(data, usable, self.model, self.offset[:, part], iterations=2)

    def chi2(self, sigma_flux: NDArray[np.float32], ratio: float) -> Floats:
        """Chi squared per degree of freedom of all, (n,)."""
        parts = []
        for i in range(0, len(self.rows), BLOCK):
            part = slice(i, i + BLOCK)
            data, usable = self.data(part)
            found = self.fitted(part, data, usable)
            variance, _ = pixel_variance(
                sigma_flux, self.rows[part], self.columns[part], found, self.model, ratio
            )
            parts.append(reduced_chi2(data, usable, variance, found))
        return np.concatenate(parts)

    def _neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (i, j) in which source j of the same sign reaches into the window of source i."""
        if len(self.rows) < 2:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        pairs = cKDTree(self.pixels).query_pairs(2 * self.model.radius, output_type="ndarray")
        pairs = pairs[np.signbit(self.snr[pairs[:, 0]]) == np.signbit(self.snr[pairs[:, 1]])]
        return np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])


def _not_side_lobes(
    sources: Sources, pattern: PointSource, sigma_flux: NDArray[np.float32], threshold: float
) -> NDArray[np.bool_]:
    """Which peaks are more than stronger ones leave at their place, (n,)."""
    n = len(sources.rows)
    kept = np.ones(n, bool)
    reach = len(pattern.stamp) // 2
    pairs = cKDTree(sources.pixels).query_pairs(reach, output_type="ndarray")
    strength = np.abs(sources.snr)
    weaker = np.where(strength[pairs[:, 0]] < strength[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    stronger = pairs.sum(axis=1) - weaker
    gap = sources.places[stronger] - sources.pixels[weaker]
    scale = sources.flux[stronger] / sigma_flux[sources.rows[weaker], sources.columns[weaker]]
    middle = np.zeros(1, np.int64)
    left = np.zeros(len(gap))
    for i in range(0, len(gap), _PAIRS):
        some = slice(i, i + _PAIRS)
        left[some] = scale[some] * pattern.image(gap[some].T, middle)[:, 0, 0]
    error = _MODEL_ERROR * np.abs(scale) * _envelope(pattern, np.hypot(*gap.T))
    order = np.lexsort((weaker, -strength[weaker]))
    starts = np.flatnonzero(np.diff(weaker[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else ():
        mine = rows[kept[stronger[rows]]]
        peak = weaker[rows[0]]
        rest = abs(sources.snr[peak] - left[mine].sum())
        kept[peak] = not len(mine) or rest >= threshold + error[mine].sum()
    return kept


def _hidden(
    sources: Sources,
    pattern: PointSource,
    score: NDArray[np.float32],
    sigma_flux: NDArray[np.float32],
    threshold: float,
) -> Peaks:
    """One source beside each, in what all of them leave of the score."""
    model = sources.model
    reach = int(np.ceil(2.5 * model.fwhm))
    window = np.arange(-reach, reach + 1)
    tree = cKDTree(sources.places)
    bright = np.flatnonzero(np.abs(sources.snr) >= 1.5 * threshold)
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(bright), BLOCK):
        part = bright[start : start + BLOCK]
        rest, error = (
            windows(image, sources.rows[part], sources.columns[part], reach, np.nan).astype(np.float64)
            for image in (score, sigma_flux)
        )
        near = tree.query_ball_point(sources.places[part], reach + len(pattern.stamp) // 2)
        i = np.repeat(np.arange(len(part)), [len(one) for one in near])
        j = np.concatenate(near).astype(np.int64)
        gap = sources.pixels[j] - sources.pixels[part[i]]
        left = sources.flux[j, None, None] * pattern.image(sources.offset[:, j] + gap.T, window)
        np.subtract.at(rest, i, left / error[i])
        distance = np.hypot(
            *np.broadcast_arrays(
                window[:, None] - sources.offset[0, part][:, None, None],
                window - sources.offset[1, part][:, None, None],
            )
        )
        limit = threshold + _MODEL_ERROR * np.abs(sources.snr[part])[:, None, None] * _envelope(
            pattern, distance
        )
        excess = rest * np.sign(sources.snr[part])[:, None, None]
        excess[~((distance >= 0.8 * model.fwhm) & (excess >= limit))] = -np.inf
        place = excess.reshape(len(part), -1).argmax(axis=1)
        for k, at in enumerate(place):
            y, x = divmod(int(at), len(window))
            if np.isfinite(excess[k, y, x]):
                row, column = sources.rows[part[k]] + window[y], sources.columns[part[k]] + window[x]
                found.append((int(row), int(column), float(rest[k, y, x])))
    # Strongest first; none beside another source, old or new.
    chosen: list[tuple[int, int, float]] = []
    for one in sorted(set(found), key=lambda one: (-abs(one[2]), one)):
        apart = [np.hypot(one[0] - row, one[1] - column) for row, column, _ in chosen]
        if min([tree.query(one[:2])[0], *apart]) >= 0.8 * model.fwhm:
            chosen.append(one)
    columns = np.array(chosen).reshape(-1, 3)
    return columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), columns[:, 2].astype(np.float32)


def _envelope(pattern: PointSource, distance: Floats) -> Floats:
    """Largest absolute value of a pattern at a distance or farther."""
    offsets = np.arange(len(pattern.stamp)) - len(pattern.stamp) // 2
    radius = np.hypot(offsets[:, None], offsets).ravel()
    order = np.argsort(radius)
    highest = np.maximum.accumulate(np.abs(pattern.stamp).ravel()[order][::-1])[::-1]
    return np.asarray(np.interp(distance, radius[order], highest, right=0))
