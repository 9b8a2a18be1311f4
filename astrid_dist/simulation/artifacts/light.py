"""Light that is not of sources: what is left of the sky, and ghosts."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.artifacts.base import (
    Artifact,
    Put,
    Site,
    box_around,
    expose,
    log_between,
    noise_of,
    pixel_index,
)
from astrid_dist.simulation.canvas import Canvas, Image, View
from astrid_dist.simulation.philox import compiled
from astrid_dist.surveys.profile import Camera

Box = tuple[int, int, int, int]


@compiled
def _sky(
    image: Image,
    variance: Image,
    x: float,
    y: float,
    slope_x: float,
    slope_y: float,
    curve: float,
    ripple: float,
    wave_x: float,
    wave_y: float,
    bend: float,
    phase: float,
) -> None:
    for i in range(image.shape[0]):
        v = i - y
        for j in range(image.shape[1]):
            u = j - x
            # fringes follow lines of equal thickness of the silicon: bent waves
            along = wave_x * u + wave_y * v + bend * math.sin(0.7 * (wave_y * u - wave_x * v))
            added = slope_x * u + slope_y * v + curve * (u * u + v * v)
            added += ripple * math.sin(along + phase)
            image[i, j] += np.float32(added)
            variance[i, j] += np.float32(added)


@dataclass(frozen=True)
class SkyResidual:
    """What the model of the background leaves: a gradient of Moon or twilight, and fringes.

    It is a few per cent of the sky, so its own shot noise is left out.
    """

    gradient: float = 0.05
    """Largest change of the sky over `gradient_px`, of the sky."""
    gradient_px: float = 1000.0
    curvature: float = 0.05
    """Largest quadratic change over the same, of the sky."""
    least_fringe: float = 0.003
    most_fringe: float = 0.03
    """Of the sky: 1 to 3 % in z and Y, typically, before correction."""
    fringe_share: float = 0.6
    shortest_px: float = 15.0
    longest_px: float = 80.0
    """Wavelength of fringes."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        slope = view.sky * self.gradient * draws[0] / self.gradient_px
        angle = 2 * math.pi * draws[1]
        curve = view.sky * self.curvature * (2 * draws[2] - 1) / self.gradient_px**2
        fringes = draws[3] < self.fringe_share
        ripple = log_between(draws[4], self.least_fringe, self.most_fringe) * view.sky if fringes else 0.0
        wave = 2 * math.pi / log_between(draws[5], self.shortest_px, self.longest_px)
        direction, phase = math.pi * draws[6], 2 * math.pi * draws[7]
        _sky(
            canvas.science,
            canvas.science_variance,
            x,
            y,
            slope * math.cos(angle),
            slope * math.sin(angle),
            curve,
            ripple,
            wave * math.cos(direction),
            wave * math.sin(direction),
            1.0,
            phase,
        )
        return Put(
            math.nan,
            {"slope_per_px": slope, "fringe_electrons": ripple, "fringe_px": 2 * math.pi / wave},
        )


@compiled
def _ghost(
    image: Image,
    variance: Image,
    box: Box,
    x: float,
    y: float,
    level: float,
    radius: float,
    hole: float,
    soft: float,
    sky_variance: float,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    for i in range(box[0], box[1]):
        for j in range(box[2], box[3]):
            r = math.sqrt((i - y) ** 2 + (j - x) ** 2)
            # both rims are a PSF wide, rising as a smooth step
            outer = min(max(0.5 + 0.5 * (radius - r) / soft, 0.0), 1.0)
            inner = min(max(0.5 + 0.5 * (r - hole) / soft, 0.0), 1.0)
            mean = level * outer * outer * (3 - 2 * outer) * inner * inner * (3 - 2 * inner)
            if mean > 0.0:
                index = pixel_index(i - middle_y, j - middle_x)
                expose(image, variance, i, j, mean, sky_variance, start, twist, index)


@dataclass(frozen=True)
class Ghost:
    """A reflection between surfaces: the telescope's pupil out of focus, a disk with a hole.

    Its rim passes through (x, y), where it is seen best: the disk itself may be larger than the window.
    """

    smallest_px: float = 50.0
    largest_px: float = 1000.0
    """Radius, even in the logarithm."""
    least_share: float = 1e-5
    most_share: float = 1e-3
    """Of the star's light, even in the logarithm; typical of two reflections off coated surfaces."""
    obstruction: float = 0.4
    """Radius of the hole, of the disk's."""
    least_sigma: float = 0.3
    most_sigma: float = 5.0
    """Level in the sky's noise where no star is given, even in the logarithm."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        radius = log_between(draws[0], self.smallest_px, self.largest_px)
        hole = self.obstruction * radius
        area = math.pi * (radius**2 - hole**2)
        if site.star is None:
            level = log_between(draws[1], self.least_sigma, self.most_sigma) * view.sigma_n
        else:
            level = log_between(draws[1], self.least_share, self.most_share) * site.star.flux / area
        angle = 2 * math.pi * draws[2]
        middle_x, middle_y = x - radius * math.cos(angle), y - radius * math.sin(angle)
        box = box_around(view.shape, middle_x, middle_y, 1.2 * radius, 1.2 * radius)
        start, twist = noise_of(site)
        _ghost(
            canvas.science,
            canvas.science_variance,
            box,
            middle_x,
            middle_y,
            level,
            radius,
            hole,
            view.fwhm_n,
            view.sigma_n**2,
            start,
            twist,
        )
        return Put(
            level * area,
            {"radius_px": radius, "middle_x": middle_x, "middle_y": middle_y, "level_electrons": level},
        )


@dataclass(frozen=True)
class _Exposures:
    """Share of exposures, whatever the area."""

    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.share


def _ghosts(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """A few per bright star."""
    return 2 * n_stars


ARTIFACTS = (
    Artifact(
        "sky residual",
        12,
        "Moonlight and twilight leave gradients of up to 5 % of the sky, night-sky lines in thin silicon "
        "leave fringes of 1 to 3 % in z and Y (Bernstein et al. 2017).",
        "anywhere",
        True,
        False,
        8,
        _Exposures(1.0),
        SkyResidual(),
    ),
    Artifact(
        "ghost",
        13,
        "Two reflections between detector, filter and lenses make the pupil out of focus: rings of 50 to "
        "1000 pixels with 1e-5 to 1e-3 of the star's light, typically.",
        "anywhere",
        True,
        False,
        3,
        _ghosts,
        Ghost(),
    ),
)
