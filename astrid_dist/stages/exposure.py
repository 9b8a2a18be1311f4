"""From a calibrated frame to one epoch of a survey: on the field's grid, with sky, stars and PSF measured."""

from math import isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import InputError
from astrid_dist.formats.fits import Frame
from astrid_dist.imaging.background import evaluate, measure_background
from astrid_dist.imaging.photometry import fit_star_fluxes
from astrid_dist.imaging.psf_fit import measure_psf
from astrid_dist.imaging.resampling import Grid, overlap, to_grid
from astrid_dist.imaging.stars import estimate_fwhm, measure_stars
from astrid_dist.stages.frames import LEAST_OVERLAP, place_of
from astrid_dist.store.layouts import MESH_BOX, STARS, variables
from astrid_dist.surveys.profile import Profile

#: The PSF box must hold three FWHM, or the PSF is cut.
FWHM_PER_BOX = 3.0


def measure_exposure(
    frame: Frame, grid: Grid, profile: Profile, box: int, founder: str = ""
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Bring an exposure onto its field's grid and measure its sky, seeing, stars and PSF.

    Parameters
    ----------
    frame : Frame
    grid : Grid
    profile : Profile
    box : int
        Side of the PSF stamp in pixels.
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
        The frame lies elsewhere, has no usable pixel on the grid, or its seeing does not fit the box.
    """
    placed = _check_place(frame, grid, founder)
    image, variance, mask = to_grid(frame.image, frame.variance, frame.mask, frame.wcs, grid)
    mesh, rms = measure_background(image, mask, MESH_BOX)
    signal = image - evaluate(mesh, MESH_BOX, 0, 0, *grid.shape)
    scale = grid.pixel_scale_arcsec
    scale = profile.pixel_scale_arcsec if isnan(scale) else scale
    guess_px = frame.facts.fwhm_px or profile.seeing_arcsec.typical / scale
    fwhm_px = estimate_fwhm(signal, variance, mask, guess_px)
    if not FWHM_PER_BOX * fwhm_px <= box:
        raise InputError(
            f"{frame.source}: seeing of {fwhm_px:.1f} px does not fit the field's PSF box of "
            f"{box} px; leave it out, or make a new survey with a worst seeing above "
            f"{profile.seeing_arcsec.worst} arcsec in its profile"
        )
    sky = float(np.median(mesh))
    full = frame.facts.saturation_electron
    saturation = full - sky if isfinite(full) and full > sky else None
    stars = measure_stars(signal, variance, mask, fwhm_px, limit=STARS, saturation=saturation)
    psf = measure_psf(signal, variance, mask, stars, box, fwhm_px)
    # Fluxes in the PSF's own measure: their ratios are those that cancel a star in a subtraction.
    stars = fit_star_fluxes(signal, variance, mask, psf.terms[0], stars)
    planes: dict[str, NDArray[Any]] = {
        "image": image,
        "variance": variance,
        "mask": mask,
        "psf": np.asarray(psf.terms, np.float32),
        "background": mesh,
        "background_rms": rms,
    }
    for name in ("x", "y", "flux", "flux_err", "flags"):
        layout = variables("survey")[f"star_{name}"]
        padded = np.full(STARS, layout.fill_value, layout.dtype)
        padded[: len(stars)] = getattr(stars, name)
        planes[f"star_{name}"] = padded
    facts = frame.facts
    return planes, {
        "mjd": facts.mjd,
        "time": microseconds(facts.mjd),
        "exptime": facts.exptime,
        "gain": facts.gain,
        "read_noise": facts.read_noise,
        "zeropoint": facts.zeropoint,
        "fwhm": psf.fwhm_px,
        "sky": sky,
        "n_stars": len(stars),
        "valid": True,
        "verdict": "few stars" if psf.fallback else "good",
        "reason": "; ".join((*facts.notes, *placed)),
    }


def _check_place(frame: Frame, grid: Grid, founder: str) -> list[str]:
    """What had to be assumed of a frame's place on its field's grid."""
    covered = overlap(frame.wcs, frame.image.shape, grid)
    if frame.wcs is None or grid.wcs is None:
        if not covered:
            raise InputError(
                f"{frame.source} is {frame.image.shape}, its field {grid.shape}, and without a WCS on both "
                "there is no way to map one on the other; choose another field"
            )
        missing = "WCS" if frame.wcs is None else "WCS of the field"
        return [f"no {missing}: taken as lying on the field's grid"]
    here = Grid.from_frame(frame.wcs, (frame.image.shape[0], frame.image.shape[1]))
    covered = max(covered, overlap(grid.wcs, grid.shape, here))
    if covered < LEAST_OVERLAP:
        whose = f", that of {founder}," if founder else ""
        raise InputError(
            f"WCS of another field: the frame is centred at {_centre(here)} and covers {covered:.0%} of the "
            f"grid of this field{whose} which is centred at {_centre(grid)}; at least {LEAST_OVERLAP:.0%} is "
            "needed: correct its WCS or put it into another field (--field); a new field can be given its "
            "grid (--grid)"
        )
    return []


def _centre(grid: Grid) -> str:
    place = place_of(grid)
    return "no place on the sky" if place is None else f"ra {place[0]:.4f}, dec {place[1]:+.4f}"


def microseconds(mjd: float) -> int:
    """Microseconds since 1970-01-01 of a modified Julian date."""
    return round((mjd - 40587.0) * 86400e6)
