"""Models on disk: they come back as they were, and whatever is wrong with a file is said."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from astrid_dist.errors import AstridError, ConfigError, InputError, StorageError
from astrid_dist.learning.model_file import load_model, model_bytes, read_model, save_model, weights_digest
from astrid_dist.learning.unet import UNet, UNetConfig

CONFIG = UNetConfig(widths=(8, 8), hidden=8, heads=2, bands=("ztf/g",), surveys=("ztf",))


@pytest.fixture
def model() -> UNet:
    torch.manual_seed(3)
    return UNet(CONFIG)


def test_a_model_comes_back_as_it_was(model: UNet, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.pt")
    back = load_model(tmp_path / "model.pt")
    assert back.config == CONFIG
    assert not back.training
    assert weights_digest(back) == weights_digest(model)
    pixels = torch.randn(2, 1, 4, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(back(pixels), model.eval()(pixels), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]  # nothing half written stays


def test_a_model_goes_through_bytes(model: UNet) -> None:
    content = model_bytes(model)
    assert weights_digest(read_model(content, "s3://bucket/model.pt")) == weights_digest(model)
    with pytest.raises(InputError, match=r"s3://bucket/model.pt: .*damaged"):
        read_model(content[:-100], "s3://bucket/model.pt")


def test_the_digest_is_of_every_weight(model: UNet) -> None:
    before = weights_digest(model)
    with torch.no_grad():
        model.segment.weight[0, 0] += 1e-6
    assert weights_digest(model) != before


def test_another_architecture_is_told(model: UNet, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.pt")
    load_model(tmp_path / "model.pt", CONFIG)
    with pytest.raises(ConfigError, match=r"widths is \[8, 8\], \[8, 16\] expected"):
        load_model(tmp_path / "model.pt", replace(CONFIG, widths=(8, 16)))


class Trap:
    """Pickles as a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").mkdir, (str(self.trace),))


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"state": Trap(tmp_path / "ran")}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match=r"refused, .* would run code"):
        load_model(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="refused"):
        load_model(tmp_path / "pickled.pt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check the path"):
        load_model(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04" + bytes(200)])
def test_files_that_are_no_models(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match="no model, or a damaged one"):
        load_model(tmp_path / "model.pt")


def test_a_model_cut_short_or_with_a_flipped_bit(model: UNet, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(tmp_path / "cut.pt")
    weights = model.bottom.conv1.weight.detach().numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(weights) + 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(InputError, match=r"damaged|weights changed"):
        load_model(tmp_path / "flipped.pt")


@pytest.mark.parametrize(
    ("change", "problem", "error"),
    [
        ({"format": "something else"}, "not written by save_model", InputError),
        ({"config": {"depth": 4}}, "another version", ConfigError),
        ({"config": None}, "incomplete", InputError),
        ({"state": {}}, "do not fit", InputError),
    ],
)
def test_parts_that_are_wrong(
    model: UNet, tmp_path: Path, change: dict[str, object], problem: str, error: type[AstridError]
) -> None:
    save_model(model, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({**content, **change}, tmp_path / "model.pt")
    with pytest.raises(error, match=problem):
        load_model(tmp_path / "model.pt")


def test_nowhere_to_write(model: UNet, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is there a folder"):
        save_model(model, tmp_path / "none" / "model.pt")
