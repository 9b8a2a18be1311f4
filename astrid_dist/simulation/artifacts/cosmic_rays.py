"""Charge of particles that pass through the silicon: muons, and electrons that stop in it.

No optics blur it and no light made it: it comes after the PSF and has no shot noise, only the fluctuations of
energy loss. On its way to the gates it diffuses by a fraction of a pixel.
"""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts.base import (
    Array,
    Artifact,
    Put,
    Site,
    between,
    log_between,
    noise_of,
    quantile,
)
from astrid_dist.simulation.canvas import Canvas, Image, View
from astrid_dist.simulation.philox import compiled, normal_at
from astrid_dist.surveys.profile import Camera

#: Share of events that are curls and spots, in thick detectors (20 to 40 %: Groom 2002).
_WORM_SHARE = 0.3
#: Deposits per pixel of path; each is a Gaussian of at least 0.3 px.
_STEPS_PER_PX = 4.0
#: Of the loss in 15 µm of silicon, in units of its mean (thin absorbers: Bichsel 1988).
_STRAGGLING = 0.25


@compiled
def _deposit(image: Image, x: float, y: float, charge: float, sigma: float) -> None:
    """Add charge that has spread as a Gaussian, integrated over pixels."""
    if not (-4.0 < x < image.shape[1] + 3.0 and -4.0 < y < image.shape[0] + 3.0):
        return
    reach = math.ceil(3.5 * sigma)
    at_x, at_y = math.floor(x + 0.5), math.floor(y + 0.5)
    scale = 1.0 / (math.sqrt(2.0) * sigma)
    share_x, share_y = np.empty(2 * reach + 1), np.empty(2 * reach + 1)
    before_x = math.erf((at_x - reach - 0.5 - x) * scale)
    before_y = math.erf((at_y - reach - 0.5 - y) * scale)
    for k in range(2 * reach + 1):
        after_x = math.erf((at_x - reach + k + 0.5 - x) * scale)
        after_y = math.erf((at_y - reach + k + 0.5 - y) * scale)
        share_x[k], share_y[k] = 0.5 * (after_x - before_x), 0.5 * (after_y - before_y)
        before_x, before_y = after_x, after_y
    whole = charge / (share_x.sum() * share_y.sum())
    for k in range(max(0, reach - at_y), min(2 * reach + 1, image.shape[0] - at_y + reach)):
        for m in range(max(0, reach - at_x), min(2 * reach + 1, image.shape[1] - at_x + reach)):
            image[at_y - reach + k, at_x - reach + m] += np.float32(whole * share_y[k] * share_x[m])


@compiled
def _track(
    image: Image,
    x: float,
    y: float,
    dx: float,
    dy: float,
    charge: float,
    blur: float,
    cells: int,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """A straight track from back to front; the deeper the charge is made, the less it diffuses.

    In a pixel's length of silicon the loss fluctuates by about a half, with knots of knock-on electrons.
    """
    shares = np.empty(cells)
    for k in range(cells):
        shares[k] = max(1.0 - _STRAGGLING * math.log(normal_at(start, twist, k) ** 2 + 1e-12), 0.2)
    total = shares.sum()
    steps = int(_STEPS_PER_PX * math.sqrt(dx * dx + dy * dy)) + 8
    steps += -steps % cells
    for k in range(steps):
        along = (k + 0.5) / steps
        part = charge * shares[k * cells // steps] / total * cells / steps
        sigma = max(blur * math.sqrt(along), 0.15)
        _deposit(image, x + (along - 0.5) * dx, y + (along - 0.5) * dy, part, sigma)


@compiled
def _walk(length: float, turn: float, start: np.uint64, twist: np.uint64, steps: int) -> Array:
    """(steps, 2) places x, y of a path that curls ever more, about its own middle."""
    path = np.empty((steps, 2))
    angle = 2.0 * math.pi * (normal_at(start, twist, 0) % 1.0)
    x = y = 0.0
    for k in range(steps):
        left = 1.0 - k / steps
        # multiple scattering goes as 1 / energy, which falls to nothing along the path
        angle += turn * normal_at(start, twist, k + 1) / max(left, 0.1)
        x += length / steps * math.cos(angle)
        y += length / steps * math.sin(angle)
        path[k, 0], path[k, 1] = x, y
    path[:, 0] -= path[:, 0].mean()
    path[:, 1] -= path[:, 1].mean()
    return path


@compiled
def _worm(image: Image, x: float, y: float, path: Array, charge: float, blur: float) -> None:
    steps = path.shape[0]
    total = 0.0
    for k in range(steps):
        total += 1.0 / max(1.0 - k / steps, 0.1)
    for k in range(steps):
        # slow electrons lose more
        part = charge / (max(1.0 - k / steps, 0.1) * total)
        _deposit(image, x + path[k, 0], y + path[k, 1], part, blur)


def _finish(canvas: Canvas, before: Image, box: tuple[slice, slice], flagged: bool, sigma: float) -> None:
    """Variance, and flag if found, of what has been added to a part of the window."""
    added = canvas.science[box] - before
    canvas.science_variance[box] += added
    if flagged:
        canvas.mask[box][added > sigma] |= np.uint16(Flag.COSMIC_RAY)


def _box(shape: tuple[int, int], x: float, y: float, reach_x: float, reach_y: float) -> tuple[slice, slice]:
    y0, y1 = max(int(y - reach_y), 0), max(min(int(y + reach_y) + 2, shape[0]), 0)
    x0, x1 = max(int(x - reach_x), 0), max(min(int(x + reach_x) + 2, shape[1]), 0)
    return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))


@dataclass(frozen=True)
class Track:
    """A muon that passes through."""

    electrons_per_um: float = 80.0
    """Most probable, of a minimum ionising particle in silicon (Bichsel 1988)."""
    landau_width_per_um: float = 4.9
    """Width ξ of the energy loss: 17.8 eV/µm at 3.6 eV per electron (Bichsel 1988)."""
    least_blur_px: float = 0.4
    most_blur_px: float = 0.75
    """Diffusion of charge from the far side; a track's mean is 0.7 of it."""
    flagged_share: float = 0.1
    """Of those that are left for a model to see, that the pipeline has found."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        camera = view.camera
        # cos² of the zenith angle in intensity, times the projection of a flat detector
        cosine = max(draws[0] ** 0.25, 0.02)
        length = camera.thickness_um / camera.pixel_um * math.sqrt(1 - cosine * cosine) / cosine
        path_um = camera.thickness_um / cosine
        # Moyal's (1955) form of the Landau distribution: minus the logarithm of a squared normal number
        loss = -2 * math.log(abs(quantile(0.5 + 0.5 * draws[1])) + 1e-12)
        charge = path_um * (self.electrons_per_um + self.landau_width_per_um * min(loss, 100.0))
        dx, dy = length * math.cos(2 * math.pi * draws[2]), length * math.sin(2 * math.pi * draws[2])
        blur = between(draws[3], self.least_blur_px, self.most_blur_px)
        box = _box(canvas.science.shape, x, y, abs(dx) / 2 + 4, abs(dy) / 2 + 4)
        before = canvas.science[box].copy()
        start, twist = noise_of(site)
        cells = max(1, int(path_um / camera.pixel_um))
        _track(canvas.science, x, y, dx, dy, charge, blur, cells, start, twist)
        _finish(canvas, before, box, draws[4] < self.flagged_share, view.sigma_n)
        return Put(charge, {"length_px": length, "angle_rad": 2 * math.pi * draws[2], "blur_px": blur})


@dataclass(frozen=True)
class Worm:
    """An electron set free by radiation nearby: it scatters until it stops, in a curl or a spot."""

    spot_share: float = 0.5
    shortest_px: float = 5.0
    longest_px: float = 40.0
    turn: float = 0.15
    """Standard deviation of its turn per step at the start, radians; a step is a quarter of a pixel."""
    least_per_um: float = 80.0
    most_per_um: float = 200.0
    """Electrons: those that are slow lose more."""
    spot_least: float = 100.0
    """Electrons, of a power law of slope -2 in energy; not less than what shows (15 sigma of a pixel)."""
    spot_most: float = 20000.0
    blur_px: float = 0.5
    flagged_share: float = 0.1

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        if draws[0] < self.spot_share:
            length = between(draws[1], 0.2, 2.0)
            least, most = max(self.spot_least, 15 * view.sigma_n), self.spot_most
            charge = 1 / (1 / least - draws[2] * (1 / least - 1 / max(most, 2 * least)))
        else:
            length = log_between(draws[1], self.shortest_px, self.longest_px)
            charge = length * view.camera.pixel_um * between(draws[2], self.least_per_um, self.most_per_um)
        start, twist = noise_of(site)
        path = _walk(length, self.turn, start, twist, max(8, int(_STEPS_PER_PX * length)))
        reach_x, reach_y = np.abs(path).max(axis=0) + 4
        box = _box(canvas.science.shape, x, y, reach_x, reach_y)
        before = canvas.science[box].copy()
        _worm(canvas.science, x, y, path, charge, self.blur_px)
        _finish(canvas, before, box, draws[3] < self.flagged_share, view.sigma_n)
        return Put(charge, {"length_px": length})


@dataclass(frozen=True)
class _Rate:
    share: float

    def __call__(self, camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
        area_cm2 = pixels * (camera.pixel_um * 1e-4) ** 2
        return self.share * camera.cosmic_rays * area_cm2 * exptime_s / 60


ARTIFACTS = (
    Artifact(
        "cosmic-ray track",
        1,
        "Muons leave straight tracks sharper than any PSF, thickness × tan(zenith angle) long; 2.2 to 5 per "
        "cm² and minute (DECam, zenith) with a distribution of zenith angles ∝ cos², and about 80 electrons "
        "per µm (Bichsel 1988; Groom 2002).",
        "anywhere",
        False,
        False,
        5,
        _Rate(1 - _WORM_SHARE),
        Track(),
    ),
    Artifact(
        "cosmic-ray worm",
        2,
        "Compton electrons of radioactivity and gamma rays curl up in thick silicon, or stop within a pixel "
        "or three: 20 to 40 % of events (Groom 2002, 'Cosmic rays and other nonsense in astronomical CCD "
        "imagers').",
        "anywhere",
        False,
        False,
        4,
        _Rate(_WORM_SHARE),
        Worm(),
    ),
)
