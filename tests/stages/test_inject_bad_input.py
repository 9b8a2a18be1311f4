"""What cannot be injected is refused before anything is written; what fails later leaves a sound product."""

import errno
import json
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import astrid_dist as astrid
from astrid_dist.cli import main
from astrid_dist.engine.jobfile import load_yaml, validate
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, IncompleteProductError
from astrid_dist.flags import Flag
from astrid_dist.stages import inject
from astrid_dist.stages.inject import Settings
from astrid_dist.stages.run import plan_stage, resume, run_stage
from astrid_dist.stages.synthetic import stamps_job
from astrid_dist.stages.synthetic.host_table import FieldEpochs, hosts_of_groups, possible_hosts, split_hosts
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import create_group, create_product, set_state
from astrid_dist.store.verifying import verify
from astrid_dist.store.writing import ProductWriter
from tests.faults import SMALL, create_survey
from tests.small_survey import small_survey


def given(**changes: object) -> dict[str, object]:
    made = small_survey()
    one = {"survey": made.survey, "reference": made.reference, "output": "memory://bad", "way": "fast"}
    return {**one, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kinds": ["SN Iaa"]}, r"nothing is called 'SN Iaa'; did you mean 'SN Ia'\?"),
        ({"environments": {"hosts": 1}}, "hosts not known; they are empty, host"),
        ({"bands": {"z": 1}}, "no host of generic/train is of band z; there are r"),
        ({"mix": {"transient": 0}}, "sum to 0"),
        ({"mix": {"comets": 1}}, "no class is called 'comets'"),
        ({"mix": {"transient": 1}, "kinds": ["asteroid"]}, "kinds holds none of that class"),
        ({"snr": [10, 3]}, "lowest < highest"),
        ({"splits": {}}, "one above 0"),
        ({"splits": {"train": -1, "test": 2}}, "0 or more"),
        ({"split_by": "cell"}, "1 sky cells .* cannot be split by cell into train, val, test"),
        ({"split_by": "both"}, "cannot be split by both"),
        ({"samples": 2}, r"samples=2: 3 splits \(train, val, test\) of 1 surveys need 3 at least"),
        ({"visits": 7}, "no field has 7 epochs"),
        ({"fields": ["nope/*"]}, "no group like 'nope"),
        ({"survey": "/nowhere/survey.zarr"}, "there is nothing at"),
    ],
)
def test_planning_refuses_what_cannot_be_made(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_stage("inject", given(**changes))
    assert not Location.parse("memory://bad").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": ["a", "b"]}, "1 surveys, but 2 URLs of reference: one for each"),
        ({"difference": ["a", "b"]}, "1 surveys, but 2 URLs of difference: one for each"),
        ({"shard_samples": 100}, "shard_samples=100: give a multiple of 256"),
        ({"samples": 0}, "greater than or equal to 1"),
        ({"mix": {"transient": float("nan")}}, "finite"),
        ({"splits": {"train/a": 1}}, "'train/a' is no name"),
        ({"bands": {"r": 0}}, "bands=.*one above 0"),
        ({"bands": {"r": -1, "g": 2}}, "bands=.*0 or more"),
        ({"mode": "stamp"}, "mode.*'stamps' or 'frames'"),
        ({"sampels": 10}, "sampels"),
    ],
)
def test_a_job_file_is_refused_with_the_key_that_is_wrong(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(Settings, given(**changes), lambda place: "job.yaml:7")


def test_the_command_says_it_in_a_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_survey()
    urls = [f"survey={made.survey}", f"reference={made.reference}", f"output={tmp_path / 's.zarr'}"]
    monkeypatch.setattr(sys, "argv", ["astrid", "plan", "jobs/inject.yaml", *urls, "kinds=[SN Iaa]"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "did you mean 'SN Ia'?" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({**SMALL, "y": 40}, "420 x 40 pixels, too small for a stamp of 63"),
        ({**SMALL, "v": 1, "u": 1}, "has no PSF: ingest it again"),
    ],
)
def test_a_survey_that_cannot_be_injected_into_is_refused(
    tmp_path: Path, sizes: dict[str, int], said: str
) -> None:
    survey = create_survey(str(tmp_path / "survey.zarr"), ["f0001/r"], sizes)
    reference = Location.parse(str(tmp_path / "reference.zarr"))
    made = ProductReader(Location.parse(small_survey().reference), "f150.000-20.000/r").attributes
    create_product(reference, "reference", inputs={}, digest="0" * 64)
    set_state(reference, "complete")
    create_group(reference, "reference", "f0001/r", sizes, made)
    with pytest.raises(ConfigError, match=said):
        plan_stage("inject", given(survey=str(survey), reference=str(reference)))


def copied(tmp_path: Path) -> tuple[Path, Path]:
    """The small survey and its reference, to be spoiled."""
    made = small_survey()
    for name in ("survey", "reference"):
        shutil.copytree(getattr(made, name), tmp_path / f"{name}.zarr")
    return tmp_path / "survey.zarr", tmp_path / "reference.zarr"


def test_a_band_without_a_filter_is_refused_where_light_curves_are_needed(tmp_path: Path) -> None:
    survey, reference = copied(tmp_path)
    metadata = survey / "f150.000-20.000" / "r" / "zarr.json"
    said = json.loads(metadata.read_text())
    said["attributes"]["band"] = "w"
    metadata.write_text(json.dumps(said))
    urls = {"survey": str(survey), "reference": str(reference)}
    with pytest.raises(
        ConfigError, match=r"2 visits need light curves; .*no filter curve for band 'w'.*g, r"
    ):
        plan_stage("inject", given(**urls, visits=2))
    assert plan_stage("inject", given(**urls)).estimate.tasks == 3  # one visit needs none


def test_what_lies_on_spoiled_pixels_is_recorded_and_not_injectable(tmp_path: Path) -> None:
    survey, reference = copied(tmp_path)
    group = "f150.000-20.000/r"
    mask = ProductReader(Location.parse(survey), group).read("mask")
    writer = ProductWriter(Location.parse(survey), group)
    for epoch in range(len(mask)):
        spoiled = mask[epoch].copy()
        spoiled[:, :300] |= int(Flag.SATURATED)
        writer.write("mask", {"epoch": epoch}, spoiled)
    output = tmp_path / "samples.zarr"
    job = {"survey": str(survey), "reference": str(reference), "output": str(output), "samples": 1000}
    more = {"splits": {"train": 1}, "kinds": ["SN Ia", "RR Lyrae", "noise peak"], "negative": 0.5}
    run_stage("inject", given(**job, **more), SerialEngine())
    table = astrid.open_samples(str(output))["generic/train"].load()
    reasons = table.astrid.names("reason").values.astype(str)
    bad = ~table.injectable.values
    assert 50 < bad.sum() < 1000
    np.testing.assert_array_equal(bad, reasons != "")
    assert set(reasons[bad]) <= {"no site", "masked", "saturated", "no flux", "outside"}
    assert np.all(table.weight.values[bad] == 0)
    assert not table.target.values[bad].any()
    # What could be put in lies where there are data.
    assert np.all(table.x.values[~bad] > 296)


def test_a_full_disk_half_way_leaves_a_product_that_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, whole = tmp_path / "samples.zarr", tmp_path / "whole.zarr"
    job = given(output=str(output), samples=1024, shard_samples=256, splits={"train": 1})
    real, written = ProductWriter._store, []

    def fills_up(self: ProductWriter, array: object, variable: str, *rest: object) -> None:
        if variable == "pixels":
            written.append(variable)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, array, variable, *rest)

    monkeypatch.setattr(ProductWriter, "_store", fills_up)
    with pytest.raises(IncompleteProductError, match="astrid resume"):
        run_stage("inject", job, SerialEngine(), retries=0)
    monkeypatch.undo()
    failures = list(Ledger(Location.parse(output)).failures("inject"))
    assert len(failures) == 2
    with pytest.raises(IncompleteProductError):
        astrid.open_samples(str(output))
    summary = resume(str(output), SerialEngine())
    assert (summary.done, summary.skipped) == (2, 2)
    assert verify(str(output)).ok
    run_stage("inject", {**job, "output": str(whole)}, SerialEngine())
    for name, values in astrid.open_samples(str(whole))["generic/train"].variables.items():
        np.testing.assert_array_equal(astrid.open_samples(str(output))["generic/train"][name], values)


def test_a_job_goes_on_with_its_epochs_whatever_has_come_since(tmp_path: Path) -> None:
    survey, reference = copied(tmp_path)
    urls = {"survey": str(survey), "reference": str(reference)}
    first = plan_stage("inject", given(**urls))
    frames = Path(small_survey(384, 6, ("r",), 6).survey).parent / "fits"
    more = {"paths": [str(sorted(frames.iterdir())[-1])], "output": str(survey), "survey": "generic"}
    run_stage("ingest", {**more, "field": "f150.000-20.000"}, SerialEngine())
    again = plan_stage("inject", first.job.settings)
    assert (again.job.digest, len(again.keys)) == (first.job.digest, len(first.keys))
    assert plan_stage("inject", given(**urls)).job.digest != first.job.digest


@pytest.mark.parametrize("number", [10**6, 10**9])
def test_very_many_samples_are_planned_in_flat_memory(number: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = plan_stage("inject", given(samples=number))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 700
    shards = sum(-(-int(number * share) // 4096) for share in (0.8, 0.1, 0.1))
    assert made.estimate.tasks == len(made.keys) == shards
    assert any("times: give more epochs" in said for said in made.warnings)
    sets = stamps_job.sample_sets(Settings.model_validate(made.job.settings))
    assert sum(one.number for one in sets) == number
    assert all(int(one.groups.sum()) == -(-one.number // 256) for one in sets)
    last = sets[0].host_of(int(sets[0].groups.sum()) - 1)
    assert last == len(sets[0].hosts) - 1


def test_a_host_table_of_a_million_serves_a_billion_samples() -> None:
    fields = [
        FieldEpochs(f"f{k:04d}/{band}", (2048, 2048), np.arange(100), 60000 + np.arange(100.0))
        for k in range(320)
        for band in "gr"
    ]
    hosts = possible_hosts(fields, 1, False)
    assert len(hosts) == 640 * 100 * 16
    split, _ = split_hosts(hosts, {"train": 0.8, "val": 0.1, "test": 0.1}, "auto", 1)
    rows = hosts_of_groups(hosts.bands, split["train"], 4_000_000, {}, 1, "x/train")
    assert len(rows) == 4_000_000


def test_overrides_of_a_job_file_are_checked_alike() -> None:
    raw, where = load_yaml("jobs/inject.yaml", ["samples=many"])
    raw.pop("stage")
    with pytest.raises(ConfigError, match="samples"):
        validate(Settings, raw, where)


def test_a_shard_deep_in_a_billion_is_made_by_itself(tmp_path: Path) -> None:
    number = 10**9 + 100
    output = str(tmp_path / "samples.zarr")
    job = given(output=output, samples=number, shard_samples=256, splits={"train": 1}, kinds=["SN Ia"])
    made = plan_stage("inject", job)
    inject.prepare(made)
    outcome = inject.task(made.job.settings, made.keys[-1])
    assert outcome.counts["samples"] == 100
    table = ProductReader(Location.parse(output), "generic/train")
    items = table.read("item", sample=slice(number - 100, number))
    np.testing.assert_array_equal(items, np.arange(number - 100, number))
