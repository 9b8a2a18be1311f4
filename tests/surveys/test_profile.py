"""Survey profiles: what ships is valid, what a user writes overrides, what is wrong is named."""

import re

import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.surveys.profile import Profile, load_profile, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_ships_is_valid_and_survives_json(name):
    profile = load_profile(name)
    assert profile.name == name
    assert Profile.model_validate(profile.model_dump(mode="json")) == profile


def test_a_user_profile_overrides_what_it_extends_and_keeps_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: decam\ngain: 2.5\nkeywords:\n  band: [MYFILT]\n")
    mine, decam = load_profile(path), load_profile("decam")
    assert (mine.gain, mine.keywords.band) == (2.5, ["MYFILT"])
    assert mine.planes == decam.planes
    assert mine.keywords.time == decam.keywords.time


def test_psf_box_is_odd_and_grows_with_the_worst_seeing():
    decam = load_profile("decam")
    boxes = [decam.psf_box(scale) for scale in (2.0, 0.5, 0.263, 0.1, 0.01)]
    assert all(box % 2 == 1 for box in boxes)
    assert boxes == sorted(boxes)
    assert decam.psf_box() >= 7 * decam.seeing_arcsec.worst / decam.pixel_scale_arcsec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: mine\ngian: 2.0\n", "mine.yaml' is not valid: unknown key gian, did you mean gain"),
        ("name: mine\nkeywords: {gian: [G]}\n", "unknown key keywords.gian, did you mean gain"),
        ("name: mine\nbands: [{mtach: r}]\n", "unknown key bands.0.mtach, did you mean match"),
        ("name: mine\nseeing_arcsec: {worst: 1.0}\n", "seeing_arcsec: worst (1) is below typical (1.5)"),
        ("name: mine\ngain: -1\n", "gain"),
        ("name: mine\nextends: dceam\n", "did you mean 'decam'"),
        ("- a list\n", "mapping"),
        ("name: [\n", "not YAML"),
        ("name: mine\nbands:\n  - {match: '('}\n", "regular expression"),
        ("name: mine\nplanes:\n  quality: {kind: codes, flags: {1: BROKEN}}\n", "BROKEN"),
    ],
)
def test_what_is_wrong_in_a_profile_is_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_profile(path)


def test_a_mistake_in_a_file_that_is_extended_names_that_file(tmp_path):
    parent, child = tmp_path / "parent.yaml", tmp_path / "child.yaml"
    parent.write_text("name: parent\nplanes: {wieght_name: x}\n")
    child.write_text(f"name: child\nextends: {parent}\nplanes: {{weight_name: y}}\n")
    with pytest.raises(ConfigError, match=r"wieght_name in '.*parent\.yaml', did you mean weight_name"):
        load_profile(child)


def test_profiles_that_extend_each_other_are_refused(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"name: a\nextends: {b}\n")
    b.write_text(f"name: b\nextends: {a}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_profile(a)


def test_an_unknown_name_or_missing_file_says_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="decam, generic, lsst"):
        load_profile("subaru")
    with pytest.raises(ConfigError, match="no survey profile file"):
        load_profile(tmp_path / "none.yaml")
