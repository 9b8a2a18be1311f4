"""Long trails in a score: found by Hough transform, their beads made one detection, pieces joined again.

A satellite is hundreds of peaks in a row. One of them stays, the one nearest to the trail's middle, moved
there and flagged TRAIL, with the trail's length, angle and flux; the other beads go: flagged or not, they
would outnumber everything else that is found. What stands out of them by `_OUTSTANDING` stays as well,
flagged: it may be a source that the trail runs over.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.flags import Flag
from astrid_dist.imaging.measure import Columns, Floats
from astrid_dist.imaging.separation import Peaks

#: Shorter trails are measured as single sources (`astrid_dist.imaging.trails`), pixels.
SHORTEST_PX = 30.0
#: Peaks nearer to a streak than this are on it, in FWHM of P_D: side lobes lie beside it.
BEAD_FWHM = 2.5
_OUTSTANDING = 3.0
_MOST_PIXELS = 30_000
_TRIES = 12
_ANGLES = np.deg2rad(np.arange(0, 180, 1.0))
_FINE = np.deg2rad(np.arange(-1, 1.01, 0.05))


@dataclass(frozen=True)
class Streak:
    """A straight trail in an image."""

    y: float
    x: float
    """Its middle, pixels."""
    length: float
    """Pixels."""
    angle: float
    """Radians from +x to +y, 0 to pi."""
    sign: int
    """Of the score along it."""

    def distance(self, y: Any, x: Any) -> Floats:
        """Distance of places from the segment, pixels."""
        dy, dx = np.asarray(y) - self.y, np.asarray(x) - self.x
        along = dx * np.cos(self.angle) + dy * np.sin(self.angle)
        across = dy * np.cos(self.angle) - dx * np.sin(self.angle)
        return np.asarray(np.hypot(np.maximum(np.abs(along) - self.length / 2, 0), across))


def find_streaks(score: NDArray[np.float32], fwhm: float, threshold: float = 5.0) -> list[Streak]:
    """Straight trails of at least `SHORTEST_PX`, the brightest-populated first.

    Hough transform of the pixels beyond the threshold that are not in round blobs, in steps of one degree,
    refined to a twentieth round each maximum. A line counts where such pixels fill half of it, 70 % of a
    short one, without a gap above four FWHM, and where they are fewer beside it than on it (a halo is no
    line). A trail so faint that most of it stays below the threshold is found in pieces, or not at all.

    Parameters
    ----------
    score : (y, x) float32
        S_corr; NaN is no data.
    fwhm : float
        Of P_D, pixels.
    threshold : float
        In standard deviations.
    """
    band = max(1.5, 0.75 * fwhm)
    found = []
    for sign in (1, -1):
        y, x = _linear_pixels(score * sign >= threshold, fwhm)
        for _ in range(_TRIES):
            if len(y) < SHORTEST_PX / 2:
                break
            streak = next(_lines(y, x, band, fwhm, sign), None)
            if streak is None:
                break
            found.append(streak)
            left = streak.distance(y, x) > 3 * fwhm
            y, x = y[left], x[left]
    return found


def _linear_pixels(bright: NDArray[np.bool_], fwhm: float) -> tuple[Floats, Floats]:
    """Pixels of all connected parts but round ones, which in a crowded field line up by chance."""
    y, x = np.nonzero(bright)
    if not len(y):
        return y.astype(float), x.astype(float)
    labels, n = ndimage.label(bright, np.ones((3, 3), int))
    part = labels[y, x]
    size = np.bincount(part, minlength=n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_y, mean_x = (np.bincount(part, axis, n + 1) / size for axis in (y, x))
        dy, dx = y - mean_y[part], x - mean_x[part]
        yy, xx, xy = (
            np.bincount(part, p, n + 1) / size + q
            for p, q in ((dy**2, 1 / 12), (dx**2, 1 / 12), (dy * dx, 0))
        )
    mean, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
    is_round = (size > 0.8 * fwhm**2) & (mean + half < 3 * (mean - half))
    kept = np.flatnonzero(~is_round[part])
    if len(kept) > _MOST_PIXELS:
        kept = kept[:: -(-len(kept) // _MOST_PIXELS)]
    return y[kept].astype(float), x[kept].astype(float)


def _lines(y: Floats, x: Floats, band: float, fwhm: float, sign: int) -> Iterator[Streak]:
    """Lines among the strongest cells of the Hough plane that hold out."""
    votes, low = _votes(y, x, _ANGLES, 2 * band)
    for _ in range(_TRIES):
        cell = int(votes.argmax())
        angle_at, rho_at = divmod(cell, votes.shape[1])
        if votes[angle_at, rho_at] < SHORTEST_PX / 4:
            return
        votes[max(angle_at - 2, 0) : angle_at + 3, max(rho_at - 2, 0) : rho_at + 3] = 0
        # A long line spreads over cells: near pixels vote again, in finer steps.
        normal, rho = _ANGLES[angle_at], low + (rho_at + 0.5) * 2 * band
        reach = 2 * band + np.deg2rad(0.5) * np.hypot(np.ptp(y), np.ptp(x))
        near = np.abs(x * np.cos(normal) + y * np.sin(normal) - rho) <= reach
        fine, fine_low = _votes(y[near], x[near], normal + _FINE, band)
        best, column = divmod(int(fine.argmax()), fine.shape[1])
        line = _segment(y, x, normal + _FINE[best], fine_low + (column + 0.5) * band, band, fwhm, sign)
        if line is not None:
            yield line


def _votes(y: Floats, x: Floats, normals: Floats, step: float) -> tuple[NDArray[np.int64], float]:
    """Pixels on each line x cos(a) + y sin(a) = rho: (angle, rho), and the first rho."""
    rho = x * np.cos(normals)[:, None] + y * np.sin(normals)[:, None]
    low = float(rho.min())
    cells = ((rho - low) / step).astype(np.int64)
    width = int(cells.max()) + 1
    flat = cells + width * np.arange(len(normals))[:, None]
    return np.bincount(flat.ravel(), minlength=width * len(normals)).reshape(len(normals), width), low


def _segment(
    y: Floats, x: Floats, normal: float, rho: float, band: float, fwhm: float, sign: int
) -> Streak | None:
    """The longest filled piece of a line, if it is a streak."""
    for _ in range(3):
        across = x * np.cos(normal) + y * np.sin(normal) - rho
        on = np.abs(across) <= 2 * band
        if np.count_nonzero(on) < SHORTEST_PX / 4:
            return None
        along = y[on] * np.cos(normal) - x[on] * np.sin(normal)
        low, high = _longest_run(np.sort(along), 4 * fwhm)
        on[on] = (along >= low) & (along <= high)
        if high - low < SHORTEST_PX or np.count_nonzero(on) < 4:
            return None
        # Least squares across the line, by its principal axis.
        my, mx = y[on].mean(), x[on].mean()
        yy, xx, xy = (
            np.mean((y[on] - my) ** 2),
            np.mean((x[on] - mx) ** 2),
            np.mean((y[on] - my) * (x[on] - mx)),
        )
        direction = 0.5 * np.arctan2(2 * xy, xx - yy)
        normal = direction + np.pi / 2
        rho = mx * np.cos(normal) + my * np.sin(normal)
    across = x * np.cos(normal) + y * np.sin(normal) - rho
    along = y * np.cos(normal) - x * np.sin(normal)
    on = np.abs(across) <= 2 * band
    low, high = _longest_run(np.sort(along[on]), 4 * fwhm)
    inside = (along >= low) & (along <= high)
    filled = len(np.unique(((along[inside & on] - low) / 2).astype(int))) * 2 / max(high - low, 1)
    beside = np.count_nonzero(inside & (np.abs(across) > 2 * band) & (np.abs(across) <= 6 * band))
    if high - low < SHORTEST_PX or filled < 0.5 + 6 / (high - low) or beside > np.count_nonzero(inside & on):
        return None
    middle = (low + high) / 2
    place = rho * np.sin(normal) + middle * np.cos(normal), rho * np.cos(normal) - middle * np.sin(normal)
    # Pixels beyond the threshold reach about half a FWHM past the ends.
    length, angle = float(high - low - fwhm), float((normal + np.pi / 2) % np.pi)
    return Streak(float(place[0]), float(place[1]), length, angle, sign)


def _longest_run(along: Floats, gap: float) -> tuple[float, float]:
    """Ends of the longest piece of sorted places without a gap above a limit."""
    breaks = np.flatnonzero(np.diff(along) > gap)
    starts, stops = np.append(0, breaks + 1), np.append(breaks, len(along) - 1)
    longest = int((along[stops] - along[starts]).argmax())
    return float(along[starts[longest]]), float(along[stops[longest]])


def beads(
    streaks: Sequence[Streak], peaks: Peaks, fwhm: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which peaks stay, and on which streak each lies.

    Parameters
    ----------
    streaks : sequence of Streak
        As found.
    peaks : tuple
        As `find_peaks` returns them.
    fwhm : float
        Of P_D, pixels.

    Returns
    -------
    kept : (n,) bool
        Peaks off any streak, one for each streak, and what stands out of its beads.
    streak : (n,) int64
        Index of the streak, -1 off any.
    """
    y, x, snr = peaks
    kept, on = np.ones(len(y), bool), np.full(len(y), -1)
    for index, streak in enumerate(streaks):
        mine = np.flatnonzero((streak.distance(y, x) <= BEAD_FWHM * fwhm) & (on < 0))
        same = mine[np.sign(snr[mine]) == streak.sign]
        if not len(same):
            continue
        on[mine] = index
        typical = np.median(np.abs(snr[same]))
        kept[mine] = np.abs(snr[mine]) > _OUTSTANDING * typical
        kept[same[np.hypot(y[same] - streak.y, x[same] - streak.x).argmin()]] = True
    return kept, on


def streak_flux(difference: NDArray[np.float32], streak: Streak, fwhm: float) -> float:
    """Flux along a streak: the sum of D within one FWHM of it, electrons of the reference."""
    reach = streak.length / 2 + fwhm + 1
    window = tuple(
        slice(max(int(centre - half), 0), int(centre + half) + 2)
        for centre, half in (
            (streak.y, abs(reach * np.sin(streak.angle)) + 2 * fwhm),
            (streak.x, abs(reach * np.cos(streak.angle)) + 2 * fwhm),
        )
    )
    cut = difference[window]
    y, x = np.ogrid[
        window[0].start : window[0].start + cut.shape[0], window[1].start : window[1].start + cut.shape[1]
    ]
    return float(np.nansum(cut[streak.distance(*np.broadcast_arrays(y, x)) <= fwhm], dtype=np.float64))


def join(columns: Mapping[str, NDArray[Any]]) -> Columns:
    """Pieces of one streak, cut by borders of shards, as one row; other rows as they are.

    Pieces are one where their angles agree to 2 degrees, the ends' gap is below 100 pixels and each middle
    lies near the other's line, to 4 pixels and half a degree. The strongest stays, with the middle, length
    and angle of the whole.

    Parameters
    ----------
    columns : mapping of (n,) arrays
        Candidates of one epoch with x, y, snr, mask, streak_length, streak_angle, streak_flux.
    """
    rows = {name: np.array(values) for name, values in columns.items()}
    is_streak = (rows["mask"] & int(Flag.TRAIL)) != 0
    is_streak &= rows["streak_length"] >= SHORTEST_PX / 2
    order = [int(row) for row in np.argsort(-np.abs(rows["snr"])) if is_streak[row]]
    dropped = np.zeros(len(is_streak), bool)
    for k, first in enumerate(order):
        for second in [row for row in order[k + 1 :] * 2 if not dropped[first]]:
            if not dropped[second] and (whole := _joined(rows, first, second)) is not None:
                dropped[second] = True
                flux = rows["streak_flux"][first] + rows["streak_flux"][second]
                lengths = rows["streak_length"][first] + rows["streak_length"][second]
                # What both saw counts once.
                rows["streak_flux"][first] = flux * min(1, whole.length / lengths)
                rows["x"][first], rows["y"][first] = whole.x, whole.y
                rows["streak_length"][first] = whole.length
                rows["streak_angle"][first] = np.rad2deg(whole.angle)
    return {name: values[~dropped] for name, values in rows.items()}


def _joined(rows: Columns, first: int, second: int) -> Streak | None:
    """The streak that two rows are pieces of."""
    one, two = (
        Streak(
            float(rows["y"][row]),
            float(rows["x"][row]),
            float(rows["streak_length"][row]),
            float(np.deg2rad(rows["streak_angle"][row])),
            int(np.sign(rows["snr"][row])),
        )
        for row in (first, second)
    )
    turn = (one.angle - two.angle + np.pi / 2) % np.pi - np.pi / 2
    if abs(turn) > np.deg2rad(2) or one.sign != two.sign:
        return None
    for a, b in ((one, two), (two, one)):
        line = Streak(a.y, a.x, 1e6, a.angle, a.sign)
        if line.distance(b.y, b.x) > 4 + np.deg2rad(0.5) * np.hypot(a.y - b.y, a.x - b.x):
            return None
    ends = [
        (s.y + k * np.sin(s.angle) * s.length / 2, s.x + k * np.cos(s.angle) * s.length / 2)
        for s in (one, two)
        for k in (-1, 1)
    ]
    along = np.array([x * np.cos(one.angle) + y * np.sin(one.angle) for y, x in ends])
    low, high = int(along.argmin()), int(along.argmax())
    if np.ptp(along) > one.length + two.length + 100:
        return None
    (y0, x0), (y1, x1) = ends[low], ends[high]
    angle = float(np.arctan2(y1 - y0, x1 - x0) % np.pi)
    return Streak((y0 + y1) / 2, (x0 + x1) / 2, float(np.hypot(y1 - y0, x1 - x0)), angle, one.sign)
