"""An epoch and the reference of its field: opened, and compared by their stars."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.imaging import zogy
from astrid_dist.imaging.defects import mend
from astrid_dist.imaging.masks import source_free
from astrid_dist.imaging.noise import neighbour_correlation
from astrid_dist.imaging.phase_offset import phase_offset
from astrid_dist.imaging.psf import evaluate as psf_at
from astrid_dist.imaging.stars import StarList
from astrid_dist.stages.blocks import Planes, Window, field_shape, psf_box, read_planes, read_stars
from astrid_dist.stages.pairing import Comparison, compare
from astrid_dist.stages.selection import epoch_row
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader

#: Scalars of an epoch that its difference keeps.
COPIED = ("epoch_id", "source", "time", "mjd", "exptime", "fwhm")
#: Seeing below this is taken as this where source masks and footprints are made, pixels.
LEAST_FWHM_PX = 2.0
#: Windows of references that a worker keeps, since the next epochs of a field need them again.
_TEMPLATES_KEPT = 2


@dataclass(frozen=True)
class Template:
    """A window of a reference, read once for many epochs."""

    planes: Planes
    quiet: NDArray[np.bool_]
    """Pixels without a source."""
    _correlations: dict[Window, float] = field(default_factory=dict)
    kept: dict[tuple[str, Window], Any] = field(default_factory=dict)
    """What was worked out of it for a tile, for the epochs that follow."""

    def correlation(self, window: Window) -> float:
        """Correlation of the noise of neighbouring pixels in a window, measured once."""
        if window not in self._correlations:
            place = window.within(self.planes.window)
            self._correlations[window] = neighbour_correlation(self.planes.image[place], self.quiet[place])
        return self._correlations[window]


@dataclass(frozen=True)
class Pair:
    """An epoch of a survey and the reference of its field, opened."""

    survey: ProductReader
    reference: ProductReader
    index: int
    """Of the epoch in the survey."""
    row: Mapping[str, Any]
    """Scalars of the epoch."""
    made: Mapping[str, Any]
    """What the reference says of itself."""
    shape: tuple[int, int]
    """Height and width of the field, pixels."""
    box: int
    """Side of the PSF stamps, pixels."""
    comparison: Comparison
    stars: StarList
    """Clean stars of the reference."""
    n_possible: int
    """Stars that could have matched: the shorter of both lists."""
    share: float
    """Weight of the epoch in its own reference; 0 where it is no part of it."""
    psfs: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Terms of the epoch's and the reference's PSF."""
    psf_chi2: NDArray[np.float32]
    """Chi squared of the epoch's PSF stars, tile by tile."""

    @property
    def halo(self) -> int:
        """What a tile needs around it, pixels."""
        return zogy.halo_px(self.box)

    @property
    def pixel_scale_arcsec(self) -> float:
        """Of the field; NaN where neither a WCS nor a profile of the instrument says it."""
        known = self.survey.attributes
        if not known.get("wcs") and known.get("survey") == "generic":
            return float("nan")
        return float(known.get("pixel_scale_arcsec", np.nan))

    @property
    def fwhm_px(self) -> float:
        """Seeing of the epoch, pixels."""
        return max(float(self.row["fwhm"]), LEAST_FWHM_PX)

    @property
    def reference_fwhm_px(self) -> float:
        """Seeing of the reference, pixels."""
        return max(float(self.made["fwhm"]), LEAST_FWHM_PX)

    @property
    def zeropoint(self) -> float:
        """AB magnitude of one electron of the reference; NaN where unknown."""
        return _zeropoint(self.made)

    def psfs_at(self, x: float, y: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """PSFs of epoch and reference at a place."""
        science, reference = (
            psf_at(
                terms,
                int(reader.attributes["psf_order"]),
                x,
                y,
                self.shape,
                int(reader.attributes["oversampling"]),
            )
            for terms, reader in zip(self.psfs, (self.survey, self.reference), strict=True)
        )
        return science, reference

    def fwhms_at(self, science: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
        """FWHM of two PSFs of one place, pixels: those of the field's middle times what their areas say.

        The area that a PSF occupies, 1 / sum(P²), grows with the square of its width.
        """
        first, second = (
            float(fwhm) * float(np.sqrt(central / np.square(local).sum()))
            for fwhm, central, local in zip(
                (self.row["fwhm"], self.made["fwhm"]), self._middle_sums, (science, reference), strict=True
            )
        )
        return first, second

    @cached_property
    def _middle_sums(self) -> tuple[np.float32, ...]:
        """sum(P²) of both PSFs in the middle of the field."""
        middle = self.psfs_at((self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2)
        return tuple(np.square(one).sum() for one in middle)

    def psf_chi2_at(self, x: float, y: float) -> float:
        """Chi squared of the epoch's PSF stars in the tile of a pixel; the epoch's where there are none."""
        here = float(self.psf_chi2[int(y) // TILE, int(x) // TILE])
        return here if np.isfinite(here) else float(self.row["psf_chi2"])

    def sky_mesh(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sky and its noise over the epoch's frame, electrons."""
        return tuple(self.survey.read(name, epoch=self.index) for name in ("background", "background_rms"))  # type: ignore[return-value]

    def science(self, window: Window) -> Planes:
        """The epoch on a window, small defects mended."""
        return mended(read_planes(self.survey, window, epoch=self.index), self.fwhm_px)

    def registered(self, science: Planes, template: Template) -> "Pair":
        """The pair with an offset by the light both images share, where stars were too few to tell it."""
        if np.isfinite([self.comparison.dx, self.comparison.dy]).all():
            return self
        widths = self.fwhm_px, self.reference_fwhm_px
        offset = phase_offset(science.image, template.planes.image, widths)
        if not np.isfinite([offset.dx, offset.dy]).all():
            return self
        return replace(self, comparison=self.comparison.with_offset(offset))

    def template(self, window: Window) -> Template:
        """The reference on a window, kept for the epochs that follow."""
        location = self.reference.location
        return _template(location, self.reference.group, window, str(dict(self.made)))


def mended(planes: Planes, fwhm_px: float) -> Planes:
    image, variance, mask = mend(planes.image, planes.variance, planes.mask, fwhm_px)
    return replace(planes, image=image, variance=variance, mask=mask)


@lru_cache(_TEMPLATES_KEPT)
def _template(location: Location, group: str, window: Window, made_of: str) -> Template:
    """`made_of` tells a reference from another that took its place."""
    reader = ProductReader(location, group)
    fwhm_px = max(float(reader.attributes["reference"]["fwhm"]), LEAST_FWHM_PX)
    planes = mended(read_planes(reader, window), fwhm_px)
    for plane in (planes.image, planes.variance, planes.mask):
        plane.setflags(write=False)
    return Template(planes, source_free(planes.image, planes.sigma, fwhm_px))


def open_pair(survey: Location, reference: Location, group: str, index: int, match_radius_px: float) -> Pair:
    """Open an epoch and the reference of its field, and compare their stars.

    Raises
    ------
    InputError
        There is no flux scale between them, or a stored PSF holds NaN.
    """
    science, template = ProductReader(survey, group), ProductReader(reference, group)
    row = epoch_row(science, index)
    made = template.attributes["reference"]
    where = f"{group} epoch {row['source']}"
    psfs = science.read("psf", epoch=index), template.read("psf")
    if not all(np.isfinite(terms).all() for terms in psfs):
        raise InputError(f"{where}: the stored PSF holds NaN; ingest the epoch again into a new survey")
    shape = field_shape(science, "image")
    stars = read_stars(science, row["fwhm"], epoch=index), read_stars(template, made["fwhm"])
    comparison = compare(
        *stars,
        (float(row["zeropoint"]), _zeropoint(made)),
        match_radius_px,
        where,
        shape,
    )
    # Behind a "-" an epoch that was injected says which injection it is of.
    exposure = str(row["epoch_id"]).partition("-")[0]
    share = dict(zip(made["epoch_ids"], made["weights"], strict=True)).get(exposure, 0.0)
    return Pair(
        science,
        template,
        index,
        row,
        made,
        shape,
        psf_box(science),
        comparison,
        _clean(stars[1]),
        min(len(one) for one in stars),
        float(share),
        psfs,
        science.read("psf_chi2_map", epoch=index),
    )


def _zeropoint(made: Mapping[str, Any]) -> float:
    """JSON holds no NaN, so an unknown zero point is null in a reference's attributes."""
    return float("nan") if made["zeropoint"] is None else float(made["zeropoint"])


def _clean(stars: StarList) -> StarList:
    use = stars.flags == 0
    columns = {name: getattr(stars, name)[use] for name in ("x", "y", "flux", "flux_err", "flags")}
    return StarList(**columns, fwhm_px=stars.fwhm_px)


def scalars_set_aside(survey: Location, group: str, index: int, reason: str) -> dict[str, Any]:
    """What a difference keeps of an epoch that could not be subtracted."""
    row = epoch_row(ProductReader(survey, group), index)
    kept = {name: row[name] for name in COPIED}
    return {**kept, "survey_epoch": index, "verdict": "quarantined", "reason": reason, "valid": False}
