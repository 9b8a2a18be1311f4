"""Detections at one place are one object, whatever the order of the rows."""

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.stages.objects import link_objects


def table(rows: list[tuple[str, str, float, float, float, float]]) -> dict[str, np.ndarray]:
    names = ("field", "band", "mjd", "x", "y", "snr")
    columns = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    ids = [f"{band} {mjd}" for band, mjd in zip(columns["band"], columns["mjd"], strict=True)]
    return {**columns, "epoch_id": np.array(ids)}


def test_a_place_seen_at_three_epochs_and_in_two_bands_is_one_object() -> None:
    found = table(
        [
            ("f1", "g", 1.0, 10.0, 10.0, 9.0),
            ("f1", "g", 2.0, 10.6, 10.2, 7.0),
            ("f1", "r", 2.5, 9.5, 10.9, -6.0),
            ("f1", "g", 2.0, 40.0, 10.0, 8.0),
            ("f2", "g", 1.0, 10.0, 10.0, 9.0),
        ]
    )
    ids = link_objects(found, 1.5)
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 3


def test_two_detections_of_one_epoch_are_two_objects_however_close() -> None:
    found = table([("f1", "g", 1.0, 10.0, 10.0, 9.0), ("f1", "g", 1.0, 11.0, 10.0, 8.0)])
    assert len(set(link_objects(found, 1.5))) == 2


def test_epochs_that_share_one_wrong_time_are_still_epochs_of_their_own() -> None:
    found = table([("f1", "g", 1.0, 10.0, 10.0, 9.0), ("f1", "g", 1.0, 10.3, 10.0, 8.0)])
    found["epoch_id"] = np.array(["aa", "bb"])
    assert len(set(link_objects(found, 1.5))) == 1


def test_ids_of_earlier_candidates_continue() -> None:
    earlier = xr.Dataset(
        {
            "field": ("candidate", ["f1", "f1"]),
            "x": ("candidate", [10.0, 90.0]),
            "y": ("candidate", [10.0, 90.0]),
            "object": ("candidate", [4, 7]),
        }
    )
    found = table([("f1", "g", 9.0, 10.4, 10.0, 9.0), ("f1", "g", 9.0, 50.0, 50.0, 8.0)])
    assert link_objects(found, 1.5, earlier).tolist() == [4, 8]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_ids_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    rng = np.random.default_rng(5)
    rows = [("f1", "g", float(i % 4), *rng.uniform(0, 6, 2), float(rng.normal(0, 9))) for i in range(12)]
    plain = link_objects(table(rows), 1.5)
    shuffled = link_objects(table([rows[i] for i in order]), 1.5)
    assert [plain[i] for i in order] == shuffled.tolist()
