"""Star fields to put artifacts on."""

import numpy as np

from astrid_dist.imaging.psf import moffat, moffat_at, taper
from astrid_dist.imaging.zogy import Subtraction, plan_subtraction, subtract
from astrid_dist.simulation.canvas import Canvas, Star, View
from astrid_dist.surveys.profile import Camera

BOX = 41
#: A Moffat this steep is a Gaussian, of which the laws in closed form speak.
GAUSSIAN = 200.0
CAMERA = Camera()


def star_image(shape, x, y, fwhm, *, beta=3.5, width=1.0):
    """A star of unit flux straight from the Moffat, without an interpolation; its FWHM times `width`."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = moffat_at(v - y, u - x, fwhm * width, beta, (0.0, 0.0))
    half = BOX // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    stamp = moffat_at(v, u, fwhm, beta, (0.0, 0.0)) * taper(BOX, fwhm)
    return image / (stamp.sum() * width**2)


def make_view(
    shape=(81, 81),
    *,
    stars=((40.0, 40.0, 2e5),),
    fwhm_n=3.0,
    fwhm_r=3.0,
    beta=3.5,
    sky=600.0,
    sigma_r=10.0,
    flux_ratio=1.0,
    noise=False,
    camera=CAMERA,
    seed=1,
):
    """A window with these stars (x, y, electrons of the epoch), with or without noise."""
    sigma_n = float(np.hypot(np.sqrt(sky), camera.read_noise))
    science, template = np.zeros(shape), np.zeros(shape)
    for x, y, flux in stars:
        science += flux * star_image(shape, x, y, fwhm_n, beta=beta)
        template += flux / flux_ratio * star_image(shape, x, y, fwhm_r, beta=beta)
    if noise:
        rng = np.random.default_rng(seed)
        science += rng.normal(0, np.sqrt(sigma_n**2 + np.maximum(science, 0)))
        template += rng.normal(0, np.sqrt(sigma_r**2 + np.maximum(template, 0) / 10))
    return View(
        science=science.astype(np.float32),
        template=template.astype(np.float32),
        sigma_n=sigma_n,
        sigma_r=sigma_r,
        flux_ratio=flux_ratio,
        sky=sky,
        psf_n=moffat(fwhm_n, BOX, beta),
        psf_r=moffat(fwhm_r, BOX, beta),
        fwhm_n=fwhm_n,
        fwhm_r=fwhm_r,
        camera=camera,
        exptime_s=30.0,
        zeropoint=30.0,
        stars=tuple(Star(x, y, flux) for x, y, flux in sorted(stars, key=lambda s: -s[2])),
        pixel_scale_arcsec=1.0,
    )


def difference(view: View, canvas: Canvas, *, source_noise=True) -> Subtraction:
    """ZOGY difference of the pair with what is on the canvas."""
    plan = plan_subtraction(
        view.psf_n, view.psf_r, view.sigma_n, view.sigma_r, view.flux_ratio, shape=view.shape
    )
    new, ref = view.science + canvas.science, view.template + canvas.template
    var_new = np.full(view.shape, view.sigma_n**2, np.float32)
    var_ref = np.full(view.shape, view.sigma_r**2, np.float32)
    if source_noise:
        var_new += np.maximum(view.science, 0) + canvas.science_variance
        var_ref += np.maximum(view.template, 0) / 10 + canvas.template_variance
    return subtract(new, ref, np.maximum(var_new, 1), np.maximum(var_ref, 1), plan)
