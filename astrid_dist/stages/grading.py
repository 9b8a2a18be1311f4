"""How good a difference is: measured by tile, put together by epoch, judged by the survey's thresholds."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging import noise, quality, quality_metrics
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import COPIED, Pair, Template
from astrid_dist.stages.subtraction import Result
from astrid_dist.store.layouts import variables
from astrid_dist.surveys.thresholds import COLOURS, Thresholds

#: Source-free pixels are sampled this far apart where a level is measured: the score is smooth over a PSF.
_STRIDE = 3
#: Side of the middle of a tile in which the noise's correlation is measured, pixels.
_NOISE_PX = 128
#: Stars per tile whose residuals are fitted.
_STARS = 8
#: SNR of the limiting magnitude.
_LIMIT = 5.0


def measure_tiles(pair: Pair, made: Result, science: Planes, template: Template) -> None:
    """Measure what stars, noise and mask of every finished tile tell, into its maps.

    Parameters
    ----------
    pair : Pair
    made : Result
        The finished subtraction of a shard.
    science, template
        What was subtracted, on the shard and its halo.
    """
    for at, tile in made.tiles:
        for name, value in _measure(pair, made, at, tile, science, template).items():
            made.maps[name][at] = value


def _measure(
    pair: Pair, made: Result, at: tuple[int, int], tile: Window, science: Planes, template: Template
) -> dict[str, float]:
    place = tile.within(made.core)
    difference, sigma_flux = made.planes["difference"][place], made.planes["sigma_flux"][place]
    free, psf_d = made.quiet[place], made.psf_d[at]
    _, saturated = quality_metrics.mask_fractions(made.planes["mask"][place][::2, ::2])
    sampled = (slice(None, None, _STRIDE),) * 2
    level = sigma_flux[sampled][free[sampled]]
    level = level[np.isfinite(level)]
    limit = _LIMIT * float(np.median(level)) if level.size else nan
    new = science.cut(tile).image
    x, y, flux = _stars_of(pair, tile)
    ratio, ratio_std = quality_metrics.residual_ratio(
        difference, new / made.maps["flux_ratio"][at], free, x, y, pair.fwhm_px
    )
    sigma = sigma_flux * np.float32(np.sqrt(np.square(psf_d).sum()))
    left = quality_metrics.star_residuals(
        difference, psf_d, x[:_STARS], y[:_STARS], flux[:_STARS], pair.fwhm_px
    )
    middle = _middle(tile)
    own = middle.within(tile)
    return {
        "bad_fraction": float(np.isnan(difference[::2, ::2]).mean()),
        "saturated_fraction": saturated,
        "limiting_flux": limit,
        "limiting_mag": quality_metrics.limiting_mag(limit, pair.zeropoint),
        "residual_ratio": ratio,
        "residual_ratio_std": ratio_std,
        "match_chi2": quality_metrics.star_chi2(difference, sigma, x, y, pair.fwhm_px),
        "displacement": left.displacement,
        "psf_width_error": left.width_error,
        "flux_left": left.flux_left,
        "correlation_n": noise.neighbour_correlation(new[own], free[own]),
        "correlation_r": template.correlation(middle),
        "psf_chi2": pair.psf_chi2_at(*tile.centre),
    }


def _stars_of(pair: Pair, tile: Window) -> tuple[NDArray[np.float64], ...]:
    """Clean stars of the reference in a tile: x and y from its corner, flux; brightest first."""
    stars = pair.stars
    inside = (stars.x >= tile.x0) & (stars.x < tile.x1) & (stars.y >= tile.y0) & (stars.y < tile.y1)
    return stars.x[inside] - tile.x0, stars.y[inside] - tile.y0, stars.flux[inside].astype(np.float64)


def _middle(tile: Window) -> Window:
    """The middle of a tile."""
    (height, width), half = tile.shape, _NOISE_PX // 2
    y, x = tile.y0 + height // 2, tile.x0 + width // 2
    return Window(
        max(y - half, tile.y0), min(y + half, tile.y1), max(x - half, tile.x0), min(x + half, tile.x1)
    )


def grade_tiles(pair: Pair, made: Result, thresholds: Thresholds) -> tuple[dict[str, float], int]:
    """Judge every tile of a shard, into its maps.

    Returns
    -------
    metrics : dict of float
        Of the shard, by the names of `quality.METRICS`.
    pixels : int
        What they stand for.
    """
    parts: list[tuple[dict[str, float], float]] = []
    subtracted = dict(made.tiles)
    for at, tile in made.grid:
        area = tile.shape[0] * tile.shape[1]
        if at not in subtracted:
            parts.append(({"bad_fraction": 1.0}, area))
            continue
        found = _tile_metrics(pair, made.maps, at, area)
        judged = quality.judge(found, thresholds, reference_share=pair.share)
        made.maps["tile_quality"][at] = judged.score
        made.maps["tile_verdict"][at] = COLOURS.index(judged.verdict)
        parts.append((found, area))
    return quality.combine(parts), round(sum(area for _, area in parts))


def _tile_metrics(
    pair: Pair, maps: Mapping[str, NDArray[Any]], at: tuple[int, int], area: int
) -> dict[str, float]:
    found = {name: float(maps[name][at]) for name in quality.METRICS if name in maps}
    good = area * (1 - found["bad_fraction"])
    for name, count in (("peaks", "n_peaks"), ("peaks_raw", "n_peaks_raw")):
        found[name] = 1e6 * float(maps[count][at]) / good if good > 0 else nan
    return found | {
        "seeing": found["fwhm_n"] * pair.pixel_scale_arcsec,
        "elongation": float(pair.row["elongation"]),
    }


def epoch_scalars(pair: Pair, metrics: Mapping[str, float], pixels: int) -> dict[str, Any]:
    """What one shard says of its epoch: scalars, and its share of the metrics, to be put together."""
    row, compared = pair.row, pair.comparison
    notes = [compared.reason]
    if pair.share:
        notes.append(
            f"it is {100 * pair.share:.0f} % of its own reference, so what changed in it shows weaker"
        )
    whole = {
        "n_matched": compared.n_matched,
        "matched_fraction": compared.n_matched / pair.n_possible if pair.n_possible else nan,
        "transparency": quality_metrics.transparency(
            compared.flux_ratio, float(row["exptime"]), float(pair.made["scale_exptime"])
        ),
        "sky": float(row["sky"]),
        "sky_gradient": quality_metrics.sky_gradient(*pair.sky_mesh()),
    }
    return {
        **{name: row[name] for name in COPIED},
        "survey_epoch": pair.index,
        "zeropoint": pair.zeropoint,
        "n_matched": compared.n_matched,
        "reference_weight": pair.share,
        "valid": True,
        "notes": "; ".join(note for note in notes if note),
        "metrics": {**metrics, **whole},
        "pixels": pixels,
    }


def grade_epochs(
    epochs: Sequence[Sequence[Mapping[str, Any]]], thresholds: Thresholds, nominal_depth: float | None
) -> dict[str, list[Any]]:
    """Scalars of a group's epochs from those of their shards, judged beside each other.

    Parameters
    ----------
    epochs : sequence of sequences of mappings
        For each epoch, `epoch_scalars` of its shards, or what stands for one that was set aside.
    thresholds : Thresholds
    nominal_depth : float or None
        Limiting magnitude that the survey expects of one exposure; the field's median where unknown.

    Returns
    -------
    dict of list
        Columns of the layout's scalars, `quality_*` included.
    """
    metrics = [
        quality.combine([(part["metrics"], part["pixels"]) for part in parts if "metrics" in part])
        for parts in epochs
    ]
    skies = np.array(
        [
            found.get("sky", nan) / max(parts[0]["exptime"], 1e-3)
            for found, parts in zip(metrics, epochs, strict=True)
        ]
    )
    usual = float(np.nanmedian(skies)) if np.isfinite(skies).any() else nan
    depths = [found.get("limiting_mag", nan) for found in metrics]
    layout = variables("difference")
    rows = []
    for parts, found, sky in zip(epochs, metrics, skies, strict=True):
        row = {name: value for name, value in parts[0].items() if name in layout}
        # A slot is valid if all its shards are.
        aside = [part for part in parts if not part["valid"]]
        if aside:
            rows.append({**row, "valid": False, "verdict": "quarantined", "reason": aside[0]["reason"]})
            continue
        found["sky_ratio"] = float(sky / usual) if usual > 0 else nan
        found["depth_lost"] = quality.depth_lost(found["limiting_mag"], nominal_depth, depths)
        judged = quality.judge(found, thresholds, reference_share=parts[0]["reference_weight"])
        row |= {"quality": judged.score, "verdict": judged.verdict}
        row["reason"] = "; ".join(one for one in (judged.reason, parts[0]["notes"]) if one)
        rows.append(row | {f"quality_{name}": value for name, value in found.items()})
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, layout[name].fill_value) for row in rows] for name in names}
