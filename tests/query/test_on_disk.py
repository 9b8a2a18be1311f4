"""Queries through the real store: they answer as in memory do, and read no more than they need."""

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import astrid_dist
from astrid_dist.store.locations import Location
from astrid_dist.store.tables import write_table
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow, set_state
from astrid_dist.store.writing import ProductWriter

HEIGHT, WIDTH, EPOCHS, BOX = 256, 2304, 2, 21
SEAM = 2048
"""Column where the second shard begins."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A survey of two epochs and two shards, and the same values as a difference."""
    folder = tmp_path_factory.mktemp("products")
    rng = np.random.default_rng(1)
    image = rng.normal(100, 2, (EPOCHS, HEIGHT, WIDTH)).astype("f4")
    star = np.exp(-0.5 * (((np.indices((BOX, BOX)) - BOX // 2) / 1.5) ** 2).sum(axis=0))
    star /= star.sum()
    image[:, 100 - 10 : 111, SEAM - 10 : SEAM + 11] += (5000 * star).astype("f4")
    planes = {
        "survey": {"image": image, "variance": np.full_like(image, 4)},
        "difference": {
            "difference": image - 100,
            "score": image,
            "sigma_flux": np.full_like(image, 9),
        },
    }
    for product, arrays in planes.items():
        location = Location.parse(folder / f"{product}.zarr")
        create_product(location, product)
        sizes = {"y": HEIGHT, "x": WIDTH, "epoch": 0, "v": BOX, "u": BOX}
        create_group(
            location,
            product,
            "f0/r",
            sizes | ({"psf_term": 1} if product == "survey" else {}),
            {"psf_order": 0},
        )
        grow(location, product, "f0/r", EPOCHS)
        writer = ProductWriter(location, "f0/r")
        for epoch in range(EPOCHS):
            _write_epoch(writer, product, epoch, arrays, star)
        writer.write_scalars(
            {
                "mjd": [58849.0, 58850.0],
                "time": np.array(["2020-01-01", "2020-01-02"], "datetime64[us]"),
                "zeropoint": [25.0, 25.0],
                "valid": [True, True],
            },
            0,
        )
        commit_epochs(location, "f0/r", EPOCHS)
        set_state(location, "complete")
    return folder


def _write_epoch(writer, product, epoch, arrays, star):
    for x0, x1 in ((0, SEAM), (SEAM, WIDTH)):
        region = {"epoch": epoch, "y": slice(0, HEIGHT), "x": slice(x0, x1)}
        for name, values in arrays.items():
            writer.write(name, region, values[epoch, :, x0:x1])
        writer.write("mask", region, np.zeros((HEIGHT, x1 - x0), "u2"))
        if product == "survey":
            mesh = {"mesh_y": slice(0, 4), "mesh_x": slice(x0 // 64, x1 // 64)}
            writer.write("background", {"epoch": epoch, **mesh}, np.full((4, (x1 - x0) // 64), 100, "f4"))
        else:
            tiles = {"tile_y": slice(0, 1), "tile_x": slice(x0 // 512, -(-x1 // 512))}
            count = tiles["tile_x"].stop - tiles["tile_x"].start
            writer.write("psf_d", {"epoch": epoch, **tiles}, np.tile(star.astype("f4"), (1, count, 1, 1)))
    if product == "survey":
        writer.write("psf", {"epoch": epoch}, star[None].astype("f4"))


@pytest.fixture
def reads(monkeypatch):
    """Keys and bytes of every read of a local Zarr store from here on."""
    seen: list[tuple[str, int]] = []
    get = LocalStore.get

    async def counted(self, key, *args, **kwargs):
        found = await get(self, key, *args, **kwargs)
        seen.append((key, 0 if found is None else len(found)))
        return found

    monkeypatch.setattr(LocalStore, "get", counted)
    return seen


def test_opening_and_building_cutouts_and_light_curves_reads_no_pixel(stored, reads):
    for opened in (
        astrid_dist.open_survey(stored / "survey.zarr"),
        astrid_dist.open_difference(stored / "difference.zarr"),
    ):
        cube = opened["f0/r"]
        reads.clear()  # metadata and the values per epoch
        cube.astrid.cutout(x=2040, y=3, size=63)
        curve = cube.astrid.light_curve(x=2040.2, y=100)
        assert curve["mjd"].values.tolist() == [58849.0, 58850.0]
        assert reads == []


@pytest.mark.parametrize(
    ("x", "y", "chunks"),
    [(128, 128, 1), (128, 3, 1), (256, 128, 2), (SEAM, 128, 2), (WIDTH - 1, HEIGHT - 1, 1)],
)
def test_a_cutout_reads_the_chunks_it_touches_and_no_others(stored, reads, x, y, chunks):
    cut = astrid_dist.open_survey(stored / "survey.zarr")["f0/r"].astrid.cutout(x=x, y=y, size=63)
    reads.clear()
    cut["image"].isel(epoch=1).compute()
    assert all(key.startswith("f0/r/image/c/1/") for key, _ in reads)
    chunk_bytes = 256 * 256 * 4
    assert sum(size for _, size in reads) < chunks * (chunk_bytes + 4096)
    assert len(reads) <= 2 * chunks  # one for the index of a shard, one for the chunk


def test_a_light_curve_reads_one_chunk_of_each_plane_of_each_epoch(stored, reads):
    curve = astrid_dist.open_survey(stored / "survey.zarr")["f0/r"].astrid.light_curve(x=128, y=128)
    reads.clear()
    curve.compute()
    images = EPOCHS * 256 * 256 * (4 + 4 + 2)
    assert sum(size for _, size in reads) < 1.1 * images


def test_answers_across_a_seam_of_shards_are_those_of_the_values_in_memory(stored):
    for product in ("survey", "difference"):
        opened = getattr(astrid_dist, f"open_{product}")(stored / f"{product}.zarr")
        cube = opened["f0/r"]
        lazy, eager = cube.astrid, cube.compute().astrid
        at = {"x": float(SEAM), "y": 100.0}
        xr.testing.assert_equal(lazy.cutout(**at).compute(), eager.cutout(**at))
        curve = lazy.light_curve(**at).compute()
        xr.testing.assert_equal(curve, eager.light_curve(**at))
        np.testing.assert_allclose(curve["flux"], 5000, atol=60)


def test_a_table_is_read_column_by_column_when_touched_and_can_be_filtered(tmp_path, reads):
    columns = {
        "x": np.arange(5.0),
        "snr": np.array([9, 3, -9, 12, 5], "f4"),
        "field": np.array(list("abcde"), object),
    }
    create_product(Location.parse(tmp_path / "night.zarr"), "candidates")
    write_table(Location.parse(tmp_path / "night.zarr"), "candidates", columns, {})
    set_state(Location.parse(tmp_path / "night.zarr"), "complete")
    reads.clear()
    table = astrid_dist.open_candidates(tmp_path / "night.zarr")
    assert {key for key, _ in reads} <= {"flux_unit/c/0"}
    reads.clear()
    strong = table.snr > 8
    assert {key.split("/")[0] for key, _ in reads} == {"snr"}
    kept = table.where(strong, drop=True)
    assert kept["field"].values.tolist() == ["a", "d"]
    assert sorted(key for key, _ in reads) == sorted(f"{name}/c/0" for name in table.data_vars)
    assert table.astrid.to_dataframe()["x"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("second", "unit"), [("uJy", "uJy"), ("electron", None), ("", None)])
def test_fluxes_have_a_unit_when_all_rows_of_all_tables_agree_and_are_still_unread(
    tmp_path, reads, second, unit
):
    for name, units in (("one", ["uJy", "uJy"]), ("two", ["uJy", second])):
        location = Location.parse(tmp_path / f"{name}.zarr")
        columns = {
            "flux": np.ones(2, "f4"),
            "flux_err": np.ones(2, "f4"),
            "flux_unit": np.array(units, object),
        }
        create_product(location, "candidates")
        write_table(location, "candidates", columns, {})
        set_state(location, "complete")
    reads.clear()
    table = astrid_dist.open_candidates([tmp_path / "one.zarr", tmp_path / "two.zarr"])
    assert {key.split("/")[0] for key, _ in reads} == {"flux_unit"}
    assert table["flux"].attrs.get("units") == table["flux_err"].attrs.get("units") == unit
    assert "units" not in table["flux_unit"].attrs
    assert astrid_dist.open_candidates(tmp_path / "one.zarr")["flux"].attrs["units"] == "uJy"
