"""Stamps of alert packets: in units of their own noise, the alert in the middle, whatever was sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astrid_dist.formats.packets import Packet, packet_of, read_packets
from astrid_dist.stages.packet_stamps import problem, sky_of, stamp_of
from tests.made_packets import NOISE, SEEING, SKY, image, lsst, ztf

SIDE = 63


def packet(*images, **said):
    found = packet_of("here", ztf(1, images, **said))
    assert isinstance(found, Packet)
    return found


@pytest.mark.parametrize("peak", [0, 30, 300, 30_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_sky_and_noise_are_those_around_a_source(peak, sign):
    level, sigma = np.mean([sky_of(image(seed, sign * peak), SEEING) for seed in range(20)], axis=0)
    assert level == pytest.approx(SKY, abs=0.1 * NOISE)
    assert sigma == pytest.approx(NOISE, rel=0.05)


def test_beside_a_star_that_fills_the_cutout_the_lower_half_tells():
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    halo = (2000 / (1 + (np.hypot(x, y) / 8) ** 2)).astype(np.float32)
    level, sigma = sky_of(image(1) + halo, SEEING)
    assert SKY < level < SKY + 200
    assert NOISE / 2 < sigma < 200


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.01, 1000), level=st.floats(-1000, 1000), seed=st.integers(0, 1000))
def test_units_and_sky_of_what_is_sent_do_not_matter(scale, level, seed):
    images = image(seed, 100), image(seed + 1), image(seed + 2, 100, 0)
    scaled = [np.float32(scale) * (one - np.float32(SKY)) + np.float32(scale * level) for one in images]
    one, other = stamp_of(packet(*images)), stamp_of(packet(*scaled))
    np.testing.assert_allclose(one.pixels.astype(float), other.pixels.astype(float), atol=0.26)
    np.testing.assert_allclose(one.sigma * scale, other.sigma, rtol=0.02)


def test_what_has_faded_is_negative():
    sent = image(1), image(2, 300), image(3, 300, 0)
    up, down = (stamp_of(packet(*sent, isdiffpos=said)).pixels[2] for said in ("t", "f"))
    assert up[31, 31] > 20
    np.testing.assert_array_equal(up, -down)


def test_a_small_cutout_stands_in_the_middle_and_a_large_one_is_cut():
    images = [image(seed, 0, 0)[:44] for seed in range(3)]
    for one in images:
        one[12, 31] = 1000
    small = stamp_of(packet(*images, ypos=12.9)).pixels
    assert np.isnan(small[:, :19]).all()
    assert np.isfinite(small[:, 19:]).all()
    assert (small[:, 31, 31] > 100).all()
    large = [image(seed, 1000, 0, 101) for seed in range(3)]
    made = stamp_of(packet(*large))
    assert made.pixels.shape == (3, SIDE, SIDE)
    assert (made.pixels[:, 31, 31] > 50).all()
    found = packet_of("here", lsst(5, [image(seed, 0, 0, 30) for seed in range(3)], (15.9, 14.2)))
    assert isinstance(found, Packet)
    even = stamp_of(found).pixels
    assert np.isfinite(even).sum() == 3 * 30 * 30
    assert np.isfinite(even[:, 31 - 14, 31 - 16]).all()
    assert np.isnan(even[:, 31 - 15, 31 - 16]).all()


def test_pixels_without_data_stay_so_and_a_plane_without_noise_is_none():
    images = [image(seed) for seed in range(3)]
    images[0][:9, :9] = np.nan
    images[1][:] = 5
    made = stamp_of(packet(*images))
    assert np.isnan(made.pixels[0]).sum() == 81
    assert np.isnan(made.pixels[1]).all()
    assert np.isfinite(made.pixels[2]).all()


def test_the_filtered_difference_is_a_score_of_unit_noise():
    scores = []
    for seed in range(10):
        images = image(seed), image(seed + 50), image(seed + 100, 100, 0)
        images[2][:5] = np.nan
        absent, filtered = (stamp_of(packet(*images), score) for score in ("absent", "filtered"))
        assert filtered.pixels.shape == (4, SIDE, SIDE)
        np.testing.assert_array_equal(filtered.pixels[:3], absent.pixels)
        np.testing.assert_array_equal(np.isnan(filtered.pixels[3]), np.isnan(absent.pixels[2]))
        scores.append(filtered.pixels[3].astype(float))
    away = np.array(scores)[:, 7:20]
    assert np.std(away) == pytest.approx(1, abs=0.05)
    # S/N of a Gaussian source of width w: peak over noise times sqrt(pi) w.
    middle = np.mean([one[31, 31] for one in scores])
    assert middle == pytest.approx(100 / NOISE * np.sqrt(np.pi) * SEEING / 2.3548, rel=0.1)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "no pixel"), (0.0, "0 everywhere")])
def test_nothing_to_see_is_a_reason(value, said):
    images = [np.full((SIDE, SIDE), value, np.float32) for _ in range(3)]
    assert said in problem(packet(*images))
    assert np.isnan(stamp_of(packet(*images)).pixels).all()
    assert problem(packet(*[image(seed) for seed in range(3)])) == ""


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["ztf_kowalski", "ztf_fink_local_20200101", "hsc_cosmos_lsstpipe"])
def test_planes_of_real_packets_have_unit_noise_away_from_sources(realdata, name):
    widths, peaks = [], []
    for one in read_packets([str(realdata / name)]):
        assert isinstance(one, Packet)
        pixels = stamp_of(one).pixels.astype(np.float32)
        around = np.abs(pixels - np.nanmedian(pixels, (1, 2), keepdims=True))
        widths.append(1.4826 * np.nanmedian(around, (1, 2)))
        near = pixels[2, 29:34, 29:34]
        peaks.append(near.flat[np.nanargmax(np.abs(near))] * (1 if one.positive else -1))
    science, template, difference = np.median(widths, axis=0)
    assert 0.8 < science < 1.5
    assert 0.8 < template < 3  # a deep template is full of stars
    assert 0.8 < difference < 1.3
    assert np.median(peaks) > 3
