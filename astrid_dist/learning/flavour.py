"""How MLflow loads a model: from the file of `astrid_dist.learning.model_file`, which runs no code. ::

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
from astrid_dist.learning.model_file import load_model
from astrid_dist.learning.unet import UNet

#: Name of the model's file within what MLflow keeps.
FILE = "model.pt"


class Model:
    """What `mlflow.pyfunc.load_model` gives."""

    def __init__(self, unet: UNet) -> None:
        self.unet = unet

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
            told = self.unet.eval()(pixels)
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
    return Model(load_model(path / FILE if path.is_dir() else path))
