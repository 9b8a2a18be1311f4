"""Proper subtraction: against its own transforms, the textbook, torch, and other codes; on one thread.

Other codes run in an environment of their own, whose folder the variable ASTRID_PEERS names:

    python -m venv peers
    peers/bin/pip install setuptools wheel sfft
    peers/bin/pip install --no-build-isolation tinynpydb
    peers/bin/pip install properimage
    ASTRID_PEERS=peers make bench ONLY=zogy_peers
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

Result = dict[str, Any]

SIDE, STAGE_SIDE, ROUNDS = 1024, 512, 15
PEERS = {"sfft": "kernel half width 4, no spatial terms", "properimage": "beta and shift given"}


def zogy_core() -> list[Result]:
    """Mpix/s with source, astrometric and flux-ratio noise, beside the eight transforms alone."""
    return [
        *_core("zogy_core", SIDE),
        *_core("zogy_core_shifted", SIDE, shift=(0.2, -0.1)),
        *_core("zogy_core_stage", STAGE_SIDE),
    ]


def _core(name: str, side: int, **more: Any) -> list[Result]:
    planes, plan = _tile(side)

    def bare() -> None:
        for plane in planes:
            fft.irfft2(fft.rfft2(plane, plan.padded), plan.padded)

    ours, transforms = _medians(ROUNDS, lambda: _subtract(planes, plan, **more), bare)
    mpix = side**2 / 1e6
    against = f"8 bare real float32 transforms on {plan.padded}: {mpix / transforms:.1f} Mpix/s"
    return [_row(name, mpix / ours, "Mpix/s", against, transforms / ours)]


def zogy_plan() -> list[Result]:
    """Milliseconds to plan the filters of a pair of PSFs, beside subtracting with them once."""
    rows = []
    for name, side in (("zogy_plan", STAGE_SIDE), ("zogy_plan_1024", SIDE)):
        planes, plan = _tile(side)
        made, used = _medians(ROUNDS, partial(_plan, side), partial(_subtract, planes, plan))
        rows.append(
            _row(name, made * 1e3, "ms", f"subtract on {plan.padded}: {used * 1e3:.1f} ms", made / used)
        )
    return rows


def zogy_textbook() -> Result:
    """Mpix/s beside the textbook: 20 complex float64 transforms, PSFs and kernels included."""
    from tests.imaging.zogy_reference import textbook
    from tests.imaging.zogy_scenes import gaussian

    planes, plan = _tile(SIDE)
    pad = plan.padded[0] - SIDE

    def book() -> None:
        textbook(*planes, gaussian(3.2), gaussian(2.4), 20, 10, 1.0, 1.0, (0.1, 0.1), 0.01, pad)

    ours, theirs = _medians(3, lambda: _subtract(planes, _plan(SIDE)), book)
    mpix = SIDE**2 / 1e6
    against = f"textbook, complex float64, both with their plans: {mpix / theirs:.2f} Mpix/s"
    return _row("zogy_textbook", mpix / ours, "Mpix/s", against, theirs / ours)


def zogy_torch() -> list[Result]:
    """Mpix/s of eight tiles as torch tensors on the processor and, where there is one, the GPU."""
    try:
        import torch
    except ImportError:
        print("zogy_torch: torch is not installed; pip install 'astrid-dist[train]'")
        return []
    torch.set_num_threads(1)
    planes, plan = _tile(SIDE)
    stacks = [np.stack([plane] * 8) for plane in planes]
    rows = []
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            print("zogy_torch: no GPU here")
            continue
        there, tensors = plan.to(device), [torch.from_numpy(stack).to(device) for stack in stacks]

        theirs, ours = _medians(
            5, partial(_subtract_and_wait, tensors, there), partial(_subtract, stacks, plan)
        )
        mpix = 8 * SIDE**2 / 1e6
        against = f"NumPy: {mpix / ours:.1f} Mpix/s"
        rows.append(_row(f"zogy_torch_{device}", mpix / theirs, "Mpix/s", against, ours / theirs))
    return rows


def zogy_linear() -> list[Result]:
    """Seconds per Mpix, plan apart, over sizes of one tile and numbers of tiles."""
    rows = []
    first: float | None = None
    for side in (512, 1024, 2048, 4096, 8192):
        planes, plan = _tile(side)
        (seconds,) = _medians(5 if side < 4096 else 2, partial(_subtract, planes, plan))
        value = seconds / (side**2 / 1e6)
        first = first or value
        rows.append(_row(f"zogy_linear_{side}", value, "s/Mpix", "one tile of 512 x 512", value / first))
    planes, plan = _tile(256)
    first = None
    for count in (1, 10, 50, 200):
        stacks = [np.stack([plane] * count) for plane in planes]
        (seconds,) = _medians(5, partial(_subtract, stacks, plan))
        value = seconds / (count * 256**2 / 1e6)
        first = first or value
        rows.append(_row(f"zogy_tiles_{count}", value, "s/Mpix", "one tile of 256 x 256", value / first))
    return rows


def zogy_peers() -> list[Result]:
    """Mpix/s, plan included, beside other codes on the same pair of frames."""
    home = os.environ.get("ASTRID_PEERS")
    if not home:
        print("zogy_peers: set ASTRID_PEERS to an environment with sfft and properimage; see bench_zogy.py")
        return []
    planes, _ = _tile(STAGE_SIDE)
    mpix = STAGE_SIDE**2 / 1e6
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/pair.npz", new=planes[0], ref=planes[1])
        for peer, how in PEERS.items():
            python = Path(home) / "bin" / "python"
            if subprocess.run([python, "-c", f"import {peer}"], capture_output=True).returncode:
                print(f"zogy_peers: {peer} is not in {home}; see bench_zogy.py for how to install it")
                continue
            command = [str(python), __file__, peer, f"{folder}/pair.npz"]
            quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            theirs, ours = [], []
            for _ in range(3):
                done = subprocess.run(
                    command, cwd=folder, env=quiet, check=True, capture_output=True, text=True
                )
                theirs.append(float(done.stdout.split()[-1]))
                ours += _medians(3, lambda: _subtract(planes, _plan(STAGE_SIDE)))
            value, other = statistics.median(ours), statistics.median(theirs)
            against = f"{peer}, {how}: {mpix / other:.3f} Mpix/s"
            rows.append(_row(f"zogy_{peer}", mpix / value, "Mpix/s", against, other / value))
    return rows


def spurious_peaks() -> list[Result]:
    """Peaks of |S_corr| >= 5 that are no transient, per wrong input, with that error in the variance."""
    from tests.imaging.zogy_scenes import ERRORS, WrongInputs

    inputs = WrongInputs()
    rows = []
    for kind, error in ERRORS:
        row = inputs.measure(kind, error)
        unit = " px" if kind == "shift" else ""
        against = f"{row.spurious} unless in the variance; {row.recovered}/25 found; std {row.score_std:.3f}"
        rows.append(_row(f"spurious {kind} {error:g}{unit}", row.spurious_excused, "peaks", against, None))
    return rows


BENCHMARKS: dict[str, Callable[[], Result | list[Result]]] = {
    "zogy_core": zogy_core,
    "zogy_plan": zogy_plan,
    "zogy_textbook": zogy_textbook,
    "zogy_torch": zogy_torch,
    "zogy_peers": zogy_peers,
    "zogy_linear": zogy_linear,
    "spurious_peaks": spurious_peaks,
}


def _row(name: str, value: float, unit: str, against: str, ratio: float | None) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


def _tile(side: int) -> tuple[tuple[Any, ...], Any]:
    """A crowded pair with its variance planes (from a repeated 512-pixel field), and its plan."""
    from tests.imaging.zogy_scenes import pair

    small = min(side, 512)
    planes = pair((small, small), 1, (3.2, 2.4))
    times = side // small
    return tuple(np.ascontiguousarray(np.tile(plane, (times, times))) for plane in planes), _plan(side)


def _plan(side: int) -> Any:
    from astrid_dist.imaging.zogy import plan_subtraction
    from tests.imaging.zogy_scenes import gaussian

    return plan_subtraction(gaussian(3.2), gaussian(2.4), 20, 10, 1.0, shape=(side, side))


def _subtract(planes: Any, plan: Any, **more: Any) -> Any:
    from astrid_dist.imaging.zogy import subtract

    return subtract(*planes, plan, astrometric_sigma=(0.1, 0.1), flux_ratio_err=0.01, **more)


def _subtract_and_wait(tensors: Any, plan: Any) -> float:
    """A number of the result comes back only when the device is done."""
    return float(_subtract(tensors, plan).score[-1, -1, -1])


def _medians(rounds: int, *calls: Callable[[], Any]) -> list[float]:
    """Median seconds of calls, taken in turn after one round that only warms up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(-1, rounds):
        for call, kept in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if number >= 0:
                kept.append(time.perf_counter() - started)
    return [statistics.median(kept) for kept in seconds]


def _peer_runs(peer: str, new: Any, ref: Any) -> Iterator[Callable[[], Any]]:
    """What to call for one subtraction, once to warm up and once to be timed."""
    if peer == "sfft":
        from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
        from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

        how = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": 1, "VERBOSE_LEVEL": 0}
        made = SingleSFFTConfigure.SSC(
            *new.shape, KerHW=4, KerPolyOrder=0, BGPolyOrder=0, ConstPhotRatio=True, **how
        )
        for _ in range(2):
            yield lambda: GeneralSFFTSubtract.GSS(ref, new, ref, new, made, None, **how)
    else:
        from properimage import SingleImage
        from properimage.operations import subtract

        for _ in range(2):
            frames = SingleImage(ref.copy()), SingleImage(new.copy())
            yield lambda frames=frames: subtract(*frames, align=False, beta=False, shift=False)


def _main(peer: str, path: str) -> None:
    warnings.simplefilter("ignore")
    frames = np.load(path)
    new, ref = (frames[name].astype(np.float64) for name in ("new", "ref"))
    for call in _peer_runs(peer, new, ref):
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
    print(seconds)


if __name__ == "__main__":
    _main(*sys.argv[1:])
