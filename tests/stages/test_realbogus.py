"""Alert packets become samples: each alert once, its label and who gave it, never on two sides of a split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, InputError, ResumeConflictError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.query.samples import names, open_samples
from astrid_dist.stages import realbogus
from astrid_dist.stages.packet_stamps import stamp_of
from astrid_dist.stages.packet_table import divide
from astrid_dist.stages.run import plan_stage, run_stage
from astrid_dist.stages.status import describe_reasons
from astrid_dist.store.verifying import verify
from tests.made_packets import avro, image, lsst, write, ztf

ALERTS = 24
SPLITS = {"train": 0.6, "test": 0.4}


def alerts():
    """One in three is a known asteroid, one real and one bogus to the survey's model; two of a field."""
    said = [{"ssdistnr": 2.0, "drb": 0.05}, {"drb": 0.97}, {"drb": 0.02, "isdiffpos": "f"}]
    return [
        ztf(10**18 + i, field=400 + i // 2, jd=2460235.6 + i % 2, pid=i // 2, fid=1 + i % 2, **said[i % 3])
        for i in range(ALERTS)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Packets in Avro, and some of the same again in Parquet; two cannot be used."""
    path = tmp_path_factory.mktemp("alerts")
    made = alerts()
    write(path / "a.avro", made[:16])
    broken = ztf(5)
    broken["cutoutScience"] = None
    blank = ztf(6, [np.full((63, 63), np.nan, np.float32)] * 3)
    write(path / "b.avro", [*made[16:20], broken, blank, *made[20:]])
    write(path / "c.parquet", made[:3])
    return path


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("samples") / "samples.zarr")
    run_stage("realbogus", {"input": str(folder), "output": output, "splits": SPLITS}, SerialEngine())
    return output


@pytest.fixture(scope="module")
def groups(url):
    return dict(open_samples(url).items())


def column(groups, name):
    return np.concatenate([one[name].to_numpy() for one in groups.values()])


def test_every_alert_is_one_sample_and_its_number_keeps_its_digits(groups):
    assert set(groups) == {"ztf/train", "ztf/test"}
    np.testing.assert_array_equal(np.sort(column(groups, "alert")), 10**18 + np.arange(ALERTS))


def test_who_labelled_a_sample_is_kept_apart_from_the_label(groups):
    for one in groups.values():
        sort = one.alert.to_numpy() % 10**18 % 3
        labeller, kind = names(one, "labeller").to_numpy(), names(one, "class").to_numpy()
        for what, label, weight, by, classification in (
            (0, 1.0, 1.0, "catalogue", "moving"),
            (1, 0.97, 0.5, "model", "unknown"),
            (2, 0.02, 0.5, "model", "unknown"),
        ):
            own = sort == what
            np.testing.assert_allclose(one.label.to_numpy()[own], label, rtol=1e-6)
            assert (one.weight.to_numpy()[own] == weight).all()
            assert (labeller[own] == by).all()
            assert (kind[own] == classification).all()
        np.testing.assert_allclose(one.survey_score, np.array([0.05, 0.97, 0.02])[sort], rtol=1e-6)
        assert (names(one, "origin") == "mined").all()


def test_a_field_and_a_night_are_hosts_and_no_field_is_on_two_sides(groups):
    sides = [set(one.host_field.to_numpy()[one.host_row.to_numpy()]) for one in groups.values()]
    assert not set.intersection(*sides)
    for one in groups.values():
        field = one.host_field.to_numpy()[one.host_row.to_numpy()]
        folds = {name: set(one.fold.to_numpy()[field == name]) for name in set(field)}
        assert all(len(found) == 1 for found in folds.values())
        np.testing.assert_array_equal(field.astype(int), 400 + one.alert.to_numpy() % 10**18 // 2)


def test_stamps_are_those_of_the_packets(groups, folder):
    from astrid_dist.formats.packets import read_packets

    packets = {one.candid: one for one in read_packets([str(folder)]) if one.candid and one.candid > 6}
    for one in groups.values():
        assert list(one.plane.to_numpy()) == ["science", "template", "difference"]
        for alert, pixels, sigma in zip(
            one.alert.to_numpy(), one.pixels.to_numpy()[:, 0], one.sigma_d.to_numpy()[:, 0], strict=True
        ):
            stamp = stamp_of(packets[int(alert)])
            np.testing.assert_array_equal(pixels, stamp.pixels)
            assert sigma == stamp.sigma[2]


def test_pixels_of_an_asteroid_are_marked_and_of_others_nobody_knows(groups):
    for one in groups.values():
        moving = (names(one, "class") == "moving").to_numpy()
        target = one.target.to_numpy()[:, 0]
        assert (target[moving][:, 31, 31] == 4).all()
        assert (np.count_nonzero(target[moving], axis=(1, 2)) < 200).all()
        assert not target[~moving].any()


def test_what_cannot_be_used_is_set_aside_with_its_reason(url):
    said = describe_reasons(url)
    assert "cutoutScience is missing" in said
    assert "no pixel of the difference has data" in said
    assert said.count("the same alert as in") == 3
    assert not verify(url).problems


def test_training_can_read_them(url):
    catalogue = Catalogue.open([f"{url}#ztf/train", f"{url}#ztf/test"])
    assert len(catalogue) == ALERTS
    assert catalogue.usable.all()
    assert np.isfinite(catalogue.strength).all()  # ZTF's own S_corr


def test_shards_are_whole_and_the_same_whatever_their_size(folder, tmp_path):
    made = {}
    write(tmp_path / "many.avro", [ztf(i + 1, [image(i, side=9)] * 3) for i in range(300)])
    for shard in (256, 512):
        output = str(tmp_path / f"{shard}.zarr")
        asked = {"input": str(tmp_path / "many.avro"), "output": output, "splits": {"all": 1.0}}
        done = run_stage("realbogus", {**asked, "shard_samples": shard}, SerialEngine())
        assert done.done == -(-300 // shard)
        made[shard] = open_samples(output)["ztf/all"].load()
    assert made[256].equals(made[512])


def test_a_job_goes_on_only_with_the_same_packets(folder, tmp_path):
    copy = tmp_path / "alerts"
    copy.mkdir()
    write(copy / "a.avro", alerts()[:4])
    asked = {"input": str(copy), "output": str(tmp_path / "out.zarr"), "splits": {"all": 1.0}}
    run_stage("realbogus", asked, SerialEngine())
    assert run_stage("realbogus", asked, SerialEngine()).skipped == 1
    planned = plan_stage("realbogus", asked)
    assert plan_stage("realbogus", planned.job.settings).job.digest == planned.job.digest


def test_a_job_refuses_packets_that_changed(tmp_path):
    path = write(tmp_path / "a.avro", alerts()[:4])
    asked = {"input": str(path), "output": str(tmp_path / "out.zarr"), "splits": {"all": 1.0}}
    run_stage("realbogus", asked, SerialEngine())
    path.write_bytes(avro(alerts()[4:8]))
    with pytest.raises(ResumeConflictError):
        run_stage("realbogus", asked, SerialEngine())


@pytest.mark.parametrize("change", ["other", "fewer", "damaged"])
def test_a_file_that_changes_between_plan_and_task_is_told(tmp_path, change):
    path = write(tmp_path / "a.avro", alerts()[:4])
    asked = {"input": str(path), "output": str(tmp_path / "out.zarr"), "splits": {"all": 1.0}}
    planned = plan_stage("realbogus", asked)
    realbogus.prepare(planned)
    whole = path.read_bytes()
    path.write_bytes(
        {"other": avro(alerts()[4:8]), "fewer": avro(alerts()[:2]), "damaged": whole[: len(whole) // 2]}[
            change
        ]
    )
    with pytest.raises(InputError, match="changed since the job was planned"):
        realbogus.task(planned.job.settings, planned.keys[0])


def test_packets_of_two_schemas_are_two_surveys_and_a_name_can_be_given(tmp_path):
    images = [image(1, side=30), image(2, side=30), image(3, 100, 0, 30)]
    import fastavro

    record = lsst(9, images, (15.0, 15.0))
    told = [{"name": n, "type": [_avro(v)]} for n, v in record["diaSource"].items()]
    fields = [
        {"name": "diaSourceId", "type": "long"},
        {"name": "diaSource", "type": {"type": "record", "name": "s", "fields": told}},
        *({"name": n, "type": "bytes"} for n in record if n.startswith("cutout")),
    ]
    with (tmp_path / "lsst.avro").open("wb") as stream:
        fastavro.writer(stream, {"type": "record", "name": "alert", "fields": fields}, [record])
    write(tmp_path / "ztf.avro", alerts()[:2])
    asked = {"input": str(tmp_path), "splits": {"all": 1.0}}
    output = str(tmp_path / "two.zarr")
    run_stage("realbogus", {**asked, "output": output}, SerialEngine())
    assert set(open_samples(output)) == {"ztf/all", "lsst/all"}
    output = str(tmp_path / "hsc.zarr")
    asked["input"] = str(tmp_path / "lsst.avro")
    run_stage("realbogus", {**asked, "survey": "hsc", "output": output}, SerialEngine())
    (sample,) = open_samples(output)["hsc/all"].alert.to_numpy()
    assert sample == 9


def _avro(value):
    return {bool: "boolean", int: "long", float: "double", str: "string"}[type(value)]


def test_nothing_to_use_is_an_error_that_says_why(tmp_path):
    (tmp_path / "a.avro").write_bytes(b"nothing")
    with pytest.raises(InputError, match="neither Avro nor Parquet"):
        plan_stage("realbogus", {"input": str(tmp_path), "output": str(tmp_path / "out.zarr")})


FIELDS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=120
)


def table(rows):
    field, name, night = (np.array(values) for values in zip(*rows, strict=True))
    return {
        "survey": np.full(len(rows), "ztf", object),
        "field": field.astype(str).astype(object),
        "object": name.astype(str).astype(object),
        "mjd": 60000.3 + night.astype(float),
    }


@settings(deadline=None)
@given(rows=FIELDS, seed=st.integers(0, 99))
def test_no_field_and_no_object_is_on_two_sides(rows, seed):
    divided = divide(table(rows), {"train": 0.5, "test": 0.5}, 3, "field", seed)
    kept = divided.split >= 0
    for column in (0, 1):
        sides: dict[int, set] = {}
        for row in np.flatnonzero(kept).tolist():
            sides.setdefault(rows[row][column], set()).add((divided.split[row], divided.fold[row]))
        assert all(len(one) == 1 for one in sides.values())
    assert len(rows) - kept.sum() == divided.left_out


@settings(deadline=None, max_examples=30)
@given(rows=FIELDS, more=FIELDS)
def test_more_packets_change_no_field_that_was_split_before(rows, more):
    shares = {"train": 0.7, "test": 0.3}

    def of(rows):
        divided = divide(table(rows), shares, 4, "field", 1)
        return {
            row[0]: (split, fold)
            for row, split, fold in zip(rows, divided.split.tolist(), divided.fold.tolist(), strict=True)
            if split >= 0
        }

    before, after = of(rows), of(rows + more)
    assert all(after[field] == side for field, side in before.items() if field in after)


def test_split_by_night_too_leaves_out_what_is_on_two_sides():
    rng = np.random.default_rng(1)
    rows = [(int(f), i, int(n)) for i, (f, n) in enumerate(rng.integers(0, 60, (4000, 2)))]
    divided = divide(table(rows), {"train": 0.5, "test": 0.5}, 3, "auto", 1)
    assert divided.by == "field, object and night"
    for split in (0, 1):
        mine, other = divided.split == split, divided.split == 1 - split
        assert mine.sum() > 500
        assert not set(divided.night[mine]) & set(divided.night[other])
    few = [row for row in rows if row[2] < 2]
    assert divide(table(few), {"a": 0.8, "b": 0.1, "c": 0.1}, 3, "auto", 1).by == "field and object"
    with pytest.raises(ConfigError, match="leave nothing for"):
        divide(table([(1, 1, 0)]), {"train": 0.5, "test": 0.5}, 3, "both", 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"splits": {"train": -1}}, "shares of 0 or more"),
        ({"bogus_below": 0.95}, "above real_above"),
        ({"shard_samples": 100}, "multiple of 256"),
        ({"survey": "no name"}, "no name for a shard key"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        plan_stage("realbogus", {"input": "x", "output": str(tmp_path / "o"), **wrong})
