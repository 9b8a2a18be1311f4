"""The whole way on real DECam frames: unit noise, registration, few false peaks, steady stars."""

from pathlib import Path

import numpy as np
import pytest

import astrid_dist as astrid
from tests.benchmarks.bench_ablation import CUMULATIVE, NEW, NULL_PAIR, look, make_reference, pairs
from tests.realsky import SETS, RealSet, difference, star_curve

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize("chosen", SETS, ids=lambda one: one.name)
def test_real_frames_give_unit_noise_few_peaks_and_steady_stars(
    chosen: RealSet, realdata: Path, tmp_path: Path
) -> None:
    figures = difference(chosen, realdata, tmp_path)
    bands = {"F/r", "F/z"} if chosen.name == "decam_epochs" else {"F/i"}
    assert {one.group for one in figures} == bands
    for one in figures:
        assert abs(one.score_mean) < 0.03, one
        # Resampled, re-reduced frames: their noise is correlated, and said to be before it is divided out.
        assert 0.9 < one.score_std < 1.15, one
        assert np.hypot(*one.offset_err_px) < 0.2, one
        if one.n_matched < 8:
            assert one.verdict in ("yellow", "orange"), one
            assert f"{one.n_matched} matched stars" in one.reason
        else:
            assert one.verdict in ("green", "yellow"), one
        # Some of these cut-outs hold a cosmic ray or a bright galaxy; none may hold a forest of peaks.
        assert one.density[1] < 200, one
    scatter, error = star_curve(tmp_path, figures[-1].group)
    assert scatter < max(0.05, 3 * error)
    if chosen.name == "sfft_decam":
        found = astrid.open_candidates(str(tmp_path / "candidates.zarr")).to_dataframe()
        new = found[np.hypot(found["x"] - 128.2, found["y"] - 127.5) < 0.5]
        assert len(new) == 5, "the new source is in each of the five exposures"
        assert new["object"].nunique() == 1
        assert (new["snr"] > 5).all()


@pytest.mark.parametrize("chosen", [NULL_PAIR, *SETS], ids=lambda one: one.name)
def test_what_a_subtraction_knows_of_its_pair_takes_false_peaks_away(
    chosen: RealSet, realdata: Path, tmp_path: Path
) -> None:
    make_reference(chosen, realdata, tmp_path)
    opened = list(pairs(tmp_path))
    assert len(opened) == {"eso085": 1, "decam_epochs": 3, "sfft_decam": 5}[chosen.name]
    names = ("constant PSF, nothing else", "+ registration", "+ V_ast", "+ flux-ratio variance")
    seen = [[look(pair, CUMULATIVE[name], NEW.get(chosen.name)) for pair in opened] for name in names]
    peaks = [sum(one.peaks for one in step) for step in seen]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] <= 0.5 * peaks[0]
    for before, after in zip(seen[0], seen[-1], strict=True):
        # Errors of stars are told of where stars are: the noise of the sky stays as it was.
        assert after.quiet_std == pytest.approx(before.quiet_std, rel=0.02)
        assert abs(after.whole_std - 1) < abs(before.whole_std - 1) + 0.05
        assert after.star_sigma > before.star_sigma
