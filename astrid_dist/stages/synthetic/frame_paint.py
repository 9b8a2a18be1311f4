"""Sources of a field painted as points, trails or comets, and what a filter for points sees of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.simulation.painter import paint_points
from astrid_dist.simulation.populations.base import Events
from astrid_dist.simulation.psf_bank import PsfBank
from astrid_dist.simulation.trails import paint_comae, paint_trails
from astrid_dist.stages.synthetic.frame_light import FieldSources

Array = NDArray[np.float64]
Image = NDArray[np.float32]

#: A trail longer than this is painted as one, pixels.
_SHORTEST_PX = 0.05


def paint(
    image: Image, variance: Image | None, bank: PsfBank, sources: FieldSources, chosen: NDArray[np.bool_],
    at: tuple[Array, Array], flux: Array, exposed: tuple[float, float], key: np.uint64 | None,
) -> None:  # fmt: skip
    """Paint the chosen of n sources, with their shot noise if there is a key, and its variance.

    Parameters
    ----------
    at : (x, y) of (n,) float64
        Pixels of the image.
    flux : (n,) float64
        Its electrons.
    exposed : (float, float)
        Exposure time (s) and side of a pixel (arcsec).
    """
    for which, events in sources.events.values():
        mine = chosen[which]
        here = which[mine]
        if here.size:
            planes = (image, variance, at[0][here], at[1][here], flux[here])
            _paint(planes, bank, events, mine, exposed, {"key": key, "items": here})


def seen_by_points(
    bank: PsfBank, sources: FieldSources, chosen: NDArray[np.bool_], exposed: tuple[float, float]
) -> Array:
    """(n,) part of its light that a filter for point sources sees of each: below 1 for trails and comae."""
    out = np.ones(len(sources))
    side = 2 * bank.radius_px + 1
    middle = np.array([float(bank.radius_px)])
    height, width = bank.shape
    place = np.array([(width - 1) / 2]), np.array([(height - 1) / 2])
    for which, events in sources.events.values():
        if not any(np.any(one) for one in events.motion()):
            continue
        for number in np.flatnonzero(chosen[which]):
            pattern, point = np.zeros((2, side, side), np.float32)
            mine = np.arange(len(which)) == number
            where = (None, middle, middle, np.ones(1))
            _paint((pattern, *where), bank, events, mine, exposed, {"place": place})
            paint_points(point, *where, bank, place=place)
            out[which[number]] = np.vdot(pattern, point) / np.vdot(point, point)
    return out


def _paint(
    planes: tuple[Image, Image | None, Array, Array, Array], bank: PsfBank, events: Events,
    mine: NDArray[np.bool_], exposed: tuple[float, float], more: dict[str, Any],
) -> None:  # fmt: skip
    """Paint some events of one kind."""
    exptime, scale = exposed
    length, angle = _trails(events, mine, exptime, scale)
    if "coma_radius_arcsec" in events.parameters:
        known = {name: values[mine] for name, values in events.parameters.items()}
        paint_comae(
            *planes, known["coma_radius_arcsec"] / scale, known["nucleus_fraction"], bank,
            tail=known["tail_fraction"], tail_px=known["tail_length_arcsec"] / scale,
            tail_angle_rad=np.deg2rad(known["tail_angle_deg"]), **more,
        )  # fmt: skip
    elif np.any(length > _SHORTEST_PX):
        paint_trails(*planes, length, angle, bank, **more)
    else:
        paint_points(*planes, bank, **more)


def _trails(events: Events, mine: NDArray[np.bool_], exptime: float, scale: float) -> tuple[Array, Array]:
    """Length (pixels) and direction (radians from +x towards +y) of the way in one exposure."""
    east, north = (np.asarray(one, np.float64)[mine] for one in events.motion())
    if not (east.any() or north.any()):
        return np.zeros(len(east)), np.zeros(len(east))
    return np.hypot(east, north) * exptime / 3600 / scale, np.arctan2(north, -east)
