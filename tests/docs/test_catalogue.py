"""The catalogue pages are of every kind, and their figures are what they say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.simulation.render import MoffatPsf

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def catalogue(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import catalogue

    return catalogue


def stamps(light):
    """(n, 4, 63, 63) samples of unit noise with light in their differences."""
    planes = np.random.default_rng(5).normal(size=(40, 4, 63, 63))
    planes[:, 2] += light
    return planes.astype(np.float16)


def point(flux):
    light = np.zeros((63, 63))
    light[24:39, 24:39] = flux * MoffatPsf(2.9).stamp(7)
    return light


def test_the_simple_cut_keeps_point_sources_of_either_sign_and_nothing_else(catalogue):
    bright = point(400.0)
    assert catalogue.simple_cut(stamps(bright)).mean() > 0.95
    assert catalogue.simple_cut(stamps(-bright)).mean() > 0.95
    hit = np.zeros((63, 63))
    hit[31, 31] = 60.0
    dipole = bright - np.roll(bright, 2, axis=1)
    for light in (hit, dipole, np.zeros((63, 63))):
        assert catalogue.simple_cut(stamps(light)).mean() < 0.1
    holed = stamps(bright)
    holed[:, 2, 32, 30] = np.nan
    assert not catalogue.simple_cut(holed).any()


@pytest.mark.slow
def test_a_catalogue_has_every_kind_with_its_pictures(catalogue, monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path / "catalogue")
    monkeypatch.setattr(
        catalogue, "SKY", catalogue.SKY | {"size_px": 320, "epochs": 7, "template_epochs": 3, "bands": ("r",)}
    )
    monkeypatch.setattr(catalogue, "SAMPLES", 512)
    monkeypatch.setattr(catalogue, "SEQUENCES", 256)
    monkeypatch.setattr(catalogue, "VISITS", 3)
    import catalogue_pages

    assert not catalogue.up_to_date()
    found = catalogue.measured()
    assert catalogue.up_to_date()
    assert set(found["artifacts"]) == set(ARTIFACTS)
    assert set(found["populations"]) == set(POPULATIONS)
    assert all(one["kept"] <= one["seen"] <= one["drawn"] for one in found["artifacts"].values())
    assert sum(one["drawn"] for one in found["artifacts"].values()) > 400
    assert json.loads((catalogue.FOLDER / "measured.json").read_text()) == found
    for page, kinds in (
        (catalogue_pages.artifact_gallery(), ARTIFACTS),
        (catalogue_pages.population_gallery(), POPULATIONS),
    ):
        assert set(re.findall(r"^### (.*)$", page, re.MULTILINE)) == set(kinds)
        for name in re.findall(r"\]\(\.\./build/catalogue/(.*?)\)", page):
            assert (catalogue.FOLDER / name).stat().st_size > 500
    header, rows = catalogue_pages.artifacts()
    assert len(rows) == len(ARTIFACTS)
    assert all(len(row) == len(header) for row in rows)
    header, rows = catalogue_pages.populations()
    assert len(rows) == len(POPULATIONS)
    assert all(len(row) == len(header) for row in rows)
