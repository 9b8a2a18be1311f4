"""Gradient-boosted trees on the features of detection: real against bogus, without a look at the pixels.

scikit-learn grows them; they are kept and applied as plain arrays, so that reading them runs no code, needs
no scikit-learn, and gives the same whatever its version (a skops file holds to the version that wrote it).
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.flags import Flag

Floats = NDArray[np.float64]
Table = Mapping[str, NDArray[Any]]

#: Columns of candidates that are features as they are. Left out is what says where or when (x, y, sky,
#: epoch, angles, distance to the border, near which nothing is injected), how bright (fluxes, magnitudes,
#: SNR: whoever injected chose them), and the sign: what fades is as real as what rises.
PLAIN = (
    "chi2",
    "fwhm_ratio",
    "seeratio",
    "elongation",
    "minor_ratio",
    "spread_model",
    "peak_ratio",
    "dipole_separation",
    "dipole_fraction",
    "translient",
    "opposite_distance",
    "opposite_ratio",
    "nneg",
    "nbad",
    "sumrat",
    "bad_distance",
    "streak_length",
)
#: Of the nearest star, distance and ratio of fluxes; farther than so many pixels it is as if there were none,
#: or the ratio would tell of all candidates how bright they are.
STAR, STAR_REACH_PX = ("star_distance", "star_ratio"), 16.0
#: Features that are one column over another to a power: free of units and, but for noise, of brightness.
RATIOS = {
    "aperture_ratio": ("aperture_flux", "flux", 1),
    "sky_ratio": ("ssnrms", "snr", 1),
    "pixel_ratio": ("dsnrms", "snr", 1),
    "hit_gain": ("dchi2_hit", "snr", 2),
    "dipole_gain": ("dipole_dchi2", "snr", 2),
}
#: Mask bits within two pixels that are features; `INJECTED` would be the answer itself.
BITS = (
    Flag.BAD,
    Flag.SATURATED,
    Flag.BLEED,
    Flag.COSMIC_RAY,
    Flag.TRAIL,
    Flag.CROSSTALK,
    Flag.SPIKE,
    Flag.INTERPOLATED,
)
FEATURES = (*PLAIN, *STAR, *RATIOS, *(f"near_{str(bit.name).lower()}" for bit in BITS))

_FORMAT = "astrid_dist trees 1"
#: Rows that go through all trees at a time.
_ROWS = 2048


class TreesConfig(BaseModel):
    """How trees are grown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trees: int = Field(default=200, ge=1, le=5000, description="number of trees")
    rate: float = Field(default=0.05, gt=0, le=1, description="share of each tree's correction that is taken")
    leaves: int = Field(default=15, ge=2, le=256, description="leaves of a tree at most")
    least: int = Field(default=20, ge=1, description="examples in a leaf at least")
    ridge: float = Field(default=1.0, ge=0, description="L2 penalty of the leaves' values")
    seed: int = Field(default=1, ge=0, description="of all that is drawn")


def features(table: Table) -> Floats:
    """Features of candidates, (n, `FEATURES`); NaN where a column or value is missing or not finite.

    Raises
    ------
    InputError
        The table has none of the columns.
    """
    needed = {*PLAIN, *STAR, *(name for top, under, _ in RATIOS.values() for name in (top, under)), "mask"}
    if not needed & set(table):
        raise InputError(
            f"the table has none of the columns that trees look at ({', '.join(PLAIN[:4])}, ...)"
        )
    n = len(next(iter(table[name] for name in table if name in needed)))

    def column(name: str) -> Floats:
        return np.asarray(table[name], np.float64) if name in table else np.full(n, np.nan)

    found = [column(name) for name in PLAIN]
    distance, ratio = (column(name) for name in STAR)
    found += [np.minimum(distance, STAR_REACH_PX), np.where(distance < STAR_REACH_PX, ratio, np.nan)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found += [column(top) / column(under) ** power for top, under, power in RATIOS.values()]
        if "mask" in table:
            mask = np.asarray(table["mask"]).astype(np.int64)
            found += [((mask & int(bit)) != 0).astype(np.float64) for bit in BITS]
        else:
            found += [np.full(n, np.nan)] * len(BITS)
    whole = np.column_stack(found)
    whole[~np.isfinite(whole)] = np.nan
    return whole


def class_weights(real: NDArray[np.bool_], prior: float = 0.5) -> Floats:
    """Weights, of mean 1, by which a share `prior` of the examples is real, (n,)."""
    share = real.mean()
    weight = np.where(real, prior / max(share, 1e-12), (1 - prior) / max(1 - share, 1e-12))
    return np.asarray(weight, np.float64)


@dataclass(frozen=True)
class Trees:
    """Trees as arrays: `start` is the first node of each tree; a leaf is its own child."""

    names: tuple[str, ...]
    base: float
    depth: int
    start: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats

    def logit(self, matrix: Floats) -> Floats:
        """Log odds of being real of rows of `features`, (n,); NaN where nothing is known of a row."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise InputError(
                f"features have the shape {matrix.shape}: trees look at {len(self.names)} columns"
            )
        found = np.empty(len(matrix))
        for begin in range(0, len(matrix), _ROWS):
            rows = matrix[begin : begin + _ROWS]
            at = np.broadcast_to(self.start, (len(rows), len(self.start)))
            for _ in range(self.depth):
                seen = np.take_along_axis(rows, self.feature[at], axis=1)
                go_left = np.where(np.isnan(seen), self.missing_left[at], seen <= self.threshold[at])
                at = np.where(go_left, self.left[at], self.right[at])
            found[begin : begin + _ROWS] = self.base + self.value[at].sum(axis=1)
        found[np.isnan(matrix).all(axis=1)] = np.nan
        return found

    def real(self, table: Table) -> Floats:
        """Probability of being real of each candidate of a table."""
        return sigmoid(self.logit(features(table)))


def sigmoid(logit: Floats) -> Floats:
    """Probability of log odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -700, 700))))


def grow(matrix: Floats, real: NDArray[np.bool_], weight: Floats, config: TreesConfig) -> Trees:
    """Fit trees.

    Parameters
    ----------
    matrix : (n, `FEATURES`)
        As `features` makes it.
    real : (n,) bool
    weight : (n,)
        Of each example.

    Raises
    ------
    ConfigError
        scikit-learn is not installed, or keeps its trees in another way than is known here.
    InputError
        Only one class.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise ConfigError("trees need scikit-learn: pip install 'astrid-dist[train]'") from error
    if real.all() or not real.any():
        raise InputError(f"{real.sum()} real and {(~real).sum()} bogus examples: trees need both")
    # A constant column has nothing to split on, and one of NaN alone makes scikit-learn warn.
    known = ~np.isnan(matrix).all(axis=0)
    model = HistGradientBoostingClassifier(
        max_iter=config.trees,
        learning_rate=config.rate,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.least,
        l2_regularization=config.ridge,
        early_stopping=False,
        random_state=config.seed,
    ).fit(matrix[:, known], real, sample_weight=weight)
    try:
        grown = _arrays(model, np.flatnonzero(known))
    except (AttributeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"this scikit-learn keeps trees in an unknown way ({error}): install 1.9"
        ) from error
    some = matrix[:: max(len(matrix) // 100, 1)]
    if not np.allclose(sigmoid(grown.logit(some)), model.predict_proba(some[:, known])[:, 1], atol=1e-6):
        raise ConfigError("this scikit-learn applies trees in an unknown way: install 1.9")
    return grown


def _arrays(model: Any, columns: NDArray[np.int64]) -> Trees:
    """What scikit-learn grew; `columns` are those of FEATURES that it saw."""
    nodes = [one[0].nodes for one in model._predictors]
    start = np.cumsum([0, *(len(one) for one in nodes)])
    whole = np.concatenate(nodes)
    if whole["is_categorical"].any():
        raise ValueError("categories")
    first = np.repeat(start[:-1], np.diff(start))
    own, leaf = np.arange(len(whole)), whole["is_leaf"].astype(bool)
    return Trees(
        names=FEATURES,
        base=float(np.ravel(model._baseline_prediction)[0]),
        depth=int(whole["depth"].max()),
        start=start[:-1].astype(np.int32),
        feature=np.where(leaf, 0, columns[np.where(leaf, 0, whole["feature_idx"])]).astype(np.int32),
        threshold=np.where(leaf, 0.0, whole["num_threshold"]),
        missing_left=whole["missing_go_to_left"].astype(bool),
        left=np.where(leaf, own, first + whole["left"]).astype(np.int32),
        right=np.where(leaf, own, first + whole["right"]).astype(np.int32),
        value=np.where(leaf, whole["value"], 0.0),
    )


def trees_bytes(trees: Trees) -> bytes:
    """Trees as a compressed npz of numbers and names; the same trees give the same bytes."""
    file = io.BytesIO()
    parts = {one.name: np.asarray(getattr(trees, one.name)) for one in fields(trees)}
    np.savez_compressed(file, allow_pickle=False, format=np.array(_FORMAT), **parts)
    return file.getvalue()


def read_trees(content: bytes, path: str) -> Trees:
    """Trees that `trees_bytes` wrote; `path` is for messages.

    Raises
    ------
    InputError
        It is damaged, holds something else, or would run code.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        if "pickle" in str(error).lower():
            raise InputError(
                f"{path}: refused, since it holds more than numbers and would run code when read"
            ) from error
        raise InputError(f"{path}: these are no trees, or damaged ones; make the ensemble again") from error
    if str(parts.pop("format", "")) != _FORMAT:
        raise InputError(f"{path}: these trees were not written by this version ({_FORMAT})")
    try:
        found = Trees(
            names=tuple(str(name) for name in parts.pop("names")),
            base=float(parts.pop("base")),
            depth=int(parts.pop("depth")),
            **parts,
        )
        _check(found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the trees are incomplete ({error}); make the ensemble again") from error
    return found


def _check(trees: Trees) -> None:
    """Raise `ValueError` where an index leads out of the arrays, or features are others."""
    n = len(trees.value)
    arrays = (trees.feature, trees.threshold, trees.missing_left, trees.left, trees.right)
    if trees.names != FEATURES:
        raise ValueError("their features are those of another version")
    if any(one.shape != (n,) for one in arrays) or trees.start.ndim != 1 or not 0 <= trees.depth <= n:
        raise ValueError("arrays of different lengths")
    for name, most in (("start", n), ("left", n), ("right", n), ("feature", len(FEATURES))):
        one = getattr(trees, name)
        if one.dtype.kind != "i" or (one.size and (one.min() < 0 or one.max() >= most)):
            raise ValueError(f"{name} leads nowhere")
