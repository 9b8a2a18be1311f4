"""Injected surveys: what is put where, what stays, what is said of it; the same after any stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError
from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.stages.pair import open_pair
from astrid_dist.stages.parts import put_part, read_parts
from astrid_dist.stages.run import plan_stage, resume, run_stage
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_survey, open_truth
from astrid_dist.store.reading import ProductReader, group_names
from astrid_dist.store.verifying import verify
from tests.small_survey import SmallSurvey, small_survey

REAL = ("transient", "variable", "moving")
SOURCES = {"sources_per_mpix": 150.0, "snr": [5, 100], "seed": 3}


@pytest.fixture(scope="module")
def made_of() -> SmallSurvey:
    return small_survey()


def settings(made_of: SmallSurvey, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "mode": "frames",
        "survey": made_of.survey,
        "reference": made_of.reference,
        "output": str(output),
        **SOURCES,
        **more,
    }


def inject(made_of: SmallSurvey, output: Path, **more: Any) -> str:
    run_stage("inject", settings(made_of, output, **more), SerialEngine())
    return str(output)


def group_of(url: str) -> str:
    return next(iter(group_names(Location.parse(url))))


def reader_of(url: str) -> ProductReader:
    return ProductReader(Location.parse(url), group_of(url))


def truth_of(url: str) -> pd.DataFrame:
    rows = open_truth(url).to_dataframe()
    return rows[rows["epoch"] >= 0]


def sources_of(url: str) -> pd.DataFrame:
    rows = truth_of(url)
    return rows[rows["class"].isin(REAL)]


@pytest.fixture(scope="module")
def injected(made_of: SmallSurvey, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two realisations of all six epochs, artifacts included."""
    return inject(made_of, tmp_path_factory.mktemp("frames") / "injected.zarr", realisations=2)


def test_the_product_is_a_survey_with_every_epoch_once_per_realisation(
    made_of: SmallSurvey, injected: str
) -> None:
    original, made = reader_of(made_of.survey), reader_of(injected)
    assert made.epochs == 2 * original.epochs
    ids = made.read("epoch_id").tolist()
    assert len(set(ids)) == len(ids), "ids are unique"
    assert [one.partition("-")[0] for one in ids] == 2 * original.read("epoch_id").tolist()
    sources = made.read("source").tolist()
    assert len(set(sources)) == len(sources), "so are the names that the truth goes by"
    np.testing.assert_array_equal(made.read("mjd"), np.tile(original.read("mjd"), 2))
    assert open_survey(injected)[group_of(injected)].sizes["epoch"] == made.epochs
    assert set(truth_of(injected)["epoch"]) == set(range(made.epochs))
    assert verify(injected).ok


def test_what_no_source_changes_is_copied(made_of: SmallSurvey, injected: str) -> None:
    original, made = reader_of(made_of.survey), reader_of(injected)
    for name, one in variables("survey").items():
        if not one.is_scalar and name not in ("image", "variance", "mask"):
            np.testing.assert_array_equal(
                made.read(name, epoch=7), original.read(name, epoch=1), err_msg=name
            )
    kept = set(original.attributes) - {"epochs", "coordinates"}
    assert all(made.attributes[name] == original.attributes[name] for name in kept)


def test_light_is_added_with_its_variance_where_the_truth_says(made_of: SmallSurvey, tmp_path: Path) -> None:
    url = inject(made_of, tmp_path / "clean.zarr", artifacts=0.0, kinds=["SN Ia"], environments={"empty": 1})
    original, made = reader_of(made_of.survey), reader_of(url)
    rows = sources_of(url)
    assert (rows["kind"] == "SN Ia").all()
    bright = rows[rows["injectable"] & (rows["snr"] > 20)]
    assert len(bright) >= 3
    checked = 0
    for row in bright.itertuples():
        near = np.hypot(rows["x"] - row.x, rows["y"] - row.y)[(rows["epoch"] == row.epoch)]
        if (near < 30).sum() > 1:
            continue
        box = {"y": slice(int(row.y) - 14, int(row.y) + 15), "x": slice(int(row.x) - 14, int(row.x) + 15)}
        before, after = (
            {name: one.read(name, epoch=row.epoch, **box) for name in ("image", "variance", "mask")}
            for one in (original, made)
        )
        light = (after["image"] - before["image"]).sum(dtype=np.float64)
        assert light == pytest.approx(row.flux, abs=5 * np.sqrt(row.flux) + 0.02 * row.flux)
        more = (after["variance"] - before["variance"]).sum(dtype=np.float64)
        assert more == pytest.approx(row.flux, rel=0.03)
        core = after["mask"][13:16, 13:16]
        assert (core & int(Flag.INJECTED)).any()
        checked += 1
    assert checked >= 2
    marked = (made.read("mask") & int(Flag.INJECTED)) != 0
    assert marked.sum() <= 9 * len(rows)


def test_each_source_has_the_snr_that_was_drawn_in_one_of_the_epochs(
    made_of: SmallSurvey, tmp_path: Path
) -> None:
    url = inject(
        made_of, tmp_path / "drawn.zarr", snr=[19.9, 20.1], artifacts=0.0, kinds=["SN Ia", "asteroid"]
    )
    rows = sources_of(url)
    rows = rows[rows["injectable"]]
    nearest = (np.log(rows["snr"].where(rows["snr"] > 0) / 20)).abs().groupby(rows["id"]).min()
    assert len(nearest) >= 12
    # The noise is known before anything is read from the sky, its mesh and the reference.
    assert nearest.median() < 0.08
    assert (nearest < 0.3).mean() > 0.9


def test_realisations_have_the_same_sky_and_their_own_noise_and_artifacts(injected: str) -> None:
    rows, made = truth_of(injected), reader_of(injected)
    first, second = (
        rows[rows["class"].isin(REAL) & (rows["epoch"] == epoch)].set_index("id") for epoch in (2, 8)
    )
    # Where an artifact hides a source, it could not be put into that one.
    both = first.index.intersection(second.index)
    same = both[(first.loc[both, "injectable"] & second.loc[both, "injectable"]).to_numpy(bool)]
    assert len(same) > 10
    for name in ("x", "y", "flux", "mag", "kind"):
        pd.testing.assert_series_equal(first.loc[same, name], second.loc[same, name])
    images = [made.read("image", epoch=epoch) for epoch in (2, 8)]
    assert not np.array_equal(*images)
    artifacts = [rows[~rows["class"].isin(REAL) & (rows["epoch"] == epoch)] for epoch in (2, 8)]
    assert not set(artifacts[0]["x"]) & set(artifacts[1]["x"])
    assert not rows.loc[~rows["class"].isin(REAL), "injectable"].any(), "artifacts are no objects"


def test_lost_pixels_are_no_data(injected: str) -> None:
    made = reader_of(injected)
    image, mask = made.read("image"), made.read("mask")
    lost = np.isnan(image)
    assert lost.any(), "no bad column in twelve exposures"
    assert ((mask[lost] & int(UNUSABLE)) != 0).all()


def test_a_stopped_job_goes_on_and_ends_with_the_same_bits(
    made_of: SmallSurvey, injected: str, tmp_path: Path
) -> None:
    from astrid_dist.stages.synthetic import frame_sources

    def stop(event: object) -> None:
        if type(event).__name__ == "TaskFinished":
            raise KeyboardInterrupt

    url = str(tmp_path / "stopped.zarr")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stage("inject", settings(made_of, Path(url), realisations=2), SerialEngine(), [stop])
        frame_sources._drawn.cache_clear()  # another process draws its own
    assert not Location.parse(url).objects().exists("truth/zarr.json")
    summary = resume(url, SerialEngine())
    assert summary.skipped == 2
    assert summary.done == 10
    one, other = reader_of(injected), reader_of(url)
    for name in variables("survey"):
        np.testing.assert_array_equal(other.read(name), one.read(name), err_msg=name)
    pd.testing.assert_frame_equal(open_truth(url).to_dataframe(), open_truth(injected).to_dataframe())


def test_an_injected_epoch_is_still_part_of_its_reference(made_of: SmallSurvey, injected: str) -> None:
    reference, group = Location.parse(made_of.reference), group_of(made_of.survey)
    shares = [
        [open_pair(Location.parse(url), reference, group, index, 3.0).share for index in range(6)]
        for url in (made_of.survey, injected)
    ]
    assert sum(share > 0 for share in shares[0]) == 3
    assert shares[0] == shares[1]


def copied_reference(made_of: SmallSurvey, folder: Path, **changed: Any) -> str:
    """A reference whose provenance says something else."""
    url = folder / "reference.zarr"
    shutil.copytree(made_of.reference, url)
    name = url / group_of(made_of.reference) / "zarr.json"
    document = json.loads(name.read_text())
    document["attributes"]["reference"] |= changed
    name.write_text(json.dumps(document))
    return str(url)


def test_without_zero_points_magnitudes_are_refused_and_snr_is_not(
    made_of: SmallSurvey, tmp_path: Path
) -> None:
    reference = copied_reference(made_of, tmp_path, zeropoint=None)
    asked = settings(made_of, tmp_path / "none.zarr", draw="physical", reference=reference)
    with pytest.raises(ConfigError, match=r"no zero point.*draw=uniform"):
        plan_stage("inject", asked)
    url = inject(made_of, tmp_path / "uniform.zarr", reference=reference, artifacts=0.0, kinds=["SN Ia"])
    rows = sources_of(url)
    assert rows["mag"].isna().all()
    assert (rows["snr"] > 5).any()


def test_physical_sources_have_the_magnitudes_of_their_population(
    made_of: SmallSurvey, tmp_path: Path
) -> None:
    url = inject(
        made_of, tmp_path / "physical.zarr", draw="physical", artifacts=0.0, kinds=["SN Ia", "asteroid"],
        sources_per_mpix=800.0,
    )  # fmt: skip
    rows = sources_of(url)
    shining = rows[rows["kind"].eq("SN Ia") & rows["mag"].notna()]
    assert shining["mag"].between(12, 40).all()
    assert shining["mag"].min() < 22, "none is as bright as the survey sees"
    moving = rows[rows["kind"] == "asteroid"]
    assert moving.groupby("id")["epoch"].nunique().max() < 6, "an asteroid stays for months"


def test_sources_on_bad_pixels_are_said_not_to_be_there(made_of: SmallSurvey, tmp_path: Path) -> None:
    import zarr

    survey = tmp_path / "survey.zarr"
    shutil.copytree(made_of.survey, survey)
    group = group_of(made_of.survey)
    array = zarr.open_array(str(survey / group / "mask"), mode="r+")
    mask = array[3]
    mask[:, 192:] |= np.uint16(Flag.SATURATED)
    array[3] = mask
    url = inject(
        made_of, tmp_path / "half.zarr", survey=str(survey), artifacts=0.0, sources_per_mpix=400.0,
        kinds=["SN Ia", "RR Lyrae"],
    )  # fmt: skip
    rows = sources_of(url)
    half = rows[(rows["epoch"] == 3) & (rows["x"] > 193)]
    assert len(half) >= 5
    assert not half["injectable"].any()
    assert (half["flux"] == 0).all()
    assert half["snr"].isna().all()
    other = rows[(rows["epoch"] == 3) & (rows["x"] < 160)]
    assert other["injectable"].mean() > 0.4, "the other half can be used"
    beyond = slice(230, None)  # what is put beside does not reach so far
    images = [reader_of(one).read("image", epoch=3, x=beyond) for one in (url, str(survey))]
    np.testing.assert_array_equal(*images)


def test_an_epoch_without_a_flux_scale_is_set_aside(made_of: SmallSurvey, tmp_path: Path) -> None:
    import zarr

    survey = tmp_path / "survey.zarr"
    shutil.copytree(made_of.survey, survey)
    array = zarr.open_array(str(survey / group_of(made_of.survey) / "psf"), mode="r+")
    array[0] = np.nan
    url = str(tmp_path / "one-less.zarr")
    asked = settings(made_of, Path(url), survey=str(survey), artifacts=0.0, kinds=["RR Lyrae"])
    assert run_stage("inject", asked, SerialEngine()).quarantined == 1
    assert reader_of(url).read("valid").tolist() == [False] + [True] * 5
    assert 0 not in set(truth_of(url)["epoch"])
    rows = open_truth(url).to_dataframe()
    assert (rows["epoch"] == -1).any(), "what the reference holds is known without the epoch"


def test_a_variable_is_a_star_that_is_there(made_of: SmallSurvey, tmp_path: Path) -> None:
    url = inject(made_of, tmp_path / "variables.zarr", artifacts=0.0, kinds=["RR Lyrae"])
    every = open_truth(url).to_dataframe()
    rows, held = every[(every["epoch"] >= 0) & every["injectable"]], every[every["epoch"] == -1]
    assert (rows["flux"] < 0).any()
    assert (rows["flux"] > 0).any()
    mean = held.groupby("id")["mag"].mean()
    seen = rows[rows["mag"].notna()]
    fainter = seen["mag"].to_numpy() > mean.loc[seen["id"]].to_numpy()
    np.testing.assert_array_equal(fainter, seen["flux"] < 0)


def test_epochs_go_with_the_injected_reference_or_are_refused(made_of: SmallSurvey, tmp_path: Path) -> None:
    reference = inject(made_of, tmp_path / "reference.zarr", into="reference", negative=0.5)
    changed = reader_of(reference).read("image") - reader_of(made_of.reference).read("image")
    assert np.nanmax(changed) > 0
    with pytest.raises(ConfigError, match="drawn otherwise"):
        plan_stage("inject", settings(made_of, tmp_path / "x.zarr", reference=reference, negative=0.2))
    again = settings(made_of, tmp_path / "x.zarr", reference=reference, into="reference", negative=0.5)
    with pytest.raises(ConfigError, match="injected reference itself"):
        plan_stage("inject", again)
    url = inject(made_of, tmp_path / "epochs.zarr", reference=reference, negative=0.5)
    rows = sources_of(url)
    gone = rows[(rows["class"] == "transient") & (rows["snr"] < -5)]
    assert len(gone) >= 5
    assert gone["injectable"].any()


def test_what_cannot_be_made_is_refused_when_it_is_planned(made_of: SmallSurvey, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="called 'SN Iz'"):
        plan_stage("inject", settings(made_of, tmp_path / "x.zarr", kinds=["SN Iz"]))
    with pytest.raises(ConfigError, match="realisations"):
        plan_stage("inject", settings(made_of, tmp_path / "x.zarr", into="reference", realisations=2))
    planned = plan_stage("inject", settings(made_of, tmp_path / "x.zarr", realisations=3))
    assert planned.estimate.tasks == 18
    assert planned.estimate.peak_memory_bytes > 0
    assert any("nothing fades" in one for one in planned.warnings)


def test_parts_come_back_as_they_were_kept(tmp_path: Path) -> None:
    from astrid_dist.engine.keys import ShardKey
    from astrid_dist.store.ledger import Ledger

    product = Location.parse(str(tmp_path / "table.zarr"))
    kept = {
        ShardKey("f/r", 1): np.array([3, 4]),
        ShardKey("f/r", 0): np.array([1]),
        ShardKey("f/r", 2): np.zeros(0),
    }
    for key, values in kept.items():
        put_part(product, key, {"n": values, "name": np.array(["a"] * len(values), object)})
        Ledger(product).mark("inject", str(key), {"key": str(key), "stage": "inject", "shards": {}})
    put_part(product, ShardKey("f/r", 9), {"n": np.array([7])})  # of a task that never finished
    found = list(read_parts(product, "inject"))
    assert [key.epoch for key, _ in found] == [0, 1]
    assert found[1][1]["n"].tolist() == [3, 4]
    assert found[1][1]["name"].tolist() == ["a", "a"]
