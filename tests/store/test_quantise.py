import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from astrid_dist.store.quantise import LARGEST, STEPS, quantise


@settings(deadline=None)  # the first call compiles
@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(-255, 255, width=32)))
def test_values_become_the_nearest_eighth(values: np.ndarray) -> None:
    found = quantise(values)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.rint(values * STEPS) / STEPS)
    assert not np.signbit(found[found == 0]).any(), "one zero: equal values, equal bits"


def test_rounding_adds_a_twenty_eighth_of_the_noise() -> None:
    noise = np.random.default_rng(1).normal(size=(50, 4, 63, 63)).astype("f4")
    error = quantise(noise).astype("f8") - noise
    assert error.std() == pytest.approx(1 / 8 / 12**0.5, rel=0.01)
    assert abs(error.mean()) < 1e-4, "no bias"
    assert quantise(noise).astype("f8").std() / noise.std() - 1 == pytest.approx(0.065e-2, rel=0.1)


def test_every_half_float_that_is_a_multiple_of_an_eighth_is_kept() -> None:
    every = np.arange(2**16, dtype="u2").view("f2")
    every = every[np.isfinite(every) & (np.abs(every) >= 1 / STEPS)]
    exact = every[every.astype("f4") * STEPS % 1 == 0]
    assert len(exact) > 20_000
    np.testing.assert_array_equal(quantise(exact.astype("f4")), exact)


def test_bright_pixels_lose_less_than_a_thousandth_and_the_brightest_are_cut() -> None:
    bright = np.geomspace(256, LARGEST, 10_000).astype("f4")
    assert np.abs(quantise(bright).astype("f8") / bright - 1).max() <= 3 / 4096
    assert quantise(np.array([1e5, -3e38, LARGEST], "f4")).tolist() == [LARGEST, -LARGEST, LARGEST]


def test_no_data_stays_no_data_wherever_it_lies() -> None:
    values = np.random.default_rng(2).normal(size=(3, 5000)).astype("f4")
    values[:, ::7], values[0, 1], values[1, 2] = np.nan, np.inf, -np.inf
    found = quantise(values[:, ::-1])[:, ::-1]  # not contiguous: copied
    np.testing.assert_array_equal(np.isnan(found), ~np.isfinite(values))
    assert set(found[np.isnan(found)].view("u2").tolist()) == {0x7E00}, "one NaN: equal values, equal bits"
