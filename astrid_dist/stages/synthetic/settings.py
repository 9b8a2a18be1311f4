"""What an injection job file holds."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from astrid_dist.stages.selection import Groups, Quality
from astrid_dist.stages.synthetic.host_table import SplitBy
from astrid_dist.stages.synthetic.strata import DEFAULT_MIX
from astrid_dist.stages.tiles import Options, Refine
from astrid_dist.store.sample_layout import SAMPLE_GROUP


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: One URL, or one for each of several surveys.
Urls = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Settings(BaseModel):
    """What an injection job file holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    survey: Urls = Field(min_length=1, description="URL of the survey to inject into, or of several")
    reference: Urls = Field(min_length=1, description="URL of its reference product, or one for each survey")
    output: str = Field(description="URL of the product to write: samples, or an injected survey")
    mode: Literal["stamps", "frames"] = Field(
        default="stamps", description="stamps: samples to train with; frames: a whole injected survey"
    )
    way: Literal["full", "fast"] = Field(
        default="full",
        description="full: put in, then subtract; fast: through the pair's filters onto its difference",
    )
    samples: int = Field(default=4096, ge=1, description="samples of all surveys and splits (stamps)")
    seed: int = Field(default=1, ge=0, description="root of every random draw")
    fields: Groups = Field(default=["*"], description="which <field>/<band> groups, shell patterns")
    difference: Urls = Field(
        default=[], description="URL of each survey's difference, to leave out epochs by its verdict"
    )
    quality: Quality = Field(
        default="min=orange", description="epochs by verdict: all, min=green, min=yellow, min=orange"
    )
    known: Urls = Field(
        default=[],
        description="URL of each survey's truth, if it is a mock: what changes there is no null detection",
    )
    visits: int = Field(default=1, ge=1, le=64, description="epochs of a sample (stamps)")
    mix_bands: bool = Field(default=False, description="whether the visits of a sample mix bands (stamps)")
    splits: dict[str, float] = Field(
        default={"train": 0.8, "val": 0.1, "test": 0.1}, description="splits and their shares (stamps)"
    )
    split_by: SplitBy = Field(
        default="auto", description="cell, night, both, or auto: both where that leaves enough (stamps)"
    )
    mix: dict[str, float] = Field(default=DEFAULT_MIX, description="class -> share of the samples (stamps)")
    kinds: list[str] = Field(default=[], description="populations and artifacts; none: all")
    environments: dict[str, float] = Field(
        default={}, description="environment -> share; none: as each population has it (stamps)"
    )
    snr: tuple[float, float] = Field(default=(3.0, 300.0), description="range of true SNR, even in its log")
    snr_bins: int = Field(default=6, ge=1, le=100, description="SNR bins, filled evenly (stamps)")
    negative: float = Field(
        default=0.15, ge=0, le=1, description="share of real sources fainter than in the reference"
    )
    bands: dict[str, float] = Field(default={}, description="band -> share; none: evenly (stamps)")
    jitter_px: float = Field(
        default=1.0, ge=0, le=20, description="how far the middle of a stamp may be from its object, pixels"
    )
    shard_samples: int = Field(
        default=0, ge=0, description=f"samples per shard, a multiple of {SAMPLE_GROUP}; 0: about 4096 visits"
    )
    augment: list[dict[str, dict[str, Any]]] = Field(
        default=[],
        description="transforms of what is stored, as [{flip: {}}, {jitter: {px: 0.5}}]; loaders do so too",
    )
    draw: Literal["uniform", "physical"] = Field(
        default="uniform",
        description="uniform: even in log SNR; physical: as populations are seen by the survey (frames)",
    )
    sources_per_mpix: float = Field(default=60.0, ge=0, description="sources per field and Mpix (frames)")
    artifacts: float = Field(
        default=1.0, ge=0, description="artifacts put into every epoch, times their natural rates (frames)"
    )
    realisations: int = Field(
        default=1, ge=1, description="times every epoch is injected, each with its own artifacts (frames)"
    )
    into: Literal["epochs", "reference"] = Field(
        default="epochs",
        description="epochs: an injected survey; reference: the reference that goes with it (frames)",
    )
    astrometric_sigma_px: float = Field(
        default=0.1,
        ge=0,
        description="misregistration assumed per axis where stars are too few to measure it, pixels",
    )
    renormalise: bool = Field(
        default=True, description="divide S_corr of each tile by its measured source-free standard deviation"
    )
    refine: Refine = Field(
        default="auto", description="refine the PSF of a pair by what its stars leave: auto, always, never"
    )
    resolved: dict[str, Any] = Field(
        default={}, description="what a planned job was resolved to; leave empty"
    )

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        for name in ("reference", "difference", "known"):
            given = getattr(self, name)
            if given and len(given) != len(self.survey):
                raise ValueError(f"{len(self.survey)} surveys, but {len(given)} URLs of {name}: one for each")
        if self.shard_samples % SAMPLE_GROUP:
            raise ValueError(f"shard_samples={self.shard_samples}: give a multiple of {SAMPLE_GROUP}")
        for name in self.splits:
            if not re.fullmatch(r"[A-Za-z0-9_.+=-]+", name):
                raise ValueError(f"splits: {name!r} is no name; letters, digits and _ . + = - only")
        for name in ("bands", "environments"):
            shares = getattr(self, name)
            if shares and (min(shares.values()) < 0 or not sum(shares.values()) > 0):
                raise ValueError(f"{name}={shares}: give shares of 0 or more, one above 0")
        if self.mode == "frames" and len(self.survey) > 1:
            raise ValueError("frames are injected into one survey at a time: give one survey=URL")
        return self

    @property
    def tiles(self) -> Options:
        """How tiles are subtracted."""
        return Options(self.astrometric_sigma_px, self.renormalise, self.refine)
