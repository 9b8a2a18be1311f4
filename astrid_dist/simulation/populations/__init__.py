"""Populations of changing sources, each in the file of its physics; `POPULATIONS` has them all by kind."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.populations.base import Population

#: Made when first asked for: template and filter libraries take their time to import.
POPULATIONS: Mapping[str, Population]

_MODULES = ("supernovae", "thermal", "stellar", "periodic", "agn", "moving")


def __getattr__(name: str) -> Mapping[str, Population]:
    if name != "POPULATIONS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (import_module(f"{__name__}.{module}") for module in _MODULES)
    known = MappingProxyType({each.kind: each for module in modules for each in module.POPULATIONS})
    globals()[name] = known
    return known


def events_per_year(population: Population, limit_mag: float) -> float:
    """Events per square degree and observer's year that peak brighter than `limit_mag` (AB, reference band).

    Raises
    ------
    ConfigError
        The population counts objects, not events.
    """
    if population.expected is None:
        raise ConfigError(
            f"{population.kind!r} has no events to count: its rate is {population.rate.value:g} "
            f"{population.rate.unit}; say how many of them there shall be"
        )
    return population.expected(limit_mag)
