"""A crowded real field, raw and without WCS, quality plane or weights, through the pipeline's own stages."""

from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.imaging.detection import find_peaks
from astrid_dist.stages.tiles import subtract_tile
from tests.benchmarks import bench_saao


@pytest.fixture(scope="module")
def field(realdata, tmp_path_factory):
    if not (realdata / "saao_iband_series").is_dir():
        pytest.skip(f"no crowded field at {realdata}")
    return bench_saao.Field(tmp_path_factory.mktemp("crowded"), ("0169",))


@pytest.mark.slow
def test_a_null_pair_leaves_little_but_noise(field):
    one = field.open("0172", "0169")
    made = subtract_tile(one.pair, one.window, one.new, one.template.planes, bench_saao.ALWAYS)
    never = replace(bench_saao.ALWAYS, refine="never")
    plain = subtract_tile(one.pair, one.window, one.new, one.template.planes, never)
    width, core, peaks, _ = bench_saao.judge(made.score, one.good)
    assert one.good.mean() > 0.5
    assert bench_saao.judge(plain.score, one.good)[0] > 2
    assert width < 1.25
    assert 0.9 < core < 1.2
    assert peaks < 100


@pytest.mark.slow
def test_the_one_source_that_changed_stands_out_above_all(field):
    one = field.open("0001", "0169")
    made = subtract_tile(one.pair, one.window, one.new, one.template.planes, bench_saao.ALWAYS)
    y, x, height = find_peaks(np.where(one.good, made.score, np.float32(np.nan)))
    strongest = int(np.argmax(np.abs(height)))
    assert np.hypot(x[strongest] - bench_saao.CHANGED[0], y[strongest] - bench_saao.CHANGED[1]) < 2
    assert height[strongest] > 40
