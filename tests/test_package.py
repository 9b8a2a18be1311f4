"""The package as a whole: light to import, layered, and its bundled files where they should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import astrid_dist
from astrid_dist.bundled import bundled
from astrid_dist.stages import STAGES, load_stage

PROJECT = Path(__file__).resolve().parent.parent


def test_importing_takes_under_a_second_and_no_torch_ray_or_mlflow() -> None:
    code = (
        "import json, sys, time; start = time.perf_counter(); import astrid_dist;"
        "took = time.perf_counter() - start; heavy = ('torch', 'ray', 'mlflow', 'dask', 'xarray');"
        "print(json.dumps([took, [name for name in heavy if name in sys.modules]]))"
    )
    # The best of three: another process on the machine must not fail this test.
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(took for took, _ in runs) < 1.0
    assert all(loaded == [] for _, loaded in runs)


def test_every_public_name_can_be_imported() -> None:
    for name in astrid_dist.__all__:
        assert getattr(astrid_dist, name) is not None
    with pytest.raises(AttributeError, match="open_survey"):
        _ = astrid_dist.no_such_name


def test_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_schemas_on_disk_are_those_of_the_models() -> None:
    from astrid_dist.stages.schemas import main

    assert main(["--check", str(bundled("schemas"))]) == 0


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_has_a_job_file_that_its_schema_and_its_model_accept(stage: str) -> None:
    import jsonschema
    import yaml

    from astrid_dist.engine.jobfile import load_job, validate

    path = bundled("jobs") / f"{stage}.yaml"
    name, raw, where = load_job(path, [])
    assert name == stage
    validate(load_stage(stage).Settings, raw, where)
    schema = json.loads((bundled("schemas") / f"{stage}.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
