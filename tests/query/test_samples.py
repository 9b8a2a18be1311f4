"""Samples as a scientist opens them: chosen by what they are, drawn, computed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import astrid_dist
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError, IncompleteProductError
from astrid_dist.stages import STAGES
from astrid_dist.stages.run import run_stage
from astrid_dist.store.shards import StoredArray
from astrid_dist.taxonomy import KINDS
from tests.made_samples import GROUP, STAGE


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 samples of two visits, in three shards."""
    output = str(tmp_path_factory.mktemp("samples") / "samples.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, STAGE, "tests.made_samples")
        settings = {"output": output, "samples": 600, "visits": 2, "side": 9}
        run_stage(STAGE, settings, SerialEngine())
    return output


@pytest.fixture
def train(url: str) -> xr.Dataset:
    return astrid_dist.open_samples(url)[GROUP]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the variables read, one for every read."""
    found: list[str] = []
    read = StoredArray.__getitem__

    def counted(self: StoredArray, key: object) -> object:
        found.append(self.path.rpartition("/")[2])
        return read(self, key)

    monkeypatch.setattr(StoredArray, "__getitem__", counted)
    return found


def test_samples_are_chosen_by_class_and_snr_and_only_their_shards_are_read(
    train: xr.Dataset, reads: list[str]
) -> None:
    chosen = (train.astrid.names("class") == "transient") & (train.snr > 1).any("visit")
    bright = train.isel(sample=chosen & (train.item < 256))
    assert sorted(set(reads)) == ["class", "item", "snr"]
    reads.clear()
    mean = bright.pixels.sel(plane="difference").mean(("sample", "visit")).compute()
    assert reads == ["pixels"], "one shard of three"
    everything = train.compute()
    kept = [i for i in range(256) if everything["class"][i] == 0 and (everything.snr[i] > 1).any()]
    assert 5 < len(kept) == bright.sizes["sample"]
    np.testing.assert_allclose(mean, everything.pixels[kept, :, 2].mean(("sample", "visit")), rtol=2e-3)


def test_the_lines_of_the_documentation_run(
    url: str, train: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "products.md").read_text()
    block = page.partition("```python\n")[2].partition("```")[0]
    assert len(block.splitlines()) == 3
    monkeypatch.chdir(Path(url).parent)
    names: dict[str, Any] = {"astrid": astrid_dist, "train": train.assign(snr=train.snr * 10)}
    exec("\n".join(block.splitlines()[1:]), names)
    assert 0 < names["bright"].sizes["sample"] < 600
    assert plt.gca().get_title().startswith("plane = difference")
    plt.close("all")
    exec(block.splitlines()[0], names)
    xr.testing.assert_equal(names["train"].compute(), train.compute())
    assert train.host_epoch_id.isel(host=train.host_row).dims == ("sample", "visit")


def test_a_column_is_read_once_and_by_shard(train: xr.Dataset, reads: list[str]) -> None:
    assert float(train.snr.max()) == float(train.snr.max())
    assert reads == ["snr"] * 3
    assert train.pixels.chunks is not None
    assert train.where(train["class"] == 1, drop=True).sizes["sample"] < 600
    assert "pixels" not in reads


def test_codes_become_names(train: xr.Dataset) -> None:
    kinds, classes = train.astrid.names("kind"), train.astrid.names("class")
    assert kinds.dims == ("sample",)
    assert {KINDS[kind] for kind in kinds.values} == set(classes.values)
    assert [KINDS[kind] for kind in kinds.values] == classes.values.tolist()
    bands = train.astrid.names("band")
    assert bands.dims == ("sample", "visit")
    assert (bands == "r").equals((train.band == 1).rename("band"))
    assert train.isel(sample=slice(3)).astrid.names("origin").shape == (3,)
    weights = train.weight.groupby(kinds.rename("kind")).count()
    assert int(weights.sel(kind="SN Ia")) == list(kinds.values).count("SN Ia")


def test_what_was_never_written_has_no_name(train: xr.Dataset) -> None:
    empty = train.assign(kind=("sample", np.full(600, -1, "i2"), train.kind.attrs))
    assert set(empty.astrid.names("kind").values) == {""}


def test_codes_of_a_later_version_are_not_misnamed(train: xr.Dataset) -> None:
    later = train.assign(kind=("sample", np.full(600, len(KINDS), "i2"), train.kind.attrs))
    with pytest.raises(ConfigError, match="install a newer one"):
        later.astrid.names("kind")


def test_questions_that_have_no_answer(train: xr.Dataset, url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'class'"):
        train.astrid.names("clas")
    with pytest.raises(ConfigError, match="no names for 'snr'"):
        train.astrid.names("snr")
    with pytest.raises(ConfigError, match="holds no samples"):
        xr.Dataset().astrid.names("class")
    with pytest.raises(ConfigError, match="no group 'ztf/test'; it has ztf/train"):
        astrid_dist.open_samples(url)["ztf/test"]
    with pytest.raises(ConfigError, match="nothing at"):
        astrid_dist.open_samples(tmp_path / "nowhere.zarr")


def test_an_unfinished_product_is_opened_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, STAGE, "tests.made_samples")
    output = str(tmp_path / "s.zarr")
    with pytest.raises(IncompleteProductError):
        run_stage(STAGE, {"output": output, "side": 9, "fail": 0}, SerialEngine())
    with pytest.raises(IncompleteProductError, match="allow_partial=True"):
        astrid_dist.open_samples(output)
    partial = astrid_dist.open_samples(output, allow_partial=True)[GROUP]
    assert set(partial.astrid.names("class")[:256].values) == {""}
    assert "" not in partial.astrid.names("class")[256:].values


def test_opening_samples_compiles_nothing(url: str) -> None:
    code = f"import sys, astrid_dist; astrid_dist.open_samples({url!r}); print('numba' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False"]
