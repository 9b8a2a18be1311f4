"""Which values of a quality metric are green, yellow, orange and red."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

Colour = Literal["red", "orange", "yellow", "green"]
#: Worst first; the index is what a product's ``tile_verdict`` stores.
COLOURS: tuple[Colour, ...] = ("red", "orange", "yellow", "green")


def _as_range(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return tuple(value)
    raise ValueError(f"{value!r} is no range: write [lowest, highest], null where there is no limit")


#: Lowest and highest value, both included; None is no limit.
Range = Annotated[tuple[float | None, float | None], BeforeValidator(_as_range)]


class Bounds(BaseModel):
    """Ranges of one metric, each within the next; what lies outside ``orange`` is red."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    green: Range
    yellow: Range
    orange: Range

    @model_validator(mode="after")
    def _nested(self) -> Self:
        for name, inner, outer in (
            ("green", self.green, self.yellow),
            ("yellow", self.yellow, self.orange),
        ):
            low_ok = outer[0] is None or (inner[0] is not None and inner[0] >= outer[0])
            high_ok = outer[1] is None or (inner[1] is not None and inner[1] <= outer[1])
            if not (low_ok and high_ok):
                raise ValueError(f"{name} {list(inner)} reaches beyond the next colour's {list(outer)}")
        if None not in self.green and self.green[0] >= self.green[1]:  # type: ignore[operator]
            raise ValueError(f"green {list(self.green)} is empty; write the lower value first")
        return self

    def colour(self, value: float) -> Colour:
        """Of a finite value."""
        for name in reversed(COLOURS[1:]):
            if _inside(value, getattr(self, name)):
                return name
        return "red"

    def limit(self, value: float) -> tuple[str, float]:
        """Which limit of green a value that is not green crosses: ("above" | "below", limit)."""
        low, high = self.green
        if low is not None and value < low:
            return "below", low
        if high is not None and value > high:
            return "above", high
        raise ValueError(f"{value} is green")

    def limits(self, side: str) -> tuple[float | None, ...]:
        """Limits of green, yellow and orange on the side ``above`` or ``below``."""
        end = 1 if side == "above" else 0
        return self.green[end], self.yellow[end], self.orange[end]


def _inside(value: float, limits: tuple[float | None, float | None]) -> bool:
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)


class Thresholds(BaseModel):
    """Ranges by metric, see `astrid_dist.imaging.quality.METRICS`; a metric left out is not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_std: Bounds | None = None
    score_mean: Bounds | None = None
    peaks: Bounds | None = None
    peaks_raw: Bounds | None = None
    displacement: Bounds | None = None
    residual_ratio: Bounds | None = None
    bad_fraction: Bounds | None = None
    depth_lost: Bounds | None = None
    transparency: Bounds | None = None
    matched_fraction: Bounds | None = None
    residual_ratio_std: Bounds | None = None
    match_chi2: Bounds | None = None
    psf_width_error: Bounds | None = None
    flux_left: Bounds | None = None
    dx: Bounds | None = None
    dy: Bounds | None = None
    offset_scatter: Bounds | None = None
    flux_ratio_scatter: Bounds | None = None
    saturated_fraction: Bounds | None = None
    seeing: Bounds | None = None
    elongation: Bounds | None = None
    psf_chi2: Bounds | None = None
    n_matched: Bounds | None = None
    sky_ratio: Bounds | None = None
    sky_gradient: Bounds | None = None
    correlation_n: Bounds | None = None
    correlation_r: Bounds | None = None

    def of(self, metric: str) -> Bounds | None:
        """Bounds of a metric; None where it is not judged."""
        found: Bounds | None = getattr(self, metric, None) if metric in type(self).model_fields else None
        return found
