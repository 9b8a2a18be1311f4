"""Every mistake in a job file is told with its file, its line, its key, and what was probably meant."""

from pathlib import Path
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.engine.jobfile import job_schema, load_job, validate
from astrid_dist.errors import ConfigError


class Detection(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threshold: float = Field(5.0, gt=0, description="Peaks above this score, in sigmas.")
    both_signs: bool = Field(True, description="Negative peaks too.")


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    survey: str = Field(description="URL of the survey cube.")
    output: str = Field(description="URL of the product.")
    epochs: Literal["all", "best"] = Field("all", description="Which epochs.")
    detection: Detection | None = Field(None, description="Detection.")
    fields: list[Detection] = Field([], description="Per field.")


JOB = """\
stage: difference
survey: survey.zarr
output: out.zarr
detection:
  threshold: 5
  both_signs: no
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def load(path: Path, *overrides: str) -> Settings:
    stage, raw, where = load_job(path, overrides)
    assert stage == "difference"
    return validate(Settings, raw, where)


def test_a_job_file_becomes_settings_and_arguments_lie_over_it(job: Path) -> None:
    settings = load(job, "detection.threshold=1e1", "epochs=best", "output=s3://bucket/o.zarr?x=1")
    assert settings.detection == Detection(threshold=10, both_signs=False)
    assert (settings.survey, settings.epochs) == ("survey.zarr", "best")
    assert settings.output == "s3://bucket/o.zarr?x=1"
    assert load(job, "fields=[{threshold: 3}]").fields == [Detection(threshold=3)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("epocs: best", r"job\.yaml:7: unknown key 'epocs'; did you mean 'epochs'\?"),
        ("epochs: some", r"job\.yaml:7: 'epochs': Input should be 'all' or 'best' \(got 'some'\)"),
        ("survey: other.zarr", r"job\.yaml:7: key 'survey' is there twice, first at .*job\.yaml:2"),
        (
            "fields: [{threshold: 1},\n  {treshold: 2}]",
            r"job\.yaml:8: unknown key 'fields\.1\.treshold'; did you mean 'thre",
        ),
        ("zzz: 1", r"job\.yaml:7: unknown key 'zzz'; known are detection, epochs, fields, output, survey"),
        ("on: 1", r"job\.yaml:7: key 'on' is no string to YAML"),
        ("epochs: [all", r"job\.yaml:\d+: no valid YAML"),
        ("aws_secret_access_key: hunter2", r"job\.yaml:7: 'aws_secret_access_key' looks like a secret"),
        ("fields: {password: x}", r"job\.yaml:7: 'password' looks like a secret"),
        ("epochs: https://me:hunter2@host/x", r"job\.yaml:7: the URL in 'epochs' has a user or password"),
    ],
)
def test_a_mistake_is_told_with_its_line(job: Path, line: str, said: str) -> None:
    job.write_text(JOB + line + "\n")
    with pytest.raises(ConfigError, match=said) as caught:
        load(job)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("epocs=best", r"argument 'epocs=best': unknown key 'epocs'; did you mean 'epochs'"),
        (
            "detection.treshold=3",
            r"argument 'detection\.treshold=3': unknown key 'detection\.treshold'; did you mean",
        ),
        ("survey.band=g", r"'survey' is 'survey\.zarr', which has no keys of its own"),
        ("epochs", "expected key=value"),
        ("epochs=[", "no valid YAML"),
        ("api_token=hunter2", "looks like a secret"),
    ],
)
def test_a_mistake_in_an_argument_is_told_with_the_argument(job: Path, argument: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(job, argument)
    assert "hunter2" not in str(caught.value)


def test_every_mistake_is_told_at_once_and_what_is_missing_is_described(job: Path) -> None:
    job.write_text("stage: difference\noutput: 3\nepocs: best\n")
    with pytest.raises(ConfigError) as caught:
        load(job)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("'survey' is missing: URL of the survey cube." in line for line in lines)


@pytest.mark.parametrize("text", ["", "- 1\n", "survey: x\n", "stage: 3\n"])
def test_a_file_that_is_no_job_is_refused(job: Path, text: str) -> None:
    job.write_text(text)
    with pytest.raises(ConfigError, match=r"job\.yaml"):
        load(job)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(job.parent / "absent.yaml")


def test_the_schema_of_a_job_file_accepts_what_loads_and_refuses_typing_errors() -> None:
    schema = job_schema(Settings, "difference")
    check = jsonschema.Draft202012Validator(schema)
    good = {"stage": "difference", "survey": "s.zarr", "output": "o.zarr", "detection": {"threshold": 3}}
    assert check.is_valid(good)
    for wrong in ({"stage": "detect"}, {"epocs": "best"}, {"detection": {"treshold": 3}}, {"epochs": "some"}):
        assert not check.is_valid({**good, **wrong})
