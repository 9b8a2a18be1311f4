import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import ks_2samp

from astrid_dist.simulation.bands import ab_magnitudes, band_of, reference_band
from astrid_dist.simulation.populations import POPULATIONS, events_per_year, thermal
from astrid_dist.simulation.populations.blackbody import Spectrum, emission
from astrid_dist.simulation.populations.cosmology import comoving_volume, distance_modulus
from astrid_dist.simulation.populations.thermal import TDE_BREAK, g_magnitude, kilonova_track
from astrid_dist.surveys.profile import load_profile, profile_names
from astrid_dist.taxonomy import KINDS

THERMAL = ["SLSN", "TDE", "kilonova"]
BANDS = [band_of(name, band) for name in profile_names() for band in load_profile(name).filters]
WAVELENGTH = np.arange(2500.0, 12000.0, 5.0)


def drawn(kind, n=2000, limit=20.0, seed=1):
    population = POPULATIONS[kind]
    return population.draw(np.random.default_rng(seed).random((n, population.n_draws)), limit)


# --- K-corrections of blackbodies ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.floats(1500, 50000), st.floats(0, 3), st.sampled_from(["u", "g", "i", "y"]), st.sampled_from([0, 3500])
)
def test_a_blackbody_far_away_is_its_spectrum_redshifted_and_integrated(kelvin, z, name, cutoff):
    band = band_of("lsst", name)
    spectrum = Spectrum(rest="r", cutoff=cutoff)
    ours = spectrum.colour(band, np.array([z]), np.array([[kelvin]]))[0, 0]
    # f_lambda = c f_nu / lambda^2; of the rest frame: (1 + z) times f_nu of the emitted frequency
    seen = emission(WAVELENGTH / (1 + z), np.array(kelvin), cutoff) * (1 + z) / WAVELENGTH**2
    near = emission(WAVELENGTH, np.array(kelvin), cutoff) / WAVELENGTH**2
    direct = ab_magnitudes(band, WAVELENGTH, seen) - ab_magnitudes(reference_band(), WAVELENGTH, near)
    # hundredths of a magnitude; deep in the Wien tail, where a colour is tens of magnitudes, in proportion
    assert ours == pytest.approx(direct, abs=0.02, rel=5e-4)


def test_k_corrections_dim_what_is_cool_and_brighten_what_is_hot():
    far = np.array([0.3, 0.3])
    cool, hot = Spectrum(rest="r").colour(reference_band(), far, np.array([[5000.0], [40000.0]]))[:, 0]
    assert cool > 0.2
    # the Rayleigh-Jeans limit: f_nu as nu^2, and one factor of (1 + z) for the bandwidth
    assert -2.5 * np.log10(1.3**3) - 0.02 < hot < -0.5


def test_metal_lines_take_ultraviolet_away_but_leave_red_light():
    z, kelvin = np.array([0.6]), np.array([[15000.0]])
    clear, veiled = Spectrum(rest="r"), Spectrum(rest="r", cutoff=3500.0)
    blue, red = (
        veiled.colour(band_of("lsst", name), z, kelvin) - clear.colour(band_of("lsst", name), z, kelvin)
        for name in ("u", "i")
    )
    assert 0.3 < blue < 1.0
    assert red == pytest.approx(0, abs=0.02)


# --- tidal disruptions -----------------------------------------------------------------------------------


def test_a_disruption_keeps_its_colour_and_is_blue():
    events = drawn("TDE", 500)
    days = np.array([-10.0, 0.0, 30.0, 100.0])
    g_r = events.magnitudes(band_of("ztf", "g"), days) - events.magnitudes(band_of("ztf", "r"), days)
    assert np.ptp(g_r[np.isfinite(g_r).all(axis=1)], axis=1).max() < 1e-9
    assert -0.5 < np.nanmedian(g_r) < -0.1


def test_disruptions_rise_as_a_gaussian_and_fall_as_an_exponential_or_a_power_law():
    events = drawn("TDE", 3000)
    slower = 1 + events.parameters["z"][:, None]
    rise, fall, power = (events.parameters[name] for name in ("rise_d", "fall_d", "power_law"))
    before = (
        events.magnitudes(reference_band(), -rise[:, None] * slower)[:, 0] - events.parameters["peak_mag"]
    )
    assert before == pytest.approx(0.5 * 2.5 / np.log(10), abs=1e-6)  # one sigma
    after = events.magnitudes(reference_band(), 60 * slower)[:, 0] - events.parameters["peak_mag"]
    expected = np.where(power == 1, 2.5 * 5 / 3 * np.log10(1 + 60 / fall), 2.5 / np.log(10) * 60 / fall)
    assert after == pytest.approx(expected, abs=1e-6)
    assert 0.45 < power.mean() < 0.55
    assert (rise.min() > 5) & (rise.max() < 20)


def test_disruptions_are_as_luminous_as_their_luminosity_function_and_always_in_a_nucleus():
    assert POPULATIONS["TDE"].environments == {"nucleus": 1.0}
    near = drawn("TDE", 200_000, limit=14.0).parameters
    weight = 10 ** (0.6 * near["absolute_mag"])  # the volume that each is seen in

    def density(dex):
        light = 10**dex / TDE_BREAK
        return 1 / (light**0.3 + light**2.6)

    whole = quad(density, 42.5, 44.7)[0]
    for dex in (42.8, 43.1, 43.5):
        fainter = near["absolute_mag"] > g_magnitude(np.array(10**dex))
        share = weight[fainter].sum() / weight.sum()
        assert share == pytest.approx(quad(density, 42.5, dex)[0] / whole, abs=0.03), dex


def test_a_luminosity_of_a_g_band_source_is_what_the_definition_gives():
    # M_g = -20 is 3631 Jy 10^(8) at 10 pc: nu L_nu = 2.78e43 erg/s at 4702 Angstrom
    assert g_magnitude(np.array(2.775e43)) == pytest.approx(-20.0, abs=0.02)


# --- superluminous supernovae ----------------------------------------------------------------------------


def test_superluminous_ones_are_that_bright_and_slow_and_turn_red():
    events = drawn("SLSN", 20_000, limit=17.0)
    weight = 10 ** (0.6 * events.parameters["absolute_mag"])
    mean = np.average(events.parameters["absolute_mag"], weights=weight)
    assert mean == pytest.approx(-21.3, abs=0.1)
    known = events.parameters["absolute_mag"]
    assert np.average((known > -22.5) & (known < -20.1), weights=weight) > 0.9
    few = drawn("SLSN", 300, limit=17.0)
    days = np.array([0.0, 60.0]) * (1 + few.parameters["z"][:, None])
    g, r = (few.magnitudes(band_of("ztf", name), days) for name in "gr")
    assert 0.3 < np.median(g[:, 1] - g[:, 0]) < 3.5
    assert np.median((g - r)[:, 0]) < 0.2 < np.median((g - r)[:, 1])
    # rest-frame rises: Nicholl et al. 2017
    assert np.percentile(few.parameters["rise_d"], 5) > 15
    assert np.percentile(few.parameters["rise_d"], 95) < 80


@pytest.mark.parametrize("ratio", [0.05, 0.5, 3.0])
def test_the_magnetar_grid_is_arnetts_integral(ratio):
    grid, peaks = thermal._magnetar_grid()
    row = np.interp(np.log10(ratio), thermal._RATIO, np.arange(len(thermal._RATIO)))

    def light(x):
        heat = quad(lambda y: 2 * y * np.exp(y * y - x * x) / (1 + y / ratio) ** 2, 0, x)
        return heat[0]

    top = light(np.interp(row, np.arange(len(peaks)), peaks))
    for x in (0.3, 1.5, 5.0):
        ours = thermal.bilinear(grid, np.array([row]), np.array([[x / thermal._TIME[1]]]))[0, 0]
        assert ours == pytest.approx(light(x) / top, rel=0.02), x


def test_late_magnetars_fade_as_time_squared():
    grid, _ = thermal._magnetar_grid()
    early, late = (np.searchsorted(thermal._TIME, x) for x in (6.0, 12.0))
    assert grid[0, late] / grid[0, early] == pytest.approx(0.25, rel=0.1)


# --- kilonovae -------------------------------------------------------------------------------------------


def test_the_track_is_gw170817():
    days, light = kilonova_track()
    peak = light.argmin()
    # Villar et al. 2017 (compilation): r near 17.3 at half a day, 40 Mpc; 20.2 +- 0.4 after four days
    assert light[peak] + 33.0 == pytest.approx(17.2, abs=0.3)
    assert 0.3 < days[peak] < 1.0
    assert np.interp(4.0, days, light) + 33.0 == pytest.approx(20.6, abs=0.5)


def test_a_kilonova_is_gone_in_a_week_and_turns_red():
    events = drawn("kilonova", 500, limit=19.0)
    days = np.array([0.0, 1.0, 3.0, 7.0]) * events.parameters["pace"][:, None]
    days *= 1 + events.parameters["z"][:, None]
    r = events.magnitudes(reference_band(), days)
    g_r = events.magnitudes(reference_band("g"), days) - r
    fading = np.median(r - r[:, :1], axis=0)
    assert 0.2 < fading[1] < 1.5
    assert 2 < fading[2] < 4.5
    assert fading[3] > 5
    assert (np.diff(np.median(g_r, axis=0)) > 0.3).all()


# --- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", THERMAL)
def test_peaks_lie_on_day_zero_and_within_the_limit(kind):
    events = drawn(kind, 1000, limit=21.0)
    light = events.magnitudes(reference_band(), np.array([0.0]))[:, 0]
    assert light == pytest.approx(events.parameters["peak_mag"], abs=0.01)
    assert events.parameters["peak_mag"].max() <= 21.0
    # in the rest-frame band of the luminosity, where colour does not matter
    rest = "g" if kind in ("SLSN", "TDE") else "r"
    near = drawn(kind, 200, limit=12.0)
    around = np.linspace(-0.5, 0.5, 101) * (100 if kind == "SLSN" else 10)
    curve = near.magnitudes(reference_band(rest), around)
    assert (curve.min(axis=1) > curve[:, 50] - 0.06).all()


@pytest.mark.parametrize("kind", THERMAL)
def test_nothing_shines_before_it_begins(kind):
    events = drawn(kind, 200)
    days = np.arange(-400.0, 100.0, 1.0)
    light = events.magnitudes(band_of("ztf", "g"), days)
    begun = np.isfinite(light)
    assert not begun[:, :50].any()
    assert begun[:, -100:].all()
    assert (np.diff(begun.astype(int), axis=1) >= 0).all()
    assert not np.isnan(light).any()


@pytest.mark.parametrize("kind", THERMAL)
def test_every_survey_sees_it_in_every_band(kind):
    events = drawn(kind, 20)
    for band in BANDS:
        peak = events.magnitudes(band, np.array([0.0]))[:, 0]
        assert (np.abs(peak - events.parameters["peak_mag"]) < 4).all(), band


@pytest.mark.parametrize("kind", THERMAL)
def test_an_event_does_not_depend_on_those_drawn_with_it(kind):
    population = POPULATIONS[kind]
    uniform = np.random.default_rng(3).random((50, population.n_draws))
    together, alone = population.draw(uniform, 20.0), population.draw(uniform[7:8], 20.0)
    for name, value in together.parameters.items():
        assert value[7] == alone.parameters[name][0], name


@pytest.mark.parametrize("kind", THERMAL)
def test_populations_say_what_they_are(kind):
    population = POPULATIONS[kind]
    assert population.kind == kind in KINDS
    assert sum(population.environments.values()) == pytest.approx(1)
    assert population.description.endswith(".")
    assert 0 < events_per_year(population, 18.5) < events_per_year(population, 21.0)


def test_kilonovae_drawn_are_those_that_a_survey_would_have_kept():
    rng = np.random.default_rng(4)
    n, top = 2_000_000, comoving_volume(0.12)
    z = np.interp(rng.random(n) * top, comoving_volume(known := np.geomspace(1e-4, 0.12, 4000)), known)
    z = z[rng.random(n) < 1 / (1 + z)]
    absolute = rng.normal(-16.0, 1.0, len(z))
    warm = np.full((len(z), 1), thermal.KILONOVA_PEAK_KELVIN)
    peak = absolute + distance_modulus(z) + Spectrum(rest="r").colour(reference_band(), z, warm)[:, 0]
    seen = peak < 19.0
    ours = drawn("kilonova", 20_000, limit=19.0).parameters
    for name, value in {"z": z, "absolute_mag": absolute, "peak_mag": peak}.items():
        assert ks_2samp(ours[name], value[seen]).statistic < 0.025, name
    per_year = 1000.0 * top * seen.sum() / n
    assert events_per_year(POPULATIONS["kilonova"], 19.0) * 41252.96 == pytest.approx(per_year, rel=0.05)
