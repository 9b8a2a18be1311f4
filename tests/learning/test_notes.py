"""What is said of a run: samples it gets wrong, and the text at the top of its page."""

from typing import Any

import pytest
import torch

from astrid_dist.learning.extremes import Extremes
from astrid_dist.learning.notes import model_note, run_note
from astrid_dist.learning.sampling import Sampling
from astrid_dist.learning.unet import UNet, UNetConfig
from tests.learning.dots import dots


def test_the_most_wrong_and_the_least_sure_are_kept_in_batches_of_any_size() -> None:
    truth = dots(60, size=9, seed=4)
    truth.weight[:4] = 0
    truth.pixels[4:8] = torch.nan
    torch.manual_seed(1)
    with torch.no_grad():
        told = UNet(UNetConfig(widths=(8, 8), hidden=8, heads=2)).eval()(truth.pixels)
    told = told._replace(real=torch.randn(60) * 3)
    p = told.real.sigmoid()
    kept = []
    for size in (60, 7):
        seen = Extremes(5)
        for part in torch.arange(60).split(size):
            seen(type(told)(*(values[part] for values in told)), truth[part])
        kept.append([[case.p_real for case in cases] for cases in (seen.wrong, seen.unsure)])
    assert kept[0] == kept[1]
    counts = torch.arange(60) >= 8
    off = torch.where(counts, (p - truth.label).abs(), -1)
    assert kept[0][0] == pytest.approx(p[off.argsort(descending=True)[:5]].tolist())
    middle = torch.where(counts, (p - 0.5).abs(), 9)
    assert kept[0][1] == pytest.approx(p[middle.argsort()[:5]].tolist())
    worst = seen.wrong[0]
    assert worst.planes.shape == (4, 9, 9)
    assert (worst.truth, worst.label) in (("transient", 1.0), ("bad_pixel", 0.0))
    assert f"p_real {worst.p_real:.2f}" in str(worst)


def test_what_is_told_rightly_is_not_called_wrong() -> None:
    truth = dots(8, size=9)
    with torch.no_grad():
        told = UNet(UNetConfig(widths=(8, 8), hidden=8, heads=2)).eval()(truth.pixels)
    seen = Extremes()
    seen(told._replace(real=truth.label * 8 - 4), truth)
    assert seen.wrong == []
    assert len(seen.unsure) == 8


def settings(**changes: Any) -> dict[str, Any]:
    plain = {
        "base": None,
        "size": "small",
        "tune": "all",
        "epochs": 3,
        "batch": 32,
        "workers": 2,
        "rate": 0.01,
    }
    plain |= {"seed": 1, "metric": "auc", "augment": ["flip", {"noise": {"sigma": 1}}]}
    return {**plain, "sampling": Sampling().model_dump(mode="json"), **changes}


GROUPS = {
    "training": [{"group": "ztf/train", "url": "file:///s.zarr"}],
    "validation": [{"group": "ztf/val", "url": "file:///s.zarr"}],
}
COUNTS = {
    "training": {"samples": 90, "synthetic_to_real": 2.0, "class": {"transient": 60, "dipole": 30}},
    "validation": {"samples": 9, "synthetic_to_real": None, "class": {"transient": 9, "noise": 1}},
}


def test_a_page_says_on_what_how_and_how_well() -> None:
    found = {"auc": 0.98765, "recall_transient": 0.75, "precision": float("nan")}
    text = run_note(settings(), 97000, GROUPS, COUNTS, {"validation": found}, "astrid version 1 is champion")
    assert text.startswith("**astrid version 1 is champion**")
    assert "| trained on | 90 samples, 2 made for each real one: ztf/train of file:///s.zarr |" in text
    assert "| validated on | 9 samples, all made: ztf/val" in text
    assert "a new small model (0.097 million weights); at most 3 epochs, batches of 32 on 2 workers" in text
    assert "augmented by flip, noise" in text
    assert "| on validation samples | AUC 0.9877 |" in text
    assert "| transient | 60 | 9 | 75 % |" in text
    assert "| noise | 0 | 1 |  |" in text
    assert "drawn by" not in text


def test_a_page_of_a_run_that_goes_on_says_so() -> None:
    asked = settings(base="astrid@champion", tune="heads", workers=1)
    asked["sampling"] |= {"balance": ["class"]}
    text = run_note(asked, 97000, GROUPS, COUNTS)
    assert "from astrid@champion, heads alone" in text
    assert "on 1 worker;" in text
    assert "drawn by balance ['class']" in text
    assert "not there yet" in text


def test_a_model_says_how_it_is_used() -> None:
    text = model_note("astrid-ztf/3", {"auc": 0.9, "position_px": 0.12}, "abc")
    assert text.startswith("AUC 0.9000, places within 0.12 px (median) on the validation samples `abc`.")
    assert "models:/astrid-ztf/3" in text
