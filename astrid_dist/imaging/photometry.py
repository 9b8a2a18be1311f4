"""PSF photometry: forced at given places, and fitted with the places of all stars of a frame together."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse import linalg as splinalg
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging import psf
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]

_BATCH, _RENDER_BATCH = 128, 512
_MIN_WEIGHT = 0.5
_CROWDED = 0.1  # of the frame within two FWHM of a star
_PSF_ERROR = 0.05  # of its value, which nothing is mistaken for a star for
_FIT_FWHM = 1.5  # radius within which stars are fitted: nearly all there is to know of them


def forced_flux(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    psf_stamp: NDArray[Any],
    x: ArrayLike,
    y: ArrayLike,
) -> tuple[Float64, Float64]:
    """Flux of point sources at given places by optimal PSF weighting (Naylor 1998, eq. 9-12).

    The weights take the variance averaged over 3x3 pixels: with a source's own counts in them, pixels that
    fluctuate upwards would weigh less and fluxes come out low. The error takes the variance as given.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`; UNUSABLE pixels and NaN are left out.
    psf_stamp : (v, u)
        Unit sum, centred on the middle pixel, odd sides.
    x, y : (n,) or scalar
        Pixels, anywhere; neighbours are not taken into account.

    Returns
    -------
    flux, error : (n,) float64
        Electrons; NaN where less than half of the PSF's light falls on usable pixels.
    """
    if psf_stamp.ndim != 2 or psf_stamp.shape[0] % 2 == 0 or psf_stamp.shape[1] % 2 == 0:
        raise InputError(f"PSF stamp is {psf_stamp.shape}: need two odd sides, so that it has a middle pixel")
    along_x = np.atleast_1d(np.asarray(x, dtype=np.float64))
    along_y = np.atleast_1d(np.asarray(y, dtype=np.float64))
    usable = np.isfinite(image_minus_background) & np.isfinite(variance) & (variance > 0)
    usable &= (mask & int(UNUSABLE)) == 0
    flux, error = np.full(len(along_x), np.nan), np.full(len(along_x), np.nan)
    stamp = _trim(psf_stamp)
    for start in range(0, len(along_x), _BATCH):
        part = slice(start, start + _BATCH)
        flux[part], error[part] = _fluxes(
            image_minus_background, variance, usable, stamp, along_x[part], along_y[part]
        )
    return flux, error


def fit_star_fluxes(
    image_minus_background: NDArray[Any],
    variance: NDArray[Any],
    mask: NDArray[Any],
    psf_terms: NDArray[Any],
    stars: StarList,
    *,
    order: int = 0,
    oversampling: int = 1,
    rounds: int = 3,
) -> StarList:
    """Star list with PSF fluxes and places instead of aperture fluxes and centroids, blends taken apart.

    All stars are fitted together (Stetson 1987, section III.D), each within 1.5 FWHM, so that neighbours
    neither pull a place nor add to a flux; what comes to light under them in a crowded field is fitted along
    with them, unlisted. Ratios of fluxes fitted with each epoch's own PSF are those that
    cancel a star in that epoch's subtraction, however its PSF's wings are normalised; use them for flux
    ratios, above all in crowded fields.

    Parameters
    ----------
    image_minus_background, variance : (y, x) float32
        Electrons and electrons squared.
    mask : (y, x) uint16
        Bits of `Flag`.
    psf_terms : (v, u) or (n_term, side, side)
        A stamp for the whole field, or `Psf.terms`, whose `order` and `oversampling` are then given too.
    stars : StarList
        From `stars.measure_stars`.
    rounds : int
        Of subtracting all stars and correcting each by what is left.

    Returns
    -------
    StarList
        Brightest first; a star less than half of whose light is on usable pixels stays as it was.
    """
    if len(stars) == 0:
        return stars
    terms = psf_terms if psf_terms.ndim == 3 else psf_terms[None]
    scene = Scene.of(image_minus_background, variance, mask)
    listed = Places(stars.x, stars.y, stars.flux)
    fit = fit_scene(scene, terms, order, oversampling, listed, 1)
    if rounds > 1:
        fit = fit.joined(companions(scene, terms, order, oversampling, fit))
        fit = fit_scene(scene, terms, order, oversampling, fit, rounds - 1, listed).first(len(stars))
    error = np.where(np.isfinite(fit.error), fit.error, stars.flux_err)
    ranks = np.argsort(-fit.flux, kind="stable")
    return replace(
        stars,
        x=fit.x[ranks],
        y=fit.y[ranks],
        flux=fit.flux[ranks].astype(np.float32),
        flux_err=error[ranks].astype(np.float32),
        flags=stars.flags[ranks],
    )


@dataclass(frozen=True)
class Scene:
    """A frame made ready for fits: `image` (0 where unusable), `variance`, `weight` (0 where unusable)."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, image: NDArray[Any], variance: NDArray[Any], mask: NDArray[Any]) -> "Scene":
        """From a background-subtracted frame; weights take the variance averaged over 3x3 pixels."""
        usable = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & ((mask & int(UNUSABLE)) == 0)
        noise = np.where(usable, variance, 0).astype(np.float32)
        share = ndimage.uniform_filter(usable.astype(np.float32), 3)
        smooth = ndimage.uniform_filter(noise, 3) / np.maximum(share, 0.1)
        weight = np.where(usable, 1 / np.maximum(smooth, 1e-30), 0).astype(np.float32)
        return cls(np.where(usable, image, 0).astype(np.float32), noise, weight)


@dataclass(frozen=True)
class Places:
    """Stars in a fit: `x`, `y` in pixels, `flux` and its `error` in electrons (NaN: could not be fitted)."""

    x: Float64
    y: Float64
    flux: NDArray[Any]
    error: Float64 = field(default_factory=lambda: np.zeros(0))

    def first(self, count: int) -> "Places":
        """The first so many."""
        return Places(self.x[:count], self.y[:count], self.flux[:count], self.error[:count])

    def joined(self, others: "Places") -> "Places":
        """These, then others, without errors."""
        return Places(
            *(np.concatenate([getattr(p, name) for p in (self, others)]) for name in ("x", "y", "flux"))
        )


def fit_scene(
    scene: Scene,
    terms: NDArray[Any],
    order: int,
    oversampling: int,
    stars: Places,
    rounds: int,
    origin: Places | None = None,
) -> Places:
    """Fluxes and places of all stars together; parameters as `fit_star_fluxes`.

    A star goes no further than half a FWHM from where it began, or from its place in `origin`, which holds
    the first of them.
    """
    terms = trimmed(terms, oversampling)
    fwhm_px = _width(terms[0]) / oversampling
    half = min(max(int(np.ceil(_FIT_FWHM * fwhm_px)), 1), terms.shape[1] // 2 // oversampling)
    disc = psf.radius_of(2 * half + 1) <= max(_FIT_FWHM * fwhm_px, 1.5)
    v, u = (offset - half for offset in np.nonzero(disc))
    shape = scene.image.shape
    x, y, flux = (np.array(p, dtype=np.float64) for p in (stars.x, stars.y, stars.flux))
    start_x, start_y = x.copy(), y.copy()
    if origin is not None:
        start_x[: len(origin.x)], start_y[: len(origin.y)] = origin.x, origin.y
    error = np.full(len(x), np.nan)
    for _ in range(rounds):
        left = scene.image - render(shape, terms, order, oversampling, Places(x, y, flux))
        model = psf.profiles(terms, order, oversampling, x, y, shape, half)[:, :, disc]
        rows, columns = np.rint(y).astype(int)[:, None] + v, np.rint(x).astype(int)[:, None] + u
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        flat = np.where(inside, rows * shape[1] + columns, 0)
        weight = np.where(inside, scene.weight.ravel()[flat], 0)
        share = (model[0] * (weight > 0)).sum(axis=1) / model[0].sum(axis=1)
        whole = share >= _MIN_WEIGHT
        weight = weight * whole[:, None]
        norm = (weight * model[0] ** 2).sum(axis=1, dtype=np.float64)
        noise = (weight**2 * model[0] ** 2 * scene.variance.ravel()[flat]).sum(axis=1, dtype=np.float64)
        error = np.where(whole, np.sqrt(noise) / np.where(whole, norm, 1), np.nan)
        moving = whole & (flux > 0)
        model[1:] *= np.where(moving, flux, 0).astype(np.float32)[:, None]
        step = _solve(left, weight, flat, model)
        limit = 0.3 * fwhm_px
        moved_x, moved_y = (p + np.clip(d, -limit, limit) for p, d in ((x, step[1]), (y, step[2])))
        strayed = np.hypot(moved_x - start_x, moved_y - start_y) > max(0.5 * fwhm_px, 1.0)
        x, y = np.where(strayed, start_x, moved_x), np.where(strayed, start_y, moved_y)
        flux = flux + step[0]
    return Places(x, y, flux, error)


def companions(scene: Scene, terms: NDArray[Any], order: int, oversampling: int, stars: Places) -> Places:
    """Stars that come to light near others once those are taken away; none where the field is not crowded.

    Peaks of 7 sigma of what is left, under a matched filter whose noise allows for an error of the PSF; at
    most two for each star, the strongest.
    """
    fwhm_px = _width(terms[0]) / oversampling
    nothing = Places(np.zeros(0), np.zeros(0), np.zeros(0))
    if len(stars.x) * (4 * fwhm_px) ** 2 < _CROWDED * scene.image.size:
        return nothing
    model = render(scene.image.shape, terms, order, oversampling, stars)
    sigma = fwhm_px / 2.3548
    weight = scene.weight / (1 + scene.weight * (_PSF_ERROR * model) ** 2)
    signal = ndimage.gaussian_filter(weight * (scene.image - model), sigma)
    power = ndimage.gaussian_filter(weight, sigma / np.sqrt(2)) / (4 * np.pi * sigma**2)
    snr = signal / np.sqrt(np.maximum(power, 1e-30))
    peak = (snr > 7) & (snr == ndimage.maximum_filter(snr, 2 * max(int(0.5 * fwhm_px), 1) + 1)) & (weight > 0)
    rows, columns = np.nonzero(peak)
    if len(rows) == 0:
        return nothing
    known = cKDTree(np.column_stack([stars.x, stars.y]))
    distance, _ = known.query(np.column_stack([columns, rows]))
    near = (distance > 0.4 * fwhm_px) & (distance < 4 * fwhm_px)
    rows, columns = rows[near], columns[near]
    strongest = np.argsort(-snr[rows, columns], kind="stable")[: 2 * len(stars.x)]
    rows, columns = rows[strongest], columns[strongest]
    return Places(
        columns.astype(float), rows.astype(float), (signal / np.maximum(power, 1e-30))[rows, columns]
    )


def _solve(
    left: NDArray[np.float32], weight: NDArray[Any], flat: NDArray[np.intp], model: NDArray[np.float32]
) -> Float64:
    """(3, n) corrections of flux, x and y by which stars together explain what is left, least squares.

    `weight`, `flat` (n, pixel) and `model` (3, n, pixel) are the pixels of each star; stars share pixels.
    """
    root = np.sqrt(weight)
    columns = model * root
    scale = np.sqrt((columns.astype(np.float64) ** 2).sum(axis=2))
    scale = np.where(scale > 0, scale, 1)
    used = np.zeros(left.size, dtype=bool)
    used[flat] = True
    touched = np.flatnonzero(used)
    numbers = np.zeros(left.size, dtype=np.int32)
    numbers[touched] = np.arange(len(touched), dtype=np.int32)
    rows = numbers[flat]
    count, size = columns.shape[1], columns.shape[2]
    ends = np.arange(0, 3 * count * size + 1, size, dtype=np.int32)
    matrix = sparse.csc_array(
        ((columns / scale[:, :, None]).ravel(), np.tile(rows.ravel(), 3), ends),
        shape=(len(touched), 3 * count),
    )
    shared = np.zeros(len(touched), dtype=np.float32)
    shared[rows.ravel()] = root.ravel()
    wanted = left.ravel()[touched] * shared
    found = splinalg.lsqr(matrix, wanted, damp=1e-2, atol=1e-3, btol=1e-3, iter_lim=20)
    return np.asarray(found[0].reshape(3, count) / scale)


def render(
    shape: tuple[int, ...], terms: NDArray[Any], order: int, oversampling: int, stars: Places
) -> NDArray[np.float32]:
    """Image of the stars alone; those whose middle is off the frame are left out."""
    half = terms.shape[1] // 2 // oversampling
    side = 2 * half + 1
    canvas = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half), dtype=np.float32)
    column, row = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    on_frame = np.flatnonzero((row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]))
    for start in range(0, len(on_frame), _RENDER_BATCH):
        part = on_frame[start : start + _RENDER_BATCH]
        made = psf.profiles(terms, order, oversampling, stars.x[part], stars.y[part], shape)[0]
        made *= np.asarray(stars.flux, np.float32)[part, None, None]
        for i, profile in zip(part.tolist(), made, strict=True):
            # The canvas begins half a stamp before the frame.
            canvas[row[i] : row[i] + side, column[i] : column[i] + side] += profile
    return canvas[half : half + shape[0], half : half + shape[1]]


def _width(stamp: NDArray[Any]) -> float:
    """FWHM in samples; where no profile fits, of a disc as large as what is above half the peak."""
    width = psf.fwhm_of(stamp)
    return width if np.isfinite(width) else 2 * float(np.sqrt((stamp > 0.5 * stamp.max()).sum() / np.pi))


def trimmed(terms: NDArray[Any], oversampling: int) -> NDArray[Any]:
    """Terms (n_term, side, side) without the border that is zero all round (beyond the taper)."""
    side = terms.shape[1]
    _, v, u = np.nonzero(terms)
    reach = int(max(np.abs(v - side // 2).max(initial=0), np.abs(u - side // 2).max(initial=0)))
    reach = min(-(-reach // oversampling) * oversampling, side // 2)
    part = slice(side // 2 - reach, side // 2 + reach + 1)
    return terms[:, part, part]


def _trim(stamp: NDArray[Any]) -> NDArray[Any]:
    """The stamp without its outermost rows and columns that are zero all round (beyond the taper)."""
    v, u = np.nonzero(stamp)
    if len(v) == 0:
        return stamp
    middle = stamp.shape[0] // 2, stamp.shape[1] // 2
    reach_v, reach_u = int(np.abs(v - middle[0]).max()), int(np.abs(u - middle[1]).max())
    return stamp[middle[0] - reach_v : middle[0] + reach_v + 1, middle[1] - reach_u : middle[1] + reach_u + 1]


def _fluxes(
    image: NDArray[Any],
    variance: NDArray[Any],
    usable: NDArray[np.bool_],
    stamp: NDArray[Any],
    x: Float64,
    y: Float64,
) -> tuple[Float64, Float64]:
    height, width = image.shape
    real = np.isfinite(x) & np.isfinite(y)
    near = real & (np.abs(np.where(real, x, 0) - width / 2) < width + stamp.shape[1])
    near &= np.abs(np.where(real, y, 0) - height / 2) < height + stamp.shape[0]
    x, y = np.where(near, x, -1e6), np.where(near, y, -1e6)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    half_v, half_u = stamp.shape[0] // 2, stamp.shape[1] // 2
    rows = row[:, None, None] + np.arange(-half_v, half_v + 1)[None, :, None]
    columns = column[:, None, None] + np.arange(-half_u, half_u + 1)[None, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    good = inside & usable[rows, columns]

    profile = psf.shift(stamp, x - column, y - row)
    data = np.where(good, image[rows, columns], 0.0)
    noise = np.where(good, variance[rows, columns], 0.0).astype(np.float64)
    counted = ndimage.uniform_filter(good.astype(np.float64), size=(0, 3, 3))
    smooth = ndimage.uniform_filter(noise, size=(0, 3, 3)) / np.maximum(counted, 1e-9)
    weight = np.where(good, profile / np.where(good, np.maximum(smooth, 1e-30), 1.0), 0.0)
    norm = (weight * profile).sum(axis=(1, 2))
    share = (profile * good).sum(axis=(1, 2)) / profile.sum(axis=(1, 2))
    enough = (share >= _MIN_WEIGHT) & (norm > 0)
    norm = np.where(enough, norm, 1.0)
    flux = (weight * data).sum(axis=(1, 2)) / norm
    error = np.sqrt((weight**2 * noise).sum(axis=(1, 2))) / norm
    return np.where(enough, flux, np.nan), np.where(enough, error, np.nan)
