"""Which epochs a job takes: all, the deepest, or those named; and what it says when it cannot."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from astrid_dist.errors import ConfigError, IncompleteProductError
from astrid_dist.stages.selection import (
    Quality,
    choose_epochs,
    epochs_digest,
    epochs_of_quality,
    groups_of,
    resolved,
)
from astrid_dist.store.layouts import variables
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow
from astrid_dist.store.writing import ProductWriter

SOURCES = ["night/a.fits", "night/b.fits[1]", "night/b.fits[2]", "night/c.fits", "night/bad.fits"]


@pytest.fixture
def survey(tmp_path: Path) -> Location:
    """Five epochs: the second is the deepest, the last is not valid."""
    location = Location.parse(tmp_path / "survey.zarr")
    create_product(location, "survey")
    sizes = {"epoch": 0, "y": 64, "x": 64, "psf_term": 1, "v": 9, "u": 9}
    create_group(location, "survey", "f1/g", sizes, {"psf_order": 0})
    grow(location, "survey", "f1/g", 5)
    writer = ProductWriter(location, "f1/g")
    for epoch, noise in enumerate([10.0, 4.0, 6.0, 8.0, 1.0]):
        writer.write("background_rms", {"epoch": epoch}, np.full((1, 1), noise, np.float32))
    rows = {
        one.name: [""] * 5 if one.dtype == "string" else [one.dtype == "bool" or 1] * 5
        for one in variables("survey").values()
        if one.is_scalar
    }
    rows |= {"source": SOURCES, "epoch_id": [f"{letter * 8}" for letter in "abcde"]}
    rows |= {"zeropoint": [25.0] * 5, "sky": [100.0] * 5, "fwhm": [3.0] * 5, "valid": [True] * 4 + [False]}
    writer.write_scalars(rows, 0)
    commit_epochs(location, "f1/g", 5)
    return location


def test_all_are_the_valid_ones(survey: Location) -> None:
    assert choose_epochs(ProductReader(survey, "f1/g"), "all", "f1/g") == [0, 1, 2, 3]


def test_best_are_the_deepest_in_the_order_of_the_survey(survey: Location) -> None:
    reader = ProductReader(survey, "f1/g")
    assert choose_epochs(reader, "best:2", "f1/g") == [1, 2]
    assert choose_epochs(reader, "best:99", "f1/g") == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="best:5"):
        choose_epochs(reader, "best:none", "f1/g")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a.fits,c.fits", [0, 3]),
        (["night/c.fits", "a.fits"], [0, 3]),
        (["b.fits[2]"], [2]),
        (["dddddddd"], [3]),
        (["dddd", "night/c.fits"], [3]),
    ],
)
def test_epochs_are_named_by_file_path_extension_or_id(
    survey: Location, wanted: str | list[str], found: list[int]
) -> None:
    assert choose_epochs(ProductReader(survey, "f1/g"), wanted, "f1/g") == found


def test_a_name_that_stands_for_none_or_several_is_refused(survey: Location) -> None:
    reader = ProductReader(survey, "f1/g")
    with pytest.raises(ConfigError, match=r"'b.fits' stands for 2 epochs"):
        choose_epochs(reader, ["b.fits"], "f1/g")
    with pytest.raises(ConfigError, match=r"no valid epoch 'bad.fits'; it has night/a.fits"):
        choose_epochs(reader, ["bad.fits"], "f1/g")


def test_the_digest_is_of_what_was_chosen_however_the_survey_grows(survey: Location) -> None:
    reader = ProductReader(survey, "f1/g")
    before = epochs_digest(reader, [0, 3])
    grow(survey, "survey", "f1/g", 6)
    assert epochs_digest(ProductReader(survey, "f1/g"), [0, 3]) == before
    assert epochs_digest(reader, [0, 2]) != before


def test_groups_are_chosen_by_pattern_and_finished_inputs_only(survey: Location, tmp_path: Path) -> None:
    assert groups_of(survey, "survey", ["f1/*"]) == ["f1/g"]
    with pytest.raises(ConfigError, match=r"no group like 'f2/g'; it has f1/g"):
        groups_of(survey, "survey", ["f2/g"])
    reference = Location.parse(tmp_path / "reference.zarr")
    create_product(reference, "reference")
    with pytest.raises(IncompleteProductError, match="astrid resume"):
        groups_of(reference, "reference", ["*"])


def test_settings_that_were_never_planned_name_no_epochs() -> None:
    assert resolved({"f1/g": [3, 4]}) == {"f1/g": [3, 4]}
    with pytest.raises(ConfigError, match="best:5"):
        resolved("best:5")


def test_settings_take_one_name_without_brackets_and_say_how_epochs_are_written() -> None:
    from astrid_dist.stages.reference import Settings

    assert Settings(survey="s", output="o", fields="f1/g").fields == ["f1/g"]
    with pytest.raises(ValueError, match=r"2 names no epochs: write all, best:5"):
        Settings(survey="s", output="o", epochs=2)


def test_a_quality_takes_valid_epochs_at_least_as_good(tmp_path: Path) -> None:
    location = Location.parse(tmp_path / "difference.zarr")
    create_product(location, "difference")
    create_group(location, "difference", "f1/g", {"epoch": 0, "y": 64, "x": 64, "v": 9, "u": 9}, {})
    verdicts = ["green", "red", "yellow", "orange", "green", "quarantined"]
    grow(location, "difference", "f1/g", len(verdicts))
    valid = [True, True, True, True, False, False]
    ProductWriter(location, "f1/g").write_scalars({"verdict": verdicts, "valid": valid}, 0)
    commit_epochs(location, "f1/g", len(verdicts))
    reader = ProductReader(location, "f1/g")
    taken = {
        name: epochs_of_quality(reader, name) for name in ("all", "min=orange", "min=yellow", "min=green")
    }
    assert taken == {"all": [0, 1, 2, 3], "min=orange": [0, 2, 3], "min=yellow": [0, 2], "min=green": [0]}


@pytest.mark.parametrize("wrong", ["green", "min=red", "min=blue", 3, None])
def test_a_quality_that_is_none_says_which_there_are(wrong: object) -> None:
    adapter = TypeAdapter(Quality)
    with pytest.raises(ValidationError, match="write all, or min=green, min=yellow, min=orange"):
        adapter.validate_python(wrong)
    assert adapter.validate_python("min=green") == "min=green"
