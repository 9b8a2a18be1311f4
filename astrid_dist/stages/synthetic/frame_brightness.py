"""When sources of a field shine, and how brightly: as populations do, or at a drawn SNR."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.stages.blocks import Window, read_planes
from astrid_dist.stages.pair import Pair, open_pair
from astrid_dist.stages.synthetic.frame_light import FieldSources
from astrid_dist.stages.synthetic.frame_paint import seen_by_points
from astrid_dist.stages.synthetic.instrument import camera_of
from astrid_dist.store.locations import Location

Array = NDArray[np.float64]

#: Columns of a source's uniform numbers.
PLACE, STRATUM, SNR, ANCHOR, MOMENT, MEMBER = slice(0, 3), 3, 4, 5, 6, 7
#: Epochs of a field among which the one of the drawn SNR is chosen; evenly taken where there are more.
_MOST_ANCHORS = 64
#: Moments that are tried until a source is at least this part as bright in that epoch as in any.
_TRIES, _BRIGHT = 8, 0.1


def _spans(sources: FieldSources) -> Array:
    """(2, n) first and last day about its moment at which each matters."""
    return np.array([POPULATIONS[one.kind].span_days for one in sources.strata]).T


def at_random(sources: FieldSources, draws: Array) -> FieldSources:
    """As populations are seen: what happens somewhere in the time of the epochs, or just before or after."""
    mjd = np.concatenate([one.mjd for one in sources.bands.values()])
    first, last = _spans(sources)
    start, stop = mjd.min() - last, mjd.max() - first
    anchor = mjd[np.minimum((draws[:, ANCHOR] * len(mjd)).astype(int), len(mjd) - 1)]
    at = start + (stop - start) * draws[:, MOMENT]
    # What moves is where it is because it was seen in that epoch.
    return replace(sources, anchor_mjd=anchor, moment=np.where(sources.moves, anchor, at))


def of_snr(
    sources: FieldSources, draws: Array, survey: Location, origin: Location, groups: Mapping[str, list[int]]
) -> FieldSources:
    """Scaled so that the difference of one epoch of the field shows the SNR that was drawn."""
    n = len(sources)
    anchors = _anchors(survey, origin, groups)
    if not anchors:
        return replace(
            sources, scale=np.zeros(n), reason=tuple(one or "no subtraction" for one in sources.reason)
        )
    mjd = np.array([float(pair.row["mjd"]) for pair in anchors])
    mine = np.minimum((draws[:, ANCHOR] * len(anchors)).astype(np.int64), len(anchors) - 1)
    sources = replace(sources, anchor_mjd=mjd[mine])
    faded = np.array([one.negative for one in sources.strata]) & ~sources.varies & ~sources.moves
    held = _members_drawn(sources, draws)
    first, last = _spans(sources)
    best, moment, change = np.full(n, -1.0), np.zeros(n), np.zeros(n)
    for attempt in range(_TRIES):
        part = np.mod(draws[:, MOMENT] + attempt / _TRIES, 1.0)
        tried = np.where(faded, held, sources.anchor_mjd) - (first + (last - first) * part)
        tried = np.where(sources.moves, sources.anchor_mjd, tried)
        one = replace(sources, moment=tried)
        seen = np.empty((n, len(anchors)))
        for group in groups:
            here = [k for k, pair in enumerate(anchors) if pair.survey.group == group]
            seen[:, here] = one.light(group, mjd[here]) - one.template(group)[:, None]
        own = np.take_along_axis(seen, mine[:, None], 1)[:, 0]
        highest = np.abs(seen).max(axis=1)
        share = np.abs(own) / np.where(highest > 0, highest, 1.0)
        better = (best < _BRIGHT) & (share > best)
        best[better], moment[better], change[better] = share[better], tried[better], own[better]
        if np.all(best >= _BRIGHT):
            break
    low, high = np.array([one.snr for one in sources.strata]).T
    flux = _flux_of_snr(sources, low * (high / low) ** draws[:, SNR], anchors, mine)
    none = ~(np.abs(change) > 0) | ~np.isfinite(flux)
    scale = np.where(none, 0.0, flux / np.where(none, 1.0, np.abs(change)))
    reason = tuple(
        "no flux" if lost and not said else said for said, lost in zip(sources.reason, none, strict=True)
    )
    made = replace(sources, moment=moment, scale=scale, reason=reason)
    return _without_saturated(made, anchors)


def _without_saturated(sources: FieldSources, anchors: list[Pair]) -> FieldSources:
    """Sources less those that would reach the full well in any of the epochs: what little changes in a source
    is of that SNR only where the source is very bright."""
    too_bright = np.zeros(len(sources), bool)
    for pair in anchors:
        light = sources.light(pair.survey.group, np.array([float(pair.row["mjd"])]))[:, 0]
        height, width = pair.shape
        peak = pair.comparison.flux_ratio * pair.psfs_at((width - 1) / 2, (height - 1) / 2)[0].max()
        too_bright |= light * peak > camera_of(pair.survey).full_well
    if not sources.in_reference:
        too_bright &= ~sources.varies  # then its light is that of a star that is there
    scale = np.where(too_bright, 0.0, sources.scale)
    reason = tuple(
        "saturated" if lost and not said else said
        for said, lost in zip(sources.reason, too_bright, strict=True)
    )
    return replace(sources, scale=scale, reason=reason)


def _members_drawn(sources: FieldSources, draws: Array) -> Array:
    """(n,) moment of one of the reference's epochs, by weight, in the first band."""
    one = next(iter(sources.bands.values()))
    which = np.searchsorted(np.cumsum(one.weights), draws[:, MEMBER])
    return np.asarray(one.member_mjd[np.minimum(which, len(one.weights) - 1)])


def _anchors(survey: Location, origin: Location, groups: Mapping[str, list[int]]) -> list[Pair]:
    """Pairs of some epochs of a field; what cannot be compared with its reference is left out."""
    every = [(group, index) for group, indices in groups.items() for index in indices]
    step = -(-len(every) // _MOST_ANCHORS)
    found = []
    for group, index in every[::step]:
        try:
            found.append(open_pair(survey, origin, group, index, 3.0))
        except InputError:
            continue
    return found


def _flux_of_snr(sources: FieldSources, snr: Array, anchors: list[Pair], mine: NDArray[np.int64]) -> Array:
    """Flux (electrons of the reference) at an SNR in the difference with an epoch, as matched filters of both
    images measure it: sky, the light that is there, and the source's own."""
    flux = np.full(len(sources), np.nan)
    known = np.isfinite(sources.x + sources.y)
    light: dict[str, tuple[Array, Array]] = {}
    for number, pair in enumerate(anchors):
        which = np.flatnonzero((mine == number) & known)
        if not which.size:
            continue
        group = pair.survey.group
        if group not in light:
            light[group] = _reference_at(pair, sources.x, sources.y)
        seen, variance = light[group][0][which], light[group][1][which]
        height, width = pair.shape
        psf_n, psf_r = (psf.astype(np.float64) for psf in pair.psfs_at((width - 1) / 2, (height - 1) / 2))
        squares, cubes = np.square(psf_n).sum(), (np.clip(psf_n, 0, None) ** 3).sum()
        ratio, box = pair.comparison.flux_ratio, int(pair.survey.attributes["mesh_box"])
        rms = pair.sky_mesh()[1]
        cell = tuple(
            np.clip((at[which] // box).astype(int), 0, size - 1)
            for at, size in zip((sources.y, sources.x), rms.shape, strict=True)
        )
        sky = np.where(np.isfinite(rms[cell]), rms[cell], np.nanmedian(rms)).astype(np.float64)
        new = (np.square(sky) + np.clip(seen, 0, None) * ratio) / (ratio**2 * squares)
        own = np.square(snr[which]) * cubes / (squares**2 * ratio)
        before = new + variance / np.square(psf_r).sum()
        flux[which] = 0.5 * (own + np.sqrt(own**2 + 4 * np.square(snr[which]) * before))
        chosen = np.isin(np.arange(len(sources)), which)
        if (chosen & sources.moves).any():
            exposed = float(pair.row["exptime"]), pair.pixel_scale_arcsec
            flux[which] /= seen_by_points(PsfBank.of_stamp(psf_n), sources, chosen, exposed)[which]
    return flux


def _reference_at(pair: Pair, x: Array, y: Array) -> tuple[Array, Array]:
    """Light and variance of the reference at pixels; its median variance where there is no data."""
    height, width = pair.shape
    planes = read_planes(pair.reference, Window(0, height, 0, width))
    known = np.isfinite(x + y)
    row = np.clip(np.rint(np.where(known, y, 0)).astype(int), 0, height - 1)
    column = np.clip(np.rint(np.where(known, x, 0)).astype(int), 0, width - 1)
    image, variance = planes.image[row, column], planes.variance[row, column]
    usual = planes.sigma**2
    return np.nan_to_num(image).astype(np.float64), np.where(np.isfinite(variance), variance, usual)
