"""A real pair 74 s apart: nothing in it should vary."""

import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.imaging import background, psf, registration
from astrid_dist.imaging import stars as stars_of
from astrid_dist.imaging.detection import find_peaks
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from tests.imaging.zogy_scenes import BOX


@pytest.mark.realdata
def test_a_real_pair_in_which_nothing_changed_gives_unit_scores_and_few_peaks(realdata):
    folder = realdata / "properimage_eso085"
    frames = []
    for number in (4, 5):
        image = fits.getdata(folder / f"aligned_eso085-030-00{number}.fit.gz").astype(np.float32)
        mask = np.zeros(image.shape, np.uint16)
        mesh, rms = background.measure_background(image, mask)
        sky, sigma = (background.evaluate(plane, 64, 0, 0, *image.shape) for plane in (mesh, rms))
        image -= sky
        gain = np.median(sky) / np.median(sigma) ** 2  # the sky is bright: its noise is Poisson's
        variance = (sigma**2 + np.maximum(image, 0) / gain).astype(np.float32)
        fwhm = stars_of.estimate_fwhm(image, variance, mask, 3.0)
        found = stars_of.measure_stars(image, variance, mask, fwhm, saturation=4e4)
        model = measure_psf(image, variance, mask, found, BOX, fwhm)
        image[image > 4e4] = np.nan
        frames.append(
            (
                image,
                variance,
                found,
                psf.evaluate(model.terms, model.order, 0, 0, image.shape),
                np.median(sigma),
            )
        )
    (new, var_new, stars_n, psf_n, sigma_n), (ref, var_ref, stars_r, psf_r, sigma_r) = frames
    matched = registration.match_stars(stars_n, stars_r, 2.0)
    offset = registration.measure_offset(stars_n, stars_r, *matched)
    ratio = registration.measure_flux_ratio(stars_n, stars_r, *matched)
    plan = plan_subtraction(psf_n, psf_r, sigma_n, sigma_r, ratio.ratio, shape=new.shape)
    result = subtract(
        new,
        ref,
        var_new,
        var_ref,
        plan,
        shift=(offset.dx, offset.dy),
        astrometric_sigma=(offset.scatter, offset.scatter),
        flux_ratio_err=ratio.ratio * ratio.scatter,
    )
    score = result.score[24:-24, 24:-24]
    assert 1.4826 * np.nanmedian(np.abs(score)) == pytest.approx(1, abs=0.05)
    assert np.nanstd(score) == pytest.approx(1, abs=0.05)
    # 386 stars; what is left are a handful of cosmic rays and the like in 0.62 Mpix.
    assert len(find_peaks(score, 5.0)[0]) <= 15
