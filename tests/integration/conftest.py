"""One small mock survey, ingested once, for everything that stands on it."""

from pathlib import Path

import pytest

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage

#: 12 epochs of 256 x 256 pixels: seconds to make, enough stars to register and subtract.
MOCK = {
    "size_px": 256,
    "epochs": 12,
    "template_epochs": 3,
    "supernovae": 3,
    "hostless": 2,
    "variables": 3,
    "star_density": 900.0,
}


@pytest.fixture(scope="session")
def mock_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``fits/``, ``truth.zarr`` and ``survey.zarr``; read only, please."""
    folder = tmp_path_factory.mktemp("mock")
    run_stage(
        "mock", {**MOCK, "output": str(folder / "truth.zarr"), "files": str(folder / "fits")}, SerialEngine()
    )
    run_stage(
        "ingest",
        {
            "paths": [str(folder / "fits")],
            "survey": "generic",
            "output": str(folder / "survey.zarr"),
            "field": "f0000",
        },
        SerialEngine(),
    )
    return folder


@pytest.fixture(scope="session")
def mock_reference(mock_survey: Path) -> Path:
    """The folder of `mock_survey` with ``reference.zarr`` made of the three template epochs."""
    run_stage(
        "reference",
        {
            "survey": str(mock_survey / "survey.zarr"),
            "output": str(mock_survey / "reference.zarr"),
            "epochs": [f"f0000_r_e{i:04d}.fits.fz" for i in range(3)],
        },
        SerialEngine(),
    )
    return mock_survey
