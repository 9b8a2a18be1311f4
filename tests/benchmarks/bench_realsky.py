"""How the differences of real frames look: noise, false peaks and registration, epoch by epoch."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.realsky import SETS, difference, star_curve

Result = dict[str, Any]
REALDATA = Path(
    os.environ.get("ASTRID_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata")
)


def real_sky() -> list[Result]:
    """Medians over the epochs of each set, beside what white noise and perfect stars would give."""
    if not REALDATA.is_dir():
        print(f"real_sky: no real data at {REALDATA}; set ASTRID_REALDATA")
        return []
    rows: list[Result] = []
    for chosen in SETS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            figures = difference(chosen, REALDATA, folder)
            scatter, error = star_curve(folder, figures[-1].group)
        for one in figures:
            density, low, high = one.density
            print(
                f"  {chosen.name} {one.group} {one.source}: offset ({one.offset_px[0]:+.2f} ± "
                f"{one.offset_err_px[0]:.2f}, {one.offset_px[1]:+.2f} ± {one.offset_err_px[1]:.2f}) px by "
                f"{one.n_matched} stars, S_corr mean {one.score_mean:+.3f} std {one.score_std:.3f} before "
                f"renormalisation, {density:.0f} ({low:.0f} to {high:.0f}) peaks/Mpix; {one.verdict}"
            )
        std = float(np.median([one.score_std for one in figures]))
        peaks = sum(one.peaks for one in figures) / sum(one.megapixels for one in figures)
        rows += [
            _row(f"{chosen.name}_score_std", std, "1", "white noise of the stated variance", std),
            _row(f"{chosen.name}_peaks", peaks, "1/Mpix", "0.37 in white noise", peaks / 0.37),
            _row(
                f"{chosen.name}_star",
                100 * scatter,
                "% scatter",
                f"{100 * error:.2f} % stated error",
                scatter / error,
            ),
        ]
    return rows


def _row(name: str, value: float, unit: str, against: str, ratio: float) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"real_sky": real_sky}
