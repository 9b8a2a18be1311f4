"""S_corr of HSC alert packets beside the significance that the LSST pipelines gave them."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hsc import ARCHIVE, Alert, agreement, measure, noise_of, packets

Result = dict[str, Any]
REALDATA = Path(
    os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
)
#: Brightest template pixel near the alert over its noise: blank sky, faint and bright hosts, stars.
CONTRASTS = (0, 20, 60, 200, np.inf)


def hsc() -> list[Result]:
    """Ratio and correlation with the packets' own figures: all, by SNR, by what lies beneath; the noise."""
    if not (REALDATA / ARCHIVE).exists():
        print(f"hsc: no packets at {REALDATA / ARCHIVE}; set ASTRID_REALDATA")
        return []
    alerts = [measure(packet) for packet in packets(REALDATA)]
    steady = [one for one in alerts if not one.dipole]
    found = agreement(steady)
    parts = {"all": steady, "flagged dipoles": [one for one in alerts if one.dipole]}
    edges = np.percentile([abs(one.said) for one in steady], [0, 25, 50, 75, 100])
    parts |= _parts("SNR", edges, steady, lambda one: abs(one.said))
    parts |= _parts("template contrast", CONTRASTS, steady, lambda one: one.contrast)
    print("  | alerts | n | median ratio | correlation | same sign | within 20 % | error ratio |")
    print("  |---|---|---|---|---|---|---|")
    for name, part in parts.items():
        one = agreement(part)
        print(
            f"  | {name} | {one.n} | {one.ratio:.3f} | {one.correlation:.2f} | {100 * one.signs:.0f} % "
            f"| {100 * one.within:.0f} % | {one.error_ratio:.3f} |"
        )
    noise = noise_of(alerts)
    print(
        f"  blank sky: neighbours correlate by {noise.correlation_n:.3f} (science) and "
        f"{noise.correlation_r:.3f} (template); pixels scatter by "
        f"{noise.std_n:.3f} and {noise.std_r:.3f} of their stated noise"
    )
    return [
        _row("hsc_ratio", found.ratio, "1", "psfFlux / psfFluxErr of the packets", found.ratio),
        _row("hsc_correlation", found.correlation, "1", "0.90 asked for", found.correlation / 0.9),
        _row("hsc_error", found.error_ratio, "1", "psfFluxErr of the packets", found.error_ratio),
        _row(
            "hsc_score_std",
            noise.score_std,
            "1",
            f"predicted from lag-1 correlation: {noise.predicted_std:.3f}",
            noise.score_std / noise.predicted_std,
        ),
    ]


def _parts(
    name: str, edges: Any, alerts: list[Alert], value: Callable[[Alert], float]
) -> dict[str, list[Alert]]:
    """Alerts between neighbouring edges; the last edge is included."""
    places = np.clip(np.searchsorted(edges, [value(one) for one in alerts], "right") - 1, 0, len(edges) - 2)
    return {
        f"{name} {low:.3g} to {high:.3g}": [one for one, k in zip(alerts, places, strict=True) if k == at]
        for at, (low, high) in enumerate(itertools.pairwise(edges))
    }


def _row(name: str, value: float, unit: str, against: str, ratio: float) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"hsc": hsc}
