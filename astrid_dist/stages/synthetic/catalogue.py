"""Everything that can be put into a sky, and where it is put."""

from collections.abc import Iterable
from difflib import get_close_matches

from astrid_dist.errors import ConfigError
from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.taxonomy import KINDS

#: Environment of what an artifact's middle is put on.
_ARTIFACT_PLACES = {"star": "star", "edge": "edge", "anywhere": "empty"}


def known_kinds() -> tuple[str, ...]:
    """Every kind that samples can be made of."""
    return tuple(
        kind for kind in KINDS if kind in POPULATIONS or kind in ARTIFACTS or kind == "null detection"
    )


def environments_of(kinds: Iterable[str]) -> dict[str, tuple[str, dict[str, float]]]:
    """Class and environment shares of kinds.

    Raises
    ------
    ConfigError
        An unknown kind, with the nearest known one.
    """
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for kind in kinds:
        if kind in POPULATIONS:
            found[kind] = KINDS[kind], dict(POPULATIONS[kind].environments)
        elif kind in ARTIFACTS:
            found[kind] = KINDS[kind], {_ARTIFACT_PLACES[ARTIFACTS[kind].where]: 1.0}
        elif kind == "null detection":
            found[kind] = KINDS[kind], {"empty": 1.0}
        else:
            close = get_close_matches(kind, KINDS, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; kinds are {', '.join(KINDS)}"
            raise ConfigError(f"kinds: nothing is called {kind!r}{hint}")
    return found
