"""The fast way: what is put into a pair goes through the pair's own filters onto its difference."""

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.no_data import moved, widened
from astrid_dist.imaging.response import respond
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import MARGIN, WINDOW, Host
from astrid_dist.stages.synthetic.put import Put, window_of
from astrid_dist.stages.synthetic.stamps import Stamps, cut_linear, finish, scales_of
from astrid_dist.store.sample_layout import PLANES, STAMP

Float32 = NDArray[np.float32]


def linear_stamps(host: Host, drawn: Samples, put: Put) -> Stamps:
    """Stamps of samples as subtracting the changed pair would give them, without subtracting it.

    Exact as long as what the subtraction depends on stays: PSFs, flux ratio, registration, background,
    residual sky, renormalisation, and which narrow defects are mended; docs/science.md says where it fails.
    """
    canvas = put.canvas
    lost, bad_n, bad_r = _fill_lost(host, drawn, put)
    n = len(drawn.items)
    added_d = np.zeros((n, STAMP + 2, STAMP + 2), np.float32)
    added_sn, added_v = np.zeros_like(added_d), np.zeros_like(added_d)
    both = bool(put.in_template.any())
    added_sr = np.zeros_like(added_d) if both else np.zeros((0, 1, 1), np.float32)
    shift = host.recipe.shift
    for chosen, with_template in ((~put.in_template, False), (put.in_template, True)):
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
        np.ascontiguousarray(canvas.science[inner]), np.ascontiguousarray(canvas.template[inner]),
        added_d, added_sn, added_sr, added_v, lost, drawn.column, drawn.row, scales_of(host),
        np.array(host.recipe.astrometric_sigma, np.float64),
        host.recipe.flux_ratio_err / host.recipe.flux_ratio, host.renormalisation,
    )  # fmt: skip
    pixels[:, 0][bad_n[inner]] = np.nan
    pixels[:, 1][bad_r[inner]] = np.nan
    at = np.stack([np.rint(put.x) - drawn.column, np.rint(put.y) - drawn.row], axis=1) + STAMP // 2
    at = np.clip(np.nan_to_num(at), -9, STAMP + 9)
    return finish(pixels, np.ascontiguousarray(added_d[:, 1:-1, 1:-1]), host, at)


def _fill_lost(host: Host, drawn: Samples, put: Put) -> tuple[NDArray[np.bool_], ...]:
    """Where samples lose their result, (n, 63, 63), and their data in either image, (n, window, window).

    As ZOGY's own holes: they take the other image's pixels, and nothing is said within reach of them.
    """
    canvas, recipe = put.canvas, host.recipe
    bad_n = np.isnan(canvas.science) | ((canvas.mask & int(UNUSABLE)) != 0)
    bad_r = np.isnan(canvas.template) | ((canvas.template_mask & int(UNUSABLE)) != 0)
    lost = np.zeros((len(drawn.items), STAMP, STAMP), bool)
    some = np.flatnonzero((bad_n | bad_r).reshape(len(lost), -1).any(axis=1))
    plan, ratio = host.window_plan, recipe.flux_ratio
    for i in some:
        column, row = int(drawn.column[i]) - WINDOW // 2, int(drawn.row[i]) - WINDOW // 2
        view = window_of(host.view, column, row)
        science = view.science + np.nan_to_num(canvas.science[i])
        template = view.template + np.nan_to_num(canvas.template[i])
        bad = moved(bad_n[i], *recipe.shift) | bad_r[i]
        reach = widened(
            bad, bad_n[i] & bad_r[i], ((science, 1.0), (template, ratio)), plan.leak, plan.kernel_radius_px
        )
        lost[i] = reach[MARGIN:-MARGIN, MARGIN:-MARGIN]
        part = (slice(row, row + WINDOW), slice(column, column + WINDOW))
        var_n = host.variances[0][part] + canvas.science_variance[i]
        var_r = host.variances[1][part] + canvas.template_variance[i]
        for image, now, before, gone in (
            (canvas.science[i], template * np.float32(ratio), view.science, bad_n[i]),
            (canvas.science_variance[i], var_r * np.float32(ratio**2), host.variances[0][part], bad_n[i]),
            (canvas.template[i], science / np.float32(ratio), view.template, bad_r[i]),
            (canvas.template_variance[i], var_n / np.float32(ratio**2), host.variances[1][part], bad_r[i]),
        ):
            image[gone] = np.where(bad_n[i] & bad_r[i], -before, now - before)[gone]
            np.nan_to_num(image, copy=False)
        put.in_template[i] |= bool(bad_r[i].any())
    return lost, bad_n, bad_r
