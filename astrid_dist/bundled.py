"""Where the shipped job files, cluster files and schemas lie: in the wheel, or beside the package."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def bundled(kind: str) -> Path:
    """Folder of the shipped ``jobs``, ``clusters`` or ``schemas``."""
    inside = PACKAGE / "bundled" / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind
