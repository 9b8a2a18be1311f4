"""How well positions and masks are told."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]

#: Median distance from the middle of a round Gaussian with a sigma of 1 along each axis.
_RAYLEIGH_MEDIAN = np.sqrt(2 * np.log(2))
#: Least pull that white noise allows a Gaussian PSF.
PULL_LIMIT = float(np.sqrt(2))


@dataclass(frozen=True)
class Localisation:
    """Distances of told from true positions, pixels; NaN without any."""

    number: int
    median_px: float
    p95_px: float
    #: Share within one pixel.
    within_1px: float
    #: Medians of told minus true.
    offset_px: tuple[float, float]
    #: Error along an axis over FWHM / (2.355 SNR), see `localisation`; NaN where no SNR is given.
    pull: float


def localisation(
    dx: ArrayLike, dy: ArrayLike, snr: ArrayLike | None = None, fwhm_px: ArrayLike | None = None
) -> Localisation:
    """Statistics of the errors of positions.

    The pull compares with sigma_psf / SNR, what photons of the source alone allow along an axis (King 1983).
    In noise of the sky, which is white, the Cramér-Rao bound of a Gaussian PSF is sqrt(2) times that
    (`PULL_LIMIT`), so that 1.41 is perfect for faint sources and 1 is not within reach. It is made from the
    median and forgives a few outliers.

    Parameters
    ----------
    dx, dy : (n,) array_like
        Told minus true, pixels, of matched objects; a wide enough match radius, or errors look smaller.
    snr : (n,) array_like, optional
        True SNR; its sign does not matter.
    fwhm_px : float or (n,) array_like, optional
        Of the PSF, pixels.

    Raises
    ------
    InputError
        Arrays that do not fit, errors that are NaN, or an SNR without a FWHM.
    """
    x, y = np.asarray(dx, np.float64), np.asarray(dy, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"dx {x.shape}, dy {y.shape}: both must be (n,)")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("errors of positions are NaN: leave out objects that were not found")
    if (snr is None) != (fwhm_px is None):
        raise InputError("a pull needs both SNR and FWHM")
    nan = float("nan")
    if not len(x):
        return Localisation(0, nan, nan, nan, (nan, nan), nan)
    r, pull = np.hypot(x, y), nan
    if snr is not None and fwhm_px is not None:
        unit = position_unit(snr, fwhm_px)
        if unit.shape not in ((), x.shape):
            raise InputError(f"dx {x.shape}, SNR and FWHM {unit.shape}: all must be (n,)")
        pull = float(np.median(r / unit) / _RAYLEIGH_MEDIAN)
    return Localisation(
        len(x),
        float(np.median(r)),
        float(np.quantile(r, 0.95)),
        float(np.mean(r <= 1)),
        (float(np.median(x)), float(np.median(y))),
        pull,
    )


def position_unit(snr: ArrayLike, fwhm_px: ArrayLike) -> Floats:
    """FWHM / (2.355 SNR), pixels along an axis; `PULL_LIMIT` times it is the bound in white noise."""
    return np.asarray(np.asarray(fwhm_px, np.float64) / (2.3548 * np.abs(np.asarray(snr, np.float64))))


def mask_iou(told: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> Floats:
    """Intersection over union of the masks of each object, in stamps.

    Parameters
    ----------
    told, truth : (n, y, x) array_like of bool
    valid : (n, y, x) array_like of bool, optional
        Pixels that count.

    Returns
    -------
    (n,) float64
        NaN where both masks are empty: leave those out of means.

    Raises
    ------
    InputError
        Masks of other shapes.
    """
    a, b = np.asarray(told, bool), np.asarray(truth, bool)
    v = np.ones(a.shape, bool) if valid is None else np.asarray(valid, bool)
    if a.ndim != 3 or a.shape != b.shape or a.shape != v.shape:
        raise InputError(f"masks {a.shape}, {b.shape}, valid {v.shape}: all must be (n, y, x)")
    both, either = (a & b & v).sum(axis=(1, 2)), ((a | b) & v).sum(axis=(1, 2))
    return _ratio(both, either)


def object_iou(told: ArrayLike, truth: ArrayLike, objects: int) -> Floats:
    """IoU of each true object of an image with the told one that covers most of it.

    Parameters
    ----------
    told, truth : (y, x) array_like of int
        Labels of connected pixels, 0 for none, as `scipy.ndimage.label` gives them; true ones are 1 to
        `objects`.
    objects : int

    Returns
    -------
    (objects,) float64
        0 for an object that no told pixel touches, NaN for one without pixels.

    Raises
    ------
    InputError
        Images of other shapes, or labels outside the range.
    """
    a, b = np.asarray(told, np.int64), np.asarray(truth, np.int64)
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"labels {a.shape} and {b.shape}: both must be (y, x)")
    if a.size and (min(a.min(), b.min()) < 0 or b.max() > objects):
        raise InputError(
            f"labels from {min(a.min(), b.min())}, true ones up to {b.max()}: 0 to {objects} are known"
        )
    told_size, true_size = np.bincount(a.ravel()), np.bincount(b.ravel(), minlength=objects + 1)
    touching = (a > 0) & (b > 0)
    pairs, shared = np.unique(np.stack([b[touching], a[touching]]), axis=1, return_counts=True)
    # the last of equal keys stays: the largest overlap of each true object
    order = np.argsort(shared, kind="stable")
    best, overlap = np.zeros(objects + 1, np.int64), np.zeros(objects + 1, np.int64)
    best[pairs[0, order]], overlap[pairs[0, order]] = pairs[1, order], shared[order]
    union = true_size + np.where(best > 0, told_size[best], 0) - overlap
    return _ratio(overlap[1:], union[1:])


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
