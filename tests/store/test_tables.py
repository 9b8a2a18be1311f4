import uuid
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from astrid_dist.errors import ConfigError, IncompleteProductError, ResumeConflictError, StorageError
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_candidates, open_truth
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import create_product


@pytest.fixture(params=["file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "file":
        return Location.parse(tmp_path / "night.zarr")
    return Location.parse(f"memory://{uuid.uuid4().hex}/night.zarr")


def test_a_table_is_read_back_with_fills_for_what_is_not_known(location: Location) -> None:
    columns = {"x": [1.5, 2.5], "snr": np.array([7.0, -6.0]), "field": ["f1", "ü"], "time": [10, -1]}
    write_table(location, "candidates", {**columns, "p_moving": [0.1, 0.2]}, {"night": "20260101"})
    table = open_candidates(location)
    assert table.sizes == {"candidate": 2}
    assert table.attrs["night"] == "20260101"
    assert table.x.values.tolist() == [1.5, 2.5]
    assert table.field.values.tolist() == ["f1", "ü"]
    assert table.time.values[0] == np.datetime64(10, "us")
    assert np.isnat(table.time.values[1])
    assert np.isnan(table.p_real.values).all()
    assert table.object.values.tolist() == [-1, -1]
    assert table.mask.values.tolist() == [1, 1]
    assert table.p_moving.dtype == "f4"
    found = table.where((table.snr < 0).compute(), drop=True)
    assert found.x.values.tolist() == [2.5]


def test_an_empty_night_is_a_table_without_rows(location: Location) -> None:
    write_table(location, "candidates", {})
    table = open_candidates(location).load()
    assert table.sizes == {"candidate": 0}
    assert set(table) == set(variables("candidates"))


def test_tables_longer_than_a_chunk_and_several_nights_are_one(location: Location) -> None:
    rows = 70_000
    write_table(location / "1", "candidates", {"x": np.arange(rows)})
    write_table(location / "2", "candidates", {"x": np.arange(3), "p_moving": [0.5, 0.5, 0.5]})
    table = open_candidates([location / "1", location / "2"])
    assert table.sizes == {"candidate": rows + 3}
    assert table.x.chunks == ((65536, rows - 65536, 3),)
    np.testing.assert_array_equal(table.x.values, [*range(rows), *range(3)])
    assert np.isnan(table.p_moving.values[:rows]).all(), "a column that one night lacks is unknown there"
    assert table.field.values[0] == ""


def test_a_table_that_another_job_finished_is_kept(location: Location) -> None:
    create_product(location, "candidates", digest="d1")
    with pytest.raises(IncompleteProductError, match="astrid resume"):
        open_candidates(location)
    assert open_candidates(location, allow_partial=True).sizes == {}
    write_table(location, "candidates", {"x": [1.0]}, digest="d1")
    write_table(location, "candidates", {"x": [1.0]}, digest="d1")
    with pytest.raises(ResumeConflictError):
        write_table(location, "candidates", {"x": [2.0]}, digest="d2")
    assert open_candidates(location).x.values.tolist() == [1.0]


def test_wrong_columns_are_refused_before_anything_is_written(location: Location) -> None:
    with pytest.raises(ConfigError, match="'flux_err'"):
        write_table(location, "candidates", {"flux_er": [1.0]})
    with pytest.raises(ConfigError, match="different shapes"):
        write_table(location, "candidates", {"x": [1.0], "y": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="no table"):
        write_table(location, "survey", {})
    with pytest.raises(StorageError, match="mask is uint16"):
        write_table(location, "candidates", {"mask": [0.5]})
    assert not location.exists()


def test_truth_lies_alone_or_in_the_survey_it_belongs_to(location: Location) -> None:
    columns = {"id": [4], "class": ["transient"], "injectable": [True]}
    create_product(location / "survey", "survey")
    write_table(location / "survey" / "truth", "truth", columns)
    write_table(location / "alone", "truth", columns)
    inside, alone = open_truth(location / "survey"), open_truth(location / "alone")
    xr.testing.assert_identical(inside.drop_attrs().load(), alone.drop_attrs().load())
    assert bool(inside.injectable[0])
    assert inside["class"].values[0] == "transient"
