"""What the documentation says to type exists: commands, options, job settings, names of the Python API."""

import ast
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

import astrid_dist
from astrid_dist.cli import app
from astrid_dist.engine.jobfile import load_job, validate
from astrid_dist.query import AstridAccessor
from astrid_dist.stages import load_stage
from astrid_dist.surveys.profile import load_profile, resolve_thresholds

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """(page, text) of every fenced block in a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in fence.findall(page.read_text())]


def shell_lines(word):
    """(page, line) of every command that begins with a word."""
    return [
        (page, line)
        for page, block in blocks("bash")
        for line in block.splitlines()
        if line.split(maxsplit=1)[:1] == [word]
    ]


@pytest.mark.parametrize(("page", "line"), shell_lines("astrid"))
def test_every_command_parses_and_every_setting_is_one_of_its_stage(page, line):
    arguments = shlex.split(line.partition("&&")[0], comments=True)[1:]
    command = typer.main.get_command(app)
    name, sub, rest = command.resolve_command(typer.Context(command), arguments)
    parsed = sub.make_context(name, rest).params
    if name in ("run", "plan"):
        stage, raw, where = load_job(ROOT / parsed["job"], parsed["overrides"] or [])
        validate(load_stage(stage).Settings, raw, where)


@pytest.mark.parametrize(("page", "line"), shell_lines("make"))
def test_every_make_target_is_there(page, line):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in line.split("#")[0].replace("&&", ";").split(";"):
        words = command.split()
        if words[:1] == ["make"]:
            assert words[1] in targets


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_every_python_block_compiles_and_asks_for_names_that_exist(page, block):
    for node in ast.walk(ast.parse(block)):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == "astrid":
            assert hasattr(astrid_dist, node.attr), f"{page}: astrid.{node.attr}"
        if isinstance(node.value, ast.Attribute) and node.value.attr == "astrid":
            assert hasattr(AstridAccessor, node.attr), f"{page}: .astrid.{node.attr}"


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_every_setting_in_yaml_is_one_that_is_read(page, block, tmp_path):
    said = yaml.safe_load(block)
    if "extends" in said:
        file = tmp_path / "profile.yaml"
        file.write_text(block)
        assert load_profile(file).name == said["name"]
        return
    assert list(said) == ["thresholds"], f"{page}: a block of YAML that no test knows"
    assert resolve_thresholds("generic", said["thresholds"]) != resolve_thresholds("generic")


def test_every_link_between_pages_and_every_picture_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|png))", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_the_stored_picture_of_residuals_is_what_its_command_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pictures

    stored, drawn = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), float)
        for png in ((ROOT / "docs" / "_static" / "residuals.png").read_bytes(), pictures.residuals())
    )
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 3
