"""Places of a stamp where nothing was put and S_corr peaks all the same: what most of a search looks like.

Stamps have something in the middle, real as often as not. A network that was asked about nothing else calls
every star real on which noise is 2.5 sigma high, since of stars in the middle many vary. An image has a
thousand peaks of noise for each source.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from astrid_dist.learning.candidates import PLANES

TEMPLATE, SCORE = PLANES.index("template"), PLANES.index("score")
#: Places in each stamp: the highest peak of all, and the highest on a star or galaxy.
PLACES = 2
#: |S_corr| beyond which a peak may be a residual that nobody labelled: nothing is said of it.
MOST = 4.5
#: Noise sigmas of the template from which there is a star or galaxy.
SOURCE = 5.0
#: Pixels around candidate, labelled pixels and unlabelled residuals that are left alone.
_AROUND = 6


def quiet_peaks(pixels: Tensor, target: Tensor, seen: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Where |S_corr| is highest though nothing is there, anywhere in an image and on its stars and galaxies.

    Parameters
    ----------
    pixels : (n, visit, plane, y, x)
        Noise sigmas, NaN no data.
    target : (n, visit, y, x) int
        Bits of classes; not 0 where something is.
    seen : (n, visit) bool
    at : (n, 3)
        Image, x, y of the candidate of each image.

    Returns
    -------
    at : (PLACES * n, 3)
        Image, x, y: first the one place of all images, then the other; a corner where there is none.
    found : (PLACES * n,) float32
        1 where there is one, else 0; all 0 without a plane of scores.
    """
    n, _, _, height, width = pixels.shape
    planes = torch.where(seen[:, :, None, None, None], pixels[:, :, [SCORE, TEMPLATE]], 0).nan_to_num(0)
    score, source = planes[:, :, 0].abs().amax(1), planes[:, :, 1].amax(1) >= SOURCE
    rows, columns = (torch.arange(size, device=pixels.device) for size in (height, width))
    dx, dy = columns - at[:, 1, None, None], rows[:, None] - at[:, 2, None, None]
    free = _largest(((target != 0).any(1) | (score > MOST)).float(), _AROUND) == 0
    free &= dx.abs().maximum(dy.abs()) > _AROUND
    peak = torch.where(free & (score == _largest(score, 1)), score, 0)
    highest, place = torch.stack([peak, peak * source]).flatten(2).max(2)
    image = torch.arange(n, device=pixels.device).repeat(PLACES)
    place = place.flatten()
    places = torch.stack([image, place % width, place // width], 1).to(at.dtype)
    return places, (highest.flatten() > 0).float()


def _largest(images: Tensor, reach: int) -> Tensor:
    """The largest value within so many rows and columns of each pixel, (n, y, x)."""
    along = F.max_pool2d(images[:, None], (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(along, (2 * reach + 1, 1), 1, (reach, 0))[:, 0]
