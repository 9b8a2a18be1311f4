"""Computed pictures of the documentation; ``python docs/pictures.py`` writes them to docs/_static."""

from pathlib import Path

import numpy as np

from astrid_dist.figures.canvas import INK, new_figure, png
from astrid_dist.imaging import zogy
from astrid_dist.simulation.render import MoffatPsf, paint_points

STATIC = Path(__file__).parent / "_static"
SIDE, MIDDLE, RADIUS = 81, 40, 15
SKY, STAR, NEW = 200.0, 1e5, 1e3  # electrons
SCIENCE, REFERENCE = MoffatPsf(3.2), MoffatPsf(2.8)


def residuals():
    """S_corr of a star of 100,000 electrons, subtracted rightly and with one thing wrong."""
    figure, axes = new_figure(8.4, 1.9, 1, 5)
    rng = np.random.default_rng(3)
    draw = (
        lambda: score(rng),
        lambda: score(rng, offset=0.2),
        lambda: score(rng, believed=MoffatPsf(0.85 * SCIENCE.fwhm_px)),
        lambda: score(rng, ratio=1.05),
        lambda: score(rng, new=NEW),
    )
    titles = (
        "all right",
        "0.2 pixel off",
        "PSF 15 % too narrow",
        "flux ratio 5 % too large",
        "a new source",
    )
    shown = slice(MIDDLE - 14, MIDDLE + 15)
    for panel, title, drawn in zip(axes, titles, draw, strict=True):
        panel.imshow(drawn()[shown, shown], cmap="RdBu_r", vmin=-8, vmax=8, origin="lower")
        panel.set_title(title, fontsize=8, color=INK)
        panel.set_axis_off()
    return png(figure, dpi=90)


def score(rng, offset=0.0, believed=SCIENCE, ratio=1.0, new=0.0):
    """S_corr (y, x) of a star `offset` pixels off, and of a new source of so many electrons beside it."""
    science, var_science = exposure(
        rng, SCIENCE, [MIDDLE + offset, MIDDLE + 6], [MIDDLE, MIDDLE + 3], [STAR, new]
    )
    reference, var_reference = exposure(rng, REFERENCE, [MIDDLE], [MIDDLE], [STAR])
    psfs = (believed.stamp(RADIUS), REFERENCE.stamp(RADIUS))
    plan = zogy.plan_subtraction(*psfs, SKY**0.5, SKY**0.5, ratio, shape=(SIDE, SIDE))
    return zogy.subtract(science, reference, var_science, var_reference, plan).score


def exposure(rng, psf, x, y, flux):
    """Sources on a sky that is known and taken away, and the variance, electrons."""
    light = np.zeros((SIDE, SIDE))
    paint_points(light, np.array(x, float), np.array(y, float), np.array(flux, float), psf)
    variance = (light + SKY).astype(np.float32)
    return rng.normal(light, np.sqrt(variance)).astype(np.float32), variance


if __name__ == "__main__":
    (STATIC / "residuals.png").write_bytes(residuals())
