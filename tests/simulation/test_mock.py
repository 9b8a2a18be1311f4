from dataclasses import replace

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.wcs import WCS

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.mock import build_scene, make_exposure, make_header, mean_image
from astrid_dist.simulation.randomness import generator
from astrid_dist.simulation.sky import draw_galaxies, draw_stars
from astrid_dist.simulation.survey import DEMO, SMALL, MockSurvey, conditions
from astrid_dist.simulation.truth import difference_flux, sky_position, truth_rows
from astrid_dist.surveys.profile import load_profile


def wcs_of(survey, band, epoch):
    cards = make_header(survey, 0, band, epoch)
    return WCS(Header([(keyword, value) for keyword, (value, _) in cards.items()]))


@pytest.fixture(scope="module")
def scene():
    return build_scene(SMALL, 0)


def test_an_epoch_is_the_same_whatever_else_is_made(scene):
    alone = make_exposure(SMALL, build_scene(SMALL, 0), 0, "r", 4)
    for epoch in (5, 0):
        make_exposure(SMALL, scene, 0, "r", epoch)
    longer = replace(SMALL, epochs=40, fields=3)
    for survey in (SMALL, longer):
        again = make_exposure(survey, build_scene(survey, 0), 0, "r", 4)
        np.testing.assert_array_equal(again.counts, alone.counts)
        assert again.header == alone.header


def test_epochs_fields_bands_and_seeds_differ(scene):
    base = make_exposure(SMALL, scene, 0, "r", 1).counts
    other_seed = replace(SMALL, seed=2)
    both = replace(SMALL, bands=("r", "g"))
    for other in (
        make_exposure(SMALL, scene, 0, "r", 2),
        make_exposure(SMALL, build_scene(SMALL, 1), 1, "r", 1),
        make_exposure(both, build_scene(both, 0), 0, "g", 1),
        make_exposure(other_seed, build_scene(other_seed, 0), 0, "r", 1),
    ):
        assert (other.counts != base).mean() > 0.9


def test_star_counts_are_as_dense_and_as_steep_as_asked():
    stars = draw_stars(generator(5, "stars"), 3000, 0, 450.0, slope=0.3)
    bright, faint = (stars.mag_r < 21.5).sum(), (stars.mag_r < 23.5).sum()
    assert bright == pytest.approx(450 * 9, rel=0.05)
    assert np.log10(faint / bright) / 2 == pytest.approx(0.3, abs=0.01)
    assert (np.diff(stars.mag_r) >= 0).all()
    galaxies = draw_galaxies(generator(5, "galaxies"), 3000, 0, 180.0, 0.7)
    assert (galaxies.mag_r < 21.5).sum() == pytest.approx(180 * 9, rel=0.1)


def test_three_to_six_hundred_stars_per_megapixel_stand_above_five_sigma():
    state = conditions(DEMO, 0, "r", 0)
    stars = build_scene(DEMO, 0).stars
    inside = (np.minimum(stars.x, stars.y) > 0) & (np.maximum(stars.x, stars.y) < DEMO.size_px)
    flux = 10 ** (-0.4 * (stars.mag_r[inside] - state.zeropoint))
    area = 2.266 * state.psf.fwhm_px**2
    snr = flux / np.sqrt(flux + area * (state.sky + DEMO.read_noise**2))
    assert 300 < (snr > 5).sum() / (1e-6 * DEMO.size_px**2) < 600


@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_the_header_wcs_puts_the_truth_where_the_frame_shows_it(scene, epoch):
    survey = replace(SMALL, wcs_error_px=0.0)
    x, y = np.array([10.0, 200.0, 128.0]), np.array([240.0, 30.0, 128.0])
    ra, dec = sky_position(survey, 0, x, y)
    u, v = wcs_of(survey, "r", epoch).all_world2pix(ra, dec, 0)
    frame = conditions(survey, 0, "r", epoch).to_frame(x, y)
    np.testing.assert_allclose([u, v], frame, atol=1e-6)
    if epoch == 0:
        np.testing.assert_allclose(frame, [x, y])
    else:
        assert np.abs(np.subtract(frame, [x, y])).max() > 0.5


def test_the_flux_of_a_truth_row_is_measured_back_from_its_pixels(scene):
    """Optimal photometry (Naylor 1998) of the exposure minus the sky without changing sources."""
    bare = replace(scene, sources=())
    quiet = replace(SMALL, asteroids=0)
    pulls = []
    for epoch in range(3, 6):
        rows = truth_rows(SMALL, scene, 0, "r", epoch)
        state = conditions(SMALL, 0, "r", epoch)
        image = make_exposure(SMALL, scene, 0, "r", epoch).counts * SMALL.gain
        background = mean_image(quiet, bare, 0, "r", epoch)
        y, x = np.indices(image.shape)
        for k in np.flatnonzero(rows["injectable"] & (rows["class"] != "moving")):
            u, v = state.to_frame(rows["x"][k], rows["y"][k])
            profile = state.psf(x - u, y - v)
            near = (np.hypot(x - u, y - v) < 10) & (np.abs(image - background) < 2e4)
            noise = background + rows["flux"][k] * profile + SMALL.read_noise**2
            weight = profile[near] / noise[near]
            flux = (weight * (image - background)[near]).sum() / (weight * profile[near]).sum()
            sigma = (weight * profile[near]).sum() ** -0.5
            pulls.append((flux - rows["flux"][k]) / sigma)
            if rows["snr"][k] > 3:
                assert rows["flux"][k] / sigma == pytest.approx(rows["snr"][k], rel=0.2)
    assert len(pulls) > 15
    assert np.abs(np.median(pulls)) < 0.8
    assert np.percentile(np.abs(pulls), 68) < 1.6


def test_templates_hold_no_supernova_and_the_search_shows_some(scene):
    template = truth_rows(SMALL, scene, 0, "r", 0)
    supernova = template["class"] == "transient"
    assert supernova.sum() == SMALL.supernovae + SMALL.hostless
    assert (template["flux"][supernova] == 0).all()
    assert np.isnan(template["mag"][supernova]).all()
    last = truth_rows(SMALL, scene, 0, "r", 5)
    assert (last["snr"][last["class"] == "transient"] > 5).sum() >= 2
    hosted = template["host"] != ""
    assert hosted.sum() == SMALL.supernovae
    assert (template["flux"][template["class"] == "variable"] > 0).all()


def test_asteroids_move_between_the_visits_of_a_night_and_are_gone_the_next():
    nights = {}
    scene = build_scene(DEMO, 0)
    for epoch in range(DEMO.template_epochs, DEMO.epochs):
        rows = truth_rows(DEMO, scene, 0, "r", epoch)
        for k in np.flatnonzero(rows["class"] == "moving"):
            nights.setdefault(rows["id"][k], []).append((DEMO.night(epoch), rows["x"][k], rows["y"][k]))
    seen_twice = [places for places in nights.values() if len(places) == 2]
    assert seen_twice
    for (night, x, y), (same_night, x2, y2) in seen_twice:
        assert night == same_night
        assert 5 < np.hypot(x2 - x, y2 - y) < DEMO.size_px


def test_a_difference_expects_the_mean_template_to_be_taken_away():
    science = np.array([20.0, 21.0, np.nan])
    templates = np.array([[np.nan, 20.0, 22.0], [np.nan, 21.0, 22.0]])
    flux = difference_flux(science, templates, [0.75, 0.25], 23.9)
    ujy = 10 ** (-0.4 * (np.array([20.0, 21.0, 22.0]) - 23.9))
    np.testing.assert_allclose(flux, [ujy[0], 0.75 * (ujy[1] - ujy[0]), -ujy[2]])


def test_artifacts_are_in_the_truth_where_the_frame_shows_them_and_never_injectable(scene):
    survey = replace(SMALL, hot_pixels=150.0, cosmic_rays=150.0)
    rows = truth_rows(survey, scene, 0, "r", 4)
    counts = make_exposure(survey, scene, 0, "r", 4).counts
    hot = np.flatnonzero((rows["class"] == "bad_pixel") & (rows["flux"] > 1500))
    assert hot.size >= 2
    u, v = conditions(survey, 0, "r", 4).to_frame(rows["x"][hot], rows["y"][hot])
    above = (
        counts[np.rint(v).astype(int), np.rint(u).astype(int)] * survey.gain - np.median(counts) * survey.gain
    )
    assert (above > 0.8 * rows["flux"][hot]).all()
    artifacts = np.isin(rows["class"], ["bad_pixel", "cosmic_ray"])
    assert not rows["injectable"][artifacts].any()
    assert len(set(rows["id"])) == len(rows["id"])


@pytest.mark.parametrize("name", ["ztf", "lsst", "ps1", "decam", "meerlicht"])
def test_a_mock_of_a_survey_reaches_its_depth_in_every_band(name):
    profile = load_profile(name)
    survey = MockSurvey.of_profile(profile, bands=tuple(profile.depth), epochs=40)
    for band in profile.depth:
        found = []
        for epoch in range(40):
            state = conditions(survey, 0, band, epoch)
            noise = (state.sky + survey.read_noise**2) / np.square(state.psf.stamp(40)).sum()
            found.append(state.zeropoint - 2.5 * np.log10(12.5 + np.sqrt(12.5**2 + 25 * noise)))
            found[-1] += 2.5 * np.log10(state.psf.fwhm_px * survey.pixel_scale / survey.seeing_arcsec)
        assert np.median(found) == pytest.approx(profile.depth[band], abs=0.12), band


def test_impossible_surveys_are_refused():
    with pytest.raises(ConfigError, match="template_epochs=9"):
        replace(SMALL, template_epochs=9)
    with pytest.raises(ConfigError, match="bands"):
        replace(SMALL, bands=("r", "q"))
