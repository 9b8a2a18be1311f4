import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging.background import evaluate, measure_background


def sloped_sky(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return 500.0 + 0.15 * columns - 0.1 * rows + 30 * np.sin(columns / 150.0)


def test_a_curved_sky_under_stars_is_found_to_a_fraction_of_the_noise(paint):
    field = paint(4.0, n=9, sky=0.01)
    truth = sloped_sky(field.image.shape)
    rng = np.random.default_rng(5)
    image = (field.image + rng.normal(truth, 20.0)).astype(np.float32)

    mesh, rms = measure_background(image, field.mask)
    left = evaluate(mesh, 64, 0, 0, *image.shape) - truth

    assert abs(np.median(left)) < 0.05 * 20
    assert np.sqrt(np.mean(left**2)) < 0.15 * 20
    assert np.median(rms) == pytest.approx(20.0, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    window=st.tuples(st.integers(0, 150), st.integers(0, 150), st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_any_window_equals_the_window_of_the_whole_bit_for_bit(rows, columns, window, seed):
    mesh = np.random.default_rng(seed).normal(100, 30, (rows, columns)).astype(np.float32)
    y0, x0, height, width = window
    whole = evaluate(mesh, 32, 0, 0, 220, 220)
    part = evaluate(mesh, 32, y0, x0, height, width)
    assert np.array_equal(part, whole[y0 : y0 + height, x0 : x0 + width])


def test_a_plane_stays_a_plane_up_to_the_frame_s_corners():
    mesh = 10 + 3.0 * np.arange(5)[:, None] - 2.0 * np.arange(7)[None, :] + np.zeros((5, 7))
    whole = evaluate(mesh, 64, 0, 0, 320, 448)
    rows, columns = (np.arange(n) / 64 + 0.5 / 64 - 0.5 for n in whole.shape)
    assert np.abs(whole - (10 + 3 * rows[:, None] - 2 * columns[None, :])).max() < 1e-3


def test_boxes_without_data_are_filled_and_cut_boxes_stand_for_their_centres():
    shape = (300, 350)  # 4.7 x 5.5 boxes
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    truth = 1000 + 0.5 * columns + 0.3 * rows
    image = np.random.default_rng(3).normal(truth, 10.0).astype(np.float32)
    mask = np.zeros(shape, dtype=np.uint16)
    image[64:128, 64:192] = np.nan
    mask[200:256, 128:192] = Flag.SATURATED
    image[200:256, 128:192] = 65000

    mesh, _ = measure_background(image, mask)

    assert mesh.shape == (5, 6)
    left = evaluate(mesh, 64, 0, 0, *shape) - truth
    assert np.isfinite(mesh).all()
    assert np.sqrt(np.mean(left**2)) < 1.5
    assert np.abs(left).max() < 8.0  # a box is 32 e across, the noise of a pixel 10


def test_a_frame_without_a_usable_pixel_is_refused():
    with pytest.raises(InputError, match="no usable pixel"):
        measure_background(np.full((70, 70), np.nan, np.float32), np.zeros((70, 70), np.uint16))
