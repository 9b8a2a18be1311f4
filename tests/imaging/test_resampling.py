import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from reproject import reproject_interp
from scipy import ndimage

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.imaging import psf
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.registration import match_stars, measure_offset
from astrid_dist.imaging.resampling import Grid, PixelMap, overlap, to_grid
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars


def tan(shape, *, scale=1.0, shift=(0.0, 0.0), angle=0.0):
    """TAN WCS whose pixel (x, y) shows what the unshifted one shows at (x, y) + shift."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(shape[1] + 1) / 2 - shift[0], (shape[0] + 1) / 2 - shift[1]]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([-scale, scale]) / 3600
    wcs.wcs.set()
    return wcs


def planes(image):
    image = image.astype(np.float32)
    return image, np.ones_like(image), np.zeros(image.shape, np.uint16)


@settings(max_examples=6, deadline=None)
@given(dx=st.floats(-0.5, 0.5), dy=st.floats(-0.5, 0.5), scale=st.sampled_from([1.0, 0.8]))
def test_white_noise_keeps_unit_width_under_a_matched_filter(dx, dy, scale):
    shape = (420, 420)
    noise = np.random.default_rng(1).normal(0, 1, shape)
    wcs = tan(shape)
    grid = Grid.from_frame(tan(shape, scale=scale, shift=(dx, dy)), shape)
    image, variance, _ = to_grid(*planes(noise), wcs, grid)
    stamp = psf.moffat(3.0 / scale, 31).astype(float)
    inner = (slice(60, 360), slice(60, 360))
    score = ndimage.convolve(np.nan_to_num(image), stamp)[inner]
    sigma = np.sqrt(ndimage.convolve(np.nan_to_num(variance), stamp**2)[inner])
    assert np.median(variance[inner]) == pytest.approx(scale**2, rel=1e-3)
    assert np.std(score / sigma) == pytest.approx(1, abs=0.03)


def test_half_a_pixel_costs_the_matched_filter_nothing():
    shape = (1000, 1000)
    noise = np.random.default_rng(3).normal(0, 1, shape)
    grid = Grid.from_frame(tan(shape, shift=(0.5, 0.5)), shape)
    image, variance, _ = to_grid(*planes(noise), tan(shape), grid)
    assert np.std(image[10:-10, 10:-10]) < 0.9  # single pixels do scatter less
    stamp = psf.moffat(3.0, 31).astype(float)
    score = ndimage.convolve(np.nan_to_num(image), stamp)[30:-30, 30:-30]
    sigma = np.sqrt(ndimage.convolve(np.nan_to_num(variance), stamp**2)[30:-30, 30:-30])
    assert np.std(score / sigma) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.3), (0.7, 0.0), (1.25, -1.0)])
def test_flux_is_conserved_whatever_the_pixel_size(paint, scale, angle):
    field = paint(4.0, n=5)
    shape = field.image.shape
    truth = np.zeros(shape)
    truth[90:153, 80:143] = 5000 * psf.moffat(4.0, 63)
    size = (int(shape[0] / scale * 1.5), int(shape[1] / scale * 1.5))
    grid = Grid.from_frame(tan(size, scale=scale, angle=angle), size)
    image, _, _ = to_grid(*planes(truth), tan(shape), grid)
    assert np.nansum(image) == pytest.approx(5000, rel=2e-3)
    assert grid.pixel_scale_arcsec == pytest.approx(scale, rel=1e-6)


def test_it_agrees_with_reproject_on_another_projection_and_angle():
    shape = (200, 230)
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, shape), 2.0) * 100
    target = tan((190, 210), scale=0.9, angle=0.2, shift=(3.3, -2.1))
    grid = Grid.from_frame(target, (190, 210))
    image, _, mask = to_grid(*planes(smooth), tan(shape), grid)
    peer = reproject_interp((smooth, tan(shape)), target, (190, 210), order="bicubic", return_footprint=False)
    both = np.isfinite(image) & np.isfinite(peer) & ((mask & int(Flag.EDGE)) == 0)
    assert both.mean() > 0.7
    assert np.abs(image / 0.81 - peer)[both].max() < 0.02


def test_nan_does_not_spread_and_masks_follow_their_pixels():
    shape = (80, 90)
    image, variance, mask = planes(np.full(shape, 100.0))
    image[40, 30] = np.nan
    mask[40, 30] = Flag.NO_DATA
    image[20, 60], mask[20, 60] = 1e6, Flag.COSMIC_RAY
    mask[60, 60] = Flag.SATURATED
    grid = Grid.from_frame(tan(shape, shift=(0.3, 0.3)), shape)
    new, new_variance, new_mask = to_grid(image, variance, mask, tan(shape), grid)

    lost = np.isnan(new)
    assert np.array_equal(lost, (new_mask & int(Flag.NO_DATA)) != 0)
    assert np.array_equal(lost, np.isnan(new_variance))
    assert sorted(zip(*np.nonzero(lost[:78, :88]), strict=True)) == [(39, 29), (39, 30), (40, 29), (40, 30)]
    assert np.abs(new[~lost] - 100).max() < 0.01
    for bit, where in ((Flag.COSMIC_RAY, (20, 60)), (Flag.SATURATED, (60, 60))):
        rows, columns = np.nonzero(new_mask & int(bit))
        assert len(rows) == 16
        assert abs(rows.mean() - (where[0] - 0.5)) < 0.6
        assert abs(columns.mean() - (where[1] - 0.5)) < 0.6
    assert new_mask[20, 60] & Flag.INTERPOLATED
    assert new_mask[0, 40] & Flag.EDGE
    assert new_mask[79, 40] & Flag.NO_DATA  # 0.3 px beyond the frame
    assert new_mask[30, 45] == 0


def test_whole_pixel_shifts_change_no_value_and_widen_no_mask():
    shape = (60, 70)
    image, variance, mask = planes(np.random.default_rng(0).normal(0, 1, shape))
    mask[30, 30] = Flag.SATURATED
    grid = Grid.from_frame(tan(shape, shift=(4.0, -3.0)), shape)
    new, _, new_mask = to_grid(image, variance, mask, tan(shape), grid)
    assert np.abs(new[10:50, 10:50] - image[7:47, 14:54]).max() < 1e-4
    assert list(zip(*np.nonzero(new_mask & int(Flag.SATURATED)), strict=True)) == [(33, 26)]


def test_a_frame_on_its_own_grid_is_copied():
    shape = (50, 60)
    frame = planes(np.random.default_rng(0).normal(0, 1, shape))
    for place, grid in (
        (tan(shape), Grid.from_frame(tan(shape), shape)),
        (PixelMap.of(shape), Grid("", *shape)),
    ):
        copy = to_grid(*frame, place, grid)
        assert all(np.array_equal(a, b) and a is not b for a, b in zip(frame, copy, strict=True))
        assert overlap(place, shape, grid) == 1.0
    assert overlap(None, shape, grid) == 1.0
    assert overlap(None, (50, 61), grid) == 0.0


@pytest.mark.parametrize("wcs", [True, False])
def test_a_shift_by_whole_pixels_leaves_every_value_as_it_is(wcs):
    shape, wide = (50, 60), (40, 80)
    image, variance, mask = planes(np.random.default_rng(0).normal(0, 1, shape))
    image[20, 30], mask[20, 30] = np.nan, Flag.NO_DATA
    image[21, 31], mask[21, 31] = 1e6, Flag.BAD
    if wcs:
        unmoved, start = tan(shape), tan(shape, shift=(4.0, -3.0))
        place, grid = unmoved, Grid.from_frame(start, wide)
    else:
        place, grid = PixelMap.of(wide, 4.0, -3.0), Grid("", *wide)
    new, new_variance, new_mask = to_grid(image, variance, mask, place, grid)
    np.testing.assert_array_equal(new[3:40, :56], image[:37, 4:])
    np.testing.assert_array_equal(new_variance[3:40, :56], variance[:37, 4:])
    np.testing.assert_array_equal(new_mask[3:40, :56], mask[:37, 4:])
    outside = np.ones(wide, bool)
    outside[3:40, :56] = False
    assert np.isnan(new[outside]).all()
    assert (new_mask[outside] == Flag.NO_DATA).all()
    gone, _, gone_mask = to_grid(image, variance, mask, PixelMap.of(shape, 500.0, 0.0), Grid("", *shape))
    assert np.isnan(gone).all()
    assert (gone_mask == Flag.NO_DATA).all()


def test_a_map_and_the_wcs_that_says_the_same_resample_alike():
    shape, turn = (120, 140), np.radians(3.0)
    image = ndimage.gaussian_filter(np.random.default_rng(4).normal(0, 1, shape), 1.5)
    wcs = Grid.from_frame(tan(shape, shift=(5.4, -2.3), angle=turn), shape)
    expected, _, flags = to_grid(*planes(image), tan(shape), wcs)
    x, y = np.meshgrid(np.arange(0.0, 140, 10), np.arange(0.0, 120, 10))
    sky = wcs.wcs.pixel_to_world_values(x, y)
    at = np.stack([p.ravel() for p in tan(shape).world_to_pixel_values(*sky)])
    flat = PixelMap.of(shape)
    fit, *_ = np.linalg.lstsq(flat.terms(x.ravel(), y.ravel()).T, at.T, rcond=None)
    place = PixelMap(fit.T, flat.centre, flat.half)
    found, _, found_flags = to_grid(*planes(image), place, Grid("", *shape))
    assert np.nanmax(np.abs(found - expected)) < 1e-3
    assert ((flags == 0) == (found_flags == 0)).mean() > 0.999
    assert overlap(place, shape, wcs) == pytest.approx(overlap(tan(shape), shape, wcs), abs=1e-3)


def test_what_cannot_be_mapped_is_refused_and_elsewhere_is_no_data():
    frame = planes(np.ones((50, 60)))
    with pytest.raises(InputError, match="the frame has a WCS and its field's grid none"):
        to_grid(*frame, tan((50, 60)), Grid("", 40, 60))
    elsewhere = tan((50, 60))
    elsewhere.wcs.crval = [10.0, -60.0]
    grid = Grid.from_frame(elsewhere, (50, 60))
    image, variance, mask = to_grid(*frame, tan((50, 60)), grid)
    assert np.isnan(image).all()
    assert np.isnan(variance).all()
    assert (mask == Flag.NO_DATA).all()
    assert overlap(tan((50, 60)), (50, 60), grid) == 0


def test_overlap_is_the_covered_part_and_grids_travel():
    shape = (100, 200)
    grid = Grid.from_frame(tan(shape, shift=(50.0, 0.0)), shape)
    assert overlap(tan(shape), shape, grid) == pytest.approx(0.75, abs=0.02)
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert grid.contains([0, 199.4, 200], [0, 99.4, 50]).tolist() == [True, True, False]


@pytest.mark.realdata
def test_decam_tpv_epochs_come_onto_one_grid(realdata):
    frames = []
    for path in sorted((realdata / "decam_epochs").rglob("*_ooi_z*.N*.fits.gz")):
        image, header = fits.getdata(path, 1).astype(np.float32), fits.getheader(path, 1)
        weight = fits.getdata(path.with_name(path.name.replace("ooi", "oow")), 1)
        quality = fits.getdata(path.with_name(path.name.replace("ooi", "ood")), 1)
        mask = np.where(quality != 0, int(Flag.BAD), 0).astype(np.uint16)
        variance = np.where(weight > 0, 1 / np.where(weight > 0, weight, 1), np.nan).astype(np.float32)
        frames.append((image, variance, mask, WCS(header)))
    assert len(frames) == 3
    grid = Grid.from_frame(frames[1][3], frames[1][0].shape)
    x, y = np.meshgrid([0.0, 120.0, 249.0], [0.0, 120.0, 249.0])
    assert np.allclose(
        grid.wcs.all_pix2world(x, y, 0), frames[1][3].all_pix2world(x, y, 0), rtol=0, atol=1e-9
    )
    assert grid.pixel_scale_arcsec == pytest.approx(0.262, abs=0.003)
    lists = []
    for image, variance, mask, wcs in frames:
        assert overlap(wcs, image.shape, grid) > 0.9
        new, new_variance, new_mask = to_grid(image, variance, mask, wcs, grid)
        mesh, _ = measure_background(new, new_mask)
        sub = new - evaluate(mesh, 64, 0, 0, *new.shape)
        lists.append(
            measure_stars(
                sub, new_variance, new_mask, estimate_fwhm(sub, new_variance, new_mask, 4.0), threshold=5
            )
        )
    for other in (lists[0], lists[2]):
        offset = measure_offset(other, lists[1], *match_stars(other, lists[1], 2.0))
        # Four to six stars over three years: their proper motions, about .2 px, are the scatter that is found
        assert offset.n >= 4
        assert np.hypot(offset.dx, offset.dy) < 0.15 + 3 * np.hypot(offset.dx_err, offset.dy_err)
