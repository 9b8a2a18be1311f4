"""Light and response that vary over many pixels: flat fields, sky, ghosts, clouds."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.artifacts.base import (
    Array,
    Artifact,
    Put,
    between,
    box_around,
    expose,
    log_between,
    noise_of,
    pixel_index,
)
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.simulation.philox import compiled, normal_at
from astrid_dist.surveys.profile import Camera

Box = tuple[int, int, int, int]


@compiled
def _flat(
    image: Image,
    variance: Image,
    seen: Image,
    sky: float,
    box: Box,
    x: float,
    y: float,
    depth: float,
    radius: float,
    hole: float,
    unevenness: float,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """Response wrong by a smooth spot, a ring if it has a hole, and from pixel to pixel within it."""
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    for i in range(box[0], box[1]):
        for j in range(box[2], box[3]):
            r2 = ((i - y) ** 2 + (j - x) ** 2) / (radius * radius)
            shape = math.exp(-0.5 * r2)
            rough = unevenness * normal_at(start, twist, pixel_index(i - middle_y, j - middle_x))
            wrong = depth * (shape - hole * math.exp(-2.0 * r2)) + rough * shape
            added = wrong * (sky + seen[i, j] + image[i, j])
            image[i, j] += np.float32(added)
            variance[i, j] += np.float32(added)


@dataclass(frozen=True)
class FlatFieldResidual:
    """A spot or a dust ring that the flat does not take out, and pixels of unequal response in it."""

    least_depth: float = 0.003
    most_depth: float = 0.03
    """Of the light, even in the logarithm: BlackBOX's flats vary by 1 %, 1.2 to 2.8 % between regions."""
    least_unevenness: float = 0.003
    most_unevenness: float = 0.01
    """Standard deviation of the response of pixels: typical of CCDs (Janesick 2001)."""
    smallest_px: float = 5.0
    largest_px: float = 60.0
    ring_share: float = 0.5

    def __call__(
        self,
        canvas: Canvas,
        view: View,
        x: float,
        y: float,
        draws: Array,
        key: np.uint64,
        item: int,
        star: Star | None = None,
    ) -> Put:
        depth = log_between(draws[0], self.least_depth, self.most_depth) * (1 if draws[1] < 0.3 else -1)
        radius = log_between(draws[2], self.smallest_px, self.largest_px)
        hole = 1.0 if draws[3] < self.ring_share else 0.0
        unevenness = between(draws[4], self.least_unevenness, self.most_unevenness)
        box = box_around(view.shape, x, y, 4 * radius, 4 * radius)
        start, twist = noise_of(key, item)
        _flat(
            canvas.science,
            canvas.science_variance,
            view.science,
            view.sky,
            box,
            x,
            y,
            depth,
            radius,
            hole,
            unevenness,
            start,
            twist,
        )
        return Put(math.nan, {"depth": depth, "radius_px": radius, "unevenness": unevenness, "ring": hole})


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

    def __call__(
        self,
        canvas: Canvas,
        view: View,
        x: float,
        y: float,
        draws: Array,
        key: np.uint64,
        item: int,
        star: Star | None = None,
    ) -> Put:
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

    def __call__(
        self,
        canvas: Canvas,
        view: View,
        x: float,
        y: float,
        draws: Array,
        key: np.uint64,
        item: int,
        star: Star | None = None,
    ) -> Put:
        radius = log_between(draws[0], self.smallest_px, self.largest_px)
        hole = self.obstruction * radius
        area = math.pi * (radius**2 - hole**2)
        if star is None:
            level = log_between(draws[1], self.least_sigma, self.most_sigma) * view.sigma_n
        else:
            level = log_between(draws[1], self.least_share, self.most_share) * star.flux / area
        angle = 2 * math.pi * draws[2]
        middle_x, middle_y = x - radius * math.cos(angle), y - radius * math.sin(angle)
        box = box_around(view.shape, middle_x, middle_y, 1.2 * radius, 1.2 * radius)
        start, twist = noise_of(key, item)
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


@compiled
def _cloud(
    image: Image,
    variance: Image,
    seen: Image,
    sky: float,
    x: float,
    y: float,
    through: float,
    depth: float,
    waves: Array,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """Light times T, and the noise that is missing then: of a sky as bright as ever, and of fewer photons."""
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    count = waves.shape[0]
    now, turn = np.empty(count, np.complex128), np.empty(count, np.complex128)
    for i in range(image.shape[0]):
        for k in range(count):
            phase = -waves[k, 0] * x + waves[k, 1] * (i - y) + waves[k, 2]
            now[k] = waves[k, 3] * complex(math.cos(phase), math.sin(phase))
            turn[k] = complex(math.cos(waves[k, 0]), math.sin(waves[k, 0]))
        for j in range(image.shape[1]):
            structure = 0.0
            for k in range(count):
                structure += now[k].real
                now[k] *= turn[k]
            t = min(max(through * (1 + depth * structure), 0.02), 1.5)
            light = seen[i, j] + image[i, j]
            added = (t - 1.0) * light
            variance[i, j] += np.float32(added)
            if t < 1.0:
                missing = (1.0 - t * t) * sky + t * (1.0 - t) * max(light, 0.0)
                added += math.sqrt(missing) * normal_at(start, twist, pixel_index(i - middle_y, j - middle_x))
            image[i, j] += np.float32(added)


@dataclass(frozen=True)
class Cloud:
    """Air that lets less light through, unevenly; the sky stays as bright."""

    least: float = 0.4
    most: float = 1.1
    """Transparency relative to what the flux scale says, even."""
    structure: float = 0.1
    """Largest rms of its relative structure."""
    shortest_px: float = 100.0
    longest_px: float = 2000.0

    def __call__(
        self,
        canvas: Canvas,
        view: View,
        x: float,
        y: float,
        draws: Array,
        key: np.uint64,
        item: int,
        star: Star | None = None,
    ) -> Put:
        through = between(draws[0], self.least, self.most)
        depth = self.structure * draws[1]
        waves = np.empty((3, 4))
        for k in range(3):
            length = log_between(draws[2 + 3 * k], self.shortest_px, self.longest_px)
            angle = 2 * math.pi * draws[3 + 3 * k]
            waves[k, 0], waves[k, 1] = (
                2 * math.pi / length * math.cos(angle),
                2 * math.pi / length * math.sin(angle),
            )
            waves[k, 2], waves[k, 3] = 2 * math.pi * draws[4 + 3 * k], math.sqrt(2 / 3)
        start, twist = noise_of(key, item)
        _cloud(
            canvas.science,
            canvas.science_variance,
            view.science,
            view.sigma_n**2,
            x,
            y,
            through,
            depth,
            waves,
            start,
            twist,
        )
        return Put(math.nan, {"transparency": through, "structure": depth})


@dataclass(frozen=True)
class _Share:
    """Expected in every exposure, in a detector of 3000² pixels."""

    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.share * pixels / 3000.0**2


@dataclass(frozen=True)
class _Exposure:
    """Share of exposures, whatever the area."""

    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.share


def _ghosts(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """A few per bright star."""
    return 2 * n_stars


ARTIFACTS = (
    Artifact(
        "flat-field residual",
        11,
        "Dust that moved, and pixels of unequal response, after flat-fielding: spots and rings of up to 3 % "
        "of sky and stars, 0.3 to 1 % from pixel to pixel (Janesick 2001; BlackBOX 1.2 to 2.8 % between "
        "regions).",
        "anywhere",
        True,
        False,
        5,
        _Share(5.0),
        FlatFieldResidual(),
    ),
    Artifact(
        "sky residual",
        12,
        "Moonlight and twilight leave gradients of up to 5 % of the sky, night-sky lines in thin silicon "
        "leave fringes of 1 to 3 % in z and Y (Bernstein et al. 2017).",
        "anywhere",
        True,
        False,
        8,
        _Exposure(1.0),
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
    Artifact(
        "cloud",
        17,
        "Thin clouds take light from every source, not from the sky's own glow, unevenly: transparency 0.4 "
        "to 1.1 of what the flux scale says (BlackBOX accepts 0.7 to 1.3).",
        "anywhere",
        True,
        False,
        11,
        _Exposure(0.2),
        Cloud(),
    ),
)
