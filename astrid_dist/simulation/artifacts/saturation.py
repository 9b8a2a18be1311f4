"""Stars brighter than a pixel can hold, and what their read-out leaves elsewhere."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.flags import Flag
from astrid_dist.simulation.artifacts.base import (
    Artifact,
    Put,
    Site,
    add_pattern,
    add_star,
    between,
    box_around,
    expose,
    expose_pattern,
    log_between,
    nearest,
    needed,
    noise_of,
    pixel_index,
    spline_of,
)
from astrid_dist.simulation.canvas import Canvas, Image, Mask, View
from astrid_dist.simulation.philox import compiled
from astrid_dist.surveys.profile import Camera


@compiled
def bleed(electrons: Image, full_well: float) -> None:
    """Let charge above the full well run along its column, half up and half down, until there is room.

    Charge that reaches the border is lost; NaN takes none and lets it pass. Changed in place.
    """
    height, width = electrons.shape
    excess = np.empty(height)
    for j in range(width):
        found = False
        for i in range(height):
            excess[i] = max(electrons[i, j] - full_well, 0.0) if electrons[i, j] > full_well else 0.0
            found = found or excess[i] > 0.0
        if not found:
            continue
        for direction in range(2):
            spill = 0.0
            for k in range(height):
                i = k if direction == 0 else height - 1 - k
                if electrons[i, j] < full_well and spill > 0.0:
                    taken = min(full_well - electrons[i, j], spill)
                    electrons[i, j] += np.float32(taken)
                    spill -= taken
                spill += 0.5 * excess[i]
        for i in range(height):
            if electrons[i, j] > full_well:
                electrons[i, j] = np.float32(full_well)


@compiled
def _clip(
    view: Image,
    image: Image,
    variance: Image,
    mask: Mask,
    x0: int,
    x1: int,
    sky: float,
    full_well: float,
    bits: tuple[int, int],
) -> None:
    """Saturate some columns of what is in the window and on the canvas."""
    height = view.shape[0]
    total = np.empty((height, x1 - x0), np.float32)
    for i in range(height):
        for j in range(x0, x1):
            total[i, j - x0] = view[i, j] + image[i, j] + np.float32(sky)
    before = total.copy()
    bleed(total, full_well)
    for i in range(height):
        for j in range(x0, x1):
            gained = total[i, j - x0] - before[i, j - x0]
            if total[i, j - x0] >= np.float32(full_well):
                mask[i, j] |= np.uint16(bits[0])
            if gained > 0:
                mask[i, j] |= np.uint16(bits[1])
            if gained != 0:
                image[i, j] += gained
                variance[i, j] += gained


@compiled
def _wings(
    image: Image,
    variance: Image,
    mask: Mask,
    box: tuple[int, int, int, int],
    x: float,
    y: float,
    halo: float,
    spikes: float,
    angle: float,
    core: float,
    width: float,
    sky_variance: float,
    bit: int,
    start: np.uint64,
    twist: np.uint64,
) -> None:
    """Halo (r^-3) and four spikes (r^-2 along, a Gaussian across), of total fluxes `halo` and `spikes`."""
    cosine, sine = math.cos(angle), math.sin(angle)
    per_arm = spikes / (2.0 * math.pi) * core / (math.sqrt(2.0 * math.pi) * width)
    per_area = halo * core / (2.0 * math.pi)
    middle_x, middle_y = math.floor(x + 0.5), math.floor(y + 0.5)
    for i in range(box[0], box[1]):
        for j in range(box[2], box[3]):
            a = (j - x) * cosine + (i - y) * sine
            b = (i - y) * cosine - (j - x) * sine
            round_core = a * a + b * b + core * core
            mean = per_area / (round_core * math.sqrt(round_core))
            arm = 0.0
            if abs(a) < 5 * width:
                arm += math.exp(-0.5 * (a / width) ** 2) / (b * b + core * core)
            if abs(b) < 5 * width:
                arm += math.exp(-0.5 * (b / width) ** 2) / (a * a + core * core)
            mean += per_arm * arm
            expose(
                image,
                variance,
                i,
                j,
                mean,
                sky_variance,
                start,
                twist,
                pixel_index(i - middle_y, j - middle_x),
            )
            if per_arm * arm > math.sqrt(sky_variance):
                mask[i, j] |= np.uint16(bit)


@dataclass(frozen=True)
class SaturatedStar:
    """A star beyond the full well, in the epoch and in the template: plateau, bleeding, spikes, halo."""

    least_excess: float = 1.0
    most_excess: float = 100.0
    """Of the star's peak over the full well, even in the logarithm; a brighter star stays as it is."""
    least_spikes: float = 0.002
    most_spikes: float = 0.02
    """Share of the light in the four spikes of the secondary's supports, typical."""
    least_halo: float = 0.01
    most_halo: float = 0.03
    """Share of the light in the aureole (King 1971)."""
    turned_share: float = 0.5
    """Of epochs whose spikes lie at another angle than the template's: mounts without a field rotator fixed
    to the sky."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "saturated star")
        well = view.camera.full_well
        excess = log_between(draws[0], self.least_excess, self.most_excess)
        flux = max(star.flux, excess * well / float(view.psf_n.max()))
        spikes = log_between(draws[1], self.least_spikes, self.most_spikes) * flux
        halo = between(draws[2], self.least_halo, self.most_halo) * flux
        angle = math.pi / 2 * draws[3]
        turn = math.pi / 2 * draws[4] / self.turned_share if draws[4] < self.turned_share else 0.0
        start, twist = noise_of(site)
        scale = view.flux_ratio
        sides = (
            (view.science, canvas.science, canvas.science_variance, canvas.mask, view.psf_n),
            (view.template, canvas.template, canvas.template_variance, canvas.template_mask, view.psf_r),
        )
        for k, (seen, image, variance, mask, psf) in enumerate(sides):
            unit = 1.0 if k == 0 else 1 / scale
            sigma, fwhm = (view.sigma_n, view.fwhm_n) if k == 0 else (view.sigma_r, view.fwhm_r)
            noise = twist if k == 0 else ~twist
            spline = spline_of(psf)
            pattern: Image = np.zeros(spline.shape, np.float32)
            left, top = nearest(star.x) - pattern.shape[1] // 2, nearest(star.y) - pattern.shape[0] // 2
            add_star(pattern, spline, star.x - left, star.y - top, unit * (flux - star.flux))
            expose_pattern(image, variance, pattern, left, top, sigma**2, start, noise ^ np.uint64(1 << 62))
            core, width = 3 * fwhm, 0.4 * fwhm
            reach = math.sqrt(spikes * unit * core / (0.3 * width * sigma)) + 5 * fwhm
            box = box_around(view.shape, star.x, star.y, reach, reach)
            _wings(
                image,
                variance,
                mask,
                box,
                star.x,
                star.y,
                unit * halo,
                unit * spikes,
                angle + (turn if k == 0 else 0.0),
                core,
                width,
                sigma**2,
                int(Flag.SPIKE),
                start,
                noise,
            )
            _, _, x0, x1 = box_around(view.shape, star.x, star.y, pattern.shape[1] / 2, 0)
            bits = (int(Flag.SATURATED), int(Flag.BLEED))
            _clip(seen, image, variance, mask, x0, x1, view.sky * unit, well * unit, bits)
        return Put(
            flux - star.flux + spikes + halo,
            {"star_flux": flux, "spikes": spikes, "halo": halo, "spike_angle_rad": angle + turn},
        )


def crosstalk_places(camera: Camera, x: float, y: float) -> list[tuple[float, float]]:
    """Where the other amplifiers of a detector read at the moment that they read a star at (x, y).

    Neighbours read towards opposite corners: their images are mirrored.
    """
    places = []
    sides = [camera.detector_px[k] / camera.amplifiers[k] for k in (0, 1)]
    own = [int(p // side) for p, side in zip((x, y), sides, strict=True)]
    inside = [p - n * side for p, n, side in zip((x, y), own, sides, strict=True)]
    for row in range(camera.amplifiers[1]):
        for column in range(camera.amplifiers[0]):
            if [column, row] == own:
                continue
            at = [
                n * side + (side - 1 - p if (n - mine) % 2 else p)
                for n, side, p, mine in zip((column, row), sides, inside, own, strict=True)
            ]
            places.append((at[0], at[1]))
    return places


@dataclass(frozen=True)
class Crosstalk:
    """A faint copy of a bright star, plateau and bleeding too, where another amplifier was read meanwhile."""

    least: float = 2e-4
    most: float = 1e-3
    """Coefficient, even in the logarithm; typically 1e-5 to 1e-3, of which the largest show."""
    negative_share: float = 0.3
    least_excess: float = 1.0
    most_excess: float = 30.0
    """Of the star's peak over the full well where no star is given."""
    flagged_share: float = 0.1
    #: Rows of bleeding copied, either side.
    reach_px: int = 100

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        x, y, draws = site.x, site.y, site.draws
        well = view.camera.full_well
        coefficient = log_between(draws[0], self.least, self.most)
        if draws[1] < self.negative_share:
            coefficient = -coefficient
        spline = spline_of(view.psf_n)
        excess = log_between(draws[2], self.least_excess, self.most_excess)
        flux = site.star.flux if site.star else excess * well / float(view.psf_n.max())
        reach = max(self.reach_px, spline.shape[0] // 2)
        copy = np.zeros((2 * reach + 1, spline.shape[1]), np.float32)
        left, top = nearest(x) - copy.shape[1] // 2, nearest(y) - reach
        add_star(copy, spline, x - left, y - top, flux)
        bleed(copy, well)
        copy *= np.float32(coefficient)
        add_pattern(canvas.science, canvas.science_variance, copy, left, top)
        if draws[3] < self.flagged_share:
            y0, y1, x0, x1 = box_around(view.shape, x, y, copy.shape[1] // 2, reach)
            seen = np.abs(copy[y0 - top : y1 - top, x0 - left : x1 - left]) > view.sigma_n
            canvas.mask[y0 : y0 + seen.shape[0], x0 : x0 + seen.shape[1]][seen] |= np.uint16(Flag.CROSSTALK)
        return Put(float(copy.sum()), {"coefficient": coefficient, "star_flux": flux})


def _saturated(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """Every star above the full well."""
    return n_stars


def _copies(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """One in every other amplifier, per star near the full well."""
    return n_stars * (camera.amplifiers[0] * camera.amplifiers[1] - 1)


ARTIFACTS = (
    Artifact(
        "saturated star",
        6,
        "Charge beyond the full well (95 000 to 150 000 electrons) runs along the column; the supports of "
        "the secondary make spikes, and scattering makes a halo (King 1971). Both images have them, at "
        "angles of their own where the mount does not hold the field.",
        "star",
        True,
        True,
        5,
        _saturated,
        SaturatedStar(),
    ),
    Artifact(
        "crosstalk",
        14,
        "A star near or beyond the full well leaves a copy of itself, of 1e-5 to 1e-3 and either sign, where "
        "every other amplifier was being read (Freyhammer et al. 2001).",
        "anywhere",
        True,
        True,
        4,
        _copies,
        Crosstalk(),
    ),
)
