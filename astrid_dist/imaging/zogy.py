"""Proper image subtraction: D, P_D and S_corr of science images and their references.

Equation numbers are those of Zackay, Ofek & Gal-Yam 2016 (ApJ 830, 27). Filters depend on PSFs, noise and
flux scales alone: `plan_subtraction` makes them once, `subtract` then costs eight real transforms a tile
(four images in; D, S_n, S_r and the variance of S out).

Whatever lies outside the image, or is no data in both images, enters with zero signal and zero variance:
no noise is invented, and the variance of S, being convolved from the variance planes themselves (eq. 26, 27),
stays right up to the border. What a border or hole costs is light: a source nearer to it than the kernel
radius is measured too faint, and a star cut by it leaves a residual. Filling with noise of the background's
variance instead was measured beside it: as many false peaks (21 against 20 within 12 px of the border in 12
star fields), the same flux and unit scores, but 13 % less S/N for a source on the outermost pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import InputError
from astrid_dist.imaging.arrays import Array, Namespace, namespace
from astrid_dist.imaging.filters import SubtractionPlan, halo_px, plan_subtraction
from astrid_dist.imaging.no_data import Holes, find_holes

__all__ = ["Subtraction", "SubtractionPlan", "halo_px", "plan_subtraction", "subtract"]

Image: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.float64]

# Padded pixels worked on at once: on a GPU whole tiles, 64 bytes each; elsewhere rows that fit into a cache.
_BLOCK_PIXELS = 2**26
_CACHED_PIXELS = 2**17


@dataclass(frozen=True)
class Subtraction:
    """Differences of pairs on the reference's flux scale; every image is float32, NaN no data.

    Attributes
    ----------
    difference : (y, x) or (n, y, x) float32
        D / F_D, electrons of the reference; its noise is white.
    score : as `difference`
        Signed S_corr (eq. 25), in its own standard deviations.
    sigma_flux : as `difference`
        Standard deviation of the PSF flux, electrons of the reference: `score * sigma_flux` is the flux
        S / F_S of a point source centred on the pixel (eq. 41-43, with the astrometric and flux-ratio terms).
    psf_d : (v, u) float32
        PSF of `difference`.
    F_S, kernel_radius_px, limiting_flux : float
        As in `SubtractionPlan`.
    scores : pair as `difference`, or None
        S_n / F_S and S_r / F_S (eq. 26, 27), where they were asked for: fluxes, electrons of the reference.
    """

    difference: Array
    score: Array
    sigma_flux: Array
    psf_d: Image
    F_S: float
    kernel_radius_px: float
    limiting_flux: float
    scores: tuple[Array, Array] | None = None


def subtract(
    new: Array,
    ref: Array,
    var_new: Array,
    var_ref: Array,
    plan: SubtractionPlan,
    *,
    shift: ArrayLike = (0.0, 0.0),
    astrometric_sigma: ArrayLike = (0.0, 0.0),
    flux_ratio_err: ArrayLike = 0.0,
    keep_scores: bool = False,
) -> Subtraction:
    """Difference, score and flux error of a pair or of n pairs, ZOGY eq. 12-17, 25-33 and 41-43.

    NumPy arrays or torch tensors; the result is of the same kind, on the same device. Move the plan there
    once (`plan.to`) where it serves many calls.

    Parameters
    ----------
    new, ref : (y, x) or (n, y, x) float32
        Background-subtracted electrons; NaN is no data, zero is data. A value beyond 1e7 sigma is garbage and
        taken as no data.
    var_new, var_ref : as `new`
        Variance planes, electron², source noise included; a negative one is no data.
    plan : SubtractionPlan
        Filters of these pairs, for this shape.
    shift : (2,) or (n, 2) float
        (dx, dy) in pixels: stars of the science image lie at +dx, +dy of the reference's. The image is
        moved back by a phase ramp; meant for residuals of registration, at most a few pixels.
    astrometric_sigma : (2,) or (n, 2) float
        Standard deviation of the relative position of single stars in the two images per axis, pixels (the
        scatter of matched stars, not the error of their mean, which `shift` has taken out). Half its variance
        goes to each image (eq. 30-33), so that together they carry it once.
    flux_ratio_err : float or (n,) float
        Uncertainty of flux_n / flux_r as a single star sees it, PSF errors included. A wrong ratio leaves
        the same share of every pixel of a star, hence a variance (flux_ratio_err / flux_ratio · S_r)².
    keep_scores : bool
        Whether to return what each image gives to the score; what is added to an image adds to that linearly.

    Returns
    -------
    Subtraction
        NaN within `kernel_radius_px` of a pixel that is NaN in any of the four planes (farther away less
        than 0.1 % of the energy of a kernel lies on it), and as much farther as the hidden part of a bright
        star would move the score by its own noise.

    Raises
    ------
    InputError
        Shapes that differ from each other or the plan's; a shift beyond the padding; numbers per tile that
        are not one for all or one each.
    """
    space = namespace(new)
    plan = plan.to(space.device)
    planes = [space.float32(plane) for plane in (new, ref, var_new, var_ref)]
    for name, plane in zip(("science", "reference", "variance", "variance"), planes, strict=True):
        if tuple(plane.shape[-2:]) != plan.shape or plane.ndim not in (2, 3):
            raise InputError(
                f"subtraction: {name} plane is {tuple(plane.shape)}, the plan is for {plan.shape}"
            )
        if plane.shape != planes[0].shape:
            raise InputError(
                f"subtraction: {name} planes are {tuple(plane.shape)}, science {tuple(planes[0].shape)}"
            )
    stacks = [plane.reshape(-1, *plan.shape) for plane in planes]
    count = len(stacks[0])
    shifts = _each(shift, count, (2,), "shift")
    limit = min(plan.padded[0] - plan.shape[0], plan.padded[1] - plan.shape[1]) / 2
    if not np.all(np.abs(shifts) <= limit):
        raise InputError(
            f"subtraction: shift {shift!r} px exceeds {limit} px; resample the science image first"
        )
    scatter = _each(astrometric_sigma, count, (2,), "astrometric_sigma")
    errors = _each(flux_ratio_err, count, (), "flux_ratio_err")

    made = [space.empty(stacks[0].shape) for _ in range(5 if keep_scores else 3)]
    for part in _blocks(count, plan, space):
        given, out = [stack[part] for stack in stacks], [image[part] for image in made]
        _subtract_block(space, plan, given, shifts[part], scatter[part], errors[part], out)
    difference, score, sigma_flux, *scores = (image.reshape(planes[0].shape) for image in made)
    return Subtraction(
        difference,
        score,
        sigma_flux,
        plan.psf_d,
        plan.F_S,
        plan.kernel_radius_px,
        plan.limiting_flux,
        (scores[0], scores[1]) if scores else None,
    )


def _subtract_block(
    space: Namespace,
    plan: SubtractionPlan,
    planes: list[Array],
    shifts: Numbers,
    scatter: Numbers,
    errors: Numbers,
    made: list[Array],
) -> None:
    """Subtract n tiles (n, y, x), into `made`: difference, score and sigma_flux; the parts of the score.

    Rows are taken a few at a time wherever they do not depend on each other, so that they stay in the cache.
    """
    holes = find_holes(space, plan, planes, shifts)
    spectra = [space.along_columns(rows) for rows in _transformed_rows(space, plan, planes, holes)]
    for part in _rows(space, plan, plan.padded[0]):
        _filter(space, plan, [spectrum[:, part] for spectrum in spectra], shifts, part)
    S_n, S_r, V, D = (space.along_columns(spectrum, inverse=True) for spectrum in spectra)

    # Half of the variance for each image, and central differences over two pixels.
    weights = space.float32(scatter**2 / 8)[:, :, None, None]
    ratio_variance = space.float32((errors / plan.flux_ratio) ** 2)[:, None, None]
    for part in _rows(space, plan, plan.shape[0]):
        # The tile lies at [1, 1] of the grid: S has a border of one pixel for its slope.
        middle, wide = slice(part.start + 1, part.stop + 1), slice(part.start, part.stop + 2)
        difference, score, sigma, *kept = (image[:, part] for image in made)
        difference[...] = _image(space, plan, D[:, middle])[..., 1:-1]
        sigma[...] = _image(space, plan, V[:, middle])[..., 1:-1]
        parts = [_image(space, plan, S[:, wide]) for S in (S_n, S_r)]
        for S, image in zip(parts, kept, strict=False):
            image[...] = S[:, 1:-1, 1:-1]
        if scatter.any():
            for S in parts:
                _add_squared(sigma, S[:, 1:-1, 2:] - S[:, 1:-1, :-2], weights[:, 0])
                _add_squared(sigma, S[:, 2:, 1:-1] - S[:, :-2, 1:-1], weights[:, 1])
        of_n, of_r = (S[:, 1:-1, 1:-1] for S in parts)
        space.xp.subtract(of_n, of_r, out=score)
        if errors.any():
            _add_squared(sigma, of_r, ratio_variance)
        if holes is not None or not sigma.min() > 0:
            lost = sigma <= 0
            if holes is not None:
                lost |= holes.lost[:, part]
            sigma[lost] = np.nan
            difference[lost] = np.nan
        space.xp.sqrt(sigma, out=sigma)
        score /= sigma


def _transformed_rows(
    space: Namespace, plan: SubtractionPlan, planes: list[Array], holes: Holes | None
) -> Iterator[Array]:
    """Planes, each without its holes and put at [1, 1] of a grid of zeros, transformed along rows."""
    height, width = plan.shape
    count, columns = len(planes[0]), plan.padded[1]
    spectra = space.scratch((len(planes), count, plan.padded[0], columns // 2 + 1))
    parts = list(_rows(space, plan, height))
    grid = space.empty((count, parts[0].stop, columns))
    grid[..., 0] = 0
    grid[..., width + 1 :] = 0
    for which, (plane, spectrum) in enumerate(zip(planes, spectra, strict=True)):
        spectrum[:, 0] = 0
        spectrum[:, height + 1 :] = 0
        for part in parts:
            rows = grid[:, : part.stop - part.start]
            rows[..., 1 : width + 1] = holes.filled(space, which, part) if holes else plane[:, part]
            spectrum[:, part.start + 1 : part.stop + 1] = space.fft.rfft(rows)
        yield spectrum


def _filter(
    space: Namespace, plan: SubtractionPlan, spectra: list[Array], shifts: Numbers, part: slice
) -> None:
    """Turn some rows of the spectra N, R, V_n, V_r into those of S_n, S_r, V_S and D, in place."""
    N, R, Vn, Vr = spectra
    if shifts.any():
        ramp = space.moved(_phase_ramp(plan.padded, shifts, part))
        N *= ramp
        # S_n then is made by the moved kernel, whose square moves along.
        Vn *= ramp
    Vn *= plan.science_v[part]
    Vr *= plan.reference_v[part]
    Vn += Vr
    N *= plan.science_d[part]
    R *= plan.reference_d[part]
    space.xp.subtract(N, R, out=Vr)
    N *= plan.match[part]
    R *= plan.match[part]


def _image(space: Namespace, plan: SubtractionPlan, rows: Array) -> Array:
    """Rows of an image and one pixel before and behind each, from columns that are transformed already."""
    return space.fft.irfft(rows, plan.padded[1])[..., : plan.shape[1] + 2]


def _add_squared(variance: Array, values: Array, weight: Array) -> None:
    """Add weight · values² and use the values up."""
    values *= values
    values *= weight
    variance += values


def _each(values: ArrayLike, count: int, shape: tuple[int, ...], name: str) -> Numbers:
    """A number, or a pair, for each of the tiles."""
    given = np.asarray(values, dtype=np.float64)
    if given.shape not in (shape, (count, *shape)):
        raise InputError(
            f"subtraction: {name} is {given.shape} for {count} tiles; give one for all or one each"
        )
    return np.broadcast_to(given, (count, *shape))


def _blocks(count: int, plan: SubtractionPlan, space: Namespace) -> Iterator[slice]:
    """Tiles that are transformed together."""
    size = 1 if space.on_host else max(1, _BLOCK_PIXELS // (plan.padded[0] * plan.padded[1]))
    for start in range(0, count, size):
        yield slice(start, start + size)


def _rows(space: Namespace, plan: SubtractionPlan, count: int) -> Iterator[slice]:
    """Rows that are worked on together."""
    size = max(1, _CACHED_PIXELS // plan.padded[1]) if space.on_host else count
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _phase_ramp(padded: tuple[int, int], shifts: Numbers, part: slice) -> NDArray[np.complex64]:
    """Shift theorem: moves image i by (-dx, -dy); some rows of (n, ky, kx)."""
    x, y = shifts[:, 0, None, None], shifts[:, 1, None, None]
    rows = np.exp(2j * np.pi * y * np.fft.fftfreq(padded[0])[part, None]).astype(np.complex64)
    columns = np.exp(2j * np.pi * x * np.fft.rfftfreq(padded[1])).astype(np.complex64)
    return np.asarray(rows * columns)
