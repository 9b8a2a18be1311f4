"""Find astronomical transients at survey scale: Zarr cubes, Dask differencing, Ray training, xarray queries.

The whole public API is re-exported here and imported only when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astrid_dist.errors import AstridError as AstridError
    from astrid_dist.query import open_candidates as open_candidates
    from astrid_dist.query import open_difference as open_difference
    from astrid_dist.query import open_reference as open_reference
    from astrid_dist.query import open_samples as open_samples
    from astrid_dist.query import open_survey as open_survey
    from astrid_dist.query import open_truth as open_truth
    from astrid_dist.query.export import export_candidates as export_candidates
    from astrid_dist.query.quality import quality_table as quality_table
    from astrid_dist.stages.demo import run_demo as run_demo
    from astrid_dist.stages.night import night_page as night_page
    from astrid_dist.stages.run import plan_stage as plan_stage
    from astrid_dist.stages.run import run_stage as run_stage
    from astrid_dist.store.verifying import verify as verify

_HOMES = {
    "AstridError": "errors",
    "export_candidates": "query.export",
    "night_page": "stages.night",
    "open_candidates": "query",
    "open_difference": "query",
    "open_reference": "query",
    "open_samples": "query",
    "open_survey": "query",
    "open_truth": "query",
    "plan_stage": "stages.run",
    "quality_table": "query.quality",
    "run_demo": "stages.demo",
    "run_stage": "stages.run",
    "verify": "store.verifying",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'astrid_dist' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"astrid_dist.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
