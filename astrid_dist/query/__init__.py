"""What scientists ask of the products: cutouts, light curves, cones, plots, exports.

Importing it registers the ``.astrid`` accessor on `xarray.Dataset`; so every way to open a product that
`astrid_dist` offers comes from here.
"""

from astrid_dist.query.accessor import AstridAccessor
from astrid_dist.query.magnitudes import ab_magnitude, microjansky
from astrid_dist.query.opening import open_candidates, open_truth
from astrid_dist.query.samples import open_samples
from astrid_dist.store.opening import open_difference, open_reference, open_survey

__all__ = [
    "AstridAccessor",
    "ab_magnitude",
    "microjansky",
    "open_candidates",
    "open_difference",
    "open_reference",
    "open_samples",
    "open_survey",
    "open_truth",
]
