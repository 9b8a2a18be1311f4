"""Peaks, their measurement, and seams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.signal import fftconvolve

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging.detection import find_peaks, measure_peaks, merge
from astrid_dist.imaging.separation import separate_peaks
from astrid_dist.imaging.zogy import plan_subtraction, subtract
from tests.imaging.detection_scenes import Scene, rows_at

BOX = 31


def gaussian(fwhm, dy=0.0, dx=0.0, box=BOX):
    axis = np.arange(box) - box // 2
    sigma = fwhm / 2.3548
    stamp = np.exp(-0.5 * ((axis[:, None] - dy) ** 2 + (axis - dx) ** 2) / sigma**2)
    return stamp / (2 * np.pi * sigma**2)


def grid_of_sources(snr, fwhm=(2.8, 2.4), sigma=(20.0, 10.0), seed=1, width=None, sign=1):
    """A subtraction with sources at every sub-pixel phase, their true places and flux."""
    rng = np.random.default_rng(seed)
    step, count = 32, 16
    shape = (step * (count + 1), step * (count + 1) + 5)
    plan = plan_subtraction(gaussian(fwhm[0]), gaussian(fwhm[1]), *sigma, 1.0, shape=shape)
    flux = sign * snr / (plan.F_D * np.sqrt(np.sum(plan.psf_d.astype(float) ** 2)))
    new, ref = (rng.normal(0, s, shape) for s in sigma)
    rows, columns = (
        part.ravel() for part in np.mgrid[step : step * (count + 1) : step, step : step * (count + 1) : step]
    )
    phase = rng.uniform(-0.5, 0.5, (2, len(rows)))
    for y, x, dy, dx in zip(rows, columns, *phase, strict=True):
        half = BOX // 2
        new[y - half : y + half + 1, x - half : x + half + 1] += flux * gaussian(width or fwhm[0], dy, dx)
    flat = np.full(shape, sigma[0] ** 2, np.float32), np.full(shape, sigma[1] ** 2, np.float32)
    return (
        subtract(new.astype(np.float32), ref.astype(np.float32), *flat, plan),
        rows + phase[0],
        columns + phase[1],
        flux,
    )


def measured(result, mask=None, threshold=5.0):
    mask = np.zeros(result.score.shape, np.uint16) if mask is None else mask
    peaks = find_peaks(result.score, threshold)
    return measure_peaks(result.difference, result.score, result.sigma_flux, result.psf_d, mask, peaks)


def matched(columns, rows, places):
    distance = np.hypot(columns["y"][:, None] - rows, columns["x"][:, None] - places)
    nearest = distance.argmin(axis=0)
    return nearest[distance.min(axis=0) < 1.5]


def test_positions_and_fluxes_are_right_at_every_subpixel_phase():
    result, y, x, flux = grid_of_sources(50)
    found = measured(result)
    chosen = matched(found, y, x)
    assert len(chosen) == len(y)
    error = found["x"][chosen] - x, found["y"][chosen] - y
    for off, quoted, truth in zip(error, ("x_err", "y_err"), (x, y), strict=True):
        assert np.std(off) <= 0.05
        assert abs(np.mean(off)) < 4 * np.std(off) / np.sqrt(len(off))
        phase = truth - np.rint(truth)
        assert abs(np.polyfit(phase, off, 1)[0]) < 4 * np.std(off) / np.sqrt(len(off) / 12)
        assert np.std(off / found[quoted][chosen]) == pytest.approx(1, abs=0.15)
    pull = (found["flux"][chosen] - flux) / found["flux_err"][chosen]
    assert np.mean(found["flux"][chosen]) / flux == pytest.approx(1, abs=0.01)
    assert np.std(pull) == pytest.approx(1, abs=0.15)
    assert np.median(found["chi2"][chosen]) == pytest.approx(1, abs=0.1)
    peak = found["snr"] * result.sigma_flux[np.rint(found["y"]).astype(int), np.rint(found["x"]).astype(int)]
    # The score at a pixel is that of a source centred on it, so it falls short by the sub-pixel phase.
    assert np.all(np.abs(peak[chosen] / found["flux"][chosen] - 0.95) < 0.1)


def test_faint_and_fading_sources_are_found_and_unbiased():
    for sign in (1, -1):
        result, y, x, flux = grid_of_sources(10, sign=sign, seed=3)
        found = measured(result)
        chosen = matched(found, y, x)
        assert len(chosen) >= 0.99 * len(y)
        assert np.mean(found["flux"][chosen]) / flux == pytest.approx(1, abs=0.03)
        assert np.all(np.sign(found["snr"][chosen]) == sign)


def test_width_and_chi2_tell_a_sharp_hit_and_a_smear_from_a_star():
    widths, misfits = [], []
    for width in (1.2, None, 4.5):
        result, y, x, _ = grid_of_sources(40, width=width, seed=5)
        found = measured(result)
        chosen = matched(found, y, x)
        widths.append(np.median(found["fwhm"][chosen]))
        misfits.append(np.median(found["chi2"][chosen]))
    assert widths[0] < 0.8 * widths[1] < widths[1] < 0.8 * widths[2]
    assert misfits[1] < 1.2 < min(misfits[0], misfits[2])


def test_noise_alone_gives_no_peak_at_six_sigma_and_an_empty_table():
    result, *_ = grid_of_sources(0.0)
    found = measured(result, threshold=6.0)
    assert {len(values) for values in found.values()} == {0}
    assert found["x"].dtype == np.float64
    assert found["mask"].dtype == np.uint16


@pytest.mark.parametrize("strength", [7, 30, 200, 500])
@pytest.mark.parametrize(("fwhm", "sigma"), [((2.8, 2.4), (20.0, 10.0)), ((2.4, 3.2), (10.0, 20.0))])
def test_chi2_is_one_however_bright_the_source(strength, fwhm, sigma):
    scene = Scene(shape=(400, 400), fwhm=fwhm, sigma=sigma, seed=4)
    places = scene.grid()
    for y, x in places:
        scene.add(y, x, strength)
    found = scene.detected()
    rows = rows_at(found, places, 1.5)
    # A reference broader than the science PSF spreads photon noise over more pixels than a source.
    least = 0.9 if fwhm[0] > fwhm[1] or strength < 100 else 0.75
    assert least < np.median(found["chi2"][rows]) < 1.1
    assert np.percentile(found["chi2"][rows], 95) < 1.35


@pytest.mark.parametrize(
    ("separation", "strengths", "least"),
    [(1.5, (30, 30), 0.97), (3.0, (12, 12), 0.97), (1.8, (120, 20), 0.97)],
)
def test_blends_are_two_sources_with_their_own_fluxes(separation, strengths, least):
    scene = Scene(shape=(400, 400), seed=6)
    places = scene.grid(40)
    apart = separation * scene.fwhm[0]
    for y, x in places:
        scene.add(y, x, strengths[0])
        scene.add(y, x + apart, strengths[1])
    found = scene.detected()
    assert len(found["x"]) <= 2 * len(places)
    for shift, strength in zip((0, apart), strengths, strict=True):
        rows = rows_at(found, places + np.array([0, shift]), 1.0)
        assert len(rows) >= least * len(places)
        assert np.median(found["flux"][rows]) / scene.unit == pytest.approx(strength, rel=0.06)
        assert np.median(found["chi2"][rows]) == pytest.approx(1, abs=0.15)


def test_a_faint_source_beside_a_very_bright_one_is_found_and_nothing_else():
    scene = Scene(shape=(300, 300), seed=7)
    scene.add(100.3, 100.2, 3000)
    scene.add(100.0, 112.0, 25)
    scene.add(220.0, 200.0, 25, reference=True)
    assert len(scene.detected()["x"]) == 3


def test_side_lobes_of_the_score_are_no_sources():
    scene = Scene(shape=(128, 128), seed=7)
    made = scene.subtraction()
    # A PSF with a negative ring, as a reference broader than the science frame can leave.
    offsets = np.arange(BOX) - BOX // 2
    ring = np.exp(-0.5 * ((np.hypot(offsets[:, None], offsets) - 6) / 1.2) ** 2)
    psf = (made.psf_d - 0.02 * ring).astype(np.float32)
    pattern = fftconvolve(psf, psf[::-1, ::-1], mode="same")
    box = (slice(64 - BOX // 2, 64 + BOX // 2 + 1),) * 2
    sigma = np.full_like(made.sigma_flux, np.median(made.sigma_flux))
    made.difference[box] += 100 * sigma[0, 0] * psf
    made.score[box] += (100 * pattern / pattern.max()).astype(np.float32)
    peaks = find_peaks(made.score)
    assert len(peaks[0]) > 5
    kept = separate_peaks(made.difference, made.score, sigma, psf, peaks)
    assert [part.tolist() for part in kept[:2]] == [[64], [64]]


def test_mask_bits_within_two_pixels_belong_to_the_detection():
    result, y, x, _ = grid_of_sources(50)
    mask = np.zeros(result.score.shape, np.uint16)
    row, column = round(y[0]), round(x[0])
    mask[row + 2, column] = Flag.COSMIC_RAY
    mask[row - 1, column - 1] = Flag.INTERPOLATED
    mask[row + 2, column + 2] = Flag.TRAIL
    found = measured(result, mask)
    bits = found["mask"][matched(found, y[:1], x[:1])]
    assert bits == Flag.COSMIC_RAY | Flag.INTERPOLATED
    assert np.count_nonzero(found["mask"]) == 1


def test_a_source_beside_no_data_is_measured_from_what_is_left():
    result, y, x, flux = grid_of_sources(50)
    column = round(x[0])
    for image in (result.difference, result.score, result.sigma_flux):
        image[:, : column - 1] = np.nan
    found = measured(result)
    chosen = matched(found, y[:1], x[:1])
    assert abs(found["flux"][chosen][0] - flux) < 5 * found["flux_err"][chosen][0] < flux / 5
    assert abs(found["y"][chosen][0] - y[0]) < 0.3


def test_shapes_that_differ_are_refused():
    image = np.zeros((20, 20), np.float32)
    with pytest.raises(InputError, match=r"\(20, 19\)"):
        measure_peaks(image, image[:, :19], image, image[:9, :9], image.astype(np.uint16), find_peaks(image))


images = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 5, 6, 7, -5, -8, np.nan]),
)


@settings(max_examples=200, deadline=None)
@given(image=images)
def test_peaks_are_extremes_above_threshold_and_of_ties_the_first(image):
    rows, columns, values = find_peaks(image, 5.0)
    found = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(found) == len(rows)
    assert list(zip(rows, columns, strict=True)) == sorted(found)
    np.testing.assert_array_equal(values, image[rows, columns])
    for (row, column), value in np.ndenumerate(image):
        around = image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] * np.sign(value)
        first = np.ravel(image[max(row - 2, 0) : row + 1, max(column - 2, 0) : column + 3] * np.sign(value))
        earlier = first[: (min(row, 2)) * around.shape[1] + min(column, 2)]
        wins = abs(value) >= 5 and np.nanmax(around) == abs(value) and not np.any(earlier == abs(value))
        assert ((row, column) in found) == wins


def test_a_plateau_is_one_peak():
    image = np.zeros((20, 20), np.float32)
    image[8:10, 5:8] = 9
    rows, columns, _ = find_peaks(image)
    assert (rows.tolist(), columns.tolist()) == ([8], [5])


def test_sources_seen_from_two_tiles_become_one_whatever_the_order():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 400, (2, 150))
    snr = rng.uniform(5, 40, 150) * rng.choice([-1, 1], 150)
    twice = rng.choice(150, 60, replace=False)
    columns = {
        "x": np.concatenate([x, x[twice] + rng.uniform(-0.3, 0.3, 60)]),
        "y": np.concatenate([y, y[twice] + rng.uniform(-0.3, 0.3, 60)]),
        "snr": np.concatenate([snr, snr[twice] * 0.99]).astype(np.float32),
        "tile": np.repeat([0, 1], [150, 60]),
    }
    once = merge(columns)
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9 * np.eye(150)
    assert (
        len(once["x"]) == 150 - np.count_nonzero((apart < 1.5) & (np.sign(snr)[:, None] == np.sign(snr))) // 2
    )
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(210)
        again = merge({name: values[order] for name, values in columns.items()})
        for name, values in once.items():
            np.testing.assert_array_equal(again[name], values)


def test_both_lobes_of_a_dipole_stay():
    columns = {"x": np.array([10.0, 11.0]), "y": np.array([5.0, 5.0]), "snr": np.array([8.0, -9.0])}
    assert merge(columns)["snr"].tolist() == [8.0, -9.0]
    assert len(merge({name: values[:0] for name, values in columns.items()})["x"]) == 0
