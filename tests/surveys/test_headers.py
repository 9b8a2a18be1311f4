"""Headers read through profiles: units, meanings, alternatives, and what is missing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_dist.errors import InputError
from astrid_dist.surveys.headers import missing_gain, read_facts
from astrid_dist.surveys.profile import load_profile

GENERIC = load_profile("generic")
PLAIN = {"MJD-OBS": 58000.0, "EXPTIME": 86.4, "GAIN": 2.0, "RDNOISE": 5.0, "FILTER": "r"}


def facts(profile=GENERIC, **header):
    return read_facts({k: v for k, v in {**PLAIN, **header}.items() if v is not None}, profile)


def test_start_of_exposure_becomes_its_middle_and_mid_exposure_stays():
    assert facts().mjd == pytest.approx(58000.0005, abs=1e-9)
    assert facts(**{"MJD-AVG": 58001.0}).mjd == 58001.0


@pytest.mark.parametrize(
    ("header", "mjd"),
    [
        ({"DATE-OBS": "2017-09-04T12:00:00"}, 58000.5),
        ({"DATE-OBS": "2017-09-04T12:00:00.000Z"}, 58000.5),
        ({"DATE-OBS": "2017-09-04", "UT": "12:00:00"}, 58000.5),
        ({"JD": 2458001.0}, 58000.5),
        ({"DATE-OBS": "2017-09-04T12:00:37", "TIMESYS": "TAI"}, 58000.5),
    ],
)
def test_dates_in_every_form_give_one_instant(header, mjd):
    found = facts(**{"MJD-OBS": None, "EXPTIME": 20.0, **header})
    assert found.mjd == pytest.approx(mjd + 10 / 86400, abs=1e-9)
    assert not found.notes


def test_a_date_without_time_of_day_is_noon_and_said_so():
    found = facts(**{"MJD-OBS": None, "DATE-OBS": "2017-09-04"})
    assert found.mjd == 58000.5
    assert "day only" in found.notes[0]


def test_a_time_keyword_beats_a_date_only_one():
    assert facts(**{"DATE-OBS": "2017-09-04"}).mjd == pytest.approx(58000.0005, abs=1e-9)


@pytest.mark.parametrize("header", [{"MJD-OBS": 99000.0}, {"MJD-OBS": -5.0}, {"MJD-OBS": "soon"}])
def test_a_time_in_the_future_or_before_photography_or_unreadable_is_refused(header):
    with pytest.raises(InputError, match="MJD-OBS"):
        facts(**header)


@pytest.mark.parametrize(("missing", "said"), [("EXPTIME", "exposure time"), ("MJD-OBS", "time")])
def test_a_missing_keyword_is_named_with_what_to_do(missing, said):
    with pytest.raises(InputError, match=f"no {said}.*{missing}.*extends"):
        facts(**{missing: None})


def test_what_to_extend_is_a_name_or_the_path_of_the_users_own_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n")
    with pytest.raises(InputError, match=f"extends: {path}"):
        facts(load_profile(path), EXPTIME=None)
    with pytest.raises(InputError, match="extends: decam"):
        facts(load_profile("decam"), EXPTIME=None)


def test_amplifiers_are_averaged_and_the_lower_saturation_counts():
    decam = load_profile("decam")
    header = {"GAINA": 3.0, "GAINB": 5.0, "RDNOISEA": 6.0, "RDNOISEB": 8.0, "SATURATA": 4e4, "SATURATB": 3e4}
    found = facts(decam, GAIN=None, RDNOISE=None, CCDNUM=33, BAND="z", **header)
    assert (found.gain, found.read_noise, found.saturation_electron) == (4.0, 7.0, 1.2e5)
    assert (found.ccd, found.band) == ("ccd33", "z")


def test_unusable_values_count_as_absent():
    assert facts(FWHM="NaN", MAGZERO=None).fwhm_px is None
    assert math.isnan(facts().zeropoint)
    for value in (0, -1.5):
        with pytest.raises(InputError, match=f"^EXPTIME={value} is no exposure time; correct it"):
            facts(EXPTIME=value)


def test_a_gain_that_nothing_says_is_unknown_until_it_is_measured():
    unknown = facts(GAIN=None, MAGZERO=25.0)
    assert math.isnan(unknown.gain)
    assert math.isnan(unknown.scale)
    assert math.isnan(unknown.zeropoint)
    header = {k: v for k, v in PLAIN.items() if k != "GAIN"} | {"MAGZERO": 25.0, "SATURATE": 6e4}
    for useless in ({}, {"GAIN": 0}, {"GAIN": "unknown"}):
        found = read_facts(header | useless, GENERIC, 1.7)
        assert (found.gain, found.scale, found.gain_estimated) == (1.7, 1.7, True)
        assert found.saturation_electron == pytest.approx(1.02e5)
        assert found.zeropoint == pytest.approx(25.0 + 2.5 * math.log10(1.7))
    said = read_facts(header | {"GAIN": 2.0}, GENERIC, 1.7)
    assert (said.gain, said.gain_estimated) == (2.0, False)
    electrons = read_facts(header | {"BUNIT": "electron"}, GENERIC, 1.7)
    assert (electrons.gain, electrons.gain_estimated) == (1.0, False)


def test_a_gain_that_cannot_be_measured_either_is_asked_for_by_keyword():
    error = missing_gain({"GAIN": 0}, GENERIC, "the sky was subtracted")
    assert str(error).startswith("GAIN=0 is no gain; correct it, or say `gain: <electron per DN>`")
    assert str(error).endswith("it could not be measured: the sky was subtracted")
    assert "no gain in the header: looked for GAIN, EGAIN," in str(missing_gain({}, GENERIC, "x"))


def test_bands_are_first_words_or_what_the_profile_matches():
    decam, ztf = load_profile("decam"), load_profile("ztf")
    assert facts(decam, FILTER="i DECam SDSS c0003 7835.0 1470.0").band == "i"
    assert facts(FILTER="Johnson/V x").band == "Johnson_V"
    assert facts(ztf, FILTER="ZTF_g", OBSMJD=58000.0, READNOI=8.0).band == "g"


def test_ztf_zero_point_is_that_of_one_dn_of_the_whole_image():
    ztf = load_profile("ztf")
    found = facts(ztf, OBSMJD=58000.0, EXPTIME=30.0, GAIN=6.2, READNOI=8.0, MAGZP=26.275, FILTER="ZTF_r")
    # 1 electron is 1/6.2 DN; no factor of the exposure time
    assert found.zeropoint == pytest.approx(26.275 + 2.5 * math.log10(6.2))


@given(
    gain=st.floats(0.1, 10),
    exptime=st.floats(1, 1000),
    magnitude=st.floats(10, 25),
    unit=st.sampled_from(["adu", "ADU/s", "electron", "electrons/s", "DN"]),
)
def test_electrons_and_zero_point_agree_whatever_the_pixels_are_in(gain, exptime, magnitude, unit):
    """A star of a magnitude has the same electrons by its pixels and by the zero point."""
    image_zeropoint = 25.0
    pixels = 10 ** (-0.4 * (magnitude - image_zeropoint))
    found = facts(GAIN=gain, EXPTIME=exptime, BUNIT=unit, MAGZERO=image_zeropoint)
    electrons = pixels * found.scale
    assert found.zeropoint - 2.5 * math.log10(electrons) == pytest.approx(magnitude, abs=1e-9)
    per_second = unit.lower().endswith("/s")
    assert found.scale == pytest.approx(
        (1 if unit.startswith("electron") else gain) * (exptime if per_second else 1)
    )


@pytest.mark.parametrize("per", ["DN/s", "electron", "electron/s"])
def test_zero_points_per_other_units_are_those_of_one_electron(per):
    profile = GENERIC.model_copy(
        update={
            "keywords": GENERIC.keywords.model_copy(
                update={"zeropoint": [type(GENERIC.keywords.zeropoint[0])(keyword="ZP", per=per)]}
            )
        }
    )
    found = facts(profile, ZP=25.0, EXPTIME=100.0)
    electrons = {"DN/s": 2.0 * 100.0, "electron": 1.0, "electron/s": 100.0}[per]  # of one such unit
    assert found.zeropoint - 2.5 * math.log10(electrons) == pytest.approx(25.0)
