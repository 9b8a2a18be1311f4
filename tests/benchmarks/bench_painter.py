"""Sources painted into a frame with shot noise and variance, beside GalSim and photutils."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.psf import moffat
from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.philox import stream
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.simulation.trails import paint_comae, paint_trails

Result = dict[str, Any]
Float64 = NDArray[np.float64]

SIDE, FOOTPRINT, FWHM, BETA = 2048, 25, 3.0, 3.5
SOURCES, PEERS, ROUNDS = 20_000, 1000, 5
KEY = stream(1, "benchmark")


def painter() -> list[Result]:
    """Fluxes even in the logarithm from 100 to 100,000 electrons; compiling is left out."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(15, SIDE - 15, (2, SOURCES))
    flux = 10 ** rng.uniform(2, 5, SOURCES)
    items = np.arange(SOURCES)
    bank = PsfBank.of_stamp(moffat(FWHM, 51, BETA), FOOTPRINT // 2)
    image, variance = np.zeros((2, SIDE, SIDE), np.float32)
    windows, spread = np.zeros((2, 1000, 63, 63), np.float32)
    few = slice(0, 1000)

    def frame() -> None:
        paint_points(image, variance, x, y, flux, bank, key=KEY, items=items)

    def silent() -> None:
        paint_points(image, None, x, y, flux, bank)

    def stack() -> None:
        paint_points(
            windows, spread, x[few] % 1 + 31, y[few] % 1 + 31, flux[few], bank, key=KEY, items=items[few]
        )

    def trails() -> None:
        paint_trails(windows, spread, 31.2, 31.4, flux[few], 10.0, x[few], bank, key=KEY, items=items[few])

    def comets() -> None:
        paint_comae(
            windows,
            spread,
            31.2,
            31.4,
            flux[few],
            8.0,
            0.2,
            bank,
            tail=0.2,
            tail_px=15.0,
            key=KEY,
            items=items[few],
        )

    for warm in (frame, silent, stack, trails, comets):
        warm()
    ours, galsim, photutils, stacked, noiseless, moving, fuzzy = ([] for _ in range(7))
    for _ in range(ROUNDS):
        ours.append(SOURCES / _seconds(frame))
        galsim.append(PEERS / _seconds(lambda: _galsim(x[:PEERS], y[:PEERS], flux[:PEERS])))
        photutils.append(PEERS / _seconds(lambda: _photutils(x[:PEERS], y[:PEERS], flux[:PEERS])))
        stacked.append(1000 / _seconds(stack))
        noiseless.append(SOURCES / _seconds(silent))
        moving.append(1000 / _seconds(trails))
        fuzzy.append(1000 / _seconds(comets))
    rate, one, other = (statistics.median(rates) for rates in (ours, galsim, photutils))
    build = _seconds(lambda: PsfBank.of_stamp(moffat(FWHM, 51, BETA), FOOTPRINT // 2))
    against = f"GalSim (no_pixel, Poisson) {one:,.0f}, photutils (MoffatPSF, Poisson) {other:,.0f}"
    unit = "sources/s/core"
    return [
        _row("painter", rate, unit, f"{against}; ratio to the faster", rate / max(one, other)),
        _row("painter_windows", statistics.median(stacked), unit, "one to a window of 63 x 63", None),
        _row("painter_silent", statistics.median(noiseless), unit, "without noise and variance", None),
        _row("painter_trails", statistics.median(moving), unit, "10 px long, 63 x 63 windows", None),
        _row("painter_comae", statistics.median(fuzzy), unit, "coma of 8 px, tail of 15 px", None),
        _row("painter_bank", 1e3 * build, "ms/PSF", f"17 x 17 phases of {FOOTPRINT} x {FOOTPRINT}", None),
    ]


def _galsim(x: Float64, y: Float64, flux: Float64) -> None:
    """Each source drawn by itself with its Poisson noise and added to the frame."""
    import galsim

    frame, noise = galsim.ImageF(SIDE, SIDE), galsim.PoissonNoise(galsim.BaseDeviate(1))
    psf = galsim.Moffat(beta=BETA, fwhm=FWHM)
    half = FOOTPRINT // 2
    for a, b, f in zip(x, y, flux, strict=True):
        column, row = round(a), round(b)
        bounds = galsim.BoundsI(column - half, column + half, row - half, row + half)
        stamp = galsim.ImageF(bounds)
        psf.withFlux(f).drawImage(stamp, method="no_pixel", scale=1.0, center=galsim.PositionD(a, b))
        stamp.addNoise(noise)
        frame[bounds] += stamp


def _photutils(x: Float64, y: Float64, flux: Float64) -> None:
    """All sources, then Poisson noise wherever there is light."""
    from astropy.table import Table
    from photutils.datasets import make_model_image
    from photutils.psf import MoffatPSF

    width = FWHM / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    table = Table({"x_0": x, "y_0": y, "flux": flux})
    model = MoffatPSF(alpha=width, beta=BETA)
    frame = make_model_image((SIDE, SIDE), model, table, model_shape=(FOOTPRINT, FOOTPRINT))
    lit = frame > 0
    frame[lit] = np.random.default_rng(1).poisson(frame[lit])


def _seconds(call: Callable[[], object]) -> float:
    """Of processor time: others may use the machine."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _row(name: str, value: float, unit: str, against: str, ratio: float | None) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"painter": painter}
