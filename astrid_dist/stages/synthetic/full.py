"""The reference way: what is put into a pair is there before it is subtracted, as the sky would have it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE
from astrid_dist.imaging.masks import source_free
from astrid_dist.simulation.canvas import Canvas
from astrid_dist.stages.blocks import Planes, Window
from astrid_dist.stages.pair import mended
from astrid_dist.stages.subtraction import Result, subtract_tiles
from astrid_dist.stages.synthetic.draw import Samples
from astrid_dist.stages.synthetic.host import PAD, WINDOW, Host, on_padded, overlap
from astrid_dist.stages.synthetic.put import Put
from astrid_dist.stages.synthetic.stamps import Stamps, cut_images, finish, scales_of
from astrid_dist.stages.tiles import Options
from astrid_dist.store.sample_layout import PLANES, STAMP

Float32 = NDArray[np.float32]

#: Pixels beyond what was put in at which the filters of a pair have forgotten it.
_BEYOND = 5


def full_stamps(host: Host, drawn: Samples, put: Put, options: Options) -> Stamps:
    """Stamps of samples whose pair was subtracted after they had been put in.

    As many copies of the pair as it takes for no two samples to touch; each is subtracted like any other, PSF
    refinement, residual sky and renormalisation included.
    """
    n = len(drawn.items)
    pixels = np.full((n, len(PLANES), STAMP, STAMP), np.nan, np.float32)
    pattern = np.zeros((n, STAMP, STAMP), np.float32)
    for chosen in apart(drawn, put):
        canvas = gathered(host, drawn, put.canvas, chosen)
        made, science, template = subtract_changed(host, canvas, options)
        planes = (
            on_padded(science.image, science.window, host.tile),
            on_padded(template.image, template.window, host.tile),
            np.pad(made.planes["difference"], PAD, constant_values=np.nan),
            np.pad(made.planes["score"], PAD, constant_values=np.nan),
        )
        part = pixels[chosen]
        column, row = drawn.column[chosen], drawn.row[chosen]
        for plane, (image, scale) in enumerate(zip(planes, (*scales_of(host), 1.0), strict=True)):
            cut_images(part, plane, np.ascontiguousarray(image, np.float32), column, row, float(scale))
        pixels[chosen] = part
        added = np.zeros((len(chosen), 1, STAMP, STAMP), np.float32)
        cut_images(added, 0, planes[2] - host.difference, column, row, 1.0)
        pattern[chosen] = added[:, 0]
    at = np.stack([np.rint(put.x) - drawn.column, np.rint(put.y) - drawn.row], axis=1) + STAMP // 2
    return finish(pixels, pattern, host, drawn, np.clip(np.nan_to_num(at), -9, STAMP + 9))


def apart(drawn: Samples, put: Put) -> Iterator[NDArray[np.int64]]:
    """Samples in sets within which none reaches into another's stamp; what is empty needs no room."""
    reach = _reaches(put.canvas)
    half = STAMP // 2 + _BEYOND
    left = np.arange(len(drawn.items))
    while left.size:
        taken: list[int] = []
        for i in left:
            far = np.maximum(
                np.abs(drawn.column[taken] - drawn.column[i]), np.abs(drawn.row[taken] - drawn.row[i])
            )
            longest = np.maximum(reach[taken], reach[i])
            if not taken or np.all((far >= half + longest) | (longest < 0)):
                taken.append(int(i))
        yield np.array(taken)
        left = np.setdiff1d(left, taken)


def _reaches(canvas: Canvas) -> NDArray[np.int64]:
    """How far from the middle of each window anything was put, pixels; -1 for nothing."""
    something = np.zeros(canvas.science.shape, bool)
    for light in _light(canvas):
        something |= light != 0
    for bits in _bits(canvas):
        something |= bits != 0
    steps = np.abs(np.arange(WINDOW) - WINDOW // 2)
    along = [np.where(something.any(axis=axis), steps, -1).max(axis=1) for axis in (1, 2)]
    return np.asarray(np.maximum(*along))


def _light(canvas: Canvas) -> tuple[Float32, ...]:
    return canvas.science, canvas.science_variance, canvas.template, canvas.template_variance


def _bits(canvas: Canvas) -> tuple[NDArray[np.uint16], ...]:
    return canvas.mask, canvas.template_mask


def gathered(host: Host, drawn: Samples, canvas: Canvas, chosen: NDArray[np.int64]) -> Canvas:
    """Windows of samples on one canvas as large as the padded tile."""
    shape = host.science.shape
    whole = Canvas.empty(*shape)
    half = WINDOW // 2
    for i in chosen:
        top, left = int(drawn.row[i]) - half, int(drawn.column[i]) - half
        place = (slice(top, top + WINDOW), slice(left, left + WINDOW))
        for light, added in zip(_light(whole), _light(canvas[int(i)]), strict=True):
            light[place] += added
        for bits, gained in zip(_bits(whole), _bits(canvas[int(i)]), strict=True):
            bits[place] |= gained
    return whole


def subtract_changed(host: Host, canvas: Canvas, options: Options) -> tuple[Result, Planes, Planes]:
    """Subtract a host with something put into it; also its science and template planes.

    `canvas` covers the padded tile; what it holds beyond the planes that were read is left out.
    """
    pair = host.pair
    science = _changed(host, host.science_planes, canvas.science, canvas.science_variance, canvas.mask)
    science = mended(science, pair.fwhm_px)
    planes = _changed(
        host, host.template_full.planes, canvas.template, canvas.template_variance, canvas.template_mask
    )
    planes = mended(planes, pair.reference_fwhm_px)
    quiet = host.template_full.quiet
    if canvas.template.any():
        quiet = source_free(planes.image, planes.sigma, pair.reference_fwhm_px)
    template = replace(host.template_full, planes=planes, quiet=quiet)
    return subtract_tiles(pair, host.tile, science, template, options), science, template.planes


def _changed(
    host: Host, planes: Planes, image: Float32, variance: Float32, mask: NDArray[np.uint16]
) -> Planes:
    padded = Window(host.tile.y0 - PAD, host.tile.y1 + PAD, host.tile.x0 - PAD, host.tile.x1 + PAD)
    window = planes.window
    seen = overlap(padded, window)
    inside, source = seen.within(window), seen.within(padded)
    light, noise, bits = planes.image.copy(), planes.variance.copy(), planes.mask.copy()
    light[inside] += image[source]
    noise[inside] += variance[source]
    bits[inside] |= mask[source]
    gone = np.isnan(light) | ((bits & int(UNUSABLE)) != 0)
    light[gone] = np.nan
    noise[gone] = np.nan
    return replace(planes, image=light, variance=noise, mask=bits)
