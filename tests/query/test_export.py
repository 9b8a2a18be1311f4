import json

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from astropy.units import Unit
from pyarrow import parquet

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.query import export
from astrid_dist.query.export import export_candidates

COLUMNS = ["x", "y", "ra", "dec", "mjd", "time", "flux", "flux_unit", "object"]


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr(export, "BATCH_ROWS", 2)


def test_csv_is_one_line_of_names_then_rows_with_iso_times_and_empty_for_nan(candidates, tmp_path):
    candidates["flux"][2] = np.nan
    assert export_candidates(candidates, tmp_path / "night.csv") == 5
    lines = (tmp_path / "night.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 6
    assert lines[1] == '0,0,150,2,3,"1970-01-04T00:00:00.000000",5,"uJy",7'
    frame = pd.read_csv(tmp_path / "night.csv", parse_dates=["time"])
    assert np.isnan(frame["flux"][2])
    assert frame["time"].tolist() == [pd.Timestamp(t) for t in candidates["time"].values]


def test_ecsv_is_read_by_astropy_with_its_units_and_descriptions(candidates, tmp_path):
    candidates["flux"][2] = np.nan
    export_candidates(candidates, tmp_path / "night.ecsv")
    table = Table.read(tmp_path / "night.ecsv")
    assert table.colnames == COLUMNS
    assert str(table["mjd"].unit) == "d"
    assert table["flux"].description == "PSF flux"
    np.testing.assert_array_equal(table["flux"], candidates["flux"])
    np.testing.assert_array_equal(table["flux_unit"], candidates["flux_unit"])
    assert table["object"].dtype == "i8"


def test_parquet_keeps_types_and_carries_units(candidates, tmp_path):
    export_candidates(candidates, tmp_path / "night.parquet")
    table = parquet.read_table(tmp_path / "night.parquet")
    assert table.schema.field("mjd").metadata[b"unit"] == b"day"
    assert json.loads(table.schema.metadata[b"astrid"])["product"] == "candidates"
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("flux").type) == "float"
    assert table["object"].to_pylist() == [7, 7, 8, 9, 10]


def test_fluxes_have_a_unit_in_the_file_only_where_all_rows_agree(candidates, tmp_path):
    candidates["flux"].attrs["units"] = "uJy"  # of the rows there were before others came
    for table, unit in ((candidates, None), (candidates.isel(candidate=[0, 1, 2]), "uJy")):
        export_candidates(table, tmp_path / "night.parquet")
        described = parquet.read_schema(tmp_path / "night.parquet").field("flux").metadata
        assert described.get(b"unit") == (unit and unit.encode())
        export_candidates(table, tmp_path / "night.ecsv")
        assert Table.read(tmp_path / "night.ecsv")["flux"].unit == (unit and Unit(unit))
    assert candidates["flux"].attrs["units"] == "uJy"  # what was handed in is left alone


@pytest.mark.parametrize("suffix", sorted(export.WRITERS))
def test_an_empty_table_has_its_columns(candidates, tmp_path, suffix):
    target = tmp_path / f"none{suffix}"
    assert export_candidates(candidates.isel(candidate=[]), target) == 0
    read = {".csv": pd.read_csv, ".ecsv": Table.read, ".parquet": pd.read_parquet}[suffix](target)
    assert list(read.columns) == COLUMNS
    assert len(read) == 0


def test_an_unknown_suffix_lists_the_known_ones(candidates, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv, \.ecsv, \.parquet"):
        export_candidates(candidates, tmp_path / "night.xlsx")


def test_a_failed_export_leaves_the_old_file_and_nothing_beside_it(candidates, tmp_path, monkeypatch):
    target = tmp_path / "night.csv"
    target.write_text("old")
    broken = candidates.assign(flux=("candidate", np.array([object()] * 5)))
    with pytest.raises(TypeError):
        export_candidates(broken, target)
    assert [p.name for p in tmp_path.iterdir()] == ["night.csv"]
    assert target.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_a_storage_error(candidates, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        export_candidates(candidates, tmp_path / "file" / "night.csv")
