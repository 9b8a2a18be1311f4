"""Where a frame lies on its field's grid: by WCS where both have one, else by the stars of the field."""

from astropy.wcs import WCS

from astrid_dist.errors import InputError
from astrid_dist.formats.fits import Frame
from astrid_dist.imaging.alignment import align_stars
from astrid_dist.imaging.resampling import Grid, PixelMap, overlap
from astrid_dist.stages.founding import FieldStars
from astrid_dist.stages.frames import LEAST_OVERLAP, place_of
from astrid_dist.stages.sky import guessed_fwhm, measure_sky
from astrid_dist.surveys.profile import Profile


def place(
    frame: Frame, grid: Grid, field: FieldStars | None, profile: Profile, founder: str
) -> tuple[WCS | PixelMap, list[str]]:
    """Where a frame lies on a grid, and what is to be said of how that is known.

    Raises
    ------
    InputError
        It lies elsewhere, or there is no WCS and its stars do not tell.
    """
    if frame.wcs is not None and grid.wcs is not None:
        _check_overlap(frame, frame.wcs, grid, founder)
        return frame.wcs, []
    missing = "no WCS" if frame.wcs is None else "no WCS of the field"
    if field is None:
        raise InputError(
            f"{missing}, and no frame of the field shows stars to align it by: give it a WCS, or ingest "
            "frames that do first"
        )
    if frame.epoch_id == field.epoch_id and frame.image.shape == grid.shape:
        return PixelMap.of(grid.shape), [f"{missing}: the field's grid is that of this frame"]
    found = measure_sky(frame, frame.image, frame.variance, frame.mask, guessed_fwhm(profile))
    try:
        aligned = align_stars(found.stars, field.stars, grid.shape)
    except InputError as error:
        raise InputError(f"{missing}, and {error}") from error
    _check_overlap(frame, aligned.map, grid, founder)
    return aligned.map, [
        f"{missing}: aligned by {aligned.n} stars, rms {aligned.rms_px:.2f} px, shift "
        f"({aligned.dx:.2f}, {aligned.dy:.2f})"
    ]


def _check_overlap(frame: Frame, place: WCS | PixelMap, grid: Grid, founder: str) -> None:
    shape = (frame.image.shape[0], frame.image.shape[1])
    covered = overlap(place, shape, grid)
    whose = f", that of {founder}," if founder else ""
    if isinstance(place, PixelMap):
        if covered < LEAST_OVERLAP:
            raise InputError(
                f"by its stars the frame covers {covered:.0%} of the grid of this field{whose} and at least "
                f"{LEAST_OVERLAP:.0%} is needed: put it into another field (--field)"
            )
        return
    here = Grid.from_frame(place, shape)
    covered = max(covered, overlap(grid.wcs, grid.shape, here))
    if covered < LEAST_OVERLAP:
        raise InputError(
            f"WCS of another field: the frame is centred at {_centre(here)} and covers {covered:.0%} of the "
            f"grid of this field{whose} which is centred at {_centre(grid)}; at least {LEAST_OVERLAP:.0%} is "
            "needed: correct its WCS or put it into another field (--field); a new field can be given its "
            "grid (--grid)"
        )


def _centre(grid: Grid) -> str:
    where = place_of(grid)
    return "no place on the sky" if where is None else f"ra {where[0]:.4f}, dec {where[1]:+.4f}"
