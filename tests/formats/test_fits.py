"""FITS frames: one exposure in every container, calibrated; and everything that can be wrong with one."""

import gzip
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.errors import InputError
from astrid_dist.flags import Flag
from astrid_dist.formats.fits import epoch_id, probe, read_frame, read_frames, read_wcs
from astrid_dist.surveys.profile import load_profile

GENERIC, DECAM = load_profile("generic"), load_profile("decam")
GAIN, READ_NOISE, SKY_DN = 2.0, 5.0, 300
CARDS = {
    "MJD-OBS": 58000.0,
    "EXPTIME": 60.0,
    "GAIN": GAIN,
    "RDNOISE": READ_NOISE,
    "FILTER": "r",
    "SATURATE": 50000.0,
}


def counts(seed=0, shape=(96, 128)):
    """Photon noise of a flat sky, DN as uint16."""
    return np.round(np.random.default_rng(seed).poisson(SKY_DN * GAIN, shape) / GAIN).astype(np.uint16)


def header(**more):
    return fits.Header([*{**CARDS, **more}.items()])


def write(path, *images, primary=None):
    """One image as primary HDU; several as extensions under a primary header."""
    if len(images) == 1 and primary is None:
        fits.HDUList([fits.PrimaryHDU(images[0], header())]).writeto(path)
    else:
        hdus = [image if isinstance(image, fits.ImageHDU) else fits.ImageHDU(image) for image in images]
        fits.HDUList([fits.PrimaryHDU(header=primary or header()), *hdus]).writeto(path)
    return str(path)


def test_plain_gzipped_and_tile_compressed_files_give_the_same_epoch(tmp_path):
    data = counts()
    write(tmp_path / "a.fits", data)
    write(tmp_path / "a.fits.gz", data)
    compressed = fits.CompImageHDU(data, header(), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(tmp_path / "a.fits.fz")
    frames = [next(read_frames(tmp_path / name, GENERIC)) for name in ("a.fits", "a.fits.gz", "a.fits.fz")]
    assert len({frame.epoch_id for frame in frames}) == 1
    for frame in frames:
        np.testing.assert_array_equal(frame.image, data * np.float32(GAIN))
        assert frame.image.dtype == np.float32
        assert frame.image.dtype.isnative


def test_the_identity_of_an_exposure_is_its_pixels_alone(tmp_path):
    data = counts()
    first = write(tmp_path / "a.fits", data)
    second = tmp_path / "b.fits"
    fits.PrimaryHDU(data, header(OBJECT="renamed", GAIN=1.0)).writeto(second)
    changed = data.copy()
    changed[3, 4] += 1
    ids = [probe(p, GENERIC)[0].epoch_id for p in (first, second, write(tmp_path / "c.fits", changed))]
    assert ids[0] == ids[1] == epoch_id(data)
    assert ids[2] != ids[0]


def test_each_image_extension_is_a_frame_and_inherits_the_primary_header(tmp_path):
    second = fits.ImageHDU(counts(2), name="N2")
    second.header["GAIN"] = 4.0
    path = write(tmp_path / "m.fits", fits.ImageHDU(counts(1), name="N1"), second)
    one, two = read_frames(path, GENERIC)
    assert (one.facts.gain, two.facts.gain) == (GAIN, 4.0)
    assert one.facts.exptime == two.facts.exptime == 60.0
    assert [p.hdu for p in probe(path, GENERIC)] == [1, 2]
    assert one.source.endswith("[1]")


def test_a_url_reads_as_the_file_does(tmp_path):
    path = write(tmp_path / "a.fits.gz", counts())
    with fsspec.open("memory://night/a.fits.gz", "wb") as remote, open(path, "rb") as local:
        remote.write(local.read())
    here, there = read_frame(path, 0, GENERIC), read_frame("memory://night/a.fits.gz", 0, GENERIC)
    assert here.epoch_id == there.epoch_id
    with pytest.raises(InputError, match=r"memory://night/b\.fits does not exist"):
        probe("memory://night/b.fits", GENERIC)


def test_variance_is_the_photons_and_the_read_noise(tmp_path):
    frame = read_frame(write(tmp_path / "a.fits", counts()), 0, GENERIC)
    assert not frame.sky_subtracted
    np.testing.assert_allclose(frame.variance, frame.image + READ_NOISE**2)


def test_a_frame_without_a_gain_gets_the_one_its_noise_tells(tmp_path):
    data, path = counts(shape=(256, 256)), tmp_path / "a.fits"
    fits.PrimaryHDU(data, header(GAIN=None, MAGZERO=25.0)).writeto(path)
    [probed] = probe(path, GENERIC)
    assert not probed.problem
    frame = read_frame(path, 0, GENERIC)
    gain = frame.facts.gain
    assert gain == pytest.approx(GAIN, rel=0.05)
    assert frame.facts.gain_estimated
    assert any(
        note.startswith(f"gain {gain:.3g}±") and note.endswith("sky noise") for note in frame.facts.notes
    )
    np.testing.assert_array_equal(frame.image, data * np.float32(gain))
    assert frame.facts.zeropoint == pytest.approx(25 + 2.5 * math.log10(gain))
    assert frame.facts.saturation_electron == pytest.approx(5e4 * gain)
    per_second = header(GAIN=None, BUNIT="DN/s")
    fits.PrimaryHDU(data / np.float32(60), per_second).writeto(tmp_path / "b.fits")
    assert read_frame(tmp_path / "b.fits", 0, GENERIC).facts.gain == pytest.approx(GAIN, rel=0.05)


def test_without_gain_and_without_sky_a_frame_is_refused_with_the_keyword_to_add(tmp_path):
    data = (counts(shape=(256, 256)).astype(np.float32) - SKY_DN).astype(np.float32)
    fits.PrimaryHDU(data, header(GAIN=None)).writeto(tmp_path / "a.fits")
    with pytest.raises(
        InputError, match=r"no gain in the header.*gain: <electron per DN>.*sky was subtracted"
    ):
        read_frame(tmp_path / "a.fits", 0, GENERIC)


def test_where_the_sky_is_gone_the_scatter_speaks_and_sources_add_their_own_noise(tmp_path):
    data = counts().astype(np.float32) - SKY_DN
    data[40:44, 60:64] += 5000
    frame = read_frame(write(tmp_path / "a.fits", data), 0, GENERIC)
    assert frame.sky_subtracted
    background = frame.variance[frame.image < 3 * np.sqrt(SKY_DN * GAIN)] - np.maximum(
        frame.image[frame.image < 3 * np.sqrt(SKY_DN * GAIN)], 0
    )
    assert np.median(background) == pytest.approx(SKY_DN * GAIN, rel=0.1)
    np.testing.assert_allclose(frame.variance[41, 61], frame.image[41, 61] + SKY_DN * GAIN, rtol=0.1)


def test_a_crowded_frame_with_its_sky_is_not_taken_for_subtracted(tmp_path):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:96, :128]
    electrons = np.full((96, 128), SKY_DN * GAIN)
    for _ in range(60):
        cy, cx, flux = rng.uniform(0, 96), rng.uniform(0, 128), 10 ** rng.uniform(4, 5.5)
        electrons += flux * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.2**2)) / (2 * np.pi * 2.2**2)
    data = np.round(rng.poisson(electrons) / GAIN).astype(np.uint16)
    assert not read_frame(write(tmp_path / "a.fits", data), 0, GENERIC).sky_subtracted


def test_saturated_and_missing_pixels_are_flagged_and_missing_ones_are_nan(tmp_path):
    data = counts().astype(np.float32)
    data[5, 6], data[7, 8] = 60000, np.nan
    frame = read_frame(write(tmp_path / "a.fits", data), 0, GENERIC)
    assert frame.mask[5, 6] == Flag.SATURATED
    assert frame.mask[7, 8] == Flag.NO_DATA
    assert np.isnan(frame.image[7, 8])
    assert np.isnan(frame.variance[7, 8])
    assert np.count_nonzero(frame.mask) == 2


def decam_frame(folder, data, weight, quality, **more):
    folder.mkdir(exist_ok=True)
    cards = header(PLVER="V4.8.2", CCDNUM=33, **more)
    for part, plane in (("ooi", data), ("oow", weight), ("ood", quality)):
        write(folder / f"c4d_{part}_r.fits", fits.ImageHDU(plane, name="N2"), primary=cards)
    return str(folder / "c4d_ooi_r.fits")


def bright(data):
    out = data.astype(np.float32)
    out[30:40, 30:40] += 8000
    return out


def test_weights_become_variance_in_electrons_and_zero_weight_is_bad(tmp_path):
    data = bright(counts())
    weight = (1 / (data / GAIN + (READ_NOISE / GAIN) ** 2)).astype(np.float32)
    weight[2, 3] = 0
    frame = read_frame(decam_frame(tmp_path, data, weight, np.zeros(data.shape, np.int32)), 1, DECAM)
    good = frame.mask == 0
    np.testing.assert_allclose(frame.variance[good], (frame.image + READ_NOISE**2)[good], rtol=1e-5)
    assert frame.mask[2, 3] == Flag.BAD
    assert np.isfinite(frame.variance[2, 3])


def test_weights_that_hold_only_the_skys_noise_get_the_sources_noise(tmp_path):
    data = bright(counts())
    flat = np.full(data.shape, 1 / (SKY_DN / GAIN + (READ_NOISE / GAIN) ** 2), np.float32)
    frame = read_frame(decam_frame(tmp_path, data, flat, np.zeros(data.shape, np.int32)), 1, DECAM)
    np.testing.assert_allclose(frame.variance[32, 32], frame.image[32, 32] + READ_NOISE**2, rtol=0.02)


def test_quality_codes_and_the_bits_of_older_pipelines_become_flags(tmp_path):
    data, weight = counts().astype(np.float32), np.full((96, 128), 1e-2, np.float32)
    quality = np.zeros(data.shape, np.int32)
    quality[0, :9] = range(9)
    new = read_frame(decam_frame(tmp_path / "new", data, weight, quality), 1, DECAM)
    expected = [
        0,
        Flag.BAD,
        Flag.NO_DATA,
        Flag.SATURATED,
        Flag.BLEED,
        Flag.COSMIC_RAY,
        Flag.BAD,
        0,
        Flag.TRAIL,
    ]
    assert new.mask[0, :9].tolist() == expected
    quality[0, :3] = [1, 16, 64]
    folder = tmp_path / "old"
    path = decam_frame(folder, data, weight, quality)
    fits.setval(path, "PLVER", value="V3.4.9")
    old = read_frame(path, 1, DECAM)
    assert old.mask[0, :3].tolist() == [Flag.BAD, Flag.COSMIC_RAY, Flag.BLEED]


def test_planes_may_be_extensions_of_the_image_and_are_no_frames_themselves(tmp_path):
    data = counts().astype(np.float32)
    mask = np.zeros(data.shape, np.int16)
    mask[9, 9] = 4
    variance = np.full(data.shape, 123.0, np.float32)
    path = write(
        tmp_path / "m.fits",
        fits.ImageHDU(data, name="SCI"),
        fits.ImageHDU(variance, name="VARIANCE"),
        fits.ImageHDU(mask, name="MASK"),
    )
    (frame,) = read_frames(path, GENERIC)
    assert frame.variance[50, 50] == pytest.approx(123.0 * GAIN**2, rel=0.01)
    assert np.argwhere(frame.mask).tolist() == [[9, 9]]


def test_distorted_wcs_survives_as_a_header_string(realdata):
    path = next(iter(sorted((realdata / "sfft_decam_obs04_obs18" / "input_data").glob("*04a.mini*"))))
    frame = read_frame(path, 0, DECAM)
    again = read_wcs(probe(path, DECAM)[0].wcs_header)
    x, y = np.meshgrid([0.0, 128.0, 255.0], [0.0, 128.0, 255.0])
    np.testing.assert_allclose(
        again.pixel_to_world_values(x, y), frame.wcs.pixel_to_world_values(x, y), atol=1e-9
    )


def _bad_files(folder):
    """Name of a bad file -> what its error says."""
    write(folder / "good.fits", counts())
    content = (folder / "good.fits").read_bytes()
    (folder / "cut.fits").write_bytes(content[: len(content) // 2])
    (folder / "empty.fits").write_bytes(b"")
    (folder / "text.fits").write_bytes(b"not an image\n" * 500)
    (folder / "cut.fits.gz").write_bytes(gzip.compress(content)[:3000])
    fits.PrimaryHDU(header=header()).writeto(folder / "none.fits")
    write(folder / "nan.fits", np.full((96, 128), np.nan, np.float32))
    write(folder / "flat.fits", np.full((96, 128), 7, np.uint16))
    write(folder / "tiny.fits", counts(shape=(8, 8)))
    fits.PrimaryHDU(counts(), fits.Header({"EXPTIME": 60.0, "GAIN": 2.0})).writeto(folder / "timeless.fits")
    fits.PrimaryHDU(counts(), header(**{"MJD-OBS": 90000.0})).writeto(folder / "future.fits")
    return {
        "cut.fits": "cut short",
        "empty.fits": "empty",
        "text.fits": "not FITS",
        "cut.fits.gz": "cut short",
        "none.fits": "no two-dimensional image",
        "nan.fits": "every pixel is NaN",
        "flat.fits": "every pixel has the value 7",
        "tiny.fits": "8x8 pixels",
        "timeless.fits": "no time in the header",
        "future.fits": "not between 1858 and now",
        "absent.fits": "does not exist",
    }


def test_every_bad_file_is_an_input_error_that_names_the_file_and_the_fault(tmp_path):
    for name, said in _bad_files(tmp_path).items():
        with pytest.raises(InputError, match=said) as caught:
            list(read_frames(tmp_path / name, GENERIC))
        assert name in str(caught.value)


def test_bad_frames_are_told_apart_in_threads_and_warning_filters_survive(tmp_path):
    """Astropy's warnings become errors or silence inside; outside, the filters are as they were."""
    names = [*_bad_files(tmp_path), "good.fits"] * 3
    before = list(warnings.filters)

    def look(name):
        try:
            return probe(tmp_path / name, GENERIC)[0].problem
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    assert warnings.filters == before
    assert found["good.fits"] == ""
    assert "cut short" in found["cut.fits"]
    assert "future" in found["future.fits"] or "between 1858 and now" in found["future.fits"]
    assert [name for name, said in found.items() if not said] == ["nan.fits", "flat.fits", "good.fits"]


@pytest.mark.parametrize("part", ["oow", "ood"])
def test_planes_of_another_shape_are_refused_with_both_shapes(tmp_path, part):
    data = counts().astype(np.float32)
    path = decam_frame(tmp_path, data, np.ones(data.shape, np.float32), np.zeros(data.shape, np.int32))
    other = tmp_path / f"c4d_{part}_r.fits"
    other.unlink()
    write(other, fits.ImageHDU(np.zeros((50, 60), np.int32), name="N2"), primary=header())
    with pytest.raises(InputError, match=r"50x60.*96x128"):
        read_frame(path, 1, DECAM)


@pytest.mark.realdata
def test_decam_weights_and_scatter_agree_on_the_noise(realdata):
    """Five frames of the Community Pipeline: what the weights say is what the pixels do."""
    paths = sorted((realdata / "decam_epochs").glob("**/*_ooi_*.fits.gz"))
    frames = [next(read_frames(path, DECAM)) for path in paths if "psfex" not in str(path)]
    assert len(frames) == 5
    for frame in frames:
        assert not frame.sky_subtracted
        sky = np.median(frame.image)
        scatter = 1.4826 * np.median(np.abs(frame.image - sky))
        assert math.sqrt(np.median(frame.variance)) == pytest.approx(scatter, rel=0.06)
        # a bright pixel's variance grows by its electrons once, not twice
        top = frame.image > sky + 20 * scatter
        slope = np.polyfit(frame.image[top], frame.variance[top], 1)[0]
        assert slope == pytest.approx(1.0, abs=0.12)
    assert {frame.facts.band for frame in frames} == {"r", "z"}
    assert sum(math.isfinite(frame.facts.zeropoint) for frame in frames) == 2


@pytest.mark.realdata
def test_sfft_frames_are_seen_as_sky_subtracted_and_told_apart_by_their_pixels(realdata):
    paths = sorted((realdata / "sfft_decam_obs04_obs18" / "input_data").glob("*mini*"))
    frames = [read_frame(path, 0, DECAM) for path in paths]
    assert all(frame.sky_subtracted for frame in frames)
    assert len({frame.epoch_id for frame in frames}) == 10
    assert len({frame.facts.mjd for frame in frames}) == 1


@pytest.mark.realdata
def test_crowded_saao_frames_keep_their_sky(realdata):
    for path in sorted((realdata / "saao_iband_series" / "images").glob("*.fits.gz")):
        assert not read_frame(path, 0, GENERIC).sky_subtracted
