"""The page of a samples product says what is in it, and reads no more than it shows."""

import re
from html import unescape

import numpy as np
import pytest
from typer.testing import CliRunner

from astrid_dist.cli import app
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ConfigError
from astrid_dist.query.samples import open_samples
from astrid_dist.stages import STAGES
from astrid_dist.stages.run import run_stage
from astrid_dist.stages.sample_report import MOST_EXAMPLES, sample_report
from astrid_dist.stages.sample_table import find_examples, sample_table, strata_table
from astrid_dist.store.reading import ProductReader
from astrid_dist.taxonomy import KINDS
from tests.figures.test_page import read
from tests.made_samples import GROUP, STAGE
from tests.small_survey import small_survey


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """600 samples of two visits; nobody asked for anything."""
    output = str(tmp_path_factory.mktemp("samples") / "samples.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, STAGE, "tests.made_samples")
        run_stage(STAGE, {"output": output, "samples": 600, "visits": 2, "side": 9}, SerialEngine())
    return output


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """A few kinds, put into a small mock survey."""
    made = small_survey()
    output = str(tmp_path_factory.mktemp("injected") / "samples.zarr")
    settings = {
        "survey": made.survey, "reference": made.reference, "known": made.truth, "output": output,
        "samples": 300, "way": "fast", "seed": 4, "splits": {"train": 0.9, "test": 0.1},
        "kinds": ["SN Ia", "RR Lyrae", "cosmic-ray track", "null detection"],
        "mix": {"transient": 0.3, "variable": 0.2, "cosmic_ray": 0.3, "unknown": 0.2},
    }  # fmt: skip
    run_stage("inject", settings, SerialEngine())
    return output


def cells(html, kind):
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", html) if f"<td>{kind}</td>" in row)
    return [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]


@pytest.mark.slow
def test_the_page_counts_what_was_asked_for_and_got(injected):
    html = sample_report(injected)
    text = "".join(read(html).text)
    product = open_samples(injected)
    kinds = np.concatenate([product[group].astrid.names("kind").to_numpy() for group in product])
    put = np.concatenate([product[group]["injectable"].to_numpy() for group in product])
    for kind in ("SN Ia", "RR Lyrae", "cosmic-ray track", "null detection"):
        _, name, asked, got, *_ = cells(html, kind)
        assert name == KINDS[kind]
        assert int(asked) == (kinds == kind).sum()
        assert int(got) == ((kinds == kind) & put).sum()
    assert "300 samples in 2 sets, 1 visit of each" in text
    assert product.attrs["astrid"]["digest"] in text
    assert "seed=4" in text
    assert text.count("true SNR +") + text.count("true SNR -") == 2 * MOST_EXAMPLES
    assert len(html) < 3e6


@pytest.mark.slow
def test_strata_sum_to_the_samples_that_were_asked_for(injected):
    product = open_samples(injected)
    table = sample_table(product, lambda said: None)
    strata = strata_table(product, table)
    assert strata["asked"].sum() == len(table) == 300
    assert strata["got"].sum() == table["injectable"].sum()
    shares = strata.groupby("class")["asked"].sum() / 300
    assert shares.to_dict() == pytest.approx(
        {"transient": 0.3, "variable": 0.2, "cosmic_ray": 0.3, "unknown": 0.2}, abs=0.02
    )


def test_a_page_of_samples_without_strata_or_survey_is_whole(noise, tmp_path):
    to = tmp_path / "page" / "samples.html"
    done = CliRunner().invoke(app, ["describe", noise, "--to", str(to)])
    assert done.exit_code == 0, done.output
    assert "600 samples described" in done.output
    text = "".join(read(to.read_text()).text)
    assert "600 samples in 1 set, 2 visits of each" in text
    assert "visit 2 of 2" in text


def test_few_chunks_of_pixels_are_read_and_no_more(noise, monkeypatch):
    asked = []
    original = ProductReader.read

    def counted(self, variable, **selection):
        asked.append((variable, selection["sample"]))
        return original(self, variable, **selection)

    monkeypatch.setattr(ProductReader, "read", counted)
    product = open_samples(noise)
    table = sample_table(product, lambda said: None)
    assert asked == []
    examples = find_examples(product, table, 2, lambda said: None)
    pixels = [part for variable, part in asked if variable == "pixels"]
    assert len(pixels) < 600 // 32
    assert all(part.stop - part.start <= 32 for part in pixels)
    there = table[table["injectable"]]["kind"].value_counts()
    assert {kind: len(found) for kind, found in examples.items()} == {
        str(kind): min(2, n) for kind, n in there.items() if n
    }


def test_examples_hold_the_pixels_of_their_sample(noise):
    product = open_samples(noise)
    table = sample_table(product, lambda said: None)
    data = product[GROUP]
    for found in find_examples(product, table, 1, lambda said: None).values():
        row = table.iloc[found[0].index]
        expected = data["pixels"][int(row["row"]), int(row["visit"])].to_numpy()
        np.testing.assert_array_equal(found[0].planes, expected)
        assert data["kind"][int(row["row"])] == list(KINDS).index(row["kind"])


def test_what_is_no_samples_product_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        sample_report(tmp_path / "nothing.zarr")
