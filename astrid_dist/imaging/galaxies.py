"""Galaxies of a template: where extended light lies, and how it is spread."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.psf import moffat

Float64 = NDArray[np.float64]

#: Moffat profile (beta 3.5) in FWHM: half-light radius, core; light within 0.5 over that within 1 FWHM.
_STAR_R50, _MOFFAT_CORE, _BETA = 0.6035, 1.0677, 3.5
_CONCENTRATION = 0.493
#: Galaxies are at least this much less concentrated than stars, beyond three errors.
_TOLERANCE = 0.06
#: A disc's half-light radius and the PSF's add with this power: measured on exponential discs.
_R50_POWER = 1.6
#: Half of a galaxy's light lies within this many standard deviations of it; more is a star's wings or sky.
_WIDEST = 2.5
_FEWEST_STARS = 5
_STAR_SNR = 30.0
#: Within a star's visible wings an object is a piece of it, unless it has more than this share of its flux.
_PIECE = 0.3


@dataclass(frozen=True)
class Galaxies:
    """Galaxies of one image, brightest first; (n,) float64 each, pixels and electrons.

    Sizes are those before the PSF widened them.
    """

    x: Float64
    y: Float64
    flux: Float64
    """Within 2.5 Kron radii (Kron 1980)."""
    a: Float64
    """Standard deviation of the light along the major axis."""
    b: Float64
    theta: Float64
    """Of the major axis, radians from +x towards +y."""
    r50: Float64
    """Radius of the circle with half of the flux."""

    def __len__(self) -> int:
        return len(self.x)


def find_galaxies(
    image: NDArray[np.float32],
    sigma: float | NDArray[np.float32],
    mask: NDArray[np.uint16],
    fwhm_px: float,
    stars_xy: ArrayLike | None = None,
    threshold: float = 10.0,
) -> Galaxies:
    """Objects that are less concentrated than the stars of the same image.

    Concentration is the light within 0.5 FWHM over that within 1 FWHM: neighbours hardly touch it.

    Parameters
    ----------
    image : (y, x) float32
        Sky-subtracted electrons; NaN no data.
    sigma : float or (y, x) float32
        Noise of the sky, electrons.
    mask : (y, x) uint16
        Bits of `Flag`; objects on UNUSABLE pixels are left out.
    fwhm_px : float
        Of the PSF.
    stars_xy : (n, 2) array_like, optional
        Columns and rows of known stars: never taken for galaxies, and what galaxies are compared with.
    threshold : float
        Lowest signal to noise ratio within 1 FWHM.

    Raises
    ------
    InputError
        `fwhm_px` or `sigma` is not positive.
    """
    if not (fwhm_px > 0 and np.all(np.asarray(sigma) > 0)):
        raise InputError(f"galaxies need a PSF and noise: FWHM {fwhm_px} px and sigma must be positive")
    bad = ~np.isfinite(image) | ((mask & int(UNUSABLE)) != 0)
    data = np.ascontiguousarray(np.where(bad, 0, image), np.float32)
    noise = np.array(np.broadcast_to(np.asarray(sigma, np.float32), data.shape))
    # narrower than the PSF, it keeps pairs of stars apart that would look like galaxies
    kernel = moffat(max(0.5 * fwhm_px, 1.2), 2 * int(np.ceil(1.2 * fwhm_px)) + 1)
    found, owner = _extract(data, noise, bad, kernel)
    x, y = found["x"], found["y"]
    circles = (sep.sum_circle(data, x, y, r * fwhm_px, err=noise, mask=bad, subpix=0) for r in (0.5, 1.0))
    (inner, inner_err, _), (core, core_err, flag) = circles
    clean = (core > threshold * core_err) & ((flag & (sep.APER_TRUNC | sep.APER_HASMASKED)) == 0)
    concentration = inner / np.maximum(core, core_err)
    known = _near(x, y, stars_xy, 0.5 * fwhm_px)
    likely = known if stars_xy is not None else np.abs(concentration / _CONCENTRATION - 1) < 0.1
    shapes = clean & likely & (core > _STAR_SNR * core_err)
    locus = np.median(concentration[shapes]) if shapes.sum() >= _FEWEST_STARS else _CONCENTRATION
    error = np.hypot(inner_err, concentration * core_err) / np.maximum(core, core_err)
    extended = concentration < locus - np.hypot(_TOLERANCE * locus, 3 * error)
    level = float(np.median(noise))
    galaxy = clean & extended & ~known & ~_pieces(x, y, core, known | ~extended, fwhm_px, level)
    numbers = np.flatnonzero(galaxy).astype(np.int32) + 1
    return _measured(data, bad, found[galaxy], owner, numbers, fwhm_px)


def _extract(
    data: NDArray[np.float32], noise: NDArray[np.float32], bad: NDArray[np.bool_], kernel: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """sep's objects, and the number (from 1) of each pixel's; buffers grow until a crowded field fits."""
    for _ in range(8):
        try:
            found, owner = sep.extract(
                data,
                2.5,
                err=noise,
                mask=bad,
                minarea=len(kernel),
                filter_kernel=kernel,
                clean=False,
                segmentation_map=True,
            )
        except Exception as error:  # sep raises bare Exception
            if "pixel buffer" in str(error):
                sep.set_extract_pixstack(4 * sep.get_extract_pixstack())
            elif "deblending overflow" in str(error):
                sep.set_sub_object_limit(4 * sep.get_sub_object_limit())
            else:
                raise
        else:
            return found, owner
    raise InputError(f"too many overlapping sources in an image of {data.shape} for sep: use smaller tiles")


def _near(x: Float64, y: Float64, places: ArrayLike | None, radius: float) -> NDArray[np.bool_]:
    places = np.asarray([] if places is None else places, np.float64).reshape(-1, 2)
    if len(places) == 0 or len(x) == 0:
        return np.zeros(len(x), bool)
    distance, _ = cKDTree(places).query(np.column_stack([x, y]))
    return np.asarray(distance < radius)


def _pieces(
    x: Float64, y: Float64, flux: Float64, star: NDArray[np.bool_], fwhm_px: float, sigma: float
) -> NDArray[np.bool_]:
    """Objects within the visible wings of a star that is much brighter."""
    core = _MOFFAT_CORE * fwhm_px
    bright = np.flatnonzero(star & (flux > 100 * sigma * fwhm_px))
    peak = flux[bright] * (_BETA - 1) / (np.pi * core**2)
    reach = core * (peak / sigma) ** (1 / (2 * _BETA))
    piece = np.zeros(len(x), bool)
    for k, radius in zip(bright, reach, strict=True):
        piece |= (np.hypot(x - x[k], y - y[k]) < radius) & (flux < _PIECE * flux[k])
    return piece


def _measured(
    data: NDArray[np.float32],
    bad: NDArray[np.bool_],
    found: NDArray[Any],
    owner: NDArray[np.int32],
    numbers: NDArray[np.int32],
    fwhm_px: float,
) -> Galaxies:
    """Total light and sizes, brightest first; pixels of other objects are left out."""
    if len(found) == 0:
        return Galaxies(*(np.zeros(0) for _ in range(7)))
    x, y, a, b, theta = (np.array(found[name], np.float64) for name in ("x", "y", "a", "b", "theta"))
    own: dict[str, Any] = {"mask": bad, "segmap": owner, "seg_id": numbers}
    kron, _ = sep.kron_radius(data, x, y, a, b, theta, 6.0, **own)
    kron = np.clip(np.nan_to_num(kron, nan=1.4), 1.4, 5.0)
    flux, _, _ = sep.sum_ellipse(data, x, y, a, b, theta, 2.5 * kron, subpix=1, **own)
    r50, _ = sep.flux_radius(data, x, y, 6 * a, 0.5, normflux=flux, subpix=5, **own)
    sane = (flux > 0) & (r50 < _WIDEST * a)
    spread = fwhm_px / 2.3548
    a, b = (_without(size, spread, 2.0) for size in (a, b))
    r50 = _without(r50, _STAR_R50 * fwhm_px, _R50_POWER)
    order = np.argsort(-flux, kind="stable")
    order = order[sane[order]]
    return Galaxies(*(column[order] for column in (x, y, flux, a, b, theta, r50)))


def _without(size: Float64, psf: float, power: float) -> Float64:
    """Size before the PSF widened it, at least a tenth of the PSF's."""
    return np.asarray(np.maximum(size**power - psf**power, (0.1 * psf) ** power) ** (1 / power))
