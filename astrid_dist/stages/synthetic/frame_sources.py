"""Sources of one field of an injected survey: drawn once, the same in all its bands and epochs."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.errors import ConfigError
from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging.galaxies import find_galaxies
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.simulation.placement import REASONS, Sites, place
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.populations.base import Events
from astrid_dist.stages.blocks import Window, field_shape, read_planes, read_stars
from astrid_dist.stages.pair import LEAST_FWHM_PX
from astrid_dist.stages.synthetic.frame_brightness import PLACE, STRATUM, at_random, of_snr
from astrid_dist.stages.synthetic.frame_light import ASSUMED_ZEROPOINT, BandLight, FieldSources
from astrid_dist.stages.synthetic.instrument import band_of_group
from astrid_dist.stages.synthetic.sets import strata_of
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.taxonomy import ENVIRONMENTS

Array = NDArray[np.float64]

#: Uniform numbers of a source: what is drawn here, and what its kind draws.
_OWN_DRAWS, _KIND_DRAWS = 10, 24
#: Stars that leave residuals stand this far above their noise.
_BRIGHT_STAR = 20.0
#: Sources are this far apart, FWHM: nearer ones would be found as one.
_APART = 3.0
#: Depth where nobody knows it, and how much fainter than it sources may peak, AB magnitudes.
_DEPTH, _BELOW = 21.0, 1.0


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
    own = {**settings.resolved, "epochs": [groups_of_field(settings, field)]}
    said = settings.model_copy(update={"resolved": own})
    return _drawn(said.model_dump_json(exclude={"output", "realisations", "artifacts"}), field)


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
    mine = tuple(strata[k] for k in np.searchsorted(shares / shares[-1], draws[:, STRATUM])) if n else ()
    sites = sites_of_reference(first)
    placed = place([ENVIRONMENTS.index(one.environment) for one in mine], draws[:, PLACE], sites)
    crowded = _crowded(placed.x, placed.y, _APART * sites.fwhm_px)
    reason = np.where(crowded & placed.ok, REASONS.index("no site"), placed.reason)
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
        tuple(REASONS[code] for code in reason), nothing, nothing, np.ones(n),
        _motions(events, n, scale),
    )  # fmt: skip
    if not n:
        return drawn
    if settings.draw == "physical":
        return at_random(drawn, draws)
    return of_snr(drawn, draws, survey, origin, groups)


def _crowded(x: Array, y: Array, radius_px: float) -> NDArray[np.bool_]:
    """(n,) which places lie too near one that came before."""
    known = np.flatnonzero(np.isfinite(x + y))
    taken = np.zeros(len(x), bool)
    pairs = cKDTree(np.column_stack([x, y])[known]).query_pairs(radius_px, output_type="ndarray")
    for one, other in known[pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]]:
        taken[other] |= not taken[one]
    return taken


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
