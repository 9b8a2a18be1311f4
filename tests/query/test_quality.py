"""Quality as tables and plots, over epochs, nights and fields."""

import numpy as np
import pandas as pd
import pytest

import astrid_dist as astrid
from astrid_dist.errors import ConfigError
from astrid_dist.imaging.quality import METRICS
from astrid_dist.query.quality import choose_night, nights_of, thresholds_of
from astrid_dist.surveys.profile import resolve_thresholds
from tests.nights import FIELDS, make

EPOCHS, NIGHTS = 4, 2


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return make(tmp_path_factory.mktemp("nights") / "difference.zarr", EPOCHS, NIGHTS)


def test_a_cube_gives_one_row_per_epoch_with_every_metric(url):
    cube = astrid.open_difference(url)[FIELDS[0]]
    frame = cube.astrid.to_dataframe()
    assert len(frame) == EPOCHS * NIGHTS
    assert frame.index.name == "epoch"
    assert {f"quality_{name}" for name in METRICS} | {"quality", "verdict", "reason", "mjd"} <= set(frame)
    assert frame["quality_score_std"].iloc[0] == pytest.approx(float(cube["quality_score_std"][0]))
    chosen = cube.isel(epoch=[5, 2]).astrid.to_dataframe()
    assert chosen["epoch_id"].tolist() == frame["epoch_id"].iloc[[5, 2]].tolist()


def test_all_fields_are_one_table_in_order_of_time(url):
    table = astrid.quality_table(url)
    assert len(table) == len(FIELDS) * EPOCHS * NIGHTS
    assert list(table.columns[:5]) == ["group", "field", "band", "epoch", "night"]
    assert table["mjd"].is_monotonic_increasing
    assert table.groupby("night").size().to_dict() == {"2020-01-01": 8, "2020-01-02": 8}
    worst = table[table["verdict"] == "red"]
    assert worst["reason"].str.contains("shifted: stars are displaced by 0.3").all()
    only = astrid.quality_table(url, fields=["*/r"])
    assert set(only["group"]) == {"f2/r"}
    assert set(only["band"]) == {"r"}
    with pytest.raises(ConfigError, match="no group like 'f3/g'; it has"):
        astrid.quality_table(url, fields=["f3/g"])


@pytest.mark.parametrize(
    ("telescope", "hours"),
    [("Chile", (23.5, 34)), ("California", (26, 37)), ("Hawaii", (29, 40)), ("Australia", (9, 20))],
)
def test_a_night_is_one_wherever_it_is_dark_and_has_the_date_of_its_evening(telescope, hours):
    rng = np.random.default_rng(1)
    evening = np.repeat([58849, 58850, 58853], 30)  # 2020-01-01, in UTC days
    mjd = evening + rng.uniform(*hours, evening.size) / 24
    found = nights_of(mjd)
    expected = np.repeat(["2020-01-01", "2020-01-02", "2020-01-05"], 30)
    assert found.tolist() == expected.tolist(), telescope


def test_times_that_are_not_known_are_of_no_night():
    # All at one time of day, 7 h UTC: the day ends twelve hours from it.
    assert nights_of([np.nan, 58850.3, np.nan]).tolist() == ["", "2020-01-01", ""]
    assert nights_of([np.nan])[0] == ""
    assert nights_of([]).size == 0


def test_a_night_is_chosen_by_date_or_time_and_the_last_one_else():
    table = pd.DataFrame(
        {"mjd": [58850.1, 58850.4, 58853.2], "night": ["2020-01-01", "2020-01-01", "2020-01-04"]}
    )
    assert choose_night(table, None) == "2020-01-04"
    assert choose_night(table, "2020-01-01") == choose_night(table, 58850.2) == "2020-01-01"
    for wrong in ("2020-01-02", "58852.0", "yesterday"):
        with pytest.raises(ConfigError, match="2020-01-0"):
            choose_night(table, wrong)
    with pytest.raises(ConfigError, match="no nights"):
        choose_night(table.assign(night=""), None)


def test_thresholds_are_those_the_difference_was_made_with(url):
    cube = astrid.open_difference(url)[FIELDS[0]]
    assert thresholds_of(cube) == resolve_thresholds("ztf")
    mine = resolve_thresholds("ztf", {"seeing": None})
    assert thresholds_of(cube.assign_attrs(thresholds=mine.model_dump())) == mine


def test_a_trend_draws_each_metric_with_its_limits_and_each_verdict_with_its_symbol(url):
    cube = astrid.open_difference(url)[FIELDS[0]]
    figure = cube.astrid.plot("trend", metrics=["seeing", "displacement"])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["seeing\n(arcsec)", "displacement\n(pixel)"]
    points = {line.get_label(): len(line.get_xdata()) for line in figure.axes[1].lines}
    counts = cube.astrid.to_dataframe()["verdict"].value_counts()
    assert {name: points[name] for name in ("green", "red")} == {n: counts[n] for n in ("green", "red")}
    assert len(cube.astrid.plot("trend").axes) > 4
    with pytest.raises(ConfigError, match="'psf_chi2' was measured in no epoch; there are"):
        cube.astrid.plot("trend", metrics=["psf_chi2"])


def test_a_trend_is_of_a_difference(survey):
    with pytest.raises(ConfigError, match="no quality per epoch"):
        survey.astrid.plot("trend")
