"""Artifacts of optics, detectors, air and processing, each in the file of its cause."""

from collections.abc import Mapping
from types import MappingProxyType

from astrid_dist.simulation.artifacts import (
    cosmic_rays,
    light,
    pixels,
    response,
    saturation,
    stars,
    trails,
    transport,
)
from astrid_dist.simulation.artifacts.base import Artifact, Put, Site

__all__ = ["ARTIFACTS", "Artifact", "Put", "Site"]

_FILES = (cosmic_rays, stars, saturation, trails, pixels, response, light, transport)

#: Every artifact by kind, in the order of the catalogue. Other amplitudes: `dataclasses.replace` its `put`.
ARTIFACTS: Mapping[str, Artifact] = MappingProxyType(
    {
        artifact.kind: artifact
        for artifact in sorted((a for file in _FILES for a in file.ARTIFACTS), key=lambda a: a.number)
    }
)
