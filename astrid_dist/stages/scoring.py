"""What a model says of a shard: a score for every candidate, and candidates that S_corr alone would miss.

The model is resolved when a job is planned, kept beside its output, and read from there by every task.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.imaging.measure import Columns
from astrid_dist.imaging.separation import Peaks
from astrid_dist.stages.model_planes import model_planes
from astrid_dist.stages.shard_sources import Shard
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.taxonomy import CLASSES, REAL

if TYPE_CHECKING:
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.inference import Device, ImagePrediction

#: Name of the model in the ledger of the candidates.
KEPT = "parts/model.zip"
#: Memory that torch takes before any model, bytes (measured on Linux, Python 3.11).
TORCH_BYTES = 300 * 2**20
#: Pixels around what a model marks within which S_corr has found it.
_NEAR_PX = 2
#: Columns of class probabilities, in the order of a model's classes.
CLASS_COLUMNS = tuple(f"p_{name}" for name in CLASSES[:-1])
_SQUARE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Chosen:
    """The model of a job, resolved."""

    pinned: str
    """``NAME/version#digest`` or ``file.pt#digest``: valid as a model again, and no other."""
    ensemble: "Ensemble"
    warnings: tuple[str, ...] = ()


def choose_model(model: str, tracking: str | None, output: Location) -> Chosen:
    """Find the model that a job is to use.

    Raises
    ------
    ConfigError
        No such model, version or alias; torch or MLflow is not installed; it is not the one that was pinned.
    InputError, StorageError
        It is damaged; MLflow cannot be reached.
    """
    name, _, digest = model.partition("#")
    is_file = name.endswith((".pt", ".zip"))
    for needed in ("torch",) if is_file else ("torch", "mlflow"):
        if find_spec(needed) is None:
            raise ConfigError(f"model {name!r} needs {needed}: pip install 'astrid-dist[train]'")
    from astrid_dist.learning.registry import find, load_ensemble, model_name
    from astrid_dist.learning.tracking import tracking_uri

    uri, warnings, base = "", [], model_name(None)
    if not is_file:
        uri = tracking_uri(tracking, output.folder)
        data_base = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not data_base.exists():  # MLflow would make an empty one
            raise ConfigError(
                f"model {name!r}: there is no MLflow data base {data_base}: give tracking, the URL of an "
                "MLflow server or sqlite:///<file>, or train a model first"
            )
        asked, of_survey = name, name.startswith(f"{base}-") and "/" not in name
        name = find(uri, asked, base if of_survey else None)
        if name.partition("/")[0] != asked.removeprefix("models:/").partition("@")[0].partition("/")[0]:
            warnings.append(f"MLflow at {uri} has no model {asked!r}: {name}, the base, is used instead")
    ensemble = load_ensemble(uri, name)
    if digest and digest != ensemble.digest:
        raise ConfigError(
            f"model {name} has the digest {ensemble.digest}, not {digest}: it was changed since it was "
            "chosen. Bring the old one back, or choose a new output"
        )
    return Chosen(f"{name}#{ensemble.digest}", ensemble, tuple(warnings))


def keep_model(chosen: Chosen, output: Location) -> None:
    """Put the model where the tasks look for it; for the driver."""
    from astrid_dist.learning.ensemble import ensemble_bytes

    output.sibling(".ledger").objects().put(KEPT, ensemble_bytes(chosen.ensemble))


def kept_model(output: str, pinned: str) -> "Ensemble":
    """The model of a job, read once by a process.

    Raises
    ------
    InputError
        It is not there, damaged, or another.
    """
    return _kept(output, pinned.partition("#")[2])


@lru_cache(2)
def _kept(output: str, digest: str) -> "Ensemble":
    from astrid_dist.learning.ensemble import read_ensemble

    ledger = Location.parse(output).sibling(".ledger")
    content = ledger.objects().get(KEPT)
    ensemble = read_ensemble(content, f"{ledger}/{KEPT}") if content is not None else None
    if ensemble is None or ensemble.digest != digest:
        there = "nothing" if ensemble is None else f"the model {ensemble.digest}"
        raise InputError(
            f"{ledger}/{KEPT} should be the model {digest}, there is {there}: `astrid resume {output}` puts "
            "it there again"
        )
    return ensemble


def conditions(settings: Mapping[str, Any], surveys: list[str]) -> dict[str, Any]:
    """What must be as it was for a threshold's guarantee to hold: settings of detection, and surveys."""
    chosen = ("threshold", "quality", "propose", "propose_snr", "mc_samples")
    return {**{name: settings[name] for name in chosen}, "surveys": surveys}


def surveys_of(difference: str, groups: Iterable[str]) -> list[str]:
    """Names of the surveys that groups of a difference are of."""
    product = Location.parse(difference)
    readers = (ProductReader(product, group) for group in sorted(set(groups)))
    return sorted({str(reader.attributes.get("survey", "")) for reader in readers})


def halo_px(ensemble: "Ensemble") -> int:
    """What a model must see around a shard, pixels."""
    from astrid_dist.learning.inference import halo_of

    return halo_of(ensemble.config)


def memory_bytes(ensemble: "Ensemble") -> int:
    """Memory that scoring takes."""
    from astrid_dist.learning.inference import bytes_of

    return TORCH_BYTES + bytes_of(ensemble.config)


def score(
    shard: Shard,
    found: Columns,
    ensemble: "Ensemble",
    device: "Device",
    threshold: float,
    least: float,
    faintest: float,
    samples: int = 0,
) -> Columns:
    """Columns of a shard's sources with what a model says of them, and of the sources that it proposes.

    Parameters
    ----------
    shard : Shard
        Read with `halo_px` around it.
    found : dict of (n,) arrays
        As `Shard.sources` returns them: all stay.
    ensemble, device
        Whose networks look, and where.
    threshold : float
        Least |S_corr| of `found`.
    least : float
        Least probability of a pixel that is proposed, and
    faintest : float
        its least |S_corr|.
    samples : int
        Of Monte Carlo dropout; 0: each network is asked once.
    """
    if not shard.usable.any():
        return found
    import torch

    from astrid_dist.learning.inference import Box, codes_of, predict_image, proposals

    if threading.current_thread() is not threading.main_thread():
        torch.set_num_threads(1)  # a task of many: each has a core
    reader, outer = shard.reader, shard.outer
    band, survey = codes_of(
        ensemble.config, str(reader.attributes.get("survey", "")), [reader.group.rpartition("/")[2]]
    )
    pixels = model_planes(reader, shard.epoch, outer, shard.planes)[None]
    rows, columns = shard.core.within(outer)
    region = Box(rows.start, rows.stop, columns.start, columns.stop)

    def told(of: Columns, maps: Mapping[str, tuple[str, ...]]) -> "ImagePrediction":
        at = np.column_stack([of["x"] - outer.x0, of["y"] - outer.y0])
        return predict_image(
            ensemble.unets,
            pixels,
            at,
            region=region,
            maps=maps,
            band=band,
            survey=survey,
            device=device,
            samples=samples,
        )

    first = told(found, {"real": REAL})
    found = _with(found, first, by_model=False)
    marked = np.full(outer.shape, np.nan, np.float32)
    marked[rows, columns] = first.segmentation[0, 0]
    score_plane = shard.planes["score"]
    marked[np.isnan(score_plane)] = np.nan
    new = _new(score_plane, marked, proposals(marked, least), threshold, least, faintest)
    more = shard.measured(new)
    if not more or not len(more["x"]):
        return found
    more = _with(more, told(more, {}), by_model=True)
    return {name: np.concatenate([values, more[name]]) for name, values in found.items()}


def _new(
    score_plane: NDArray[np.float32],
    marked: NDArray[np.float32],
    places: NDArray[np.int64],
    threshold: float,
    least: float,
    faintest: float,
) -> Peaks:
    """Proposals in what the model marks and S_corr has not found: where |S_corr| is largest beside each."""
    labels, _ = ndimage.label(np.nan_to_num(marked) >= least, _SQUARE)
    known = np.nan_to_num(np.abs(score_plane)) >= threshold
    known = ndimage.binary_dilation(known, _SQUARE, iterations=_NEAR_PX)
    taken = {0, *np.unique(labels[known]).tolist()}
    peaks = []
    for x, y in places.tolist():
        if labels[y, x] in taken:
            continue
        top, left = max(y - _NEAR_PX, 0), max(x - _NEAR_PX, 0)
        near = np.nan_to_num(np.abs(score_plane[top : y + _NEAR_PX + 1, left : x + _NEAR_PX + 1]))
        row, column = np.unravel_index(int(near.argmax()), near.shape)
        if near[row, column] >= faintest:
            peaks.append((top + int(row), left + int(column)))
    where = np.array(sorted(set(peaks)), np.int64).reshape(-1, 2)
    return where[:, 0], where[:, 1], score_plane[where[:, 0], where[:, 1]]


def _with(columns: Columns, told: "ImagePrediction", by_model: bool) -> Columns:
    """Columns and what was told of them."""
    from astrid_dist.learning.uncertainty import decompose

    classes = {name: told.classes[:, i] for i, name in enumerate(CLASS_COLUMNS)}
    unknown = decompose(told.voices)
    return {
        **columns,
        "by_model": np.full(len(told.real), by_model),
        "p_unet": told.real,
        "aleatoric": unknown.aleatoric.astype(np.float32),
        "epistemic": unknown.epistemic.astype(np.float32),
        **classes,
        "model_x": columns["x"] + told.position[:, 0].astype(np.float64),
        "model_y": columns["y"] + told.position[:, 1].astype(np.float64),
        "model_position_err": np.sqrt(np.square(told.sigma).mean(1)).astype(np.float32),
    }


def probabilities(
    columns: Mapping[str, NDArray[Any]], ensemble: "Ensemble", prior: float | None, *, accept: bool
) -> Columns:
    """`p_real`, `p_unet`, `p_trees` and `uncertainty` of a whole table, and its classes, calibrated.

    With `accept` also `accepted`, where the model has a threshold with a guarantee.
    """
    from astrid_dist.learning.uncertainty import decompose

    found: Columns = dict(ensemble.real(columns["p_unet"], columns, prior))
    if not accept:
        found.pop("accepted", None)
    found["uncertainty"] = decompose(found["p_real"][None]).total.astype(np.float32)
    if ensemble.calibration is not None:
        told = np.column_stack([columns[name] for name in CLASS_COLUMNS])
        classes = ensemble.calibration.classes(told, prior).astype(np.float32)
        found |= {name: classes[:, i] for i, name in enumerate(CLASS_COLUMNS)}
    return found
