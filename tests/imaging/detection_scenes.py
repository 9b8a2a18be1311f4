"""Simulated pairs through ZOGY: sources, dipoles, hits, trails at known places, with their photon noise."""

import numpy as np

from astrid_dist.imaging.detection import detect, find_peaks
from astrid_dist.imaging.measure import PointSource
from astrid_dist.imaging.streaks import beads, find_streaks
from astrid_dist.imaging.zogy import plan_subtraction, subtract


def gaussian(fwhm, dy=0.0, dx=0.0, box=31):
    axis = np.arange(box) - box // 2
    sigma = fwhm / 2.3548
    stamp = np.exp(-0.5 * ((axis[:, None] - dy) ** 2 + (axis - dx) ** 2) / sigma**2)
    return stamp / (2 * np.pi * sigma**2)


class Scene:
    """Science image and reference on flat sky; fluxes are given in sky-noise sigmas of a PSF flux."""

    def __init__(self, shape=(256, 256), fwhm=(2.8, 2.4), sigma=(20.0, 10.0), seed=1):
        self.rng = np.random.default_rng(seed)
        self.fwhm, self.sigma = fwhm, sigma
        self.plan = plan_subtraction(gaussian(fwhm[0]), gaussian(fwhm[1]), *sigma, 1.0, shape=shape)
        self.new, self.ref = np.zeros(shape), np.zeros(shape)
        self.unit = 1 / (self.plan.F_D * np.sqrt(np.sum(self.plan.psf_d.astype(float) ** 2)))

    def grid(self, step=32):
        """Places at random sub-pixel phases."""
        height, width = self.new.shape
        y, x = np.mgrid[step : height - step + 1 : step, step : width - step + 1 : step]
        y, x = y.ravel(), x.ravel()
        return np.column_stack([y, x]) + self.rng.uniform(-0.5, 0.5, (len(y), 2))

    def add(self, y, x, strength, reference=False):
        image, fwhm = (self.ref, self.fwhm[1]) if reference else (self.new, self.fwhm[0])
        row, column = round(y), round(x)
        image[row - 15 : row + 16, column - 15 : column + 16] += (
            strength * self.unit * gaussian(fwhm, y - row, x - column)
        )

    def line(self, y, x, length, angle, strength):
        steps = np.linspace(-length / 2, length / 2, int(4 * length) + 1)
        for step in steps:
            self.add(y + step * np.sin(angle), x + step * np.cos(angle), strength / len(steps))

    def subtraction(self):
        images, variances = [], []
        for image, sigma in zip((self.new, self.ref), self.sigma, strict=True):
            variance = sigma**2 + np.maximum(image, 0)
            images.append((image + self.rng.normal(size=image.shape) * np.sqrt(variance)).astype(np.float32))
            variances.append(variance.astype(np.float32))
        return subtract(*images, *variances, self.plan)

    def detected(self, threshold=5.0):
        """Columns of all sources, as the detection stage finds them on one tile."""
        made = self.subtraction()
        fwhm = PointSource(made.psf_d).fwhm
        streaks = find_streaks(made.score, fwhm, threshold)
        peaks = find_peaks(made.score, threshold)
        kept, _ = beads(streaks, peaks, fwhm)
        mask = np.zeros(made.score.shape, np.uint16)
        images = made.difference, made.score, made.sigma_flux, made.psf_d, mask
        return detect(*images, tuple(part[kept] for part in peaks), streaks, threshold)[1]


def rows_at(columns, places, radius=2.5):
    """Rows nearest to places, those within the radius."""
    gap = np.hypot(*(columns[axis][:, None] - places[:, i] for i, axis in enumerate("yx")))
    return gap.argmin(axis=0)[gap.min(axis=0) < radius]
