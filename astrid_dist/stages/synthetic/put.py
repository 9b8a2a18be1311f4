"""What is put into the windows of samples: sources, artifacts, or nothing where a detection is already."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.populations.base import Events
from astrid_dist.simulation.psf_bank import PsfBank
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
    for kind in {one.kind for one in drawn.strata}:
        chosen = drawn.with_kind(kind)
        chosen = chosen[drawn.reason[chosen] == 0]
        if not chosen.size:
            continue
        if kind in POPULATIONS:
            _put_population(hosts, visit, drawn, kind, chosen, made)
        elif kind in ARTIFACTS:
            _put_artifacts(host, visit, drawn, kind, chosen, made)
    made.look()
    return made


def _put_population(
    hosts: Sequence[Host], visit: int, drawn: Samples, kind: str, chosen: NDArray[np.int64], made: Put
) -> None:
    """Put the sources of one kind; what a star loses is taken from it, what else fades is in the template."""
    host, population = hosts[visit], POPULATIONS[kind]
    low, high = np.array([drawn.strata[i].snr for i in chosen]).T
    snr = low * (high / low) ** drawn.own[chosen, 3]
    negative = np.array([drawn.strata[i].negative for i in chosen])
    events, share = changes(population, hosts, visit, drawn, chosen, negative)
    sources = Sources(drawn.items[chosen], chosen, events)
    best = np.zeros(len(chosen))
    for v, one in enumerate(hosts):
        own = np.flatnonzero(drawn.visit[chosen] == v)
        best[own] = one.flux_of_snr(snr[own], _variance(one, drawn, chosen[own]))
        best[own] /= _seen(one, drawn, sources.some(own), drawn.x[chosen[own]], drawn.y[chosen[own]])
    lost = ~np.isfinite(best)
    made.reason[chosen[lost]] = REASONS.index("masked")
    flux = np.where(lost, 0.0, best * share)
    dx, dy = motions(events, hosts, visit, drawn, chosen)
    made.x[chosen] += dx
    made.y[chosen] += dy
    on_star = drawn.star[chosen] >= 0
    light = np.array([host.stars[k].flux if k >= 0 else 0.0 for k in drawn.star[chosen]])
    too_much = on_star & (flux < -light / host.recipe.flux_ratio)
    made.reason[chosen[too_much]] = REASONS.index("no flux")
    flux[too_much] = 0.0
    made.flux[chosen] = flux
    seen = flux * _seen(host, drawn, sources, made.x[chosen], made.y[chosen])
    made.snr[chosen] = seen / np.sqrt(_variance(host, drawn, chosen) + np.abs(seen) * host.noise_per_flux)
    missing = (flux < 0) & ~on_star
    for in_template, which in ((False, np.flatnonzero(~missing)), (True, np.flatnonzero(missing))):
        if which.size:
            _add(host, drawn, sources.some(which), np.abs(flux[which]) if in_template else flux[which], made,
                 in_template)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Some samples of one kind of population."""

    items: NDArray[np.int64]
    samples: NDArray[np.int64]
    events: Events | None
    which: NDArray[np.int64] | None = None
    """Which of the events they are; None: all."""

    def some(self, chosen: NDArray[np.int64]) -> "Sources":
        """Some of them."""
        which = chosen if self.which is None else self.which[chosen]
        return Sources(self.items[chosen], self.samples[chosen], self.events, which)

    def parameter(self, name: str) -> Array:
        """A parameter of their events."""
        assert self.events is not None
        values = self.events.parameters[name]
        return values if self.which is None else values[self.which]


def _seen(host: Host, drawn: Samples, sources: Sources, x: Array, y: Array) -> Array:
    """Part of each source's light that a filter for point sources sees: below 1 for trails and comae."""
    if sources.events is None or not len(sources.items):
        return np.ones(len(sources.items))
    pattern = np.zeros((len(sources.items), WINDOW, WINDOW), np.float32)
    point = np.zeros_like(pattern)
    flux = np.ones(len(sources.items))
    at = _window_place(drawn, sources, x, y)
    _paint(host, sources, pattern, None, *at, flux, host.banks[0], None)
    paint_points(point, None, *at, flux, host.banks[0])
    whole = np.sum(point * point, axis=(1, 2))
    return np.asarray(np.sum(pattern * point, axis=(1, 2)) / np.where(whole > 0, whole, 1), np.float64)


def _window_place(drawn: Samples, sources: Sources, x: Array, y: Array) -> tuple[Array, Array]:
    half = WINDOW // 2
    return x - drawn.column[sources.samples] + half, y - drawn.row[sources.samples] + half


def _add(host: Host, drawn: Samples, sources: Sources, flux: Array, made: Put, in_template: bool) -> None:
    """Paint sources of a kind into epoch or template; flux in electrons of the reference."""
    image = np.zeros((len(flux), WINDOW, WINDOW), np.float32)
    variance = np.zeros_like(image)
    shift = (0.0, 0.0) if in_template else host.recipe.shift
    x, y = made.x[sources.samples] + shift[0], made.y[sources.samples] + shift[1]
    at = _window_place(drawn, sources, x, y)
    # A reference of n epochs has the shot noise of n times the light.
    depth = n_effective(host) if in_template else 1.0
    scale = depth if in_template else host.recipe.flux_ratio
    stage = "shot noise of the template" if in_template else "shot noise"
    bank, key = host.banks[int(in_template)], stream(int(drawn.key), stage)
    _paint(host, sources, image, variance, *at, flux * scale, bank, key)
    canvas, chosen = made.canvas, sources.samples
    if in_template:
        canvas.template[chosen] += image / np.float32(depth)
        canvas.template_variance[chosen] += variance / np.float32(depth**2)
    else:
        canvas.science[chosen] += image
        canvas.science_variance[chosen] += variance


def _paint(
    host: Host, sources: Sources, image: Image, variance: Image | None, x: Array, y: Array, flux: Array,
    bank: PsfBank, key: np.uint64 | None,
) -> None:  # fmt: skip
    """Paint sources, each into its own window, as points, trails or comets; flux in the image's electrons."""
    items = None if key is None else sources.items
    if sources.events is None:
        paint_points(image, variance, x, y, flux, bank, key=key, items=items)
        return
    per_px = 1 / host.pair.pixel_scale_arcsec
    if "coma_radius_arcsec" in sources.events.parameters:
        paint_comae(
            image, variance, x, y, flux, sources.parameter("coma_radius_arcsec") * per_px,
            sources.parameter("nucleus_fraction"), bank, tail=sources.parameter("tail_fraction"),
            tail_px=sources.parameter("tail_length_arcsec") * per_px,
            tail_angle_rad=np.deg2rad(sources.parameter("tail_angle_deg")), key=key, items=items,
        )  # fmt: skip
        return
    east, north = (rate if sources.which is None else rate[sources.which] for rate in sources.events.motion())
    length = np.hypot(east, north) * float(host.pair.row["exptime"]) / 3600 * per_px
    paint_trails(image, variance, x, y, flux, length, np.arctan2(north, -east), bank, key=key, items=items)


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
            made.canvas[int(i)], window_of(host.view, column, row), x, y,
            drawn.of_kind[i, : artifact.n_draws], drawn.key, int(drawn.items[i]), star,
        )  # fmt: skip
        made.flux[i] = found.flux / host.recipe.flux_ratio


def window_at(column: int, row: int) -> tuple[slice, slice]:
    """Rows and columns of the window around the middle pixel of a stamp."""
    half = WINDOW // 2
    return slice(row - half, row + half + 1), slice(column - half, column + half + 1)


def window_of(view: View, column: int, row: int) -> View:
    """The window of a sample, its stars in its own pixels."""
    part = (slice(row, row + WINDOW), slice(column, column + WINDOW))
    near = tuple(
        Star(star.x - column, star.y - row, star.flux)
        for star in view.stars
        if abs(star.x - column - WINDOW / 2) < WINDOW and abs(star.y - row - WINDOW / 2) < WINDOW
    )
    return replace(view, science=view.science[part], template=view.template[part], stars=near)
