"""JSON Schemas of job and cluster files, generated from the models; ``--check`` compares those on disk.

Run as ``python -m astrid_dist.stages.schemas [--check] DIRECTORY``.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astrid_dist.engine.clusters import cluster_schema
from astrid_dist.engine.jobfile import job_schema
from astrid_dist.stages import STAGES, load_stage


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """File names and schemas: one per stage, and one of cluster files."""
    for name in STAGES:
        yield f"{name}.schema.json", job_schema(load_stage(name).Settings, name)
    yield "cluster.schema.json", cluster_schema()


def main(arguments: list[str]) -> int:
    """Write the schemas, or compare them; returns the exit status."""
    check = "--check" in arguments
    folder = Path(next((one for one in arguments if not one.startswith("-")), "schemas"))
    stale = []
    for name, schema in schemas():
        text = json.dumps(schema, indent=2, sort_keys=True) + "\n"
        path = folder / name
        if check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print(f"{', '.join(stale)} in {folder} differ from the models: run `make schemas`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
