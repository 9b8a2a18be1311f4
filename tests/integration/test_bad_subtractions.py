"""Frames spoiled in a known way go through the pipeline: the verdict and the words must fit the deed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy import ndimage

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.writing import ProductWriter

MOCK = {
    "size_px": 512,
    "epochs": 6,
    "template_epochs": 3,
    "supernovae": 3,
    "hostless": 1,
    "variables": 3,
    "asteroids": 0,
    "cosmic_rays": 0.0,
    "star_density": 900.0,
}
Spoil = Callable[[np.ndarray, fits.Header, np.random.Generator], np.ndarray]


def sky_of(data: np.ndarray) -> float:
    return float(np.median(data))


def untouched(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    return data


def clouded(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """A fifth of the light of every star; the sky, and with it the noise, stays."""
    sky = sky_of(data)
    noise = np.sqrt(0.8 * sky / header["GAIN"]) * rng.normal(size=data.shape)
    return 0.2 * data + 0.8 * sky + noise


def trailed(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """The telescope moved by nine pixels during the exposure; photon noise is made anew."""
    smeared = ndimage.uniform_filter1d(data, 9, axis=1)
    return smeared + np.sqrt(np.maximum(smeared, 1) / header["GAIN"]) * rng.normal(size=data.shape)


def moonlit(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """Twenty times the sky and its noise."""
    more = 19 * sky_of(data)
    return data + more + np.sqrt(more / header["GAIN"]) * rng.normal(size=data.shape)


def saturated(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """A full well a little above the sky: most stars are cut, and bright ones bleed along columns."""
    full = sky_of(data) * 1.3
    header["SATURATE"] = full
    data = np.minimum(data, full)
    for x in np.flatnonzero((data >= full).sum(axis=0) > 8):
        data[:, x] = full
    return data


def displaced(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """A WCS that is wrong by a pixel and a half, which registration takes out."""
    header["CRPIX1"] += 1.5
    return data + rng.integers(0, 2, data.shape)  # the same pixels would be the same exposure


def misplaced(data: np.ndarray, header: fits.Header, rng: np.random.Generator) -> np.ndarray:
    """A WCS that is wrong by twenty pixels."""
    header["CRPIX1"] += 20
    return data + rng.integers(0, 2, data.shape)


KINDS: dict[str, Spoil] = {
    one.__name__: one for one in (untouched, clouded, trailed, moonlit, saturated, displaced, misplaced)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Survey of good template frames and spoiled ones, its reference, and one of another sky."""
    folder = tmp_path_factory.mktemp("bad")
    engine = SerialEngine()
    for name, seed in (("sky", 5), ("other", 6)):
        run_stage(
            "mock",
            {**MOCK, "output": f"{folder}/{name}.zarr", "files": f"{folder}/{name}", "seed": seed},
            engine,
        )
    frames = sorted((folder / "sky").iterdir())
    rng = np.random.default_rng(8)
    for number, (kind, spoil) in enumerate(KINDS.items()):
        with fits.open(frames[3]) as hdus:
            data, header = hdus[1].data.astype(np.float64), hdus[1].header.copy()
        header["MJD-OBS"] += 0.01 * number
        del header["DATE-OBS"]
        data = spoil(data, header, rng)
        header.remove("BZERO", ignore_missing=True)
        header.remove("BSCALE", ignore_missing=True)
        fits.writeto(folder / "sky" / f"{kind}.fits", np.rint(data).astype(np.float32), header)
    for name in ("sky", "other"):
        survey = f"{folder}/{name}_survey.zarr"
        run_stage("ingest", {"paths": [f"{folder}/{name}"], "output": survey, "field": "F"}, engine)
        templates = [frame.name for frame in frames[:3]]
        reference = {"survey": survey, "output": f"{folder}/{name}_reference.zarr", "epochs": templates}
        run_stage("reference", reference, engine)
    return folder


def difference(folder: Path, reference: str, name: str, **settings: object) -> xr.Dataset:
    output = f"{folder}/{name}.zarr"
    given = {"survey": f"{folder}/sky_survey.zarr", "reference": f"{folder}/{reference}.zarr"}
    run_stage("difference", {**given, "output": output, **settings}, SerialEngine())
    return astrid.open_difference(output)["F/r"]


@pytest.fixture(scope="module")
def cube(folder: Path) -> xr.Dataset:
    return difference(folder, "sky_reference", "difference")


def row_of(cube: xr.Dataset, kind: str) -> xr.Dataset:
    where = [index for index, source in enumerate(cube["source"].values) if f"/{kind}.fits" in str(source)]
    return cube.isel(epoch=where[0])


def test_a_good_one_passes(cube: xr.Dataset) -> None:
    row = row_of(cube, "untouched")
    assert row["verdict"] == "green", str(row["reason"].values)
    assert row["quality"] > 0.7


def test_an_offset_that_was_corrected_is_said_and_does_little_harm(cube: xr.Dataset) -> None:
    row = row_of(cube, "displaced")
    assert float(row["quality_dx"] - row_of(cube, "untouched")["quality_dx"]) == pytest.approx(-1.5, abs=0.03)
    assert row["quality_displacement"] < 0.03
    assert row["verdict"] == "yellow"
    assert "poor astrometry: stars were offset by -1." in str(row["reason"].values)


@pytest.mark.parametrize(
    ("kind", "worst", "words"),
    [
        ("clouded", "yellow", "clouded"),
        ("trailed", "yellow", "trailed"),
        ("moonlit", "yellow", "moonlit"),
        ("saturated", "orange", "saturated"),
    ],
)
def test_a_spoiled_frame_gets_the_verdict_and_the_words_it_deserves(
    cube: xr.Dataset, kind: str, worst: str, words: str
) -> None:
    row = row_of(cube, kind)
    order = ["quarantined", "red", "orange", "yellow", "green"]
    assert order.index(str(row["verdict"].values)) <= order.index(worst), str(row["reason"].values)
    assert words in str(row["reason"].values)
    assert row["quality"] < row_of(cube, "untouched")["quality"] - 0.1 or not bool(row["valid"])


def test_a_frame_that_lies_elsewhere_is_set_aside_with_the_reason(cube: xr.Dataset) -> None:
    row = row_of(cube, "misplaced")
    assert not bool(row["valid"])
    assert row["verdict"] == "quarantined"
    assert "not on one pixel grid" in str(row["reason"].values)


def test_a_frame_that_lies_elsewhere_is_left_out_of_a_reference(folder: Path) -> None:
    output = f"{folder}/best_reference.zarr"
    given = {"survey": f"{folder}/sky_survey.zarr", "output": output, "epochs": "best:12"}
    run_stage("reference", given, SerialEngine())
    made = astrid.open_reference(output)["F/r"].attrs["reference"]
    assert not any("misplaced" in source for source in made["sources"])
    [reason] = [said for source, said in made["left_out"].items() if "misplaced" in source]
    assert reason == "its stars are not where those of the other epochs are"


def test_the_wrong_reference_is_refused(folder: Path) -> None:
    cube = difference(folder, "other_reference", "wrong_reference", epochs=["untouched.fits"])
    row = cube.isel(epoch=0)
    assert str(row["verdict"].values) in ("quarantined", "red")
    assert "grid" in str(row["reason"].values) or "wrong reference" in str(row["reason"].values)


def test_a_wrong_psf_is_seen_in_what_stars_leave(folder: Path) -> None:
    survey = Location.parse(f"{folder}/sky_survey.zarr")
    reader = ProductReader(survey, "F/r")
    index = next(i for i, one in enumerate(reader.read("source")) if "/untouched.fits" in str(one))
    right = reader.read("psf", epoch=index)
    wide = ndimage.gaussian_filter(right[0], 1.2)
    wrong = np.zeros_like(right)
    wrong[0] = wide / wide.sum()
    writer = ProductWriter(survey, "F/r")
    try:
        writer.write("psf", {"epoch": index}, wrong)
        cube = difference(folder, "sky_reference", "wrong_psf", epochs=["untouched.fits"], refine="never")
        refined = difference(folder, "sky_reference", "refined_psf", epochs=["untouched.fits"], refine="auto")
    finally:
        writer.write("psf", {"epoch": index}, right)
    row = cube.isel(epoch=0)
    assert str(row["verdict"].values) != "green"
    assert "wrong PSF" in str(row["reason"].values)
    # Refining the PSF by the pair's own stars repairs it.
    assert refined.isel(epoch=0)["quality"] > row["quality"] + 0.2
