"""How one epoch compares with another by their stars: flux ratio, offset, and what is missing."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.imaging import registration
from astrid_dist.imaging.field_models import Surface
from astrid_dist.imaging.registration import NO_OFFSET, Offset
from astrid_dist.imaging.stars import StarList

#: Below this many matched stars the flux scale comes from the zero points, where there are any.
FEW_STARS = 8
#: Below this many an offset is neither believed nor corrected.
FEWEST_FOR_OFFSET = 4
#: Offsets smaller than this are left to the astrometric noise, pixels.
SMALLEST_SHIFT = 0.01
#: Where both have this many stars, this part must match; chance alone matches a tenth.
ENOUGH_TO_JUDGE, LEAST_MATCHED = 30, 0.25


Float64 = NDArray[np.float64]
OFFSET_FIELDS = ("dx", "dy", "dx_err", "dy_err", "scatter_x", "scatter_y")
LOCAL_FIELDS = ("flux_ratio", "flux_ratio_err", "flux_scatter", *OFFSET_FIELDS)


@dataclass(frozen=True)
class Local:
    """Epoch against reference at one place of the field: what the subtraction of a tile needs to know."""

    flux_ratio: float
    """Electrons of the epoch per electron of the reference, same star."""
    flux_ratio_err: float
    flux_scatter: float
    """Scatter of the ratio between single stars beyond their noise, a fraction."""
    dx: float
    """Stars of the epoch minus stars of the reference, pixels; NaN where not measured."""
    dy: float
    dx_err: float
    dy_err: float
    scatter_x: float
    """Scatter of single stars beyond their centroid noise, pixels."""
    scatter_y: float
    n_stars: int
    """Matched stars within the tile."""

    @property
    def shift(self) -> tuple[float, float]:
        """The offset worth correcting: measured, beyond three of its errors and not too small to matter."""
        return _worth_correcting(self.dx, self.dx_err), _worth_correcting(self.dy, self.dy_err)

    @property
    def flux_sigma(self) -> float:
        """By how much the scale of a single star may be off: error of the ratio and scatter between stars."""
        return float(np.hypot(self.flux_ratio_err, self.flux_ratio * self.flux_scatter))

    def astrometric_sigma(self, fallback: float) -> tuple[float, float]:
        """What is left of misregistration after correction, pixels (x, y); enters S_corr.

        Scatter of single stars, and the error of the offset or, if larger, the offset left uncorrected.
        """
        if not np.isfinite([self.dx, self.dy]).all():
            return fallback, fallback
        shift_x, shift_y = self.shift
        return (
            float(np.hypot(self.scatter_x, max(self.dx_err, abs(self.dx - shift_x)))),
            float(np.hypot(self.scatter_y, max(self.dy_err, abs(self.dy - shift_y)))),
        )


def _worth_correcting(offset: float, error: float) -> float:
    return offset if abs(offset) > max(3 * error, SMALLEST_SHIFT) else 0.0


@dataclass(frozen=True)
class FieldModels:
    """How offset and flux ratio vary over the field; None where one value has to do."""

    dx: Surface | None
    dy: Surface | None
    log_ratio: Surface | None
    """Natural logarithm of the flux ratio."""
    x: Float64
    """Places of the matched stars in the reference, (n,) pixels."""
    y: Float64


@dataclass(frozen=True)
class Comparison(Local):
    """Epoch against reference over the whole field, as one value each; `at` says it place by place."""

    verdict: str
    reason: str
    models: FieldModels

    @property
    def n_matched(self) -> int:
        """Stars found in both."""
        return self.n_stars

    @property
    def scatter(self) -> float:
        """Scatter of single stars beyond their centroid noise, pixels per axis."""
        return float(np.hypot(self.scatter_x, self.scatter_y) / np.sqrt(2))

    def at(self, x: float, y: float, half_px: float) -> Local:
        """The values for a tile centred at a pixel of the field.

        Parameters
        ----------
        x, y : float
            Centre of the tile, pixels of the field.
        half_px : float
            Half its side.

        Returns
        -------
        Local
            The surfaces at the centre. The scatter is that of the field, where the tile holds ten stars or
            more drawn towards theirs; it includes what the surface changes within the tile.
        """
        models = self.models
        local = {name: getattr(self, name) for name in LOCAL_FIELDS}
        if models.log_ratio is not None:
            mean, error = models.log_ratio.at(x, y)
            local["flux_ratio"], local["flux_ratio_err"] = np.exp(mean), np.exp(mean) * error
            local["flux_scatter"] = _scatter(models.log_ratio, x, y, half_px)
        for axis, surface in (("x", models.dx), ("y", models.dy)):
            if surface is not None:
                local[f"d{axis}"], local[f"d{axis}_err"] = surface.at(x, y)
                local[f"scatter_{axis}"] = _scatter(surface, x, y, half_px)
        inside = (np.abs(models.x - x) <= half_px) & (np.abs(models.y - y) <= half_px)
        return Local(**{name: float(value) for name, value in local.items()}, n_stars=int(inside.sum()))

    def with_offset(self, offset: Offset) -> "Comparison":
        """The same with an offset measured otherwise, the same all over the field; for few stars."""
        measured = {name: getattr(offset, name) for name in OFFSET_FIELDS}
        return replace(self, **measured, models=replace(self.models, dx=None, dy=None))


def _scatter(surface: Surface, x: float, y: float, half_px: float) -> float:
    """Of single stars in a tile about the tile's one value."""
    return float(np.hypot(surface.scatter_near(x, y, half_px), surface.spread(x, y, half_px)))


def compare(
    epoch: StarList,
    reference: StarList,
    zeropoints: tuple[float, float],
    radius_px: float,
    where: str,
    shape: tuple[int, int] | None = None,
) -> Comparison:
    """Match stars and measure flux ratio and offset.

    With fewer than eight matched stars the flux ratio is that of the zero points where both are known, else
    the median ratio of the stars there are, and the verdict says "few stars".

    Parameters
    ----------
    epoch, reference : StarList
        On one pixel grid.
    zeropoints : (float, float)
        AB magnitude of one electron in epoch and reference; NaN where unknown.
    radius_px : float
        Largest distance of a pair.
    where : str
        Names the epoch in errors.
    shape : (height, width), optional
        Of the field, pixels: flux ratio and offset may then vary over it.

    Raises
    ------
    InputError
        No star in common and no zero points, so no flux scale; or so few of many stars in common that the
        two are not on one grid. Names ``where``.
    """
    ia, ib = registration.match_stars(epoch, reference, radius_px)
    n, possible = len(ia), min(len(epoch), len(reference))
    if possible >= ENOUGH_TO_JUDGE and n < LEAST_MATCHED * possible:
        raise InputError(
            f"{where}: {n} of {possible} stars lie within {radius_px:g} px of one of the reference, at least "
            f"{LEAST_MATCHED:.0%} should: the two are not on one pixel grid. Check the WCS; one without "
            "must be aligned with its field's grid before it is ingested"
        )
    ratio, error, spread, verdict, reason = 1.0, 0.0, 0.0, "good", ""
    offset, models = NO_OFFSET, FieldModels(None, None, None, reference.x[ib], reference.y[ib])
    enough = n >= FEW_STARS
    field = shape if enough else None
    if n:
        log_ratio = registration.flux_surface(epoch, reference, ia, ib, field)
        measured = registration.mean_flux_ratio(log_ratio)
        ratio, error = measured.ratio, measured.error
        spread = measured.scatter if enough else 0.0
        models = replace(models, log_ratio=log_ratio if field else None)
    if n >= FEWEST_FOR_OFFSET:
        dx, dy = registration.offset_surfaces(epoch, reference, ia, ib, field)
        offset = registration.mean_offset(dx, dy)
        models = replace(models, dx=dx if field else None, dy=dy if field else None)
    if not enough:
        verdict = "few stars"
        known = all(np.isfinite(zeropoints))
        if known:
            ratio, error = 10 ** (0.4 * (zeropoints[0] - zeropoints[1])), 0.02
            reason = f"{n} matched stars ({FEW_STARS} needed): flux scale from the zero points"
        elif n:
            # A median's error is 1.25 times a mean's; stars this few cannot vouch for better than 1 %.
            ratio = float(np.median(epoch.flux[ia] / reference.flux[ib]))
            error = max(1.25 * error, 0.01 * ratio) if n > 2 else 0.1 * ratio
            reason = f"{n} matched stars ({FEW_STARS} needed) and no zero points: median flux ratio"
        else:
            raise InputError(
                f"{where}: no star in common with the reference within {radius_px:g} px and no zero points, "
                "so no flux scale; check --grid and the WCS, or give zero points in the survey profile"
            )
        if n < FEWEST_FOR_OFFSET:
            reason += "; offset not measured"
    return Comparison(
        ratio,
        error,
        spread,
        **{name: getattr(offset, name) for name in OFFSET_FIELDS},
        n_stars=n,
        verdict=verdict,
        reason=reason,
        models=models,
    )
