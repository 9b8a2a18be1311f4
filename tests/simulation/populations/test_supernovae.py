import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.bands import Band, band_of, reference_band
from astrid_dist.simulation.populations import POPULATIONS, events_per_year, supernovae
from astrid_dist.simulation.populations.cosmology import comoving_volume, distance_modulus
from astrid_dist.simulation.populations.sed_grid import extinction
from astrid_dist.simulation.populations.supernovae import (
    ALPHA,
    BETA,
    COLOUR,
    CORE_COLLAPSES,
    M_B,
    SIGMA_INT,
    X1_MODES,
    Thermonuclear,
)
from astrid_dist.surveys.profile import load_profile, profile_names
from astrid_dist.taxonomy import KINDS

UNSTRETCHED = 0.2183  # x1 for which the template's own pace comes out
CORE_COLLAPSE_KINDS = [each.kind for each in CORE_COLLAPSES]
SUPERNOVAE = ["SN Ia", *CORE_COLLAPSE_KINDS]
BANDS = [band_of(name, band) for name in profile_names() for band in load_profile(name).filters]


def type_ia(z, x1=UNSTRETCHED, c=0.0, absolute_mag=M_B):
    values = np.broadcast_arrays(*map(np.atleast_1d, (z, x1, c, absolute_mag)))
    return Thermonuclear(dict(zip(("z", "x1", "c", "absolute_mag"), values, strict=True)))


def bessell(name):
    profile = load_profile("generic").model_copy(update={"filters": {name: f"bessell-{name}"}})
    return band_of(profile, name)


def drawn(kind, n=4000, limit=20.0, seed=1):
    population = POPULATIONS[kind]
    return population.draw(np.random.default_rng(seed).random((n, population.n_draws)), limit)


# --- type Ia ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [0.02, 0.1, 0.35, 0.7, 1.1])
@pytest.mark.parametrize(
    ("survey", "name"), [("decam", "g"), ("ztf", "r"), ("lsst", "i"), ("ps1", "z"), ("meerlicht", "q")]
)
def test_a_type_ia_is_what_sncosmo_integrates_from_its_spectra(survey, name, z):
    import sncosmo
    from astropy.cosmology import Planck18

    band = band_of(survey, name)
    model = sncosmo.Model("hsiao-subsampled")
    model.set(z=z, t0=0)
    model.set_source_peakabsmag(M_B, "bessellb", "ab", cosmo=Planck18)
    phases = np.linspace(-12, 60, 30)
    days = phases * (1 + z)
    direct = model.bandmag(sncosmo.Bandpass(band.wavelength, band.throughput), "ab", days)
    assert type_ia(z).magnitudes(band, days)[0] == pytest.approx(direct, abs=0.02)


def test_a_type_ia_peaks_where_published_and_fades_by_its_stretch():
    x1 = np.array([-2.0, 0.0, 2.0])
    light = type_ia(0.001, x1).magnitudes(bessell("B"), np.array([0.0, 15.0 * 1.001]))
    assert light[:, 0] - distance_modulus(0.001) == pytest.approx(-19.3, abs=0.02)
    # Guy et al. 2007: decline in B within 15 days by x1
    expected = 1.09 - 0.161 * x1 + 0.013 * x1**2 - 0.0013 * x1**3
    assert light[:, 1] - light[:, 0] == pytest.approx(expected, abs=0.1)


def test_colour_reddens_by_itself_and_dims_blue_light_by_beta():
    plain, red = type_ia(0.001, c=[0.0, 0.2]).magnitudes(bessell("B"), np.array([0.0]))[:, 0]
    assert red - plain == pytest.approx(BETA * 0.2, rel=0.02)
    blue, green = (type_ia(0.001, c=[0.0, 0.2]).magnitudes(bessell(b), np.array([0.0])) for b in "BV")
    assert np.diff((blue - green)[:, 0])[0] == pytest.approx(0.2, rel=0.06)


def test_peaks_of_type_ia_redden_and_fade_with_redshift():
    z = np.array([0.02, 0.1, 0.3, 0.5, 0.8])
    days = np.arange(-15.0, 30.0)
    g, r, i = (type_ia(z).magnitudes(band_of("lsst", name), days).min(axis=1) for name in "gri")
    assert r[1] == pytest.approx(19.2, abs=0.2)  # as first surveys of the Hubble flow saw at z = 0.1
    assert (np.diff(r) > 0).all()
    assert (np.diff((g - r)[1:]) > 0.2).all()
    assert np.diff(r - i)[-1] > 0.5


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(-2, 2))
def test_time_runs_slower_by_one_plus_z(z, x1):
    near = type_ia(1e-4, x1).magnitudes(bessell("B"), np.array([-10.0, 0.0, 25.0]) * (1 + 1e-4))
    # the band of the rest frame, moved to the observer's: no K-correction in shape
    moved = Band("moved", f"{z}", bessell("B").wavelength * (1 + z), bessell("B").throughput)
    far = type_ia(z, x1).magnitudes(moved, np.array([-10.0, 0.0, 25.0]) * (1 + z))
    assert np.diff(far) == pytest.approx(np.diff(near), abs=0.015)


def test_a_supernova_fades_on_after_the_template_ends():
    light = type_ia(0.05).magnitudes(reference_band(), np.array([80.0, 120.0, 220.0]) * 1.05)[0]
    assert (np.diff(light) > 0.4).all()


def test_type_ia_drawn_are_those_that_a_survey_would_have_kept():
    limit, n = 19.0, 2_000_000
    rng = np.random.default_rng(5)
    top = comoving_volume(0.25)
    z = np.interp(rng.random(n) * top, comoving_volume(known := np.geomspace(1e-3, 0.25, 4000)), known)
    z = z[rng.random(n) * 1.25**0.7 < (1 + z) ** 0.7]  # (1 + z)^1.7 of the rate, and time dilation
    x1 = np.where(
        rng.random(len(z)) < X1_MODES[0][0],
        rng.normal(*X1_MODES[0][1:], len(z)),
        rng.normal(*X1_MODES[1][1:], len(z)),
    )
    side = np.abs(rng.normal(size=len(z)))
    blue = rng.random(len(z)) < COLOUR[1] / (COLOUR[1] + COLOUR[2])
    c = COLOUR[0] + np.where(blue, -COLOUR[1] * side, COLOUR[2] * side)
    absolute = M_B + ALPHA * x1 + rng.normal(0, SIGMA_INT, len(z))
    peak = supernovae._ia_peak(z, c) + absolute
    seen = (peak < limit) & (c < 0.5)
    ours = drawn("SN Ia", 40_000, limit, seed=2).parameters
    for name, value in {"z": z, "x1": x1, "c": c, "absolute_mag": absolute, "peak_mag": peak}.items():
        assert ks_2samp(ours[name], value[seen]).statistic < 0.02, name
    # and their number
    per_year = 2.35e4 * top * 1.25**0.7 * seen.sum() / n
    assert events_per_year(POPULATIONS["SN Ia"], limit) * 41252.96 == pytest.approx(per_year, rel=0.02)


# --- core collapse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", CORE_COLLAPSES, ids=lambda each: each.kind)
def test_luminosities_are_the_published_ones_once_freed_of_what_a_limit_prefers(each):
    near = drawn(each.kind, 60_000, limit=14.0).parameters
    # each event is seen in a volume that goes as 10^(0.6 M)
    dust = near["excess"] * extinction(reference_band(), 0.0, 2.0)
    weight = 10 ** (0.6 * (near["absolute_mag"] + dust))
    mean = np.average(near["absolute_mag"], weights=weight)
    sigma = np.sqrt(np.average((near["absolute_mag"] - mean) ** 2, weights=weight))
    assert mean == pytest.approx(each.peak[0], abs=0.08)
    assert sigma == pytest.approx(each.peak[1], abs=0.06)
    assert np.average(near["excess"], weights=weight) == pytest.approx(0.11, abs=0.015)


#: Rise from first light, days; dimming in r within 15 and within 50 days: Anderson et al. 2014 and
#: Gonzalez-Gaitan et al. 2015 (II), Taddia et al. 2013 (IIn), 2018 and Prentice et al. 2019 (stripped).
PACES = {
    "SN II": ((6, 25), (0.0, 0.3), (0.0, 1.0)),
    "SN IIn": ((15, 60), (0.0, 0.4), (0.1, 1.0)),
    "SN IIb": ((10, 27), (0.25, 0.85), (1.2, 2.6)),
    "SN Ib": ((10, 27), (0.25, 0.85), (1.2, 2.6)),
    "SN Ic": ((10, 27), (0.25, 0.85), (1.2, 2.6)),
    "SN Ic-BL": ((8, 20), (0.3, 0.9), (1.4, 2.7)),
}


@pytest.mark.parametrize("kind", CORE_COLLAPSE_KINDS)
def test_rise_and_decline_are_those_observed(kind):
    events = drawn(kind, 300, limit=15.0)
    slower = 1 + events.parameters["z"][:, None]
    days = np.arange(-80.0, 1.0, 0.5)
    light = events.magnitudes(reference_band(), days * slower)
    first = days[np.isfinite(light).argmax(axis=1)]
    rise, soon, late = PACES[kind]
    peak, after, later = events.magnitudes(reference_band(), np.array([0.0, 15.0, 50.0]) * slower).T
    for value, (low, high) in ((-first, rise), (after - peak, soon), (later - peak, late)):
        assert low < np.percentile(value, 2)
        assert np.percentile(value, 98) < high


def test_a_plateau_ends_within_its_weeks_and_leaves_cobalt():
    events = drawn("SN II", 500, limit=16.0)
    slower = 1 + events.parameters["z"][:, None]
    mid, end, tail, later = events.magnitudes(
        reference_band(), np.array([40.0, 140.0, 200.0, 300.0]) * slower
    ).T
    assert np.median(end - mid) > 1.5
    # 56Co: 0.98 mag in 100 days (Woosley et al. 1989)
    assert later - tail == pytest.approx(100 / 111.3 * 2.5 / np.log(10), abs=0.02)


@pytest.mark.parametrize("kind", CORE_COLLAPSE_KINDS)
def test_core_collapses_redden_as_they_cool(kind):
    events = drawn(kind, 200, limit=16.0)
    days = np.array([-5.0, 10.0, 40.0])
    g_r = events.magnitudes(band_of("ps1", "g"), days) - events.magnitudes(band_of("ps1", "r"), days)
    early, peak, late = np.median(np.where(np.isfinite(g_r), g_r, np.nan), axis=0)
    assert -0.4 < early < peak < late < 1.3


# --- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_none_peaks_fainter_than_the_limit_and_peaks_are_what_the_light_curve_says(kind):
    events = drawn(kind, 500, limit=21.0)
    z, peak = events.parameters["z"], events.parameters["peak_mag"]
    assert peak.max() <= 21.0
    days = np.arange(-25.0, 25.0, 0.25) * (1 + z[:, None])
    light = events.magnitudes(reference_band(), days).min(axis=1)
    assert (light <= peak + 0.01).all()
    assert np.median(peak - light) < 0.03
    # most are near the limit: volume grows faster than luminosity pays
    assert np.median(peak) > 20.2


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_nothing_shines_before_the_explosion_and_light_begins_without_a_jump(kind):
    events = drawn(kind, 100)
    days = np.arange(-150.0, 100.0, 0.25)
    light = events.magnitudes(band_of("ztf", "g"), days)
    assert np.isinf(light[:, :100]).all()
    assert np.isfinite(light[:, -300:]).all()
    begun = np.isfinite(light)
    assert (np.diff(begun.astype(int), axis=1) >= 0).all()
    flux = 10 ** (-0.4 * (light - light.min(axis=1, keepdims=True)))
    assert np.abs(np.diff(flux, axis=1)).max() < 0.12
    assert not np.isnan(light).any()


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_every_survey_sees_it_in_every_band(kind):
    events = drawn(kind, 20)
    for band in BANDS:
        light = events.magnitudes(band, np.array([0.0, 20.0]))
        assert np.isfinite(light).all(), band
        assert (np.abs(light[:, 0] - events.parameters["peak_mag"]) < 4).all(), band


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_an_event_does_not_depend_on_those_drawn_with_it(kind):
    population = POPULATIONS[kind]
    uniform = np.random.default_rng(3).random((50, population.n_draws))
    together, alone = population.draw(uniform, 20.0), population.draw(uniform[7:8], 20.0)
    for name, value in together.parameters.items():
        assert value[7] == alone.parameters[name][0], name
    days = np.array([-3.0, 0.0, 30.0])
    both = (events.magnitudes(reference_band(), days) for events in (together, alone))
    np.testing.assert_array_equal(next(both)[7], next(both)[0])


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_days_may_differ_from_event_to_event(kind):
    events = drawn(kind, 3)
    same = events.magnitudes(reference_band(), np.array([0.0, 12.0]))
    each = events.magnitudes(reference_band(), np.array([[0.0, 12.0], [12.0, 0.0], [0.0, 12.0]]))
    np.testing.assert_array_equal(each[1, ::-1], same[1])
    np.testing.assert_array_equal(each[2], same[2])


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_a_moment_that_is_not_known_has_no_magnitude(kind):
    light = drawn(kind, 2).magnitudes(reference_band(), np.array([0.0, np.nan]))
    assert np.isfinite(light[:, 0]).all()
    assert np.isnan(light[:, 1]).all()


@pytest.mark.parametrize("kind", SUPERNOVAE)
def test_numbers_on_the_sky_follow_the_volume(kind):
    bright, faint = (events_per_year(POPULATIONS[kind], limit) for limit in (13.0, 14.0))
    assert faint / bright == pytest.approx(10**0.6, rel=0.06)


def test_the_types_make_up_all_core_collapses():
    assert sum(each.share for each in CORE_COLLAPSES) == pytest.approx(1, abs=0.01)


def test_there_are_as_many_supernovae_as_bright_surveys_count():
    # Fremling et al. 2020, Perley et al. 2020: a few times more Ia than core collapses in a magnitude limit
    ia, *others = (events_per_year(POPULATIONS[kind], 18.5) for kind in SUPERNOVAE)
    assert 0.55 < ia / (ia + sum(others)) < 0.8


def test_a_limit_that_nothing_reaches_is_refused():
    with pytest.raises(ConfigError, match="peaks brighter than magnitude -3; take a fainter limit"):
        drawn("SN Ia", 1, limit=-3.0)


def test_populations_say_what_they_are():
    for kind in SUPERNOVAE:
        population = POPULATIONS[kind]
        assert population.kind == kind in KINDS
        assert sum(population.environments.values()) == pytest.approx(1)
        assert population.description.endswith(".")
        assert population.span_days[0] < 0 < population.span_days[1]
