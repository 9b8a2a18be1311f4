"""PSFs and star fits of a frame: how long they take and how near the truth they come, beside photutils."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf import evaluate, radius_of
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.stars import StarList, measure_stars
from tests.starfield import Optics, Starfield, paint

Result = dict[str, Any]

SHAPE, STARS, BOX, ORDER, ROUNDS = (2048, 2048), 1000, 63, 2, 3
OPTICS = Optics(3.5, growth=0.2, axis_ratio=1.12, turn=np.pi / 3)


def psf_fit() -> list[Result]:
    """A frame of 2048 x 2048 pixels and 1000 stars whose PSF varies; EPSFBuilder on the same PSF stars."""
    field = paint(OPTICS, SHAPE, STARS, (4e3, 3e5))
    planes = field.image, field.variance, field.mask
    stars = measure_stars(*planes, OPTICS.fwhm)
    found = measure_psf(*planes, stars, BOX, OPTICS.fwhm, order=ORDER)
    ours, theirs, fits = [], [], []
    for _ in range(ROUNDS):
        ours.append(_seconds(lambda: measure_psf(*planes, stars, BOX, OPTICS.fwhm, order=ORDER)))
        fits.append(_seconds(lambda: fit_star_fluxes(*planes, found.terms, stars, order=ORDER)))
        began = time.process_time()
        peer = _photutils(field, found.star_x, found.star_y)
        theirs.append(time.process_time() - began)
    mine, other, fit = (statistics.median(seconds) for seconds in (ours, theirs, fits))
    places = [(x, y) for y in np.linspace(0, 2047, 5) for x in np.linspace(0, 2047, 5)]
    errors = [
        _error(stamp, OPTICS.stamp(x, y, SHAPE, half=BOX // 2))
        for x, y in places
        for stamp in (evaluate(found.terms, found.order, x, y, SHAPE), peer)
    ]
    error, error_peer = (100 * float(np.sqrt(np.mean(np.square(errors[i::2])))) for i in (0, 1))
    # A field that the peer, which knows one PSF for all of it, is made for.
    even = Optics(3.5, axis_ratio=1.12)
    steady = paint(even, (1024, 1024), 300, (4e3, 3e5))
    listed = measure_stars(steady.image, steady.variance, steady.mask, 3.5)
    one = measure_psf(steady.image, steady.variance, steady.mask, listed, BOX, 3.5)
    truth = even.stamp(0, 0, SHAPE, half=BOX // 2)
    flat = 100 * _error(one.terms[0], truth)
    flat_peer = 100 * _error(_photutils(steady, one.star_x, one.star_y), truth)
    used = f"{found.n_stars} of {len(stars)} stars"
    return [
        _row("psf_fit_s", mine, "s/frame", f"EPSFBuilder, constant PSF: {other:.2f} s; {used}", mine / other),
        _row("psf_fit_stars", len(stars) / fit, "stars/s", f"all fitted together in {fit:.2f} s", None),
        _row(
            "psf_fit_error",
            error,
            "% of peak",
            f"one PSF for the field: {error_peer:.2f} %",
            error / error_peer,
        ),
        _row("psf_fit_even", flat, "% of peak", f"EPSFBuilder: {flat_peer:.2f} %", flat / flat_peer),
        _row("psf_fit_places", *_place_errors(field, found.terms, stars)),
    ]


def _photutils(field: Starfield, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """The PSF of photutils, at pixels and of unit sum."""
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    cut = extract_stars(NDData(field.image), Table({"x": x, "y": y}), size=33)
    model, _ = EPSFBuilder(oversampling=1, maxiters=10, progress_bar=False)(cut)
    grid = np.arange(BOX) - BOX // 2.0
    stamp = np.asarray(model.evaluate(*np.meshgrid(grid, grid), 1.0, 0.0, 0.0), dtype=np.float64)
    return stamp / stamp.sum()


def _error(stamp: NDArray[Any], truth: NDArray[np.float64]) -> float:
    """Rms error within one FWHM in parts of the peak; the light beyond the box is left out of it."""
    core = radius_of(BOX) < OPTICS.fwhm
    scaled = stamp * ((stamp * truth)[core].sum() / (stamp**2)[core].sum())
    return float(np.sqrt(np.mean((scaled - truth)[core] ** 2)) / truth.max())


def _place_errors(field: Starfield, terms: NDArray[Any], stars: StarList) -> tuple[Any, ...]:
    """Scatter of places about the truth in units of their errors, fitted and as centroids."""
    from scipy.spatial import cKDTree

    fitted = fit_star_fluxes(field.image, field.variance, field.mask, terms, stars, order=ORDER)
    scatter = []
    for one in (fitted, stars):
        distance, i = cKDTree(np.column_stack([field.x, field.y])).query(np.column_stack([one.x, one.y]))
        near = distance < 2
        pull = (one.x - field.x[i])[near] / one.position_err[near]
        scatter.append(1.4826 * float(np.median(np.abs(pull))))
    return scatter[0], "sigma", f"windowed centroids: {scatter[1]:.2f} sigma", scatter[0] / scatter[1]


def _seconds(call: Callable[[], object]) -> float:
    """Of processor time: others may use the machine."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _row(name: str, value: float, unit: str, against: str, ratio: float | None) -> Result:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"psf_fit": psf_fit}
