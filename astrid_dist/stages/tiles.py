"""One tile of a pair: subtracted as measured, then with a refined PSF where its stars do not cancel."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging import matching, zogy
from astrid_dist.imaging.leftover import measure_leftover
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import Pair

Refine = Literal["auto", "always", "never"]
Image = NDArray[np.float32]

#: Square of the score on stars, in that of noise, above which they are said not to cancel.
MISFIT = 1.5
#: Part of what stands out of a score that may be left for a refined PSF to be taken.
MUCH_LESS = 0.8
#: Light of a pixel over its noise that makes it part of a star, and how many it takes to judge.
_STAR_SNR, _ENOUGH = 5.0, 50
#: What one pixel can add to the mean square: variables, cosmic rays and trails do not rule.
_CAP = 25.0
#: Square of a score that noise seldom reaches.
_NOISE = 9.0


@dataclass(frozen=True)
class Options:
    """How tiles are subtracted; what the fields mean is said in the job file."""

    astrometric_sigma_px: float
    renormalise: bool
    refine: Refine


@dataclass(frozen=True)
class Recipe:
    """What a tile was subtracted with: enough to subtract something else just so."""

    psf_n: Image
    psf_r: Image
    sigma_n: float
    sigma_r: float
    flux_ratio: float
    shift: tuple[float, float]
    astrometric_sigma: tuple[float, float]
    flux_ratio_err: float

    def plan(self, shape: tuple[int, int]) -> zogy.SubtractionPlan:
        """Filters for windows of a shape."""
        return zogy.plan_subtraction(
            self.psf_n, self.psf_r, self.sigma_n, self.sigma_r, self.flux_ratio, shape=shape
        )

    def subtract(
        self,
        new: Planes,
        ref: Planes,
        plan: zogy.SubtractionPlan,
        *,
        terms: bool = True,
        keep_scores: bool = False,
    ) -> zogy.Subtraction:
        """Difference and score of planes, with or without the terms for what may be wrong."""
        return zogy.subtract(
            new.image,
            ref.image,
            new.variance,
            ref.variance,
            plan,
            shift=self.shift,
            astrometric_sigma=self.astrometric_sigma if terms else (0.0, 0.0),
            flux_ratio_err=self.flux_ratio_err if terms else 0.0,
            keep_scores=keep_scores,
        )


@dataclass(frozen=True)
class Tile:
    """A subtracted tile with its margin."""

    difference: Image
    score: Image
    sigma_flux: Image
    psf_d: Image
    measured: dict[str, float]
    """Of the difference's tile maps."""
    recipe: Recipe


def subtract_tile(pair: Pair, tile: Window, new: Planes, ref: Planes, options: Options) -> Tile:
    """Subtract one tile.

    Parameters
    ----------
    pair : Pair
        Epoch and reference.
    tile : Window
        Whose centre says where PSFs, flux ratio and offset are taken.
    new, ref : Planes
        Of both, on the tile and its margin.
    options : Options
        With ``refine="auto"`` the PSF is refined where stars leave more than their noise, which takes three
        times as long, and the result taken where less is left.
    """
    half = max(tile.shape) / 2
    local = pair.comparison.at(*tile.centre, half)
    psfs = pair.psfs_at(*tile.centre)
    recipe = Recipe(
        *psfs,
        new.sigma,
        ref.sigma,
        local.flux_ratio,
        local.shift,
        local.astrometric_sigma(options.astrometric_sigma_px),
        local.flux_sigma,
    )
    plan = recipe.plan(new.window.shape)
    result = recipe.subtract(new, ref, plan)
    fwhm_n, fwhm_r = pair.fwhms_at(*psfs)
    measured = {
        "sigma_n": new.sigma,
        "sigma_r": ref.sigma,
        "flux_ratio": local.flux_ratio,
        "flux_ratio_err": local.flux_ratio_err,
        "flux_ratio_scatter": local.flux_scatter,
        "F_S": result.F_S,
        "dx": local.dx,
        "dy": local.dy,
        "dx_err": local.dx_err,
        "dy_err": local.dy_err,
        "offset_scatter": np.hypot(local.scatter_x, local.scatter_y) / np.sqrt(2),
        "n_tile_stars": local.n_stars,
        "kernel_radius_px": result.kernel_radius_px,
        "fwhm_n": fwhm_n,
        "fwhm_r": fwhm_r,
        "residual_sky": 0.0,
        "refined": 0,
    }
    as_measured = Tile(result.difference, result.score, result.sigma_flux, result.psf_d, measured, recipe)
    if options.refine == "never" or (options.refine == "auto" and not _stars_left(result.score, ref)):
        return as_measured
    planes = new.image, ref.image, new.variance, ref.variance
    found = matching.match_psf(*planes, *psfs, plan, shift=local.shift)
    if not found.accepted:
        return as_measured
    fwhm_px = max(fwhm_n, fwhm_r)
    refined, leaves = _refined(found, new, ref, as_measured, fwhm_px)
    if options.refine == "always":
        return refined
    # Judged without the terms for what is wrong, behind which a worse PSF could hide: where stars are few,
    # the noise of the images makes a kernel that smooths look good.
    plain = recipe.subtract(new, ref, plan, terms=False)
    left = measure_leftover(plain.difference, plain.score, plain.sigma_flux, plan.psf_d, fwhm_px)
    left_before = _left(plain.score - left.in_score(plan.psf_d, plain.sigma_flux))
    return refined if leaves < MUCH_LESS * left_before else as_measured


def _stars_left(score: Image, ref: Planes) -> bool:
    """Whether stars leave more than their noise."""
    # Every other row and column, and squares instead of roots: this is asked of every tile.
    score, image, variance = score[::2, ::2], ref.image[::2, ::2], ref.variance[::2, ::2]
    stars = np.isfinite(score) & (image > 0) & (image * image > np.float32(_STAR_SNR**2) * variance)
    if np.count_nonzero(stars) < _ENOUGH:
        return False
    # Of squares of noise a fifth is above 1.64; variable stars are fewer than that.
    return float(np.percentile(np.square(score[stars]), 80)) > 1.64 * MISFIT


def _left(score: Image) -> float:
    """What stands out of a score: mean square of what is beyond three, of all pixels."""
    square = np.minimum(np.square(score), _CAP)
    return float(np.nanmean(np.where(square < _NOISE, np.float32(0), square)))


def _refined(
    found: matching.Match, new: Planes, ref: Planes, before: Tile, fwhm_px: float
) -> tuple[Tile, float]:
    """The tile with the PSFs of a match, less the sky and lines it leaves, its error on stars in S_corr.

    Also what stands out of its score without that error.
    """
    match = Recipe(
        found.psf_n, found.psf_r, new.sigma, ref.sigma, found.flux_ratio, found.shift, (0.0, 0.0), 0.0
    )
    plan = match.plan(new.window.shape)
    plain = match.subtract(new, ref, plan, terms=False)
    left = measure_leftover(plain.difference, plain.score, plain.sigma_flux, plan.psf_d, fwhm_px)
    level = plain.score - left.in_score(plan.psf_d, plain.sigma_flux)
    error = matching.model_error(level, plain.sigma_flux, ref.image, plan)
    recipe = replace(match, flux_ratio_err=error * plan.flux_ratio)
    result = recipe.subtract(new, ref, plan)
    measured = before.measured | {
        "flux_ratio": found.flux_ratio,
        "flux_ratio_scatter": error,
        "F_S": result.F_S,
        "dx": found.shift[0],
        "dy": found.shift[1],
        "offset_scatter": 0.0,
        "kernel_radius_px": result.kernel_radius_px,
        "residual_sky": float(np.median(left.level)),
        "refined": 1,
    }
    score = result.score - left.in_score(plan.psf_d, result.sigma_flux)
    tile = Tile(result.difference - left.level, score, result.sigma_flux, result.psf_d, measured, recipe)
    return tile, _left(level)
