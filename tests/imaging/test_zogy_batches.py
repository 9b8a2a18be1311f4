"""Stacks of tiles, NumPy and torch: the same numbers as tile by tile."""

import subprocess
import sys

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from tests.imaging.zogy_scenes import gaussian, moffat, pair

SHAPE = (120, 131)
COUNT = 5


@pytest.fixture(scope="module")
def plan():
    return plan_subtraction(gaussian(2.6), moffat(2.4), 20, 10, 0.8, shape=SHAPE)


@pytest.fixture(scope="module")
def stacks():
    planes = [np.stack(each) for each in zip(*(pair(SHAPE, seed) for seed in range(COUNT)), strict=True)]
    planes[0][1, 50, 60] = np.nan
    planes[3][3, 30:33] = np.nan
    return planes


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(3)
    return {
        "shift": rng.normal(0, 0.3, (COUNT, 2)),
        "astrometric_sigma": rng.uniform(0, 0.1, (COUNT, 2)),
        "flux_ratio_err": rng.uniform(0, 0.02, COUNT),
    }


def images(result):
    return [np.asarray(getattr(result, name)) for name in ("difference", "score", "sigma_flux")]


def assert_same_but_for_rounding(got, expected, plan):
    for one, other, unit in zip(got, expected, (1 / plan.F_D, 1, 1 / plan.F_D), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * unit)
        assert np.sqrt(np.nanmean(np.square(one - other))) < 1e-5 * unit


def test_a_stack_gives_the_bits_of_its_tiles_whatever_their_order(plan, stacks, numbers):
    together = images(subtract(*stacks, plan, **numbers))
    for i in reversed(range(COUNT)):
        own = {name: values[i] for name, values in numbers.items()}
        alone = images(subtract(*(stack[i] for stack in stacks), plan, **own))
        for one, all_ in zip(alone, together, strict=True):
            assert np.array_equal(one, all_[i], equal_nan=True)
    assert not np.array_equal(together[1][0], together[1][2])


def test_one_number_serves_all_tiles_and_another_count_is_refused(plan, stacks, numbers):
    same = {name: values[0] for name, values in numbers.items()}
    each = {name: np.array([values[0]] * COUNT) for name, values in numbers.items()}
    for one, other in zip(
        images(subtract(*stacks, plan, **same)), images(subtract(*stacks, plan, **each)), strict=True
    ):
        assert np.array_equal(one, other, equal_nan=True)
    with pytest.raises(InputError, match=r"shift is \(4, 2\) for 5 tiles"):
        subtract(*stacks, plan, shift=numbers["shift"][:4])
    with pytest.raises(InputError, match=r"reference planes are \(4, 120, 131\)"):
        subtract(stacks[0], stacks[1][:4], *stacks[2:], plan)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_tensors_give_tensors_of_the_same_numbers(plan, stacks, numbers, device):
    torch = pytest.importorskip("torch", reason="the train extra is not installed")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    expected = images(subtract(*stacks, plan, **numbers))
    there = plan.to(device)
    for given in (plan, there):
        result = subtract(*(torch.from_numpy(stack).to(device) for stack in stacks), given, **numbers)
        assert result.score.device == there.match.device
        got = [np.asarray(getattr(result, name).cpu()) for name in ("difference", "score", "sigma_flux")]
        assert_same_but_for_rounding(got, expected, plan)
    wanted = [torch.from_numpy(stack).to(device).requires_grad_() for stack in stacks]
    assert not subtract(*wanted, there, **numbers).score.requires_grad
    back = there.to(None)
    assert isinstance(back.match, np.ndarray)
    np.testing.assert_array_equal(back.match, plan.match)


def test_tiles_transformed_together_as_on_a_gpu_give_the_same_numbers(plan, stacks, numbers, monkeypatch):
    torch = pytest.importorskip("torch", reason="the train extra is not installed")
    expected = images(subtract(*stacks, plan, **numbers))
    monkeypatch.setattr("astrid_dist.imaging.arrays.Namespace.on_host", False)
    # Two tiles at once leave a last block of one.
    monkeypatch.setattr("astrid_dist.imaging.zogy._BLOCK_PIXELS", 2 * plan.padded[0] * plan.padded[1])
    got = images(subtract(*(torch.from_numpy(stack) for stack in stacks), plan, **numbers))
    assert_same_but_for_rounding(got, expected, plan)


def test_numpy_arrays_need_no_torch():
    code = (
        "import sys, numpy as np; from astrid_dist.imaging.zogy import *;"
        "z = np.ones((40, 40), 'f4'); p = np.eye(3) + 1;"
        "subtract(z, z, z, z, plan_subtraction(p, p, 1, 1, 1.0, shape=z.shape));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
