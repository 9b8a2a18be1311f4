"""What wrong inputs cost: false peaks, and how naming the error takes them away."""

import pytest

from tests.imaging.zogy_scenes import WrongInputs


@pytest.fixture(scope="module")
def inputs():
    return WrongInputs(side=768, seed=1)


def test_right_inputs_leave_no_false_peak_and_find_every_transient(inputs):
    row = inputs.measure("none", 0.0)
    assert (row.spurious, row.recovered) == (0, 25)
    assert row.score_std == pytest.approx(1, abs=0.02)


def test_a_shift_makes_dipoles_which_the_astrometric_variance_excuses_at_no_loss(inputs):
    rows = [inputs.measure("shift", error) for error in (0.05, 0.1, 0.2, 0.3)]
    counts = [row.spurious for row in rows]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] > 40
    assert all(row.spurious_excused <= 1 for row in rows)
    assert all(row.recovered == 25 for row in rows)
    assert all(row.score_std == pytest.approx(1, abs=0.02) for row in rows)


@pytest.mark.parametrize(("kind", "small", "large"), [("FWHM", 0.01, 0.1), ("flux ratio", 0.01, 0.05)])
def test_a_wrong_width_or_flux_ratio_is_excused_by_the_ratio_error(inputs, kind, small, large):
    assert inputs.measure(kind, small).spurious <= 2
    row = inputs.measure(kind, large)
    assert row.spurious >= 5
    assert row.spurious_excused <= 1
    assert row.recovered == 25
