"""The reference stage: which epochs, what enters, what it says of itself; on painted and on real epochs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import astrid_dist as astrid
from astrid_dist.engine.plan import Plan
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.flags import Flag
from astrid_dist.imaging.masks import source_free
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf import evaluate
from astrid_dist.imaging.registration import NO_OFFSET
from astrid_dist.imaging.stars import measure_stars
from astrid_dist.simulation.render import paint_points
from astrid_dist.stages.blocks import Window
from astrid_dist.stages.reference import _terms_in
from astrid_dist.stages.run import plan_stage, run_stage
from astrid_dist.stages.stacking import open_members
from astrid_dist.store.layouts import STARS, variables
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow
from astrid_dist.store.writing import ProductWriter
from tests.imaging.stacks import BOX, MIXED, Scene, paint
from tests.realsky import SETS

GROUP, SKY = "f1/r", 400.0
OFFSETS = np.array([(0, 0), (0.4, -0.3), (-0.5, 0.1), (0.2, 0.7), (-0.1, 0.2)])
#: Electrons of each epoch per electron of the first.
RATIOS = np.array([1.0, 0.8, 1.1, 0.9, 1.05])
#: Where a supernova shines in the third epoch alone.
VISITOR = (96.3, 144.2)


def visitor(epoch, truth, psf):
    if epoch == 2:
        paint_points(truth, [VISITOR[0]], [VISITOR[1]], [2e4], psf)


def store(path: Path, scene: Scene, ratios=RATIOS, **columns) -> Location:
    """A survey of painted epochs, measured as ingest would; the second row of tiles of epoch 1 is missing."""
    location = Location.parse(path)
    count, height, width = scene.images.shape
    create_product(location, "survey")
    sizes = {"epoch": 0, "y": height, "x": width, "psf_term": 1, "v": BOX, "u": BOX}
    create_group(location, "survey", GROUP, sizes, {"psf_order": 0, "oversampling": 1})
    grow(location, "survey", GROUP, count)
    writer = ProductWriter(location, GROUP)
    cells = (-(-height // 64), -(-width // 64))
    for epoch in range(count):
        image, variance = scene.images[epoch] * ratios[epoch], scene.variances[epoch] * ratios[epoch] ** 2
        mask = np.zeros(image.shape, np.uint16)
        mask[200:203, 100:110] = Flag.BAD
        mask[60:64, 20:30] = Flag.SATURATED if epoch == 0 else 0
        psf = scene.psfs[epoch] / scene.psfs[epoch].sum()
        stars = fit_star_fluxes(
            image, variance, mask, psf, measure_stars(image, variance, mask, MIXED[epoch % 5])
        )
        noise = np.full(cells, scene.noise[epoch] * ratios[epoch], np.float32)
        planes = {"image": image + np.float32(SKY), "variance": variance, "mask": mask, "psf": psf[None]}
        planes |= {"background": np.full(cells, SKY, np.float32), "background_rms": noise}
        for name in ("x", "y", "flux", "flux_err", "flags"):
            layout = variables("survey")[f"star_{name}"]
            planes[f"star_{name}"] = np.full(STARS, layout.fill_value, layout.dtype)
            planes[f"star_{name}"][: len(stars)] = getattr(stars, name)
        for name, values in planes.items():
            writer.write(name, {"epoch": epoch}, values)
    rows = {
        one.name: [f"{one.name}{epoch}" if one.dtype == "string" else 1 for epoch in range(count)]
        for one in variables("survey").values()
        if one.is_scalar
    }
    rows |= {"zeropoint": [25.0 + 2.5 * np.log10(ratio) for ratio in ratios], "fwhm": list(MIXED[:count])}
    rows |= {
        "valid": [True] * count,
        "verdict": ["good"] * count,
        "sky": [SKY] * count,
        "exptime": [30.0] * count,
    }
    rows |= {"gain_estimated": [False] * count}
    writer.write_scalars(rows | columns, 0)
    commit_epochs(location, GROUP, count)
    return location


@pytest.fixture(scope="module")
def scene() -> Scene:
    return paint(offsets=OFFSETS, shape=(240, 240), faint=1e4, extra=visitor)


@pytest.fixture(scope="module")
def survey(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Location:
    return store(tmp_path_factory.mktemp("painted") / "survey.zarr", scene)


def make(survey: Location, output: Path, **settings):
    run_stage("reference", {"survey": str(survey), "output": str(output), **settings}, SerialEngine())
    return astrid.open_reference(str(output))[GROUP]


def planned(survey: Location, folder: Path, epochs: str) -> Plan:
    return plan_stage(
        "reference", {"survey": str(survey), "output": str(folder / "r.zarr"), "epochs": epochs}
    )


@pytest.fixture(scope="module", params=["proper", "mean"])
def made(request, survey: Location, tmp_path_factory: pytest.TempPathFactory):
    return make(survey, tmp_path_factory.mktemp(request.param) / "r.zarr", epochs="all", method=request.param)


def test_stars_have_the_flux_of_the_first_epoch_and_its_places(made, scene: Scene) -> None:
    for x, y, flux in zip(scene.x, scene.y, scene.flux, strict=True):
        nearest = int(np.nanargmin(np.hypot(made["star_x"] - x, made["star_y"] - y)))
        star = made.isel(star=nearest)
        assert np.hypot(star["star_x"] - x, star["star_y"] - y) < 0.05 + 3 * 100 / flux
        assert float(star["star_flux"]) == pytest.approx(
            flux, rel=0.015, abs=4 * float(star["star_flux_err"])
        )


def test_noise_is_white_and_as_the_variance_says(made) -> None:
    image, variance = made["image"].values, made["variance"].values
    quiet = source_free(image, float(np.nanmedian(made["background_rms"])), 3.5)
    quiet[:20] = quiet[-20:] = False
    values = np.where(quiet, image / np.sqrt(variance), np.nan)
    assert np.nanstd(values) == pytest.approx(1, abs=0.04)
    assert abs(np.nanmean(values[1:] * values[:-1])) < 0.05
    assert abs(np.nanmean(values[:, 1:] * values[:, :-1])) < 0.05


def test_a_supernova_of_one_epoch_is_not_in_it(made) -> None:
    x, y = (int(place) for place in VISITOR)
    assert np.all(made["n_epochs"].values[y - 1 : y + 2, x - 1 : x + 2] == 4)
    around = made["image"].values[y - 3 : y + 4, x - 3 : x + 4]
    # A fifth of it would be 4000 electrons.
    assert abs(around.sum()) < 5 * 7 * float(np.nanmedian(made["background_rms"]))


def test_masks_say_what_entered_and_holes_of_all_epochs_stay_holes(made) -> None:
    hole = made.isel(y=slice(200, 202), x=slice(101, 109))
    assert np.isnan(hole["image"]).all()
    assert (hole["mask"] == int(Flag.BAD | Flag.NO_DATA)).all()
    assert (hole["n_epochs"] == 0).all()
    part = made.isel(y=slice(61, 63), x=slice(22, 28))
    assert (part["n_epochs"] == 4).all()
    assert (part["mask"] == 0).all()
    assert np.isfinite(part["image"]).all()


def test_it_says_what_it_is_made_of(made) -> None:
    said = made.attrs["reference"]
    assert said["epochs"] == [0, 1, 2, 3, 4]
    assert said["sources"] == [f"source{epoch}" for epoch in range(5)]
    assert np.multiply(said["scales"], RATIOS) == pytest.approx(np.ones(5), rel=0.01)
    assert np.sum(said["weights"]) == pytest.approx(1)
    assert said["zeropoint"] == 25.0
    assert said["exptime"] == 150.0
    np.testing.assert_allclose(said["offsets"], OFFSETS, atol=0.05)
    assert 2.5 < said["fwhm"] < 4.0
    assert made["psf"].values[0].sum() == pytest.approx(1, abs=1e-4)
    assert made.attrs["oversampling"] == 1


def test_the_same_job_gives_the_same_bits(survey: Location, tmp_path: Path) -> None:
    one, other = (make(survey, tmp_path / name, epochs="all") for name in ("a.zarr", "b.zarr"))
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values)


def test_best_leaves_out_what_something_is_wrong_with_and_says_why(scene: Scene, tmp_path: Path) -> None:
    survey = store(
        tmp_path / "survey.zarr",
        scene,
        elongation=[1.05, 1.1, 2.4, 1.1, np.nan],
        psf_chi2=[1.0, 1.1, 1.2, 9.0, np.nan],
        verdict=["good", "good", "good", "good", "trailed"],
    )
    made = make(survey, tmp_path / "reference.zarr", epochs="best:3")
    # Two are fit: the deepest of the rest makes up the three that outvote a transient.
    assert made.attrs["reference"]["epochs"] == [0, 1, 2]
    left = made.attrs["reference"]["left_out"]
    assert set(left) == {"source3", "source4"}
    assert "PSF chi-square 9.0 against a median of 1.2" in left["source3"]
    assert left["source4"] == "trailed"


def test_best_says_how_much_less_deep_the_others_are(survey: Location, tmp_path: Path) -> None:
    plan = planned(survey, tmp_path, "best:3")
    left = plan.job.settings["left_out"][GROUP]
    assert len(left) == 2
    assert all("mag less than the last one taken" in reason for reason in left.values())


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"sky": [400, 400, 400, 400, 4000]}, "sky of 133 electrons per second against a median of 13.3"),
        ({"bad_fraction": [0.01, 0.02, 0.01, 0.01, 0.4]}, "40% of its pixels without data"),
        ({"zeropoint": [25, 25, 25, 25, 23.5]}, "zero point of one second 19.81 mag"),
    ],
)
def test_clouds_moonlight_and_missing_pixels_count(
    scene: Scene, tmp_path: Path, fault: dict, text: str
) -> None:
    survey = store(tmp_path / "survey.zarr", scene, **fault)
    plan = planned(survey, tmp_path, "best:5")
    assert plan.job.settings["epochs"][GROUP] == [0, 1, 2, 3]
    assert text in plan.job.settings["left_out"][GROUP]["source4"]


def test_few_epochs_are_warned_of(survey: Location, tmp_path: Path) -> None:
    for number, text in ((1, "whatever is in it"), (2, "the fainter is believed")):
        assert any(text in warning for warning in planned(survey, tmp_path, f"best:{number}").warnings)
    assert not planned(survey, tmp_path, "best:3").warnings


def test_the_psf_of_a_mean_is_the_mean_of_the_terms(survey: Location) -> None:
    members = open_members(ProductReader(survey, GROUP), [0, 4], 3.0, proper=False)
    members = replace(members, comparisons=[members.comparisons[0].with_offset(NO_OFFSET)], order=1)
    slope = np.zeros((2, BOX, BOX), np.float32)
    slope[:, 20, 20], slope[:, 20, 21] = -0.01, 0.01
    members.psfs[:] = [np.concatenate([terms, slope * (1 + 2 * n)]) for n, terms in enumerate(members.psfs)]
    expected = sum(w * terms for w, terms in zip(members.weights, members.psfs, strict=True))
    np.testing.assert_allclose(members.psf_terms(), expected, atol=2e-5)


def test_terms_of_a_window_are_those_of_the_field() -> None:
    rng = np.random.default_rng(0)
    terms, window, shape = (
        rng.normal(size=(6, 9, 9)).astype(np.float32),
        Window(300, 700, 50, 950),
        (900, 1000),
    )
    here = _terms_in(terms, 2, window, shape)
    for x, y in ((60.0, 310.0), (500.0, 500.0), (949.0, 699.0)):
        np.testing.assert_allclose(
            evaluate(here, 2, x - 50, y - 300, window.shape), evaluate(terms, 2, x, y, shape), atol=1e-4
        )


@pytest.mark.realdata
def test_five_real_exposures_give_more_than_their_mean(realdata: Path, tmp_path: Path) -> None:
    chosen = SETS[1]
    survey = tmp_path / "survey.zarr"
    ingest = {"paths": chosen.paths(realdata), "survey": "decam", "output": str(survey), "field": "F"}
    run_stage("ingest", ingest, SerialEngine())
    found = {}
    for method in ("mean", "proper"):
        settings = {"survey": str(survey), "output": str(tmp_path / method), "epochs": chosen.reference}
        run_stage("reference", {**settings, "method": method}, SerialEngine())
        found[method] = astrid.open_reference(str(tmp_path / method))["F/i"].load()
    mean, proper = found["mean"], found["proper"]

    def noise(one):
        sigma = float(np.nanmedian(one["background_rms"]))
        values = np.where(source_free(one["image"].values, sigma, 3.6), one["image"].values, np.nan)
        lag = np.nanmean(values[:, 1:] * values[:, :-1]) / np.nanvar(values)
        return np.square(one["psf"].values[0].astype(float)).sum() / sigma**2, lag

    (depth_mean, lag_mean), (depth, lag) = noise(mean), noise(proper)
    # Their seeing is alike, so that there is little to gain; 0.5 % is measured.
    assert depth > 1.002 * depth_mean
    # Resampled frames are correlated; the co-add adds nothing to it.
    assert lag < lag_mean + 0.02
    compared = 0
    for star in range(60):
        x, y, flux = (float(mean[name][star]) for name in ("star_x", "star_y", "star_flux"))
        if not (flux > 1.5e5 and mean["star_flags"][star] == 0):
            continue
        same = int(np.nanargmin(np.hypot(proper["star_x"] - x, proper["star_y"] - y)))
        assert float(proper["star_flux"][same]) == pytest.approx(flux, rel=0.005)
        compared += 1
    assert compared >= 4
    assert (proper["n_epochs"].values >= 3).all()
