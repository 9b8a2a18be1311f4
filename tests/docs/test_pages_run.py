"""What the pages say to type in Python runs, block by block, on a small mock survey."""

import re
from pathlib import Path

import pytest

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.demo import run_demo
from astrid_dist.stages.run import run_stage

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "docs/quickstart.md",
    "docs/howto-query.md",
    "docs/howto-quality.md",
    "docs/howto-samples.md",
]
SKY = {"epochs": 8, "template_epochs": 3, "size_px": 256, "season_days": 5.0, "star_density": 1500.0}


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    run_demo(folder, "serial", sky=SKY, learning=None)
    made = {name: str(folder / f"{name}.zarr") for name in ("survey", "reference", "samples", "injected")}
    pair = {"survey": made["survey"], "reference": made["reference"]}
    difference = {**pair, "survey": made["injected"], "output": str(folder / "injected-difference.zarr")}
    for stage, settings in (
        (
            "inject",
            {**pair, "output": made["samples"], "samples": 512, "way": "fast", "splits": {"train": 1}},
        ),
        ("inject", {**pair, "output": made["injected"], "mode": "frames", "sources_per_mpix": 300}),
        ("difference", difference),
    ):
        run_stage(stage, settings, SerialEngine())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_of_a_page_runs(page, products, monkeypatch):
    monkeypatch.chdir(products)
    candidates = astrid.open_candidates("candidates.zarr")
    best = candidates.isel(candidate=int(abs(candidates.snr).argmax("candidate")))
    # The places and numbers that pages name are of no sky in particular.
    there = {
        "150.11": f"{best.ra.item()}",
        "2.21": f"{best.dec.item()}",
        "x=1024.3": "x=102.4",
        "object=17": f"object={best.object.item()}",
    }
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        for said, here in there.items():
            block = block.replace(said, here)
        exec(compile(block, f"{page} block {number}", "exec"), names)
