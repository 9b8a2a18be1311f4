"""Proper co-addition (Zackay & Ofek 2017, ApJ 836, 188, eq. 9-11): the image that loses nothing.

Every statistic of point sources and galaxies that a stack of background-limited epochs could give, the proper
co-add gives too; a weighted mean does so only where the epochs share one PSF.
"""

import numpy as np

from astrid_dist.imaging.coadd import Stack, Transforms

# Below this part of its zero frequency the phases of a measured PSF are noise: taking them out would sharpen
# the PSF of the result but not its stars. There the epochs are averaged instead, which costs 0.3 % of the
# depth at most for seeing of 2.2 to 5 px.
_PHASE_NOISE = 0.1


def proper_filters(stack: Stack) -> Transforms:
    """Filters that make R / F_r: w_j conj(P_j) / sqrt(sum_k w_k |P_k|²) / F_r, w_j = F_j² / sigma_j².

    The epochs come divided by F_j, hence the square. F_r² is the sum of the weights, so that the result is on
    the flux scale of the epochs and its noise white, of variance 1 / F_r².

    Parameters
    ----------
    stack : Stack
        Of the tile.

    Returns
    -------
    (k, ky, kx) complex64
    """
    total = np.float32(stack.weights.sum())
    weights = stack.weights.astype(np.float32)[:, None, None]
    weak = np.exp(-stack.power / (total * np.float32(_PHASE_NOISE**2)))
    psfs = stack.psfs + np.float32(_PHASE_NOISE) * weak * stack.ramps
    power = (weights * (np.square(psfs.real) + np.square(psfs.imag))).sum(axis=0)
    return np.asarray(weights * np.conj(psfs) / np.sqrt(power * total), dtype=np.complex64)
