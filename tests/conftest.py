"""What every test shares: where real data lies, and nothing else."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real survey data; the test skips where there is none."""
    folder = Path(os.environ.get("ASTRID_REALDATA", PROJECT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set ASTRID_REALDATA to a folder that holds it")
    return folder
