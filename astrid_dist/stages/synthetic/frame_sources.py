"""Sources of one field of an injected survey: drawn once, the same in all its bands and epochs.

What a source adds to a difference is its light in the epoch minus what the reference holds of it. Without an
injected reference (`in_reference` false) that holds nothing of what comes and goes, and a variable is a star
or nucleus that is there already: it changes about its mean over the epochs. With one, the reference holds the
mean over its own epochs of every source's light, so a source may have faded since.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging.galaxies import find_galaxies
from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.simulation.placement import REASONS, Sites, place
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.populations.base import Events
from astrid_dist.stages.blocks import Window, field_shape, read_planes, read_stars
from astrid_dist.stages.pair import LEAST_FWHM_PX, Pair, open_pair
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.sets import strata_of
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.surveys.profile import profile_names
from astrid_dist.taxonomy import ENVIRONMENTS

Array = NDArray[np.float64]

#: Zero point taken where a survey has none: then only ratios of light mean something.
ASSUMED_ZEROPOINT = 25.0
#: Uniform numbers of a source: what is drawn here, and what its kind draws.
_OWN_DRAWS, _KIND_DRAWS = 10, 24
_PLACE, _STRATUM, _SNR, _ANCHOR, _MOMENT, _MEMBER = slice(0, 3), 3, 4, 5, 6, 7
#: Epochs of a field among which the one of the drawn SNR is chosen; evenly taken where there are more.
_MOST_ANCHORS = 64
#: Moments that are tried until a source is at least this part as bright in that epoch as in any.
_TRIES, _BRIGHT = 8, 0.1
#: Stars that leave residuals stand this far above their noise.
_BRIGHT_STAR = 20.0
#: Depth where nobody knows it, and how much fainter than it sources may peak, AB magnitudes.
_DEPTH, _BELOW = 21.0, 1.0


@dataclass(frozen=True)
class BandLight:
    """What light in one band of a field is measured by."""

    band: Band
    zeropoint: float
    """AB magnitude of one electron of the reference; `ASSUMED_ZEROPOINT` where unknown."""
    mjd: Array
    """Of the chosen epochs."""
    member_mjd: Array
    """Of the epochs that the reference is made of."""
    weights: Array
    """Of these, summing to 1."""


@dataclass(frozen=True)
class FieldSources:
    """n sources of a field; positions in its pixels, light in electrons of the reference of a band."""

    strata: tuple[Stratum, ...]
    """(n,)"""
    bands: Mapping[str, BandLight]
    """By group."""
    events: Mapping[str, tuple[NDArray[np.int64], Events]]
    """By kind: which sources, and their light curves."""
    in_reference: bool
    x: Array
    """At `anchor_mjd`; NaN for one without a place."""
    y: Array
    galaxy: NDArray[np.int64]
    """Number of the host among the reference's galaxies; -1 for none."""
    reason: tuple[str, ...]
    """Why it has no place; empty where it has one."""
    anchor_mjd: Array
    """Moment for which place and SNR were drawn."""
    moment: Array
    """Reference moment of its light curve, MJD."""
    scale: Array
    """Factor on the light that its population gives it."""
    rate_px: tuple[Array, Array]
    """Motion along x and y, pixels per day."""

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Those that were there before, whatever the reference."""
        return np.array([POPULATIONS[one.kind].always_there for one in self.strata], bool)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """Those that the reference does not hold, being elsewhere in every epoch."""
        return np.array([one.classification == "moving" for one in self.strata], bool)

    def light(self, group: str, mjd: Array) -> Array:
        """(n, t) light at some moments."""
        one = self.bands[group]
        out = np.zeros((len(self), len(mjd)))
        for which, events in self.events.values():
            days = mjd[None, :] - self.moment[which][:, None]
            out[which] = 10 ** (-0.4 * (events.magnitudes(one.band, days) - one.zeropoint))
        return out * self.scale[:, None]

    def template(self, group: str) -> Array:
        """(n,) light that is not in the difference, whatever the epoch."""
        one, varies = self.bands[group], self.varies
        if self.in_reference:
            held: Array = self.light(group, one.member_mjd) @ one.weights
            return np.where(self.moves, 0.0, held)
        mean = self.light(group, one.mjd).mean(axis=1) if varies.any() else np.zeros(len(self))
        return np.where(varies, mean, 0.0)

    def places(self, mjd: float) -> tuple[Array, Array]:
        """Columns and rows at a moment."""
        days = mjd - self.anchor_mjd
        return self.x + self.rate_px[0] * days, self.y + self.rate_px[1] * days


def source_strata(settings: Settings, in_reference: bool, moving: bool) -> tuple[Stratum, ...]:
    """What sources are drawn from, shares not yet summing to 1; none where only artifacts are asked for.

    `moving`: whether it is known how many arcseconds a pixel has.
    """
    asked = settings.model_copy(update={"snr_bins": 1})
    found = []
    for one in strata_of(asked):
        if one.kind not in POPULATIONS or (one.classification == "moving" and not moving):
            continue
        varies = POPULATIONS[one.kind].always_there
        if one.negative and not in_reference and not varies:
            continue
        place_name = one.environment
        if varies and not in_reference and place_name not in ("star", "nucleus"):
            place_name = "nucleus" if "nucleus" in POPULATIONS[one.kind].environments else "star"
        found.append(Stratum(one.kind, place_name, one.negative, one.snr, one.share))
    return tuple(found)


def band_of_group(reader: ProductReader) -> Band:
    """Filter of a group; `ConfigError` where the survey's profile has none for its band."""
    survey = str(reader.attributes.get("survey", "generic"))
    name = str(reader.attributes.get("band", reader.group.rpartition("/")[2]))
    return band_of(survey if survey in profile_names() else "generic", name)


def groups_of_field(settings: Settings, field: str) -> dict[str, list[int]]:
    """Chosen epochs of the bands of a field."""
    chosen: dict[str, list[int]] = settings.resolved["epochs"][0]
    return {name: chosen[name] for name in sorted(chosen) if name.rpartition("/")[0] == field}


def digest_of_light(settings: Settings, field: str) -> str:
    """What the sources of a field follow from: two jobs with one digest put in the same ones."""
    names = ("seed", "kinds", "mix", "environments", "snr", "negative", "draw", "sources_per_mpix")
    said = settings.model_dump(mode="json", include=set(names))
    said["epochs"] = groups_of_field(settings, field)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def field_sources(settings: Settings, field: str) -> FieldSources:
    """Sources of a field of a planned job, kept for its next epochs."""
    return _drawn(settings.model_dump_json(exclude={"output", "realisations", "artifacts"}), field)


@lru_cache(2)
def _drawn(said: str, field: str) -> FieldSources:
    settings = Settings.model_validate({**json.loads(said), "output": "unused"})
    survey = Location.parse(settings.survey[0])
    origin = Location.parse(settings.resolved["origin"])
    in_reference = bool(settings.resolved["in_reference"])
    groups = groups_of_field(settings, field)
    first = ProductReader(origin, next(iter(groups)))
    scale = float(ProductReader(survey, first.group).attributes.get("pixel_scale_arcsec") or np.nan)
    strata = source_strata(settings, in_reference, bool(np.isfinite(scale)))
    height, width = field_shape(first, "image")
    n = round(settings.sources_per_mpix * height * width / 1e6) if strata else 0
    draws = uniforms(stream(settings.seed, f"sources of {field}"), np.arange(n), _OWN_DRAWS + _KIND_DRAWS)
    shares = np.cumsum([one.share for one in strata])
    mine = tuple(strata[k] for k in np.searchsorted(shares / shares[-1], draws[:, _STRATUM])) if n else ()
    placed = place(
        [ENVIRONMENTS.index(one.environment) for one in mine], draws[:, _PLACE], sites_of_reference(first)
    )
    bands = {group: _band_light(survey, origin, group, indices) for group, indices in groups.items()}
    hosted = [one.environment in ("host", "nucleus") for one in mine]
    events = {}
    for kind in dict.fromkeys(one.kind for one in mine):
        which = np.array([k for k, one in enumerate(mine) if one.kind == kind], np.int64)
        limit = _depth(survey, groups) + _BELOW
        population = POPULATIONS[kind]
        if population.n_draws > _KIND_DRAWS:
            raise ConfigError(f"{kind} takes {population.n_draws} draws, sources have {_KIND_DRAWS}")
        kept = draws[which, _OWN_DRAWS : _OWN_DRAWS + population.n_draws]
        events[kind] = which, population.draw(kept, limit)
    nothing = np.zeros(n)
    drawn = FieldSources(
        mine, bands, events, in_reference, placed.x, placed.y,
        np.where(hosted, placed.host, -1) if n else np.zeros(0, np.int64),
        tuple(REASONS[code] for code in placed.reason), nothing, nothing, np.ones(n),
        _motions(events, n, scale),
    )  # fmt: skip
    if not n:
        return drawn
    if settings.draw == "physical":
        return _at_random(drawn, draws)
    return _of_snr(drawn, draws, survey, origin, groups)


def sites_of_reference(reader: ProductReader) -> Sites:
    """Galaxies, stars and sky of the reference of a group."""
    height, width = field_shape(reader, "image")
    planes = read_planes(reader, Window(0, height, 0, width))
    fwhm = max(float(reader.attributes["reference"]["fwhm"]), LEAST_FWHM_PX)
    stars = read_stars(reader, fwhm)
    clean = stars.flags == 0
    x, y = stars.x[clean], stars.y[clean]
    galaxies = find_galaxies(planes.image, planes.sigma, planes.mask, fwhm, stars_xy=np.column_stack([x, y]))
    return Sites(
        galaxies, x, y, stars.flux[clean] > _BRIGHT_STAR * stars.flux_err[clean],
        np.isfinite(planes.image) & ((planes.mask & int(UNUSABLE)) == 0),
        (planes.mask & int(Flag.NO_DATA)) == 0, (planes.mask & int(Flag.SATURATED)) != 0, fwhm,
    )  # fmt: skip


def members_of(survey: Location, reference: Location, group: str) -> tuple[Array, Array]:
    """Moments (MJD) and weights, summing to 1, of the epochs that a reference is made of."""
    made = ProductReader(reference, group).attributes["reference"]
    reader = ProductReader(survey, group)
    ids = [str(one) for one in reader.read("epoch_id", epoch=slice(0, reader.epochs))]
    mjd = reader.read("mjd", epoch=slice(0, reader.epochs))
    # One that the survey does not have was taken when the reference was, in the mean.
    when = [float(mjd[ids.index(one)]) if one in ids else float(made["mjd"]) for one in made["epoch_ids"]]
    weights = np.asarray(made["weights"], np.float64)
    return np.array(when), weights / weights.sum()


def _band_light(survey: Location, origin: Location, group: str, indices: list[int]) -> BandLight:
    reader = ProductReader(survey, group)
    zeropoint = ProductReader(origin, group).attributes["reference"]["zeropoint"]
    mjd = np.asarray(reader.read("mjd", epoch=slice(0, reader.epochs)), np.float64)[indices]
    known = ASSUMED_ZEROPOINT if zeropoint is None else float(zeropoint)
    return BandLight(band_of_group(reader), known, mjd, *members_of(survey, origin, group))


def _depth(survey: Location, groups: Mapping[str, list[int]]) -> float:
    """Faintest magnitude seen in the first band of a field."""
    group, indices = next(iter(groups.items()))
    reader = ProductReader(survey, group)
    if reader.attributes.get("depth"):
        return float(reader.attributes["depth"])
    limits = np.asarray(reader.read("limiting_mag", epoch=slice(0, reader.epochs)), np.float64)[indices]
    known = limits[np.isfinite(limits)]
    return float(np.median(known)) if known.size else _DEPTH


def _motions(events: Mapping[str, tuple[NDArray[np.int64], Events]], n: int, scale: float) -> Any:
    """Pixels per day along x (west) and y (north)."""
    rate = np.zeros((2, n))
    for which, one in events.values():
        east, north = one.motion()
        if np.any(east) or np.any(north):
            rate[0, which], rate[1, which] = -24 * east / scale, 24 * north / scale
    return rate[0], rate[1]


def _spans(sources: FieldSources) -> Array:
    """(2, n) first and last day about its moment at which each matters."""
    return np.array([POPULATIONS[one.kind].span_days for one in sources.strata]).T


def _at_random(sources: FieldSources, draws: Array) -> FieldSources:
    """As populations are seen: what happens somewhere in the time of the epochs, or just before or after."""
    mjd = np.concatenate([one.mjd for one in sources.bands.values()])
    first, last = _spans(sources)
    start, stop = mjd.min() - last, mjd.max() - first
    anchor = mjd[np.minimum((draws[:, _ANCHOR] * len(mjd)).astype(int), len(mjd) - 1)]
    at = start + (stop - start) * draws[:, _MOMENT]
    # What moves is where it is because it was seen in that epoch.
    return replace(sources, anchor_mjd=anchor, moment=np.where(sources.moves, anchor, at))


def _of_snr(
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
    mine = np.minimum((draws[:, _ANCHOR] * len(anchors)).astype(np.int64), len(anchors) - 1)
    sources = replace(sources, anchor_mjd=mjd[mine])
    faded = np.array([one.negative for one in sources.strata]) & ~sources.varies & ~sources.moves
    held = _members_drawn(sources, draws)
    first, last = _spans(sources)
    best, moment, change = np.full(n, -1.0), np.zeros(n), np.zeros(n)
    for attempt in range(_TRIES):
        part = np.mod(draws[:, _MOMENT] + attempt / _TRIES, 1.0)
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
    flux = _flux_of_snr(sources, low * (high / low) ** draws[:, _SNR], anchors, mine)
    none = ~(np.abs(change) > 0) | ~np.isfinite(flux)
    scale = np.where(none, 0.0, flux / np.where(none, 1.0, np.abs(change)))
    reason = tuple(
        "no flux" if lost and not said else said for said, lost in zip(sources.reason, none, strict=True)
    )
    return replace(sources, moment=moment, scale=scale, reason=reason)


def _members_drawn(sources: FieldSources, draws: Array) -> Array:
    """(n,) moment of one of the reference's epochs, by weight, in the first band."""
    one = next(iter(sources.bands.values()))
    which = np.searchsorted(np.cumsum(one.weights), draws[:, _MEMBER])
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
