"""Where work runs: a cluster file, or nothing for this machine, becomes an engine."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from astrid_dist.engine.dask import DaskEngine
from astrid_dist.engine.jobfile import load_yaml, validate
from astrid_dist.engine.protocol import Engine
from astrid_dist.engine.ray import RayEngine, start_ray
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ClusterError, ConfigError

#: Each task is one thread: libraries that start their own would fight over the cores.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Requests and codec threads of one worker; Zarr's defaults multiply with the number of workers.
_WORKER_ENVIRONMENT = {
    **dict.fromkeys(_ONE_THREAD, "1"),
    "ZARR_ASYNC__CONCURRENCY": "8",
    "ZARR_THREADING__MAX_WORKERS": "4",
}
_DASK = {
    # A task that is there when two workers die is tried again by the runner, which counts it.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.comm.retry.count": 3,
}
#: Ctrl-C reaches every process of a terminal; workers leave it to the driver, which stops them in order.
#: What a task raised is in the ledger with its traceback: workers need not print it too.
_QUIET_WORKER = (
    "import logging, signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "[logging.getLogger(name).setLevel(logging.CRITICAL) for name in"
    " ('distributed.worker', 'distributed.worker.state_machine')]"
)
#: Messages that say nothing is wrong, and why they come.
_NOISE = (
    "lost already computed task",  # results are empty and markers are kept: nothing is lost
    "Worker process still alive after",  # a task is let finish when its cluster closes
)


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    window: int | None = Field(default=None, ge=1, le=20_000, description="Most tasks given away at once.")
    worker_timeout_s: float = Field(default=60.0, gt=0, description="Seconds to wait for a first worker.")


class Local(_Spec):
    """Worker processes on this machine, reachable from it alone."""

    kind: Literal["local"] = "local"
    workers: int | None = Field(default=None, ge=1, description="Processes; one per core by default.")
    threads_per_worker: int = Field(default=1, ge=1, description="Tasks that run at once in a process.")
    memory_limit: str = Field(
        default="auto", description="Memory of one process, such as 4GiB; auto shares it out."
    )
    dashboard_port: int = Field(default=8787, ge=0, le=65535, description="Dashboard; a free one if taken.")


class Tls(BaseModel):
    """Files that prove who is who."""

    model_config = ConfigDict(extra="forbid")

    ca_file: str = Field(description="Certificate of the authority, PEM.")
    certificate: str = Field(description="Certificate of this client, PEM.")
    key: str = Field(description="Its private key, PEM.")


class Address(_Spec):
    """A Dask scheduler that runs already."""

    kind: Literal["address"] = "address"
    address: str = Field(description="tls://host:8786, or tcp://host:8786 in a network you trust.")
    tls: Tls | None = Field(default=None, description="Certificates, for a tls:// address.")


class Slurm(_Spec):
    """Dask workers as Slurm jobs, through dask-jobqueue."""

    kind: Literal["slurm"] = "slurm"
    cores: int = Field(ge=1, description="Cores of one Slurm job.")
    memory: str = Field(description="Memory of one Slurm job, such as 64GiB.")
    processes: int | None = Field(
        default=None, ge=1, description="Worker processes of a job; one per core if unset."
    )
    minimum_jobs: int = Field(default=1, ge=0, description="Jobs kept even without work.")
    maximum_jobs: int = Field(default=1, ge=1, description="Jobs at most; they come and go with the work.")
    queue: str | None = Field(default=None, description="Partition.")
    account: str | None = Field(default=None, description="Account charged.")
    walltime: str = Field(default="02:00:00", description="Longest life of a job; workers leave in time.")
    interface: str | None = Field(
        default=None, description="Network interface that workers reach, such as ib0."
    )
    local_directory: str | None = Field(default=None, description="Fast scratch folder of a node.")
    shared_temp_directory: str | None = Field(
        default=None,
        description="Folder all nodes see, private to you; if given, all traffic is encrypted by TLS.",
    )
    job_script_prologue: list[str] = Field(default=[], description="Lines run before a worker starts.")
    job_extra_directives: list[str] = Field(
        default=[], description="More #SBATCH options, such as --exclusive."
    )
    worker_timeout_s: float = Field(default=3600.0, gt=0, description="Seconds to wait in the queue.")


class Ray(_Spec):
    """Ray tasks, on a cluster that runs already or on a Ray of this machine."""

    kind: Literal["ray"] = "ray"
    address: str | None = Field(
        default=None,
        description="auto, host:6379 or ray://host:10001; by default RAY_ADDRESS, else one is started here.",
    )
    num_cpus: float = Field(default=1.0, gt=0, description="Cores of one task.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of one task; 0.5 lets two share one.")
    memory_limit: str | None = Field(
        default=None, description="Memory of one task, such as 4GiB; by default its share of the node."
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Tasks at once on a Ray that is started here; as its cores by default.",
    )
    dashboard_port: int | None = Field(
        default=None, ge=1, le=65535, description="Dashboard of a Ray that is started here; none by default."
    )


KINDS: dict[str, type[_Spec]] = {"local": Local, "address": Address, "slurm": Slurm, "ray": Ray}


def cluster_schema() -> dict[str, Any]:
    """JSON Schema of a cluster file, for editors."""
    kinds: TypeAdapter[Any] = TypeAdapter(
        Annotated[Local | Address | Slurm | Ray, Field(discriminator="kind")]
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **kinds.json_schema()}


def load_cluster(spec: str | None) -> _Spec | None:
    """Read a cluster description; None stands for the serial engine.

    Parameters
    ----------
    spec : str or None
        None or ``local`` for this machine, ``serial``, ``ray``, an address (``tcp://`` or ``tls://`` of Dask,
        ``ray://`` of Ray), or a YAML file.

    Raises
    ------
    ConfigError
        With file and line of what is wrong.
    """
    if spec == "serial":
        return None
    if spec is None or spec == "local":
        return Local()
    if spec.startswith(("tcp://", "tls://")):
        return Address(address=spec)
    if spec == "ray" or spec.startswith("ray://"):
        return Ray(address=None if spec == "ray" else spec)
    raw, where = load_yaml(spec)
    kind = raw.get("kind")
    if kind not in KINDS:
        near = get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(KINDS)}"
        raise ConfigError(f"{where(('kind',))}: kind of cluster {kind!r} is unknown; {hint}")
    return validate(KINDS[kind], raw, where)


@contextmanager
def open_engine(spec: str | None = None) -> Iterator[Engine]:
    """Start or reach a cluster, tell its dashboard's address on standard error, and close it at the end.

    Parameters
    ----------
    spec : str or None
        As for `load_cluster`.

    Raises
    ------
    ConfigError
        If the description is wrong.
    ClusterError
        If it cannot be started or reached.
    """
    described = load_cluster(spec)
    if described is None:
        yield SerialEngine()
        return
    if isinstance(described, Ray):
        with _ray(described) as engine:
            yield engine
        return
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_DASK))
        stack.enter_context(_without_noise())
        try:
            if isinstance(described, Address):
                client = _reach(described, stack)
            else:
                start = _start_local if isinstance(described, Local) else _start_slurm
                client = stack.enter_context(
                    Client(stack.enter_context(start(described)), set_as_default=False)
                )
        except (OSError, TimeoutError, RuntimeError) as error:
            raise ClusterError(
                f"no cluster from {spec or 'local'} ({type(error).__name__}: {error}): is the scheduler "
                "running, and may this machine reach it?"
            ) from error
        print(f"dashboard {client.dashboard_link}", file=sys.stderr, flush=True)
        yield DaskEngine(client, window=described.window, worker_timeout_s=described.worker_timeout_s)


@contextmanager
def _ray(spec: Ray) -> Iterator[RayEngine]:
    try:
        import ray
    except ImportError as error:
        raise ClusterError("a ray cluster needs Ray: pip install 'astrid-dist[train]'") from error
    from dask.utils import parse_bytes

    try:
        memory = parse_bytes(spec.memory_limit) if spec.memory_limit else None
    except ValueError as error:
        raise ConfigError(f"memory_limit {spec.memory_limit!r} is no size, such as 4GiB") from error
    started = start_ray(
        address=spec.address,
        cores=max(spec.workers * spec.num_cpus, 1.0) if spec.workers else _cores(),
        dashboard_port=spec.dashboard_port,
        environment=_WORKER_ENVIRONMENT,
        log_to_driver=False,
    )
    try:
        yield RayEngine(
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            memory_bytes=memory,
            window=spec.window,
            worker_timeout_s=spec.worker_timeout_s,
        )
    finally:
        if started:
            ray.shutdown()


def _start_local(spec: Any) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=spec.workers or _cores(),
        threads_per_worker=spec.threads_per_worker,
        memory_limit=spec.memory_limit,
        processes=True,
        host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{_free_port(spec.dashboard_port)}",
        env=_WORKER_ENVIRONMENT,
        preload=_QUIET_WORKER,
    )


def _reach(spec: Address, stack: ExitStack) -> Any:
    from distributed import Client
    from distributed.security import Security

    if spec.address.startswith("tls://") != (spec.tls is not None):
        raise ConfigError(
            f"{spec.address} and tls {'given' if spec.tls else 'not given'}: a tls:// address needs "
            "tls.ca_file, tls.certificate and tls.key; a tcp:// address takes none"
        )
    security = spec.tls and Security(
        tls_ca_file=spec.tls.ca_file,
        tls_client_cert=spec.tls.certificate,
        tls_client_key=spec.tls.key,
        require_encryption=True,
    )
    client = Client(spec.address, security=security, timeout=spec.worker_timeout_s, set_as_default=False)
    return stack.enter_context(client)


def _start_slurm(spec: Any) -> Any:
    try:
        from dask_jobqueue import SLURMCluster  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ClusterError(
            "a slurm cluster needs dask-jobqueue, which is not installed: pip install dask-jobqueue"
        ) from error
    cluster = SLURMCluster(**slurm_options(spec))
    cluster.adapt(minimum_jobs=spec.minimum_jobs, maximum_jobs=spec.maximum_jobs)
    return cluster


def slurm_options(spec: Slurm) -> dict[str, Any]:
    """Return what `dask_jobqueue.SLURMCluster` is called with."""
    given = {
        "queue": spec.queue,
        "account": spec.account,
        "interface": spec.interface,
        "local_directory": spec.local_directory,
    }
    tls = {"protocol": "tls://", "security": True, "shared_temp_directory": spec.shared_temp_directory}
    exports = [f"export {name}={value}" for name, value in _WORKER_ENVIRONMENT.items()]
    return {
        "cores": spec.cores,
        "memory": spec.memory,
        "processes": spec.processes or spec.cores,
        "walltime": spec.walltime,
        "job_script_prologue": [*exports, *spec.job_script_prologue],
        "job_extra_directives": spec.job_extra_directives,
        # A dashboard has no login: this machine only, reached by an SSH tunnel.
        "scheduler_options": {"dashboard_address": f"127.0.0.1:{_free_port(8787)}"},
        **{name: value for name, value in given.items() if value is not None},
        **(tls if spec.shared_temp_directory else {}),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port(port: int) -> int:
    """Return the port, or 0 for any if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


@contextmanager
def _without_noise() -> Iterator[None]:
    def worth_saying(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not any(noise in said for noise in _NOISE)

    loggers = [logging.getLogger(name) for name in ("distributed.scheduler", "distributed.nanny")]
    for logger in loggers:
        logger.addFilter(worth_saying)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(worth_saying)
