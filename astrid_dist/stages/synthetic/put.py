"""What is put into the windows of samples: sources, artifacts, or nothing where a detection is already."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.canvas import Canvas, Star, View
from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.populations import POPULATIONS
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
    host, population = hosts[visit], POPULATIONS[kind]
    low, high = np.array([drawn.strata[i].snr for i in chosen]).T
    snr = low * (high / low) ** drawn.own[chosen, 3]
    negative = np.array([drawn.strata[i].negative for i in chosen])
    own = drawn.visit[chosen]
    variance = np.array([_variance(hosts[v], drawn, i) for v, i in zip(own, chosen, strict=True)])
    at_its_best = np.array(
        [hosts[v].flux_of_snr(snr[k : k + 1], variance[k : k + 1])[0] for k, v in enumerate(own)]
    )
    lost = ~np.isfinite(at_its_best)
    made.reason[chosen[lost]] = REASONS.index("masked")
    events, share = changes(population, hosts, visit, drawn, chosen, negative)
    flux = np.where(lost, 0.0, at_its_best * share)
    dx, dy = motions(events, hosts, visit, drawn, chosen)
    made.x[chosen] += dx
    made.y[chosen] += dy
    on_star = drawn.star[chosen] >= 0
    light = np.array(
        [host.stars[k].flux / host.recipe.flux_ratio if k >= 0 else 0.0 for k in drawn.star[chosen]]
    )
    too_much = on_star & (flux < -light)
    made.reason[chosen[too_much]] = REASONS.index("no flux")
    flux[too_much] = 0.0
    made.flux[chosen] = flux
    here = np.array([_variance(host, drawn, i) for i in chosen])
    sigma = np.sqrt(here + np.abs(flux) * host.noise_per_flux)
    made.snr[chosen] = flux / sigma
    # Where there is a star, it is the star that fades; elsewhere something is missing that the template has.
    missing = (flux < 0) & ~on_star
    _paint(host, drawn, chosen[~missing], flux[~missing], events, np.flatnonzero(~missing), made, False)
    _paint(host, drawn, chosen[missing], -flux[missing], events, np.flatnonzero(missing), made, True)


def _paint(
    host: Host, drawn: Samples, chosen: NDArray[np.int64], flux: Array, events: Any, which: NDArray[np.int64],
    made: Put, in_template: bool,
) -> None:  # fmt: skip
    """Paint sources of a kind into epoch or template; flux in electrons of the reference."""
    if not chosen.size:
        return
    bank = host.banks[1 if in_template else 0]
    # A reference of n epochs has the shot noise of n times the light.
    depth = n_effective(host) if in_template else 1.0
    scale = depth if in_template else host.recipe.flux_ratio
    shift = (0.0, 0.0) if in_template else host.recipe.shift
    image = np.zeros((len(chosen), WINDOW, WINDOW), np.float32)
    variance = np.zeros_like(image)
    half = WINDOW // 2
    x = made.x[chosen] + shift[0] - drawn.column[chosen] + half
    y = made.y[chosen] + shift[1] - drawn.row[chosen] + half
    key = stream(int(drawn.key), "shot noise of the template" if in_template else "shot noise")
    items = drawn.items[chosen]
    motion = events.motion()
    length = np.hypot(*motion)[which] * float(host.pair.row["exptime"]) / 3600 / host.pair.pixel_scale_arcsec
    if "coma_radius_arcsec" in events.parameters:
        known = {name: values[which] for name, values in events.parameters.items()}
        scale_px = 1 / host.pair.pixel_scale_arcsec
        paint_comae(
            image, variance, x, y, flux * scale, known["coma_radius_arcsec"] * scale_px,
            known["nucleus_fraction"], bank, tail=known["tail_fraction"],
            tail_px=known["tail_length_arcsec"] * scale_px,
            tail_angle_rad=np.deg2rad(known["tail_angle_deg"]), key=key, items=items,
        )  # fmt: skip
    elif np.any(length > 0.05):
        angle = np.arctan2(motion[1], -motion[0])[which]
        paint_trails(image, variance, x, y, flux * scale, length, angle, bank, key=key, items=items)
    else:
        paint_points(image, variance, x, y, flux * scale, bank, key=key, items=items)
    if in_template:
        made.canvas.template[chosen] += image / np.float32(depth)
        made.canvas.template_variance[chosen] += variance / np.float32(depth**2)
    else:
        made.canvas.science[chosen] += image
        made.canvas.science_variance[chosen] += variance


def n_effective(host: Host) -> float:
    """Epochs of equal weight that would give the reference's shot noise."""
    weights = np.asarray(host.pair.made["weights"], np.float64)
    return max(1.0, float(weights.sum() ** 2 / np.square(weights).sum()))


def _variance(host: Host, drawn: Samples, i: int) -> float:
    return float(host.variance[int(np.rint(drawn.y[i])), int(np.rint(drawn.x[i]))])


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


def window_of(view: View, column: int, row: int) -> View:
    """The window of a sample, its stars in its own pixels."""
    part = (slice(row, row + WINDOW), slice(column, column + WINDOW))
    near = tuple(
        Star(star.x - column, star.y - row, star.flux)
        for star in view.stars
        if abs(star.x - column - WINDOW / 2) < WINDOW and abs(star.y - row - WINDOW / 2) < WINDOW
    )
    return replace(view, science=view.science[part], template=view.template[part], stars=near)
