"""Small products in memory that follow the layouts, with known truth in them."""

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS

import astrid_dist.query  # noqa: F401 - registers the accessor

HEIGHT, WIDTH, EPOCHS, BOX, MESH_BOX = 200, 240, 4, 21, 64
CENTRE = (150.0, 2.0)
ZEROPOINT = 25.0


def gaussian(x, y, shape, sigma=1.5):
    """A unit-sum star with its centre at (x, y)."""
    rows, columns = np.indices(shape)
    stamp = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return stamp / (2 * np.pi * sigma**2)


def header():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = CENTRE
    wcs.wcs.crpix = WIDTH / 2 + 1, HEIGHT / 2 + 1  # FITS counts from 1: pixel (120, 100) is the centre
    wcs.wcs.cdelt = -0.5 / 3600, 0.5 / 3600
    return wcs.to_header_string()


def scalars():
    mjd = 58849.0 + np.arange(EPOCHS)
    time = np.datetime64("2020-01-01", "us") + np.arange(EPOCHS) * np.timedelta64(86_400_000_000, "us")
    return {
        "epoch_id": ("epoch", np.array([f"id{i}" for i in range(EPOCHS)], dtype=object)),
        "time": ("epoch", time),
        "mjd": ("epoch", mjd),
        "exptime": ("epoch", np.full(EPOCHS, 30, "f4")),
        "zeropoint": ("epoch", np.array([ZEROPOINT, ZEROPOINT, np.nan, ZEROPOINT])),
        "valid": ("epoch", np.array([True, True, True, False])),
    }


def attributes(product):
    return {
        "product": product,
        "url": f"memory://{product}",
        "group": "f0/r",
        "wcs": header(),
        "tile": 128,
        "mesh_box": MESH_BOX,
        "psf_order": 0,
        "oversampling": 1,
    }


@pytest.fixture
def survey():
    """Sky of 200 electrons and one star of 1000, 2000, 3000, 4000 electrons at (120.3, 99.6)."""
    rng = np.random.default_rng(7)
    star = gaussian(120.3, 99.6, (HEIGHT, WIDTH))
    flux = 1000.0 * np.arange(1, EPOCHS + 1)
    image = 200 + flux[:, None, None] * star + rng.normal(0, 2, (EPOCHS, HEIGHT, WIDTH))
    mesh = (-(-HEIGHT // MESH_BOX), -(-WIDTH // MESH_BOX))
    psf = gaussian(BOX // 2, BOX // 2, (BOX, BOX))
    planes = ("epoch", "y", "x")
    return xr.Dataset(
        {
            "image": (planes, image.astype("f4")),
            "variance": (planes, np.full(image.shape, 4, "f4")),
            "mask": (planes, np.zeros(image.shape, "u2")),
            "psf": (
                ("epoch", "psf_term", "v", "u"),
                np.tile(psf / psf.sum(), (EPOCHS, 1, 1, 1)).astype("f4"),
            ),
            "background": (("epoch", "mesh_y", "mesh_x"), np.full((EPOCHS, *mesh), 200, "f4")),
            "star_x": (("epoch", "star"), np.full((EPOCHS, 5), np.nan)),
            **scalars(),
        },
        attrs=attributes("survey"),
    )


@pytest.fixture
def difference():
    """A difference whose only source has 500 electrons at (60.25, 140.5), noise of 0."""
    shape = (EPOCHS, HEIGHT, WIDTH)
    planes, tiles = ("epoch", "y", "x"), ("epoch", "tile_y", "tile_x")
    image = np.broadcast_to(500 * gaussian(60.25, 140.5, shape[1:]), shape)
    psf = gaussian(BOX // 2, BOX // 2, (BOX, BOX)).astype("f4")
    rows = np.broadcast_to(np.arange(HEIGHT, dtype="f4")[:, None], shape)
    return xr.Dataset(
        {
            "difference": (planes, image.astype("f4")),
            "score": (planes, np.zeros(shape, "f4")),
            "sigma_flux": (planes, rows.copy()),
            "mask": (planes, np.zeros(shape, "u2")),
            "psf_d": ((*tiles, "v", "u"), np.tile(psf / psf.sum(), (EPOCHS, 2, 2, 1, 1))),
            "sigma_n": (tiles, np.arange(EPOCHS * 4, dtype="f4").reshape(EPOCHS, 2, 2)),
            **scalars(),
        },
        attrs=attributes("difference"),
    )


@pytest.fixture
def candidates():
    """Five detections of three objects, in two units."""
    rows = "candidate"
    return xr.Dataset(
        {
            "x": (rows, np.arange(5.0)),
            "y": (rows, np.arange(5.0)),
            "ra": (rows, [150.0, 150.0, 150.001, 150.1, 359.9999]),
            "dec": (rows, [2.0, 2.0, 2.0, 2.0, 0.0]),
            "mjd": (rows, [3.0, 1.0, 2.0, 1.0, 1.0], {"units": "day"}),
            "time": (rows, np.array([3, 1, 2, 1, 1], "datetime64[D]").astype("datetime64[us]")),
            "flux": (rows, np.array([5, 4, 3, 2, 1], "f4"), {"long_name": "PSF flux"}),
            "flux_unit": (rows, np.array(["uJy", "uJy", "uJy", "electron", "uJy"], dtype=object)),
            "object": (rows, np.array([7, 7, 8, 9, 10], "i8")),
        },
        attrs={"product": "candidates", "url": "memory://candidates"},
    )
