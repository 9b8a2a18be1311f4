"""The page of a night says which epochs are bad, why and where, and needs nothing else."""

import re

import pytest
from typer.testing import CliRunner

from astrid_dist.cli import app
from astrid_dist.errors import ConfigError
from astrid_dist.stages.night import night_page
from tests.nights import FIELDS, make

EPOCHS = 4


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return make(tmp_path_factory.mktemp("nights") / "difference.zarr", EPOCHS, 2)


@pytest.fixture(scope="module")
def html(url):
    return night_page(url)


def section(html, heading):
    """What stands under a heading."""
    return html.split(f">{heading}</h2>")[1].split("<h2")[0]


def test_the_header_counts_the_night_by_colour(html):
    assert "<h1>Night of 2020-01-02</h1>" in html
    assert "8 epochs of 2 fields and bands" in html
    cards = dict(re.findall(r'<div class="card"><b>(.*?)</b><span>(.*?)</span>', html))
    counts = {what: value for value, what in re.findall(r"<b>(\d+)</b><span>(epochs .*?)</span>", html)}
    assert counts == {
        "epochs are green": "4",
        "epochs are yellow": "0",
        "epochs are orange": "1",
        "epochs are red": "1",
        "epochs could not be judged": "2",
    }
    assert any("bands; 02:30 to" in what for what in cards.values())


def test_every_epoch_that_is_not_green_is_explained_in_words(html):
    wrong = section(html, "What is wrong")
    assert "shifted: stars are displaced by 0.3" in wrong
    assert "moonlit or bright sky" in wrong
    assert wrong.count('class="chip ">quarantined') == 2
    assert "not on the grid &lt;x&gt;" in wrong
    assert "chip green" not in wrong


def test_the_table_has_every_epoch_and_marks_the_figures_that_are_not_green(html):
    table = section(html, "Epochs")
    assert table.count("<tr>") == 1 + 2 * EPOCHS
    assert re.search(r'<span class="chip red">0\.(2|3)\d\d</span>', table)
    assert table.count("chip green") == 4


def test_links_lead_to_the_tiles_and_the_worst_comes_first(html):
    targets = re.findall(r'href="#(.*?)"', html)
    assert targets
    assert all(f'id="{target}"' in html for target in targets)
    tiles = section(html, "Tiles")
    verdicts = re.findall(r'class="chip (\w+)"', tiles)
    assert verdicts[0] == "red"
    assert verdicts[-1] == "green"
    assert len(verdicts) == 2 * (EPOCHS - 1)
    large = tiles.split("<h3>")[1]
    assert "height:132px" in large
    assert "displacement 0.2" in large or "displacement 0.3" in large


def test_several_nights_are_compared(html):
    nights = section(html, "Nights")
    assert "2020-01-01" in nights
    assert "<b>2020-01-02</b>" in nights


def test_the_page_needs_nothing_else_and_is_small(html):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert len(html) < 1_000_000


def test_one_field_or_another_night_can_be_chosen(url):
    other = night_page(url, "2020-01-01", [FIELDS[0]])
    assert "Night of 2020-01-01" in other
    assert f"4 epochs of {FIELDS[0]}" in other
    assert FIELDS[1] not in other
    with pytest.raises(ConfigError, match="no epoch in night '2020-02-01'"):
        night_page(url, "2020-02-01")


def test_the_command_writes_the_page(url, tmp_path):
    to = tmp_path / "pages" / "night.html"
    done = CliRunner().invoke(app, ["night", url, "--night", "58851.2", "--to", str(to)])
    assert done.exit_code == 0, done.output
    assert "Night of 2020-01-02" in to.read_text(encoding="utf-8")
    assert str(to) in done.output.replace("\n", "")


def test_a_night_of_which_nothing_was_measured_still_has_a_page(tmp_path):
    url = make(tmp_path / "difference.zarr", epochs=1, nights=1)  # the only epoch is quarantined
    html = night_page(url)
    assert "No epoch of this night was subtracted." in html
    assert "None of the main metrics was measured." in html
    assert 'href="#' not in html
