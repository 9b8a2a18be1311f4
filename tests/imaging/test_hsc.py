"""S_corr against the significance that the LSST pipelines gave the same alerts, an oracle from others."""

from pathlib import Path

import numpy as np
import pytest

from tests.hsc import Alert, agreement, measure, noise_of, packets

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def alerts(realdata: Path) -> list[Alert]:
    return [measure(packet) for packet in packets(realdata)]


def test_every_packet_is_subtracted_without_holes(alerts: list[Alert]) -> None:
    assert len(alerts) == 188
    assert sum(one.dipole for one in alerts) == 55
    assert all(np.isfinite(one.scores).all() for one in alerts)


def test_scores_are_as_significant_as_the_packets_say(alerts: list[Alert]) -> None:
    found = agreement([one for one in alerts if not one.dipole])
    assert 0.92 < found.ratio < 1.08
    assert found.correlation >= 0.90
    assert found.signs > 0.95
    assert 0.9 < found.error_ratio < 1.0


def test_alerts_in_the_open_agree_best(alerts: list[Alert]) -> None:
    steady = [one for one in alerts if not one.dipole]
    blank = agreement([one for one in steady if one.contrast < 20])
    bright = agreement([one for one in steady if one.contrast > 200])
    assert blank.correlation > 0.97
    assert blank.signs == 1
    assert blank.within > 0.6 > bright.within


def test_a_warped_template_has_correlated_noise_and_widens_the_score_as_predicted(
    alerts: list[Alert],
) -> None:
    found = noise_of(alerts)
    assert found.correlation_r > 2 * found.correlation_n > 0
    assert 0.95 < found.std_n < 1.05
    assert 0.95 < found.std_r < 1.10
    assert 1.05 < found.predicted_std < found.score_std < 1.25
