"""What tells a source from an artifact: shape, sharpness, dipole, pixel counts and distances of detections.

Names and meanings follow the alert schemas of ZTF (nneg, nbad, sumrat, dsnrms, ssnrms, seeratio) and LSST
(aperture flux, ixx, iyy, ixy, dipole*). Signs are turned so that a fading source looks like a rising one.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.measure import (
    Columns,
    Fit,
    Floats,
    PointSource,
    second_moments,
    solve,
    weighted_width,
    windows,
)
from astrid_dist.imaging.translient import translient

#: How far bad pixels and peaks of the other sign are looked for, pixels.
REACH_PX = 16
_PAIR_ITERATIONS = 6
_LEAST_SEPARATION_PX = 0.5
# Places of a particle hit tried round the brightest pixel: resampling leaves it between pixels.
_PHASES = np.arange(-1, 1.01, 0.25)


def shapes(
    data: Floats, usable: NDArray[np.bool_], variance: Floats, fitted: Fit, model: PointSource
) -> Columns:
    """Shape and sharpness against P_D of sources in windows, turned positive.

    Parameters
    ----------
    data, usable, variance : (n, w, w)
        Windows of D (zero off the data), where there is data, variance of its pixels.
    fitted : Fit
        Point sources fitted to `data`.
    model : PointSource
        P_D.

    Returns
    -------
    dict of (n,) arrays
        fwhm, fwhm_ratio, ixx, iyy, ixy, elongation, position_angle (of the major axis, degrees from +x to
        +y), minor_ratio, spread_model, peak_ratio, aperture_flux, dchi2_hit; see the layout of candidates.
    """
    weight = usable / variance
    yy, xx, xy = second_moments(data, model.window, fitted.offset, model.fwhm)
    mean, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
    width = weighted_width(data, model.window, fitted.offset, model.fwhm) / model.width
    y, x = (model.window - offset[:, None] for offset in fitted.offset)
    disk = (y[:, :, None] ** 2 + x[:, None, :] ** 2 <= model.fwhm**2) & usable
    share = np.sum(fitted.psf, axis=(1, 2), where=disk)
    wide = model.spread_at(fitted.offset) * usable
    projected = (np.sum(data * part * weight, axis=(1, 2)) for part in (wide, fitted.psf))
    expected = (np.sum(fitted.psf * part * weight, axis=(1, 2)) for part in (wide, fitted.psf))
    middle = model.radius
    core = slice(middle - 1, middle + 2)
    flat = data[:, core, core].reshape(-1, 9)
    brightest = flat.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        there = fitted.flux * fitted.psf[:, core, core].reshape(-1, 9)[np.arange(len(data)), brightest]
        peak_ratio = flat[np.arange(len(data)), brightest] / there
        aperture = np.where(share > 0.2, np.sum(data, axis=(1, 2), where=disk) / share, np.nan)
        # SPREAD_MODEL, Desai et al. 2012 eq. 1: negative is sharper than a point source, positive wider.
        spread = np.divide(*projected) - np.divide(*expected)
    residual = data - np.nan_to_num(fitted.flux)[:, None, None] * fitted.psf
    left = np.sum(residual**2 * weight, axis=(1, 2))
    return {
        "fwhm": model.fwhm * width,
        "fwhm_ratio": width,
        "iyy": yy,
        "ixx": xx,
        "ixy": xy,
        "elongation": np.sqrt((mean + half) / (mean - half)),
        "position_angle": np.rad2deg(np.arctan2(xy, (xx - yy) / 2)) / 2 % 180,
        "minor_ratio": np.sqrt(mean - half) / model.width,
        "spread_model": spread,
        "peak_ratio": peak_ratio,
        "aperture_flux": aperture,
        "dchi2_hit": left - _hit_chi2(data, weight, model),
    }


def _hit_chi2(data: Floats, weight: Floats, model: PointSource) -> Floats:
    """Chi squared of one pixel hit by a particle, in D nearly a delta, D being white; (n,).

    Between pixels a delta is band-limited: sinc(y) sinc(x).
    """
    waves = np.sinc(model.window - _PHASES[:, None])
    templates = (waves[:, None, :, None] * waves[None, :, None, :]).reshape(len(_PHASES) ** 2, -1)
    pixels = templates.shape[1]
    signal = (data * weight).reshape(-1, pixels) @ templates.T
    norm = weight.reshape(-1, pixels) @ (templates**2).T
    gain = np.divide(np.maximum(signal, 0) ** 2, norm, out=np.zeros_like(norm), where=norm > 0)
    return np.asarray(np.sum(data**2 * weight, axis=(1, 2)) - gain.max(axis=1))


def dipoles(
    data: Floats, usable: NDArray[np.bool_], variance: Floats, fitted: Fit, model: PointSource
) -> Columns:
    """Two point sources, one positive and one negative, against one: separation, share and gain.

    The second lobe starts where it lowers chi squared most, on whole pixels; then both places and fluxes
    are free (Gauss-Newton), the signs opposite, the separation within half a pixel and the window.

    Parameters
    ----------
    data, usable, variance, fitted, model
        As for `shapes`.

    Returns
    -------
    dict of (n,) arrays
        dipole_separation (pixels; NaN where no opposite lobe helps), dipole_fraction (of the opposite lobe in
        the sum of both fluxes), dipole_dchi2 (how far the pair lowers chi squared).
    """
    n, side = len(data), len(model.window)
    # A typical pixel's variance: weights that follow one source would favour it over its other lobe.
    weight = usable / np.median(variance.reshape(n, side**2), axis=1)[:, None, None]
    single = np.nan_to_num(fitted.flux)[:, None, None] * fitted.psf
    residual = data - single
    alone = np.sum(residual**2 * weight, axis=(1, 2))

    places = np.stack([part.ravel() for part in np.meshgrid(model.window, model.window, indexing="ij")])
    templates = model.at(places.astype(np.float64))[0].reshape(side**2, side**2)
    flat, psf = usable.reshape(n, side**2), fitted.psf.reshape(n, side**2)
    cross = psf @ templates.T
    norm = flat @ (templates**2).T
    with np.errstate(divide="ignore", invalid="ignore"):
        free = norm - cross**2 / fitted.energy[:, None]
        signal = residual.reshape(n, side**2) @ templates.T
        gain = np.where((signal < 0) & (free > 0.05 * model.norm), signal**2 / free, 0)
    far = np.hypot(places[0] - fitted.offset[0][:, None], places[1] - fitted.offset[1][:, None]) >= 1
    gain[~far] = 0
    chosen = gain.argmax(axis=1)
    offsets = np.stack([fitted.offset, places[:, chosen].astype(np.float64)])

    best = np.zeros(n)
    separation, fraction = np.full(n, np.nan), np.zeros(n)
    for _ in range(_PAIR_ITERATIONS):
        first, second = (model.at(one) * usable for one in offsets)
        pair = np.stack([first[0], second[0]], axis=1).reshape(n, 2, side**2)
        flux = solve(pair, data.reshape(n, side**2), 1e-6)
        left = data.reshape(n, side**2) - np.einsum("nk,nkp->np", flux, pair)
        drop = alone - np.sum(left**2 * weight.reshape(n, side**2), axis=1)
        apart = np.hypot(*(offsets[0] - offsets[1]))
        inside = np.abs(offsets).max(axis=(0, 1)) <= model.radius
        valid = (flux[:, 0] > 0) & (flux[:, 1] < 0) & (apart >= _LEAST_SEPARATION_PX) & inside
        better = valid & (drop > best)
        best[better], separation[better] = drop[better], apart[better]
        fraction[better] = (-flux[:, 1] / (flux[:, 0] - flux[:, 1]))[better]
        scaled = [part[1:] * flux[:, k, None, None] for k, part in enumerate((first, second))]
        design = np.concatenate(
            [pair, *(part.swapaxes(0, 1).reshape(n, 2, side**2) for part in scaled)], axis=1
        )
        step = np.clip(solve(design, left, 1e-3)[:, 2:], -0.5, 0.5)
        offsets = offsets + step.reshape(n, 2, 2).transpose(1, 2, 0)
    return {"dipole_separation": separation, "dipole_fraction": fraction, "dipole_dchi2": best}


def motion(data: Floats, sky: Floats, model: PointSource) -> Floats:
    """Largest Z² over largest S² within a FWHM: above 1 a shift explains more than a change of flux, (n,).

    Parameters
    ----------
    data, model
        As for `shapes`.
    sky : (n,)
        Variance of a pixel.
    """
    s2, z2 = translient(data, model.stamp, np.sqrt(sky))
    reach = min(model.radius, int(np.ceil(model.fwhm)))
    core = slice(model.radius - reach, model.radius + reach + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(z2[:, core, core].max(axis=(1, 2)) / s2[:, core, core].max(axis=(1, 2)))


def counts(data: Floats, usable: NDArray[np.bool_], noise: Floats) -> Columns:
    """ZTF's counts on 5×5 pixels of D, turned positive: nneg, nbad, sumrat and dsnrms, (n,) each.

    Parameters
    ----------
    data, usable : (n, w, w)
        As for `shapes`.
    noise : (n,)
        Standard deviation of a pixel of D.
    """
    middle = data.shape[-1] // 2
    core = (slice(None), slice(middle - 2, middle + 3), slice(middle - 2, middle + 3))
    pixels, there = data[core], usable[core]
    total = np.sum(np.abs(pixels), axis=(1, 2))
    sumrat = np.divide(np.sum(pixels, axis=(1, 2)), total, out=np.full(len(data), np.nan), where=total > 0)
    return {
        "nneg": np.sum((pixels < 0) & there, axis=(1, 2)).astype(np.int16),
        "nbad": np.sum(~there, axis=(1, 2)).astype(np.int16),
        "sumrat": sumrat,
        "dsnrms": data[:, middle, middle] / noise,
    }


def bad_distance(mask: NDArray[np.uint16], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Distance in pixels to the nearest pixel without usable signal, at most `REACH_PX`, (n,)."""
    offsets = np.arange(-REACH_PX, REACH_PX + 1)
    distance = np.hypot(offsets[:, None], offsets)
    bad = (windows(mask, rows, columns, REACH_PX, 0) & int(UNUSABLE)) != 0
    return np.asarray(np.where(bad, distance, REACH_PX).min(axis=(1, 2)))


def star_neighbours(y: Floats, x: Floats, flux: NDArray[np.floating], stars: Floats) -> Columns:
    """The nearest star of a list: star_distance in pixels, star_flux, star_ratio (over the own flux), (n,).

    Parameters
    ----------
    y, x, flux : (n,)
        Sources.
    stars : (3, m) float64
        Rows, columns and fluxes of stars, in the sources' units.
    """
    if not stars.shape[1]:
        return {name: np.full(len(y), np.nan) for name in ("star_distance", "star_flux", "star_ratio")}
    distance, nearest = cKDTree(stars[:2].T).query(np.column_stack([y, x]))
    found = stars[2, nearest]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"star_distance": distance, "star_flux": found, "star_ratio": found / np.abs(flux)}


def opposites(y: NDArray[np.float64], x: NDArray[np.float64], snr: NDArray[np.floating]) -> Columns:
    """Distance to the nearest peak of the other sign, and its strength over the own; NaN past `REACH_PX`."""
    distance, ratio = np.full((2, len(snr)), np.nan)
    for own in (snr > 0, snr < 0):
        if own.any() and not own.all():
            other = np.column_stack([y, x])[~own]
            gap, nearest = cKDTree(other).query(np.column_stack([y, x])[own], distance_upper_bound=REACH_PX)
            near = np.isfinite(gap)
            strength = np.abs(snr[~own][nearest[near]] / snr[own][near])
            distance[np.flatnonzero(own)[near]], ratio[np.flatnonzero(own)[near]] = gap[near], strength
    return {"opposite_distance": distance, "opposite_ratio": ratio}
