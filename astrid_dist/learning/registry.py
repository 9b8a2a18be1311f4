"""Models by name: one per survey, the newest a challenger, the best so far the champion."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astrid_dist.errors import AstridError, ConfigError, InputError
from astrid_dist.learning.ensemble import (
    MODEL,
    Ensemble,
    ensemble_parts,
    is_part,
    read_ensemble,
    read_parts,
)
from astrid_dist.learning.settings import METRICS
from astrid_dist.learning.tracking import client_of, mlflow_errors
from astrid_dist.learning.unet import UNet
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Verdict:
    """Which place a new model has."""

    name: str
    version: str
    champion: bool
    why: str

    def __str__(self) -> str:
        place = CHAMPION if self.champion else CHALLENGER
        return f"{self.name} version {self.version} is {place}: {self.why}"


def model_name(survey: str | None) -> str:
    """Name in the registry of the model of a survey, or of the base of all."""
    return f"astrid-{survey}" if survey else "astrid"


def registered_name(model: str) -> str:
    """Name in the registry of ``NAME[@alias]`` or ``NAME/version``; of a file, that of the base."""
    if model.endswith((".pt", ".zip")):
        return model_name(None)
    return model.removeprefix("models:/").partition("@")[0].partition("/")[0]


def register(uri: str, run: str, model: UNet | Ensemble, name: str, tags: dict[str, str]) -> str:
    """Keep a model, or an ensemble, with a run and its signature: the newest version, the challenger.

    Returns
    -------
    str
        Version. The same run is registered once, however often this is called.

    Raises
    ------
    TrackingError
        MLflow cannot be reached.
    """
    import mlflow

    with mlflow_errors(uri):
        client = client_of(uri)
        version = next((v.version for v in _versions(client, name) if v.run_id == run), None)
        if version is None:
            before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            try:
                with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run):
                    whole = model if isinstance(model, Ensemble) else Ensemble((model,))
                    parts = Path(folder) / "parts"
                    parts.mkdir()
                    for file, content in ensemble_parts(whole).items():
                        (parts / file).write_bytes(content)
                    kept = mlflow.pyfunc.log_model(
                        name="model",
                        loader_module="astrid_dist.learning.flavour",
                        data_path=str(parts),
                        signature=_signature(),
                        input_example=_example(),
                        pip_requirements=["astrid-dist[train]"],
                        registered_model_name=name,
                    )
                version = kept.registered_model_version
            finally:
                mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
                mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for key, value in tags.items():
            client.set_model_version_tag(name, str(version), key, value)
        client.set_registered_model_alias(name, CHALLENGER, str(version))
    return str(version)


def promote(
    uri: str,
    name: str,
    version: str,
    metric: str,
    value: float,
    data: str,
    measure: Callable[[Any], float],
    loader: Callable[[str, str], Any] | None = None,
) -> Verdict:
    """Make a version the champion if its metric is better than the champion's on the same data.

    Parameters
    ----------
    uri, name, version : str
    metric : str
        One of `METRICS`.
    value : float
        Of the new model on the data.
    data : str
        Digest of the validation data.
    measure : callable
        The same metric of another model on the same data; called where the champion was measured on others.
    loader : callable, optional
        What loads it, `load_ensemble` for ensembles; by default `load`.

    Raises
    ------
    TrackingError
        MLflow cannot be reached.
    """
    with mlflow_errors(uri):
        client = client_of(uri)
        holder = _alias(client, name, CHAMPION)
    if holder is not None and str(holder.version) != version:
        tags = holder.tags
        try:
            if tags.get("data") == data and f"val_{metric}" in tags:
                other = float(tags[f"val_{metric}"])
            else:
                other = measure((loader or load)(uri, f"{name}@{CHAMPION}"))
        except (AstridError, ValueError, RuntimeError) as error:
            why = f"the champion, version {holder.version}, cannot be measured ({error}): set it by hand"
            return Verdict(name, version, False, why)
        better = value > other if METRICS[metric] else value < other
        why = f"{metric} {value:.4f}, version {holder.version} has {other:.4f} on the same data"
        if not better:
            return Verdict(name, version, False, why)
    else:
        why = f"{metric} {value:.4f}, and there is no other"
    with mlflow_errors(uri):
        client.set_registered_model_alias(name, CHAMPION, version)
    return Verdict(name, version, True, why)


def load(uri: str, model: str, fallback: str | None = None) -> UNet:
    """A model of the registry, or of a file; of an ensemble the U-Net, of several the first.

    Parameters
    ----------
    uri : str
        Of MLflow.
    model : str
        ``NAME`` (its champion), ``NAME@alias``, ``NAME/version``, or path or URL of a file (``*.pt``, or
        ``*.zip`` of an ensemble).
    fallback : str, optional
        What is loaded where that name is not registered: the base of a survey's model.

    Raises
    ------
    ConfigError
        There is no such name, alias or version.
    InputError, StorageError
        The model cannot be read.
    """
    return _load(uri, model, fallback, MODEL.__eq__).unets[0]


def load_ensemble(uri: str, model: str, fallback: str | None = None) -> Ensemble:
    """A model with all that was registered with it: networks, trees, stack, calibration; as `load`."""
    return _load(uri, model, fallback, is_part)


def _load(uri: str, model: str, fallback: str | None, wanted: Callable[[str], bool]) -> Ensemble:
    """An ensemble, of a version those parts of it that are wanted."""
    if model.endswith((".pt", ".zip")):
        folder, _, file = model.rpartition("/")
        content = Location.parse(folder or ".").objects().get(file)
        if content is None:
            raise InputError(f"there is no model {model}: check the path, or name one of the registry")
        return read_ensemble(content, model)
    from mlflow.exceptions import MlflowException

    try:
        found = _version(uri, model)
    except ConfigError:
        if fallback is None:
            raise
        return _load(uri, fallback, None, wanted)
    client = client_of(uri)
    where = f"{found.name} version {found.version}"
    try:
        source = client.get_model_version_download_uri(found.name, found.version)
        with tempfile.TemporaryDirectory() as folder:
            from mlflow.artifacts import download_artifacts

            local = Path(download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=uri))
            parts = {path.name: path.read_bytes() for path in local.rglob("*") if wanted(path.name)}
    except (MlflowException, FileNotFoundError) as error:
        raise InputError(
            f"{where} cannot be read: {error}; train and register it again, or name another version"
        ) from error
    return read_parts(parts, where)


def find(uri: str, model: str, fallback: str | None = None) -> str:
    """``NAME/version`` that a name of the registry means now, or else the name `fallback`; as `load`."""
    try:
        found = _version(uri, model)
    except ConfigError:
        if fallback is None:
            raise
        found = _version(uri, fallback)
    return f"{found.name}/{found.version}"


def _version(uri: str, model: str) -> Any:
    """The version that a name of the registry means."""
    client = client_of(uri)
    name, at, alias = model.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    with mlflow_errors(uri):
        if number and not at:
            found = next((v for v in _versions(client, name) if str(v.version) == number), None)
        else:
            found = _alias(client, name, alias or CHAMPION)
    if found is None:
        raise ConfigError(
            f"MLflow at {uri} has no model {name!r} {number or alias or CHAMPION}: train it, or name another"
        )
    return found


def _versions(client: "MlflowClient", name: str) -> list[Any]:
    return list(client.search_model_versions(f"name='{name}'"))


def _alias(client: "MlflowClient", name: str, alias: str) -> Any:
    """The version that an alias means, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _example() -> Any:
    """One small stamp of noise, which MLflow keeps to show what goes in."""
    import numpy as np

    from astrid_dist.learning.candidates import PLANES

    noise = np.random.default_rng(1).normal(size=(1, 1, len(PLANES), 15, 15))
    return noise.round(2).astype(np.float32)


def _signature() -> Any:
    """Images of any number, visits and size."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from astrid_dist.learning.candidates import PLANES
    from astrid_dist.learning.unet import MODEL_CLASSES

    pixel, classes = np.dtype(np.float32), len(MODEL_CLASSES)
    told = {
        "real": (-1,),
        "classes": (-1, classes),
        "position": (-1, 2),
        "flux": (-1, -1),
        "segmentation": (-1, -1, classes, -1, -1),
    }
    return ModelSignature(
        inputs=Schema([TensorSpec(pixel, (-1, -1, len(PLANES), -1, -1))]),
        outputs=Schema([TensorSpec(pixel, shape, name) for name, shape in told.items()]),
    )
