"""Splits hold: nothing of a cell or night of training is ever tested on, and bands get their shares."""

import numpy as np
import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.stages.synthetic.host_table import (
    FieldEpochs,
    hosts_of_groups,
    nights_of,
    possible_hosts,
    split_hosts,
)

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}


def fields(epochs=20, shape=(2048, 1536), names=("a/g", "a/r", "b/g", "b/r")):
    made = []
    for number, name in enumerate(names):
        mjd = 60000.1 + np.repeat(np.arange((epochs + 1) // 2), 2)[:epochs] + 0.02 * number
        mjd = mjd + 0.005 * (np.arange(epochs) % 2)
        made.append(FieldEpochs(name, shape, np.arange(epochs), mjd))
    return made


def test_hosts_are_every_tile_of_every_epoch():
    hosts = possible_hosts(fields(), 1, False)
    assert len(hosts) == 4 * 20 * 4 * 3
    assert len(np.unique(hosts.cell)) == 2 * 12  # bands of a field see one sky
    assert len(np.unique(hosts.night)) == 10
    assert set(hosts.bands) == {"g", "r"}


def test_sequences_are_runs_in_order_of_time_that_share_no_epoch():
    hosts = possible_hosts(fields(epochs=7, shape=(300, 300)), 3, True)
    assert hosts.epoch.shape == (2 * 4, 3)  # 14 epochs of both bands: four runs of three
    assert np.all(np.diff(hosts.mjd, axis=1) > 0)
    used = {(g, e) for g, e in zip(hosts.group.ravel(), hosts.epoch.ravel(), strict=True)}
    assert len(used) == hosts.epoch.size
    assert any(len(set(run)) == 2 for run in hosts.group.tolist())


@pytest.mark.parametrize(("by", "what"), [("cell", "cell"), ("night", "night"), ("both", "both")])
def test_no_cell_or_night_is_on_two_sides(by, what):
    hosts = possible_hosts(fields(), 1, False)
    split, _ = split_hosts(hosts, THREE, by, 1)
    for unit in ("cell", "night") if what == "both" else (what,):
        sides = [set(getattr(hosts, unit)[one].tolist()) for one in split.values()]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
    if by != "both":
        assert len(split["train"]) / len(hosts) == pytest.approx(0.8, abs=0.06)
        assert sum(len(one) for one in split.values()) == len(hosts)


def test_auto_takes_both_where_enough_is_left_and_says_by_what():
    many = possible_hosts(fields(), 1, False)
    assert split_hosts(many, THREE, "auto", 1)[1] == "cell and night"
    one_tile = possible_hosts(fields(shape=(400, 400), names=("a/r",)), 1, False)
    found, by = split_hosts(one_tile, THREE, "auto", 1)
    assert by == "night"
    assert all(len(one) for one in found.values())


def test_splits_that_cannot_be_are_refused():
    alone = possible_hosts(fields(epochs=2, shape=(400, 400), names=("a/r",)), 1, False)
    with pytest.raises(ConfigError, match=r"1 sky cells \(tiles\) and 1 nights cannot be split"):
        split_hosts(alone, THREE, "auto", 1)
    with pytest.raises(ConfigError, match="one above 0"):
        split_hosts(alone, {"train": 0.0}, "auto", 1)
    assert len(split_hosts(alone, {"train": 1.0}, "auto", 1)[0]["train"]) == 2
    with pytest.raises(ConfigError, match="no field has 5 epochs"):
        possible_hosts(fields(epochs=3, names=("a/r",)), 5, False)


def test_a_night_goes_over_midnight_utc():
    mjd = np.array([60000.9, 60001.1, 60001.95, 60002.05, 60000.95])
    np.testing.assert_array_equal(nights_of(mjd), [60000, 60000, 60001, 60001, 60000])


def test_groups_of_samples_serve_bands_evenly_and_hosts_in_order():
    hosts = possible_hosts(fields(shape=(600, 500)), 1, False)
    every = np.arange(len(hosts))
    chosen = hosts_of_groups(hosts.bands, every, 1000, {}, 1, "x/train")
    assert len(chosen) == 1000
    assert abs(int(np.sum(hosts.bands[chosen] == "g")) - 500) <= 1
    changes = np.count_nonzero(np.diff(chosen))
    assert changes == len(np.unique(chosen)) - 1
    few = hosts_of_groups(hosts.bands, every, 10, {"g": 0.7, "r": 0.3}, 1, "x/train")
    assert np.sum(hosts.bands[few] == "g") == 7
    assert len(np.unique(few)) == 10
    with pytest.raises(ConfigError, match="band z; there are g, r"):
        hosts_of_groups(hosts.bands, every, 10, {"z": 1.0}, 1, "x/train")
