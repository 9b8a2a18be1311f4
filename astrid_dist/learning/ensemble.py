"""U-Nets, trees on features of detection, the stack that makes one probability of both, and its calibration.

On disk an ensemble is some parts, in a folder or in one zip file: ``model.pt``, for several U-Nets also
``model-1.pt`` and so on; ``trees.npz`` with ``stack.json``; ``calibration.json``. Reading them runs no code.
A U-Net alone is an ensemble too.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.learning.calibration import Calibration, calibration_bytes, read_calibration
from astrid_dist.learning.committee import one_config
from astrid_dist.learning.model_file import model_bytes, read_model, weights_digest
from astrid_dist.learning.trees import (
    Floats,
    Table,
    Trees,
    class_weights,
    features,
    read_trees,
    sigmoid,
    trees_bytes,
)
from astrid_dist.learning.unet import UNet, UNetConfig

#: Names of the parts; further networks are ``model-1.pt`` and so on.
MODEL, TREES, STACK, CALIBRATION = "model.pt", "trees.npz", "stack.json", "calibration.json"
_PART = re.compile(r"model(-\d+)?\.pt|trees\.npz|stack\.json|calibration\.json")
_FORMAT = "astrid_dist stack 1"
#: Probabilities are taken to be this far from 0 and 1.
_LEAST = 1e-7


def logit(probability: ArrayLike) -> Floats:
    """Log odds of probabilities."""
    p = np.clip(np.asarray(probability, np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True)
class Stack:
    """Logistic regressions on log odds: offset and weights of both tellers, and of each where it is alone."""

    both: tuple[float, float, float]
    unet: tuple[float, float]
    trees: tuple[float, float]

    def logit(self, unet: Floats, trees: Floats) -> Floats:
        """Log odds of being real from log odds of the U-Net and of the trees, (n,).

        Where one of them is NaN the other decides alone, by its own regression; NaN where both are.
        """
        alone = [
            offset + weight * told for (offset, weight), told in ((self.unet, unet), (self.trees, trees))
        ]
        both = self.both[0] + self.both[1] * unet + self.both[2] * trees
        return np.where(np.isnan(unet), alone[1], np.where(np.isnan(trees), alone[0], both))


def fit_stack(unet: Floats, trees: Floats, real: NDArray[np.bool_], prior: float = 0.5) -> Stack:
    """Fit a stack to log odds that were told of examples unseen (out of fold).

    Parameters
    ----------
    unet, trees : (n,)
        Log odds; rows with a NaN count for the other teller alone.
    real : (n,) bool
    prior : float
        Share of real candidates that the probabilities are to be true for.

    Raises
    ------
    InputError
        A teller that says something of one class alone.
    """
    from sklearn.linear_model import LogisticRegression

    def fitted(name: str, *told: Floats) -> tuple[float, ...]:
        matrix = np.column_stack(told)
        known = np.isfinite(matrix).all(axis=1)
        truth = real[known]
        if truth.all() or not truth.any():
            raise InputError(
                f"{name}: {truth.sum()} real and {(~truth).sum()} bogus examples that it says something of: "
                "a stack needs both"
            )
        weight = class_weights(truth, prior)
        model = LogisticRegression(max_iter=1000).fit(matrix[known], truth, sample_weight=weight)
        return float(model.intercept_[0]), *(float(one) for one in model.coef_[0])

    both = fitted("U-Net and trees", unet, trees)
    alone = fitted("U-Net", unet), fitted("trees", trees)
    return Stack((both[0], both[1], both[2]), (alone[0][0], alone[0][1]), (alone[1][0], alone[1][1]))


@dataclass(frozen=True)
class Ensemble:
    """What tells real from bogus; trees come with the stack that weighs them."""

    unets: tuple[UNet, ...]
    """Members of one architecture; their mean counts."""
    trees: Trees | None = None
    stack: Stack | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        one_config(self.unets)
        if (self.trees is None) != (self.stack is None):
            raise ConfigError("an ensemble has trees and a stack, or neither: make one with `astrid run`")

    @property
    def config(self) -> UNetConfig:
        """Architecture of the networks."""
        return self.unets[0].config

    def real(self, p_unet: ArrayLike, table: Table, prior: float | None = None) -> dict[str, NDArray[Any]]:
        """Probabilities of being real of the candidates of a table.

        Parameters
        ----------
        p_unet : (n,)
            Of the U-Nets, their mean; NaN where they could not see the candidate.
        table : mapping of (n,) arrays
            Columns of the candidates; those that lack, and NaN, are features that are not known.
        prior : float, optional
            Share of real among candidates that ``p_real`` is to hold for; default: the calibration's.

        Returns
        -------
        dict of (n,) arrays
            ``p_unet``, as given; ``p_trees``, NaN without trees or where no feature is known; ``p_real``, of
            the stack, or of whichever of both says something, calibrated; NaN where neither does. With a
            threshold that has a guarantee also ``accepted``, bool, whatever the prior.

        Raises
        ------
        ConfigError
            A prior without a calibration: nobody knows for which one the probabilities hold.
        """
        if prior is not None and self.calibration is None:
            raise ConfigError(
                "prior: the model was never calibrated, so that the share of real candidates that its p_real "
                "holds for is not known: astrid run jobs/calibrate.yaml, or leave `prior` out"
            )
        told = np.asarray(p_unet, np.float32)
        found: dict[str, NDArray[Any]] = {"p_unet": told, "p_trees": np.full_like(told, np.nan)}
        if self.trees is not None and self.stack is not None:
            trees = self.trees.logit(features(table))
            real = self.stack.logit(logit(told), trees)
            found["p_trees"] = sigmoid(trees).astype(np.float32)
        elif self.calibration is None:
            return {"p_real": told.copy(), **found}
        else:
            real = logit(told)
        if self.calibration is not None:
            real = self.calibration.logit(real)
            if self.calibration.guarantee is not None:
                told_real = sigmoid(real).astype(np.float32)  # as it is kept, and as the threshold was found
                found["accepted"] = told_real >= self.calibration.guarantee.p_threshold
            real = real + self.calibration.shift(prior)
        return {"p_real": sigmoid(real).astype(np.float32), **found}

    @property
    def networks_digest(self) -> str:
        """16 hex digits of the weights of all networks."""
        each = [weights_digest(unet) for unet in self.unets]
        return each[0] if len(each) == 1 else sha256(" ".join(each).encode()).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """16 hex digits of all its numbers."""
        parts = {n: c for n, c in ensemble_parts(self).items() if not n.endswith(".pt")}
        whole = sha256(self.networks_digest.encode())
        for name in sorted(parts):
            whole.update(name.encode() + sha256(parts[name]).digest())
        return whole.hexdigest()[:16] if parts else self.networks_digest


def is_part(name: str) -> bool:
    """Whether a file of this name is part of an ensemble."""
    return _PART.fullmatch(name) is not None


def ensemble_parts(ensemble: Ensemble) -> dict[str, bytes]:
    """Content of each file of an ensemble, by name."""
    parts = {_model(number): model_bytes(unet) for number, unet in enumerate(ensemble.unets)}
    if ensemble.trees is not None and ensemble.stack is not None:
        parts[TREES] = trees_bytes(ensemble.trees)
        parts[STACK] = json.dumps({"format": _FORMAT, **asdict(ensemble.stack)}, indent=1).encode()
    if ensemble.calibration is not None:
        parts[CALIBRATION] = calibration_bytes(ensemble.calibration)
    return parts


def _model(number: int) -> str:
    return f"model-{number}.pt" if number else MODEL


def read_parts(parts: Mapping[str, bytes], path: str) -> Ensemble:
    """The ensemble that `ensemble_parts` wrote; `path` is for messages.

    Raises
    ------
    InputError
        A part lacks, is damaged, is something else, or would run code.
    """
    if MODEL not in parts:
        raise InputError(f"{path}: no {MODEL}: this is no model and no ensemble of astrid_dist")
    names = [_model(number) for number in range(sum(name.endswith(".pt") for name in parts))]
    if (TREES in parts) != (STACK in parts):
        names += [TREES, STACK]
    if lost := [name for name in names if name not in parts]:
        raise InputError(f"{path}: {lost[0]} is missing: fetch the whole ensemble, or make it again")
    try:
        unets = tuple(read_model(parts[name], f"{path}: {name}") for name in names if name.endswith(".pt"))
        one_config(unets)
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error
    trees = read_trees(parts[TREES], f"{path}: {TREES}") if TREES in parts else None
    stack = _read_stack(parts[STACK], f"{path}: {STACK}") if STACK in parts else None
    calibration = (
        read_calibration(parts[CALIBRATION], f"{path}: {CALIBRATION}") if CALIBRATION in parts else None
    )
    return Ensemble(unets, trees, stack, calibration)


def ensemble_bytes(ensemble: Ensemble) -> bytes:
    """An ensemble as one zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in ensemble_parts(ensemble).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def read_ensemble(content: bytes, path: str) -> Ensemble:
    """The ensemble of a file of `ensemble_bytes`, or the U-Net alone of one of `save_model`.

    Raises
    ------
    InputError
        As `read_parts`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = set(archive.namelist())
            if MODEL in there:
                return read_parts({n: archive.read(n) for n in there if is_part(n)}, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: this is no model, or a damaged one; fetch or make it again") from error
    return Ensemble((read_model(content, path),))  # torch's own files are zip files too


def _read_stack(content: bytes, path: str) -> Stack:
    try:
        said = json.loads(content)
        if said.pop("format") != _FORMAT:
            raise InputError(f"{path}: this stack was not written by this version ({_FORMAT})")
        numbers = {name: tuple(float(one) for one in values) for name, values in said.items()}
        stack = Stack(**numbers)  # type: ignore[arg-type]
        lengths = len(stack.both), len(stack.unet), len(stack.trees)
        if lengths != (3, 2, 2) or not np.isfinite([*stack.both, *stack.unet, *stack.trees]).all():
            raise ValueError("numbers are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the stack is damaged ({error}); make the ensemble again") from error
    return stack
