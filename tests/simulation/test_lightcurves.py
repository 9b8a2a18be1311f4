import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.simulation.lightcurves import bazin, rr_lyrae, straight_motion, villar


@given(rise=st.floats(0.5, 9), ratio=st.floats(1.2, 20))
def test_a_bazin_supernova_peaks_at_one_on_day_zero(rise, ratio):
    days = np.linspace(-60, 200, 5201)
    flux = bazin(days, rise, rise * ratio)
    assert flux.max() == pytest.approx(1.0, abs=1e-3)
    assert abs(days[flux.argmax()]) < 0.2
    assert bazin(0.0, rise, rise * ratio) == pytest.approx(1.0)


def test_a_supernova_is_dark_a_year_before_and_dims_by_its_e_folding_time():
    assert bazin(-365.0, 4.0, 25.0) < 1e-30
    assert bazin(125.0, 4.0, 25.0) / bazin(100.0, 4.0, 25.0) == pytest.approx(np.exp(-1), rel=1e-6)
    assert villar(-365.0, 3.0, 80.0, 0.3, 15.0) < 1e-30


def test_a_plateau_loses_its_fraction_and_then_falls_without_a_jump():
    days = np.linspace(-20, 160, 18001)
    flux = villar(days, 2.0, 80.0, 0.3, 15.0)
    assert villar(79.99, 2.0, 80.0, 0.3, 15.0) == pytest.approx(0.7, abs=1e-3)
    assert np.abs(np.diff(flux)).max() < 2e-3
    assert villar(95.0, 2.0, 80.0, 0.3, 15.0) == pytest.approx(0.7 * np.exp(-1), rel=1e-3)


def test_a_curve_without_a_peak_is_refused():
    with pytest.raises(ValueError, match="rise < fall"):
        bazin(0.0, 5.0, 4.0)


@given(amplitude=st.floats(0.1, 1.5), rise=st.floats(0.1, 0.5))
def test_an_rr_lyrae_repeats_keeps_its_mean_and_brightens_within_its_rise(amplitude, rise):
    phase = np.arange(4000) / 4000
    magnitude = rr_lyrae(phase, amplitude, rise)
    np.testing.assert_allclose(rr_lyrae(phase + 3, amplitude, rise), magnitude, atol=1e-9)
    assert np.ptp(magnitude) == pytest.approx(amplitude, rel=1e-3)
    assert magnitude.mean() == pytest.approx(0.0, abs=1e-3 * amplitude)
    assert phase[magnitude.argmin()] == pytest.approx(rise, abs=1e-3)


def test_an_asteroid_moves_in_a_straight_line():
    x, y = straight_motion(np.array([10.0, 10.5]), 10.0, (5.0, 6.0), (20.0, -8.0))
    assert list(x) == [5.0, 15.0]
    assert list(y) == [6.0, 2.0]
