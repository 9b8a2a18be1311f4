"""Pixels and columns that read wrong, charge that no light made, and where the data end."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts.base import (
    Artifact,
    Put,
    Site,
    between,
    box_around,
    expose,
    log_between,
    nearest,
    noise_of,
    pixel_index,
)
from astrid_dist.simulation.canvas import Canvas, Image, View
from astrid_dist.simulation.philox import compiled, normal_at
from astrid_dist.surveys.profile import Camera


@dataclass(frozen=True)
class HotPixel:
    """A pixel with much dark current, alone or with neighbours; the dithered template has it elsewhere."""

    least: float = 100.0
    most: float = 5000.0
    """Electrons in an exposure, even in the logarithm; typically 10 to 1000, of which the
    largest show."""
    cluster_share: float = 0.15
    dither_px: float = 20.0
    """Largest offset of the template's detector from the epoch's, per axis."""
    epochs: float = 10.0
    """Most epochs in the template, each at its own place: even in the logarithm from one."""
    flagged_share: float = 0.1

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        charge = log_between(draws[0], self.least, self.most)
        share = 1 / log_between(draws[1], 1.0, self.epochs)
        # the nearest places are left out, where the two would lie on each other
        dx, dy = (
            math.copysign(3 + abs(t) * (self.dither_px - 3), t) for t in (2 * draws[2] - 1, 2 * draws[3] - 1)
        )
        pixels = [(0, 0, 1.0)]
        if draws[4] < self.cluster_share:
            pixels += [(1, 0, 0.4), (0, 1, 0.3), (1, 1, 0.2)]
        start, twist = noise_of(site)
        height, width = view.shape
        for k, (right, up, part) in enumerate(pixels):
            i, j = nearest(y) + up, nearest(x) + right
            if 0 <= i < height and 0 <= j < width:
                expose(
                    canvas.science,
                    canvas.science_variance,
                    i,
                    j,
                    charge * part,
                    view.sigma_n**2,
                    start,
                    twist,
                    k,
                )
                if draws[5] < self.flagged_share:
                    canvas.mask[i, j] |= np.uint16(Flag.BAD)
            # resampled to the template's grid, it lies between four pixels
            at_y, at_x = y + up + dy, x + right + dx
            down, left = math.floor(at_y), math.floor(at_x)
            for m in range(4):
                i, j = down + m // 2, left + m % 2
                weight = (1 - abs(i - at_y)) * (1 - abs(j - at_x))
                if 0 <= i < height and 0 <= j < width:
                    value = charge * part * share * weight / view.flux_ratio
                    index = 4 + 4 * k + m
                    noise = view.sigma_r**2
                    expose(canvas.template, canvas.template_variance, i, j, value, noise, start, twist, index)
        total = charge * sum(part for *_, part in pixels)
        return Put(total, {"template_share": share, "dx_px": dx, "dy_px": dy, "pixels": float(len(pixels))})


@dataclass(frozen=True)
class BadColumn:
    """A column, or the part of one behind a trap, that is lost, shifted in level, or of little response."""

    lost_share: float = 0.3
    row_share: float = 0.2
    """Of those that are lost, rows instead of columns (read-out)."""
    faint_share: float = 0.3
    """Of low response."""
    double_share: float = 0.3
    """Two columns wide."""
    from_trap_share: float = 0.5
    least_sigma: float = 2.0
    most_sigma: float = 30.0
    """Shift of the level in the sky's noise, even in the logarithm, either sign."""
    flagged_share: float = 0.3

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        wide = 2 if draws[0] < self.double_share else 1
        column = slice(max(nearest(x), 0), max(nearest(x) + wide, 0))
        below = max(nearest(y), 0) if draws[1] < self.from_trap_share else 0
        place = (slice(below, None), column)
        parameters = {"columns": float(wide), "from_row": float(below)}
        lost, flux = draws[2] < self.lost_share, math.nan
        if lost:
            if draws[2] < self.lost_share * self.row_share:
                place = (slice(max(nearest(y), 0), max(nearest(y) + wide, 0)), slice(None))
            canvas.science[place] = np.nan
            canvas.mask[place] |= np.uint16(Flag.NO_DATA | Flag.BAD)
        elif draws[2] < self.lost_share + self.faint_share:
            response = between(draws[3], 0.0, 0.9)
            light = view.science[place] + canvas.science[place] + view.sky
            canvas.science[place] += (response - 1) * light
            canvas.science_variance[place] += (response - 1) * light
            parameters["response"] = response
        else:
            sign = 1 if draws[4] < 0.5 else -1
            level = sign * log_between(draws[3], self.least_sigma, self.most_sigma) * view.sigma_n
            canvas.science[place] += level
            canvas.science_variance[place] += max(level, 0.0)
            flux = level * canvas.science[place].size
            parameters["level"] = level
        if not lost and draws[5] < self.flagged_share:
            canvas.mask[place] |= np.uint16(Flag.BAD)
        return Put(flux, parameters)


@compiled
def _glow(
    image: Image,
    variance: Image,
    x: float,
    y: float,
    box: tuple[int, int, int, int],
    peak: float,
    scale: float,
    unevenness: float,
    sky_variance: float,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    for i in range(box[0], box[1]):
        for j in range(box[2], box[3]):
            index = pixel_index(i - middle_y, j - middle_x)
            mean = peak * math.exp(-math.sqrt((i - y) ** 2 + (j - x) ** 2) / scale)
            mean *= math.exp(unevenness * normal_at(start, ~twist, index) - 0.5 * unevenness**2)
            expose(image, variance, i, j, mean, sky_variance, start, twist, index)


@dataclass(frozen=True)
class DarkCurrent:
    """Dark charge that the dark frame does not take away: a glow, uneven from pixel to pixel."""

    least_factor: float = 10.0
    most_factor: float = 1000.0
    """Of the detector's dark current, in the middle; even in the logarithm."""
    smallest_px: float = 3.0
    largest_px: float = 60.0
    """Distance over which it falls by e, even in the logarithm."""
    unevenness: float = 0.3
    """Between pixels, in the natural logarithm (dark signal non-uniformity)."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        usual = view.camera.dark_current * view.exptime_s
        peak = usual * log_between(draws[0], self.least_factor, self.most_factor)
        scale = log_between(draws[1], self.smallest_px, self.largest_px)
        start, twist = noise_of(site)
        box = box_around(view.shape, x, y, 8 * scale, 8 * scale)
        _glow(
            canvas.science,
            canvas.science_variance,
            x,
            y,
            box,
            peak,
            scale,
            self.unevenness,
            view.sigma_n**2,
            start,
            twist,
        )
        return Put(2 * math.pi * scale**2 * peak, {"peak_electrons": peak, "scale_px": scale})


@compiled
def _end(
    image: Image,
    variance: Image,
    mask: np.ndarray,
    x: float,
    y: float,
    out_x: float,
    out_y: float,
    level: float,
    scale: float,
    bits: tuple[int, int],
) -> None:
    """No data where the outward distance from the line is positive; a level that decays inwards from it."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            beyond = (j - x) * out_x + (i - y) * out_y
            if beyond > 0:
                image[i, j] = np.nan
                mask[i, j] |= np.uint16(bits[0])
            elif beyond > -10 * scale:
                extra = level * math.exp(beyond / scale)
                image[i, j] += np.float32(extra)
                variance[i, j] += np.float32(max(extra, 0.0))
                if beyond > -1.5:
                    mask[i, j] |= np.uint16(bits[1])


@dataclass(frozen=True)
class Edge:
    """Data end at (x, y): the detector's edge, a gap, or the coverage of the template."""

    template_share: float = 0.6
    oblique_share: float = 0.4
    """The detector is turned against the grid: what is missing is a triangle."""
    least_sigma: float = 0.3
    most_sigma: float = 10.0
    """Step of the level at the edge, of the sky's noise, even in the logarithm, either sign."""
    shortest_px: float = 1.0
    longest_px: float = 15.0
    """Distance over which it decays."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        height, width = view.shape
        # data go on where the middle of the window is
        out = math.atan2((y - (height - 1) / 2) / height, (x - (width - 1) / 2) / width)
        angle = math.pi / 2 * round(out / (math.pi / 2))
        if draws[0] < self.oblique_share:
            angle += between(draws[1], -math.pi / 4, math.pi / 4)
        in_template = draws[2] < self.template_share
        sign = 1 if draws[3] < 0.5 else -1
        sigma = view.sigma_r if in_template else view.sigma_n
        level = sign * log_between(draws[4], self.least_sigma, self.most_sigma) * sigma
        scale = log_between(draws[5], self.shortest_px, self.longest_px)
        planes = (
            (canvas.template, canvas.template_variance, canvas.template_mask)
            if in_template
            else (canvas.science, canvas.science_variance, canvas.mask)
        )
        bits = (int(Flag.NO_DATA), int(Flag.EDGE))
        _end(*planes, x, y, math.cos(angle), math.sin(angle), level, scale, bits)
        return Put(
            math.nan,
            {"angle_rad": angle, "level": level, "scale_px": scale, "in_template": float(in_template)},
        )


@dataclass(frozen=True)
class _Rate:
    per_mpix: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.per_mpix * pixels / 1e6


def _amplifiers(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """One glow at every amplifier."""
    whole = camera.detector_px[0] * camera.detector_px[1]
    return camera.amplifiers[0] * camera.amplifiers[1] * pixels / whole


def _edges(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """Four to a detector."""
    return 4 * pixels / (camera.detector_px[0] * camera.detector_px[1])


ARTIFACTS = (
    Artifact(
        "hot pixel",
        9,
        "Pixels of high dark current are no dark frame's median: one pixel, sharper than the PSF, positive "
        "where the epoch has it and negative, fainter by the number of epochs, where the dithered template "
        "has it. Typically 0.01 to 0.1 % of pixels, 10 to 1000 electrons (Janesick 2001).",
        "anywhere",
        False,
        False,
        6,
        _Rate(300.0),
        HotPixel(),
    ),
    Artifact(
        "bad column",
        10,
        "Traps and blocked columns, 0 to 20 to a detector, typically: lost (NaN: Rubin DMTN-337 found rows "
        "of NaN scored as real), shifted in level, or of little response; from a trap upwards or whole.",
        "anywhere",
        True,
        True,
        6,
        _Rate(1.0),
        BadColumn(),
    ),
    Artifact(
        "edge",
        16,
        "The edge of a detector, a gap or the border of the template's coverage, straight or, where the "
        "detector is turned, oblique, with a step of the level along it.",
        "edge",
        True,
        True,
        6,
        _edges,
        Edge(),
    ),
    Artifact(
        "dark current",
        21,
        "Glow of amplifiers and warm spots that the dark frame does not match: smooth, with the unevenness "
        "of dark current between pixels and its shot noise (Janesick 2001).",
        "anywhere",
        True,
        True,
        2,
        _amplifiers,
        DarkCurrent(),
    ),
)
