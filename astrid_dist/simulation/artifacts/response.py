"""How much of the light arrives and is counted: flat fields and clouds."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.artifacts.base import (
    Array,
    Artifact,
    Put,
    Site,
    between,
    box_around,
    log_between,
    noise_of,
    pixel_index,
)
from astrid_dist.simulation.canvas import Canvas, Image, View
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

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        depth = log_between(draws[0], self.least_depth, self.most_depth) * (1 if draws[1] < 0.3 else -1)
        radius = log_between(draws[2], self.smallest_px, self.largest_px)
        hole = 1.0 if draws[3] < self.ring_share else 0.0
        unevenness = between(draws[4], self.least_unevenness, self.most_unevenness)
        box = box_around(view.shape, x, y, 4 * radius, 4 * radius)
        start, twist = noise_of(site)
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

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
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
        start, twist = noise_of(site)
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
class _Exposures:
    """Share of exposures, whatever the area."""

    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        return self.share


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
        "cloud",
        17,
        "Thin clouds take light from every source, not from the sky's own glow, unevenly: transparency 0.4 "
        "to 1.1 of what the flux scale says (BlackBOX accepts 0.7 to 1.3).",
        "anywhere",
        True,
        False,
        11,
        _Exposures(0.2),
        Cloud(),
    ),
)
