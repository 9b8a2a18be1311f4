import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from astrid_dist.errors import ConfigError
from astrid_dist.store.opening import Product


def test_an_epoch_is_drawn_on_the_pixel_numbers_of_its_grid(survey):
    figure = survey.astrid.plot(epoch=1, x=120, y=100, size=21)
    assert isinstance(figure, Figure)
    shown = figure.axes[0].images[0]
    assert shown.get_extent() == [109.5, 130.5, 89.5, 110.5]
    assert "MJD 58850" in figure.axes[0].get_title()
    drawn = np.asarray(shown.get_array())
    assert np.unravel_index(np.argmax(drawn), drawn.shape) == (10, 10)


def test_a_plane_that_is_not_there_cannot_be_drawn(survey, candidates):
    with pytest.raises(ConfigError, match="no plane 'score'"):
        survey.astrid.plot("epoch", variable="score")
    with pytest.raises(ConfigError, match="no plane 'image'"):
        candidates.astrid.plot()
    with pytest.raises(ConfigError, match="epoch, triplet, light_curve"):
        survey.astrid.plot("histogram")


def test_an_epoch_that_is_not_there_is_named_with_how_many_there_are(survey):
    count = survey.sizes["epoch"]
    with pytest.raises(ConfigError, match=rf"has {count} epochs, there is no epoch {count}"):
        survey.astrid.plot("epoch", epoch=count)


def test_the_greys_of_an_epoch_are_labelled_with_values_and_unit(survey):
    survey["image"].attrs["units"] = "electron"
    bar = survey.astrid.plot(epoch=1, variable="image").axes[1]
    assert bar.get_ylabel() == "image (electron), asinh scale"
    ticks = [float(text.get_text()) for text in bar.get_yticklabels()]
    # Noise of 2 electrons on a sky of 200; marks at -2, 0, 5, 20 and 100 sigma.
    np.testing.assert_allclose(ticks, [196, 200, 210, 240, 400], rtol=0.01)


@pytest.fixture
def made_of(survey, difference):
    """A difference, and the survey and reference it was made of."""
    names = ["image", "variance", "mask", "psf", "background"]
    reference = xr.Dataset({name: survey[name][0] for name in names}, attrs=survey.attrs)
    difference["survey_epoch"] = ("epoch", [3, 2, 1, 0])
    difference["flux_ratio"] = difference["sigma_n"] * 0 + 2
    return difference, survey, reference


def test_a_triplet_takes_the_sky_out_and_science_to_the_flux_scale_of_the_reference(made_of, monkeypatch):
    from astrid_dist.figures import triplets

    drawn = []
    draw = triplets.triplet
    monkeypatch.setattr(
        triplets, "triplet", lambda *planes, **kw: drawn.append(planes) or draw(*planes, **kw)
    )
    difference, survey, reference = made_of
    figure = difference.astrid.plot(
        "triplet", epoch=1, x=120.3, y=99.6, size=21, survey=survey, reference=reference
    )
    assert len(figure.axes) == 4
    science, template = drawn[0][:2]
    inner = (slice(4, 17), slice(4, 17))
    assert science[inner].sum() == pytest.approx(3000 / 2, rel=0.05)
    assert template[inner].sum() == pytest.approx(1000, rel=0.1)
    title = figure.get_suptitle()
    for part in ("f0/r", "2020-01-02 00:00 UTC", "x 120.3, y 99.6", "ra 149.99996, dec 1.99994"):
        assert part in title


def test_a_triplet_takes_whole_products_and_says_what_is_missing(made_of):
    class InMemory(Product):
        def __init__(self, group):
            self.group = group

        def __getitem__(self, name):
            return {"f0/r": self.group}[name]

    difference, survey, reference = made_of
    at = {"epoch": 1, "x": 120, "y": 100, "size": 9}
    whole = {"survey": InMemory(survey), "reference": InMemory(reference)}
    assert len(difference.astrid.plot("triplet", **at, **whole).axes) == 4
    groups = {"survey": survey, "reference": reference}
    for kind, wrong in (
        ("survey", None),
        ("reference", None),
        ("survey", "survey.zarr"),
        ("reference", "reference.zarr"),
        ("survey", reference),
        ("reference", survey),
        ("survey", difference),
    ):
        with pytest.raises(ConfigError, match=rf"{kind}=open_{kind}\(URL\), or its group 'f0/r'"):
            difference.astrid.plot("triplet", **at, **(groups | {kind: wrong}))
    with pytest.raises(ConfigError, match="epoch=, 0 to 3"):
        difference.astrid.plot("triplet", **(at | {"epoch": None}), **groups)
    with pytest.raises(ConfigError, match=r"isel\(epoch=\[3\]\)"):
        difference.isel(epoch=1).astrid.plot("triplet", **at, **groups)


def test_a_light_curve_is_in_microjansky_only_where_every_zero_point_is_known(survey):
    curve = survey.astrid.light_curve(x=120.3, y=99.6)
    assert curve.astrid.plot().axes[0].get_ylabel() == "flux (electron)"
    curve = curve.isel(epoch=[0, 1])
    assert curve.astrid.plot().axes[0].get_ylabel() == "flux (µJy)"
    with pytest.raises(ConfigError, match="uJy or electron"):
        curve.astrid.plot(unit="Jy")
    with pytest.raises(ConfigError, match="not a light curve"):
        survey.astrid.plot("light_curve")


def test_detections_of_an_object_in_two_units_are_not_drawn_on_one_axis(candidates):
    candidates["flux_err"] = candidates["flux"] * 0 + 1
    history = candidates.astrid.light_curve(object=7)
    assert "µJy" in history.astrid.plot().axes[0].get_ylabel()
    history["flux_unit"][0] = "electron"
    with pytest.raises(ConfigError, match="electron and uJy"):
        history.astrid.plot()
