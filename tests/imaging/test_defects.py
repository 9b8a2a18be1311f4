import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.imaging.defects import mend
from astrid_dist.imaging.psf import moffat

SIGMA = 20.0


def star_field(fwhm, seed=1, shape=(300, 300), n=150):
    """Image, variance with source noise, and the image without noise; electrons."""
    rng = np.random.default_rng(seed)
    half = 15
    stamp = moffat(fwhm, 2 * half + 1)
    truth = np.zeros(shape)
    for y, x, flux in zip(
        rng.integers(half, shape[0] - half, n), rng.integers(half, shape[1] - half, n),
        10 ** rng.uniform(3, 5.5, n), strict=True,
    ):  # fmt: skip
        truth[y - half : y + half + 1, x - half : x + half + 1] += flux * stamp
    variance = SIGMA**2 + truth
    image = truth + rng.normal(size=shape) * np.sqrt(variance)
    return image.astype(np.float32), variance.astype(np.float32), truth


def with_defects(image, variance, where, flag):
    mask = np.zeros(image.shape, np.uint16)
    mask[where] = int(flag)
    image, variance = image.copy(), variance.copy()
    image[where] = np.nan
    variance[where] = np.nan
    return image, variance, mask


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 5.0])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_narrow_defect_is_filled_within_what_its_variance_says(fwhm, columns):
    image, variance, truth = star_field(fwhm)
    where = np.zeros(image.shape, bool)
    for x in range(7, 300, 11):
        where[:, x : x + columns] = True
    filled, noise, mask = mend(*with_defects(image, variance, where, Flag.BAD), fwhm)
    assert np.isfinite(filled).all()
    assert (mask[where] == int(Flag.BAD | Flag.INTERPOLATED)).all()
    assert not mask[~where].any()
    assert np.array_equal(filled[~where], image[~where])
    pull = (filled - truth)[where] / np.sqrt(noise[where])
    assert pull.std() < 1.1
    assert (np.abs(pull) > 5).mean() < 3e-3


def test_wide_holes_saturation_and_the_unknown_stay_no_data():
    image, variance, _ = star_field(3.0)
    where = np.zeros(image.shape, bool)
    where[50:60, 50:60] = True
    for flag in (Flag.BAD, Flag.COSMIC_RAY):
        filled, _, mask = mend(*with_defects(image, variance, where, flag), 3.0)
        assert np.isnan(filled[where]).all()
        assert not (mask & int(Flag.INTERPOLATED)).any()
    where[:] = False
    where[100, 100] = True
    for flag in (Flag.SATURATED, Flag.NO_DATA, Flag.BLEED, Flag.TRAIL, Flag.BAD | Flag.SATURATED):
        filled, _, _ = mend(*with_defects(image, variance, where, flag), 3.0)
        assert np.isnan(filled[where]).all()


def test_what_has_no_good_neighbour_stays_no_data():
    image, variance, _ = star_field(3.0)
    where = np.zeros(image.shape, bool)
    where[0, 0] = where[200, 200] = True
    given = with_defects(image, variance, where, Flag.COSMIC_RAY)
    given[0][0:4, 0:4] = np.nan  # no data around the corner pixel
    filled, _, _ = mend(*given, 3.0)
    assert np.isnan(filled[0, 0])
    assert np.isfinite(filled[200, 200])


def test_nothing_is_copied_where_nothing_is_wrong():
    image, variance, _ = star_field(3.0)
    mask = np.zeros(image.shape, np.uint16)
    assert mend(image, variance, mask, 3.0)[0] is image
