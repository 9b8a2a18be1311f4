"""Tables of candidates whose classes follow from a few of their features: for trees and ensembles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def made_candidates(n: int = 600, seed: int = 0, share: float = 0.4) -> tuple[Columns, NDArray[np.bool_]]:
    """Columns, and which are real: bogus ones are sharper and often near a star; half of all fade."""
    rng = np.random.default_rng(seed)
    real = rng.random(n) < share
    snr = 10 ** rng.uniform(0.7, 2, n) * np.where(rng.random(n) < 0.5, -1, 1)
    columns: Columns = {
        "chi2": rng.chisquare(20, n) / 20 + np.where(real, 0, 0.5),
        "fwhm_ratio": np.where(real, 1.0, 0.7) + 0.25 * rng.normal(size=n),
        "spread_model": np.where(real, 0.0, -0.02) + 0.02 * rng.normal(size=n),
        "star_distance": np.where(real, 30, 20) * rng.random(n),
        "dipole_separation": np.where(rng.random(n) < 0.7, np.nan, 3 * rng.random(n)),
        "dchi2_hit": snr**2 * (np.where(real, -0.1, 0.1) + 0.2 * rng.normal(size=n)),
        "elongation": 1 + rng.random(n),
        "snr": snr,
        "flux": snr * 7,
        "aperture_flux": snr * 7 * (1 + 0.1 * rng.normal(size=n)),
        "ssnrms": snr,
        "dsnrms": snr / 3,
    }
    columns = {name: values.astype(np.float32) for name, values in columns.items()}
    columns["nneg"] = rng.integers(0, 12, n).astype(np.int16)
    columns["mask"] = np.where(real, 1024, 0).astype(np.uint16)  # INJECTED: the answer, which no one may see
    return columns, real


def told_by_a_unet(real: NDArray[np.bool_], seed: int = 1, strength: float = 1.5) -> NDArray[np.float32]:
    """Probabilities of something else than the features; one in fifty is NaN."""
    rng = np.random.default_rng(seed)
    logit = np.where(real, strength, -strength) + 1.5 * rng.normal(size=len(real))
    logit[rng.random(len(real)) < 0.02] = np.nan
    return (1 / (1 + np.exp(-logit))).astype(np.float32)
