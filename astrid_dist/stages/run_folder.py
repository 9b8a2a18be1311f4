"""The folder of a stage without shards: one driver at a time, and a record from which it goes on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from astrid_dist.errors import ResumeConflictError
from astrid_dist.store.lease import Lease
from astrid_dist.store.locations import Location


@dataclass(frozen=True)
class RunFolder:
    """An output that this driver holds."""

    output: Location
    lease: Lease
    file: str
    """Object of the record, JSON."""

    def record(self, digest: str, what: str) -> dict[str, Any]:
        """What is known of a run already; empty if it is new.

        Raises
        ------
        ResumeConflictError
            The folder holds a run of another digest.
        """
        found: dict[str, Any] = json.loads(self.output.objects().get(self.file) or b"{}")
        if found and found["digest"] != digest:
            raise ResumeConflictError(f"{self.output} holds {what}: choose another output, or remove it")
        return found

    def keep(self, record: dict[str, Any]) -> None:
        """Write the record."""
        self.output.objects().put(self.file, json.dumps(record, indent=1).encode())


@contextmanager
def run_folder(output: Location, stage: str, file: str) -> Iterator[RunFolder]:
    """Hold an output while a stage runs.

    Raises
    ------
    ClusterError
        Another driver holds it.
    """
    with Lease(output.sibling(".ledger"), stage) as lease:
        yield RunFolder(output, lease, file)
