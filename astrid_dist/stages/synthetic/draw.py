"""Where samples lie and what each is to be, before anything is put into an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.detection import find_peaks
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.simulation.placement import place
from astrid_dist.stages.synthetic.host import PAD, Host
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.store.layouts import TILE
from astrid_dist.store.sample_layout import STAMP
from astrid_dist.taxonomy import BOGUS, ENVIRONMENTS, ORIGINS, REASONS, kind_code

Array = NDArray[np.float64]

#: Uniform numbers of a sample: its place, its strength and times, and what its kind draws.
PLACE_DRAWS, OWN_DRAWS, KIND_DRAWS = 8, 8, 24
#: SNR above which stars are chosen alike.
_BRIGHTEST = 3000.0
#: What counts as a detection where nothing was put, and as a peak of noise: S_corr.
DETECTED, NOISE_PEAK = 5.0, 3.0


@dataclass(frozen=True)
class Samples:
    """n samples as they were drawn: the same in every visit."""

    strata: Sequence[Stratum]
    items: NDArray[np.int64]
    key: np.uint64
    draws: Array
    """(n, PLACE_DRAWS + OWN_DRAWS + KIND_DRAWS) uniform numbers."""
    x: Array
    """Place of each object at its own visit, pixels of the padded host."""
    y: Array
    column: NDArray[np.int64]
    """Middle pixel of its stamp, of the padded host."""
    row: NDArray[np.int64]
    visit: NDArray[np.int64]
    """The visit whose SNR is that of the stratum; an artifact is in that one alone."""
    star: NDArray[np.int64]
    """Number of the star it lies on, among the host's; -1 for none."""
    reason: NDArray[np.int8]
    """Why it could not be put in; code of `REASONS`."""

    @property
    def own(self) -> Array:
        """Uniform numbers of strength and times."""
        return self.draws[:, PLACE_DRAWS : PLACE_DRAWS + OWN_DRAWS]

    @property
    def of_kind(self) -> Array:
        """Uniform numbers that its kind draws from."""
        return self.draws[:, PLACE_DRAWS + OWN_DRAWS :]

    @property
    def sign(self) -> Array:
        """1, or -1 for what is to be fainter than in the reference."""
        return np.array([-1.0 if one.negative else 1.0 for one in self.strata])

    def with_kind(self, kind: str) -> NDArray[np.int64]:
        """Samples of a kind."""
        return np.array([i for i, one in enumerate(self.strata) if one.kind == kind], np.int64)


def draw_samples(
    host: Host, strata: Sequence[Stratum], seed: int, name: str, items: NDArray[np.int64], visits: int,
    jitter_px: float, known: Array | None = None,
) -> Samples:  # fmt: skip
    """Draw where each sample lies in its host, and which visit it belongs to.

    Parameters
    ----------
    host : Host
        The first visit's; its reference says where galaxies and stars are.
    strata : sequence of Stratum
        One for each sample.
    seed, name, items
        Root seed, name of the set, and number of each sample in it: together the key of its numbers.
    visits : int
        Of each sample.
    jitter_px : float
        How far the middle of a stamp may be from its object, pixels.
    known : (m, 2) float64, optional
        Places (x, y) of what is known to change, pixels of the padded host: no detection there is bogus.
    """
    key = stream(seed, f"samples of {name}")
    draws = uniforms(key, items, PLACE_DRAWS + OWN_DRAWS + KIND_DRAWS)
    sites = host.sites
    codes = np.array([ENVIRONMENTS.index(one.environment) for one in strata])
    found = place(codes, draws[:, :PLACE_DRAWS], sites)
    x, y = found.x.copy(), found.y.copy()
    reason = found.reason.astype(np.int8)
    star = np.where(codes == ENVIRONMENTS.index("star"), found.host, -1)
    _place_on_bright_stars(host, strata, draws, x, y, reason, star)
    _place_peaks(host, strata, draws, x, y, reason, known)
    own = draws[:, PLACE_DRAWS : PLACE_DRAWS + OWN_DRAWS]
    # Objects lie anywhere in their pixel, and the stamp is cut as a detection's would be: not quite on them.
    column, row = (
        np.rint(np.where(np.isfinite(at), at, PAD + TILE // 2) + jitter_px * (2 * own[:, k] - 1)).astype(
            np.int64
        )
        for k, at in enumerate((x, y))
    )
    low, high = host.limits
    column, row = np.clip(column, low[0], high[0]), np.clip(row, low[1], high[1])
    outside = (np.abs(x - column) > STAMP // 2 - 2) | (np.abs(y - row) > STAMP // 2 - 2) | ~np.isfinite(x + y)
    reason[(reason == 0) & outside] = REASONS.index("outside")
    visit = np.minimum((own[:, 2] * visits).astype(np.int64), visits - 1)
    return Samples(strata, items, key, draws, x, y, column, row, visit, star, reason)


def _place_on_bright_stars(
    host: Host, strata: Sequence[Stratum], draws: Array, x: Array, y: Array, reason: NDArray[np.int8],
    star: NDArray[np.int64],
) -> None:  # fmt: skip
    """Artifacts are made of bright stars: chance by SNR, since what stars leave grows with it."""
    wanted = [i for i, one in enumerate(strata) if one.classification in BOGUS and one.environment == "star"]
    if not wanted:
        return
    sites = host.sites
    snr = np.where(sites.bright, np.minimum(host.star_snr, _BRIGHTEST), 0.0)
    column, row = np.rint(sites.star_x).astype(int), np.rint(sites.star_y).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < sites.usable.shape[1]) & (row < sites.usable.shape[0])
    inside[inside] = sites.usable[row[inside], column[inside]]
    chance = np.cumsum(np.where(inside, snr, 0.0))
    for i in wanted:
        if not chance.size or chance[-1] <= 0:
            reason[i] = REASONS.index("no site")
            continue
        which = int(np.searchsorted(chance, draws[i, 0] * chance[-1], side="right"))
        x[i], y[i], star[i], reason[i] = sites.star_x[which], sites.star_y[which], which, 0


def _place_peaks(
    host: Host, strata: Sequence[Stratum], draws: Array, x: Array, y: Array, reason: NDArray[np.int8],
    known: Array | None,
) -> None:  # fmt: skip
    """Detections of the host, and peaks of its noise, are where they are."""
    wanted = [i for i, one in enumerate(strata) if one.kind in ("null detection", "noise peak")]
    if not wanted:
        return
    rows, columns, heights = find_peaks(host.score, NOISE_PEAK)
    if known is not None and len(known):
        apart = np.hypot(columns[:, None] - known[:, 0], rows[:, None] - known[:, 1]).min(axis=1)
        rows, columns, heights = (part[apart > 2 * host.view.fwhm_n] for part in (rows, columns, heights))
    detected = np.abs(heights) >= DETECTED
    for i in wanted:
        among = np.flatnonzero(detected if strata[i].kind == "null detection" else ~detected)
        if not among.size:
            reason[i] = REASONS.index("no site")
            continue
        which = among[int(draws[i, 0] * among.size)]
        x[i], y[i], reason[i] = columns[which], rows[which], 0


def codes_of(drawn: Samples) -> dict[str, NDArray[Any]]:
    """What the product keeps of every sample beside its visits."""
    strata = drawn.strata
    null = np.array([one.kind in ("null detection", "noise peak") for one in strata])
    return {
        "kind": np.array([kind_code(one.kind) for one in strata], np.int16),
        "environment": np.array([ENVIRONMENTS.index(one.environment) for one in strata], np.int8),
        "origin": np.where(null, ORIGINS.index("null detection"), ORIGINS.index("synthetic")).astype(np.int8),
        "item": drawn.items.astype(np.int64),
    }
