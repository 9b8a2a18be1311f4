"""Stars of a frame: places, total fluxes and what is wrong with each."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE, Flag, StarFlag
from astrid_dist.imaging.psf import fit_moffat_width, moffat

Float64 = NDArray[np.float64]

APERTURE_FWHM = 1.0  # radius of the aperture that is measured
TOTAL_FWHM = 3.0  # radius of the aperture that fluxes are corrected to
_SHAPE_FWHM = 0.5  # radius of the inner aperture of the concentration
_MAX_SHAPE_STARS = 60
_MIN_LOCUS_STARS = 30


@dataclass(frozen=True)
class StarList:
    """Stars of one frame, brightest first.

    `x`, `y` (n,) f8 pixels; `flux`, `flux_err` (n,) f4 electrons within 3 FWHM; `flags` (n,) u2 bits of
    `StarFlag`; `fwhm_px` of the frame, from which the noise of the places follows (NaN: unknown).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float32]
    flux_err: NDArray[np.float32]
    flags: NDArray[np.uint16]
    fwhm_px: float = float("nan")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def position_err(self) -> Float64:
        """Noise of each place per axis in pixels, from FWHM and SNR; NaN where the FWHM is unknown."""
        snr = self.flux.astype(np.float64) / self.flux_err
        # 1.35 is measured on painted stars, sky-limited and bright: between the sqrt(2) of a fit in sky noise
        # and the 1 of a fit in the source's own; 0.004 px is what the pixels themselves do to a centroid.
        noise: Float64 = 1.35 * self.fwhm_px / 2.3548 / np.maximum(snr, 1e-3)
        return np.hypot(noise, 0.004)


def measure_stars(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    fwhm_px: float,
    *,
    limit: int = 2000,
    threshold: float = 10.0,
    saturation: float | None = None,
) -> StarList:
    """Detect and measure the stars of a frame.

    Places are Gaussian-windowed centroids (SExtractor's XWIN). Fluxes are those of an aperture of one FWHM
    radius, brought to three FWHM by the growth curve of the frame's own bright, isolated stars (of a Moffat
    below five such). Both radii follow the seeing, so whatever light is lost outside is the same part of it
    in every epoch with the same wings, and flux ratios of epochs of different seeing are unbiased.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared; NaN marks no data.
    mask : (y, x) uint16
        Bits of `Flag`.
    fwhm_px : float
        Of the frame, from `estimate_fwhm` or its header.
    limit : int
        Longest list; the brightest are kept.
    threshold : float
        Lowest SNR of an aperture flux.
    saturation : float, optional
        Electrons above the background; stars that reach 95 % of it are flagged SATURATED.

    Returns
    -------
    StarList
        Galaxies are flagged EXTENDED, cosmic rays and hot pixels SHARP, by concentration against the locus
        of the frame's stars.

    Raises
    ------
    InputError
        `fwhm_px` is not a positive number.
    """
    if not (np.isfinite(fwhm_px) and fwhm_px > 0):
        raise InputError(f"stars of a frame with FWHM {fwhm_px} px: measure it with estimate_fwhm first")
    data, noise, bad = _prepare(image_minus_background, variance, mask)
    objects = _extract(data, noise, bad, max(0.5 * threshold, 3.0), fwhm_px)
    if len(objects) == 0:
        return _list([], [], [], [], [], fwhm_px)
    x, y, moved = _centroids(data, bad, objects, fwhm_px)
    keep = _one_each(x, y, objects["flux"], 0.5 * fwhm_px)
    x, y, moved, objects = x[keep], y[keep], moved[keep], objects[keep]

    (inner, inner_err, _), (core, core_err, core_flag) = (
        sep.sum_circle(data, x, y, radius * fwhm_px, var=noise, mask=bad, subpix=0)
        for radius in (_SHAPE_FWHM, APERTURE_FWHM)
    )
    measured = np.isfinite(core) & (core_err > 0) & (core >= threshold * core_err)
    x, y, moved, objects = x[measured], y[measured], moved[measured], objects[measured]
    inner, inner_err, core, core_err, core_flag = (
        a[measured] for a in (inner, inner_err, core, core_err, core_flag)
    )
    if len(x) == 0:
        return _list([], [], [], [], [], fwhm_px)

    flags = np.zeros(len(x), dtype=np.uint16)
    flags[~moved] |= StarFlag.CENTROID.value
    flags[(core_flag & sep.APER_TRUNC) != 0] |= StarFlag.EDGE.value
    flags[(core_flag & sep.APER_HASMASKED) != 0] |= StarFlag.MASKED.value
    flags[_saturated(image_minus_background, mask, x, y, fwhm_px, saturation)] |= StarFlag.SATURATED.value
    flags[_blended(x, y, core, fwhm_px)] |= StarFlag.BLENDED.value
    shape_err = np.hypot(inner_err / core, inner * core_err / core**2)
    _flag_shapes(flags, x, y, inner / core, shape_err, core / core_err)
    _flag_elongated(flags, objects, core / core_err)
    correction = _growth(data, bad, x, y, core, core / core_err, flags == 0, fwhm_px)
    return _list(x, y, core * correction, core_err * correction, flags, fwhm_px, limit)


def estimate_fwhm(
    image_minus_background: NDArray[Any], variance: ArrayLike, mask: NDArray[Any], guess_px: float = 3.5
) -> float:
    """FWHM of a frame's stars, from the radial profile of its brightest compact ones together.

    The compact objects are those at the stellar locus of half-light radii. Their profiles, about windowed
    centroids and normalised by flux, sample the PSF finer than a pixel: a Moffat fit to all of them
    holds from 2 to 9 px.

    Parameters
    ----------
    image_minus_background : (y, x) float32
        Electrons; NaN marks no data.
    variance : float or (y, x) float32
        Electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`.
    guess_px : float
        Where to start, the header's if there is one; also the answer below three stars.

    Returns
    -------
    float
        Pixels, as the pixels see it.
    """
    full = np.broadcast_to(np.asarray(variance, dtype=np.float32), image_minus_background.shape)
    data, noise, bad = _prepare(image_minus_background, full, mask)
    start = float(guess_px) if np.isfinite(guess_px) and guess_px > 0 else 3.5
    saturated = (mask & int(Flag.SATURATED)) != 0
    # What is found depends on the filter: one far narrower than the stars breaks them up, so the answer
    # has to agree with the filter that led to it.
    filters = [min(max(start, 2.0), 9.0), 3.0, 5.5, 9.0]
    for filter_px in filters:
        objects = _extract(data, noise, bad, 15.0, filter_px)
        if len(objects):
            column = np.clip(np.rint(objects["xpeak"]).astype(int), 0, data.shape[1] - 1)
            row = np.clip(np.rint(objects["ypeak"]).astype(int), 0, data.shape[0] - 1)
            objects = objects[~saturated[row, column] & ((objects["flag"] & sep.OBJ_TRUNC) == 0)]
        objects = objects[np.argsort(-objects["flux"], kind="stable")[:300]]
        width = _converged_width(data, bad | saturated, objects, filter_px)
        if 0.6 * filter_px < width < 1.6 * filter_px:
            return width
    return float(guess_px)


def _converged_width(
    data: NDArray[np.float32], bad: NDArray[np.bool_], objects: NDArray[Any], width: float
) -> float:
    """FWHM at which choosing stars and fitting them agree; NaN without stars."""
    for _ in range(4):
        before = width
        width = _profile_width(data, bad, objects, width)
        if not np.isfinite(width) or abs(width - before) < 0.005 * width:
            break
    return width


def _profile_width(
    data: NDArray[np.float32], bad: NDArray[np.bool_], objects: NDArray[Any], width: float
) -> float:
    """One round: recentre, choose the compact, fit their common profile."""
    if len(objects) < 3:
        return float("nan")
    x, y, moved = _centroids(data, bad, objects, width)
    r50, flag = sep.flux_radius(data, x, y, np.full(len(x), 3.0 * width), 0.5, mask=bad, subpix=5)
    share_near = _neighbour_share(x, y, objects["flux"].astype(float), 2.5 * width)
    good = moved & (flag == 0) & np.isfinite(r50) & (r50 > 0.4)
    if (good & (share_near < 0.1)).sum() >= 5:
        good &= share_near < 0.1
    if good.sum() < 3:
        return float("nan")
    sizes = r50[good]
    locus = _densest(sizes)
    compact = np.flatnonzero(good)[np.abs(sizes - locus) < 0.15 * locus][:_MAX_SHAPE_STARS]
    if len(compact) < 3:
        return float("nan")
    width_from_size = 1.75 * locus
    reach = int(np.ceil(1.6 * width_from_size))
    radius, value = _pixels_around(data, bad, x[compact], y[compact], reach)
    aperture, _, _ = sep.sum_circle(data, x[compact], y[compact], width_from_size, mask=bad, subpix=0)
    use = np.isfinite(value) & (radius < 1.5 * width_from_size) & (aperture[:, None] > 0)
    value = value / np.maximum(aperture, 1e-12)[:, None]
    return fit_moffat_width(radius[use], value[use], width_from_size)


def _prepare(
    image: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Native, contiguous arrays for sep. Saturated pixels stay: a star with a hole in it looks like many."""
    unusable = int(UNUSABLE) & ~int(Flag.SATURATED)
    bad = ~np.isfinite(image) | ~np.isfinite(variance) | ~(variance > 0) | ((mask & unusable) != 0)
    data = np.ascontiguousarray(np.where(bad, 0, image), dtype=np.float32)
    noise = np.ascontiguousarray(np.where(bad, 1, variance), dtype=np.float32)
    return data, noise, bad


def _extract(
    data: NDArray[np.float32],
    noise: NDArray[np.float32],
    bad: NDArray[np.bool_],
    threshold: float,
    fwhm_px: float,
) -> NDArray[Any]:
    """sep's objects; its buffers, which overflow in crowded fields, grow until they hold."""
    # Narrow keeps close pairs apart; lowered to zero sum (Stetson 1987, section II), a crowded field does not
    # become one connected source that deblending gives up on.
    narrow = max(0.6 * fwhm_px, 1.2)
    kernel = moffat(narrow, 2 * int(np.ceil(1.2 * fwhm_px)) + 1)
    kernel = kernel - kernel.mean()
    area = int(np.clip(0.5 * fwhm_px**2, 3, 12))
    for _ in range(8):
        try:
            return sep.extract(  # type: ignore[no-any-return]
                data,
                threshold,
                var=noise,
                mask=bad,
                minarea=area,
                filter_kernel=kernel,
                filter_type="matched",
                deblend_cont=0.005,
                clean=False,  # cleaning removes isolated stars too (sep 1.4.1)
            )
        except Exception as error:  # sep raises bare Exception
            if "pixel buffer" in str(error):
                sep.set_extract_pixstack(4 * sep.get_extract_pixstack())
            elif "deblending overflow" in str(error):
                sep.set_sub_object_limit(4 * sep.get_sub_object_limit())
            else:
                raise
    raise InputError(f"too many overlapping sources in a frame of {data.shape} for sep; raise the threshold")


def _centroids(
    data: NDArray[np.float32], bad: NDArray[np.bool_], objects: NDArray[Any], fwhm_px: float
) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """Windowed centroids, or the barycentre where the window walked off; and whether they hold."""
    sigma = np.full(len(objects), fwhm_px / 2.3548)
    x, y, flag = sep.winpos(data, objects["x"], objects["y"], sigma, mask=bad, minsig=0.3)
    hold = np.isfinite(x) & np.isfinite(y) & ((flag & sep.APER_ALLMASKED) == 0)
    hold &= np.hypot(x - objects["x"], y - objects["y"]) < max(0.5 * fwhm_px, 1.0)
    hold &= (x >= -0.5) & (x < data.shape[1] - 0.5) & (y >= -0.5) & (y < data.shape[0] - 0.5)
    return np.where(hold, x, objects["x"]), np.where(hold, y, objects["y"]), hold


def _one_each(x: Float64, y: Float64, flux: NDArray[Any], radius_px: float) -> NDArray[np.bool_]:
    """False for the fainter of two detections that ended at one place."""
    keep = np.ones(len(x), dtype=bool)
    for i, j in sorted(cKDTree(np.column_stack([x, y])).query_pairs(radius_px)):
        if keep[i] and keep[j]:
            keep[j if flux[i] >= flux[j] else i] = False
    return keep


def _saturated(
    image: NDArray[Any], mask: NDArray[Any], x: Float64, y: Float64, fwhm_px: float, level: float | None
) -> NDArray[np.bool_]:
    """Whether a saturated pixel, or one near the level, lies within one FWHM."""
    hot = (mask & int(Flag.SATURATED | Flag.BLEED)) != 0
    if level is not None and np.isfinite(level):
        hot = hot | (np.nan_to_num(image, nan=-np.inf) >= 0.95 * level)
    rows, columns = np.nonzero(hot)
    if len(rows) == 0:
        return np.zeros(len(x), dtype=bool)
    distance, _ = cKDTree(np.column_stack([columns, rows])).query(np.column_stack([x, y]))
    near: NDArray[np.bool_] = distance <= max(fwhm_px, 1.5)
    return near


def _neighbour_share(x: Float64, y: Float64, flux: Float64, radius_px: float) -> Float64:
    """Flux of the brightest other source within a radius, in parts of the own one."""
    share = np.zeros(len(x))
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(radius_px, output_type="ndarray")
    if len(pairs):
        i, j = pairs.T
        np.maximum.at(share, i, flux[j] / np.maximum(flux[i], 1e-12))
        np.maximum.at(share, j, flux[i] / np.maximum(flux[j], 1e-12))
    return share


def _blended(x: Float64, y: Float64, flux: Float64, fwhm_px: float) -> NDArray[np.bool_]:
    """A neighbour of 2 % within 2 FWHM puts light into the aperture; a far brighter one from further."""
    close = _neighbour_share(x, y, flux, 2.0 * fwhm_px) > 0.02
    far = _neighbour_share(x, y, flux, 3.5 * fwhm_px) > 2.0
    return close | far


def _flag_shapes(
    flags: NDArray[np.uint16],
    x: Float64,
    y: Float64,
    concentration: Float64,
    error: Float64,
    core_snr: Float64,
) -> None:
    """EXTENDED below, SHARP above the stellar locus of concentration, which may vary over the field."""
    expected = _moffat_fraction(_SHAPE_FWHM) / _moffat_fraction(APERTURE_FWHM)
    near = (flags == 0) & (core_snr > 30) & (np.abs(concentration / expected - 1) < 0.25)
    locus = np.full(len(x), expected)
    if near.sum() >= 5:
        brightest = np.flatnonzero(near)[np.argsort(-core_snr[near], kind="stable")[:300]]
        locus[:] = _densest(concentration[brightest])
        if len(brightest) >= _MIN_LOCUS_STARS:
            locus = _locus(x, y, concentration, brightest, float(locus[0]))
    tolerance = np.hypot(0.08 * locus, 3 * error)
    flags[concentration < locus - tolerance] |= StarFlag.EXTENDED.value
    flags[concentration > locus + tolerance] |= StarFlag.SHARP.value


def _locus(x: Float64, y: Float64, values: Float64, use: NDArray[np.intp], start: float) -> Float64:
    """Quadratic in x, y through the bulk of the values, clipped; the start where the bulk is lost."""
    u, v = ((p - p[use].mean()) / max(float(np.ptp(p[use])), 1.0) for p in (x, y))
    terms = np.column_stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    model = np.full(len(x), start)
    keep = use
    for _ in range(5):
        left = values[use] - model[use]
        spread = max(1.4826 * float(np.median(np.abs(values[keep] - model[keep]))), 0.01 * start)
        keep = use[np.abs(left) < 3 * spread]
        if len(keep) < _MIN_LOCUS_STARS // 2:
            return np.full(len(x), start)
        fit, *_ = np.linalg.lstsq(terms[keep], values[keep], rcond=None)
        model = terms @ fit
    return np.asarray(np.clip(model, 0.8 * start, 1.25 * start))


def _flag_elongated(flags: NDArray[np.uint16], objects: NDArray[Any], core_snr: Float64) -> None:
    """EXTENDED where far longer than the frame's stars (a trail), BLENDED where bright and longer."""
    ratio = np.asarray(objects["a"] / np.maximum(objects["b"], 1e-3), dtype=float)
    clean = flags == 0
    usual = float(np.median(ratio[clean])) if clean.sum() >= 5 else 1.0
    flags[ratio > 1.8 * usual] |= StarFlag.EXTENDED.value
    flags[(ratio > 1.3 * usual) & (core_snr > 50)] |= StarFlag.BLENDED.value


def _densest(values: NDArray[Any]) -> float:
    """Half-sample mode: where the values are densest (Bickel & Fruehwirth 2006)."""
    ordered = np.sort(np.asarray(values, dtype=float))
    while len(ordered) > 4:
        n = (len(ordered) + 1) // 2
        i = int(np.argmin(ordered[n - 1 :] - ordered[: len(ordered) - n + 1]))
        ordered = ordered[i : i + n]
    return float(np.median(ordered))


def _growth(
    data: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: Float64,
    y: Float64,
    core: Float64,
    snr: Float64,
    clean: NDArray[np.bool_],
    fwhm_px: float,
) -> float:
    """Total over core flux: medians over bright stars, ring by ring, above the median around each star.

    The medians leave out most light of neighbours too faint to be in the list.
    """
    share = _neighbour_share(x, y, core, (TOTAL_FWHM + 1) * fwhm_px)
    use = np.flatnonzero(clean & (snr > 50) & (share < 0.02))
    if len(use) < 5:
        return _moffat_fraction(TOTAL_FWHM) / _moffat_fraction(APERTURE_FWHM)
    use = use[np.argsort(-snr[use], kind="stable")[:100]]
    reach = int(np.ceil((TOTAL_FWHM + 1) * fwhm_px))
    radius, value = _pixels_around(data, bad, x[use], y[use], reach)
    around = (radius > TOTAL_FWHM * fwhm_px) & np.isfinite(value)
    floors = np.array([np.median(v[a]) if a.sum() > 20 else 0.0 for v, a in zip(value, around, strict=True)])
    edges = np.linspace(APERTURE_FWHM, TOTAL_FWHM, 9) * fwhm_px
    growth = 1 - float(np.median(np.pi * edges[0] ** 2 * floors / core[use]))
    for inner, outer in pairwise(edges):
        light, _, _ = sep.sum_circann(data, x[use], y[use], inner, outer, mask=bad, subpix=0)
        growth += float(np.median((light - floors * np.pi * (outer**2 - inner**2)) / core[use]))
    return growth


def _pixels_around(
    data: NDArray[np.float32], bad: NDArray[np.bool_], x: Float64, y: Float64, reach: int
) -> tuple[Float64, Float64]:
    """Distance and value (NaN where unusable) of the pixels in a box around each place, (n, pixels)."""
    v, u = (o.ravel() for o in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    rows, columns = np.rint(y).astype(int)[:, None] + v, np.rint(x).astype(int)[:, None] + u
    inside = (rows >= 0) & (rows < data.shape[0]) & (columns >= 0) & (columns < data.shape[1])
    rows, columns = np.clip(rows, 0, data.shape[0] - 1), np.clip(columns, 0, data.shape[1] - 1)
    radius = np.hypot(rows - y[:, None], columns - x[:, None])
    return radius, np.where(inside & ~bad[rows, columns], data[rows, columns], np.nan).astype(np.float64)


def _moffat_fraction(radius_fwhm: float, beta: float = 3.5) -> float:
    """Part of a Moffat's light within a radius in units of its FWHM."""
    core = 1 / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return float(1 - (1 + (radius_fwhm / core) ** 2) ** (1 - beta))


def _list(
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    error: ArrayLike,
    flags: ArrayLike,
    fwhm_px: float,
    limit: int | None = None,
) -> StarList:
    """Sorted, brightest first, cut to the limit."""
    fluxes = np.asarray(flux, dtype=np.float32)
    order = np.argsort(-fluxes, kind="stable")[:limit]
    return StarList(
        np.asarray(x, dtype=np.float64)[order],
        np.asarray(y, dtype=np.float64)[order],
        fluxes[order],
        np.asarray(error, dtype=np.float32)[order],
        np.asarray(flags, dtype=np.uint16)[order],
        float(fwhm_px),
    )
