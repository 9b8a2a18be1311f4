"""Samples for people: what describes them is read when first touched, pixels when they are computed."""

import numpy as np
import xarray as xr

from astrid_dist.errors import ConfigError
from astrid_dist.query.cutouts import name_of
from astrid_dist.query.opening import read_when_touched
from astrid_dist.store import layouts, opening
from astrid_dist.store.opening import Product, Url
from astrid_dist.taxonomy import CODES


class Samples(Product):
    """The ``<survey>/<split>`` groups of a samples product; each is opened when asked for."""

    def __getitem__(self, group: str) -> xr.Dataset:
        dataset = super().__getitem__(group)
        small = [name for name, one in dataset.data_vars.items() if "v" not in one.dims]
        return dataset.assign(read_when_touched(dataset[small]).data_vars)


def open_samples(url: Url, allow_partial: bool = False) -> Samples:
    """Open samples: a mapping of ``<survey>/<split>`` to Datasets along ``sample``.

    ``pixels`` and ``target`` are Dask arrays with one chunk per shard. The columns that describe the samples
    are read, whole, when they are first touched, so that samples can be chosen by them.

    Raises
    ------
    ConfigError, IncompleteProductError, StorageError
        As `astrid_dist.store.opening.open_product`.

    Examples
    --------
    >>> train = open_samples("samples.zarr")["ztf/train"]  # doctest: +SKIP
    >>> bright = train.isel(sample=(train.snr > 10).any("visit"))  # doctest: +SKIP
    >>> bright.pixels.sel(plane="difference").mean(("sample", "visit")).plot()  # doctest: +SKIP
    """
    product = opening.open_samples(url, allow_partial)
    return Samples(product.location, product.attrs)


def names(dataset: xr.Dataset, variable: str) -> xr.DataArray:
    """What the codes of a variable stand for: class, kind, origin, environment, reason, labeller or band.

    Parameters
    ----------
    dataset : Dataset
        A group of samples, or part of one.
    variable : str
        Whose codes.

    Returns
    -------
    DataArray of str
        Dimensions as the codes have them; empty where nothing was written.

    Raises
    ------
    ConfigError
        The dataset holds no samples, or the variable no codes.
    """
    if dataset.attrs.get("product") != "samples":
        raise ConfigError(f"{name_of(dataset)} holds no samples: open them with open_samples")
    words = CODES | {"band": tuple(dataset.attrs["bands"])}
    if variable not in words or variable not in dataset:
        raise ConfigError(f"samples have no names for {variable!r}{layouts.close(variable, words)}")
    codes = dataset[variable]
    table = np.array([*words[variable], ""], dtype=object)  # the last for -1: never written
    numbers = codes.to_numpy()
    if numbers.size and not -1 <= numbers.min() <= numbers.max() < len(table) - 1:
        raise ConfigError(
            f"{name_of(dataset)}: {variable} has the codes {numbers.min()}..{numbers.max()}, this astrid_dist"
            f" knows {len(table) - 1} names: install a newer one"
        )
    return xr.DataArray(table[numbers], codes.coords, codes.dims, variable, {"long_name": codes.long_name})
