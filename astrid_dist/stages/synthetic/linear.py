"""The fast way: what is put into a pair goes through the pair's own filters onto its difference."""

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.no_data import moved, widened
from astrid_dist.imaging.response import respond
from astrid_dist.simulation.canvas import Canvas
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import MARGIN, WINDOW, Host
from astrid_dist.stages.synthetic.put import Put, window_at
from astrid_dist.stages.synthetic.stamps import Stamps, cut_linear, finish, scales_of
from astrid_dist.store.sample_layout import PLANES, STAMP

Float32 = NDArray[np.float32]

#: Light at a hole or beyond the border that changes nothing, in sigmas of the sky.
_FAINT = 0.02


def linear_stamps(host: Host, drawn: Samples, put: Put) -> Stamps:
    """Stamps of samples as subtracting the changed pair would give them, without subtracting it.

    Exact as long as what the subtraction depends on stays: PSFs, flux ratio, registration, background,
    residual sky, renormalisation, and which narrow defects are mended; docs/science.md says where it fails.
    The canvas is used up.
    """
    canvas = put.canvas
    lost, bad_n, bad_r = _at_holes(host, drawn, put)
    n = len(drawn.items)
    added_d = np.zeros((n, STAMP + 2, STAMP + 2), np.float32)
    added_sn, added_v = np.zeros_like(added_d), np.zeros_like(added_d)
    both = bool(put.in_template.any())
    added_sr = np.zeros_like(added_d) if both else np.zeros((0, 1, 1), np.float32)
    shift = host.recipe.shift
    something = put.something()
    for chosen, with_template in ((something & ~put.in_template, False), (put.in_template, True)):
        if not chosen.any():
            continue
        template = (canvas.template[chosen], canvas.template_variance[chosen]) if with_template else ()
        made = respond(
            host.window_plan, canvas.science[chosen], canvas.science_variance[chosen], *template,
            shift=shift, margin=MARGIN - 1,
        )  # fmt: skip
        added_d[chosen], added_sn[chosen], added_v[chosen] = (
            made.difference,
            made.science_score,
            made.variance,
        )
        if made.reference_score is not None:
            added_sr[chosen] = made.reference_score
    pixels = np.empty((n, len(PLANES), STAMP, STAMP), np.float32)
    inner = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    cut_linear(
        pixels, host.science, host.template, host.difference, host.S_n, host.S_r, host.level, host.variance,
        canvas.science[inner], canvas.template[inner],
        added_d, added_sn, added_sr, added_v, lost, drawn.column, drawn.row, scales_of(host),
        np.array(host.recipe.astrometric_sigma, np.float64),
        host.recipe.flux_ratio_err / host.recipe.flux_ratio, host.renormalisation,
    )  # fmt: skip
    pixels[:, 0][bad_n[inner]] = np.nan
    pixels[:, 1][bad_r[inner]] = np.nan
    at = np.stack([np.rint(put.x) - drawn.column, np.rint(put.y) - drawn.row], axis=1) + STAMP // 2
    at = np.clip(np.nan_to_num(at), -9, STAMP + 9)
    return finish(pixels, added_d[:, 1:-1, 1:-1], host, drawn, at)


def _at_holes(host: Host, drawn: Samples, put: Put) -> tuple[NDArray[np.bool_], ...]:
    """Where samples lose their result, (n, 63, 63), and their data in either image, (n, window, window).

    Light beyond the field's border is lost. Holes of an image, the host's and those put in, take the other
    image's pixels as ZOGY's do, and nothing is said within reach of them.
    """
    canvas, recipe, plan = put.canvas, host.recipe, host.window_plan
    new_n = np.isnan(canvas.science) | ((canvas.mask & int(UNUSABLE)) != 0)
    new_r = np.isnan(canvas.template) | ((canvas.template_mask & int(UNUSABLE)) != 0)
    lost = np.zeros((len(drawn.items), STAMP, STAMP), bool)
    gained = (new_n | new_r).reshape(len(lost), -1).any(axis=1)
    for i in np.flatnonzero((gained | _near(host.holes, drawn)) & put.something()):
        part = window_at(int(drawn.column[i]), int(drawn.row[i]))
        shines = _brightest(canvas[int(i)], host.hole_rims[part])
        if not gained[i] and shines < _FAINT * recipe.sigma_n:
            continue
        inside = host.field[part]
        old = [np.isnan(image[part]) & inside for image in (host.science, host.template)]
        bad_n, bad_r = old[0] | new_n[i], old[1] | new_r[i]
        _fill(host, canvas[int(i)], part, inside, old, (bad_n, bad_r))
        put.in_template[i] |= bool(canvas.template[i].any() or canvas.template_variance[i].any())
        # What the host's own holes hide is lost already; they hide more where light was put on them.
        if not gained[i] and shines < recipe.sigma_n:
            continue
        images = (
            (host.science[part] + canvas.science[i], 1.0),
            (host.template[part] + canvas.template[i], recipe.flux_ratio),
        )
        gone = moved(bad_n, *recipe.shift) | bad_r
        reach = widened(gone, bad_n & bad_r, images, plan.leak, plan.kernel_radius_px)
        lost[i] = reach[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return lost, new_n, new_r


def _fill(
    host: Host, canvas: Canvas, part: tuple[slice, slice], inside: NDArray[np.bool_],
    old: list[NDArray[np.bool_]], bad: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:  # fmt: skip
    """Turn what was added at holes into what fills them, less what filled them before."""
    whole = bool(inside.all())
    ratio = host.recipe.flux_ratio
    both = bad[0] & bad[1]
    for of_n, of_r, plane_n, plane_r, scale in (
        (canvas.science, canvas.template, host.science[part], host.template[part], ratio),
        (canvas.science_variance, canvas.template_variance, *host.variances_at(part), ratio**2),
    ):
        # Only what lies at a hole is worked out, before any of it is changed.
        made = []
        for own, own_before, other, other_before, was, gone, factor in (
            (of_n, plane_n, of_r, plane_r, old[0], bad[0], np.float32(scale)),
            (of_r, plane_r, of_n, plane_n, old[1], bad[1], np.float32(1 / scale)),
        ):
            at = np.nonzero(gone)
            before = np.where(was[at], other_before[at] * factor, own_before[at])
            after = np.where(both[at], np.float32(0), (other_before[at] + other[at]) * factor)
            made.append((own, at, np.nan_to_num(after - np.nan_to_num(before))))
        for own, at, filled in made:
            own[at] = filled
            if not whole:
                own[~inside] = 0


def _brightest(canvas: Canvas, where: NDArray[np.bool_]) -> float:
    """Largest size of what was added to some pixels, electrons."""
    found = [np.abs(image[where]).max(initial=0.0) for image in (canvas.science, canvas.template)]
    return float(max(found))


def _near(holes: NDArray[np.bool_], drawn: Samples) -> NDArray[np.bool_]:
    """Samples whose window touches a hole, or the border of the field."""
    sums = np.pad(np.cumsum(np.cumsum(holes, axis=0, dtype=np.int32), axis=1), ((1, 0), (1, 0)))
    top, left = drawn.row - WINDOW // 2, drawn.column - WINDOW // 2
    bottom, right = top + WINDOW, left + WINDOW
    found = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(found > 0)
