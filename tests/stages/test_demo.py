import json
import re
import shutil

import numpy as np
import pytest

import astrid_dist as astrid
from astrid_dist.errors import ConfigError, ResumeConflictError
from astrid_dist.stages import evaluate
from astrid_dist.stages.comparison import compare, file_of
from astrid_dist.stages.demo import run_demo

SKY = {
    "epochs": 6,
    "template_epochs": 3,
    "size_px": 256,
    "season_days": 5.0,
    "star_density": 1500.0,
    "supernovae": 3,
    "hostless": 2,
    "variables": 3,
    "asteroids": 1,
    "cosmic_rays": 40.0,
}


class Lines:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder, out, events = tmp_path_factory.mktemp("demo"), Lines(), []
    report = run_demo(folder, "serial", sky=SKY, learning=None, observers=[events.append], out=out)
    return folder, report, out.text, events


@pytest.fixture(scope="module")
def comparison(demo):
    folder = demo[0]
    return compare(*(str(folder / f"{n}.zarr") for n in ("truth", "reference", "difference", "candidates")))


def test_what_stands_out_is_found_and_measured(comparison):
    countable = comparison.countable
    bright = countable[countable["true_snr"].abs() > 7]
    assert len(bright) >= 8
    assert (bright["candidate"] >= 0).mean() > 0.85
    assert ((countable["true_snr"].abs() < 3) & (countable["candidate"] >= 0)).sum() <= 1
    matched = comparison.real
    true = comparison.truth.loc[matched["truth"]].reset_index(drop=True)
    new = (true["class"] == "transient").to_numpy()
    pull = (matched["flux"].to_numpy() - true["flux_ujy"].to_numpy())[new] / matched["flux_err"].to_numpy()[
        new
    ]
    assert np.abs(np.median(pull)) < 1.0
    assert np.median(np.abs(pull)) < 1.3


def test_the_two_tables_point_at_each_other_and_only_search_epochs_are_compared(comparison):
    assert comparison.epochs == 3
    assert set(comparison.truth["epoch"]) == {3, 4, 5}
    owned = comparison.truth[comparison.truth["candidate"] >= 0]
    for index, row in owned.iterrows():
        assert comparison.candidates.loc[row["candidate"], "truth"] == index
    assert len(owned) == len(comparison.real)
    assert len(comparison.real) + len(comparison.false) == len(comparison.candidates)


def test_false_alarms_are_few_and_most_have_a_cause(comparison):
    # Forty cosmic rays an epoch and the cores of bright stars are masked before they can alarm anyone.
    assert len(comparison.false) <= 8 * comparison.epochs
    unknown = (comparison.false["cause"] == "unknown").sum()
    assert unknown <= 3 * comparison.epochs


def test_the_report_holds_every_part_and_nothing_from_outside(demo):
    _, report, _, _ = demo
    html = report.read_text(encoding="utf-8")
    for heading in (
        "Completeness",
        "Supernovae",
        "Variable stars",
        "Asteroids",
        "Strongest false alarms",
        "Significance image",
        "Measured against true",
        "Light curves",
        "Epochs",
        "Time",
    ):
        assert f">{heading}</h2>" in html
    addresses = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert len(addresses) > 10
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", html).lower()
    assert html.count("f150.000-20.000/r ") == 3  # one row of the table per searched epoch
    assert len(html) < 3_000_000


def test_the_last_lines_say_where_the_report_is_and_what_to_type_next(demo):
    folder, report, text, events = demo
    assert str(report.resolve()) in text
    assert f'open_candidates("{folder}/candidates.zarr")' in text
    assert f"astrid verify {folder}/difference.zarr" in text
    assert sum(type(event).__name__ == "JobFinished" for event in events) == 5


def test_a_source_is_known_by_its_file():
    assert file_of("s3://bucket/night/f0000_r_e0003.fits.fz[1]") == "f0000_r_e0003.fits.fz"
    assert file_of("plain.fits") == "plain.fits"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_a_model_is_trained_and_scores_every_candidate(tmp_path):
    learning = {"samples": 512, "size": "small", "epochs": 1, "batch": 32}
    report = run_demo(tmp_path, "serial", sky=SKY, learning=learning, observers=[], out=Lines())
    candidates = astrid.open_candidates(str(tmp_path / "candidates.zarr"))
    assert np.isfinite(candidates["p_real"].to_numpy()).all()
    html = report.read_text(encoding="utf-8")
    assert ">Real or bogus</h2>" in html
    assert ">What the network got wrong</h2>" in html
    assert (tmp_path / "training" / "model.pt").exists()


def test_its_candidates_can_be_judged(demo, comparison, tmp_path):
    folder = demo[0]
    given = {"candidates": str(folder / "candidates.zarr"), "truth": str(folder / "truth.zarr")}
    settings = evaluate.Settings(**given, output=str(tmp_path / "evaluation"), least_snr=5.0)
    said = []
    evaluate.run(settings, said.append)
    found = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    countable = comparison.countable
    bright = countable[countable["true_snr"].abs() >= 5]
    assert found["images"] == 3
    assert found["sources"] == len(bright)
    recall = found["end_to_end"]["S_corr cut"]["recall"][0]
    assert recall == pytest.approx((bright["candidate"] >= 0).mean())
    assert 0.1 < found["megapixels"] <= 3 * 256 * 256 / 1e6
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert page.count("<img") >= 6
    assert 'src="http' not in page
    assert said[0].startswith("3 images")
    assert (tmp_path / "evaluation" / "strata.csv").read_text().startswith("stratum,value,sources,recall")
    evaluate.run(settings, said.append)  # the same again
    with pytest.raises(ResumeConflictError, match="an evaluation of other settings"):
        evaluate.run(settings.model_copy(update={"least_snr": 6.0}), said.append)
    alone = shutil.copytree(folder / "candidates.zarr", tmp_path / "alone.zarr")
    changed = {"candidates": str(alone), "output": str(tmp_path / "another")}
    with pytest.raises(ConfigError, match="which images were searched"):
        evaluate.run(settings.model_copy(update=changed))
