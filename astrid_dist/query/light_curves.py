"""Flux against time at one position of a cube: forced PSF photometry, lazy until asked."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from astrid_dist.flags import Flag, cf_attributes
from astrid_dist.query.cutouts import grid_shape, psf_at, require_epochs, tile_values, window
from astrid_dist.query.magnitudes import ab_magnitude, microjansky

Array = npt.NDArray[Any]
#: Flux, its error, flags; along epoch.
Measured = tuple[xr.DataArray, xr.DataArray, xr.DataArray]

#: Mask bits are gathered within this distance of the position, as in the candidates table.
FLAG_RADIUS_PX = 2.0
#: Unit and long name of what a light curve holds.
VARIABLES = {
    "flux": ("electron", "PSF flux on the {what}, in electrons of {scale}"),
    "flux_err": ("electron", "standard error of flux, in electrons of {scale}"),
    "snr": ("1", "signal to noise, flux over flux_err"),
    "flux_ujy": ("uJy", "PSF flux on the {what}"),
    "flux_ujy_err": ("uJy", "standard error of flux_ujy"),
    "mag": ("mag", "AB magnitude of the flux on the {what}"),
    "mag_err": ("mag", "standard error of mag"),
    "flag": ("", "mask bits within two pixels"),
}


def light_curve(dataset: xr.Dataset, x: float, y: float) -> xr.Dataset:
    """Forced PSF photometry at a fixed position over the valid epochs of a survey or a difference.

    On a survey: optimal PSF flux of ``image`` minus the background mesh, with the epoch's own PSF.
    On a difference: least-squares fit of ``psf_d`` to ``difference``, whose noise is white by
    construction (ZOGY eq. 13); at a pixel's centre that is ``score * sigma_flux``, and unlike
    interpolating these maps it stays exact between pixels. The error is ``sigma_flux`` there, so it has
    source noise, astrometric noise and renormalisation in it. Where less than half of the PSF's light falls
    on usable pixels there is no flux.

    Parameters
    ----------
    dataset : Dataset
        A survey or difference group, whole in y and x.
    x, y : float
        Position in pixels of the grid.

    Returns
    -------
    Dataset
        Lazy, along ``epoch``: ``time``, ``mjd``, ``epoch_id``; ``flux``, ``flux_err`` in electrons (of that
        exposure on a survey, on the reference's scale on a difference); ``snr``; ``flux_ujy``,
        ``flux_ujy_err``, ``mag``, ``mag_err`` (NaN where no zero point is known; magnitudes NaN where the
        flux is not positive); ``flag``, the mask bits within 2 pixels.
    """
    require_epochs(dataset)
    dataset = dataset.assign_coords(epoch=_epoch_numbers(dataset))
    chosen = np.arange(dataset.sizes["epoch"])
    if "valid" in dataset:
        chosen = np.flatnonzero(dataset["valid"].to_numpy())
    measure = _on_difference if "difference" in dataset else _on_survey
    flux, flux_err, flag = measure(dataset, chosen, x, y)
    dataset = dataset.isel(epoch=chosen)
    zeropoint = dataset["zeropoint"].astype("f8")
    mag, mag_err = ab_magnitude(flux, flux_err, zeropoint)
    measured = {
        "flux": flux,
        "flux_err": flux_err,
        "snr": flux / flux_err,
        "flux_ujy": microjansky(flux, zeropoint),
        "flux_ujy_err": microjansky(flux_err, zeropoint),
        "mag": mag,
        "mag_err": mag_err,
        "flag": flag,
    }
    of = "difference" if "difference" in dataset else "survey"
    return xr.Dataset(
        # whole new attributes: arithmetic would hand on those of the image
        {name: (values.dims, values.data, _attributes(name, of)) for name, values in measured.items()},
        coords={
            name: dataset[name].variable
            for name in ("epoch", "time", "mjd", "epoch_id", "exptime", "zeropoint")
            if name in dataset
        },
        attrs={
            **{key: dataset.attrs[key] for key in ("url", "group", "survey") if key in dataset.attrs},
            "product": "light_curve",
            "of": of,
            "x": x,
            "y": y,
        },
    )


def _attributes(name: str, of: str) -> dict[str, object]:
    unit, long_name = VARIABLES[name]
    if name == "flag":
        return {"long_name": long_name, **cf_attributes(Flag)}
    what, scale = ("difference", "the reference") if of == "difference" else ("image", "that exposure")
    return {"units": unit, "long_name": long_name.format(what=what, scale=scale)}


def _epoch_numbers(dataset: xr.Dataset) -> Array:
    return np.asarray(dataset["epoch"]) if "epoch" in dataset.coords else np.arange(dataset.sizes["epoch"])


def _on_survey(dataset: xr.Dataset, epochs: Array, x: float, y: float) -> Measured:
    from astrid_dist.imaging.background import evaluate as background
    from astrid_dist.imaging.photometry import forced_flux

    grid_shape(dataset)  # a slice would put the background mesh and the PSF in the wrong place
    cut = window(dataset, x, y, dataset.sizes["v"] + 2).isel(epoch=epochs)
    x0, y0 = int(cut["x"][0]), int(cut["y"][0])
    box = int(dataset.attrs["mesh_box"])
    meshes = dataset["background"].isel(epoch=epochs)

    def one_epoch(image: Array, variance: Array, mask: Array, mesh: Array, psf: Array) -> Any:
        if not np.isfinite(psf).all():
            return np.nan, np.nan, _flags(mask, x - x0, y - y0)
        sky = background(mesh, box, y0, x0, *image.shape)
        flux, flux_err = forced_flux(image - sky, variance, mask, psf, [x - x0], [y - y0])
        return flux[0], flux_err[0], _flags(mask, x - x0, y - y0)

    return _each_epoch(
        one_epoch,
        [cut["image"], cut["variance"], cut["mask"], meshes, psf_at(dataset, x, y).isel(epoch=epochs)],
        [["y", "x"], ["y", "x"], ["y", "x"], ["mesh_y", "mesh_x"], ["v", "u"]],
    )


def _on_difference(dataset: xr.Dataset, epochs: Array, x: float, y: float) -> Measured:
    from scipy.ndimage import map_coordinates

    from astrid_dist.imaging.photometry import forced_flux

    cut = window(dataset, x, y, dataset.sizes["v"] + 2).isel(epoch=epochs)
    x0, y0 = int(cut["x"][0]), int(cut["y"][0])
    psf_d = tile_values(dataset, x, y)["psf_d"]

    def one_epoch(difference: Array, sigma: Array, mask: Array, psf: Array) -> Any:
        if not np.isfinite(psf).all():
            return np.nan, np.nan, _flags(mask, x - x0, y - y0)
        flux, _ = forced_flux(difference, np.ones_like(difference), mask, psf, [x - x0], [y - y0])
        # sigma_flux is smooth: linear interpolation is enough, and a NaN beside the position stays NaN.
        flux_err = map_coordinates(sigma.astype("f8"), [[y - y0], [x - x0]], order=1, mode="nearest")[0]
        known = np.isfinite(flux_err)
        return np.where(known, flux[0], np.nan), flux_err, _flags(mask, x - x0, y - y0)

    return _each_epoch(
        one_epoch,
        [cut["difference"], cut["sigma_flux"], cut["mask"], psf_d.isel(epoch=epochs)],
        [["y", "x"], ["y", "x"], ["y", "x"], ["v", "u"]],
    )


def _each_epoch(function: Any, arrays: list[xr.DataArray], dims: list[list[str]]) -> Measured:
    measured: Measured = xr.apply_ufunc(
        function,
        *arrays,
        input_core_dims=dims,
        output_core_dims=[[], [], []],
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.float64, np.float64, np.uint16],
        # A window across the seam of two shards, and the mesh of a large frame, come in several chunks.
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return measured


def _flags(mask: Array, x: float, y: float) -> Any:
    rows, columns = np.indices(mask.shape)
    near = (rows - y) ** 2 + (columns - x) ** 2 <= FLAG_RADIUS_PX**2
    return np.bitwise_or.reduce(mask[near], initial=0)
