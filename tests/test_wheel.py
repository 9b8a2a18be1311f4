"""An installed wheel works outside the checkout: everything a user needs is inside it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unpacked wheel, as pip would lay it into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(PROJECT)], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, *command: str) -> str:
    """A command in a fresh process that finds the wheel before the checkout, run elsewhere."""
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(installed.parent)}
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_command_of_the_wheel_copies_jobs_clusters_and_schemas(installed: Path) -> None:
    said = run(installed, "-m", "astrid_dist.cli", "init", "mine")
    copied = installed.parent / "mine"
    for kind in ("jobs", "clusters", "schemas"):
        assert sorted(path.name for path in (copied / kind).iterdir()) == sorted(
            path.name for path in (PROJECT / kind).iterdir()
        )
    assert "copied" in said
    (copied / "jobs" / "detect.yaml").write_text("mine\n")
    assert "kept" in run(installed, "-m", "astrid_dist.cli", "init", "mine")
    assert (copied / "jobs" / "detect.yaml").read_text() == "mine\n"


def test_the_wheel_has_its_profiles_its_style_and_its_types(installed: Path) -> None:
    said = run(
        installed,
        "-c",
        "import astrid_dist; from astrid_dist.surveys.profile import load_profile;"
        "from astrid_dist.figures import page; print(astrid_dist.__file__, load_profile('decam').name)",
    )
    assert str(installed) in said
    assert said.endswith("decam\n")
    for name in ("py.typed", "figures/page.css", "bundled/jobs/ingest.yaml", "surveys/data/ztf.yaml"):
        assert (installed / "astrid_dist" / name).is_file(), name
