"""Charge that ends up in another pixel than its light: repelled, deferred, or drawn aside."""

import math
from dataclasses import dataclass

import numpy as np

from astrid_dist.simulation.artifacts.base import (
    Artifact,
    Put,
    Site,
    add_pattern,
    add_star,
    between,
    log_between,
    nearest,
    needed,
    spline_of,
)
from astrid_dist.simulation.artifacts.stars import displace, reshape
from astrid_dist.simulation.canvas import Canvas, Image, Star, View
from astrid_dist.simulation.philox import compiled
from astrid_dist.surveys.profile import Camera


@compiled
def _defer(pattern: Image, share: float, fall: float, direction: int) -> None:
    """Take a share of every pixel and release it to those read later; a share `fall` comes free per row."""
    height, width = pattern.shape
    for j in range(width):
        trapped = 0.0
        for k in range(height):
            i = k if direction > 0 else height - 1 - k
            released = trapped * fall
            trapped += share * pattern[i, j] - released
            pattern[i, j] = np.float32(released - share * pattern[i, j])


@dataclass(frozen=True)
class ChargeTransport:
    """One of three: the brighter-fatter effect, charge transfer inefficiency, or tree rings."""

    brighter_fatter_share: float = 0.4
    least_growth: float = 0.005
    most_growth: float = 0.03
    """Relative growth of the FWHM of a star whose peak is at the full well."""
    deferred_share: float = 0.4
    least_inefficiency: float = 1e-6
    most_inefficiency: float = 2e-5
    """Share lost per transfer, even in the logarithm."""
    shortest_release_px: float = 1.0
    longest_release_px: float = 8.0
    ring_px: float = 0.05
    """Largest displacement by tree rings."""

    def __call__(self, canvas: Canvas, view: View, site: Site) -> Put:
        draws = site.draws
        star = needed(site.star, "charge transport")
        if draws[0] < self.brighter_fatter_share:
            peak = star.flux * float(view.psf_n.max()) / view.camera.full_well
            growth = between(draws[1], self.least_growth, self.most_growth) * min(peak, 1.0)
            reshape(canvas, view, star, 1 + growth, 0.0, 0.0)
            return Put(0.0, {"growth": growth, "star_flux": star.flux})
        if draws[0] < self.brighter_fatter_share + self.deferred_share:
            inefficiency = log_between(draws[1], self.least_inefficiency, self.most_inefficiency)
            share = min(1.0, inefficiency * draws[2] * view.camera.detector_px[1])
            release = log_between(draws[3], self.shortest_release_px, self.longest_release_px)
            direction = 1 if draws[4] < 0.5 else -1
            trail_charge(canvas, view, star, share, release, direction)
            return Put(0.0, {"deferred": share, "release_px": release, "star_flux": star.flux})
        shift, angle = self.ring_px * (2 * draws[1] - 1), math.pi * draws[2]
        displace(canvas, view, star, shift * math.cos(angle), shift * math.sin(angle))
        return Put(0.0, {"shift_px": abs(shift), "star_flux": star.flux})


def trail_charge(
    canvas: Canvas, view: View, star: Star, share: float, release_px: float, direction: int
) -> None:
    """Defer a share of a star's charge along its column; the trail falls by e in `release_px`."""
    spline = spline_of(view.psf_n)
    room = math.ceil(10 * release_px)
    half_v, half_u = spline.shape[0] // 2 + room, spline.shape[1] // 2
    pattern = np.zeros((2 * half_v + 1, 2 * half_u + 1), np.float32)
    left, top = nearest(star.x) - half_u, nearest(star.y) - half_v
    add_star(pattern, spline, star.x - left, star.y - top, star.flux)
    _defer(pattern, share, 1 - math.exp(-1 / release_px), direction)
    add_pattern(canvas.science, canvas.science_variance, pattern, left, top)


def _rate(camera: Camera, pixels: float, exptime_s: float, n_stars: float) -> float:
    """Every star that is bright enough."""
    return n_stars


ARTIFACTS = (
    Artifact(
        "charge transport",
        15,
        "Charge repels charge, so bright stars are wider by 1 to 2 % near the full well (Antilogus et al. "
        "2014); traps defer 1e-6 of it per transfer, which trails behind the star; impurities grown in rings "
        "displace stars by some hundredths of a pixel (Plazas et al. 2014).",
        "star",
        False,
        True,
        5,
        _rate,
        ChargeTransport(),
    ),
)
