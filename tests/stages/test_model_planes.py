"""What a model sees of a difference is what it saw in samples, from products at rest."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from astrid_dist.errors import InputError
from astrid_dist.stages.blocks import Window
from astrid_dist.stages.model_planes import model_planes, open_inputs
from astrid_dist.stages.synthetic.host import PAD, open_host
from astrid_dist.stages.synthetic.stamps import scales_of
from astrid_dist.stages.tiles import Options
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, group_names
from astrid_dist.store.writing import ProductWriter
from tests.small_survey import SmallSurvey, small_survey

SIDE = 384


@pytest.fixture(scope="module")
def made() -> SmallSurvey:
    return small_survey()


def opened(made: SmallSurvey, folder: Path | None = None) -> ProductReader:
    """The difference, or a copy of it that a test may spoil."""
    url = made.difference
    if folder is not None:
        url = str(shutil.copytree(url, folder / "difference.zarr"))
    location = Location.parse(url)
    return ProductReader(location, next(group_names(location)))


@pytest.mark.parametrize("index", [1, 5])
def test_planes_are_those_that_samples_are_cut_from(made: SmallSurvey, index: int) -> None:
    reader = opened(made)
    planes = model_planes(reader, index, Window(0, SIDE, 0, SIDE))
    survey, reference = (Location.parse(url) for url in (made.survey, made.reference))
    host = open_host(survey, reference, reader.group, index, 0, 0, Options(0.1, True, "auto"))
    inner = (slice(PAD, -PAD),) * 2
    images = (host.science, host.template, host.difference, host.score)
    scales = (*scales_of(host), 1.0)
    for plane, (image, scale) in enumerate(zip(images, scales, strict=True)):
        expected = image[inner] / scale
        np.testing.assert_array_equal(np.isnan(planes[plane]), np.isnan(expected))
        np.testing.assert_allclose(planes[plane], expected, rtol=1e-3, atol=1e-3, err_msg=str(plane))
    noise = [np.nanpercentile(np.abs(plane - np.nanmedian(plane)), 50) * 1.4826 for plane in planes]
    np.testing.assert_allclose(noise[:3], 1, atol=0.2)
    assert np.isnan(planes[3]).any()  # something is lost, as in any exposure


def test_a_part_of_the_field_has_the_same_planes(made: SmallSurvey) -> None:
    reader = opened(made)
    whole = model_planes(reader, 4, Window(0, SIDE, 0, SIDE))
    window = Window(40, 300, 96, 384)
    part = model_planes(reader, 4, window)
    expected = whole[:, 40:300, 96:384]
    inside = (slice(8, -8), slice(8, -8))  # what is mended looks at its neighbours
    for plane, precision in enumerate((1e-6, 1e-6, 0.02, 0)):
        np.testing.assert_allclose(
            part[plane][inside], expected[plane][inside], rtol=precision, err_msg=plane
        )
    known = {"score": part[3] * 0 + 7, "difference": reader.read("difference", epoch=4, **window.slices)}
    given = model_planes(reader, 4, window, known)
    np.testing.assert_array_equal(given[:3], part[:3])
    assert set(np.unique(given[3][np.isfinite(given[3])])) == {7}


def test_inputs_that_are_gone_or_changed_are_said_with_what_to_do(made: SmallSurvey, tmp_path: Path) -> None:
    reader = opened(made, tmp_path)
    window = Window(0, 64, 0, 64)
    away = tmp_path / "away"
    for name in ("survey", "reference"):
        there = Path(getattr(made, name))
        there.rename(away)
        try:
            with pytest.raises(InputError, match=rf"needs the {name} .* cannot be read: .*without a model"):
                model_planes(reader, 0, window)
        finally:
            away.rename(there)
    assert [one.location for one in open_inputs(reader.location, reader.group)] == [
        Location.parse(made.survey),
        Location.parse(made.reference),
    ]
    ProductWriter(reader.location, reader.group).write_scalars({"epoch_id": ["another"]}, 0)
    with pytest.raises(InputError, match="holds another there now: make the difference again"):
        model_planes(reader, 0, window)
