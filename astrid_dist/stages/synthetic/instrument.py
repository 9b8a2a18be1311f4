"""Camera and bands of the survey that a group belongs to."""

from functools import lru_cache

from astrid_dist.simulation.bands import Band, band_of
from astrid_dist.store.reading import ProductReader
from astrid_dist.surveys.profile import Camera, load_profile, profile_names


def camera_of(reader: ProductReader) -> Camera:
    """Camera of a group's survey; the generic one where no profile has its name."""
    return _camera(_profile_name(reader))


def band_of_group(reader: ProductReader) -> Band:
    """Band of a group.

    Raises
    ------
    ConfigError
        Its survey has no filter curve for it.
    """
    return _band(_profile_name(reader), str(reader.attributes.get("band", reader.group.rpartition("/")[2])))


def _profile_name(reader: ProductReader) -> str:
    survey = str(reader.attributes.get("survey", "generic"))
    return survey if survey in profile_names() else "generic"


@lru_cache(8)
def _camera(profile: str) -> Camera:
    return load_profile(profile).camera


@lru_cache(64)
def _band(profile: str, name: str) -> Band:
    return band_of(profile, name)
