"""One cluster for all tests of the engine: starting one takes seconds."""

from collections.abc import Iterator

import pytest

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.protocol import Engine


@pytest.fixture(scope="package")
def dask_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Two worker processes, as a cluster file describes them."""
    path = tmp_path_factory.mktemp("cluster") / "two.yaml"
    path.write_text("kind: local\nworkers: 2\nmemory_limit: 1GiB\ndashboard_port: 0\n")
    with open_engine(str(path)) as engine:
        yield engine
