import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.imaging import psf


@settings(max_examples=20, deadline=None)
@given(dx=st.floats(-0.9, 0.9), dy=st.floats(-0.9, 0.9), fwhm=st.floats(2.8, 8.0))
def test_a_shift_moves_the_centroid_keeps_the_sum_and_can_be_undone(dx, dy, fwhm):
    stamp = psf.moffat(fwhm, 63).astype(float)
    moved = psf.shift(stamp, dx, dy)[0]
    assert psf.centroid(moved, fwhm) == pytest.approx((dx, dy), abs=0.01)
    assert moved.sum() == pytest.approx(1, abs=1e-6)
    assert np.abs(psf.shift(moved, -dx, -dy)[0] - stamp).max() < 0.03 * stamp.max()


@pytest.mark.parametrize("fwhm", [2.0, 3.7, 9.0])
def test_fwhm_of_a_moffat_is_its_fwhm(fwhm):
    assert psf.fwhm_of(psf.moffat(fwhm, 63)) == pytest.approx(fwhm, rel=0.01)


def test_terms_are_legendre_products_sorted_by_total_order_then_x():
    terms = np.zeros((6, 3, 3), dtype=np.float32)
    terms[:, 1, 1] = 10.0 ** np.arange(6)
    x, y, shape = 30.0, 80.0, (101, 61)  # scaled: x 0, y 0.6
    y1, y2, x2 = 0.6, 0.5 * (3 * 0.36 - 1), -0.5
    expected = 1 + 10 * y1 + 100 * 0.0 + 1e3 * y2 + 1e4 * 0.0 + 1e5 * x2
    assert psf.evaluate(terms, 2, x, y, shape)[1, 1] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="order 1 needs"):
        psf.evaluate(terms, 1, x, y, shape)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_profiles_are_the_psf_of_the_place_moved_and_their_slopes_what_a_move_does(oversampling):
    shape, order = (200, 300), 1
    terms = np.zeros((3, psf.stamp_side(31, oversampling), psf.stamp_side(31, oversampling)))
    terms[0] = psf.moffat(3.2, 31, oversampling=oversampling)
    terms[2] = 0.1 * (psf.moffat(4.0, 31, oversampling=oversampling) - terms[0])
    x, y, step = np.array([40.3, 250.0, 121.45]), np.array([60.2, 10.0, 180.55]), 1e-2
    here, along_x, along_y = psf.profiles(terms, order, oversampling, x, y, shape, 15)
    assert np.allclose(
        here[1], psf.evaluate(terms, order, 250, 10, shape, oversampling), atol=1e-6 * here.max()
    )
    assert [psf.centroid(p, 3.2) for p in here] == pytest.approx(
        [pytest.approx(d, abs=0.01) for d in zip(x - np.rint(x), y - np.rint(y), strict=True)]
    )
    for slope, (dx, dy) in ((along_x, (step, 0)), (along_y, (0, step))):
        ahead, behind = (
            psf.profiles(terms, order, oversampling, x + s * dx, y + s * dy, shape)[0].astype(float)
            for s in (0.5, -0.5)
        )
        assert np.abs((ahead - behind) / step - slope).max() < 0.01 * np.abs(slope).max()
    core = psf.profiles(terms, order, oversampling, x, y, shape, 4)
    assert np.allclose(core[0], here[:, 11:20, 11:20], atol=1e-6)


def test_a_moffat_can_be_sheared_and_its_elongation_is_found():
    stamp = psf.moffat(4.0, 63, 3.0, shear=(0.3, 0.4))
    assert psf.elongation_of(stamp, 4.0) == pytest.approx(np.exp(0.5), rel=0.03)
    moments = psf.moments_of(stamp, 4.0)
    assert np.degrees(0.5 * np.arctan2(2 * moments[0, 1], moments[0, 0] - moments[1, 1])) == pytest.approx(
        np.degrees(0.5 * np.arctan2(0.4, 0.3)), abs=0.5
    )
    assert psf.elongation_of(psf.moffat(4.0, 63), 4.0) == pytest.approx(1, abs=1e-3)


def test_stars_of_a_tile_are_summed_up_by_their_median():
    made = psf.Psf(
        np.zeros((1, 3, 3), np.float32),
        0,
        1,
        4,
        3.0,
        1.0,
        1.0,
        np.zeros((3, 3), np.float32),
        star_x=np.array([3.0, 5.0, 6.0, 99.0]),
        star_y=np.array([3.0, 5.0, 6.0, 20.0]),
        star_chi2=np.array([1.0, 2.0, 30.0, 4.0]),
    )
    found = made.chi2_map((40, 100), 32)
    assert found.shape == (2, 4)
    assert (found[0, 0], found[0, 3]) == (2.0, 4.0)
    assert np.isfinite(found).sum() == 2
