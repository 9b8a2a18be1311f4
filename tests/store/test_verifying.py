import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow
from astrid_dist.store.verifying import Problem, verify
from astrid_dist.store.writing import ProductWriter

SIZES = {"epoch": 0, "y": 300, "x": 420, "v": 5, "u": 5, "psf_term": 1, "star": 4}
IMAGES = ("image", "variance", "mask", "psf")


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return Location.parse(tmp_path / "survey.zarr")
    return Location.parse(f"memory://{uuid.uuid4().hex}/survey.zarr")


def _key(epoch: int) -> str:
    return f"f1/g/e{epoch:06d}/y00x00"


def _survey(location: Location, epochs: int = 2) -> Location:
    """A survey as ingest leaves it: shards, markers, scalars, count."""
    create_product(location, "survey")
    create_group(location, "survey", "f1/g", SIZES, {})
    grow(location, "survey", "f1/g", epochs)
    ledger, writer = Ledger(location), ProductWriter(location, "f1/g")
    ledger.register({"stage": "ingest", "settings": {}, "inputs": {}}, "d" * 64)
    for epoch in range(epochs):
        rng = np.random.default_rng(epoch)
        shards = {}
        for name in IMAGES:
            shape = (1, 1, 5, 5) if name == "psf" else (1, 300, 420)
            values = rng.integers(0, 9, shape).astype("u2" if name == "mask" else "f4")
            written = writer.write(name, {"epoch": slice(epoch, epoch + 1)}, values)
            shards[f"f1/g/{name}"] = {"region": written.region, "sha256": written.sha256}
        scalars = {
            "epoch_id": str(epoch),
            "mjd": epoch / 3,
            "exptime": 0.1,
            "zeropoint": float("nan"),
            "valid": True,
        }
        marker = {
            "key": _key(epoch),
            "stage": "ingest",
            "status": "done",
            "shards": shards,
            "scalars": scalars,
        }
        ledger.mark("ingest", _key(epoch), marker)
        writer.write_scalars({name: [value] for name, value in scalars.items()}, epoch)
    commit_epochs(location, "f1/g", epochs)
    return location


def _only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_sound_product_has_no_problems_and_every_shard_is_read(location: Location) -> None:
    report = verify(_survey(location))
    assert report.ok, [str(problem) for problem in report.problems]
    assert report.checked == 2 * len(IMAGES)
    assert report.bytes == 2 * (300 * 420 * (4 + 4 + 2) + 25 * 4)
    Ledger(location).compact("ingest")
    assert verify(location).checked == report.checked


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_flipped_bit_of_any_shard_is_found_and_named(data: st.DataObject) -> None:
    location = Location.parse("memory://flipped/survey.zarr")
    if not location.exists():
        _survey(location)
    name = data.draw(st.sampled_from(IMAGES))
    shard = f"f1/g/{name}/c/1/0/0" + ("/0" if name == "psf" else "")
    body = location.objects().get(shard) or b""
    place = data.draw(st.integers(0, len(body) - 1))
    bit = data.draw(st.integers(0, 7))
    location.objects().put(shard, body[:place] + bytes([body[place] ^ 1 << bit]) + body[place + 1 :])
    try:
        problem = _only(verify(location).problems)
    finally:
        location.objects().put(shard, body)
    assert (problem.key, problem.variable) == (_key(1), f"f1/g/{name}")


def test_a_shard_that_is_gone_is_called_missing_even_if_it_held_no_data(location: Location) -> None:
    _survey(location)
    location.objects().delete("f1/g/variance/c/0/0/0")
    problem = _only(verify(location).problems)
    assert (problem.key, problem.variable) == (_key(0), "f1/g/variance")
    assert problem.what == "missing: f1/g/variance/c/0/0/0"


def test_a_shard_rewritten_with_other_values_is_found(location: Location) -> None:
    ProductWriter(_survey(location), "f1/g").write("image", {"epoch": 1}, np.zeros((300, 420), "f4"))
    problem = _only(verify(location).problems)
    assert (problem.key, problem.variable) == (_key(1), "f1/g/image")
    assert "other values than were written" in problem.what


def test_a_scalar_that_is_not_what_was_measured_is_found(location: Location) -> None:
    ProductWriter(_survey(location), "f1/g").write_scalars({"mjd": [9.0]}, 1)
    problem = _only(verify(location).problems)
    assert (problem.key, problem.variable) == (_key(1), "f1/g/mjd")
    assert problem.what.startswith("epoch 1 has 9.0, 0.333")


def test_damaged_scalars_and_short_or_missing_arrays_are_found(location: Location) -> None:
    _survey(location)
    objects = location.objects()
    body = objects.get("f1/g/epoch_id/c/0") or b""
    objects.put("f1/g/epoch_id/c/0", body[:-1] + bytes([body[-1] ^ 1]))
    document = json.loads(objects.get("f1/g/background/zarr.json") or b"")
    document["shape"][0] = 1
    objects.put("f1/g/background/zarr.json", json.dumps(document).encode())
    objects.delete("f1/g/star_x/zarr.json")
    found = {problem.variable: problem.what for problem in verify(location).problems}
    assert set(found) == {"f1/g/epoch_id", "f1/g/background", "f1/g/star_x"}
    assert "cannot be decoded" in found["f1/g/epoch_id"]
    assert "1 epochs although 2 are committed" in found["f1/g/background"]
    assert "missing" in found["f1/g/star_x"]


def test_a_valid_epoch_that_nobody_wrote_is_found(location: Location) -> None:
    _survey(location)
    grow(location, "survey", "f1/g", 4)
    ProductWriter(location, "f1/g").write_scalars({"valid": [False, True]}, 2)
    commit_epochs(location, "f1/g", 4)
    problem = _only(verify(location).problems)
    assert (problem.variable, problem.what[:7]) == ("f1/g", "epoch 3")


def test_scalars_that_shards_of_an_epoch_measure_differently_are_not_compared(location: Location) -> None:
    create_product(location, "difference")
    sizes = {"epoch": 1, "y": 300, "x": 2100, "v": 5, "u": 5}
    create_group(location, "difference", "f1/g", sizes, {})
    ledger = Ledger(location)
    ledger.register({"stage": "difference"}, "d" * 64)
    for column, quality in enumerate((0.25, 0.75)):
        key = f"f1/g/e000000/y00x{column:02d}"
        ledger.mark(
            "difference", key, {"key": key, "scalars": {"quality": quality, "n_matched": 7}, "shards": {}}
        )
    writer = ProductWriter(location, "f1/g")
    writer.write_scalars({"quality": [0.5], "n_matched": [7]}, 0)
    commit_epochs(location, "f1/g", 1)
    assert verify(location).ok, "what is committed is made of both"
    writer.write_scalars({"n_matched": [8]}, 0)
    assert _only(verify(location).problems).variable == "f1/g/n_matched"


def test_tables_are_compared_with_the_digests_at_their_root(location: Location) -> None:
    write_table(location, "candidates", {"x": np.arange(9.0), "field": ["f1"] * 9})
    assert verify(location).ok
    body = location.objects().get("field/c/0") or b""
    location.objects().put("field/c/0", body[:-2] + bytes([body[-2] ^ 1]) + body[-1:])
    assert _only(verify(location).problems).variable == "field"


def test_without_a_ledger_nothing_is_called_sound(location: Location) -> None:
    with pytest.raises(ConfigError, match="nothing at"):
        verify(location)
    create_product(location, "survey")
    assert "no ledger" in _only(verify(location).problems).what
