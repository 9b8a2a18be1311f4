"""Figures of what was asked: an epoch, a triplet, a light curve; drawn by `astrid_dist.figures`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from astrid_dist.errors import ConfigError
from astrid_dist.query import quality
from astrid_dist.query.cutouts import (
    Degrees,
    cutout,
    grid_shape,
    grid_wcs,
    name_of,
    pixel_position,
    require_epochs,
)
from astrid_dist.store.opening import Product

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Forced photometry is drawn as a detection from this signal-to-noise on.
DETECTED_SNR = 5.0


def plot(dataset: xr.Dataset, kind: str | None = None, **options: Any) -> "Figure":
    """Draw a dataset; reads what it draws.

    Parameters
    ----------
    dataset : Dataset
        A cube, a cutout, or a light curve.
    kind : str, optional
        ``epoch``, ``triplet``, ``light_curve`` or ``trend``; left out, what the dataset is.
    **options
        Those of `plot_epoch`, `plot_triplet`, `plot_light_curve`, `plot_trend`.

    Raises
    ------
    ConfigError
        There is no such kind, or the dataset does not hold what it needs.
    """
    if kind is None:
        kind = "light_curve" if dataset.attrs.get("product") == "light_curve" else "epoch"
    if kind not in KINDS:
        raise ConfigError(f"there is no plot of kind {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](dataset, **options)


def plot_epoch(
    dataset: xr.Dataset,
    *,
    epoch: int = 0,
    variable: str | None = None,
    ra: Degrees = None,
    dec: Degrees = None,
    x: float | None = None,
    y: float | None = None,
    size: int = 63,
) -> "Figure":
    """Draw one plane of one epoch, all of it or `size` pixels around a position, with an asinh stretch.

    Parameters
    ----------
    dataset : Dataset
        A survey, reference or difference group, or a cutout of one.
    epoch : int
        Index of the epoch; a reference has none.
    variable : str, optional
        The plane: ``image``, or ``difference`` on a difference.
    ra, dec, x, y : float, optional
        Degrees, or pixels.
    size : int
        Side in pixels, with a position.
    """
    from astrid_dist.figures.canvas import new_figure
    from astrid_dist.figures.triplets import robust_level, stretch, stretch_bar

    name = variable or ("difference" if "difference" in dataset else "image")
    if name not in dataset or not {"y", "x"} <= set(dataset[name].dims):
        raise ConfigError(f"{name_of(dataset)} has no plane {name!r} to draw")
    _check_epoch(dataset, epoch)
    shown = dataset
    if any(value is not None for value in (ra, dec, x, y)):
        shown = cutout(dataset, *pixel_position(dataset, ra, dec, x=x, y=y), size)
    plane = _plane(shown, name, epoch)
    rows, columns = (shown[axis].to_numpy() if axis in shown.coords else np.arange(n) for axis, n in
                     zip(("y", "x"), plane.shape, strict=True))  # fmt: skip
    figure, axes = new_figure(6.0, 5.2 * min(2.0, max(0.5, plane.shape[0] / plane.shape[1])))
    level, noise = robust_level(plane.astype("f8"))
    picture = axes.imshow(
        stretch(plane, level, noise),
        origin="lower",
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(columns[0] - 0.5, columns[-1] + 0.5, rows[0] - 0.5, rows[-1] + 0.5),
    )
    unit = dataset[name].attrs.get("units", "1")
    label = name if unit == "1" else f"{name} ({unit})"
    stretch_bar(picture, level, noise, f"{label}, asinh scale")
    axes.set_xlabel("x (pixel)")
    axes.set_ylabel("y (pixel)")
    axes.set_title(
        " ".join(part for part in (dataset.attrs.get("group"), name, _when(dataset, epoch)) if part)
    )
    return figure


def plot_triplet(
    dataset: xr.Dataset,
    *,
    survey: Mapping[Any, Any] | None = None,
    reference: Mapping[Any, Any] | None = None,
    epoch: int | None = None,
    ra: Degrees = None,
    dec: Degrees = None,
    x: float | None = None,
    y: float | None = None,
    size: int = 63,
) -> "Figure":
    """Draw science, reference, difference and score around a position.

    Science and reference are shown without sky, on the reference's flux scale.

    Parameters
    ----------
    dataset : Dataset
        The difference group.
    survey, reference : Dataset or Product
        What it was made of: the groups, or all that ``open_survey`` and ``open_reference`` gave.
    epoch : int
        Index of the epoch in the difference.
    ra, dec, x, y : float
        Degrees (or a SkyCoord as `ra`), or pixels.
    size : int
        Side in pixels.

    Raises
    ------
    ConfigError
        Something is missing or of another kind, or there is no such epoch or position.
    """
    from astrid_dist.figures.triplets import triplet

    if "difference" not in dataset:
        raise ConfigError(
            f"a triplet is asked of a difference; {name_of(dataset)} has no variable 'difference'"
        )
    require_epochs(dataset)
    if epoch is None:
        raise ConfigError(f"a triplet is of one epoch: give epoch=, 0 to {dataset.sizes['epoch'] - 1}")
    _check_epoch(dataset, epoch)
    survey, reference = _made_of(dataset, "survey", survey), _made_of(dataset, "reference", reference)
    position = pixel_position(dataset, ra, dec, x=x, y=y)
    subtracted = cutout(dataset, *position, size).isel(epoch=epoch)
    index = int(dataset["survey_epoch"][epoch])
    ratio = float(subtracted["flux_ratio"])
    science = _without_sky(survey, cutout(survey, *position, size), index) / ratio
    template = _without_sky(reference, cutout(reference, *position, size), None)
    planes = (science, template, subtracted["difference"].to_numpy(), subtracted["score"].to_numpy())
    title = [dataset.attrs.get("group"), _when(dataset, epoch), _where(dataset, *position)]
    return triplet(*planes, title="   ".join(part for part in title if part))


def _made_of(dataset: xr.Dataset, kind: str, given: Any) -> xr.Dataset:
    """The group of the survey or reference a difference was made of, from what the caller passed."""
    group = dataset.attrs.get("group", "<field>/<band>")
    if isinstance(given, Product):
        given = given[group]
    has_epochs = isinstance(given, xr.Dataset) and "epoch" in given.dims
    if (
        not isinstance(given, xr.Dataset)
        or not {"image", "background"} <= set(given.variables)
        or has_epochs != (kind == "survey")
    ):
        shown = name_of(given) if isinstance(given, xr.Dataset) else repr(given)
        raise ConfigError(
            f"a triplet needs the {kind} that the difference was made of: {kind}=open_{kind}(URL), or its "
            f"group {group!r}; not {shown}"
        )
    return given


def _check_epoch(dataset: xr.Dataset, epoch: int) -> None:
    count = dataset.sizes.get("epoch")
    if count is not None and not -count <= epoch < count:
        raise ConfigError(f"{name_of(dataset)} has {count} epochs, there is no epoch {epoch}")


def _without_sky(dataset: xr.Dataset, cut: xr.Dataset, epoch: int | None) -> npt.NDArray[Any]:
    from astrid_dist.imaging.background import evaluate

    grid_shape(dataset)
    mesh = dataset["background"] if epoch is None else dataset["background"].isel(epoch=epoch)
    image = _plane(cut, "image", epoch)
    y0, x0 = int(cut["y"][0]), int(cut["x"][0])
    sky = evaluate(mesh.to_numpy(), int(dataset.attrs["mesh_box"]), y0, x0, *image.shape)
    return np.asarray(image - sky)


def plot_light_curve(dataset: xr.Dataset, *, unit: str | None = None) -> "Figure":
    """Draw flux against time, what is below 5 sigma with open symbols.

    Parameters
    ----------
    dataset : Dataset
        What ``light_curve`` gave, of a cube or of an object.
    unit : str, optional
        ``uJy`` or ``electron``; left out, uJy where every zero point is known.
    """
    from astrid_dist.figures import curves

    if not {"mjd", "flux", "flux_err"} <= set(dataset.variables):
        raise ConfigError(f"{name_of(dataset)} is not a light curve: make one with .astrid.light_curve(...)")
    curve = dataset.compute()
    flux, error, unit = _fluxes(curve, unit)
    detected = np.abs(curve["snr"].to_numpy()) >= DETECTED_SNR if "snr" in curve else None
    shown = unit.replace("uJy", "µJy")
    figure = curves.light_curve(curve["mjd"].to_numpy(), flux, error, detected=detected, unit=shown)
    if dataset.attrs.get("of") == "survey":
        figure.axes[0].set_ylabel(f"flux ({shown})")
    return figure


def plot_trend(dataset: xr.Dataset, *, metrics: Sequence[str] | None = None) -> "Figure":
    """Draw the quality of a difference's epochs against time, coloured by verdict; dotted: limits of green.

    Parameters
    ----------
    dataset : Dataset
        A difference group.
    metrics : sequence of str, optional
        Which of `astrid_dist.imaging.quality.METRICS`; left out, the main ones.
    """
    from astrid_dist.figures.quality import trend

    if "verdict" not in dataset or "quality" not in dataset:
        raise ConfigError(f"a trend is asked of a difference; {name_of(dataset)} holds no quality per epoch")
    table = quality.epoch_table(dataset)
    panels = quality.trend_panels(table, quality.thresholds_of(dataset), metrics)
    figure = trend(table["mjd"], panels, table["verdict"].tolist())
    figure.suptitle(str(dataset.attrs.get("group", "")), fontsize=10)
    return figure


def _fluxes(curve: xr.Dataset, unit: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any], str]:
    if "flux_unit" in curve:
        units = sorted(set(curve["flux_unit"].to_numpy().tolist()))
        if len(units) != 1 or unit not in (None, units[0]):
            wanted = "one unit" if unit is None else unit
            raise ConfigError(
                f"fluxes are in {' and '.join(units)}, not in {wanted}: choose rows of one flux_unit"
            )
        return curve["flux"].to_numpy(), curve["flux_err"].to_numpy(), units[0]
    if unit is None:
        unit = "uJy" if np.isfinite(curve["zeropoint"].to_numpy()).all() else "electron"
    if unit not in ("uJy", "electron"):
        raise ConfigError(f"a light curve is in uJy or electron, not in {unit!r}")
    names = ("flux_ujy", "flux_ujy_err") if unit == "uJy" else ("flux", "flux_err")
    return curve[names[0]].to_numpy(), curve[names[1]].to_numpy(), unit


def _plane(dataset: xr.Dataset, name: str, epoch: int | None) -> npt.NDArray[Any]:
    plane = dataset[name]
    if "epoch" in plane.dims:
        plane = plane.isel(epoch=epoch)
    return np.asarray(plane.to_numpy())


def _when(dataset: xr.Dataset, epoch: int) -> str:
    if "mjd" not in dataset.variables:
        return ""
    mjd = float(dataset["mjd"][epoch] if dataset["mjd"].ndim else dataset["mjd"])
    if not np.isfinite(mjd):
        return ""
    minute = np.datetime64("1858-11-17", "m") + np.timedelta64(round(mjd * 1440), "m")
    return f"{str(minute).replace('T', ' ')} UTC (MJD {mjd:.4f})"


def _where(dataset: xr.Dataset, x: float, y: float) -> str:
    if not dataset.attrs.get("wcs"):
        return f"x {x:.1f}, y {y:.1f}"
    ra, dec = (float(value) for value in grid_wcs(dataset).pixel_to_world_values(x, y))
    return f"x {x:.1f}, y {y:.1f} (ra {ra:.5f}, dec {dec:.5f})"


KINDS: "dict[str, Callable[..., Figure]]" = {
    "epoch": plot_epoch,
    "triplet": plot_triplet,
    "light_curve": plot_light_curve,
    "trend": plot_trend,
}
