"""Frames without a quality plane get their blemishes masked; frames with one are taken at its word."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from astrid_dist.flags import Flag
from astrid_dist.formats.fits import read_frame
from astrid_dist.imaging.resampling import Grid
from astrid_dist.stages.exposure import PsfModel, measure_exposure
from astrid_dist.stages.founding import FieldStars
from astrid_dist.surveys.profile import load_profile
from tests.starfield import Optics, paint

SHAPE, SKY = (300, 300), 400.0
HITS = [(50, 60), (150, 220), (260, 90)]
ROW = 120


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """The same exposure with and without a quality plane, read."""
    folder = tmp_path_factory.mktemp("exposures")
    field = paint(Optics(3.5), SHAPE, 60, (3e3, 1e5), sky=SKY, seed=3)
    counts = field.image + np.float32(SKY)
    for y, x in HITS:
        counts[y, x] += 4000
    counts[ROW] -= 80
    header = {"EXPTIME": 30.0, "GAIN": 1.0, "RDNOISE": 3.0, "MJD-OBS": 60000.0, "FILTER": "r"}
    image = fits.PrimaryHDU(counts.astype(np.float32), fits.Header(header))
    mask = fits.ImageHDU(np.zeros(SHAPE, np.int16), name="MASK")
    image.writeto(folder / "raw.fits")
    fits.HDUList([image, mask]).writeto(folder / "reduced.fits")
    profile = load_profile("generic")
    return tuple(read_frame(folder / f"{name}.fits", 0, profile) for name in ("raw", "reduced"))


def measured(frame):
    """One epoch on its own pixels."""
    profile, grid = load_profile("generic"), Grid("", *SHAPE)
    field = FieldStars(frame.epoch_id, None)
    return measure_exposure(frame, grid, profile, PsfModel.of(profile, grid), field)


def test_a_raw_frame_is_masked_where_it_is_spoiled_and_says_so(frames):
    raw, _ = frames
    assert not raw.has_quality
    planes, scalars = measured(raw)
    mask = planes["mask"]
    assert all(mask[y, x] & Flag.COSMIC_RAY for y, x in HITS)
    assert ((mask & int(Flag.BLEED)) != 0)[ROW].all()
    spoiled = np.isin(np.arange(SHAPE[0]), ROW)
    assert not (mask[~spoiled] & int(Flag.BLEED)).any()
    assert np.count_nonzero(mask & int(Flag.COSMIC_RAY)) <= 9 * len(HITS)
    assert "no quality plane: " in scalars["reason"]
    assert "of cosmic rays and 300 of bleeding stars or spoiled lines masked" in scalars["reason"]


def test_a_quality_plane_is_taken_at_its_word(frames):
    _, reduced = frames
    assert reduced.has_quality
    planes, scalars = measured(reduced)
    assert not planes["mask"].any()
    assert "quality plane" not in scalars["reason"]


def test_a_clean_raw_frame_says_nothing(frames):
    raw, _ = frames
    image = raw.image.copy()
    for y, x in HITS:
        image[y, x] -= 4000
    image[ROW] += 80
    planes, scalars = measured(replace(raw, image=image))
    assert not planes["mask"].any()
    assert "quality plane" not in scalars["reason"]
