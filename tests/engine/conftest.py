"""One cluster of each kind for all tests of the engine: starting one takes seconds."""

import contextlib
import io
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.protocol import Engine


class Started(NamedTuple):
    """A cluster, what it said on standard error as it started, and the port it could not have."""

    engine: Engine
    said: str
    taken_port: int


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Two worker processes, as a cluster file describes them, on a machine whose dashboard port is taken."""
    path = tmp_path_factory.mktemp("cluster") / "two.yaml"
    with socket.socket() as taken, contextlib.ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path.write_text(f"kind: local\nworkers: 2\nmemory_limit: 1GiB\ndashboard_port: {port}\n")
        with contextlib.redirect_stderr(io.StringIO()) as said:
            engine = stack.enter_context(open_engine(str(path)))
        yield Started(engine, said.getvalue(), port)


@pytest.fixture
def dask_engine(started: Started) -> Engine:
    """The engine of that cluster."""
    return started.engine


@pytest.fixture(scope="package")
def ray_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Room for two tasks on a Ray of its own, as a cluster file describes it."""
    path = tmp_path_factory.mktemp("ray") / "two.yaml"
    path.write_text("kind: ray\nworkers: 2\nmemory_limit: 1GiB\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with open_engine(str(path)) as engine:
            yield engine


@pytest.fixture(
    params=[
        pytest.param("dask_engine", marks=pytest.mark.cluster),
        # Ray leaves sockets and files to the end of the process
        pytest.param("ray_engine", marks=[pytest.mark.ray, pytest.mark.filterwarnings("default")]),
    ]
)
def far_engine(request: pytest.FixtureRequest) -> Engine:
    """An engine whose tasks run in other processes."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine
