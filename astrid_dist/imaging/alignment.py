"""Where a frame lies on its field's grid, told by its stars alone."""

import contextlib
from dataclasses import dataclass, replace

import astroalign
import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.flags import StarFlag
from astrid_dist.imaging.registration import match_stars
from astrid_dist.imaging.resampling import PixelMap
from astrid_dist.imaging.stars import StarList

Float64 = NDArray[np.float64]

#: Fewest stars that an alignment may stand on.
LEAST_STARS = 5
#: Of the stars that could be seen in both, the part that must match.
_LEAST_MATCHED = 0.25
_CONTROL_STARS = {1: 50, -1: 30}  # mirrored frames are rare, and a search in vain takes its time
_RADII_PX = (6.0, 3.0, 1.5)
_CLIP_SIGMA = 3.5
_MOVED = int(StarFlag.BLENDED | StarFlag.EDGE)
_COLUMNS = ("x", "y", "flux", "flux_err", "flags")
_CENTROID_PX = 0.01  # below this, what the pixels do to a centroid outweighs its noise
_WHOLE_PX = (
    0.03  # a shift that is this close to whole pixels is one: resampling would cost more than it mends
)
#: Free parameters of each model, and the stars it wants.
_MODELS = {"shift": (2, 5), "similarity": (4, 5), "affine": (6, 20), "quadratic": (12, 40)}


@dataclass(frozen=True)
class Alignment:
    """A frame's place on a grid: the map, stars it stands on, their scatter per axis, and the shift.

    `dx`, `dy` are what is added to a place at the grid's centre to find it on the frame, pixels; `model` is
    shift, similarity, affine or quadratic.
    """

    map: PixelMap
    n: int
    rms_px: float
    dx: float
    dy: float
    model: str


def align_stars(frame: StarList, grid: StarList, shape: tuple[int, int]) -> Alignment:
    """Find the map from grid to frame pixels under which the stars of both agree.

    Triangles of the brightest stars give a similarity, mirrored or not, of any shift and rotation
    (astroalign; Beroiz, Cabral & Sanchez 2020). All stars then match their nearest and a robust weighted
    fit refines it; of shift, similarity, affine and quadratic the one of least BIC stands. A shift within
    0.03 px of whole pixels is made whole, so that the frame need not be resampled.

    Parameters
    ----------
    frame, grid : StarList
        Brightest first, each in its own pixels.
    shape : (height, width)
        Of the grid.

    Raises
    ------
    InputError
        Too few stars, or no map under which enough of them agree.
    """
    for stars, whose in ((frame, "the frame"), (grid, "the field's grid")):
        if len(stars) < LEAST_STARS:
            raise InputError(
                f"{whose} shows {len(stars)} stars, and at least {LEAST_STARS} are needed to align frames "
                "without a WCS; give it a WCS or leave it out"
            )
    for mirror in (1, -1):
        with contextlib.suppress(InputError):
            start = _coarse(_unblended(frame), _unblended(grid), shape, mirror)
            return _refine(frame, grid, shape, start, mirror)
    raise InputError(
        f"cannot be aligned: no shift, rotation and scale brings its {len(frame)} stars onto the "
        f"{len(grid)} of the field; it shows another place on the sky, or stars that cannot be told apart: "
        "leave it out, or give it a WCS"
    )


def _unblended(stars: StarList) -> StarList:
    """Those that no neighbour or border moves, where there are enough: in crowds triangles need them."""
    clean = (stars.flags & _MOVED) == 0
    if clean.sum() < _CONTROL_STARS[1]:
        return stars
    return replace(stars, **{name: getattr(stars, name)[clean] for name in _COLUMNS})


def _coarse(frame: StarList, grid: StarList, shape: tuple[int, int], mirror: int) -> PixelMap:
    """Similarity from triangles; its order of trials is random, what `_refine` makes of it is not."""
    try:
        transform, _ = astroalign.find_transform(
            np.column_stack([mirror * grid.x, grid.y]),
            np.column_stack([frame.x, frame.y]),
            max_control_points=_CONTROL_STARS[mirror],
        )
    except (astroalign.MaxIterError, ValueError, TypeError, IndexError) as error:
        raise InputError(str(error)) from error
    matrix = np.asarray(transform.params, dtype=float)
    matrix[:, 0] *= mirror
    empty = PixelMap.of(shape)
    coefficients = np.zeros((2, 6))
    coefficients[:, 0] = matrix[:2] @ [*empty.centre, 1.0]
    coefficients[:, 1:3] = matrix[:2, :2] * empty.half
    return replace(empty, coefficients=coefficients)


def _refine(
    frame: StarList, grid: StarList, shape: tuple[int, int], start: PixelMap, mirror: int
) -> Alignment:
    found = start
    before: tuple[bytes, bytes, str] | None = None
    for step in range(20):
        x, y = found(grid.x, grid.y)
        ig, jf = match_stars(replace(grid, x=x, y=y), frame, _RADII_PX[min(step, len(_RADII_PX) - 1)])
        matched = len(ig)
        clean = ((grid.flags[ig] | frame.flags[jf]) & _MOVED) == 0
        if clean.sum() >= _MODELS["quadratic"][1]:
            ig, jf = ig[clean], jf[clean]
        if len(ig) < LEAST_STARS:
            raise InputError("no stars agree")
        at = np.stack([frame.x[jf], frame.y[jf]])
        terms = found.terms(grid.x[ig], grid.y[ig])
        noise = np.hypot(np.nan_to_num(frame.position_err[jf]), np.nan_to_num(grid.position_err[ig]))
        noise = np.hypot(noise, _CENTROID_PX)
        model = _choose(found.half, terms, at, noise, mirror)
        coefficients, keep = _fit(model, found.half, terms, at, noise, mirror)
        found = replace(found, coefficients=coefficients)
        # The answer hangs on the pairs alone, so that it is the same whatever led to them.
        now = (ig.tobytes(), jf.tobytes(), model)
        if now == before and step >= len(_RADII_PX):
            break
        before = now
    left = at - coefficients @ terms
    n = int(keep.sum())
    inside = (x > 0) & (x < frame.x.max()) & (y > 0) & (y < frame.y.max())
    possible = min(int(inside.sum()), len(frame))
    if n < LEAST_STARS or matched < _LEAST_MATCHED * possible:
        raise InputError("too few stars agree")
    found = _whole(found, shape)
    (x,), (y,) = found(np.array([found.centre[0]]), np.array([found.centre[1]]))
    dx, dy = float(x) - found.centre[0], float(y) - found.centre[1]
    return Alignment(found, n, float(np.sqrt((left[:, keep] ** 2).mean())), dx, dy, model)


def _whole(found: PixelMap, shape: tuple[int, int]) -> PixelMap:
    """The same, or the shift by whole pixels that it hardly differs from anywhere on the grid."""
    x, y = (p.ravel() for p in np.meshgrid([0.0, shape[1] - 1], [0.0, shape[0] - 1]))
    at_x, at_y = found(x, y)
    dx, dy = round(float(np.mean(at_x - x))), round(float(np.mean(at_y - y)))
    if max(np.abs(at_x - x - dx).max(), np.abs(at_y - y - dy).max()) > _WHOLE_PX:
        return found
    return PixelMap.of(shape, float(dx), float(dy))


def _directions(model: str, mirror: int) -> Float64:
    """What each free parameter of a model adds to the coefficients, (k, 2, 6)."""
    if model in ("affine", "quadratic"):
        size = 3 if model == "affine" else 6
        free = np.zeros((2 * size, 2, 6))
        for k in range(2 * size):
            free[k, k // size, k % size] = 1
        return free
    free = np.zeros((4, 2, 6))
    free[0, 0, 0] = free[1, 1, 0] = 1
    free[2, 0, 1], free[2, 1, 2] = mirror, 1
    free[3, 0, 2], free[3, 1, 1] = -1, mirror
    return free[: _MODELS[model][0]]


def _fit(
    model: str, half: float, terms: Float64, at: Float64, noise: Float64, mirror: int
) -> tuple[Float64, NDArray[np.bool_]]:
    """Coefficients of a model, and the stars kept: clipped about the scatter that half of them have.

    Stars of another colour or with a neighbour scatter beyond their noise. The median of that is added to the
    noise of each, lest a few bright stars rule.

    Parameters
    ----------
    terms : (6, n)
    at : (2, n)
        Places on the frame.
    noise : (n,)
        Of each place, pixels.
    """
    fixed = np.zeros((2, 6))
    if model == "shift":
        fixed[0, 1] = fixed[1, 2] = half
    free = _directions(model, mirror)
    design = np.einsum("kat,tn->ank", free, terms)
    goal = at - fixed @ terms
    keep = np.ones(terms.shape[1], dtype=bool)
    total = noise
    for step in range(10):
        rows = (design[:, keep] / total[keep, None]).reshape(-1, len(free))
        answer, *_ = np.linalg.lstsq(rows, (goal[:, keep] / total[keep]).ravel(), rcond=None)
        coefficients = fixed + np.tensordot(answer, free, axes=1)
        left = np.abs(at - coefficients @ terms)
        if step == 0:
            total = np.hypot(noise, 1.4826 * float(np.median(left)))
        pull = left / total
        inside: NDArray[np.bool_] = np.all(
            pull < _CLIP_SIGMA * max(1.4826 * float(np.median(pull)), 1e-3), axis=0
        )
        if inside.sum() < LEAST_STARS or (step and np.array_equal(inside, keep)):
            break
        keep = inside
    return coefficients, keep


def _choose(half: float, terms: Float64, at: Float64, noise: Float64, mirror: int) -> str:
    """The model of least BIC (Schwarz 1978), among those that so many stars can carry."""
    n = terms.shape[1]
    able = [name for name, (_, least) in _MODELS.items() if n >= least and (mirror > 0 or name != "shift")]
    fits = {name: _fit(name, half, terms, at, noise, mirror) for name in able}
    coefficients, keep = fits[able[-1]]
    total = np.hypot(noise, 1.4826 * float(np.median(np.abs(at - coefficients @ terms))))[keep]
    n = 2 * int(keep.sum())

    def bic(name: str) -> float:
        left = (at - fits[name][0] @ terms)[:, keep] / total
        return n * float(np.log(max((left**2).mean(), 1e-6))) + _MODELS[name][0] * float(np.log(n))

    return min(able, key=bic)
