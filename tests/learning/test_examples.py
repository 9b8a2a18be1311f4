"""A batch as tensors: shapes, units, what is moved along with it; and batches of a real small product."""

from pathlib import Path

import numpy as np
import pytest
import torch

import astrid_dist
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.learning.composition import composition, digests
from astrid_dist.learning.examples import Examples
from astrid_dist.learning.loading import Loader
from astrid_dist.stages import STAGES
from astrid_dist.stages.run import run_stage
from astrid_dist.store.locations import Location
from astrid_dist.store.quantise import LARGEST
from astrid_dist.store.writing import ProductWriter
from astrid_dist.taxonomy import CLASSES
from tests.learning.products import product
from tests.made_samples import GROUP, STAGE
from tests.small_survey import small_survey

DTYPES = {
    "target": torch.int32,
    "seen": torch.bool,
    "band": torch.int64,
    "survey": torch.int64,
    "class_code": torch.int64,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 samples of two visits of 9 px, in three shards, with a ledger."""
    output = str(tmp_path_factory.mktemp("samples") / "samples.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, STAGE, "tests.made_samples")
        run_stage(STAGE, {"output": output, "samples": 600, "visits": 2, "side": 9}, SerialEngine())
    return f"{output}#{GROUP}"


def test_types_and_shapes(made: str) -> None:
    one = next(iter(Loader(Catalogue.open(made), 32)))
    assert len(one) == 32
    assert one.pixels.shape == (32, 2, 4, 9, 9)
    assert one.target.shape == (32, 2, 9, 9)
    assert one.seen.shape == one.days.shape == one.band.shape == one.flux.shape == one.snr.shape == (32, 2)
    for name, values in vars(one).items():
        assert values.dtype == DTYPES.get(name, torch.float32), name
        assert values.is_contiguous(), name


def test_values_are_those_that_the_product_opens_with(made: str) -> None:
    train = astrid_dist.open_samples(made.partition("#")[0])[GROUP]
    catalogue = Catalogue.open(made)
    loader = Loader(catalogue, 64, train=False)
    rows = loader.share[1].rows
    one = list(loader)[1]
    there = train.isel(sample=rows)
    np.testing.assert_array_equal(one.pixels, there.pixels.values.astype("f4"))
    np.testing.assert_array_equal(one.target, there.target.values)
    np.testing.assert_array_equal(one.class_code, there["class"].values)
    np.testing.assert_array_equal(one.label, there.label.values)
    np.testing.assert_array_equal(one.weight, there.weight.values)
    np.testing.assert_array_equal(one.flux, (there.flux / there.sigma_d).values)
    np.testing.assert_array_equal(one.snr, there.snr.values)
    np.testing.assert_array_equal(one.band, there.band.values + 1)
    mjd = there.mjd.values
    np.testing.assert_allclose(one.days, mjd - mjd.min(axis=1, keepdims=True), rtol=1e-6)
    best = np.abs(there.snr.values).argmax(axis=1)
    np.testing.assert_array_equal(one.x, there.offset_x.values[np.arange(len(rows)), best])
    np.testing.assert_array_equal(one.y, there.offset_y.values[np.arange(len(rows)), best])


def test_every_half_float_is_read_exactly(tmp_path: Path) -> None:
    """Those that a product can hold: of either sign, up to the largest, and no data."""
    source = product(tmp_path, samples=1, side=255)
    bits = np.resize(np.arange(65536, dtype="u2"), 4 * 255 * 255).reshape(1, 1, 4, 255, 255)
    values = bits.view("f2")
    values[np.isinf(values)] = LARGEST
    writer = ProductWriter(Location.parse(tmp_path / "ztf.zarr"), "ztf/train")
    writer.write_all({"pixels": ({"sample": slice(0, 1)}, values)})
    (one,) = Loader(Catalogue.open(source), 1)
    np.testing.assert_array_equal(one.pixels.numpy(), values.astype("f4"))


def test_parts_and_places(made: str) -> None:
    one = next(iter(Loader(Catalogue.open(made), 32)))
    part = one[one.label > 0]
    assert len(part) == int((one.label > 0).sum()) > 0
    assert (part.label > 0).all()
    moved = one[:3].to("meta")
    assert {values.device.type for values in vars(moved).values()} == {"meta"}
    assert isinstance(moved, Examples)


def test_the_digest_of_values_comes_from_the_ledger(made: str, tmp_path: Path) -> None:
    (found,) = digests(Catalogue.open(made))
    assert len(found["digest"]) == 64
    output = f"{tmp_path}/other.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, STAGE, "tests.made_samples")
        settings = {"output": output, "samples": 600, "visits": 2, "side": 9}
        run_stage(STAGE, settings, SerialEngine())
        (again,) = digests(Catalogue.open(f"{output}#{GROUP}"))
        run_stage(STAGE, {**settings, "output": f"{tmp_path}/less.zarr", "samples": 500}, SerialEngine())
        (less,) = digests(Catalogue.open(f"{tmp_path}/less.zarr#{GROUP}"))
    assert again["digest"] == found["digest"] != less["digest"]


def test_samples_of_a_small_survey(tmp_path: Path) -> None:
    """Injected into a mock survey: what a network is trained on holds together."""
    survey = small_survey()
    output = f"{tmp_path}/samples.zarr"
    settings = {"survey": survey.survey, "reference": survey.reference, "output": output}
    run_stage("inject", {**settings, "samples": 512, "way": "fast", "splits": {"train": 1.0}}, SerialEngine())
    catalogue = Catalogue.open(f"{output}#generic/train")
    assert 0 < catalogue.usable.sum() <= 512
    assert digests(catalogue)[0]["digest"]
    batches = list(Loader(catalogue, 32, train=False))
    together = {name: torch.cat([vars(one)[name] for one in batches]) for name in vars(batches[0])}
    assert together["pixels"].shape == (int(catalogue.usable.sum()), 1, 4, 63, 63)
    counts = np.bincount(together["class_code"].numpy(), minlength=len(CLASSES))
    assert {CLASSES[code]: n for code, n in enumerate(counts) if n} == composition(catalogue)["class"]
    for name in ("label", "weight", "x", "y", "days"):
        assert together[name].isfinite().all(), name
    real = together["label"] == 1
    assert together["flux"][real].isfinite().any()
    # what was put in is there: the difference at the middle follows the flux
    known = real & together["flux"][:, 0].isfinite() & (together["snr"][:, 0].abs() > 20)
    middle = together["pixels"][known][:, 0, 2, 30:33, 30:33].nan_to_num().sum(dim=(1, 2))
    assert (middle.sign() == together["flux"][known][:, 0].sign()).float().mean() > 0.9
