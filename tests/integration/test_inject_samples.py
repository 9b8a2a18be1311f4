"""Samples as whole jobs make them: equal however cut and whoever is killed, and as they were asked for."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import astrid_dist as astrid
from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import resume, run_stage
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.verifying import verify
from tests.integration.test_bad_subtractions import trailed
from tests.integration.test_kill_and_resume import workers_of
from tests.small_survey import SmallSurvey, small_survey

#: Two worker processes.
CLUSTER = "kind: local\nworkers: 2\nmemory_limit: 4GiB\n"
ONE_SPLIT = {"splits": {"train": 1.0}}
#: Nights of the small survey are few, and its field is one tile.
NIGHTS = {"split_by": "night", "splits": {"train": 0.7, "test": 0.3}}


def settings(made: SmallSurvey, output: Path | str, **changes: object) -> dict[str, object]:
    one = {"survey": made.survey, "reference": made.reference, "known": made.truth}
    return {**one, "output": str(output), "way": "fast", "seed": 3, **changes}


def samples(made: SmallSurvey, output: Path, **changes: object) -> dict[str, xr.Dataset]:
    run_stage("inject", settings(made, output, **changes), SerialEngine())
    return dict(astrid.open_samples(str(output)))


def assert_equal(found: str, expected: str) -> None:
    one, other = astrid.open_samples(found), astrid.open_samples(expected)
    assert list(one) == list(other)
    for group in other:
        assert set(one[group].variables) == set(other[group].variables)
        for name in other[group].variables:
            np.testing.assert_array_equal(one[group][name], other[group][name], err_msg=f"{group} {name}")


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 samples in shards of 256, made by this process alone."""
    output = tmp_path_factory.mktemp("serial") / "samples.zarr"
    given = settings(small_survey(), output, samples=3000, shard_samples=256, **NIGHTS)
    run_stage("inject", given, SerialEngine())
    return output


@pytest.fixture
def cluster_file(tmp_path: Path) -> str:
    path = tmp_path / "two.yaml"
    path.write_text(CLUSTER)
    return str(path)


@pytest.mark.parametrize("shard", [512, 1024])
def test_values_do_not_depend_on_how_samples_are_cut(serial: Path, tmp_path: Path, shard: int) -> None:
    output = tmp_path / "samples.zarr"
    samples(small_survey(), output, samples=3000, shard_samples=shard, **NIGHTS)
    assert_equal(str(output), str(serial))


@pytest.mark.slow
@pytest.mark.cluster
def test_values_do_not_depend_on_who_makes_them(serial: Path, tmp_path: Path, cluster_file: str) -> None:
    output = tmp_path / "samples.zarr"
    given = settings(small_survey(), output, samples=3000, shard_samples=256, **NIGHTS)
    with open_engine(cluster_file) as engine:
        summary = run_stage("inject", given, engine)
    assert summary.done == 13
    assert_equal(str(output), str(serial))


def driver(arguments: list[str], cluster: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "astrid_dist.cli", *arguments, "--cluster", cluster]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def killed_at(process: subprocess.Popen[bytes], output: Path, markers: int, worker_at: int = 0) -> int:
    """Kill a driver once so many shards are done, and one of its workers before; how many there are then."""
    orphans = []
    try:
        deadline, ledger = time.monotonic() + 120, Ledger(Location.parse(output))
        while (done := len(ledger.finished("inject"))) < markers:
            assert time.monotonic() < deadline, "the job made no progress"
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            if worker_at and done >= worker_at:
                os.kill(workers_of(process)[0].pid, signal.SIGKILL)
                worker_at = 0
            time.sleep(0.02)
        orphans = workers_of(process)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    for orphan in orphans:
        orphan.wait(timeout=60)
    return len(Ledger(Location.parse(output)).finished("inject"))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_killed_twice_and_resumed_it_is_whole_and_equal(
    serial: Path, tmp_path: Path, cluster_file: str
) -> None:
    output = tmp_path / "samples.zarr"
    given = settings(small_survey(), output, samples=3000, shard_samples=256, **NIGHTS)
    given["splits"] = "{train: 0.7, test: 0.3}"
    overrides = [f"{name}={value}" for name, value in given.items()]
    first = killed_at(driver(["run", "jobs/inject.yaml", *overrides], cluster_file), output, 3, worker_at=1)
    second = killed_at(driver(["resume", str(output)], cluster_file), output, first + 3)
    assert first < second < 13, "the drivers were to die in the middle"
    with pytest.raises(astrid.AstridError, match="astrid resume"):
        astrid.open_samples(str(output))
    summary = resume(str(output), SerialEngine())
    assert (summary.skipped, summary.done) == (second, 13 - second)
    assert verify(str(output)).ok
    assert_equal(str(output), str(serial))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Three visits of mixed bands, of kinds that rise, fade, repeat and move."""
    output = tmp_path_factory.mktemp("visits") / "samples.zarr"
    made = samples(
        small_survey(384, 6, ("g", "r")), output, samples=768, visits=3, mix_bands=True, snr=[20, 200],
        kinds=["SN Ia", "RR Lyrae", "asteroid", "microlensing"], negative=0.0, **ONE_SPLIT,
    )  # fmt: skip
    return made["generic/train"].load()


def of_kind(table: xr.Dataset, kind: str) -> xr.Dataset:
    return table.isel(sample=(table.astrid.names("kind") == kind).values & table.injectable.values)


def test_visits_are_in_order_of_time_and_mix_bands(sequences: xr.Dataset) -> None:
    assert sequences.sizes["visit"] == 3
    assert np.all(np.diff(sequences.mjd, axis=1) > 0)
    assert sequences.attrs["bands"] == ["g", "r"]
    assert all(set(bands) == {0, 1} for bands in sequences.band.values)


def test_light_curves_agree_between_visits(sequences: xr.Dataset) -> None:
    supernovae = of_kind(sequences, "SN Ia")
    compared = 0
    for _, one in supernovae.groupby("sample"):
        flux, mjd, band = (one[name].values.ravel() for name in ("flux", "mjd", "band"))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if band[i] == band[j] and mjd[j] - mjd[i] < 0.1 and flux[i] > 0 and flux[j] > 0:
                # Half an hour apart a supernova has changed by no more than a few hundredths.
                assert flux[j] / flux[i] == pytest.approx(1, abs=0.06)
                compared += 1
    assert compared > 10
    # What repeats within the day does not stay.
    lyrae = of_kind(sequences, "RR Lyrae")
    assert np.median(np.ptp(lyrae.flux.values, axis=1) / np.abs(lyrae.flux.values).max(axis=1)) > 0.2


def test_every_visit_shows_the_flux_that_its_truth_says(sequences: xr.Dataset) -> None:
    points = of_kind(sequences, "SN Ia")
    snr, peak = points.snr.values, points.peak.values
    ok = np.isfinite(snr) & np.isfinite(peak) & (snr > 15)
    assert ok.sum() > 100
    assert np.all(np.isfinite(points.mag.values[ok]))
    assert np.median(peak[ok] / snr[ok]) == pytest.approx(1, abs=0.05)
    assert np.corrcoef(np.log(peak[ok]), np.log(snr[ok]))[0, 1] > 0.97
    # In its own visit each has the SNR that its stratum asks for.
    ranges = np.array([row["snr"] for row in sequences.attrs["strata"]])[points.stratum.values]
    low, high = ranges.T[:, :, None]
    assert np.all(np.any((snr > 0.999 * low) & (snr < 1.001 * high), axis=1))


def test_what_moves_moves_evenly_and_what_does_not_stays(sequences: xr.Dataset) -> None:
    still = of_kind(sequences, "SN Ia")
    assert np.ptp(still.x.values, axis=1).max() < 1e-9
    moving = of_kind(sequences, "asteroid")
    t = moving.mjd.values - moving.mjd.values[:, :1]
    rates = []
    for at in (moving.x.values, moving.y.values):
        along = at - at[:, :1]
        np.testing.assert_allclose(along[:, 1] * t[:, 2], along[:, 2] * t[:, 1], atol=1e-6)
        rates.append(along[:, 2] / t[:, 2])
    assert np.median(np.hypot(*rates)) > 1  # pixels a day


@pytest.mark.slow
def test_two_surveys_in_one_job_share_its_samples(tmp_path: Path) -> None:
    generic, ztf = small_survey(), small_survey(384, 4, ("g", "r"), 7, "ztf")
    output = tmp_path / "samples.zarr"
    asked = {"transient": 0.4, "moving": 0.2, "cosmic_ray": 0.4}
    run_stage(
        "inject",
        {
            "survey": [generic.survey, ztf.survey], "reference": [generic.reference, ztf.reference],
            "output": str(output), "way": "fast", "samples": 1024, "mix": asked, **ONE_SPLIT,
        },
        SerialEngine(),
    )  # fmt: skip
    made = astrid.open_samples(str(output))
    assert sorted(made) == ["generic/train", "ztf/train"]
    for table in made.values():
        assert table.sizes["sample"] == 512
        names, counts = np.unique(table.astrid.names("class").values.astype(str), return_counts=True)
        got = dict(zip(names.tolist(), (counts / 512).tolist(), strict=True))
        assert got == pytest.approx(asked, abs=0.004)
    assert made["generic/train"].attrs["bands"] == ["r"]
    of_ztf = made["ztf/train"]
    assert of_ztf.attrs["bands"] == ["g", "r"]
    np.testing.assert_array_equal(np.bincount(of_ztf.band.values.ravel()), [256, 256])
    assert float(np.median(of_ztf.fwhm_n)) != float(np.median(made["generic/train"].fwhm_n))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cell", "night"])
def test_splits_share_no_cell_and_no_night(tmp_path: Path, by: str) -> None:
    made = small_survey(1024, 4, ("r",)) if by == "cell" else small_survey()
    parts = samples(made, tmp_path / "samples.zarr", samples=1280, split_by=by,
                    splits={"train": 0.6, "val": 0.2, "test": 0.2})  # fmt: skip
    assert [table.sizes["sample"] for table in parts.values()] == [256, 768, 256]
    kept = [set(table[f"host_{by}"].values.tolist()) for table in parts.values()]
    assert all(kept)
    assert sum(len(one) for one in kept) == len(set().union(*kept))
    for table in parts.values():
        assert table.attrs["split_by"] == by
        used = table[f"host_{by}"].isel(host=table.host_row)
        assert set(used.values.tolist()) == set(table[f"host_{by}"].values.tolist())


@pytest.fixture(scope="module")
def with_a_bad_epoch(tmp_path_factory: pytest.TempPathFactory) -> SmallSurvey:
    """The small survey, in which the telescope moved during the last exposure."""
    folder = tmp_path_factory.mktemp("spoiled")
    shutil.copytree(Path(small_survey().survey).parent / "fits", folder / "fits")
    frames = sorted((folder / "fits").iterdir())
    with fits.open(frames[-1]) as hdus:
        data, header = hdus[1].data.astype(np.float64), hdus[1].header.copy()
    data = trailed(data, header, np.random.default_rng(2))
    for name in ("BZERO", "BSCALE"):
        header.remove(name, ignore_missing=True)
    fits.writeto(folder / "fits" / "trailed.fits", np.rint(data).astype(np.float32), header)
    frames[-1].unlink()
    made = SmallSurvey(*(str(folder / f"{name}.zarr") for name in ("survey", "reference", "difference", "t")))
    one = {"survey": made.survey}
    for stage, given in (
        ("ingest", {"paths": [str(folder / "fits")], "output": made.survey, "survey": "generic"}),
        ("reference", {**one, "output": made.reference, "epochs": [frame.name for frame in frames[:3]]}),
        ("difference", {**one, "reference": made.reference, "output": made.difference}),
    ):
        run_stage(stage, given, SerialEngine())
    return made


def test_epochs_below_the_quality_filter_are_left_out_or_used_on_purpose(
    with_a_bad_epoch: SmallSurvey, tmp_path: Path
) -> None:
    made = with_a_bad_epoch
    [group] = astrid.open_difference(made.difference).values()
    [bad] = group.epoch_id.values[group.verdict.values != "green"].tolist()
    used = {}
    for quality in ("min=green", "all"):
        output = tmp_path / f"{quality}.zarr"
        given = settings(made, output, samples=1536, difference=made.difference, quality=quality, **ONE_SPLIT)
        run_stage("inject", {**given, "known": []}, SerialEngine())
        table = astrid.open_samples(str(output))["generic/train"]
        used[quality] = set(table.host_epoch_id.values.ravel().tolist())
        worst = float(table.host_quality.min())
        assert (worst < 0.9) == (quality == "all")
    assert used["all"] - used["min=green"] == {bad}
    assert len(used["min=green"]) == 5


def test_both_ways_tell_the_same_truth_and_nearly_the_same_pixels(tmp_path: Path) -> None:
    made = small_survey()
    kinds = ["SN Ia", "RR Lyrae", "asteroid", "cosmic-ray track", "misregistration", "noise peak"]
    one = {"samples": 256, "kinds": kinds, **ONE_SPLIT}
    fast, full = (
        samples(made, tmp_path / f"{way}.zarr", **one, way=way)["generic/train"].load()
        for way in ("fast", "full")
    )
    truth = ["class", "kind", "environment", "x", "y", "flux", "snr", "mag", "band", "mjd", "stratum", "item"]
    for name in (*truth, "host_row", "offset_x", "offset_y"):
        np.testing.assert_array_equal(fast[name], full[name], err_msg=name)
    # Whether an artifact shows is asked of its own stamp: one at the limit may be told apart.
    assert np.mean(fast.reason.values != full.reason.values) < 0.02
    ok = fast.injectable.values & full.injectable.values
    assert ok.sum() > 200
    apart = (fast.pixels - full.pixels).astype(np.float32).values[ok]
    for plane in range(4):
        assert np.nanmedian(np.abs(apart[:, 0, plane])) <= 0.125, plane  # a step of the rounding
    seen = ok & np.isfinite(fast.peak.values[:, 0]) & np.isfinite(full.peak.values[:, 0])
    ratio = (fast.peak / full.peak).values[seen, 0]
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert np.quantile(np.abs(ratio - 1), 0.9) < 0.15
    both = ((fast.target > 0) & (full.target > 0)).values[ok].sum()
    assert both > 0.85 * ((fast.target > 0) | (full.target > 0)).values[ok].sum()
