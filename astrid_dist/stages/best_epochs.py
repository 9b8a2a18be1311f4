"""Which epochs are fit for a reference: the deepest, without those that something is wrong with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.stages.blocks import read_stars
from astrid_dist.stages.pairing import compare
from astrid_dist.store.reading import ProductReader

#: It takes three to outvote a transient: epochs that are set aside come back only to make up this many.
FEWEST = 3
#: Epochs that the others are compared with, until most agree, and how far a star may be from its match.
_ANCHORS, _MATCH_PX = 3, 3.0
#: Epochs whose stars are looked at, the deepest by their headers; four for each that is wanted, if more.
_EXAMINED = 64
#: Spreads (1.4826 times the median deviation) beyond which an epoch is unlike the others.
OUTLYING = 5.0


def depth(row: Mapping[str, Any], noise: float) -> float:
    """How faint an epoch with a noise (electrons per pixel) reaches, magnitudes up to a constant.

    Background-limited PSF photometry: noise of the flux is sigma_pixel times FWHM (SMTN-002, n_eff = 2.266
    FWHM^2), on a common scale through the zero point, else through the exposure time. Larger is deeper.
    """
    scale = row["zeropoint"] if np.isfinite(row["zeropoint"]) else 2.5 * np.log10(max(row["exptime"], 1e-3))
    return float(scale - 2.5 * np.log10(max(noise, 1e-6) * max(row["fwhm"], 1.0)))


def best_epochs(
    reader: ProductReader, rows: Sequence[Mapping[str, Any]], number: int
) -> tuple[list[int], dict[int, str]]:
    """The deepest epochs of a group that nothing is wrong with, and why each other one was left out.

    Parameters
    ----------
    reader : ProductReader
        The survey's group.
    rows : sequence of mapping
        Its valid epochs, from `selection.epoch_table`.
    number : int
        How many at most. One that something is wrong with is taken only where there are fewer than three.

    Returns
    -------
    chosen : list of int
        Indices in the survey's order.
    left_out : dict of int to str
        Reason by index.
    """
    noise = _noise(reader, [int(row["index"]) for row in rows])
    # Stars are read of the likeliest alone: a survey may hold very many epochs.
    ranked = sorted(rows, key=lambda row: -depth(row, noise[row["index"]]))
    likely, misplaced = on_one_scale(reader, ranked[: max(_EXAMINED, 4 * number)])
    left_out = {int(row["index"]): "many others reach deeper" for row in ranked[len(likely) :]}
    likely.sort(key=lambda row: row["index"])
    indices = [int(row["index"]) for row in likely]
    reach = {row["index"]: depth(row, noise[row["index"]]) for row in likely}
    wrong = faults(reader, likely) | misplaced
    order = sorted(indices, key=lambda index: (index in wrong, -reach[index], index))
    fit = len(indices) - len(wrong)
    chosen = [one for one in order[: min(number, max(fit, FEWEST))] if one not in misplaced]
    shallowest = min((reach[index] for index in chosen if index not in wrong), default=np.nan)
    left_out |= {
        index: wrong.get(index, f"reaches {shallowest - reach[index]:.2f} mag less than the last one taken")
        for index in indices
        if index not in chosen
    }
    return sorted(chosen), left_out


def on_one_scale(
    reader: ProductReader, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Rows whose zero points are on one scale, and what lies elsewhere: both by the stars of the epochs.

    Each epoch is compared with the one of most stars that at least half of the others agree with. Where any
    zero point is unknown those of all are replaced by what their stars tell, up to a constant.

    Returns
    -------
    rows : list of dict
    misplaced : dict of int to str
        Reason by index.
    """
    stars = {row["index"]: read_stars(reader, row["fwhm"], epoch=row["index"]) for row in rows}
    known = all(np.isfinite(row["zeropoint"]) for row in rows)
    scales: dict[int, float] = {}
    misplaced: dict[int, str] = {}
    for anchor in sorted(rows, key=lambda row: -len(stars[row["index"]]))[:_ANCHORS]:
        scales, misplaced = {}, {}
        for row in rows:
            where = f"{reader.group} epoch {row['source']}"
            zeropoints = float(row["zeropoint"]), float(anchor["zeropoint"])
            try:
                found = compare(stars[row["index"]], stars[anchor["index"]], zeropoints, _MATCH_PX, where)
                scales[row["index"]] = 2.5 * float(np.log10(found.flux_ratio))
            except InputError:
                misplaced[row["index"]] = "its stars are not where those of the other epochs are"
        if 2 * len(misplaced) <= len(rows):
            break
    if known:
        return [dict(row) for row in rows], misplaced
    return [{**row, "zeropoint": scales.get(row["index"], np.nan)} for row in rows], misplaced


def faults(reader: ProductReader, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What is wrong with epochs of a group, by index; what an epoch does not know is not held against it."""
    indices = [int(row["index"]) for row in rows]
    exptime = np.array([max(float(row["exptime"]), 1e-3) for row in rows])
    sky = _column(reader, "sky", indices) / exptime
    zero = np.array([float(row["zeropoint"]) for row in rows]) - 2.5 * np.log10(exptime)
    chi2, elongation = (_column(reader, name, indices) for name in ("psf_chi2", "elongation"))
    bad = _column(reader, "bad_fraction", indices)
    middle = float(np.nanmedian(sky)) if np.isfinite(sky).any() else np.nan
    checks: list[tuple[str, NDArray[Any], NDArray[np.bool_]]] = [
        ("PSF chi-square {:.1f} against a median of {:.1f}", chi2, _high(chi2, 2.0)),
        ("elongation {:.2f} against a median of {:.2f}", elongation, _high(elongation, 0.3)),
        ("{:.0%} of its pixels without data against a median of {:.0%}", bad, _high(bad, 0.1)),
        ("sky of {:.3g} electrons per second against a median of {:.3g}", sky, _high(sky, 2 * abs(middle))),
        ("zero point of one second {:.2f} mag against a median of {:.2f}", zero, _high(-zero, 0.5)),
    ]
    found: dict[int, str] = {}
    for place, (index, row) in enumerate(zip(indices, rows, strict=True)):
        said = [] if row["verdict"] in ("good", "") else [str(row["verdict"])]
        said += [
            text.format(values[place], np.nanmedian(values)) for text, values, high in checks if high[place]
        ]
        if said:
            found[index] = "; ".join(said)
    return found


def _noise(reader: ProductReader, indices: Sequence[int]) -> dict[int, float]:
    """Noise of each epoch, electrons per pixel: of its sky mesh, or of its sky's photons if that is less.

    In a crowded field the mesh scatters by unresolved stars, the less the more clouds dim them.
    """
    rms = reader.read("background_rms", epoch=slice(0, reader.epochs))
    sky, read_noise = (_column(reader, name, indices) for name in ("sky", "read_noise"))
    photons = np.sqrt(np.where(sky > 0, sky + np.square(np.nan_to_num(read_noise)), np.inf))
    return {
        index: float(min(np.nanmedian(rms[index]), own)) for index, own in zip(indices, photons, strict=True)
    }


def _column(reader: ProductReader, name: str, indices: Sequence[int]) -> NDArray[np.float64]:
    values = np.asarray(reader.read(name, epoch=slice(0, reader.epochs)), np.float64)
    return values[list(indices)]


def _high(values: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Values far above the median: by ``least``, and by five spreads; NaN is not."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.zeros(values.shape, bool)
    middle = np.median(known)
    spread = 1.4826 * np.median(np.abs(known - middle))
    return np.asarray(np.nan_to_num(values - middle, nan=-np.inf) > max(least, OUTLYING * spread))
