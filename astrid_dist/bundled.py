"""Where the job files, cluster files and schemas lie: inside the wheel, or beside the package in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def bundled(kind: str) -> Path:
    """Folder of the shipped ``jobs``, ``clusters`` or ``schemas``."""
    inside = PACKAGE / "bundled" / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind
