"""A model on disk: weights, architecture and digests in one file that runs no code when it is read."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from astrid_dist.errors import ConfigError, InputError, StorageError
from astrid_dist.learning.unet import UNet, UNetConfig

_FORMAT = "astrid_dist U-Net 1"


def weights_digest(model: torch.nn.Module) -> str:
    """16 hex digits of all weights, by name; the same on every machine."""
    whole = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        whole.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


def save_model(model: UNet, path: str | Path) -> None:
    """Write a model; the file appears whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(model_bytes(model))
        part.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: the model could not be written ({error}); is there a folder, and space?"
        ) from error


def load_model(path: str | Path, expected: UNetConfig | None = None) -> UNet:
    """Read a model that `save_model` wrote; see `read_model`.

    Raises
    ------
    StorageError
        There is no such file, or it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: the model cannot be read ({error}); check the path") from error
    return read_model(content, str(path), expected)


def model_bytes(model: UNet) -> bytes:
    """A model as `save_model` writes it, for storage that is no folder."""
    file = io.BytesIO()
    parts = {
        "format": _FORMAT,
        "config": model.config.plain(),
        "weights": weights_digest(model),
        "state": {name: value.detach().cpu() for name, value in model.state_dict().items()},
    }
    torch.save(parts, file)
    return file.getvalue()


def read_model(content: bytes, path: str, expected: UNetConfig | None = None) -> UNet:
    """The model that `model_bytes` made, in evaluation, on the CPU.

    Parameters
    ----------
    content : bytes
    path : str
        Where it came from, for messages.
    expected : UNetConfig, optional
        The architecture that the caller goes on with.

    Raises
    ------
    InputError
        It is damaged, holds something else, or would run code.
    ConfigError
        It has another architecture than the one expected.
    """
    parts = _parts(content, path)
    try:
        config = UNetConfig.read(parts["config"])
        if expected is not None and config.digest != expected.digest:
            raise ConfigError(f"{path}: the model has another architecture: {_differences(config, expected)}")
        model = UNet(config)
        model.load_state_dict(parts["state"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the model is incomplete ({error!r}); write it with save_model") from error
    except RuntimeError as error:
        raise InputError(
            f"{path}: the weights do not fit the architecture stored with them: {error}"
        ) from error
    if weights_digest(model) != parts.get("weights"):
        raise InputError(
            f"{path}: the weights changed since they were written; fetch or train the model again"
        )
    return model.eval()


def _parts(content: bytes, path: str) -> dict[str, Any]:
    """What the file holds: tensors and plain values, never code."""
    try:
        parts = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # reading what is no pickle may raise anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise InputError(
                f"{path}: refused, since it holds more than weights and would run code when read; "
                "take models only from save_model"
            ) from error
        raise InputError(f"{path}: this is no model, or a damaged one; fetch or train it again") from error
    if not isinstance(parts, dict) or parts.get("format") != _FORMAT:
        raise InputError(f"{path}: this file was not written by save_model of this version ({_FORMAT})")
    return parts


def _differences(found: UNetConfig, expected: UNetConfig) -> str:
    """Settings that differ, in words."""
    here, there = found.plain(), expected.plain()
    return "; ".join(f"{k} is {here[k]}, {there[k]} expected" for k in here if here[k] != there[k])
