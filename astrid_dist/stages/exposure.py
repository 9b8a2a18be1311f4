"""From a calibrated frame to one epoch of a survey: on the field's grid, with sky, stars and PSF measured."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.formats.fits import Frame
from astrid_dist.imaging import background, blemishes, psf
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.quality_metrics import limiting_mag
from astrid_dist.imaging.resampling import Grid, to_grid
from astrid_dist.stages.blocks import star_planes
from astrid_dist.stages.founding import FieldStars
from astrid_dist.stages.placing import place
from astrid_dist.stages.sky import Sky, guessed_fwhm, measure_sky, seeing
from astrid_dist.store.layouts import MESH_BOX, TILE
from astrid_dist.surveys.profile import Profile

#: The PSF box must hold three FWHM, or the PSF is cut.
FWHM_PER_BOX = 3.0
#: Shorter sides in pixels below which the PSF of a field has at most the order 0, 1.
_SMALL = ((300, 0), (800, 1))
#: Typical seeing in pixels below which the PSF is sampled twice as finely as the pixels.
_UNDERSAMPLED_PX = 2.2


@dataclass(frozen=True)
class PsfModel:
    """How the PSFs of a group are held: box in pixels, order over the field, samples to a pixel."""

    box: int
    order: int
    oversampling: int

    @classmethod
    def of(cls, profile: Profile, grid: Grid) -> "PsfModel":
        """What a profile wants of a new group."""
        guess_px = guessed_fwhm(profile, grid)
        scale = profile.seeing_arcsec.typical / guess_px
        caps = [order for side, order in _SMALL if min(grid.shape) < side]
        order = min([profile.psf_order, *caps])
        return cls(profile.psf_box(scale), order, 2 if guess_px < _UNDERSAMPLED_PX else 1)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the PSF's dimensions."""
        side = psf.stamp_side(self.box, self.oversampling)
        return {"psf_term": psf.n_terms(self.order), "v": side, "u": side}


def measure_exposure(
    frame: Frame, grid: Grid, profile: Profile, model: PsfModel, field: FieldStars | None, founder: str = ""
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Bring an exposure onto its field's grid and measure its sky, seeing, stars and PSF.

    Parameters
    ----------
    frame : Frame
    grid : Grid
    profile : Profile
    model : PsfModel
    field : FieldStars or None
        Stars of the field, by which a frame without a WCS is aligned.
    founder : str
        Frame whose grid it is, for what is said of frames that do not lie on it.

    Returns
    -------
    planes : dict of str to array
        One epoch of each array of a survey's layout.
    scalars : dict
        Its scalars, but for epoch_id and source.

    Raises
    ------
    InputError
        The frame lies elsewhere or cannot be aligned, has no usable pixel on the grid, or its seeing does not
        fit the box.
    """
    frame, spoiled = _without_blemishes(frame, profile)
    where, placed = place(frame, grid, field, profile, founder)
    image, variance, mask = to_grid(frame.image, frame.variance, frame.mask, where, grid)
    sky = measure_sky(frame, image, variance, mask, guessed_fwhm(profile, grid))
    if not FWHM_PER_BOX * sky.fwhm_px <= model.box:
        raise InputError(
            f"{frame.source}: seeing of {sky.fwhm_px:.1f} px does not fit the field's PSF box of "
            f"{model.box} px; leave it out, or make a new survey with a worst seeing above "
            f"{profile.seeing_arcsec.worst} arcsec in its profile"
        )
    shape: dict[str, Any] = {"order": model.order, "oversampling": model.oversampling}
    found = measure_psf(sky.signal, variance, mask, sky.stars, model.box, sky.fwhm_px, **shape)
    # Fluxes in the PSF's own measure: their ratios are those that cancel a star in a subtraction.
    stars = fit_star_fluxes(sky.signal, variance, mask, found.terms, sky.stars, **shape)
    planes: dict[str, NDArray[Any]] = {
        "image": image,
        "variance": variance,
        "mask": mask,
        "psf": found.terms,
        "psf_residual": found.residual,
        "psf_chi2_map": found.chi2_map(grid.shape, TILE),
        "background": sky.mesh,
        "background_rms": sky.rms,
        **star_planes(stars),
    }
    facts = frame.facts
    centre = ((grid.width - 1) / 2, (grid.height - 1) / 2)
    middle = psf.evaluate(found.terms, model.order, *centre, grid.shape, model.oversampling)
    return planes, {
        "mjd": facts.mjd,
        "time": microseconds(facts.mjd),
        "exptime": facts.exptime,
        "gain": facts.gain,
        "gain_estimated": facts.gain_estimated,
        "read_noise": facts.read_noise,
        "zeropoint": facts.zeropoint,
        "fwhm": found.fwhm_px,
        "elongation": found.elongation,
        "psf_chi2": found.chi2,
        "psf_stars": 0 if found.fallback else found.n_stars,
        "sky": sky.level,
        "limiting_mag": _limiting_mag(sky, variance, middle, facts.zeropoint),
        "bad_fraction": float(np.mean((mask & int(Flag.NO_DATA)) != 0)),
        "n_stars": len(stars),
        "valid": True,
        "verdict": "few stars" if found.fallback else "good",
        "reason": "; ".join(note for note in (*facts.notes, spoiled, *placed, found.reason) if note),
    }


def _without_blemishes(frame: Frame, profile: Profile) -> tuple[Frame, str]:
    """A frame with what spoils it in its mask, where no quality plane told, and what that is."""
    if frame.has_quality:
        return frame, ""
    unusable = (frame.mask & int(UNUSABLE)) != 0
    mesh, _ = background.measure_background(frame.image, frame.mask, MESH_BOX)
    signal = frame.image - background.evaluate(mesh, MESH_BOX, 0, 0, *frame.image.shape)
    guess_px = frame.facts.fwhm_px or guessed_fwhm(profile)
    fwhm_px = seeing(signal, frame.variance, frame.mask, guess_px)
    saturated = (frame.mask & int(Flag.SATURATED)) != 0
    lines = blemishes.spoiled_lines(signal) | blemishes.bleeds(signal, saturated)
    hits = blemishes.cosmic_rays(signal, frame.variance, unusable | lines, fwhm_px)
    if not (hits.any() or lines.any()):
        return frame, ""
    flags = np.where(hits, Flag.COSMIC_RAY, 0) | np.where(lines, Flag.BLEED, 0)
    counted = (f"{hits.sum()} pixels of cosmic rays", f"{lines.sum()} of bleeding stars or spoiled lines")
    said = " and ".join(text for text, some in zip(counted, (hits, lines), strict=True) if some.any())
    return replace(frame, mask=frame.mask | flags.astype(np.uint16)), f"no quality plane: {said} masked"


def _limiting_mag(sky: Sky, variance: NDArray[Any], stamp: NDArray[Any], zeropoint: float) -> float:
    """AB magnitude of a point source of five sigma in the sky's noise (Zackay & Ofek 2017, eq. 8).

    Pixels of a resampled frame scatter less than they weigh in a sum; their variance, where few sources add
    to it, knows better.
    """
    noise = max(float(np.median(sky.rms)), float(np.sqrt(np.nanpercentile(variance, 20))))
    flux = 5 * noise / float(np.sqrt(np.square(stamp, dtype=np.float64).sum()))
    return limiting_mag(flux, zeropoint)


def microseconds(mjd: float) -> int:
    """Microseconds since 1970-01-01 of a modified Julian date."""
    return round((mjd - 40587.0) * 86400e6)
