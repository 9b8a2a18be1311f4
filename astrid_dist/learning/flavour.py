"""How MLflow loads a model: from the files of `astrid_dist.learning.ensemble`, which run no code. ::

import mlflow
model = mlflow.pyfunc.load_model("models:/astrid-ztf@champion")
told = model.predict(pixels)            # (n, visit, plane, y, x) float32 noise sigmas, of any size
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.learning.committee import Committee
from astrid_dist.learning.ensemble import is_part, read_ensemble, read_parts
from astrid_dist.learning.unet import UNet


class Model:
    """What `mlflow.pyfunc.load_model` gives: the networks, without trees and calibration."""

    def __init__(self, networks: UNet | Committee) -> None:
        self.networks = networks

    def predict(
        self, model_input: NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Of the candidate in the middle of each image, and of every pixel.

        ``real`` (n,) probability, ``classes`` (n, class) probabilities, ``position`` (n, 2) pixels from the
        middle, ``flux`` (n, visit) in sigma_d, ``segmentation`` (n, visit, class, y, x) probabilities.
        """
        pixels = torch.as_tensor(np.asarray(model_input, np.float32))
        if pixels.dim() != 5:
            raise InputError(
                f"the input has the shape {tuple(pixels.shape)}: it must be (n, visit, plane, y, x)"
            )
        with torch.inference_mode():
            told = self.networks.eval()(pixels)
        return {
            "real": told.real.sigmoid().numpy(),
            "classes": told.classes.softmax(1).numpy(),
            "position": told.position.numpy(),
            "flux": told.flux.numpy(),
            "segmentation": told.segmentation.sigmoid().numpy(),
        }


def _load_pyfunc(data_path: str) -> Model:
    """Called by MLflow, by this name."""
    path = Path(data_path)
    if path.is_dir():
        ensemble = read_parts({p.name: p.read_bytes() for p in path.iterdir() if is_part(p.name)}, str(path))
    else:
        ensemble = read_ensemble(path.read_bytes(), str(path))
    return Model(Committee(ensemble.unets))
