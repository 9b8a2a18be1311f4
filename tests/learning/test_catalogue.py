"""Opening groups: what is there, and what is wrong with it."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astrid_dist.errors import ConfigError, IncompleteProductError, InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.loading import Loader
from tests.learning.products import product


def test_rows_count_through_all_groups(tmp_path: Path) -> None:
    catalogue = Catalogue.open([product(tmp_path, "ztf", 600), product(tmp_path, "hsc", 300)])
    assert len(catalogue) == 900
    assert catalogue.shard.tolist() == [0] * 256 + [1] * 256 + [2] * 88 + [3] * 256 + [4] * 44
    assert [catalogue.place(shard) for shard in range(5)] == [
        (0, 0, 0),
        (0, 256, 256),
        (0, 512, 512),
        (1, 0, 600),
        (1, 256, 856),
    ]
    assert catalogue.columns["survey"].tolist() == [2] * 600 + [1] * 300
    again = pickle.loads(pickle.dumps(catalogue))
    np.testing.assert_array_equal(again.columns["snr"], catalogue.columns["snr"])


def test_the_strength_of_what_was_not_put_in_is_its_peak(tmp_path: Path) -> None:
    snr, peak = np.array([[-7.0], [np.nan], [np.nan]]), np.array([[99.0], [-3.0], [np.nan]])
    catalogue = Catalogue.open(product(tmp_path, samples=3, columns={"snr": snr, "peak": peak}))
    np.testing.assert_array_equal(catalogue.strength, np.array([[7], [3], [np.nan]], "f4"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"samples": 0}, InputError, "has no samples: make some"),
        ({"planes": ("science", "template")}, ValueError, "'difference' is not in list"),
        ({"state": "building"}, IncompleteProductError, "is building: finish it"),
    ],
)
def test_products_that_cannot_be_used(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Catalogue.open(product(tmp_path, **change))


def test_another_layout_version_is_refused(tmp_path: Path) -> None:
    source = product(tmp_path, samples=10)
    root = tmp_path / "ztf.zarr" / "zarr.json"
    document = json.loads(root.read_text())
    for version, advice in ((99, "install a newer"), (1, "make it again")):
        document["attributes"]["astrid"]["version"] = version
        root.write_text(json.dumps(document))
        with pytest.raises(ConfigError, match=f"layout version {version}.*{advice}"):
            Catalogue.open(source)


def test_missing_planes(tmp_path: Path) -> None:
    source = product(tmp_path, samples=10)
    path = tmp_path / "ztf.zarr" / "ztf/train" / "zarr.json"
    document = json.loads(path.read_text())
    for planes, message in (
        (["science", "template", "score", "score"], "at least a difference"),
        (["science", "template", "difference", "u"], r"planes \['u'\] that nobody knows"),
    ):
        document["attributes"]["planes"] = planes
        path.write_text(json.dumps(document))
        with pytest.raises(InputError, match=message):
            Catalogue.open(source)


def test_what_is_named_wrongly_is_said(tmp_path: Path) -> None:
    source = product(tmp_path, samples=10)
    with pytest.raises(InputError, match="no group 'ztf/trian'; did you mean 'ztf/train'"):
        Catalogue.open(source.replace("train", "trian"))
    with pytest.raises(InputError, match="name a group, <url>#<survey>/<split>"):
        Catalogue.open(source.partition("#")[0])
    with pytest.raises(InputError, match="named twice"):
        Catalogue.open([source, source])
    with pytest.raises(InputError, match="no samples are named"):
        Catalogue.open([])
    with pytest.raises(ConfigError, match=r"nothing\.zarr"):
        Catalogue.open(f"{tmp_path}/nothing.zarr#ztf/train")


def test_stamps_of_different_size_are_refused(tmp_path: Path) -> None:
    sources = [product(tmp_path, "ztf", 10, side=9), product(tmp_path, "hsc", 10, side=11)]
    with pytest.raises(InputError, match=r"\[9, 11\] px cannot be in one batch.*hsc/train has 11 px"):
        Catalogue.open(sources)


def test_what_moves_out_of_a_stamp_has_no_place_and_no_flux_there(tmp_path: Path) -> None:
    """An asteroid is thousands of pixels away in the next visit, and a loss of so many pixels drowns all."""
    shape = (300, 3)
    offset = np.tile(np.array([-2.0e3, 0.25, 2.0e3], "f4"), (300, 1))
    columns = {"offset_x": offset, "snr": np.tile(np.array([9.0, 5.0, 8.0], "f4"), (300, 1))}
    catalogue = Catalogue.open(product(tmp_path, samples=300, visits=3, columns=columns))
    for name in ("offset_x", "offset_y", "flux", "snr"):
        assert catalogue.columns[name].shape == shape
        assert np.isnan(catalogue.columns[name]).tolist() == [[True, False, True]] * 300
    assert (np.nanmax(catalogue.strength, axis=1) == 5).all()
    examples = next(iter(Loader(catalogue, 64, train=False, threads=1)))
    assert (examples.x == 0.25).all()
    assert torch.isfinite(examples.flux).sum(1).tolist() == [1] * len(examples)
