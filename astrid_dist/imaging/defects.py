"""Small defects mended, so that a hot column or the trace of a cosmic ray does not cost its surroundings."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from astrid_dist.flags import UNUSABLE, Flag
from astrid_dist.imaging.masks import squared

Image: TypeAlias = NDArray[np.float32]

#: Defects up to this wide, in the narrower direction, are interpolated; a PSF is not known across wider ones.
WIDEST_PX = 2
#: What the interpolated value may be wrong by at the top of a star, as a fraction of itself.
_MODEL_ERROR = 0.1
#: Width of the weights, in standard deviations of the PSF: near pixels say most.
_NARROW = 0.7


def mend(
    image: Image, variance: Image, mask: NDArray[np.uint16], fwhm_px: float
) -> tuple[Image, Image, NDArray[np.uint16]]:
    """Interpolate over bad pixels and cosmic rays that are narrow; everything else stays no data.

    The value is the mean of the good neighbours weighted with a Gaussian narrower than the PSF. Its variance
    is theirs, not reduced by averaging, plus what they differ by beyond their noise, plus 10 % of the value
    squared: on a star it is hardly believed.

    Parameters
    ----------
    image, variance : (y, x) float32
        Sky-subtracted electrons and electron²; NaN where unusable.
    mask : (y, x) uint16
        Bits of `Flag`.
    fwhm_px : float
        Seeing in pixels.

    Returns
    -------
    image, variance, mask
        New arrays where anything was mended; mended pixels also carry INTERPOLATED.
    """
    defect = (mask & int(Flag.BAD | Flag.COSMIC_RAY)) != 0
    defect &= (mask & (int(UNUSABLE) & ~int(Flag.BAD | Flag.COSMIC_RAY))) == 0
    bad = ~np.isfinite(image)
    defect &= bad
    # A defect is narrow where no square wider than the limit fits into it.
    wide = squared(~squared(~bad, WIDEST_PX // 2), WIDEST_PX // 2)
    rows, columns = np.nonzero(defect & ~wide)
    if not rows.size:
        return image, variance, mask
    reach = WIDEST_PX + 1
    sigma = _NARROW * max(fwhm_px, 1.5) / 2.3548
    total, value, square, noise = (np.zeros(rows.size) for _ in range(4))
    height, width = image.shape
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            y, x = rows + dy, columns + dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
            good = inside & ~bad[y, x]
            weight = np.where(good, np.exp(-(dy**2 + dx**2) / (2 * sigma**2)), 0.0)
            total += weight
            here = np.where(good, image[y, x], 0.0).astype(np.float64)
            value += weight * here
            square += weight * here**2
            noise += weight * np.where(good, variance[y, x], 0.0)
    enough = total >= np.exp(-1 / (2 * sigma**2))  # the weight of one good pixel beside it
    rows, columns = rows[enough], columns[enough]
    value, square, noise = (part[enough] / total[enough] for part in (value, square, noise))
    spread = np.maximum(square - value**2 - noise, 0)
    image, variance, mask = image.copy(), variance.copy(), mask.copy()
    image[rows, columns] = value
    variance[rows, columns] = noise + spread + (_MODEL_ERROR * value) ** 2
    mask[rows, columns] |= int(Flag.INTERPOLATED)
    return image, variance, mask
