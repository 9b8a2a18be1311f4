"""What is put into the windows of samples: sources, artifacts, or nothing where a detection is already."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.artifacts import ARTIFACTS, Site
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.simulation.painter import paint_patterns, paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.populations.base import Events
from astrid_dist.simulation.trails import paint_comae, paint_trails
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import WINDOW, Host
from astrid_dist.stages.synthetic.light import changes, motions
from astrid_dist.taxonomy import REASONS

Array = NDArray[np.float64]


@dataclass
class Put:
    """What n samples hold in one visit."""

    canvas: Canvas
    """(n, window, window)"""
    flux: Array
    """Electrons of the reference, signed; NaN where it has no meaning."""
    snr: Array
    x: Array
    """Place of the object, pixels of the padded host."""
    y: Array
    reason: NDArray[np.int8]
    in_template: NDArray[np.bool_] = field(init=False)
    """Windows whose reference is changed."""

    def __post_init__(self) -> None:
        self.look()

    def something(self) -> NDArray[np.bool_]:
        """Windows that anything was put into."""
        n, canvas = len(self.flux), self.canvas
        found = self.in_template.copy()
        for plane in (canvas.science, canvas.science_variance, canvas.template_variance):
            found |= np.any(plane.reshape(n, -1) != 0, axis=1)
        return np.asarray(found | np.any(canvas.mask.reshape(n, -1) != 0, axis=1))

    def look(self) -> None:
        """See which windows' reference is changed."""
        n = len(self.flux)
        light = np.any(self.canvas.template.reshape(n, -1) != 0, axis=1)
        self.in_template = np.asarray(light | np.any(self.canvas.template_mask.reshape(n, -1) != 0, axis=1))


def put_samples(hosts: Sequence[Host], visit: int, drawn: Samples) -> Put:
    """Put samples into the windows of one visit.

    Parameters
    ----------
    hosts : sequence of Host
        Of every visit.
    visit : int
        Which of them.
    drawn : Sample
        What is to be put in.
    """
    host = hosts[visit]
    n = len(drawn.items)
    canvas = Canvas.empty(n, WINDOW, WINDOW)
    made = Put(
        canvas, np.full(n, np.nan), np.full(n, np.nan), drawn.x.copy(), drawn.y.copy(), drawn.reason.copy()
    )
    ok = drawn.reason == 0
    points: list[NDArray[np.int64]] = []
    for kind in sorted({one.kind for one in drawn.strata}):
        chosen = drawn.with_kind(kind)
        chosen = chosen[ok[chosen]]
        if not chosen.size:
            continue
        if kind in POPULATIONS:
            events, share = changes(POPULATIONS[kind], hosts, visit, drawn, chosen)
            if events is None:
                points.append(chosen)
            else:
                _put_sources(hosts, visit, drawn, chosen, events, share, made)
        elif kind in ARTIFACTS:
            _put_artifacts(host, visit, drawn, kind, chosen, made)
    if points:
        chosen = np.concatenate(points)
        _put_sources(hosts, visit, drawn, chosen, None, drawn.sign[chosen], made)
    made.look()
    return made


def _put_sources(
    hosts: Sequence[Host], visit: int, drawn: Samples, chosen: NDArray[np.int64], events: Events | None,
    share: Array, made: Put,
) -> None:  # fmt: skip
    """Put real sources; what a star loses is taken from it, what else fades is in the template.

    `share` is the change of flux in units of that in the visit of their stratum.
    """
    host = hosts[visit]
    low, high = np.array([drawn.strata[i].snr for i in chosen]).T
    snr = low * (high / low) ** drawn.own[chosen, 3]
    dx, dy = motions(events, hosts, visit, drawn, chosen)
    made.x[chosen] += dx
    made.y[chosen] += dy
    on_star = drawn.star[chosen] >= 0
    in_template = (share < 0) & ~on_star
    moves = events is not None and any(rate.any() for rate in events.motion())
    patterns = (
        None if events is None or not moves else _patterns(host, drawn, events, chosen, made, in_template)
    )
    best = np.zeros(len(chosen))
    for v, one in enumerate(hosts):
        own = np.flatnonzero(drawn.visit[chosen] == v)
        best[own] = one.flux_of_snr(snr[own], _variance(one, drawn, chosen[own]))
    # What moves or spreads is as bright as its own visit's filter for point sources must see it.
    seen = np.ones(len(chosen)) if patterns is None else patterns.seen
    lost = ~np.isfinite(best)
    made.reason[chosen[lost]] = REASONS.index("masked")
    flux = np.where(lost, 0.0, best * share / seen)
    light = np.array([host.stars[k].flux if k >= 0 else 0.0 for k in drawn.star[chosen]])
    too_much = on_star & (flux < -light / host.recipe.flux_ratio)
    made.reason[chosen[too_much]] = REASONS.index("no flux")
    flux[too_much] = 0.0
    made.flux[chosen] = flux
    noise = _variance(host, drawn, chosen) + np.abs(flux * seen) * host.noise_per_flux
    made.snr[chosen] = flux * seen / np.sqrt(noise)
    for template in (False, True):
        which = np.flatnonzero(in_template == template)
        if which.size:
            _add(host, drawn, chosen[which], flux[which], patterns and patterns.some(which), made, template)


@dataclass(frozen=True)
class Patterns:
    """Unit light of sources that are no points, each in its own window."""

    images: Image
    """(n, window, window)"""
    seen: Array
    """(n,) part of the light that a filter for point sources sees."""

    def some(self, chosen: NDArray[np.int64]) -> "Patterns":
        """Some of them."""
        return Patterns(self.images[chosen], self.seen[chosen])


def _patterns(
    host: Host, drawn: Samples, events: Events, chosen: NDArray[np.int64], made: Put,
    in_template: NDArray[np.bool_],
) -> Patterns:  # fmt: skip
    """Trails of asteroids, nuclei, comae and tails of comets, where they lie in epoch or template."""
    images = np.zeros((len(chosen), WINDOW, WINDOW), np.float32)
    points = np.zeros_like(images)
    per_px = 1 / host.pair.pixel_scale_arcsec
    known, (east, north) = events.parameters, events.motion()
    length = np.hypot(east, north) * float(host.pair.row["exptime"]) / 3600 * per_px
    for template in (False, True):
        which = np.flatnonzero(in_template == template)
        if not which.size:
            continue
        at, bank = _window_place(host, drawn, chosen[which], made, template), host.banks[int(template)]
        part, point = np.zeros((2, len(which), WINDOW, WINDOW), np.float32)
        if "coma_radius_arcsec" in known:
            paint_comae(
                part, None, *at, 1.0, known["coma_radius_arcsec"][which] * per_px,
                known["nucleus_fraction"][which], bank, tail=known["tail_fraction"][which],
                tail_px=known["tail_length_arcsec"][which] * per_px,
                tail_angle_rad=np.deg2rad(known["tail_angle_deg"][which]),
            )  # fmt: skip
        else:
            paint_trails(part, None, *at, 1.0, length[which], np.arctan2(north, -east)[which], bank)
        paint_points(point, None, *at, 1.0, bank)
        images[which], points[which] = part, point
    whole = np.sum(points * points, axis=(1, 2), dtype=np.float64)
    overlap = np.sum(images * points, axis=(1, 2), dtype=np.float64)
    # Off the window there is nothing to see, and nothing to scale.
    return Patterns(images, np.where(whole > 0, overlap / np.where(whole > 0, whole, 1), 1.0))


def _window_place(
    host: Host, drawn: Samples, chosen: NDArray[np.int64], made: Put, in_template: bool
) -> tuple[Array, Array]:
    """Places of sources in their windows; stars of the epoch lie off those of the reference."""
    shift, half = (0.0, 0.0) if in_template else host.recipe.shift, WINDOW // 2
    return (
        made.x[chosen] + shift[0] - drawn.column[chosen] + half,
        made.y[chosen] + shift[1] - drawn.row[chosen] + half,
    )


def _add(
    host: Host, drawn: Samples, chosen: NDArray[np.int64], flux: Array, patterns: Patterns | None, made: Put,
    in_template: bool,
) -> None:  # fmt: skip
    """Paint sources of a kind into epoch or template; flux in electrons of the reference."""
    image = np.zeros((len(flux), WINDOW, WINDOW), np.float32)
    variance = np.zeros_like(image)
    # A reference of n epochs has the shot noise of n times the light.
    depth = n_effective(host) if in_template else 1.0
    electrons = -flux * depth if in_template else flux * host.recipe.flux_ratio
    key = stream(int(drawn.key), "shot noise of the template" if in_template else "shot noise")
    items = drawn.items[chosen]
    if patterns is None:
        at = _window_place(host, drawn, chosen, made, in_template)
        paint_points(image, variance, *at, electrons, host.banks[int(in_template)], key=key, items=items)
    else:
        paint_patterns(image, variance, patterns.images, electrons, key=key, items=items)
    canvas = made.canvas
    if in_template:
        canvas.template[chosen] += image / np.float32(depth)
        canvas.template_variance[chosen] += variance / np.float32(depth**2)
    else:
        canvas.science[chosen] += image
        canvas.science_variance[chosen] += variance


def n_effective(host: Host) -> float:
    """Epochs of equal weight that would give the reference's shot noise."""
    weights = np.asarray(host.pair.made["weights"], np.float64)
    return max(1.0, float(weights.sum() ** 2 / np.square(weights).sum()))


def _variance(host: Host, drawn: Samples, chosen: NDArray[np.int64]) -> Array:
    """Variance of the flux where samples lie, electron² of the reference; NaN without data."""
    row, column = (np.rint(at[chosen]).astype(np.int64) for at in (drawn.y, drawn.x))
    return host.variance[row, column].astype(np.float64)


def _put_artifacts(
    host: Host, visit: int, drawn: Samples, kind: str, chosen: NDArray[np.int64], made: Put
) -> None:
    artifact = ARTIFACTS[kind]
    half = WINDOW // 2
    for i in chosen:
        if drawn.visit[i] != visit:
            continue
        column, row = int(drawn.column[i]) - half, int(drawn.row[i]) - half
        x, y = float(drawn.x[i]) - column, float(drawn.y[i]) - row
        star = None
        if artifact.where == "star":
            one = host.stars[drawn.star[i]]
            star = Star(one.x - column + host.recipe.shift[0], one.y - row + host.recipe.shift[1], one.flux)
        found = artifact.put(
            made.canvas[int(i)], window_of(host, column, row), Site(x, y,
            drawn.of_kind[i, : artifact.n_draws], drawn.key, int(drawn.items[i]), star),
        )  # fmt: skip
        made.flux[i] = found.flux / host.recipe.flux_ratio


def window_at(column: int, row: int) -> tuple[slice, slice]:
    """Rows and columns of the window around the middle pixel of a stamp."""
    half = WINDOW // 2
    return slice(row - half, row + half + 1), slice(column - half, column + half + 1)


def window_of(host: Host, column: int, row: int) -> View:
    """The host as a sample sees it, stars in its own pixels, from its first column and row."""
    part = (slice(row, row + WINDOW), slice(column, column + WINDOW))
    x, y = host.star_places.T
    apart = np.maximum(np.abs(x - column - WINDOW / 2), np.abs(y - row - WINDOW / 2))
    near = tuple(
        Star(star.x - column, star.y - row, star.flux)
        for star in (host.stars[k] for k in np.flatnonzero(apart < WINDOW))
    )
    view = host.view
    return replace(view, science=view.science[part], template=view.template[part], stars=near)
