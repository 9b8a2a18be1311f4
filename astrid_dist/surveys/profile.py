"""What is known about an instrument before a frame is opened: a YAML file, validated.

A profile says what the header does not (pixel scale, worst seeing, nominal depth), which keywords hold what
the header does say, and where weight and quality planes lie. `load_profile("decam")` reads one that ships
with the package; a path reads the user's own, overriding what it `extends` (else ``generic``).
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag
from astrid_dist.surveys.camera import Camera as Camera
from astrid_dist.surveys.thresholds import Thresholds

Unit = Literal["DN", "DN/s", "electron", "electron/s"]
#: One keyword, or the keywords of several amplifiers that are combined (averaged; the lowest for saturation).
Keyword = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeKeyword(_Model):
    keyword: str
    at: Literal["start", "mid"] = Field(
        default="start", description="what moment of the exposure the keyword gives"
    )


class FwhmKeyword(_Model):
    keyword: str
    unit: Literal["pixel", "arcsec"] = "pixel"


class ZeropointKeyword(_Model):
    keyword: str
    per: Literal["image", "DN/s", "electron", "electron/s"] = Field(
        default="image",
        description="what one unit of flux is: `image` is one unit of the pixels as they are stored",
    )


class Keywords(_Model):
    """Header keywords, each a list of alternatives: the first one present with a usable value wins."""

    time: list[TimeKeyword] = []
    time_of_day: list[str] = Field(default=[], description="completes a time keyword that holds only a date")
    exptime: list[str] = []
    gain: list[Keyword] = []
    read_noise: list[Keyword] = []
    saturation: list[Keyword] = Field(default=[], description="in the unit of the pixels as stored")
    fwhm: list[FwhmKeyword] = []
    zeropoint: list[ZeropointKeyword] = []
    band: list[str] = []
    ccd: list[str] = Field(default=[], description="joined, they name the detector: ccd33, ccd04q2")


class BandRule(_Model):
    match: str = Field(
        description="regular expression searched for in the band keyword; group 1, if any, is the band"
    )
    band: str = ""

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Quality(_Model):
    """What the values of a data-quality plane mean."""

    kind: Literal["codes", "bits", "nonzero"] = Field(
        default="nonzero",
        description="codes: one value per pixel; bits: powers of two (keys are bit numbers); nonzero: BAD",
    )
    flags: dict[int, str] = Field(
        default={}, description="code or bit -> flag name; absent ones are harmless"
    )

    @field_validator("flags")
    @classmethod
    def _known(cls, value: dict[int, str]) -> dict[int, str]:
        for name in value.values():
            if name not in Flag.__members__:
                raise ValueError(f"no flag is called {name!r}; flags are {', '.join(Flag.__members__)}")
        return value


class OlderQuality(Quality):
    keyword: str = Field(description="header keyword that holds the pipeline's version, such as V3.4.1")
    before: str = Field(description="first version to which this table no longer applies")


WeightKind = Literal["inverse_variance", "variance", "sigma"]


class Planes(_Model):
    """Where weight and data-quality planes lie, beside the image or in its own file."""

    image_name: str = Field(
        default="", description="part of an image's file name that its companions replace"
    )
    weight_name: str = ""
    quality_name: str = ""
    weight_kind: WeightKind = Field(
        default="inverse_variance", description="of the companion file, in the image's unit"
    )
    weight_extensions: dict[str, WeightKind] = Field(
        default={}, description="EXTNAME -> what that extension holds"
    )
    quality_extensions: list[str] = []
    weight_noise: Literal["auto", "sky", "total"] = Field(
        default="auto",
        description="whether the weights hold the sky's noise alone or the sources' too; auto measures it",
    )
    quality: Quality = Quality()
    quality_older: OlderQuality | None = None


class Seeing(_Model):
    typical: float = Field(gt=0)
    worst: float = Field(
        gt=0, description="sets the PSF box when a cube is made; what does not fit is quarantined"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.worst < self.typical:
            raise ValueError(f"worst ({self.worst:g}) is below typical ({self.typical:g}); set both in order")
        return self


class Zeropoint(_Model):
    unit: Unit = "electron/s"
    bands: dict[str, float] = {}


class Profile(_Model):
    """One instrument. Numbers are nominal; what a frame's header says wins."""

    name: str
    description: str = ""
    extends: str = "generic"
    pixel_scale_arcsec: float = Field(gt=0)
    gain: float | None = Field(default=None, gt=0, description="electron/DN where the header has none")
    read_noise: float | None = Field(default=None, ge=0, description="electron where the header has none")
    saturation: float | None = Field(default=None, gt=0, description="DN where the header has none")
    exptime: float | None = Field(default=None, gt=0, description="s where the header has none")
    seeing_arcsec: Seeing
    zeropoint: Zeropoint = Field(
        Zeropoint(), description="nominal AB magnitude of one unit per second or image"
    )
    depth: dict[str, float] = Field(
        default={}, description="nominal 5 sigma AB depth of one exposure, per band"
    )
    filters: dict[str, str | tuple[float, float, float, float]] = Field(
        default={},
        description="band -> name of a speclite curve, or the four corners of a trapezoid, Angstrom",
    )
    camera: Camera = Camera()
    unit: Literal["auto", "DN", "DN/s", "electron", "electron/s"] = Field(
        default="auto", description="what pixels hold; auto reads BUNIT and takes DN where that is absent"
    )
    sky_subtracted: Literal["auto", "yes", "no"] = "auto"
    minimum_size: int = Field(
        32, ge=8, description="pixels on the shorter side below which a frame is refused"
    )
    psf_order: int = Field(
        2, ge=0, le=3, description="order in x and y of the PSF over a frame; small frames take less"
    )
    keywords: Keywords = Keywords()
    bands: list[BandRule] = Field(default=[], description="first match wins; none: the keyword's first word")
    planes: Planes = Planes()
    quality: Thresholds = Field(
        Thresholds(), description="metric of a subtraction -> colour -> [lowest, highest], null for no limit"
    )
    _path: str = PrivateAttr("")

    @field_validator("filters")
    @classmethod
    def _increasing(cls, value: dict[str, Any]) -> dict[str, Any]:
        for band, curve in value.items():
            if not isinstance(curve, str) and list(curve) != sorted(set(curve)):
                raise ValueError(f"corners of {band} must increase: foot, top, top, foot in Angstrom")
        return value

    @model_validator(mode="before")
    @classmethod
    def _camera_has_the_same_amplifiers(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("camera", {}), Mapping):
            return raw
        known = {key: raw[key] for key in ("gain", "read_noise") if raw.get(key) is not None}
        return {**raw, "camera": known | dict(raw.get("camera", {}))}

    @property
    def origin(self) -> str:
        """What another profile says to extend this one: its name, or the path of a user's file."""
        return self._path or self.name

    def electron_magnitude(self, band: str, exptime_s: float | None = None) -> float:
        """Nominal AB magnitude of one electron of an exposure, a usual one where no time is given.

        Raises
        ------
        ConfigError
            The profile has no zero point of that band.
        """
        if band not in self.zeropoint.bands:
            raise ConfigError(
                f"survey {self.name!r} has no zero point of band {band!r}, only of "
                f"{', '.join(self.zeropoint.bands) or 'none'}: add it to zeropoint.bands of the profile"
            )
        unit = self.zeropoint.unit
        electrons = self.camera.gain if unit.startswith("DN") else 1.0
        seconds = (exptime_s or self.camera.exptime_s) if unit.endswith("/s") else 1.0
        return self.zeropoint.bands[band] + 2.5 * math.log10(electrons * seconds)

    def psf_box(self, pixel_scale_arcsec: float | None = None) -> int:
        """Side of the PSF stamp in pixels, odd: seven times the worst seeing, between 15 and 127.

        A Moffat of beta 3.5 leaves 0.2 % of its light outside 3.5 FWHM.
        """
        worst_px = self.seeing_arcsec.worst / (pixel_scale_arcsec or self.pixel_scale_arcsec)
        return int(min(max(15, 2 * round(3.5 * worst_px) + 1), 127))

    def is_companion(self, name: str) -> bool:
        """Whether a file name is that of a weight or quality plane rather than of an image."""
        return any(part and part in name for part in (self.planes.weight_name, self.planes.quality_name))


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    files = resources.files("astrid_dist.surveys").joinpath("data").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile by its name, or a YAML file of the user's own that extends one.

    Raises
    ------
    ConfigError
        No such profile (with the nearest name), not YAML, or a key or value that the model refuses.
    """
    where = str(name_or_path)
    chain = _chain(where)
    try:
        profile = Profile.model_validate(_joined(chain))
    except ValidationError as error:
        details = "; ".join(_explain(mistake["loc"], mistake, chain) for mistake in error.errors())
        raise ConfigError(f"survey profile {where!r} is not valid: {details}") from error
    profile._path = where if _is_file(where) else ""
    return profile


def resolve_thresholds(
    profile: str | Profile | Thresholds, overrides: Mapping[str, Mapping[str, Any] | None] | None = None
) -> Thresholds:
    """Thresholds of a survey with those that a job says differently.

    Parameters
    ----------
    profile : str, Profile or Thresholds
        A profile, what it says of quality, or the name of one that is shipped; another name has the generic
        thresholds.
    overrides : mapping, optional
        metric -> colour -> [lowest, highest]; a colour left out stays, None instead of colours: not judged.

    Raises
    ------
    ConfigError
        No such metric or colour, or ranges that do not lie within each other.
    """
    if isinstance(profile, str):
        profile = load_profile(profile if profile in profile_names() else "generic")
    known = profile.quality if isinstance(profile, Profile) else profile
    try:
        return Thresholds.model_validate(_merge(known.model_dump(), overrides or {}))
    except ValidationError as error:
        details = "; ".join(_explain_threshold(mistake) for mistake in error.errors())
        raise ConfigError(f"quality thresholds are not valid: {details}") from error


def _explain_threshold(mistake: Mapping[str, Any]) -> str:
    said = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return f"{said} is missing: a metric needs green, yellow and orange"
    if mistake["type"] != "extra_forbidden":
        return f"{said}: {mistake['msg'].removeprefix('Value error, ')}"
    close = difflib.get_close_matches(str(mistake["loc"][-1]), _known(Thresholds, mistake["loc"][:-1]), n=1)
    return f"unknown key {said}" + (f", did you mean {close[0]}?" if close else "")


def _chain(where: str) -> dict[str, dict[str, Any]]:
    """What a profile says, and each that it extends, in order."""
    chain: dict[str, dict[str, Any]] = {}
    while where:
        if where in chain:
            raise ConfigError(
                f"survey profiles extend each other in a circle: {' -> '.join((*chain, where))}"
            )
        chain[where] = _read(where)
        where = str(chain[where].get("extends", "" if where == "generic" else "generic") or "")
    return chain


def _joined(chain: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A profile on top of what it extends; one with filters of its own has none of the generic ones."""
    joined = reduce(_merge, reversed(chain.values()))
    own = [raw["filters"] for name, raw in chain.items() if name != "generic" and raw.get("filters")]
    return joined | {"filters": reduce(_merge, reversed(own))} if own else joined


def _explain(place: Sequence[str | int], mistake: Mapping[str, Any], chain: Mapping[str, Any]) -> str:
    own = next(iter(chain))
    file = next((name for name, raw in chain.items() if _holds(raw, place)), own)
    said = ".".join(map(str, place)) if file == own else f"{'.'.join(map(str, place))} in {file!r}"
    if mistake["type"] != "extra_forbidden":
        return f"{said}: {mistake['msg'].removeprefix('Value error, ')}"
    close = difflib.get_close_matches(str(place[-1]), _known(Profile, place[:-1]), n=1)
    return f"unknown key {said}" + (f", did you mean {close[0]}?" if close else "")


def _holds(raw: Any, place: Sequence[str | int]) -> bool:
    for part in place:
        if not isinstance(raw, Mapping):
            return True
        if part not in raw:
            return False
        raw = raw[part]
    return True


def _known(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Keys of the model at a place within a model."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for one in get_args(annotation):
        yield from _models(one)
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation


def _is_file(where: str) -> bool:
    return where.endswith((".yaml", ".yml"))


def _read(where: str) -> dict[str, Any]:
    if _is_file(where):
        path = Path(where)
        if not path.is_file():
            raise ConfigError(f"there is no survey profile file {where!r}")
        text = path.read_text()
    elif where in profile_names():
        text = resources.files("astrid_dist.surveys").joinpath("data", f"{where}.yaml").read_text()
    else:
        close = difflib.get_close_matches(where, profile_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"there is no survey profile {where!r}{hint}; profiles are {', '.join(profile_names())}; "
            "or give the path of a YAML file that says `extends: generic`"
        )
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"survey profile {where!r} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"survey profile {where!r} should be a mapping of keys, not {type(raw).__name__}")
    return raw


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings merge key by key, everything else replaces."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
