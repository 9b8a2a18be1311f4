"""One exception tree, grouped by what a caller can do about it.

::

    AstridError
    ├── ConfigError            fix the job file, the profile or the arguments
    ├── InputError             fix or leave out the data named; ingest quarantines it and goes on
    ├── StorageError           often transient: try again, check credentials, free space
    ├── TaskError              one task failed for good: `astrid why KEY`, then `astrid resume`
    ├── ResumeConflictError    the output belongs to another job: choose a new output, or wait for it
    ├── IncompleteProductError finish it with `astrid resume`, or open with `allow_partial=True`
    └── ClusterError           no workers, too small, or lost: start or enlarge the cluster

Every message says what was wrong, where, and what to do. `kind` is a stable code for programs.
"""

from typing import ClassVar


class AstridError(Exception):
    """Root of all errors that astrid_dist raises on purpose."""

    kind: ClassVar[str] = "error"


class ConfigError(AstridError, ValueError):
    """A job file, cluster file, survey profile or argument is wrong."""

    kind = "config"


class InputError(AstridError, ValueError):
    """Data that cannot be used: truncated FITS, NaN plane, missing keyword, wrong shape, duplicate."""

    kind = "input"


class StorageError(AstridError, OSError):
    """Reading or writing failed: unreachable bucket, full disk, refused credentials, damaged shard."""

    kind = "storage"


class TaskError(AstridError, RuntimeError):
    """A task failed on every attempt and was set aside."""

    kind = "task"


class ResumeConflictError(AstridError, RuntimeError):
    """The output is another job's, or the job's inputs or configuration changed since it began."""

    kind = "resume_conflict"


class IncompleteProductError(AstridError, RuntimeError):
    """A product is not finished, or a job ended with some keys missing."""

    kind = "incomplete"


class ClusterError(AstridError, RuntimeError):
    """No workers arrived, they are too small, or the cluster was lost."""

    kind = "cluster"
