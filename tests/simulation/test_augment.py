from dataclasses import fields

import numpy as np
import pytest
from scipy.special import erf

from astrid_dist.errors import ConfigError, InputError
from astrid_dist.imaging.filters import plan_subtraction
from astrid_dist.imaging.zogy import subtract
from astrid_dist.simulation.augmentation import PLANES, TRANSFORMS, Artifacts, Batch, Compose, Patterns
from astrid_dist.simulation.augmentation.depth import Noise, Width
from astrid_dist.simulation.augmentation.geometry import Crop, Flip, Jitter, Turn
from astrid_dist.simulation.augmentation.light import Background, FluxScale, Gain, Swap
from astrid_dist.simulation.augmentation.loss import Dropout, NoData
from astrid_dist.simulation.augmentation.pair import pair_of
from astrid_dist.simulation.augmentation.transform import DIRECTED, SHARP
from astrid_dist.simulation.philox import noise, stream
from astrid_dist.taxonomy import KINDS, class_bit, class_code, kind_code

KEY = stream(5, "test")
SIDE = 63
SIGMA_N, SIGMA_R, RATIO = 5.0, 3.0, 1.3
SIGMA_D = float(np.hypot(SIGMA_N / RATIO, SIGMA_R))


def gaussian(fwhm, side=25, x=0.0, y=0.0):
    """Unit flux of a Gaussian PSF, integrated over pixels."""
    sigma = fwhm / 2.35482
    edges = np.arange(side + 1) - side / 2

    def along(centre):
        return np.diff(erf((edges - centre) / sigma / np.sqrt(2))) / 2

    return np.outer(along(y), along(x))


def batch_of(pixels, *, kind="SN Ia", x=0.0, y=0.0, flux=400.0, snr=20.0, fwhm=(3.0, 2.5), planes=PLANES):
    """Samples around pixels (n, visit, plane, y, x)."""
    n, visits = pixels.shape[:2]
    one = np.ones((n, visits), np.float32)
    target = np.zeros((n, visits, *pixels.shape[3:]), np.uint16)
    target[..., 20:24, 28:33] = class_bit("transient")
    return Batch(
        planes=planes,
        pixels=np.asarray(pixels, np.float32),
        target=target,
        offset_x=x * one,
        offset_y=y * one,
        flux=flux * one,
        snr=snr * one,
        band=np.zeros((n, visits), np.int8),
        sigma_n=SIGMA_N * one,
        sigma_r=SIGMA_R * one,
        sigma_d=SIGMA_D * one,
        fwhm_n=fwhm[0] * one,
        fwhm_r=fwhm[1] * one,
        flux_ratio=RATIO * one,
        kind=np.full(n, kind_code(kind), np.int16),
        class_code=np.full(n, class_code(KINDS[kind]), np.int8),
        label=np.ones(n, np.float32),
        weight=np.ones(n, np.float32),
    )


def noisy(n=40, visits=1, **more):
    """White noise in every plane."""
    return batch_of(noise(KEY, np.arange(n), (visits, 4, SIDE, SIDE)), **more)


def subtracted(new, ref, *, fwhm=(3.0, 2.5)):
    """Planes of pairs in noise sigmas, and the plan of their subtraction."""
    psf_n, psf_r = (gaussian(one) for one in fwhm)
    plan = plan_subtraction(psf_n, psf_r, SIGMA_N, SIGMA_R, RATIO, shape=new.shape[-2:])
    flat = np.ones_like(new)
    made = subtract(new, ref, flat * SIGMA_N**2, flat * SIGMA_R**2, plan)
    planes = new / SIGMA_N, ref / SIGMA_R, made.difference / SIGMA_D, made.score
    return np.stack(planes, axis=1)[:, None], plan


def observed(n=40, flux=400.0, x=0.0, y=0.0, **more):
    """Real pairs: a new source on white noise, subtracted."""
    new = noise(stream(1, "new"), np.arange(n), (SIDE, SIDE)) * SIGMA_N
    new += RATIO * flux * gaussian(more.get("fwhm", (3.0, 2.5))[0], SIDE, x, y)
    ref = noise(stream(1, "ref"), np.arange(n), (SIDE, SIDE)) * SIGMA_R
    pixels, plan = subtracted(new.astype(np.float32), ref, **more)
    return batch_of(pixels, x=x, y=y, flux=flux, snr=5 * flux / plan.limiting_flux, **more)


def same(one, other, **how):
    """Whether two batches are equal in everything."""
    assert one.planes == other.planes
    for field in fields(Batch)[1:]:
        np.testing.assert_allclose(
            getattr(one, field.name), getattr(other, field.name), err_msg=field.name, **how
        )


def centroid(stamps, radius=14):
    """Mean offset of light from the middle, of stamps (..., y, x)."""
    middle = stamps.shape[-1] // 2
    part = slice(middle - radius, middle + radius + 1)
    box = stamps[..., part, part].astype(np.float64)
    step = np.arange(-radius, radius + 1)
    total = box.sum((-2, -1))
    return (box.sum(-2) * step).sum(-1) / total, (box.sum(-1) * step).sum(-1) / total


ALL = [{name: {"side": 51} if name == "crop" else {}} for name in TRANSFORMS]


def test_a_sample_does_not_depend_on_its_batch():
    batch, items = noisy(9, visits=2), np.arange(100, 109)
    chain = Compose.read([*ALL, {"dropout": {"planes": 0.5}}])
    whole = chain(batch, 3, items)
    order = np.array([7, 2, 5])
    same(chain(batch[order], 3, items[order]), whole[order], rtol=0, atol=0)
    assert not np.array_equal(chain(batch, 4, items).pixels, whole.pixels, equal_nan=True)
    assert not np.array_equal(chain(batch, 3, items + 9).pixels, whole.pixels, equal_nan=True)


@pytest.mark.parametrize("step", ALL, ids=lambda step: next(iter(step)))
def test_a_batch_is_left_as_it_was_and_holes_stay(step):
    batch = noisy(12, visits=2)
    batch.pixels[:, :, :, 30:33, 31] = np.nan
    before = batch[np.arange(12)]
    after = Compose.read([step])(batch, 1, np.arange(12))
    same(batch, before)
    assert after.pixels.dtype == np.float32
    assert after.target.dtype == np.uint16
    holes = np.isnan(after.pixels).sum((-2, -1))
    assert holes.min() >= 3
    for field in fields(Batch)[1:]:
        assert getattr(after, field.name).dtype == getattr(before, field.name).dtype, field.name


@pytest.mark.parametrize("step", ALL, ids=lambda step: next(iter(step)))
def test_noise_keeps_its_level(step):
    name = next(iter(step))
    if name in ("background", "flux_scale"):
        step = {name: dict.fromkeys(TRANSFORMS[name].model_fields, 0.0)}
    after = Compose.read([step])(observed(120, flux=0.0), 2, np.arange(120))
    middle = after.pixels[..., 12:-12, 12:-12]
    assert np.nanstd(middle, axis=(0, 1, 3, 4)) == pytest.approx(1, abs=0.02)


def test_two_flips_and_four_quarter_turns_are_none():
    batch, items = noisy(8, visits=2, x=2.0, y=-1.0), np.arange(8)
    once = Flip(horizontal=1, vertical=1)(batch, KEY, items)
    assert not np.array_equal(once.pixels, batch.pixels)
    same(Flip(horizontal=1, vertical=1)(once, KEY, items), batch)
    turned = Turn()(batch, KEY, items)
    assert not np.array_equal(turned.pixels, batch.pixels)
    again = batch
    for _ in range(4):
        again = Turn()(again, KEY, items)
    same(again, batch)


@pytest.mark.parametrize("transform", [Flip(), Turn(), Jitter(), Jitter(whole=4), Crop(side=55)])
@pytest.mark.parametrize("fwhm", [2.5, 3.5])
def test_offsets_follow_the_light(transform, fwhm):
    light = np.tile(gaussian(fwhm, SIDE, 1.3, -0.8), (64, 2, 4, 1, 1)) * 1000
    batch = batch_of(light, x=1.3, y=-0.8)
    after = transform(batch, KEY, np.arange(64))
    x, y = centroid(after.pixels)
    assert np.abs(x - after.offset_x[..., None]).max() < 2e-3
    assert np.abs(y - after.offset_y[..., None]).max() < 2e-3
    middle = after.pixels[:, :, :, 8:-8, 8:-8]
    assert middle.sum((-2, -1)) == pytest.approx(1000, rel=1e-3)
    assert np.nanmax(np.ptp(after.pixels, axis=(1, 2))) == 0, "visits and planes go alike"
    if not isinstance(transform, Crop):
        assert len(np.unique(after.offset_x[:, 0])) > 1


def test_targets_follow_the_pixels():
    batch = noisy(64, visits=2)
    marked = batch.target > 0
    batch.pixels[np.broadcast_to(marked[:, :, None], batch.pixels.shape)] += 1000
    for transform in (Flip(), Turn(), Jitter(px=0, whole=3), Crop(side=45)):
        batch = transform(batch, KEY, np.arange(64))
        assert np.array_equal(np.nan_to_num(batch.pixels[:, :, 2]) > 500, batch.target > 0)


def test_kinds_with_a_direction_are_never_turned_and_sharp_ones_move_by_whole_pixels():
    for kind in DIRECTED:
        batch = noisy(16, kind=kind)
        same(Turn()(batch, KEY, np.arange(16)), batch)
    for kind in SHARP:
        batch = noisy(16, kind=kind)
        same(Jitter()(batch, KEY, np.arange(16)), batch)
        same(Width()(batch, KEY, np.arange(16)), batch)
        moved = Jitter(whole=2)(batch, KEY, np.arange(16))
        assert np.all(moved.offset_x == np.rint(moved.offset_x))
        assert moved.offset_x.any()
    unknown = noisy(16).having(kind=np.full(16, -1, np.int16))
    same(Turn()(unknown, KEY, np.arange(16)), unknown)


def test_where_an_object_lies_does_not_tell_its_kind():
    n = 4000
    within = np.random.default_rng(1).uniform(-0.5, 0.5, (n, 1)).astype(np.float32)
    spread = []
    for kind in ("SN Ia", "cosmic-ray track"):
        batch = batch_of(np.zeros((n, 1, 1, 9, 9)), kind=kind, planes=("difference",)).having(offset_x=within)
        spread.append(np.sort(Jitter()(batch, KEY, np.arange(n)).offset_x[:, 0]))
    assert np.abs(spread[0] - spread[1]).max() < 0.1
    assert np.abs(spread[0] - spread[1]).mean() < 0.02
    assert spread[1].std() == pytest.approx(np.sqrt(2 / 12), rel=0.03)


def test_parts_of_a_pixel_leave_white_noise_white():
    after = Jitter()(noisy(300), KEY, np.arange(300))
    assert np.abs(after.offset_x).max() > 0.45
    pixels = after.pixels[..., 3:-3, 3:-3].astype(np.float64)
    assert pixels.var() == pytest.approx(1, abs=2e-3)
    assert abs((pixels[..., 1:] * pixels[..., :-1]).mean()) < 2e-3
    assert abs((pixels[..., 1:, :] * pixels[..., :-1, :]).mean()) < 2e-3


@pytest.mark.parametrize(("fwhm", "error"), [(2.0, 0.12), (2.5, 0.06), (3.0, 0.026), (4.0, 0.007)])
def test_parts_of_a_pixel_keep_the_shape_of_a_psf(fwhm, error):
    batch = batch_of(np.tile(gaussian(fwhm, SIDE), (200, 1, 4, 1, 1)))
    after = Jitter()(batch, KEY, np.arange(200))
    exact = [
        gaussian(fwhm, SIDE, x, y) for x, y in zip(after.offset_x[:, 0], after.offset_y[:, 0], strict=True)
    ]
    assert np.abs(after.pixels[:, 0, 0] - exact).max() < error * np.max(exact)


def test_holes_move_by_the_nearest_pixel_and_light_around_them_stays():
    star = np.tile(gaussian(3.0, SIDE), (100, 1, 4, 1, 1)) * 1000
    whole = Jitter(whole=2)(batch_of(star), KEY, np.arange(100))
    star[..., 33:35, :] = np.nan
    holed = Jitter(whole=2)(batch_of(star), KEY, np.arange(100))
    rows = np.isnan(holed.pixels[:, 0, 0]).all(-1)
    for sample, shift in zip(rows, np.rint(holed.offset_y[:, 0]).astype(int), strict=True):
        assert sample[33 + shift : 35 + shift].all()
        assert sample.sum() == 2 + abs(shift)
    far = ~np.isnan(holed.pixels)
    # the pixels beside the hole are extrapolated, others are not touched
    close = np.abs(holed.pixels - whole.pixels)[far]
    assert close.max() < 0.2 * 1000 * gaussian(3.0, SIDE).max()
    assert np.mean(close > 1) < 0.01


def test_swapping_twice_changes_nothing():
    batch, items = observed(6), np.arange(6)
    once = Swap(probability=1)(batch, KEY, items)
    assert np.all(once.flux < 0)
    assert np.all(once.snr == -batch.snr)
    same(Swap(probability=1)(once, KEY, items), batch, rtol=1e-6)


def test_swapping_is_what_subtracting_the_other_way_round_gives():
    batch = observed(4, fwhm=(3.0, 2.5))
    new, ref = batch.pixels[:, 0, 0] * SIGMA_N, batch.pixels[:, 0, 1] * SIGMA_R
    plan = plan_subtraction(gaussian(2.5), gaussian(3.0), SIGMA_R, SIGMA_N, 1 / RATIO, shape=(SIDE, SIDE))
    flat = np.ones_like(new)
    other = subtract(ref, new, flat * SIGMA_R**2, flat * SIGMA_N**2, plan)
    swapped = Swap(probability=1)(batch, KEY, np.arange(4))
    scale = swapped.sigma_d[:, 0, None, None]
    np.testing.assert_allclose(swapped.pixels[:, 0, 2] * scale, other.difference, atol=2e-3)
    np.testing.assert_allclose(swapped.pixels[:, 0, 3], other.score, atol=2e-3)
    assert swapped.snr[0, 0] == pytest.approx(-5 * 400 * RATIO / plan.limiting_flux, rel=1e-4)


def test_swapping_leaves_a_plane_that_is_absent_absent():
    one = noisy(3).pixels[:, :, [0, 2]]
    swapped = Swap(probability=1)(batch_of(one, planes=("science", "difference")), KEY, np.arange(3))
    assert np.isnan(swapped.pixels[:, :, 0]).all()
    assert np.array_equal(swapped.pixels[:, :, 1], -one[:, :, 1])


@pytest.mark.parametrize("fwhm", [(3.0, 2.5), (3.0, 3.0), (2.5, 4.0)])
def test_added_noise_is_that_of_a_noisier_epoch(fwhm):
    batch = observed(60, fwhm=fwhm)
    after = Noise(sigma=0.8)(batch, KEY, np.arange(60))
    new = after.pixels[:, 0, 0] * after.sigma_n[:, :, None]
    amount = np.sqrt((after.sigma_n / SIGMA_N) ** 2 - 1)
    assert amount.min() >= 0
    assert 0.7 < amount.max() < 0.8
    pixels, _ = subtracted(new.astype(np.float32), batch.pixels[:, 0, 1] * SIGMA_R, fwhm=fwhm)
    inner = np.s_[:, 0, :, 12:-12, 12:-12]
    expected = pixels[inner][:, 2] * SIGMA_D / after.sigma_d[:, :, None]
    assert np.std(after.pixels[inner][:, 2] - expected) < 0.05
    # the score is scaled to unit noise: by as much as the SNR falls, the source being faint beside the sky
    scale = (after.snr / batch.snr)[:, :, None]
    assert np.std(after.pixels[inner][:, 3] - pixels[inner][:, 3] * scale) < 0.07
    assert np.all(after.snr < batch.snr)


def test_noise_costs_a_bright_source_less():
    faint, bright = (Noise(sigma=0.8)(noisy(5, flux=400, snr=snr), KEY, np.arange(5)) for snr in (10, 60))
    assert np.all(faint.snr / 10 > bright.snr / 60)
    starved = noisy(5, flux=40000, snr=60)  # its own photons make its noise
    assert Noise(sigma=0.8)(starved, KEY, np.arange(5)).snr == pytest.approx(60, rel=0.01)


def test_wider_psfs_are_those_of_worse_seeing():
    flux = 4000.0
    batch = observed(60, flux=flux, fwhm=(3.0, 2.5))
    after = Width(fwhm=2.0)(batch, KEY, np.arange(60))
    wide = after.fwhm_n[:, 0] > 3.3
    assert 10 < wide.sum() < 60
    assert after.fwhm_n**2 - 9 == pytest.approx(after.fwhm_r**2 - 6.25, abs=1e-3)
    # matched photometry with the PSF that the sample says it has finds the flux again
    found = []
    for pixels, fwhm in zip(after.pixels[wide, 0, 0], after.fwhm_n[wide, 0], strict=True):
        psf = gaussian(float(fwhm), SIDE)
        found.append((pixels * psf).sum() / (psf**2).sum() * SIGMA_N / RATIO)
    assert np.mean(found) == pytest.approx(flux, rel=0.01)
    # the score falls as the SNR does
    peak = after.pixels[wide, 0, 3, 31, 31] / batch.pixels[wide, 0, 3, 31, 31]
    assert peak == pytest.approx(after.snr[wide, 0] / batch.snr[wide, 0], rel=0.05)


def test_wider_psfs_keep_science_white_and_the_score_as_smooth_as_it_says():
    after = Width(fwhm=2.5)(observed(100, flux=0.0), KEY, np.arange(100))
    science, score = (after.pixels[:, 0, plane, 8:-8, 8:-8].astype(np.float64) for plane in (0, 3))
    assert abs((science[..., 1:] * science[..., :-1]).mean()) < 0.005
    pair = pair_of(after, 64)
    power = pair.score**2
    lag = np.cos(2 * np.pi * np.fft.rfftfreq(64))
    weight = np.full(33, 2.0)
    weight[[0, -1]] = 1
    expected = ((power * lag * weight).sum((-2, -1)) / (power * weight).sum((-2, -1)))[:, 0]
    found = (score[..., 1:] * score[..., :-1]).mean((1, 2)) / (score**2).mean((1, 2))
    assert np.mean(found - expected) == pytest.approx(0, abs=0.02)


def test_sky_that_was_left_goes_through_the_subtraction():
    blank = batch_of(np.zeros((6, 2, 4, SIDE, SIDE)))
    after = Background(sigma=0.5, slope=0.5)(blank, KEY, np.arange(6))
    science, template, difference, score = np.moveaxis(after.pixels, 2, 0)
    exact = (science * SIGMA_N / RATIO - template * SIGMA_R) / SIGMA_D
    np.testing.assert_allclose(difference, exact, atol=1e-5)
    assert np.ptp(template, axis=1).max() == 0, "there is one template"
    assert np.ptp(science, axis=1).max() > 0.1
    new, ref = science[:, 0] * SIGMA_N, template[:, 0] * SIGMA_R
    pixels, _ = subtracted(new, ref)
    middle = np.s_[:, 27:36, 27:36]
    np.testing.assert_allclose(score[:, 0][middle], pixels[:, 0, 3][middle], rtol=0.17, atol=0.1)


def test_an_error_of_the_flux_ratio_leaves_its_share_of_stars():
    new = np.tile(50 * SIGMA_N * 20 * gaussian(3.0, SIDE), (40, 1, 1)).astype(np.float32)
    ref = np.tile(50 * SIGMA_N * 20 / RATIO * gaussian(3.0, SIDE), (40, 1, 1)).astype(np.float32)
    pixels, plan = subtracted(new, ref, fwhm=(3.0, 3.0))
    batch = batch_of(pixels, fwhm=(3.0, 3.0))
    after = FluxScale(spread=0.01)(batch, KEY, np.arange(40))
    middle = np.s_[:, 0, 2, 31, 31]
    error = (after.pixels - batch.pixels)[middle] * SIGMA_D * RATIO / new[:, 31, 31]
    assert error.std() == pytest.approx(0.01, rel=0.3)
    # the law: S(0) = error x SNR
    snr = 5 * (50 * SIGMA_N * 20 / RATIO) / plan.limiting_flux
    assert after.pixels[:, 0, 3, 31, 31] == pytest.approx(error * snr, rel=0.04, abs=0.05)
    assert np.array_equal(after.flux, batch.flux)


def test_other_units_change_what_is_told_in_electrons_alone():
    batch = noisy(50, visits=3)
    after = Gain(spread=0.2)(batch, KEY, np.arange(50))
    assert np.array_equal(after.pixels, batch.pixels)
    of_n, of_r = after.sigma_n / SIGMA_N, after.sigma_r / SIGMA_R
    assert np.log(of_n).std() == pytest.approx(0.2, rel=0.2)
    assert np.ptp(of_r, axis=1).max() == 0, "visits share the reference"
    assert after.flux / after.sigma_d == pytest.approx(batch.flux / batch.sigma_d, rel=1e-5)
    assert after.sigma_d == pytest.approx(np.hypot(after.sigma_n / after.flux_ratio, after.sigma_r), rel=1e-5)


def test_what_an_image_lacks_difference_and_score_lack_around_it_and_the_object_stays():
    batch = noisy(400, visits=2, x=6.0, y=-4.0)
    after = NoData(rows=0.3, columns=0.3, edge=0.3)(batch, KEY, np.arange(400))
    science, template, difference, score = np.moveaxis(np.isnan(after.pixels), 2, 0)
    assert 0.5 < science.any((-2, -1)).mean() < 0.8
    assert np.array_equal(difference, score)
    lost = science | template
    assert not (lost & ~difference).any()
    # an image that ends beside the stamp takes pixels of the difference alone
    assert (difference.any((-2, -1)) & ~lost.any((-2, -1))).mean() < 0.05
    assert difference.sum() > 2 * lost.sum()
    assert np.array_equal(template[:, 0], template[:, 1])
    assert not np.array_equal(science[:, 0], science[:, 1])
    assert not difference[..., 27 - 2 : 27 + 3, 37 - 2 : 37 + 3].any()
    kept = ~np.isnan(after.pixels)
    assert np.array_equal(after.pixels[kept], batch.pixels[kept])


def test_a_stamp_without_room_for_a_hole_keeps_its_pixels():
    small = batch_of(noisy(20).pixels[..., 22:41, 22:41])
    after = NoData(rows=1, columns=1, edge=0)(small, KEY, np.arange(20))
    assert not np.isnan(after.pixels).any()


def test_dropout_hides_the_share_it_was_asked_to_and_never_the_whole_difference():
    after = Dropout(pixels=0.1, planes=0.5)(noisy(200, visits=2), KEY, np.arange(200))
    lost = np.isnan(after.pixels)
    assert lost[:, :, 2].mean() == pytest.approx(0.1, abs=0.003)
    hidden = lost.all((-2, -1))
    assert hidden[:, :, [0, 1, 3]].mean() == pytest.approx(0.5, abs=0.07)
    assert np.array_equal(hidden[:, 0], hidden[:, 1])
    visible = ~hidden[..., None, None] & np.ones(lost.shape, bool)
    alike = np.broadcast_to(lost[:, :, 2:3], lost.shape)
    assert np.array_equal(lost[visible], alike[visible])


def test_patterns_go_where_the_subtraction_takes_them():
    track = np.zeros((SIDE, SIDE), np.float32)
    track[12:20, 45] = 300
    added = np.broadcast_to(track, (6, 1, SIDE, SIDE))
    batch = observed(6)
    transform = Artifacts(patterns=lambda batch, key, items: Patterns(added, added, "cosmic_ray"))
    after = transform(batch, KEY, np.arange(6))
    new, ref = batch.pixels[:, 0, 0] * SIGMA_N + track, batch.pixels[:, 0, 1] * SIGMA_R
    plan = plan_subtraction(gaussian(3.0), gaussian(2.5), SIGMA_N, SIGMA_R, RATIO, shape=(SIDE, SIDE))
    flat = np.ones_like(new)
    made = subtract(new, ref, flat * SIGMA_N**2 + track, flat * SIGMA_R**2, plan)
    np.testing.assert_allclose(after.pixels[:, 0, 0] * SIGMA_N, new, atol=1e-3)
    np.testing.assert_allclose(after.pixels[:, 0, 2], made.difference / SIGMA_D, atol=0.02 * 300 / SIGMA_N)
    np.testing.assert_allclose(after.pixels[:, 0, 3], made.score, atol=0.1 * made.score.max())
    assert np.all(after.target[:, 0, 12:20, 45] == class_bit("cosmic_ray"))
    assert np.array_equal(after.target & class_bit("transient"), batch.target)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"flop": {}}], "step 1: unknown transform 'flop', did you mean flip?"),
        (["flip", {"jitter": {"pix": 0.5}}], "step 2: jitter: unknown parameter 'pix', did you mean px?"),
        ([{"jitter": {"px": 0.7}}], "px is 0.7: Input should be less than or equal to 0.5"),
        ([{"crop": {}}], "crop: side is missing"),
        ([{"flip": {}, "turn": {}}], "is not one name with its parameters"),
        ([{"noise": 0.3}], "noise takes parameters by name, not 0.3"),
        ([{"sharpen": {}}], "there are flip, turn"),
    ],
)
def test_wrong_steps_are_named(steps, said):
    with pytest.raises(ConfigError) as caught:
        Compose.read(steps)
    assert said in str(caught.value)


def test_batches_that_cannot_be_changed_are_refused():
    batch = noisy(3)
    with pytest.raises(InputError, match="2 items for 3 samples"):
        Compose.read(["flip"])(batch, 1, [1, 2])
    with pytest.raises(InputError, match="fwhm_n of sample 0, visit 0 is nan"):
        Noise()(batch.having(fwhm_n=batch.fwhm_n * np.nan), KEY, np.arange(3))
    with pytest.raises(InputError, match="flux is"):
        batch.having(flux=batch.flux[:2])
    with pytest.raises(InputError, match="in this order"):
        batch.having(planes=("score", "template", "difference", "science"))
    with pytest.raises(InputError, match="both must be odd"):
        Crop(side=50)(batch, KEY, np.arange(3))
    with pytest.raises(InputError, match="more than half"):
        Jitter(whole=40)(batch, KEY, np.arange(3))
