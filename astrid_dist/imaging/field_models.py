"""Quantities that vary smoothly over a field: Legendre surfaces through stars, with errors and scatter."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from astrid_dist.imaging.psf import legendre_weights, n_terms

Float64 = NDArray[np.float64]

#: Stars per term below which a higher order is not tried.
STARS_PER_TERM = 3
#: What the whole field counts beside the stars of a box, and the fewest of those, for their scatter.
FIELD_STARS = 10
#: Part of the stars presumed to be outliers before any is seen, worth as many stars.
_PRESUMED_OUTLIERS, _PRESUMED_STARS = 0.05, 10.0


@dataclass(frozen=True)
class Stars:
    """What a surface goes through: places in pixels, values, their variances, (n,); the range of outliers."""

    x: Float64
    y: Float64
    values: Float64
    noise2: Float64
    width: float


@dataclass(frozen=True)
class Surface:
    """A low-order Legendre surface over a field, and what the stars scatter about it.

    `terms` (n,) and their `covariance` (n, n), sorted as `legendre_weights` does; `scatter` is the standard
    deviation that single stars add to their noise.
    """

    terms: Float64
    covariance: Float64
    shape: tuple[int, int]
    """Height and width of the field, pixels; it is scaled to -1 .. 1."""
    scatter: float
    minus_2_log: float
    """-2 ln(likelihood), with that of so many outliers."""
    stars: Stars
    residual: Float64
    """Value minus surface, (n_star,)."""
    inlier: Float64
    """Probability of each star to be no outlier."""
    density: float
    """Of outliers, per unit of the values, times how many there are for each other star."""
    alternatives: tuple[tuple[float, "Surface"], ...] = ()
    """Probability and surface of every order tried, this one among them; empty in those."""

    @property
    def order(self) -> int:
        """Highest i + j of its terms."""
        return {1: 0, 3: 1, 6: 2}[len(self.terms)]

    @property
    def n_inliers(self) -> int:
        """Stars more likely than not to be no outliers."""
        return int((self.inlier > 0.5).sum())

    @property
    def constant(self) -> "Surface":
        """The surface of order 0 through the same stars; its scatter holds the slopes."""
        flat = self.alternatives[0][1]
        return replace(flat, alternatives=((1.0, flat),))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Value and its standard error at a pixel of the field.

        The mean over the orders tried, each as probable as its criterion says, so that the error holds where
        the stars cannot tell whether there is a slope (Hoeting et al. 1999).
        """
        one_x, one_y = np.array([x]), np.array([y])
        parts = np.array([part for part, _ in self.alternatives])
        values = np.array([surface._values(one_x, one_y)[0] for _, surface in self.alternatives])
        variances = np.array([surface._variance(x, y) for _, surface in self.alternatives])
        value = float(parts @ values)
        return value, float(np.sqrt(parts @ (variances + (values - value) ** 2)))

    def spread(self, x: float, y: float, half_px: float) -> float:
        """By how much the surface differs from its value at the middle of a box, rms over the box."""
        # At these nine points a slope has the rms that it has over the box.
        steps = np.array([-1, 0, 1]) * half_px / np.sqrt(2)
        grid_x, grid_y = (one.ravel() for one in np.meshgrid(x + steps, y + steps))
        values = np.zeros(9)
        for part, surface in self.alternatives:
            values += part * surface._values(grid_x, grid_y)
        return float(np.sqrt(np.mean((values - values[4]) ** 2)))

    def _values(self, x: Float64, y: Float64) -> Float64:
        return legendre_weights(self.order, x, y, self.shape) @ self.terms

    def _variance(self, x: float, y: float) -> float:
        basis = legendre_weights(self.order, x, y, self.shape)[0]
        return float(basis @ self.covariance @ basis)

    def within(self, x: float, y: float, half_px: float) -> NDArray[np.bool_]:
        """Which stars lie in a box of the field."""
        return np.asarray((np.abs(self.stars.x - x) <= half_px) & (np.abs(self.stars.y - y) <= half_px))

    def scatter_near(self, x: float, y: float, half_px: float) -> float:
        """Scatter of the stars in a box, drawn towards that of the field; the field's if stars are few.

        The most likely one, with all stars outside the box together counting as much as ten inside.
        """
        inside = self.within(x, y, half_px)
        if inside.sum() < FIELD_STARS:
            return self.scatter
        count = np.where(inside, 1, FIELD_STARS / len(inside))
        residual2 = self.residual**2
        # From above: a box rougher than the field would look full of outliers from below.
        scatter2 = max(self.scatter**2, float(np.median(residual2[inside])) / 0.455)
        for _ in range(30):
            before = scatter2
            var = self.stars.noise2 + scatter2
            inlier = count * _inlier(residual2, var, self.density)
            slope = (inlier * (residual2 - var) / var**2).sum()
            scatter2 = max(scatter2 + slope / (inlier / var**2).sum(), 0.0)
            if abs(scatter2 - before) < 0.01 * before:
                break
        return float(np.sqrt(scatter2))


def fit_surface(
    x: Float64, y: Float64, values: Float64, noise: Float64, shape: tuple[int, int] | None = None
) -> Surface:
    """Surface of the order that the stars call for, deaf to outliers.

    The likelihood of a star is a mixture (Hogg, Bovy & Lang 2010, section 3): a Gaussian about the surface,
    of its noise and the scatter common to all, and a flat distribution of outliers. It is maximised by
    expectation and maximisation. The order has the lowest Bayesian information criterion (Schwarz 1978).

    Parameters
    ----------
    x, y : (n,)
        Pixels of the field.
    values, noise : (n,)
        What is modelled, and its standard errors.
    shape : (height, width), optional
        Of the field, pixels; one value for the whole field without it.

    Returns
    -------
    Surface
        Of order 0 below nine stars. Its errors hold for as few stars as there are.
    """
    values = np.asarray(values, dtype=np.float64)
    noise2 = np.maximum(np.asarray(noise, dtype=np.float64), 1e-6) ** 2
    n = len(values)
    residual = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(residual)))
    width = max(float(np.ptp(values)), 10 * spread, 10 * float(np.sqrt(np.median(noise2))))
    stars = Stars(np.asarray(x, float), np.asarray(y, float), values, noise2, width)
    # From the spread of all, and from none, for the case that it is that of outliers.
    wide, narrow = (
        _fit(stars, shape or (1, 1), 0, (residual, scatter2, _PRESUMED_OUTLIERS / width))
        for scatter2 in (max(spread**2 - float(np.median(noise2)), 0.0), 0.0)
    )
    tried = [min(wide, narrow, key=lambda one: one.minus_2_log)]
    for order in (1, 2) if shape is not None else ():
        if n >= STARS_PER_TERM * n_terms(order):
            lower = tried[-1]
            tried.append(_fit(stars, lower.shape, order, (lower.residual, lower.scatter**2, lower.density)))
    # The last factor is that of few stars (Hurvich & Tsai 1989).
    criteria = np.array(
        [one.minus_2_log + len(one.terms) * np.log(n) * n / max(n - len(one.terms) - 2, 1) for one in tried]
    )
    parts = np.exp(-0.5 * (criteria - criteria.min()))
    parts /= parts.sum()
    best = tried[int(np.argmin(criteria))]
    return replace(best, alternatives=tuple(zip(parts.tolist(), tried, strict=True)))


def _fit(stars: Stars, shape: tuple[int, int], order: int, start: tuple[Float64, float, float]) -> Surface:
    """Most likely surface of one order, from residuals, squared scatter and density of outliers."""
    values, noise2 = stars.values, stars.noise2
    basis = legendre_weights(order, stars.x, stars.y, shape)
    residual, scatter2, density = start
    for _ in range(100):
        before = scatter2
        var = noise2 + scatter2
        inlier = _inlier(residual**2, var, density)
        weighted = basis * (inlier / var)[:, None]
        covariance = np.linalg.inv(weighted.T @ basis + 1e-12 * np.eye(basis.shape[1]) / var.max())
        terms = covariance @ (weighted.T @ values)
        residual = values - basis @ terms
        # Fisher scoring of the variance; a star that pulls the fit to itself shows less of its deviation
        # (restricted likelihood, Patterson & Thompson 1971).
        pull = np.einsum("ij,jk,ik->i", basis, covariance, weighted)
        slope = (inlier * (residual**2 / var**2 - (1 - pull) / var)).sum()
        known = (inlier / var**2).sum()
        scatter2 = max(scatter2 + slope / known, 0.0)
        part = (1 - inlier).sum() + _PRESUMED_OUTLIERS * _PRESUMED_STARS
        part /= len(values) + _PRESUMED_STARS
        density = part / (1 - part) / stars.width
        if abs(scatter2 - before) <= 1e-3 * (before + np.sqrt(2 / known)):
            break
    var = noise2 + scatter2
    weight = inlier / var
    freedom = weight.sum() ** 2 / np.square(weight).sum() - basis.shape[1]
    covariance = covariance * (1 + 2 / max(freedom - 2, 1))
    gaussian = np.exp(-0.5 * residual**2 / var) / np.sqrt(2 * np.pi * var)
    log_likelihood = np.log((1 - part) * (gaussian + density)).sum() + _PRESUMED_STARS * (
        _PRESUMED_OUTLIERS * np.log(part) + (1 - _PRESUMED_OUTLIERS) * np.log(1 - part)
    )
    scatter, minus_2_log = float(np.sqrt(scatter2)), float(-2 * log_likelihood)
    return Surface(terms, covariance, shape, scatter, minus_2_log, stars, residual, inlier, density)


def _inlier(residual2: Float64, var: Float64, density: float) -> Float64:
    """Probability of each star to be no outlier."""
    gaussian = np.exp(-0.5 * residual2 / var) / np.sqrt(2 * np.pi * var)
    return np.asarray(gaussian / (gaussian + density))
