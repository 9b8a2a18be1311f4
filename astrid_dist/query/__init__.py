"""What scientists ask of the products: cutouts, light curves, cones, plots, exports.

Importing it registers the ``.astrid`` accessor on `xarray.Dataset`.
"""

from astrid_dist.query.accessor import AstridAccessor
from astrid_dist.query.magnitudes import ab_magnitude, microjansky

__all__ = ["AstridAccessor", "ab_magnitude", "microjansky"]
