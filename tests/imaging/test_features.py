"""Features tell sources from dipoles, hits and tracks, with room between them."""

import numpy as np
import pytest

from astrid_dist.flags import Flag
from astrid_dist.imaging.detection import find_peaks, measure_peaks
from astrid_dist.imaging.features import bad_distance, opposites, star_neighbours
from astrid_dist.imaging.translient import translient
from tests.imaging.detection_scenes import Scene, gaussian, rows_at

TRACK = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def kind_of_scene(kind, strength=40.0, seed=5):
    """Rows of the detections of 49 objects of one kind."""
    scene = Scene(seed=seed)
    places = scene.grid()
    for y, x in places:
        if kind == "source":
            scene.add(y, x, strength)
        elif kind == "fading":
            scene.add(y, x, strength, reference=True)
        elif kind == "dipole":
            scene.add(y, x, 4 * strength, reference=True)
            scene.add(y, x + 0.3, 4 * strength)
        elif kind == "hit":
            scene.new[round(y), round(x)] += 0.3 * strength * scene.unit
        elif kind == "track":
            for dy, dx in TRACK:
                scene.new[round(y) + dy, round(x) + dx] += 0.25 * strength * scene.unit
    columns = scene.detected()
    rows = rows_at(columns, places, 4)
    assert len(rows) >= 0.95 * len(places), kind
    return {name: values[np.unique(rows)] for name, values in columns.items()}


@pytest.fixture(scope="module")
def kinds():
    return {name: kind_of_scene(name) for name in ("source", "fading", "dipole", "hit", "track")}


def test_each_artifact_stands_apart_from_sources_of_either_sign(kinds):
    for sign, name in ((1, "source"), (-1, "fading")):
        real = kinds[name]
        assert np.all(np.sign(real["snr"]) == sign)
        assert np.all(np.sign(real["flux"]) == sign)
        assert np.all(np.sign(real["aperture_flux"]) == sign)
        limits = {
            "chi2": np.max(real["chi2"]),
            "fwhm_ratio": np.min(real["fwhm_ratio"]),
            "dipole": np.max(real["dipole_dchi2"] / real["snr"] ** 2),
            "translient": np.max(real["translient"]),
            "hit": np.max(real["dchi2_hit"]),
            "peak": np.max(real["peak_ratio"]),
            "minor": np.min(real["minor_ratio"]),
            "nneg": np.max(real["nneg"]),
        }
        dipole, hit, track = (kinds[one] for one in ("dipole", "hit", "track"))
        assert np.min(dipole["translient"]) > 2 * limits["translient"]
        assert np.min(dipole["dipole_dchi2"] / dipole["snr"] ** 2) > 20 * limits["dipole"]
        assert np.median(hit["translient"]) < 1 < np.min(dipole["translient"])
        assert np.min(hit["dchi2_hit"]) > 500 > 0 > limits["hit"]
        assert np.min(hit["peak_ratio"]) > 2 * limits["peak"]
        assert np.min(hit["chi2"]) > 3 * limits["chi2"]
        assert np.min(track["chi2"]) > 3 * limits["chi2"]
        assert np.min(track["dchi2_hit"]) > 500
        assert np.median(track["minor_ratio"]) < 0.5 * limits["minor"]
        assert np.min(hit["nneg"]) > limits["nneg"]


def test_point_sources_look_like_the_psf(kinds):
    for name in ("source", "fading"):
        real = kinds[name]
        for column in ("fwhm_ratio", "peak_ratio", "minor_ratio"):
            assert np.median(real[column]) == pytest.approx(1, abs=0.1), column
        assert abs(np.median(real["spread_model"])) < 0.002
        assert np.median(real["aperture_flux"] / real["flux"]) == pytest.approx(1, abs=0.02)
        assert np.median(real["elongation"]) < 1.25
        assert np.median(real["sumrat"]) > 0.95
        assert np.all(real["nbad"] == 0)
        assert np.all(np.isnan(real["streak_length"]))
        # Their own photons are noise to S_corr, none to the sky's.
        assert np.all(real["ssnrms"] >= 0.99 * np.abs(real["snr"]))


def test_a_dipole_says_how_far_its_lobes_are_and_that_they_are_equal(kinds):
    dipole = kinds["dipole"]
    assert np.all(dipole["dipole_separation"] < 2.5)
    assert np.median(dipole["dipole_fraction"]) == pytest.approx(0.5, abs=0.03)
    assert np.median(dipole["opposite_ratio"]) == pytest.approx(1, abs=0.2)
    assert np.all(dipole["opposite_distance"] < 5)
    # The lobes of apart sources are where they were put.
    scene = Scene(seed=8)
    places = scene.grid()
    for y, x in places:
        scene.add(y, x, 60)
        scene.add(y, x + 3, 30, reference=True)
    columns = scene.detected()
    rows = np.unique(rows_at(columns, places, 1.0))
    assert np.median(columns["dipole_separation"][rows]) == pytest.approx(3, abs=0.15)
    assert np.median(columns["dipole_fraction"][rows]) == pytest.approx(1 / 3, abs=0.04)


def test_translient_is_chi_squared_of_two_degrees_in_noise_and_follows_the_shift():
    rng = np.random.default_rng(1)
    psf = gaussian(3.0)
    s2, z2 = translient(rng.normal(0, 2.0, (300, 300)), psf, 2.0)
    assert np.mean(s2) == pytest.approx(1, abs=0.1)
    assert np.mean(z2) == pytest.approx(2, abs=0.15)
    moved = np.zeros((2, 61, 61))
    for index, (dy, dx) in enumerate([(0.1, 0.0), (0.06, 0.08)]):
        for sign, at in ((1, 0.5), (-1, -0.5)):
            moved[index, 15:46, 15:46] += sign * 1e4 * gaussian(3.0, at * dy, at * dx)
    s2, z2 = translient(moved, psf, np.ones(2))
    # A shift of one length counts the same in every direction: chi squared of the whole difference.
    np.testing.assert_allclose(z2[:, 30, 30], np.sum(moved**2, axis=(1, 2)), rtol=0.01)
    assert np.all(z2.max(axis=(1, 2)) > 2 * s2.max(axis=(1, 2)))
    flux = np.zeros((61, 61))
    flux[15:46, 15:46] = gaussian(3.0)
    s2, z2 = translient(flux, psf, 1.0)
    assert z2.max() == pytest.approx(np.exp(-1) * s2.max(), rel=0.03)


def test_distances_and_counts_are_geometry():
    mask = np.zeros((60, 60), np.uint16)
    mask[20, 24] = Flag.SATURATED
    mask[20, 21] = Flag.INTERPOLATED
    assert bad_distance(mask, np.array([20, 17, 50]), np.array([20, 24, 50])).tolist() == [4, 3, 16]
    found = opposites(np.array([5.0, 5, 40]), np.array([5.0, 8, 40]), np.array([10.0, -5, 7]))
    np.testing.assert_allclose(found["opposite_distance"], [3, 3, np.nan])
    np.testing.assert_allclose(found["opposite_ratio"], [0.5, 2, np.nan])
    stars = np.array([[10.0, 30], [10, 30], [500, 100]])
    near = star_neighbours(np.array([13.0]), np.array([14.0]), np.array([-50.0]), stars)
    assert (near["star_distance"][0], near["star_flux"][0], near["star_ratio"][0]) == (5, 500, 10)
    assert np.isnan(
        star_neighbours(np.zeros(2), np.zeros(2), np.ones(2), np.zeros((3, 0)))["star_ratio"]
    ).all()


def test_pixels_without_data_and_of_the_other_sign_are_counted():
    scene = Scene()
    scene.add(100, 100, 40)
    made = scene.subtraction()
    made.difference[102, 98:103] = np.nan
    mask = np.zeros(made.score.shape, np.uint16)
    found = measure_peaks(
        made.difference, made.score, made.sigma_flux, made.psf_d, mask, find_peaks(made.score, 20)
    )
    assert found["nbad"].tolist() == [5]
    around = made.difference[98:103, 98:103]
    assert found["nneg"].tolist() == [np.count_nonzero(around < 0)]
    assert found["sumrat"][0] == pytest.approx(np.nansum(around) / np.nansum(np.abs(around)), rel=1e-5)
