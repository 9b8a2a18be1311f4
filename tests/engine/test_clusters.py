"""Cluster files are checked as job files are, and what they describe listens to this machine alone."""

import socket
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml

from astrid_dist.engine.clusters import (
    Address,
    Local,
    Ray,
    Slurm,
    cluster_schema,
    load_cluster,
    open_engine,
    slurm_options,
)
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.errors import ClusterError, ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "clusters"


@pytest.mark.parametrize(
    ("name", "model"), [("local", Local), ("address", Address), ("slurm", Slurm), ("ray", Ray)]
)
def test_shipped_cluster_files_load_and_fit_their_schema(name: str, model: type) -> None:
    path = SHIPPED / f"{name}.yaml"
    assert isinstance(load_cluster(str(path)), model)
    jsonschema.validate(yaml.safe_load(path.read_text()), cluster_schema())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: slum\n", r"c\.yaml:1: kind of cluster 'slum' is unknown; did you mean 'slurm'"),
        ("workers: 2\n", r"kind of cluster None is unknown; one of local, address, slurm, ray"),
        ("kind: local\nworker: 2\n", r"c\.yaml:2: unknown key 'worker'; did you mean 'workers'"),
        ("kind: local\nworkers: 0\n", r"c\.yaml:2: 'workers': Input should be greater than or equal to 1"),
        ("kind: slurm\nmemory: 1GiB\n", "'cores' is missing: Cores of one Slurm job"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_cluster(str(path))


def test_serial_needs_no_cluster() -> None:
    with open_engine("serial") as engine:
        assert isinstance(engine, SerialEngine)


def test_a_scheduler_that_is_not_there_is_a_cluster_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    path = tmp_path / "c.yaml"
    path.write_text(f"kind: address\naddress: {address}\nworker_timeout_s: 0.5\n")
    with pytest.raises(ClusterError, match="is the scheduler running"), open_engine(str(path)):
        pass


def test_a_tls_address_needs_certificates_and_a_plain_one_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"needs tls\.ca_file"), open_engine("tls://127.0.0.1:9"):
        pass


def test_slurm_without_dask_jobqueue_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dask_jobqueue", None)
    with (
        pytest.raises(ClusterError, match="pip install dask-jobqueue"),
        open_engine(str(SHIPPED / "slurm.yaml")),
    ):
        pass


def test_slurm_jobs_run_one_thread_per_core_and_encrypt_where_a_folder_is_given() -> None:
    spec = Slurm(cores=16, memory="64GiB", queue="fast", shared_temp_directory="/home/me/tls")
    options = slurm_options(spec)
    assert (options["processes"], options["queue"], options["protocol"]) == (16, "fast", "tls://")
    assert "export OMP_NUM_THREADS=1" in options["job_script_prologue"]
    assert options["scheduler_options"]["dashboard_address"].startswith("127.0.0.1:")
    assert "protocol" not in slurm_options(Slurm(cores=1, memory="1GiB"))


@pytest.mark.cluster
def test_a_local_cluster_tells_its_dashboard_first_on_a_port_that_was_free(started: Any) -> None:
    assert started.said.startswith("dashboard http://127.0.0.1:")
    assert f":{started.taken_port}/" not in started.said
    crew = started.engine.prepare()
    assert (crew.workers, crew.threads, crew.memory_per_task_bytes) == (2, 2, 2**30)


@pytest.mark.cluster
def test_a_local_cluster_listens_on_loopback_only(started: Any) -> None:
    me = psutil.Process()
    listening = {
        connection.laddr.ip
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
