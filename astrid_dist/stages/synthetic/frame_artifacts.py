"""Artifacts of a whole epoch: as many as such an exposure has, each put on the frame where it happens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from astrid_dist.simulation.artifacts import ARTIFACTS, Artifact, Site
from astrid_dist.simulation.canvas import Star
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.stages.synthetic.frame import Frame
from astrid_dist.stages.synthetic.settings import Settings

Array = NDArray[np.float64]

#: Belong to the template, and come with `into=reference`.
OF_TEMPLATE = ("template contamination",)
#: Not put on whole frames: noise peaks are in the noise, and a frame has its own edges.
LEFT_OUT = ("noise peak", "edge")
#: Stars whose light at the full well makes these.
_OF_SATURATED = ("saturated star", "ghost", "crosstalk")
#: What is wrong with all stars of an epoch is in it already. Of stars that stand out so far above their noise
#: this part gets more of it, so that the residuals of a bad subtraction are in every image.
_BRIGHT_SNR, _WRONG_STARS = 20.0, 0.02


def artifact_kinds(settings: Settings, into: str) -> list[str]:
    """Kinds that are put into epochs, or into the reference."""
    asked = settings.kinds or list(ARTIFACTS)
    if not settings.artifacts:
        return []
    of_template = into == "reference"
    return [
        kind for kind in asked
        if kind in ARTIFACTS and kind not in LEFT_OUT and (kind in OF_TEMPLATE) == of_template
    ]  # fmt: skip


def put_artifacts(frame: Frame, settings: Settings, kinds: list[str], what: str) -> dict[str, NDArray[Any]]:
    """Put artifacts on the frame's canvas.

    Parameters
    ----------
    kinds : list of str
        Which.
    what : str
        Names the exposure: numbers, places and looks follow from it and the job's seed.

    Returns
    -------
    dict of (n,) arrays
        ``kind``, ``x``, ``y`` (pixels of the field) and ``flux`` (electrons of the epoch) of each.
    """
    found: list[tuple[str, float, float, float]] = []
    for kind in kinds:
        artifact = ARTIFACTS[kind]
        key = stream(settings.seed, f"{kind} of {what}")
        stars = _stars_for(frame, kind)
        height, width = frame.shape
        exptime = float(frame.pair.row["exptime"])
        able = len(stars) * (1.0 if kind in _OF_SATURATED else _WRONG_STARS)
        expected = settings.artifacts * artifact.rate(frame.camera, height * width, exptime, able)
        # Draws of numbers below 0 stand for the exposure, the others for one artifact each.
        number = int(stats.poisson.ppf(uniforms(key, [-1], 1)[0, 0], expected)) if expected > 0 else 0
        draws = uniforms(key, np.arange(number), 3 + artifact.n_draws)
        for item in range(number):
            put = _put(frame, artifact, stars, draws[item], key, item)
            if put is not None:
                found.append((kind, *put))
    columns = list(zip(*found, strict=True)) or [()] * 4
    named = dict(zip(("x", "y", "flux"), (np.array(one, np.float64) for one in columns[1:]), strict=True))
    return {"kind": np.array(columns[0], object), **named}


def _put(
    frame: Frame, artifact: Artifact, stars: list[Star], draws: Array, key: np.uint64, item: int
) -> tuple[float, float, float] | None:
    """Place and flux of an artifact that was put on the canvas."""
    height, width = frame.shape
    star = None
    if artifact.where == "star":
        if not stars:
            return None
        star = stars[min(int(draws[0] * len(stars)), len(stars) - 1)]
        x, y = star.x, star.y
    else:
        x, y = draws[1] * width - 0.5, draws[2] * height - 0.5
    made = artifact.put(frame.canvas, frame.view(x, y), Site(x, y, draws[3:], key, item, star))
    return x, y, float(made.flux)


def _stars_for(frame: Frame, kind: str) -> list[Star]:
    """Stars of the frame that can make an artifact of a kind."""
    view = frame.view(frame.shape[1] / 2, frame.shape[0] / 2)
    if kind in _OF_SATURATED:
        least = frame.camera.full_well / float(view.psf_n.max())
        return [star for star in frame.all_stars if star.flux > least]
    if ARTIFACTS[kind].where != "star":
        return []
    least = _BRIGHT_SNR * view.sigma_n / float(np.sqrt(np.square(view.psf_n).sum()))
    return [star for star in frame.stars if star.flux > least]
